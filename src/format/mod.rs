//! Formats: the bodies for a receiver, and the meaning of its answers. Nothing here does I/O.
//!
//! This file has the size of a body, `verdict.rs` what an answer means by its status: they hold for
//! all formats. Whatever is one product's is in that product's file: the body, the path for events,
//! the path for health, the verdict and the hints.

pub mod elasticsearch;
pub mod loki;
pub mod normalize;
pub mod otlp;
pub mod protobuf;
pub mod splunk;
pub mod verdict;

use ::time::UtcDateTime;

use crate::event::Event;
use crate::format::verdict::{Answer, Verdict, by_status};

/// The format of a POST's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One event a line.
    Ndjson,
    /// One JSON array.
    JsonArray,
    /// One event, for receivers that take no batches.
    Json,
    /// Splunk's HTTP Event Collector.
    SplunkHec,
    /// The bulk API of Elasticsearch and OpenSearch.
    Elasticsearch,
    /// Grafana Loki's push API.
    Loki,
    /// OpenTelemetry's protocol.
    Otlp,
}

/// The formats by their names on the command line.
pub const FORMATS: [(&str, Format); 7] = [
    ("ndjson", Format::Ndjson),
    ("json-array", Format::JsonArray),
    ("json", Format::Json),
    ("splunk-hec", Format::SplunkHec),
    ("elasticsearch", Format::Elasticsearch),
    ("loki", Format::Loki),
    ("otlp", Format::Otlp),
];

/// A label of `--label`: its name and its value.
pub type Label = (String, String);

/// How large a batch may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The number of events.
    pub events: usize,
    /// Bytes of the body before compression. A single larger event goes alone.
    pub bytes: usize,
}

/// How much longer the lengths in front of OTLP's records can get with them, in bytes.
const LENGTHS: usize = 8;

/// Makes bodies of one format.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The format of the bodies.
    pub format: Format,
    normalize: bool,
    labels: Vec<Label>,
    /// The end of each of Splunk's envelopes, which has the labels.
    envelope_end: String,
}

impl Encoder {
    /// Prepares an encoder. Elasticsearch always gets normalized events, since its fields have one
    /// type each.
    pub fn new(format: Format, normalize: bool, labels: &[Label]) -> Self {
        Self {
            format,
            normalize: normalize || format == Format::Elasticsearch,
            envelope_end: splunk::envelope_end(labels),
            labels: labels.to_vec(),
        }
    }

    /// Encodes as many of the first events as the limits allow, but at least one. Returns the body
    /// and the number of events in it. `now` is for formats that tell when an event was read.
    pub fn encode(&self, events: &[Event], limits: Limits, now: UtcDateTime) -> (Vec<u8>, usize) {
        let most_events = match self.format {
            Format::Json => 1,
            _ => limits.events,
        };
        let frame = self.frame(Vec::new()).len() + LENGTHS;
        let events = &events[..events.len().min(most_events)];
        let size: usize = events.iter().map(|event| event.json().len() + 1).sum();
        let mut records = Vec::with_capacity(size.min(limits.bytes));
        let mut count = 0;
        for event in events {
            let length = records.len();
            self.push(&mut records, events[..count].last(), event, now);
            let is_apart = self.format == Format::Loki && loki::is_apart(&events[0], event);
            if count > 0 && (is_apart || frame + records.len() > limits.bytes) {
                records.truncate(length);
                break;
            }
            count += 1;
        }
        (self.frame(records), count)
    }

    /// Appends an event. `before` is the one before it in the body.
    fn push(&self, body: &mut Vec<u8>, before: Option<&Event>, event: &Event, now: UtcDateTime) {
        let json = normalize::line(event, self.normalize);
        match self.format {
            Format::Ndjson => {
                body.extend(json.as_bytes());
                body.push(b'\n');
            }
            Format::JsonArray | Format::Json => {
                body.extend(before.map(|_| b','));
                body.extend(json.as_bytes());
            }
            Format::SplunkHec => splunk::push(body, event, &json, &self.envelope_end),
            Format::Elasticsearch => elasticsearch::push(body, event, &json),
            Format::Loki => loki::push(body, &self.labels, before, event, &json),
            Format::Otlp => otlp::push(body, event, &json, now),
        }
    }

