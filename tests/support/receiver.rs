//! A scriptable receiver of events over HTTP, for answers that real ones do not give on demand.
//!
//! A [`Receiver`] reads one [`Format`] strictly, and answers as the products with this format do,
//! unless its [`Rules`] say otherwise. It keeps the events that it acknowledged. It speaks HTTP
//! over plain sockets, because only so it can cut an answer short.

#![allow(dead_code, reason = "each test target that includes this uses a part")]

pub mod otlp;
#[path = "receiver/server.rs"]
mod server;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write as _};
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use time::UtcDateTime;
use time::format_description::well_known::Rfc3339;

pub use server::{Received, Receiver, Step};

/// A client that takes longer for its next step hangs, even on a busy machine.
const TOO_LONG: Duration = Duration::from_secs(600);

/// The form of a request's body and of the answer that acknowledges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Ndjson,
    JsonArray,
    Json,
    Splunk,
    Bulk,
    Loki,
    Otlp,
}

impl Format {
    pub const ALL: [Self; 7] = [
        Self::Ndjson,
        Self::JsonArray,
        Self::Json,
        Self::Splunk,
        Self::Bulk,
        Self::Loki,
        Self::Otlp,
    ];

    /// The value of `--format`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::JsonArray => "json-array",
            Self::Json => "json",
            Self::Splunk => "splunk-hec",
            Self::Bulk => "elasticsearch",
            Self::Loki => "loki",
            Self::Otlp => "otlp",
        }
    }

    /// The path at which the product takes events.
    pub fn path(self) -> &'static str {
        match self {
            Self::Ndjson | Self::JsonArray | Self::Json => "/in",
            Self::Splunk => "/services/collector/event",
            Self::Bulk => "/audit/_bulk",
            Self::Loki => "/loki/api/v1/push",
            Self::Otlp => "/v1/logs",
        }
    }

    /// The events of a body, or the fault in it.
    pub fn read(self, body: &str) -> Result<Vec<Item>, String> {
        let lines = || match body.strip_suffix('\n') {
            Some(rest) => Ok(rest.split('\n')),
            None => Err("the last line has no end"),
        };
        match self {
            Self::Ndjson => lines()?.map(Item::new).collect(),
            Self::Json => Ok(vec![Item::new(body)?]),
            Self::JsonArray => {
                let items: Vec<&RawValue> = parsed(body)?;
                items.iter().map(|item| Item::new(item.get())).collect()
            }
            Self::Splunk => {
                let envelopes = serde_json::Deserializer::from_str(body).into_iter();
                let item = |envelope: serde_json::Result<BTreeMap<&str, &RawValue>>| {
                    let envelope = envelope.map_err(|error| error.to_string())?;
                    let time = envelope.get("time").ok_or("no time")?;
                    parsed::<f64>(time.get())?;
                    Item::new(envelope.get("event").ok_or("no event")?.get())
                };
                envelopes.map(item).collect()
            }
            Self::Bulk => {
                let lines: Vec<&str> = lines()?.collect();
                let (pairs, rest) = lines.as_chunks::<2>();
                let item = |[action, document]: &[&str; 2]| {
                    let item = Item::new(document)?;
                    let expected = json!({"create": {"_id": item.id}});
                    let document: Value = parsed(document)?;
                    if parsed::<Value>(action)? != expected || document["@timestamp"].is_null() {
                        return Err(format!("{action} before {document}"));
                    }
                    Ok(item)
                };
                if !rest.is_empty() {
                    return Err(format!("an action alone: {rest:?}"));
                }
                pairs.iter().map(item).collect()
            }
            Self::Loki => {
                #[derive(serde::Deserialize)]
                struct Push {
                    streams: Vec<Stream>,
                }
                #[derive(serde::Deserialize)]
                struct Stream {
                    stream: BTreeMap<String, String>,
                    values: Vec<(String, String)>,
                }
                let mut items = Vec::new();
                for Stream { stream, values } in parsed::<Push>(body)?.streams {
                    if stream.is_empty() {
                        return Err("a stream without labels".to_owned());
                    }
                    let labels = json!(stream).to_string();
                    for (time, line) in values {
                        items.push(Item {
                            stream: labels.clone(),
                            time: parsed(&time)?,
                            ..Item::new(&line)?
                        });
                    }
                }
                Ok(items)
            }
            Self::Otlp => {
                let request = parsed(body)?;
                otlp::records(&request)
                    .into_iter()
                    .map(Item::of_record)
                    .collect()
            }
        }
    }
}

