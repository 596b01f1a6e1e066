//! Splunk's HTTP Event Collector: `--format splunk-hec`.
//!
//! A body is a sequence of envelopes
//! (<https://docs.splunk.com/Documentation/Splunk/latest/Data/FormateventsforHTTPEventCollector>):
//!
//! ```json
//! {"time":1700000000.500,"event":{"id":"…"},"sourcetype":"hcp_terraform:audit"}
//! ```

use std::collections::BTreeMap;
use std::io::Write;

use serde::Deserialize;
use serde_json::json;

use crate::config::url::Url;
use crate::event::Event;
use crate::format::Label;
use crate::format::verdict::{Answer, CREDENTIAL, Rest, Taken, Verdict};
use crate::json;

/// What all paths of the collector begin with.
pub(super) const COLLECTOR: &str = "/services/collector";

/// The path for events.
pub(super) const PATH: &str = "/services/collector/event";

/// The path at which the collector reports its health
/// (<https://docs.splunk.com/Documentation/Splunk/latest/RESTREF/RESTinput>).
pub(super) const HEALTH: &str = "/services/collector/health";

/// The header that names the channel of a client. A token with indexer acknowledgement requires it.
pub const CHANNEL: &str = "x-splunk-request-channel";

/// The labels that are members of the envelope. Every other label is an indexed field.
const METADATA: [&str; 4] = ["index", "source", "sourcetype", "host"];

/// The end of an envelope, behind the event: the labels.
pub(super) fn envelope_end(labels: &[Label]) -> String {
    let mut end = json!({"sourcetype": "hcp_terraform:audit"});
    for (name, value) in labels {
        if METADATA.contains(&name.as_str()) {
            end[name] = value.as_str().into();
        } else {
            end["fields"][name] = value.as_str().into();
        }
    }
    // Other members are in place of the brace.
    end.to_string().replacen('{', ",", 1)
}

/// Appends an envelope.
pub(super) fn push(body: &mut Vec<u8>, event: &Event, json: &str, end: &str) {
    let time = event.time.unix_timestamp_nanos().div_euclid(1_000_000);
    let (seconds, milliseconds) = (time.div_euclid(1000), time.rem_euclid(1000));
    // Writing to memory cannot fail.
    let _ = write!(
        body,
        r#"{{"time":{seconds}.{milliseconds:03},"event":{json}{end}"#
    );
}

/// The verdict by the answer's `code`
/// (<https://docs.splunk.com/Documentation/Splunk/latest/Data/TroubleshootHTTPEventCollector>).
/// `None` if a failure has no code, or one that says no more than the status.
///
/// A body is read event by event. `invalid-event-number` says at which one this ended: the events
/// before it are indexed.
pub(super) fn judge(answer: &Answer) -> Option<Verdict> {
    #[derive(Deserialize)]
    struct Reply {
        code: u64,
        #[serde(rename = "invalid-event-number")]
        number: Option<usize>,
    }
    let reply = answer.body.and_then(json::object);
    let is_success = answer.is_success();
    let Some(Reply { code, number }) = reply else {
        return is_success
            .then(|| answer.without_acknowledgement("is no answer of Splunk's collector"));
    };
    let (rest, remedy) = match code {
        // Taken; from 24 on, the queue is nearly full.
        0 | 24 | 25 if is_success => return Some(Verdict::accepted()),
        // No data, invalid data format, event field required or blank, faulty indexed fields.
        5 | 6 | 12 | 13 | 15 => (Rest::RefusedEvents, ""),
        // Internal error, busy.
        8 | 9 => (Rest::Retry, ""),
        // The token.
        1..=4 => (Rest::Refused, CREDENTIAL),
        // The index, the channel, acknowledgement, the query string.
        7 | 10 | 11 | 14 | 16 => (Rest::Refused, ""),
        _ if is_success => (Rest::Refused, "; only the codes 0, 24 and 25 acknowledge"),
        _ => return None,
    };
    Some(Verdict {
        taken: number.map_or(Taken::None, |number| Taken::Before { number, code }),
        ..Verdict::new(rest, answer.message() + remedy)
    })
}

/// The name of a channel: a UUID with these random bits. Acknowledgements count by channel, so each
/// run has one of its own; the collector forgets idle ones.
pub fn channel(bits: u128) -> String {
    let digits = format!("{bits:032x}");
    let [a, b, c, d] = [0..8, 8..12, 13..16, 17..20].map(|part| &digits[part]);
    format!("{a}-{b}-4{c}-8{d}-{}", &digits[20..])
}

