//! Grafana Loki's push API: `--format loki`.
//!
//! A body is one stream, whose entries are a time in nanoseconds and the event as a line
//! (<https://grafana.com/docs/loki/latest/reference/loki-http-api/>).

use std::fmt::Write;

use crate::event::Event;
use crate::format::{Answer, Frame, Label, Rest, Verdict, object, pairs, quoted};

/// The path for events.
pub const PATH: &str = "/loki/api/v1/push";

/// The frame of a body. Loki requires at least one label, and few values of each.
pub(super) fn frame(labels: &[Label]) -> Frame {
    let labels = object([("job", "tfc-audit")].into_iter().chain(pairs(labels)));
    Frame {
        start: format!(r#"{{"streams":[{{"stream":{labels},"values":["#),
        separator: ",",
        end: "]}]}",
        ..Frame::default()
    }
}

/// Appends an entry.
pub(super) fn push(body: &mut String, event: &Event, json: &str) {
    let time = event.time.unix_timestamp_nanos();
    // Writing to a string cannot fail.
    let _ = write!(body, r#"["{time}",{}]"#, quoted(json));
}

/// The path at which Loki reports its health.
pub(super) fn health(path: &str) -> Option<String> {
    let before = path.strip_suffix(PATH)?;
    Some(format!("{before}/ready"))
}

/// The verdict on a 2xx, and on events that are too old; `None` for the rest.
///
/// Only 204 acknowledges: Loki answers 260 if its configuration blocks a tenant's writes
/// (<https://grafana.com/docs/loki/latest/configure/#limits_config>, `block_ingestion_status_code`).
pub(super) fn judge(answer: &Answer) -> Option<Verdict> {
    let message = answer.message();
    match answer.status {
        204 => Some(Verdict::accepted()),
        200..300 => Some(Verdict::new(
            Rest::Refused,
            format!("{message}; Loki acknowledges by 204 only"),
        )),
        400 if says_too_old(answer.body) => Some(Verdict::new(
            Rest::RefusedEvents,
            format!(
                "{message}; Loki takes no event that is older than its reject_old_samples_max_age: start a new checkpoint with --since 6d, or raise that limit"
            ),
        )),
        _ => None,
    }
}

fn says_too_old(body: Option<&[u8]>) -> bool {
    let text = String::from_utf8_lossy(body.unwrap_or_default());
    text.contains("timestamp too old")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use crate::format::tests::{answer, body, judged};

    #[test]
    fn a_body_is_one_stream() {
        let expected = r#"{"streams":[{"stream":{"env":"prod","job":"tfc-audit"},"values":[["1700000000500000000","{\"a\":\"\\u00e9\",\"version\":0}"],["1700000000500000000","{\"b\":2}"]]}]}"#;
        assert_eq!(body(Format::Loki, &[("env", "prod")]), expected);
    }

    #[test]
    fn paths_are_those_of_the_push_api() {
        assert_eq!(Format::Loki.path("/"), "/loki/api/v1/push");
        assert_eq!(Format::Loki.path("/x"), "/x");
        assert_eq!(health("/a/loki/api/v1/push").as_deref(), Some("/a/ready"));
        assert_eq!(health("/x"), None);
    }

    #[test]
    fn only_204_acknowledges() {
        assert_eq!(judged(Format::Loki, 204, ""), 'a');
        assert_eq!(judged(Format::Loki, 200, ""), 'r');
        assert_eq!(judged(Format::Loki, 260, "blocked"), 'r');
    }

    #[test]
    fn events_that_are_too_old_are_refused_with_a_way_out() {
        let old =
            "entry for stream '{job=\"tfc-audit\"}' has timestamp too old: 2026-01-01T00:00:00Z";
        let verdict = judge(&answer(400, old)).unwrap();
        assert_eq!(verdict.rest, Rest::RefusedEvents);
        assert!(verdict.message.contains("--since 6d"), "{verdict:?}");
        assert_eq!(judge(&answer(400, "entry has no labels")), None);
        assert_eq!(judge(&answer(500, old)), None);
    }
}