/// One event of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub id: String,
    /// The event's own JSON.
    pub text: String,
    /// Loki: the labels of its stream.
    pub stream: String,
    /// Loki: its time in nanoseconds.
    pub time: i64,
}

impl Item {
    fn new(text: &str) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        struct Identified {
            id: String,
        }
        let Identified { id } = parsed(text)?;
        Ok(Self {
            id,
            text: text.to_owned(),
            stream: String::new(),
            time: 0,
        })
    }

    /// The event of an OTLP record, whose time and attributes are the event's own.
    fn of_record(record: &Value) -> Result<Self, String> {
        let text = record["body"]["stringValue"].as_str().ok_or("no body")?;
        let item = Self::new(text)?;
        let event: Value = parsed(text)?;
        let attributes = otlp::attributes(record)?;
        let nanoseconds = |time: &str| {
            let time = UtcDateTime::parse(time, &Rfc3339).map_err(|error| error.to_string())?;
            Ok::<_, String>(time.unix_timestamp_nanos().to_string())
        };
        let time = nanoseconds(event["timestamp"].as_str().unwrap_or_default())?;
        let is_observed = record["observedTimeUnixNano"].as_str() > record["timeUnixNano"].as_str();
        if record["timeUnixNano"] != *time || !is_observed || record["severityNumber"] != 9 {
            return Err(format!("another time or severity: {record}"));
        }
        let named = attributes.get("event.name").unwrap_or(&Value::Null);
        if attributes.get("log.record.uid") != Some(&event["id"]) || record["eventName"] != *named {
            return Err(format!("another ID or name: {record}"));
        }
        Ok(item)
    }
}

/// How a receiver behaves. [`Rules::default`] takes everything.
#[derive(Debug)]
pub struct Rules {
    /// The behaviour at the next requests, one step for each.
    pub script: VecDeque<Step>,
    /// The behaviour at every later request.
    pub always: Step,
    /// 413 for more events than this in a body.
    pub most_events: usize,
    /// 413 for a body of more bytes than this, after decompression.
    pub most_bytes: usize,
    /// Events that are refused for what they hold, with the others in the same body. Only a bulk
    /// answer tells them apart.
    pub poison: BTreeSet<String>,
    /// Splunk: the number of the first event of a body. Products disagree.
    pub counts_from: usize,
    /// Splunk: at each of the next requests, the queue is full after this many events.
    pub full_after: VecDeque<usize>,
    /// Splunk: the token has indexer acknowledgement.
    pub has_acks: bool,
    /// Splunk: how often each acknowledgement is asked for before the indexer has the events.
    pub polls: usize,
    /// Loki: the entries of each stream.
    pub streams: BTreeMap<String, BTreeSet<(i64, String)>>,
    /// Reset for a body of more bytes than this, before it is read.
    pub resets_above: usize,
    /// Bulk: events that are answered 429, each this many times.
    pub busy: BTreeMap<String, usize>,
    /// Bulk: the documents that were created, by `_id`.
    pub documents: BTreeMap<String, Value>,
    /// The only `Authorization` that is accepted; `None` accepts any.
    pub credential: Option<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            script: VecDeque::new(),
            always: Step::Usual,
            most_events: usize::MAX,
            most_bytes: usize::MAX,
            poison: BTreeSet::new(),
            counts_from: 1,
            full_after: VecDeque::new(),
            has_acks: false,
            polls: 0,
            streams: BTreeMap::new(),
            resets_above: usize::MAX,
            busy: BTreeMap::new(),
            documents: BTreeMap::new(),
            credential: None,
        }
    }
}

