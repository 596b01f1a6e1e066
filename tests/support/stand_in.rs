//! A stand-in for HCP Terraform's Audit Trails API, for tests, the demo and benches.
//!
//! A [`StandIn`] serves a [`World`]: the events that exist, and how the API behaves in whatever
//! its documentation leaves open or a network can break. It speaks HTTP over plain sockets, since
//! cutting an answer short or spreading it over time needs every byte in its own hand. Chance
//! comes from a seed and the number of the request alone, so that a failure can be repeated.

#![allow(dead_code, reason = "each test target that includes this uses a part")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// The only path that is served.
pub const PATH: &str = "/api/v2/organization/audit-trail";

/// The documented answer where there is nothing to list.
const EMPTY: &str = r#"{"data":[],"pagination":{"current_page":1,"page_size":1000,"prev_page":null,"next_page":null,"total_pages":0,"total_count":0}}"#;

/// Arrivals are numbered from here, far above the events that tests make.
const FIRST_ARRIVAL: u64 = 1 << 40;

/// A `meta` whose strings are easily changed on the way.
const ESCAPED: &str = r#"{"workspace":"caf\u00e9 \"prod\"","workspace_id":"ws-GGGGGGGGGGGGGGGG","run_id":"run-HHHHHHHHHHHHHHHH","run_message":"Triggered\tvia\nUI","comment":"café 🔒 }],{","task_result_url":"https:\/\/scan.example.invalid\/1"}"#;

/// A `meta` whose numbers and key order are easily changed on the way.
const NUMBERS: &str = r#"{"workspace":{"name":"networking-prod","id":"ws-GGGGGGGGGGGGGGGG"},"run":{"message":"m","id":"run-HHHHHHHHHHHHHHHH"},"passed":3,"serial":9007199254740993,"digest":123456789012345678901234567890,"score":1.10,"ratio":1.0E+2,"result":[]}"#;

/// One audit event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the API and the checkpoint know it by.
    pub id: String,
    /// The instant that the text's `timestamp` names.
    pub time: OffsetDateTime,
    /// The event's own JSON, which is to arrive byte for byte.
    pub text: String,
    /// The first request that shows it, for events that appear late. `None`: all do.
    pub visible_from: Option<usize>,
}

impl Event {
    /// The `n`th invented event, stamped with `time` cut to milliseconds. Its id depends on
    /// nothing but `n`. Two of three hold what a careless parser would change: escapes, trailing
    /// zeros, keys out of order, numbers beyond 2^53.
    pub fn new(n: u64, time: OffsetDateTime) -> Self {
        let time = milliseconds(time);
        let (id, request, resource) = (uuid(n), uuid(!n), mix(n));
        let kinds = ["team", "task_result", "policy_check"];
        let metas = ["null", ESCAPED, NUMBERS];
        let kind = usize::try_from(n % 3).expect("below 3");
        let (kind, meta, stamp) = (kinds[kind], metas[kind], stamp(time));
        let text = format!(
            r#"{{"id":"{id}","version":"0","type":"Resource","timestamp":"{stamp}","auth":{{"accessor_id":"user-AAAAAAAAAAAAAAAA","description":"alice","type":"Client","impersonator_id":null,"organization_id":"org-BBBBBBBBBBBBBBBB"}},"request":{{"id":"{request}"}},"resource":{{"id":"at-{resource:016x}","type":"{kind}","action":"create","meta":{meta}}}}}"#,
        );
        Self {
            id,
            time,
            text,
            visible_from: None,
        }
    }

    /// The event that `text` is. Panics unless it has an `id` and an RFC 3339 `timestamp`.
    pub fn from_json(text: &str) -> Self {
        let value: serde_json::Value = serde_json::from_str(text).expect("an event is JSON");
        let field = |name: &str| value[name].as_str().expect("an event has id and timestamp");
        Self {
            id: field("id").to_owned(),
            time: OffsetDateTime::parse(field("timestamp"), &Rfc3339).expect("an RFC 3339 time"),
            text: text.to_owned(),
            visible_from: None,
        }
    }

