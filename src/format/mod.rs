//! What receivers want to read, and what their answers mean: for each format the body of a request
//! and the rule by which an answer acknowledges it. Nothing here does I/O.

pub mod normalize;

use std::fmt::Write;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::Event;
use crate::format::normalize::normalize;
use crate::json::Object;
use crate::retry;
use crate::text::excerpt;
use crate::time;

/// The format of a POST's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An event a line.
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
}

/// The formats by their names on the command line.
pub const FORMATS: [(&str, Format); 6] = [
    ("ndjson", Format::Ndjson),
    ("json-array", Format::JsonArray),
    ("json", Format::Json),
    ("splunk-hec", Format::SplunkHec),
    ("elasticsearch", Format::Elasticsearch),
    ("loki", Format::Loki),
];

/// A label of `--label`: its name and its value.
pub type Label = (String, String);

/// Splunk's metadata that stands beside the event; any other label is an indexed field
/// (<https://docs.splunk.com/Documentation/Splunk/latest/Data/FormateventsforHTTPEventCollector>).
const SPLUNK_METADATA: [&str; 4] = ["index", "source", "sourcetype", "host"];

/// How large a batch may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Bytes of the body, not compressed; a single larger event goes alone.
    pub bytes: usize,
}

impl Limits {
    /// For events that are to go together.
    pub const NONE: Self = Self {
        events: usize::MAX,
        bytes: usize::MAX,
    };
}

/// How events become a body: `start`, the events with `separator` between them, `end`.
#[derive(Clone, Debug)]
pub struct Encoder {
    format: Format,
    normalize: bool,
    start: String,
    separator: &'static str,
    end: String,
}

impl Encoder {
    /// Prepares the parts of a body that are the same for all.
    #[must_use]
    pub fn new(format: Format, normalize: bool, labels: &[Label]) -> Self {
        let (start, separator, end) = match format {
            Format::JsonArray => ("[".to_owned(), ",", "]".to_owned()),
            Format::Loki => (
                format!(
                    r#"{{"streams":[{{"stream":{},"values":["#,
                    loki_labels(labels)
                ),
                ",",
                "]}]}".to_owned(),
            ),
            Format::Ndjson | Format::Json | Format::Elasticsearch => Default::default(),
            // What stands behind each event's own JSON is the same for all of them.
            Format::SplunkHec => (String::new(), "", splunk_metadata(labels)),
        };
        Self {
            format,
            normalize: normalize || format == Format::Elasticsearch,
            start,
            separator,
            end,
        }
    }

    /// Encodes as many of the first events as the limits allow, at least one: the body, and how
    /// many events are in it.
    #[must_use]
    pub fn encode(
        &self,
        events: &[Event],
        most_events: usize,
        most_bytes: usize,
    ) -> (Vec<u8>, usize) {
        let mut body = self.start.clone();
        let most_events = if self.format == Format::Json {
            1
        } else {
            most_events
        };
        let end = if self.format == Format::SplunkHec {
            ""
        } else {
            &self.end
        };
        let mut count = 0;
        for event in events.iter().take(most_events) {
            let length = body.len();
            if count > 0 {
                body.push_str(self.separator);
            }
            self.push(&mut body, event);
            if count > 0 && body.len() + end.len() > most_bytes {
                body.truncate(length);
                break;
            }
            count += 1;
        }
        body.push_str(end);
        (body.into_bytes(), count)
    }

    fn push(&self, body: &mut String, event: &Event) {
        let line = event.line();
        let json = if self.normalize {
            normalize(&line)
        } else {
            line.as_ref().into()
        };
        // Writing to a string cannot fail.
        let _ = match self.format {
            Format::Ndjson => writeln!(body, "{json}"),
            Format::JsonArray | Format::Json => write!(body, "{json}"),
            Format::SplunkHec => {
                let time = event.time.unix_timestamp_nanos().div_euclid(1_000_000);
                let (seconds, milliseconds) = (time.div_euclid(1000), time.rem_euclid(1000));
                write!(
                    body,
                    r#"{{"time":{seconds}.{milliseconds:03},"event":{json}{}"#,
                    self.end
                )
            }
            Format::Elasticsearch => {
                let rest = json.strip_prefix('{').unwrap_or(&json).trim_start();
                let comma = if rest == "}" { "" } else { "," };
                let time = time::format(event.time);
                let id = quoted(&event.id.to_string());
                writeln!(
                    body,
                    "{{\"create\":{{\"_id\":{id}}}}}\n{{\"@timestamp\":\"{time}\"{comma}{rest}"
                )
            }
            Format::Loki => write!(
                body,
                r#"["{}",{}]"#,
                event.time.unix_timestamp_nanos(),
                quoted(&json)
            ),
        };
    }
}