    /// Makes a body of records that are complete.
    fn frame(&self, records: Vec<u8>) -> Vec<u8> {
        match self.format {
            Format::JsonArray => [b"[", &records[..], b"]"].concat(),
            Format::Loki => [br#"{"streams":["#, &records[..], b"]}]}"].concat(),
            Format::Otlp => otlp::frame(&self.labels, &records),
            _ => records,
        }
    }
}

impl Format {
    /// The body's `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson | Self::Elasticsearch => "application/x-ndjson",
            Self::JsonArray | Self::Json | Self::SplunkHec | Self::Loki => "application/json",
            Self::Otlp => "application/x-protobuf",
        }
    }

    /// The path of a request, made from the path of the address that the user named. An address
    /// without a path gets that of the product.
    pub fn path(self, given: &str) -> String {
        match self {
            Self::SplunkHec if given.len() < 2 => splunk::PATH.to_owned(),
            Self::Loki if given.len() < 2 => loki::PATH.to_owned(),
            Self::Otlp if given.len() < 2 => otlp::PATH.to_owned(),
            Self::Elasticsearch => elasticsearch::path(given),
            _ => given.to_owned(),
        }
    }

    /// The path at which the product reports its health. `None` if it has none, or if the path for
    /// events is not the product's own.
    pub fn health(self, path: &str) -> Option<String> {
        let (own, health) = match self {
            Self::SplunkHec => (splunk::COLLECTOR, splunk::HEALTH),
            Self::Elasticsearch => return elasticsearch::health(path),
            Self::Loki => (loki::PATH, loki::HEALTH),
            Self::Ndjson | Self::JsonArray | Self::Json | Self::Otlp => return None,
        };
        let (before, _) = path.split_once(own)?;
        Some(format!("{before}{health}"))
    }

    /// The part of an answer's body that is text for people.
    pub fn said(self, body: &[u8]) -> &[u8] {
        match self {
            Self::Otlp => otlp::said(body),
            _ => body,
        }
    }

    /// A body without events, which shows the product and the credential.
    pub fn nothing(self) -> &'static [u8] {
        match self {
            Self::Loki => loki::NOTHING,
            _ => b"",
        }
    }

    /// Whether the product, which has accepted the credential, refuses a request since it has no
    /// events.
    fn refuses_nothing(self, answer: &Answer) -> bool {
        let words: &[&str] = match self {
            Self::SplunkHec => &["No data"],
            Self::Elasticsearch => &["request body is required", "no requests added"],
            Self::Loki => &["at least one valid stream"],
            // OTLP asks for success here, but Loki and Fluent Bit refuse.
            Self::Otlp => &["at least one valid stream", "invalid content-length"],
            Self::Ndjson | Self::JsonArray | Self::Json => &[],
        };
        let text = answer.text();
        matches!(answer.status, 400 | 422) && words.iter().any(|words| text.contains(words))
    }

    /// Whether the product drops an event that it has: by its ID, or since time and text are the
    /// same. A request whose answer is lost can then be repeated at will.
    pub fn drops_repeats(self) -> bool {
        matches!(self, Self::Elasticsearch | Self::Loki)
    }

    /// Judges the answer to a request of `count` events: by the product's own rule, else by its
    /// status.
    ///
    /// For `ndjson`, `json-array` and `json` the status is all there is. Some receivers answer 2xx
    /// although they dropped lines that they could not parse (Tenzir), or everything because of its
    /// `Content-Type` (VictoriaLogs).
    pub fn judge(self, answer: &Answer, count: usize) -> Verdict {
        if answer.is_login_page() {
            return answer.without_acknowledgement("is an HTML page, such as that of a login");
        }
        if count == 0 && self.refuses_nothing(answer) {
            return Verdict {
                message: answer.message(),
                ..Verdict::accepted()
            };
        }
        let own = match self {
            Self::SplunkHec => splunk::judge(answer),
            Self::Elasticsearch => elasticsearch::judge(answer, count),
            Self::Loki => loki::judge(answer),
            Self::Otlp => otlp::judge(answer, count),
            Self::Ndjson | Self::JsonArray | Self::Json => None,
        };
        own.unwrap_or_else(|| by_status(answer))
    }
}