impl Rules {
    /// The product's answer to a request without events, or with a credential that it refuses.
    /// `None` for a request with events.
    fn aside(&mut self, format: Format, request: &Received) -> Option<(u16, String)> {
        if let Some(answer) = self.acknowledgement(request) {
            return Some(answer);
        }
        let answer = self.without_events(format, request)?;
        Some((answer.0, answer.1.to_owned()))
    }

    /// The collector's answers about acknowledgements, and to a request that cannot have one.
    fn acknowledgement(&mut self, request: &Received) -> Option<(u16, String)> {
        const NO_CHANNEL: &str = r#"{"text":"Data channel is missing","code":10}"#;
        let channel = request.header("x-splunk-request-channel");
        if !self.has_acks {
            return None;
        }
        if channel.is_empty() {
            return Some((400, NO_CHANNEL.to_owned()));
        }
        let query = request.path.strip_prefix("/services/collector/ack?")?;
        let asked: Value = serde_json::from_str(&request.body).expect("JSON");
        let id = asked["acks"][0].to_string();
        let is_named = query
            .split('&')
            .any(|it| it == format!("channel={channel}"));
        let is_stored = is_named && self.polls == 0;
        self.polls = self.polls.saturating_sub(1);
        Some((200, json!({"acks": {id: is_stored}}).to_string()))
    }