    /// The same event, not listed before the `request`th request.
    pub fn visible_from(self, request: usize) -> Self {
        let mut late = self;
        late.visible_from = Some(request);
        late
    }
}

/// `count` events numbered from 1, oldest first: `per_second` to each whole second, the last
/// second being that of `newest`.
pub fn events(count: usize, newest: OffsetDateTime, per_second: u32) -> Vec<Event> {
    events_from(1, count, newest, per_second)
}

/// As [`events`], numbered from `first`, for worlds made of several such sets.
pub fn events_from(
    first: u64,
    count: usize,
    newest: OffsetDateTime,
    per_second: u32,
) -> Vec<Event> {
    let newest = seconds(newest);
    (0..count as u64)
        .map(|index| {
            let age = (count as u64 - 1 - index) / u64::from(per_second);
            Event::new(first + index, newest - Duration::from_secs(age))
        })
        .collect()
}

/// The events of `fixtures/events.ndjson`, moved in time so that the newest is at `newest`;
/// nothing but the timestamps differs from the file.
pub fn sample_events(newest: OffsetDateTime) -> Vec<Event> {
    let mut events = parsed(include_str!("../../fixtures/events.ndjson"));
    let last = events.iter().map(|event| event.time).max();
    let shift = milliseconds(newest) - last.expect("the fixture holds events");
    for event in &mut events {
        let old = format!(r#""timestamp":"{}""#, stamp(event.time));
        event.time += shift;
        let new = format!(r#""timestamp":"{}""#, stamp(event.time));
        assert!(event.text.contains(&old), "{old} in {}", event.text);
        event.text = event.text.replacen(&old, &new, 1);
    }
    events
}

/// The events of an NDJSON output, in its order.
pub fn parsed(ndjson: &str) -> Vec<Event> {
    ndjson.lines().map(Event::from_json).collect()
}

/// The ids of an NDJSON output, in its order.
pub fn ids(ndjson: &str) -> Vec<String> {
    parsed(ndjson).into_iter().map(|event| event.id).collect()
}

/// Whether `since` lists the events at that very instant. The documentation reads `Exclusive`.
#[derive(Clone, Copy, Debug, Default)]
pub enum Since {
    Inclusive,
    #[default]
    Exclusive,
    /// Everything is listed, whatever was asked for.
    Ignored,
}

/// What becomes of the page size asked for. Without one a page has 1000 events, or the limit.
#[derive(Clone, Copy, Debug, Default)]
pub enum Sizes {
    #[default]
    Honoured,
    /// At most this many.
    Clamped(usize),
    /// Always this many.
    Ignored(usize),
}

/// The answer to a page number past the end; page 1 is always answered.
#[derive(Clone, Copy, Debug, Default)]
pub enum PastEnd {
    /// 200 without events, counts as on every page.
    #[default]
    Empty,
    /// This status.
    Status(u16),
}

/// What `total_count` and, derived from it, `total_pages` say.
#[derive(Clone, Copy, Debug, Default)]
pub enum Counts {
    #[default]
    True,
    /// Neither field is there.
    Absent,
    /// So many too few; `next_page` goes by it and is null too early.
    Lag(usize),
    /// So many too many; `next_page` is right.
    Plus(usize),
    /// As though `since` had not been sent; `next_page` is right.
    IgnoreSince,
}

/// The order among events of one timestamp.
#[derive(Clone, Copy, Debug, Default)]
pub enum Ties {
    /// By insertion.
    #[default]
    Stable,
    /// Another random one at every request.
    Shuffled,
}

/// The order of the listing, by timestamp.
#[derive(Clone, Copy, Debug, Default)]
pub enum Order {
    #[default]
    NewestFirst,
    OldestFirst,
}

/// What `next_page` says.
#[derive(Clone, Copy, Debug, Default)]
pub enum Next {
    #[default]
    True,
    /// The page's own number, on every page.
    Same,
    /// One more than the page's own number, while every page holds the events of page 1.
    Endless,
}

/// What happens at one request. Several steps can be given for one: changes of the world, an
/// answer and a way of sending it. Where no step makes an answer, it is the world's own.
#[derive(Clone, Debug)]
pub enum Step {
    /// This answer. A header given here replaces the one that would be sent by itself.
    Status {
        code: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// 200 with this body.
    Body(String),
    /// 200 with the documented answer where there is nothing to list.
    EmptyPage,
    /// These events come into being just before the answer.
    Insert(Vec<Event>),
    /// Retention takes this many of the oldest just before the answer.
    RemoveOldest(usize),
    /// The answer's head and the first half of its body, then the connection closes.
    Truncate,
    /// The answer's body in 20 pieces spread over this time, so that no single read waits long.
    Trickle(Duration),
    /// Nothing for this time, then the connection closes.
    Stall(Duration),
    /// The connection closes at once.
    Reset,
}

impl Step {
    /// A status with the API's error body.
    pub fn error(code: u16, title: &str) -> Self {
        let (headers, body) = (Vec::new(), error_body(code, title));
        Self::Status {
            code,
            headers,
            body,
        }
    }

    /// The documented 429, whose status is a number; `headers` say how long to wait.
    pub fn rate_limited(headers: &[(&str, &str)]) -> Self {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Self::Status {
            code: 429,
            headers: headers.iter().map(owned).collect(),
            body: r#"{"errors":[{"detail":"You have exceeded the API's rate limit.","status":429,"title":"Too many requests"}]}"#.to_owned(),
        }
    }
}

/// The events that exist and how the API behaves. [`World::new`] behaves well; tests change what
/// they are about: `World { ties: Ties::Shuffled, ..World::new(events) }`.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Oldest first, and of equal timestamps the earlier inserted first: to be changed by
    /// [`World::insert`] and [`World::remove_oldest`] only.
    pub events: Vec<Event>,
    /// The only bearer token that is accepted.
    pub token: String,
    pub since: Since,
    pub sizes: Sizes,
    pub past_end: PastEnd,
    pub counts: Counts,
    pub ties: Ties,
    pub order: Order,
    pub next: Next,
    /// Whether `pagination` tells the effective `page_size`.
    pub page_size_field: bool,
    /// Whether bodies are indented, line breaks within events included.
    pub pretty: bool,
    /// Whether bodies are compressed where the client offers gzip.
    pub gzip: bool,
    /// How many events come into being just after each answer was computed, stamped with the
    /// second of `now`, so that they push every later page.
    pub arrivals_per_request: usize,
    /// How many may still arrive.
    pub arrivals_left: usize,
    /// The server's clock; `None` is the real one.
    pub now: Option<OffsetDateTime>,
    /// The `Date` header where it is to differ from `now`.
    pub date: Option<OffsetDateTime>,
    /// How long each answer is held back. Requests on different connections wait side by side.
    pub delay: Duration,
    /// The order of shuffled ties depends on this and the request's number.
    pub seed: u64,
    /// The steps of single requests, by number; see [`World::script`].
    pub script: BTreeMap<usize, Vec<Step>>,
    /// The step of each request from this number on that has none of its own.
    pub always: Option<(usize, Step)>,
}

impl World {
    /// A world with these events that keeps to the documentation.
    pub fn new(mut events: Vec<Event>) -> Self {
        events.sort_by_key(|event| event.time);
        Self {
            events,
            token: "test-token".to_owned(),
            page_size_field: true,
            arrivals_left: usize::MAX,
            ..Self::default()
        }
    }

    /// Adds events, each at the place that its time gives it.
    pub fn insert(&mut self, events: impl IntoIterator<Item = Event>) {
        self.events.extend(events);
        self.events.sort_by_key(|event| event.time);
    }

    /// Forgets the `count` oldest events, as retention does.
    pub fn remove_oldest(&mut self, count: usize) {
        self.events.drain(..count.min(self.events.len()));
    }

    /// Has `step` happen at the `at_request`th request since the start, the first being 1.
    pub fn script(&mut self, at_request: usize, step: Step) {
        self.script.entry(at_request).or_default().push(step);
    }

    /// All events, hidden ones included, as they are to be delivered: oldest first, and those of
    /// one timestamp in the order of the listing, the later inserted first where that is newest
    /// first. (Shuffled ties have no such order: compare sorted [`ids`] and the times.)
    pub fn in_order(&self) -> Vec<&Event> {
        let mut listed = self.listing(usize::MAX, None);
        listed.sort_by_key(|event| event.time);
        listed
    }

    /// The NDJSON that delivers all events, in the order of [`World::in_order`].
    pub fn expected(&self) -> String {
        let lines = self.in_order().into_iter();
        lines.fold(String::new(), |all, event| all + &event.text + "\n")
    }

    /// What becomes of the `number`th request.
    fn respond(&mut self, number: usize, asked: &Asked) -> Reply {
        let mut steps = self.script.remove(&number).unwrap_or_default();
        if let Some((first, step)) = &self.always
            && steps.is_empty()
            && number >= *first
        {
            steps.push(step.clone());
        }
        let (mut made, mut sending) = (None, Sending::Whole);
        for step in steps {
            match step {
                Step::Status {
                    code,
                    headers,
                    body,
                } => made = Some((code, headers, body)),
                Step::Body(body) => made = Some((200, Vec::new(), body)),
                Step::EmptyPage => made = Some((200, Vec::new(), EMPTY.to_owned())),
                Step::Insert(events) => self.insert(events),
                Step::RemoveOldest(count) => self.remove_oldest(count),
                Step::Truncate => sending = Sending::Half,
                Step::Trickle(time) => sending = Sending::Spread(time),
                Step::Stall(time) => sending = Sending::Nothing(time),
                Step::Reset => sending = Sending::Nothing(Duration::ZERO),
            }
        }
        let (code, mut headers, body) = made.unwrap_or_else(|| {
            let (code, body) = self.answer(number, asked);
            (code, Vec::new(), body)
        });
        let now = self.now.unwrap_or_else(OffsetDateTime::now_utc);
        add_header(&mut headers, "Date", &imf_fixdate(self.date.unwrap_or(now)));
        add_header(&mut headers, "Content-Type", "application/json");

        let arriving = self.arrivals_per_request.min(self.arrivals_left);
        if arriving > 0 {
            self.arrivals_left -= arriving;
            let first = FIRST_ARRIVAL + ((number as u64) << 20);
            self.insert(
                (first..)
                    .take(arriving)
                    .map(|n| Event::new(n, seconds(now))),
            );
        }
        Reply {
            code,
            headers,
            body,
            sending,
            delay: self.delay,
            gzip: self.gzip && asked.header("accept-encoding").contains("gzip"),
        }
    }

    /// The world's own answer: its status and its body.
    fn answer(&self, number: usize, asked: &Asked) -> (u16, String) {
        let error = |code, title| (code, error_body(code, title));
        if asked.method != "GET" || asked.path != PATH {
            return error(404, "not found");
        }
        if asked.header("authorization") != format!("Bearer {}", self.token) {
            return error(401, "unauthorized");
        }
        let since = asked.since.as_deref().map(|text| {
            let time = OffsetDateTime::parse(text, &Rfc3339).ok();
            time.filter(|&time| stamp(time) == text) // only the documented form
        });
        if since == Some(None) {
            return error(400, "invalid since");
        }
        let listed = self.listing(number, since.flatten());

        let wanted = asked.page_size.filter(|&size| size > 0).unwrap_or(1000);
        let size = match self.sizes {
            Sizes::Honoured => wanted,
            Sizes::Clamped(most) => wanted.min(most),
            Sizes::Ignored(always) => always,
        };
        let page = asked.page_number.unwrap_or(1).max(1);
        let shown = match self.next {
            Next::Endless => 1,
            Next::True | Next::Same => page,
        };
        let start = (shown - 1).saturating_mul(size).min(listed.len());
        let range = start..start.saturating_add(size).min(listed.len());
        if range.is_empty()
            && page > 1
            && let PastEnd::Status(code) = self.past_end
        {
            return error(code, "not found");
        }
        let total = match self.counts {
            Counts::Absent => None,
            Counts::True => Some(listed.len()),
            Counts::Lag(missing) => Some(listed.len().saturating_sub(missing)),
            Counts::Plus(more) => Some(listed.len() + more),
            Counts::IgnoreSince => Some(self.listing(number, None).len()),
        };
        let last = match (self.counts, total) {
            (Counts::Lag(_), Some(total)) => total.div_ceil(size),
            _ => listed.len().div_ceil(size),
        };
        let next = match self.next {
            Next::True => (page < last).then_some(page + 1),
            Next::Same => Some(page),
            Next::Endless => Some(page + 1),
        };
        let previous = (page > 1).then(|| page - 1);
        let mut pagination =
            json!({"current_page": page, "prev_page": previous, "next_page": next});
        if self.page_size_field {
            pagination["page_size"] = size.into();
        }
        if let Some(total) = total {
            pagination["total_pages"] = total.div_ceil(size).into();
            pagination["total_count"] = total.into();
        }
        let data = self.page(number, listed, range).join(",");
        let body = format!(r#"{{"data":[{data}],"pagination":{pagination}}}"#);
        (200, if self.pretty { indented(&body) } else { body })
    }

    /// The events that the `number`th request may see, in order; shuffled ties still unshuffled.
    fn listing(&self, number: usize, since: Option<OffsetDateTime>) -> Vec<&Event> {
        let all = &self.events;
        let first = match (self.since, since) {
            (Since::Inclusive, Some(since)) => all.partition_point(|event| event.time < since),
            (Since::Exclusive, Some(since)) => all.partition_point(|event| event.time <= since),
            (Since::Ignored, _) | (_, None) => 0,
        };
        let shown = |event: &&Event| event.visible_from.is_none_or(|from| from <= number);
        let visible = all[first..].iter().filter(shown);
        match self.order {
            Order::NewestFirst => visible.rev().collect(),
            Order::OldestFirst => visible.collect(),
        }
    }

    /// The texts of the events at `range`. Ties that reach over the page's edge are shuffled as a
    /// whole, so that it shows a random part of them; ties elsewhere need not be.
    fn page<'a>(
        &self,
        number: usize,
        mut listed: Vec<&'a Event>,
        range: Range<usize>,
    ) -> Vec<&'a str> {
        if let (Ties::Shuffled, false) = (self.ties, range.is_empty()) {
            let (newest, oldest) = (listed[range.start].time, listed[range.end - 1].time);
            let before = listed[..range.start].iter().rev();
            let after = listed[range.end..].iter();
            let start = range.start - before.take_while(|event| event.time == newest).count();
            let end = range.end + after.take_while(|event| event.time == oldest).count();
            let mut chance = mix(self.seed ^ mix(number as u64));
            for tie in listed[start..end].chunk_by_mut(|a, b| a.time == b.time) {
                for unplaced in (2..=tie.len()).rev() {
                    chance = mix(chance);
                    let pick = usize::try_from(chance >> 33).expect("31 bits") % unplaced;
                    tie.swap(unplaced - 1, pick);
                }
            }
        }
        let page = &listed[range];
        page.iter().map(|event| event.text.as_str()).collect()
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which connection it came on, counted from 1.
    pub connection: usize,
    /// When its head was complete, from the start of the stand-in.
    pub at: Duration,
    pub method: String,
    pub path: String,
    /// The query as sent, percent-encoding and all; empty where there is none.
    pub query: String,
    /// The decoded `since`.
    pub since: Option<String>,
    /// `page[number]`, where it is a number.
    pub page_number: Option<usize>,
    /// `page[size]`, where it is a number.
    pub page_size: Option<usize>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Asked {
    /// The value of the header `name` (in lower case), empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Reads one request's head, or `None` where the client is done. Bodies are not expected.
    fn read(reader: &mut impl BufRead, connection: usize, began: Instant) -> Option<Self> {
        let mut lines = reader.lines().map_while(Result::ok);
        let first = lines.next()?;
        let mut headers = BTreeMap::new();
        loop {
            let line = lines.next()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let parameters: BTreeMap<String, String> = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let number = |name| parameters.get(name)?.parse().ok();
        Some(Self {
            connection,
            at: began.elapsed(),
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            since: parameters.get("since").cloned(),
            page_number: number("page[number]"),
            page_size: number("page[size]"),
            headers,
        })
    }
}

/// How much of an answer is sent. After all but the first two the connection closes.
#[derive(Default)]
enum Sending {
    #[default]
    Whole,
    /// This message, rendered before.
    Rendered(Arc<[u8]>),
    Half,
    Spread(Duration),
    Nothing(Duration),
}

/// An answer and how it is to be sent.
#[derive(Default)]
struct Reply {
    code: u16,
    headers: Vec<(String, String)>,
    body: String,
    sending: Sending,
    delay: Duration,
    gzip: bool,
}

impl Reply {
    /// The answer's bytes up to the body, and the body.
    fn parts(&self) -> (String, Vec<u8>) {
        let (mut headers, mut body) = (self.headers.clone(), self.body.as_bytes().to_vec());
        if self.gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
            body = compressed.expect("writing to memory cannot fail");
            add_header(&mut headers, "Content-Encoding", "gzip");
        }
        add_header(&mut headers, "Content-Length", &body.len().to_string());
        let mut head = format!("HTTP/1.1 {} Stand-in\r\n", self.code);
        for (name, value) in &headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        (head + "\r\n", body)
    }

    /// Sends it; gives whether the connection can serve another request.
    fn send(self, mut stream: &TcpStream, shared: &Shared) -> io::Result<bool> {
        shared.wait(self.delay);
        let (head, body) = self.parts();
        let mut message = head.into_bytes();
        match self.sending {
            Sending::Rendered(message) => {
                stream.write_all(&message)?;
                return Ok(true);
            }
            Sending::Whole => {
                message.extend(body);
                stream.write_all(&message)?;
                return Ok(true);
            }
            Sending::Half => {
                message.extend(&body[..body.len() / 2]);
                stream.write_all(&message)?;
            }
            Sending::Spread(time) => {
                stream.write_all(&message)?;
                for piece in body.chunks(body.len().div_ceil(20).max(1)) {
                    shared.wait(time / 20);
                    stream.write_all(piece)?;
                }
            }
            Sending::Nothing(time) => shared.wait(time),
        }
        Ok(false)
    }
}

/// What the threads share.
struct Shared {
    began: Instant,
    state: Mutex<State>,
    stopped: Condvar,
}

/// What an answer of an unchanging world depends on: page number, page size, `since`, and whether it is
/// compressed.
type Place = (Option<usize>, Option<usize>, Option<String>, bool);

/// What changes while the stand-in runs.
struct State {
    world: World,
    asked: Vec<Asked>,
    /// How many requests came, also those that were cleared from `asked`.
    count: usize,
    /// The answers that were rendered, if the world is frozen.
    frozen: Option<BTreeMap<Place, Arc<[u8]>>>,
    /// The open connections, to be shut when the stand-in stops.
    open: BTreeMap<usize, TcpStream>,
    stopping: bool,
}

impl State {
    /// What becomes of the latest request.
    fn respond(&mut self, asked: &Asked) -> Reply {
        let (world, count) = (&mut self.world, self.count);
        let Some(rendered) = &mut self.frozen else {
            return world.respond(count, asked);
        };
        let gzip = world.gzip && asked.header("accept-encoding").contains("gzip");
        let (number, size) = (asked.page_number, asked.page_size);
        let place = (number, size, asked.since.clone(), gzip);
        let message = rendered.entry(place).or_insert_with(|| {
            let (head, body) = world.respond(count, asked).parts();
            [head.into_bytes(), body].concat().into()
        });
        Reply {
            sending: Sending::Rendered(Arc::clone(message)),
            delay: world.delay,
            ..Reply::default()
        }
    }
}

impl Shared {
    /// The state, also after a test failed while it had it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits this long, or until the stand-in stops.
    fn wait(&self, time: Duration) {
        if !time.is_zero() {
            let running = |state: &mut State| !state.stopping;
            let _ = self.stopped.wait_timeout_while(self.lock(), time, running);
        }
    }

    /// Accepts connections until the stand-in stops, and returns when all of them are done.
    fn listen(&self, listener: &TcpListener) {
        thread::scope(|scope| {
            for (stream, connection) in listener.incoming().zip(1..) {
                let mut state = self.lock();
                if state.stopping {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let twin = stream.try_clone().expect("a socket can be cloned");
                state.open.insert(connection, twin);
                scope.spawn(move || {
                    let _ = self.converse(&stream, connection); // the client may go at any time
                    let _ = stream.shutdown(Shutdown::Both); // its twin would keep it open
                    self.lock().open.remove(&connection);
                });
            }
        });
    }

    /// Answers one connection's requests.
    fn converse(&self, stream: &TcpStream, connection: usize) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(asked) = Asked::read(&mut reader, connection, self.began) {
            let reply = {
                let state = &mut *self.lock();
                state.count += 1;
                state.asked.push(asked.clone());
                state.respond(&asked)
            };
            let more = reply.send(stream, self)?;
            if !more || asked.method != "GET" || asked.header("connection") == "close" {
                break;
            }
        }
        Ok(())
    }
}

/// The running server. Dropping it ends its threads, and panics if a scripted step was not
/// reached: a test that did not get there has shown nothing.
pub struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Serves `world` on a free port of the loopback address.
    pub fn start(world: World) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            began: Instant::now(),
            state: Mutex::new(State {
                world,
                asked: Vec::new(),
                count: 0,
                frozen: None,
                open: BTreeMap::new(),
                stopping: false,
            }),
            stopped: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let listening = Some(thread::spawn(move || theirs.listen(&listener)));
        Self {
            address,
            shared,
            listening,
        }
    }

    /// What to give as the endpoint: scheme, address and port, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has nothing change any more, every request taken for a proper one: each answer is rendered
    /// once, kept, and sent in one write, so that a bench does not measure the stand-in.
    pub fn freeze(&self) {
        self.shared.lock().frozen = Some(BTreeMap::new());
    }

    /// The requests so far, or since [`StandIn::clear_requests`], in the order of their numbers.
    pub fn requests(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// Forgets the requests so far. Their numbers stay used: scripts count from the start.
    pub fn clear_requests(&self) {
        self.shared.lock().asked.clear();
    }

    /// How many requests have come since the start: the number of the latest.
    pub fn count(&self) -> usize {
        self.shared.lock().count
    }

    /// Looks at the world or changes it, between two requests.
    pub fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.shared.lock().world)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        for stream in state.open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.stopped.notify_all();
        let _ = TcpStream::connect(self.address); // wakes the listener
        let ended = self.listening.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the stand-in panicked");
            let state = self.shared.lock();
            let (left, count) = (&state.world.script, state.count);
            assert!(left.is_empty(), "after {count} requests, unused: {left:?}");
        }
    }
}