impl Format {
    /// The body's `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson | Self::Elasticsearch => "application/x-ndjson",
            Self::JsonArray | Self::Json | Self::SplunkHec | Self::Loki => "application/json",
        }
    }

    /// The path of a request, if the address that was given has only this one: each product's own
    /// where the address has none, and for Elasticsearch the bulk API of the index that it names.
    #[must_use]
    pub fn path(self, given: &str) -> String {
        match self {
            Self::SplunkHec if given.len() < 2 => "/services/collector/event".to_owned(),
            Self::Loki if given.len() < 2 => "/loki/api/v1/push".to_owned(),
            Self::Elasticsearch if !given.ends_with("/_bulk") => {
                format!("{}/_bulk", given.trim_end_matches('/'))
            }
            _ => given.to_owned(),
        }
    }

    /// The path at which the product says how it is, beside the one for events: Splunk's
    /// `services/collector/health`
    /// (<https://docs.splunk.com/Documentation/Splunk/latest/RESTREF/RESTinput>), the root of an
    /// Elasticsearch cluster, Loki's `/ready`
    /// (<https://grafana.com/docs/loki/latest/reference/loki-http-api/>). `None` if there is none,
    /// or no telling where it is.
    #[must_use]
    pub fn health(self, path: &str) -> Option<String> {
        let (before, rest) = match self {
            Self::SplunkHec => (
                path.split_once("/services/collector")?.0,
                "/services/collector/health",
            ),
            Self::Elasticsearch => {
                let index = path.strip_suffix("/_bulk")?;
                (index.rsplit_once('/').map_or("", |(before, _)| before), "/")
            }
            Self::Loki => (path.strip_suffix("/loki/api/v1/push")?, "/ready"),
            Self::Ndjson | Self::JsonArray | Self::Json => return None,
        };
        Some(format!("{before}{rest}"))
    }

    /// What an answer means for the `count` events that were sent. `body` is the answer's, `None`
    /// if it broke off; messages name the receiver by `origin` and show the body as `said`.
    ///
    /// - All formats: 2xx acknowledges, unless the format has a rule of its own. 408, 425, 429 and
    ///   5xx but 501 are tried again. 413 is for a smaller body. 400 and 422 are about the events,
    ///   every other status about the request as such.
    /// - `ndjson`, `json-array`, `json`: the status is all there is. Receivers exist that answer
    ///   2xx although they dropped lines that they could not parse (Tenzir) or everything, under a
    ///   `Content-Type` that they did not expect (VictoriaLogs).
    /// - `splunk-hec`: the answer's `code`
    ///   (<https://docs.splunk.com/Documentation/Splunk/latest/Data/TroubleshootHTTPEventCollector>).
    /// - `elasticsearch`: item by item
    ///   (<https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk>); 409 on
    ///   `create` says that the document is there already.
    /// - `loki`: 204 only; it answers 260 where a tenant's writes are blocked by its configuration
    ///   (<https://grafana.com/docs/loki/latest/configure/#limits_config>, `block_ingestion_status_code`).
    #[must_use]
    pub fn judge(
        self,
        origin: &str,
        status: u16,
        body: Option<&[u8]>,
        said: &str,
        count: usize,
    ) -> Verdict {
        let said = if said.is_empty() {
            String::new()
        } else {
            format!(": {said}")
        };
        let message = format!("{origin}: answered {status}{said}");
        let success = (200..300).contains(&status);
        match self {
            Self::SplunkHec => {
                if let Some(verdict) =
                    splunk_code(body).and_then(|code| splunk_verdict(code, success, &message))
                {
                    return verdict;
                }
                if success {
                    return no_acknowledgement(
                        body,
                        &message,
                        "is no answer of Splunk's collector",
                    );
                }
            }
            Self::Elasticsearch if success => {
                return bulk_verdict(origin, body, count).unwrap_or_else(|| {
                    no_acknowledgement(body, &message, "is no answer to a bulk request")
                });
            }
            Self::Loki if success && status != 204 => {
                return Verdict::Refused(format!("{message}; Loki acknowledges by 204 only"));
            }
            Self::Loki if status == 400 && contains(body, b"timestamp too old") => {
                return Verdict::RefusedEvents(format!(
                    "{message}; Loki takes no event that is older than its reject_old_samples_max_age: start a new checkpoint with --since 6d, or raise that limit"
                ));
            }
            _ => {}
        }
        match status {
            200..300 => Verdict::Accepted,
            413 => Verdict::TooLarge(message),
            400 | 422 => Verdict::RefusedEvents(message),
            300..400 => Verdict::Refused(format!(
                "{message}; redirects are not followed: is the address right?"
            )),
            _ if retry::is_retryable(status) => Verdict::temporary(message),
            401 | 403 | 407 => Verdict::Refused(format!("{message}; {CREDENTIAL}")),
            404 | 405 | 410 => Verdict::Refused(format!("{message}; is the address right?")),
            _ => Verdict::Refused(message),
        }
    }
}

