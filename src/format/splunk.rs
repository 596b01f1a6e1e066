//! Splunk's HTTP Event Collector: `--format splunk-hec`.
//!
//! A body is a sequence of envelopes
//! (<https://docs.splunk.com/Documentation/Splunk/latest/Data/FormateventsforHTTPEventCollector>):
//!
//! ```json
//! {"time":1700000000.500,"event":{"id":"…"},"sourcetype":"hcp_terraform:audit"}
//! ```

use std::fmt::Write;

use serde::Deserialize;

use crate::event::Event;
use crate::format::{Answer, CREDENTIAL, Frame, Label, Verdict, object, pairs};
use crate::json::Object;

/// The path for events.
pub const PATH: &str = "/services/collector/event";

/// The labels that are members of the envelope. Every other label is an indexed field.
const METADATA: [&str; 4] = ["index", "source", "sourcetype", "host"];

/// The frame of a body: after each event, the labels close its envelope.
pub(super) fn frame(labels: &[Label]) -> Frame {
    let is_metadata = |(name, _): &(&str, &str)| METADATA.contains(name);
    let sourcetype = [("sourcetype", "hcp_terraform:audit")].into_iter();
    let metadata = object(sourcetype.chain(pairs(labels).filter(is_metadata)));
    let metadata = metadata.trim_matches(['{', '}']);
    let fields = match object(pairs(labels).filter(|label| !is_metadata(label))) {
        none if none == "{}" => String::new(),
        fields => format!(r#","fields":{fields}"#),
    };
    Frame {
        after_event: format!(",{metadata}{fields}}}"),
        ..Frame::default()
    }
}

/// Appends the beginning of an envelope, up to the event.
pub(super) fn push(body: &mut String, event: &Event, json: &str) {
    let time = event.time.unix_timestamp_nanos().div_euclid(1_000_000);
    let (seconds, milliseconds) = (time.div_euclid(1000), time.rem_euclid(1000));
    // Writing to a string cannot fail.
    let _ = write!(
        body,
        r#"{{"time":{seconds}.{milliseconds:03},"event":{json}"#
    );
}

/// The path at which the collector reports its health
/// (<https://docs.splunk.com/Documentation/Splunk/latest/RESTREF/RESTinput>).
pub(super) fn health(path: &str) -> Option<String> {
    let (before, _) = path.split_once("/services/collector")?;
    Some(format!("{before}/services/collector/health"))
}

/// The verdict by the answer's `code`
/// (<https://docs.splunk.com/Documentation/Splunk/latest/Data/TroubleshootHTTPEventCollector>).
/// `None` if a failure has no code, or one that says no more than the status.
pub(super) fn judge(answer: &Answer) -> Option<Verdict> {
    let message = answer.message();
    Some(match (code(answer.body), answer.is_success()) {
        (Some(0), true) => Verdict::Accepted,
        // No data, invalid data format, event field required or blank, faulty indexed fields.
        (Some(5 | 6 | 12 | 13 | 15), _) => Verdict::RefusedEvents(message),
        // Internal error, busy.
        (Some(8 | 9), _) => Verdict::temporary(message),
        // The token.
        (Some(1..=4), _) => Verdict::Refused(format!("{message}; {CREDENTIAL}")),
        // The index, the channel, the query string.
        (Some(7 | 10 | 11 | 14 | 16), _) => Verdict::Refused(message),
        (Some(_), true) => Verdict::Refused(format!("{message}; only code 0 acknowledges")),
        (None, true) => answer.without_acknowledgement("is no answer of Splunk's collector"),
        (_, false) => return None,
    })
}

fn code(body: Option<&[u8]>) -> Option<u64> {
    #[derive(Deserialize)]
    struct Reply {
        code: u64,
    }
    let Object(Reply { code }) = serde_json::from_slice(body?).ok()?;
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use crate::format::tests::{answer, body, judged};

    #[test]
    fn an_envelope_has_the_time_the_event_and_the_labels() {
        assert_eq!(
            body(Format::SplunkHec, &[]),
            concat!(
                r#"{"time":1700000000.500,"event":{"a":"\u00e9","version":0},"sourcetype":"hcp_terraform:audit"}"#,
                r#"{"time":1700000000.500,"event":{"b":2},"sourcetype":"hcp_terraform:audit"}"#
            )
        );
        let labels = [("index", "main"), ("sourcetype", "x"), ("team", "a\"b")];
        let ends = r#""event":{"b":2},"index":"main","sourcetype":"x","fields":{"team":"a\"b"}}"#;
        assert!(body(Format::SplunkHec, &labels).ends_with(ends));
    }

    #[test]
    fn paths_are_those_of_the_collector() {
        assert_eq!(Format::SplunkHec.path("/"), "/services/collector/event");
        assert_eq!(Format::SplunkHec.path("/x"), "/x");
        let at = |path| health(path);
        let usual = "/services/collector/health";
        assert_eq!(at("/services/collector/event").as_deref(), Some(usual));
        let behind = "/a/services/collector/health";
        assert_eq!(at("/a/services/collector").as_deref(), Some(behind));
        assert_eq!(at("/x"), None);
    }

    #[test]
    fn only_code_0_acknowledges() {
        let cases = [
            (200, r#"{"text":"Success","code":0}"#, 'a'),
            (400, r#"{"text":"Success","code":0}"#, 'e'),
            (200, r#"{"text":"Success","code":17}"#, 'r'),
            (200, "ok", 'r'),
            (200, r#"{"text":"Invalid data format","code":6}"#, 'e'),
            (400, r#"{"code":12,"invalid-event-number":1}"#, 'e'),
            (500, r#"{"text":"Event field is required","code":12}"#, 'e'),
            (200, r#"{"text":"Server is busy","code":9}"#, 't'),
            (503, r#"{"text":"Server is busy","code":9}"#, 't'),
            (400, r#"{"code":7,"invalid-event-number":1}"#, 'r'),
            (400, r#"{"text":"Invalid authorization","code":3}"#, 'r'),
            (403, r#"{"text":"Invalid token","code":4}"#, 'r'),
            (401, r#"{"text":"Token is required","code":2}"#, 'r'),
            (500, r#"{"text":"?","code":99}"#, 't'),
            (413, "", 'l'),
        ];
        for (status, body, verdict) in cases {
            let is = judged(Format::SplunkHec, status, body);
            assert_eq!(is, verdict, "{status} {body}");
        }
    }

    #[test]
    fn an_answer_that_broke_off_is_retried() {
        let broken = Answer {
            body: None,
            ..answer(200, "")
        };
        assert!(matches!(
            judge(&broken),
            Some(Verdict::Failed {
                retryable: true,
                ..
            })
        ));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (status, body, remedy) in [
            (200, r#"{"code":17}"#, "only code 0"),
            (403, r#"{"code":4}"#, CREDENTIAL),
        ] {
            let verdict = judge(&answer(status, body));
            let told = matches!(&verdict, Some(Verdict::Refused(why)) if why.contains(remedy));
            assert!(told, "{verdict:?}");
        }
    }
}