/// A text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::EventId;
    use crate::format::verdict::Rest;
    use crate::format::verdict::tests::answer;
    use crate::time;

    /// For events that go together, however many they are.
    pub(super) const NO_LIMITS: Limits = Limits {
        events: usize::MAX,
        bytes: usize::MAX,
    };
    pub(super) const NOW: UtcDateTime = UtcDateTime::UNIX_EPOCH;

    pub(super) fn event(json: &str) -> Event {
        let time = time::parse("2023-11-14T22:13:20.5Z").unwrap();
        let page = Arc::new(json.into());
        Event::new(&page, 0..json.len(), EventId::new("id\"1"), time)
    }

    /// A body of two events.
    pub(super) fn body(format: Format, labels: &[(&str, &str)]) -> String {
        let labels: Vec<_> = labels
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let events = [
            event(r#"{"a":"\u00e9","version":0}"#),
            event("{\n \"b\": 2}"),
        ];
        let (body, _) = Encoder::new(format, false, &labels).encode(&events, NO_LIMITS, NOW);
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn a_body_holds_the_events_own_bytes() {
        let lines = "{\"a\":\"\\u00e9\",\"version\":0}\n{\"b\":2}\n";
        assert_eq!(body(Format::Ndjson, &[]), lines);
        let array = r#"[{"a":"\u00e9","version":0},{"b":2}]"#;
        assert_eq!(body(Format::JsonArray, &[]), array);
        assert_eq!(body(Format::Json, &[]), r#"{"a":"\u00e9","version":0}"#);
    }

    #[test]
    fn a_body_stays_within_its_limits_and_holds_at_least_one_event() {
        let events: Vec<_> = (0..10).map(|_| event(r#"{"a":1}"#)).collect();
        for (name, format) in FORMATS {
            let encode = |events_limit, bytes| {
                let limits = Limits {
                    events: events_limit,
                    bytes,
                };
                let (body, count) = Encoder::new(format, false, &[]).encode(&events, limits, NOW);
                (body.len(), count)
            };
            let (all, count) = encode(10, usize::MAX);
            let (one, least) = encode(10, 1);
            assert_eq!(least, 1, "{name}");
            if format == Format::Json {
                assert_eq!((all, count), (one, 1));
                continue;
            }
            assert_eq!(count, 10, "{name}");
            assert_eq!(encode(3, usize::MAX).1, 3, "{name}");
            assert_eq!(encode(10, all + LENGTHS), (all, 10), "{name}");
            let (less, count) = encode(10, all - 1);
            assert!((8..10).contains(&count), "{name}: {count}");
            assert!(one < less && less < all, "{name}");
        }
    }

    #[test]
    fn an_address_keeps_its_path_and_has_no_health() {
        for format in [Format::Ndjson, Format::JsonArray, Format::Json] {
            for path in ["/", "/in"] {
                assert_eq!(format.path(path), path);
                assert_eq!(format.health(path), None);
            }
        }
    }

    #[test]
    fn only_a_products_own_refusal_of_nothing_is_in_order() {
        let stream = "error at least one valid stream is required for ingestion";
        let empty = r#"{"error":{"reason":"request body is required"},"status":400}"#;
        for (format, status, body) in [
            (Format::SplunkHec, 400, r#"{"text":"No data","code":5}"#),
            (Format::Elasticsearch, 400, empty),
            (Format::Loki, 422, stream),
            (Format::Otlp, 422, stream),
            (Format::Otlp, 400, "invalid content-length"),
        ] {
            let rest = |count| format.judge(&answer(status, body), count).rest;
            assert_eq!(rest(0), Rest::Nothing, "{body}");
            assert_eq!(rest(1), Rest::RefusedEvents, "{body}");
            let other = format.judge(&answer(status, "unsupported path"), 0);
            assert_ne!(other.rest, Rest::Nothing, "{body}");
        }
    }
}