/// What to do where a receiver refuses whoever sends.
const CREDENTIAL: &str = "check the credential (--header)";

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has taken responsibility for all events.
    Accepted,
    /// Every event has a fate of its own, in their order.
    Each(Vec<Fate>),
    /// The body was too large.
    TooLarge(String),
    /// The events were refused for what they hold, or at least one of them was.
    RefusedEvents(String),
    /// The request was refused whatever it held: nothing that is sent will do better.
    Refused(String),
    /// The receiver failed.
    Failed {
        /// How.
        message: String,
        /// Whether another try may do better.
        retryable: bool,
        /// How long it asked to be left alone.
        wait: Option<Duration>,
    },
}

impl Verdict {
    /// A failure that may pass.
    #[must_use]
    pub fn temporary(message: String) -> Self {
        Self::Failed {
            message,
            retryable: true,
            wait: None,
        }
    }
}

/// What became of one event.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Accepted,
    /// It is worth another try.
    Again(String),
    /// It was refused for what it holds.
    Refused(String),
    /// It was refused, and any other would have been too.
    Barred(String),
}

/// A 2xx that does not say what it has to say: passing if it broke off, else another kind of
/// receiver than was meant.
fn no_acknowledgement(body: Option<&[u8]>, message: &str, what: &str) -> Verdict {
    match body {
        None => Verdict::temporary(format!("{message}, and the answer broke off")),
        Some(_) => Verdict::Refused(format!("{message}, which {what}: is the address right?")),
    }
}

fn contains(body: Option<&[u8]>, text: &[u8]) -> bool {
    body.is_some_and(|body| body.windows(text.len()).any(|window| window == text))
}

fn splunk_code(body: Option<&[u8]>) -> Option<u64> {
    #[derive(Deserialize)]
    struct Answer {
        code: u64,
    }
    serde_json::from_slice(body?)
        .ok()
        .map(|Object(Answer { code })| code)
}

/// The collector's codes; `None` for one that says nothing beyond the status.
fn splunk_verdict(code: u64, success: bool, message: &str) -> Option<Verdict> {
    let message = message.to_owned();
    Some(match code {
        0 if success => Verdict::Accepted,
        // No data, invalid data format, event field required or blank, faulty indexed fields.
        5 | 6 | 12 | 13 | 15 => Verdict::RefusedEvents(message),
        // Internal error, busy.
        8 | 9 => Verdict::temporary(message),
        // The token, the index, the channel, the query string.
        1..=4 => Verdict::Refused(format!("{message}; {CREDENTIAL}")),
        7 | 10 | 11 | 14 | 16 => Verdict::Refused(message),
        _ if success => Verdict::Refused(format!("{message}; only code 0 acknowledges")),
        _ => return None,
    })
}

/// Reads the answer to a bulk request; `None` if it is none for this many items.
fn bulk_verdict(origin: &str, body: Option<&[u8]>, count: usize) -> Option<Verdict> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        errors: bool,
        #[serde(borrow)]
        items: Vec<Object<Item<'a>>>,
    }
    #[derive(Deserialize)]
    struct Item<'a> {
        #[serde(borrow)]
        create: Object<Outcome<'a>>,
    }
    #[derive(Deserialize)]
    struct Outcome<'a> {
        status: u16,
        #[serde(borrow, default)]
        error: Option<&'a RawValue>,
    }
    let Object(answer): Object<Answer> = serde_json::from_slice(body?).ok()?;
    if !answer.errors {
        return Some(Verdict::Accepted);
    }
    let fate = |Object(Item { create }): &Object<Item>| {
        let Object(Outcome { status, error }) = create;
        let message = || {
            format!(
                "{origin}: answered {status}: {}",
                excerpt(error.map_or("", RawValue::get).as_bytes())
            )
        };
        match status {
            200..300 | 409 => Fate::Accepted,
            429 | 500..600 => Fate::Again(message()),
            400 | 413 | 422 => Fate::Refused(message()),
            // A missing privilege or index, an index that takes no more writes.
            _ => Fate::Barred(message()),
        }
    };
    let fates: Vec<_> = answer.items.iter().map(fate).collect();
    (fates.len() == count).then_some(Verdict::Each(fates))
}