    fn without_events(&self, format: Format, request: &Received) -> Option<(u16, &'static str)> {
        let given = request.header("authorization");
        let is_refused = self.credential.as_ref().is_some_and(|only| only != given);
        match (format, request.method.as_str(), request.path.as_str()) {
            // Splunk and Loki tell their health to everybody.
            (Format::Splunk, "GET", "/services/collector/health") => {
                Some((200, r#"{"text":"HEC is healthy","code":17}"#))
            }
            (Format::Loki, "GET", "/ready") => Some((200, "ready\n")),
            (Format::Splunk, ..) if is_refused && given.is_empty() => {
                Some((401, r#"{"text":"Token is required","code":2}"#))
            }
            (Format::Splunk, ..) if is_refused => {
                Some((403, r#"{"text":"Invalid token","code":4}"#))
            }
            (Format::Otlp, ..) if is_refused => Some((401, "\u{12}\u{c}unauthorized")),
            _ if is_refused => Some((401, "unauthorized")),
            (Format::Bulk, "GET", "/") => Some((200, r#"{"version":{"number":"8.0.0"}}"#)),
            (Format::Loki, "POST", _) if request.body == r#"{"streams":[]}"# => Some((
                422,
                "error at least one valid stream is required for ingestion",
            )),
            (_, "POST", _) if !request.body.is_empty() => None,
            (Format::Splunk, "POST", _) => Some((400, r#"{"text":"No data","code":5}"#)),
            (Format::Bulk, "POST", _) => Some((400, r#"{"error":"request body is required"}"#)),
            (Format::Loki, "POST", _) => Some((400, "EOF")),
            (Format::Otlp, "POST", _) => Some((200, "")),
            (_, "POST", _) => None,
            _ => Some((405, "POST only")),
        }
    }

    /// The product's answer: the status, the body, and the events that it took.
    fn usual(&mut self, format: Format, bytes: usize, items: &[Item]) -> (u16, String, Vec<Item>) {
        let refused = |code, body: &str| (code, body.to_owned(), Vec::new());
        if items.len() > self.most_events || bytes > self.most_bytes {
            return refused(413, "too large");
        }
        match format {
            Format::Bulk => return self.bulk(items),
            Format::Loki => return self.loki(items),
            Format::Otlp => return self.otlp(items),
            _ => {}
        }
        if format == Format::Splunk
            && let Some(count) = self.full_after.pop_front()
        {
            let busy = json!({"text": "Server is busy", "code": 9, "invalid-event-number": count});
            return (503, busy.to_string(), items[..count].to_vec());
        }
        let poisoned = items.iter().position(|item| self.poison.contains(&item.id));
        if let Some(place) = poisoned {
            // Splunk reads event by event, and indexes those before.
            let taken = match format {
                Format::Splunk => items[..place].to_vec(),
                _ => Vec::new(),
            };
            let number = place + self.counts_from;
            let body =
                json!({"text": "Invalid data format", "code": 6, "invalid-event-number": number});
            return (400, body.to_string(), taken);
        }
        let (code, body) = match format {
            Format::Splunk if self.has_acks => (200, r#"{"text":"Success","code":0,"ackId":3}"#),
            Format::Splunk => (200, r#"{"text":"Success","code":0}"#),
            _ => (200, "taken"),
        };
        (code, body.to_owned(), items.to_vec())
    }

    /// Stores the good entries of a push, and answers 400 if there are others.
    fn loki(&mut self, items: &[Item]) -> (u16, String, Vec<Item>) {
        const HOUR: i64 = 3_600_000_000_000;
        let (mut taken, mut refused) = (Vec::new(), String::new());
        for item in items {
            let stream = self.streams.entry(item.stream.clone()).or_default();
            let newest = stream.last().map_or(i64::MIN, |(time, _)| *time);
            let oldest = newest.saturating_sub(HOUR);
            if self.poison.contains(&item.id) {
                refused = format!(
                    "max entry size '1' bytes exceeded for stream '{}'",
                    item.stream
                );
            } else if item.time < oldest {
                refused = format!(
                    "entry with timestamp {} ignored, reason: 'entry too far behind, oldest acceptable timestamp is: {oldest}'",
                    item.time
                );
            } else if stream.insert((item.time, item.text.clone())) {
                taken.push(item.clone());
            }
        }
        let code = if refused.is_empty() { 204 } else { 400 };
        (code, refused, taken)
    }

    /// Good records are taken, whatever else is in the request.
    fn otlp(&self, items: &[Item]) -> (u16, String, Vec<Item>) {
        let is_good = |item: &&Item| !self.poison.contains(&item.id);
        let good: Vec<_> = items.iter().filter(is_good).cloned().collect();
        let body = match items.len() - good.len() {
            0 => otlp::SUCCESS.to_vec(),
            bad => otlp::rejects(bad, "Invalid data format"),
        };
        (
            200,
            String::from_utf8(body).expect("short lengths are ASCII"),
            good,
        )
    }

    fn bulk(&mut self, items: &[Item]) -> (u16, String, Vec<Item>) {
        let (mut results, mut taken, mut errors) = (Vec::new(), Vec::new(), false);
        for item in items {
            let busy = self.busy.get_mut(&item.id).filter(|left| **left > 0);
            let (status, kind) = if self.poison.contains(&item.id) {
                (400, "document_parsing_exception")
            } else if let Some(left) = busy {
                *left -= 1;
                (429, "es_rejected_execution_exception")
            } else if self.documents.contains_key(&item.id) {
                (409, "version_conflict_engine_exception")
            } else {
                let document = serde_json::from_str(&item.text).expect("it was parsed before");
                self.documents.insert(item.id.clone(), document);
                taken.push(item.clone());
                (201, "")
            };
            let mut result = json!({"_index": "audit", "_id": item.id, "status": status});
            if status == 201 {
                result["result"] = "created".into();
            } else {
                errors = true;
                result["error"] = json!({"type": kind, "reason": format!("[{}] so", item.id)});
            }
            results.push(json!({"create": result}));
        }
        let body = json!({"took": 3, "errors": errors, "items": results});
        (200, body.to_string(), taken)
    }
}

fn parsed<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))
}