/// The API's error body, in which the status is a string.
fn error_body(code: u16, title: &str) -> String {
    format!(r#"{{"errors":[{{"status":"{code}","title":"{title}"}}]}}"#)
}

/// Adds a header unless a step gave one of that name.
fn add_header(headers: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !headers
        .iter()
        .any(|(given, _)| given.eq_ignore_ascii_case(name))
    {
        headers.push((name.to_owned(), value.to_owned()));
    }
}

/// A query's name or value without its encoding.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let hex = piece
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(hex.unwrap_or(b'%'));
        bytes.extend(&piece.as_bytes()[if hex.is_some() { 2 } else { 0 }..]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Compact JSON with line breaks and indentation, every value's own bytes untouched.
fn indented(json: &str) -> String {
    let (mut out, mut depth, mut quoted, mut escaped) = (String::new(), 0, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    for character in json.chars() {
        if !quoted && matches!(character, '}' | ']') {
            depth -= 1;
            line(&mut out, depth);
        }
        out.push(character);
        match character {
            '"' if !escaped => quoted = !quoted,
            '{' | '[' if !quoted => {
                depth += 1;
                line(&mut out, depth);
            }
            ',' if !quoted => line(&mut out, depth),
            ':' if !quoted => out.push(' '),
            _ => {}
        }
        escaped = character == '\\' && !escaped;
    }
    out
}

/// The documented form of a time: UTC, `2026-01-02T03:04:05.000Z`.
pub fn stamp(time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    let (date, (hour, minute, second)) = (time.date(), time.to_hms());
    let millisecond = time.millisecond();
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// The form of a `Date` header: `Fri, 02 Jan 2026 03:04:05 GMT`.
fn imf_fixdate(time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    let (weekday, month) = (time.weekday().to_string(), time.month().to_string());
    let (day, year, (hour, minute, second)) = (time.day(), time.year(), time.to_hms());
    format!("{weekday:.3}, {day:02} {month:.3} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// `time` without what is finer than a millisecond.
fn milliseconds(time: OffsetDateTime) -> OffsetDateTime {
    let whole = time.replace_millisecond(time.millisecond());
    whole.expect("a time's own millisecond is in range")
}

/// `time` without what is finer than a second.
fn seconds(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_millisecond(0).expect("0 is in range")
}

/// `SplitMix64`: numbers that look random, each of its own input.
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The UUID of `n`, in the form of a random one.
fn uuid(n: u64) -> String {
    let (high, low) = (mix(n), mix(mix(n)));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 50),
        low & 0xffff_ffff_ffff,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn made_events_are_what_they_say() {
        let newest = OffsetDateTime::UNIX_EPOCH + Duration::from_millis(5_999);
        for event in [events(3, newest, 2), sample_events(newest)].concat() {
            assert_eq!(Event::from_json(&event.text), event);
            let broken = indented(&event.text);
            assert!(broken.lines().count() > 10);
            assert_eq!(Event::from_json(&broken).id, event.id);
        }
    }

    #[test]
    fn a_walk_loses_events_where_shuffled_ties_reach_over_an_edge() {
        let world = World {
            ties: Ties::Shuffled,
            ..World::new(events(90, OffsetDateTime::UNIX_EPOCH, 30))
        };
        let listed = |number| world.listing(number, None);
        let walk = |size: usize| -> Vec<&str> {
            let pages = (1..).zip((0..90).step_by(size));
            let page = |(number, at)| world.page(number, listed(number), at..at + size);
            pages.flat_map(page).collect()
        };
        let distinct = |texts: Vec<&str>| texts.into_iter().collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(walk(30)), 90, "ties within pages");
        assert!(distinct(walk(45)) < 90, "a tie over an edge");
    }
}