/// The text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The labels as a JSON object, the last of each name; `default` comes first.
fn object<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let labels: serde_json::Map<_, _> = labels
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    serde_json::Value::Object(labels).to_string()
}

/// Loki wants at least one label, and few values of each.
fn loki_labels(labels: &[Label]) -> String {
    object([("job", "tfc-audit")].into_iter().chain(pairs(labels)))
}

/// What follows the event in its envelope, the closing brace included.
fn splunk_metadata(labels: &[Label]) -> String {
    let is_metadata = |(name, _): &(&str, &str)| SPLUNK_METADATA.contains(name);
    let sourcetype = [("sourcetype", "hcp_terraform:audit")].into_iter();
    let mut text = String::from(",");
    text.push_str(
        object(sourcetype.chain(pairs(labels).filter(is_metadata))).trim_start_matches('{'),
    );
    let fields = object(pairs(labels).filter(|label| !is_metadata(label)));
    if fields != "{}" {
        text.pop();
        let _ = write!(text, ",\"fields\":{fields}}}");
    }
    text
}

fn pairs(labels: &[Label]) -> impl Iterator<Item = (&str, &str)> {
    labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::EventId;

    fn event(json: &str) -> Event {
        let time = time::parse("2023-11-14T22:13:20.5Z").unwrap();
        Event::new(
            &Arc::new(json.into()),
            0..json.len(),
            EventId::new("id\"1"),
            time,
        )
    }

    fn body(format: Format, labels: &[(&str, &str)]) -> String {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let events = [
            event(r#"{"a":"\u00e9","version":0}"#),
            event("{\n \"b\": 2}"),
        ];
        let (body, count) = Encoder::new(format, false, &labels).encode(&events, 1000, 1 << 20);
        assert_eq!(count, if format == Format::Json { 1 } else { 2 });
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn bodies() {
        assert_eq!(
            body(Format::Ndjson, &[]),
            "{\"a\":\"\\u00e9\",\"version\":0}\n{\"b\":2}\n"
        );
        assert_eq!(
            body(Format::JsonArray, &[]),
            r#"[{"a":"\u00e9","version":0},{"b":2}]"#
        );
        assert_eq!(body(Format::Json, &[]), r#"{"a":"\u00e9","version":0}"#);
        assert_eq!(
            body(Format::SplunkHec, &[]),
            r#"{"time":1700000000.500,"event":{"a":"\u00e9","version":0},"sourcetype":"hcp_terraform:audit"}{"time":1700000000.500,"event":{"b":2},"sourcetype":"hcp_terraform:audit"}"#
        );
        assert!(
            body(
                Format::SplunkHec,
                &[("index", "main"), ("sourcetype", "x"), ("team", "a\"b")]
            )
            .ends_with(
                r#""event":{"b":2},"index":"main","sourcetype":"x","fields":{"team":"a\"b"}}"#
            )
        );
        assert_eq!(
            body(Format::Elasticsearch, &[]),
            r#"{"create":{"_id":"id\"1"}}
{"@timestamp":"2023-11-14T22:13:20.500Z","a":"\u00e9","version":"0"}
{"create":{"_id":"id\"1"}}
{"@timestamp":"2023-11-14T22:13:20.500Z","b":2}
"#
        );
        assert_eq!(
            body(Format::Loki, &[("env", "prod")]),
            r#"{"streams":[{"stream":{"env":"prod","job":"tfc-audit"},"values":[["1700000000500000000","{\"a\":\"\\u00e9\",\"version\":0}"],["1700000000500000000","{\"b\":2}"]]}]}"#
        );
    }

    #[test]
    fn a_body_stays_within_its_limits_but_holds_one_event() {
        let events: Vec<_> = (0..10).map(|_| event(r#"{"a":1}"#)).collect();
        for (_, format) in FORMATS {
            let encoder = Encoder::new(format, false, &[]);
            let (all, _) = encoder.encode(&events, 10, usize::MAX);
            let (body, count) = encoder.encode(&events, 10, 1);
            assert_eq!(count, 1);
            assert_eq!(
                encoder.encode(&events, 3, usize::MAX).1,
                if format == Format::Json { 1 } else { 3 }
            );
            if format != Format::Json {
                assert_eq!(encoder.encode(&events, 10, all.len()).1, 10);
                let (less, count) = encoder.encode(&events, 10, all.len() - 1);
                assert_eq!(count, 9);
                assert!(less.len() < all.len() && body.len() < less.len());
            }
        }
    }

    #[test]
    fn paths() {
        let cases = [
            (Format::Ndjson, "/", "/"),
            (Format::SplunkHec, "/", "/services/collector/event"),
            (Format::SplunkHec, "/x", "/x"),
            (Format::Loki, "/", "/loki/api/v1/push"),
            (Format::Loki, "/x", "/x"),
            (Format::Elasticsearch, "/", "/_bulk"),
            (Format::Elasticsearch, "/logs-a-b", "/logs-a-b/_bulk"),
            (Format::Elasticsearch, "/logs-a-b/_bulk", "/logs-a-b/_bulk"),
        ];
        for (format, given, path) in cases {
            assert_eq!(format.path(given), path);
        }
    }

    #[test]
    fn what_is_said_of_a_body_and_where_health_is_told() {
        for (_, format) in FORMATS {
            let is_lines = matches!(format, Format::Ndjson | Format::Elasticsearch);
            let expected = if is_lines {
                "application/x-ndjson"
            } else {
                "application/json"
            };
            assert_eq!(format.content_type(), expected);
        }
        let cases = [
            (
                Format::SplunkHec,
                "/services/collector/event",
                Some("/services/collector/health"),
            ),
            (
                Format::SplunkHec,
                "/a/services/collector",
                Some("/a/services/collector/health"),
            ),
            (Format::SplunkHec, "/x", None),
            (Format::Elasticsearch, "/_bulk", Some("/")),
            (Format::Elasticsearch, "/a/logs-a-b/_bulk", Some("/a/")),
            (Format::Loki, "/a/loki/api/v1/push", Some("/a/ready")),
            (Format::Loki, "/x", None),
            (Format::Ndjson, "/", None),
        ];
        for (format, path, health) in cases {
            assert_eq!(format.health(path).as_deref(), health);
        }
    }

    /// What an answer means, as one letter: accepted, failed, too large, refused events, refused.
    fn judged(format: Format, status: u16, body: &str) -> char {
        match format.judge("", status, Some(body.as_bytes()), "", 2) {
            Verdict::Accepted => 'a',
            Verdict::Failed { .. } => 'f',
            Verdict::TooLarge(_) => 't',
            Verdict::RefusedEvents(_) => 'e',
            Verdict::Refused(_) => 'r',
            Verdict::Each(_) => 'i',
        }
    }

    #[test]
    fn statuses() {
        let statuses = [
            (200, 'a'),
            (202, 'a'),
            (204, 'a'),
            (302, 'r'),
            (400, 'e'),
            (401, 'r'),
            (403, 'r'),
            (404, 'r'),
            (405, 'r'),
            (407, 'r'),
            (408, 'f'),
            (409, 'r'),
            (410, 'r'),
            (413, 't'),
            (415, 'r'),
            (422, 'e'),
            (425, 'f'),
            (429, 'f'),
            (500, 'f'),
            (501, 'r'),
            (502, 'f'),
            (503, 'f'),
            (504, 'f'),
        ];
        for (status, verdict) in statuses {
            for (name, format) in FORMATS {
                let own = !matches!(format, Format::Ndjson | Format::JsonArray | Format::Json);
                if !(own && status < 300) {
                    assert_eq!(judged(format, status, ""), verdict, "{name} {status}");
                }
            }
        }
    }

    #[test]
    fn what_to_do_is_said() {
        let says = |format: Format, status, body: &str, remedy| {
            let verdict = format.judge("there", status, Some(body.as_bytes()), "", 2);
            let said = format!("{verdict:?}");
            assert!(said.contains("there: answered"), "{said}");
            assert!(said.contains(remedy), "{said}");
        };
        says(Format::Ndjson, 302, "", "redirects are not followed");
        says(Format::Ndjson, 401, "", CREDENTIAL);
        says(Format::Ndjson, 404, "", "is the address right?");
        says(Format::SplunkHec, 200, r#"{"code":17}"#, "only code 0");
        says(Format::SplunkHec, 403, r#"{"code":4}"#, CREDENTIAL);
        let hint = |status, body: &[u8]| {
            let verdict = Format::Loki.judge("", status, Some(body), "", 2);
            format!("{verdict:?}").contains("--since")
        };
        assert!(hint(400, b"entry has timestamp too old: 2026"));
        assert!(!hint(400, b"entry has no labels"));
        assert!(!hint(500, b"entry has timestamp too old: 2026"));
    }

    #[test]
    fn splunk_is_judged_by_its_code() {
        let cases = [
            (200, r#"{"text":"Invalid data format","code":6}"#, 'e'),
            (400, r#"{"text":"Invalid authorization","code":3}"#, 'r'),
            (500, r#"{"text":"Event field is required","code":12}"#, 'e'),
            (200, r#"{"text":"Success","code":0}"#, 'a'),
            (200, "ok", 'r'),
            (200, r#"{"text":"Success","code":17}"#, 'r'),
            (200, r#"{"text":"Server is busy","code":9}"#, 'f'),
            (503, r#"{"text":"Server is busy","code":9}"#, 'f'),
            (
                400,
                r#"{"text":"Event field is required","code":12,"invalid-event-number":1}"#,
                'e',
            ),
            (
                400,
                r#"{"text":"Incorrect index","code":7,"invalid-event-number":1}"#,
                'r',
            ),
            (403, r#"{"text":"Invalid token","code":4}"#, 'r'),
            (401, r#"{"text":"Token is required","code":2}"#, 'r'),
            (500, r#"{"text":"?","code":99}"#, 'f'),
            (400, r#"{"text":"Success","code":0}"#, 'e'),
            (413, "", 't'),
        ];
        for (status, body, verdict) in cases {
            assert_eq!(
                judged(Format::SplunkHec, status, body),
                verdict,
                "{status} {body}"
            );
        }
        assert!(matches!(
            Format::SplunkHec.judge("", 200, None, "", 2),
            Verdict::Failed {
                retryable: true,
                ..
            }
        ));
    }

    #[test]
    fn elasticsearch_is_judged_item_by_item() {
        let bulk =
            |items: &str| Format::Elasticsearch.judge("", 200, Some(items.as_bytes()), "", 5);
        assert_eq!(
            bulk(r#"{"took":1,"errors":false,"items":[]}"#),
            Verdict::Accepted
        );
        let items = r#"{"errors":true,"items":[
            {"create":{"_id":"a","status":201}},
            {"create":{"_id":"b","status":409,"error":{"type":"version_conflict_engine_exception"}}},
            {"create":{"_id":"c","status":429,"error":{"type":"es_rejected_execution_exception"}}},
            {"create":{"_id":"d","status":400,"error":{"type":"document_parsing_exception"}}},
            {"create":{"_id":"e","status":403,"error":{"type":"cluster_block_exception"}}}]}"#;
        let Verdict::Each(fates) = bulk(items) else {
            panic!()
        };
        assert_eq!(fates[..2], [Fate::Accepted, Fate::Accepted]);
        assert!(matches!(&fates[2], Fate::Again(message) if message.contains("es_rejected")));
        assert!(
            matches!(&fates[3], Fate::Refused(message) if message.contains("document_parsing"))
        );
        assert!(matches!(&fates[4], Fate::Barred(message) if message.contains("cluster_block")));
        assert!(matches!(
            Format::Elasticsearch.judge("", 200, Some(items.as_bytes()), "", 6),
            Verdict::Refused(_)
        ));
        assert!(matches!(bulk("{}"), Verdict::Refused(_)));
        assert!(matches!(
            Format::Elasticsearch.judge("", 200, None, "", 2),
            Verdict::Failed {
                retryable: true,
                ..
            }
        ));
    }

    #[test]
    fn loki_acknowledges_by_204_only() {
        assert_eq!(judged(Format::Loki, 204, ""), 'a');
        assert_eq!(judged(Format::Loki, 200, ""), 'r');
        assert_eq!(judged(Format::Loki, 260, "blocked"), 'r');
        let old =
            "entry for stream '{job=\"tfc-audit\"}' has timestamp too old: 2026-01-01T00:00:00Z";
        assert!(
            matches!(Format::Loki.judge("", 400, Some(old.as_bytes()), "", 2), Verdict::RefusedEvents(message) if message.contains("--since 6d"))
        );
    }
}
