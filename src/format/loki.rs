//! Grafana Loki's push API: `--format loki`.
//!
//! A body has a stream for each organization, whose entries are a time in nanoseconds and the event
//! as a line (<https://grafana.com/docs/loki/latest/reference/loki-http-api/>).
//!
//! A stream takes nothing that is more than an hour older than its newest entry, which is half of
//! `max_chunk_age` (<https://grafana.com/docs/loki/latest/configure/#limits_config>). Loki stores the
//! good entries of a body, answers 400 if others are refused, and drops entries that it has. So a
//! body spans less than an hour: sent again, whole or in parts, none of its entries is too old.

use std::io::Write;

use ::time::Duration;
use serde_json::json;

use crate::event::Event;
use crate::format::verdict::{Answer, Rest, Verdict};
use crate::format::{Label, quoted};

/// The path for events.
pub(super) const PATH: &str = "/loki/api/v1/push";

/// The path at which Loki reports its health.
pub(super) const HEALTH: &str = "/ready";

/// A body without events.
pub const NOTHING: &[u8] = br#"{"streams":[]}"#;

/// How far events of one body are apart, at most.
const SPAN: Duration = Duration::HOUR;

/// Whether an event cannot be in one body with the first one.
pub(super) fn is_apart(first: &Event, event: &Event) -> bool {
    (event.time - first.time).abs() >= SPAN
}

/// Appends an entry; before it, if the organization is not that of the event before, the head of its
/// stream. Loki requires at least one label, and few values of each.
pub(super) fn push(
    body: &mut Vec<u8>,
    labels: &[Label],
    before: Option<&Event>,
    event: &Event,
    json: &str,
) {
    let organization = event.organization();
    if before.is_some_and(|before| before.organization() == organization) {
        body.push(b',');
    } else {
        let end = if before.is_some() { "]}," } else { "" };
        let mut stream = json!({"job": "tfc-audit"});
        if let Some(id) = organization {
            stream["organization_id"] = id.into();
        }
        for (name, value) in labels {
            stream[name] = value.as_str().into();
        }
        // Writing to memory cannot fail.
        let _ = write!(body, r#"{end}{{"stream":{stream},"values":["#);
    }
    let time = event.time.unix_timestamp_nanos();
    let _ = write!(body, r#"["{time}",{}]"#, quoted(json));
}

/// Whether the answer about its health says that Loki has just started.
pub fn is_starting(status: u16, said: &str) -> bool {
    status == 503 && said.contains("waiting for")
}

/// The ways out of Loki's refusals, by a part of its messages.
const WAYS_OUT: [(&str, &str); 4] = [
    (
        "too far behind",
        "a stream takes nothing that is an hour (max_chunk_age/2) older than its newest entry: to send events again, make a new stream of them, such as with --label resend=1",
    ),
    (
        "timestamp too old",
        "Loki takes no event that is older than its reject_old_samples_max_age: start a new checkpoint with --since 6d, or raise that limit",
    ),
    (
        "timestamp too new",
        "Loki takes no event that is further ahead of its clock than its creation_grace_period: correct the clock, or raise that limit",
    ),
    (
        "max entry size",
        "Loki takes no event that is larger than its max_line_size: raise that limit",
    ),
];

/// The verdict on a 2xx, and on events that Loki refuses by its limits; `None` for the rest.
///
/// Only 204 acknowledges: Loki answers 260 if its configuration blocks a tenant's writes
/// (<https://grafana.com/docs/loki/latest/configure/#limits_config>, `block_ingestion_status_code`).
pub(super) fn judge(answer: &Answer) -> Option<Verdict> {
    let refused = |rest, way_out| {
        let message = format!("{}; {way_out}", answer.message());
        Some(Verdict::new(rest, message))
    };
    match answer.status {
        204 => Some(Verdict::accepted()),
        200..300 => refused(Rest::Refused, "Loki acknowledges by 204 only"),
        400 => {
            let text = answer.text();
            let (_, way_out) = WAYS_OUT.iter().find(|(reason, _)| text.contains(reason))?;
            refused(Rest::RefusedEvents, way_out)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{NO_LIMITS, NOW, body, event};
    use crate::format::verdict::tests::{answer, judged};
    use crate::format::{Encoder, Format};

    #[test]
    fn a_body_is_a_stream() {
        let expected = r#"{"streams":[{"stream":{"env":"prod","job":"tfc-audit"},"values":[["1700000000500000000","{\"a\":\"\\u00e9\",\"version\":0}"],["1700000000500000000","{\"b\":2}"]]}]}"#;
        assert_eq!(body(Format::Loki, &[("env", "prod")]), expected);
    }

    #[test]
    fn each_organization_is_a_stream() {
        let json = |id: &str| format!(r#"{{"auth":{{"organization_id":"{id}"}}}}"#);
        let events = ["org-a", "org-a", "org-b"].map(|id| event(&json(id)));
        let label = ("organization_id".to_owned(), "mine".to_owned());
        for (labels, ids, lengths) in [
            (&[][..], &["org-a", "org-b"][..], &[2, 1][..]),
            (&[label], &["mine", "mine"], &[2, 1]),
        ] {
            let encoder = Encoder::new(Format::Loki, false, labels);
            let (body, count) = encoder.encode(&events, NO_LIMITS, NOW);
            assert_eq!(count, 3);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let streams = body["streams"].as_array().unwrap();
            let id = |stream: &serde_json::Value| stream["stream"]["organization_id"].clone();
            assert_eq!(streams.iter().map(id).collect::<Vec<_>>(), ids);
            let length = |stream: &serde_json::Value| stream["values"].as_array().unwrap().len();
            assert_eq!(streams.iter().map(length).collect::<Vec<_>>(), lengths);
        }
    }

    #[test]
    fn a_body_spans_less_than_an_hour() {
        let mut events = [0, 3_599, 3_600].map(|seconds| {
            let mut event = event("{}");
            event.time += Duration::seconds(seconds);
            event
        });
        let encoder = Encoder::new(Format::Loki, false, &[]);
        assert_eq!(encoder.encode(&events, NO_LIMITS, NOW).1, 2);
        events[0].time += Duration::SECOND;
        assert_eq!(encoder.encode(&events, NO_LIMITS, NOW).1, 3);
    }

    #[test]
    fn paths_are_those_of_the_push_api() {
        assert_eq!(Format::Loki.path("/"), "/loki/api/v1/push");
        assert_eq!(Format::Loki.path("/x"), "/x");
        let health = |path| Format::Loki.health(path);
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
    fn a_refusal_has_a_way_out() {
        for (said, way_out) in [
            (
                "entry for stream '{job=\"tfc-audit\"}' has timestamp too old: 2026-01-01T00:00:00Z",
                "--since 6d",
            ),
            (
                "entry with timestamp 2026-01-01 00:00:00 +0000 UTC ignored, reason: 'entry too far behind, entry timestamp is: …'",
                "--label",
            ),
            (
                "entry for stream '{}' has timestamp too new: 2026-01-01T00:00:00Z",
                "creation_grace_period",
            ),
            (
                "max entry size '262144' bytes exceeded for stream '{}'",
                "max_line_size",
            ),
        ] {
            let verdict = judge(&answer(400, said)).unwrap();
            assert_eq!(verdict.rest, Rest::RefusedEvents);
            assert!(verdict.message.contains(way_out), "{verdict:?}");
            assert_eq!(judge(&answer(500, said)), None);
        }
        assert_eq!(judge(&answer(400, "entry has no labels")), None);
    }
}