/// The number by which to ask the indexer for its acknowledgement, from the answer to a delivery
/// (<https://docs.splunk.com/Documentation/Splunk/latest/Data/AboutHECIDXAck>). `None` if the token has
/// no indexer acknowledgement.
pub fn ack_id(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Reply {
        #[serde(rename = "ackId")]
        id: u64,
    }
    json::object(body).map(|Reply { id }| id)
}

/// The address at which the indexer is asked, made from that for events.
pub fn ack_address(events: &Url, channel: &str) -> String {
    let (before, _) = events.path.split_once(COLLECTOR).unwrap_or_default();
    let address = format!("{}{before}{COLLECTOR}/ack?channel={channel}", events.origin);
    match &events.query {
        Some(query) => format!("{address}&{}", query.expose()),
        None => address,
    }
}

/// Reads the answer to `{"acks":[ID]}`: whether the indexer has the events. `None` if it is something
/// else.
pub fn is_indexed(id: u64, body: &[u8]) -> Option<bool> {
    #[derive(Deserialize)]
    struct Reply {
        acks: BTreeMap<String, bool>,
    }
    let Reply { acks } = json::object(body)?;
    Some(acks.get(&id.to_string()) == Some(&true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use crate::format::tests::body;
    use crate::format::verdict::tests::{answer, judged};

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
        let ends = r#""event":{"b":2},"fields":{"team":"a\"b"},"index":"main","sourcetype":"x"}"#;
        assert!(body(Format::SplunkHec, &labels).ends_with(ends));
    }

    #[test]
    fn paths_are_those_of_the_collector() {
        assert_eq!(Format::SplunkHec.path("/"), "/services/collector/event");
        assert_eq!(Format::SplunkHec.path("/x"), "/x");
        let at = |path| Format::SplunkHec.health(path);
        let usual = "/services/collector/health";
        assert_eq!(at("/services/collector/event").as_deref(), Some(usual));
        let behind = "/a/services/collector/health";
        assert_eq!(at("/a/services/collector").as_deref(), Some(behind));
        assert_eq!(at("/x"), None);
    }

    #[test]
    fn only_a_code_that_says_taken_acknowledges() {
        let cases = [
            (200, r#"{"text":"Success","code":0}"#, 'a'),
            (
                200,
                r#"{"text":"HEC is approaching capacity","code":24}"#,
                'a',
            ),
            (
                200,
                r#"{"text":"HEC is approaching capacity","code":25}"#,
                'a',
            ),
            (
                503,
                r#"{"text":"HEC is approaching capacity","code":24}"#,
                't',
            ),
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
    fn an_acknowledgement_is_asked_for_on_the_channel() {
        let channel = channel(u128::MAX / 3);
        assert_eq!(channel, "55555555-5555-4555-8555-555555555555");
        assert_eq!(ack_id(br#"{"text":"Success","code":0}"#), None);
        let id = ack_id(br#"{"text":"Success","code":0,"ackId":7}"#);
        assert_eq!(id, Some(7));
        for (events, place) in [
            (PATH, "/services/collector/ack?channel=c"),
            ("/x", "/services/collector/ack?channel=c"),
            (
                "/a/services/collector?token=t",
                "/a/services/collector/ack?channel=c&token=t",
            ),
        ] {
            let url = Url::parse(&format!("https://splunk.example.com{events}")).unwrap();
            let address = format!("https://splunk.example.com{place}");
            assert_eq!(ack_address(&url, "c"), address);
        }
        for (body, indexed) in [
            (r#"{"acks":{"7":true}}"#, Some(true)),
            (r#"{"acks":{"7":false}}"#, Some(false)),
            (r#"{"acks":{"6":true}}"#, Some(false)),
            (r#"{"code":14}"#, None),
        ] {
            assert_eq!(is_indexed(7, body.as_bytes()), indexed, "{body}");
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
            Some(Verdict {
                rest: Rest::Retry,
                ..
            })
        ));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (status, body, remedy) in [
            (200, r#"{"code":17}"#, "only the codes 0, 24"),
            (403, r#"{"code":4}"#, CREDENTIAL),
        ] {
            let verdict = judge(&answer(status, body)).unwrap();
            assert!(verdict.message.contains(remedy), "{verdict:?}");
        }
    }
}
