//! A stand-in for HCP Terraform's Audit Trails API, for tests, the demo and benches.
//!
//! A [`StandIn`] serves a [`World`]: the events, and the behaviour where the documentation leaves it
//! open or a network fails. It speaks HTTP over plain sockets, so that it can cut an answer short or
//! spread it over time. Random numbers depend only on a seed and the number of the request, so that
//! a failure can be repeated.

#![allow(dead_code, reason = "each test target that includes this uses a part")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde_json::json;
use time::{UtcDateTime, format_description::well_known::Rfc3339};

pub use event::*;
pub use server::{Asked, StandIn};
use server::{Reply, Sending};

#[path = "stand_in/event.rs"]
mod event;
#[path = "stand_in/server.rs"]
mod server;

/// The only path with an answer.
pub const PATH: &str = "/api/v2/organization/audit-trail";

/// The documented answer where there is nothing to list.
const EMPTY: &str = r#"{"data":[],"pagination":{"current_page":1,"page_size":1000,"prev_page":null,"next_page":null,"total_pages":0,"total_count":0}}"#;

/// Arrivals are numbered from here, far above the events that tests make.
const FIRST_ARRIVAL: u64 = 1 << 40;

/// The effect of `page[size]`. Without it a page has 1000 events, or the limit.
#[derive(Clone, Copy, Debug, Default)]
pub enum Sizes {
    #[default]
    Honoured,
    /// Always this many events.
    Ignored(usize),
    /// At most this many events, but `page_size` repeats what was asked for.
    Clamped(usize),
}

/// The answer to a page number past the end. Page 1 always has an answer.
#[derive(Clone, Copy, Debug, Default)]
pub enum PastEnd {
    /// 200 without events, with the counts of every page.
    #[default]
    Empty,
    /// This status.
    Status(u16),
}

/// The `total_count`, and the `total_pages` that follow from it.
#[derive(Clone, Copy, Debug, Default)]
pub enum Counts {
    #[default]
    True,
    /// Both fields are missing.
    Absent,
    /// This many too many. `next_page` is right.
    Plus(usize),
    /// All events, also where `since` was sent. `next_page` is right.
    IgnoreSince,
    /// `total_count` is missing.
    OnlyPages,
    /// One too many in every second answer.
    Wobbling,
}

/// The order of events with one timestamp.
#[derive(Clone, Copy, Debug, Default)]
pub enum Ties {
    /// The order of insertion.
    #[default]
    Stable,
    /// Another random order at each request.
    Shuffled,
}

/// The order of the list, by timestamp.
#[derive(Clone, Copy, Debug, Default)]
pub enum Order {
    #[default]
    NewestFirst,
    OldestFirst,
}

/// The value of `next_page`.
#[derive(Clone, Copy, Debug, Default)]
pub enum Next {
    #[default]
    True,
    /// The number of the page itself.
    Same,
    /// Always the next number. Each page has the events of page 1.
    Endless,
    /// The next number if the page is full, also on the last page.
    AfterFull,
    /// Null on every page.
    Never,
}

/// A scripted change at one request: of the world, of the answer, or of how it is sent. One request
/// may have several. Without a step that makes the answer, the world makes it.
#[derive(Clone, Debug)]
pub enum Step {
    /// This answer. A header given here replaces the usual one.
    Status {
        code: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// 200 with this body.
    Body(String),
    /// 200 with the documented answer of an empty list.
    EmptyPage,
    /// These events are inserted just before the answer.
    Insert(Vec<Event>),
    /// Retention removes this many of the oldest events just before the answer.
    RemoveOldest(usize),
    /// From this answer on, events of one timestamp are listed in the reverse order.
    SwapTies,
    /// The head and the first half of the body are sent, then the connection closes.
    Truncate,
    /// The body is sent in 20 pieces over this time, so that no single read waits long.
    Trickle(Duration),
    /// Nothing is sent for this time, then the connection closes.
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

    /// The documented 429, whose status is a number. `headers` name the wait.
    pub fn rate_limited(headers: &[(&str, &str)]) -> Self {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Self::Status {
            code: 429,
            headers: headers.iter().map(owned).collect(),
            body: r#"{"errors":[{"detail":"You have exceeded the API's rate limit.","status":429,"title":"Too many requests"}]}"#.to_owned(),
        }
    }
}

/// The events, and the behaviour of the API. [`World::new`] behaves well, and a test changes the
/// field that it is about: `World { ties: Ties::Shuffled, ..World::new(events) }`.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Oldest first, and with one timestamp the earlier inserted first. Only [`World::insert`] and
    /// [`World::remove_oldest`] change them.
    pub events: Vec<Event>,
    /// The only bearer token that is accepted.
    pub token: String,
    pub sizes: Sizes,
    pub past_end: PastEnd,
    pub counts: Counts,
    pub ties: Ties,
    pub order: Order,
    pub next: Next,
    /// Replicas answer in turn. Each does not list this many of the newest events yet.
    pub lags: Vec<usize>,
    /// Whether bodies are indented, with line breaks within events.
    pub pretty: bool,
    /// Whether bodies are compressed if the client accepts gzip.
    pub gzip: bool,
    /// How many events are inserted after each answer, at the second of `now`, so that they push
    /// every later page.
    pub arrivals_per_request: usize,
    /// How many of them may still be inserted.
    pub arrivals_left: usize,
    /// The server's clock; `None` is the real one.
    pub now: Option<UtcDateTime>,
    /// The `Date` header, if it differs from `now`.
    pub date: Option<UtcDateTime>,
    /// How many requests are answered in any second. Each answer names it as `x-ratelimit-limit`, and
    /// those beyond it are answered with 429.
    pub rate_limit: Option<u32>,
    /// How long each answer is delayed. Connections wait independently.
    pub delay: Duration,
    /// With the number of the request, this decides the order of shuffled ties.
    pub seed: u64,
    /// The steps of single requests, by number. See [`World::script`].
    pub script: BTreeMap<usize, Vec<Step>>,
    /// The step of each request from this number on, unless it has its own.
    pub always: Option<(usize, Step)>,
}

impl World {
    /// A world with these events that follows the documentation.
    pub fn new(mut events: Vec<Event>) -> Self {
        events.sort_by_key(|event| event.time);
        Self {
            events,
            token: "test-token".to_owned(),
            arrivals_left: usize::MAX,
            ..Self::default()
        }
    }

    /// Inserts events, each in the order of its time.
    pub fn insert(&mut self, events: impl IntoIterator<Item = Event>) {
        self.events.extend(events);
        self.events.sort_by_key(|event| event.time);
    }

    /// Removes the `count` oldest events, as retention does.
    pub fn remove_oldest(&mut self, count: usize) {
        self.events.drain(..count.min(self.events.len()));
    }

    /// Adds a step at a request. The first since the start has the number 1.
    pub fn script(&mut self, at_request: usize, step: Step) {
        self.script.entry(at_request).or_default().push(step);
    }

    /// All events in the order of delivery: oldest first, and with one
    /// timestamp in the reverse of the list's order. (Shuffled ties have no such order: compare sorted [`ids`]
    /// and the times.)
    pub fn in_order(&self) -> Vec<&Event> {
        let mut listed = self.listing(None);
        listed.reverse();
        listed.sort_by_key(|event| event.time);
        listed
    }

    /// The NDJSON that delivers all events, in the order of [`World::in_order`].
    pub fn expected(&self) -> String {
        let lines = self.in_order().into_iter();
        lines.fold(String::new(), |all, event| all + &event.text + "\n")
    }

    /// The reply to the `number`th request.
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
                Step::SwapTies => {
                    let ties = self.events.chunk_by_mut(|a, b| a.time == b.time);
                    ties.for_each(<[Event]>::reverse);
                }
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
        let now = self.now.unwrap_or_else(UtcDateTime::now);
        add_header(&mut headers, "Date", &imf_fixdate(self.date.unwrap_or(now)));
        add_header(&mut headers, "Content-Type", "application/json");
        if let Some(limit) = self.rate_limit {
            add_header(&mut headers, "x-ratelimit-limit", &limit.to_string());
        }

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

    /// The status and the body of an answer without a step.
    fn answer(&self, number: usize, asked: &Asked) -> (u16, String) {
        let error = |code, title| (code, error_body(code, title));
        if asked.method != "GET" || asked.path != PATH {
            return error(404, "not found");
        }
        if asked.header("authorization") != format!("Bearer {}", self.token) {
            return error(401, "unauthorized");
        }
        let since = asked.since.as_deref().map(|text| {
            let time = UtcDateTime::parse(text, &Rfc3339).ok();
            time.filter(|&time| stamp(time) == text) // only the documented form
        });
        if since == Some(None) {
            return error(400, "invalid since");
        }
        let mut listed = self.listing(since.flatten());
        if !self.lags.is_empty() {
            let lag = self.lags[(number - 1) % self.lags.len()];
            listed.drain(..lag.min(listed.len()));
        }

        let wanted = asked.page_size.filter(|&size| size > 0).unwrap_or(1000);
        let size = match self.sizes {
            Sizes::Honoured => wanted,
            Sizes::Ignored(always) => always,
            Sizes::Clamped(most) => wanted.min(most),
        };
        let page = asked.page_number.unwrap_or(1).max(1);
        let shown = match self.next {
            Next::Endless => 1,
            _ => page,
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
            Counts::True | Counts::OnlyPages => Some(listed.len()),
            Counts::Plus(more) => Some(listed.len() + more),
            Counts::IgnoreSince => Some(self.listing(None).len()),
            Counts::Wobbling => Some(listed.len() + number % 2),
        };
        let last = listed.len().div_ceil(size);
        let next = match self.next {
            Next::True => (page < last).then_some(page + 1),
            Next::Same => Some(page),
            Next::Endless => Some(page + 1),
            Next::AfterFull => (range.len() == size).then_some(page + 1),
            Next::Never => None,
        };
        let told = match self.sizes {
            Sizes::Clamped(_) => wanted,
            Sizes::Honoured | Sizes::Ignored(_) => size,
        };
        let previous = (page > 1).then(|| page - 1);
        let mut pagination = json!({"current_page": page, "page_size": told, "prev_page": previous, "next_page": next});
        if let Some(total) = total {
            pagination["total_pages"] = total.div_ceil(size).into();
            if !matches!(self.counts, Counts::OnlyPages) {
                pagination["total_count"] = total.into();
            }
        }
        let data = self.page(number, listed, range).join(",");
        let body = format!(r#"{{"data":[{data}],"pagination":{pagination}}}"#);
        (200, if self.pretty { indented(&body) } else { body })
    }

    /// The events that are listed, in order. Those at the time of `since` are not, as the documentation
    /// reads. Ties are not yet shuffled.
    fn listing(&self, since: Option<UtcDateTime>) -> Vec<&Event> {
        let all = &self.events;
        let first = since.map_or(0, |since| all.partition_point(|event| event.time <= since));
        let listed = all[first..].iter();
        match self.order {
            Order::NewestFirst => listed.rev().collect(),
            Order::OldestFirst => listed.collect(),
        }
    }

    /// The texts of the events at `range`. Ties across an edge of the page are shuffled as a whole,
    /// so that the page lists a random part of them. Other ties are not shuffled across pages.
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

/// The body of the API's errors, in which the status is a string.
fn error_body(code: u16, title: &str) -> String {
    format!(r#"{{"errors":[{{"status":"{code}","title":"{title}"}}]}}"#)
}

/// Adds a header, unless a step has one of that name.
fn add_header(headers: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !headers
        .iter()
        .any(|(given, _)| given.eq_ignore_ascii_case(name))
    {
        headers.push((name.to_owned(), value.to_owned()));
    }
}

/// Indents compact JSON. The bytes of each value stay.
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

/// The form of a `Date` header: `Fri, 02 Jan 2026 03:04:05 GMT`.
fn imf_fixdate(time: UtcDateTime) -> String {
    let (weekday, month) = (time.weekday().to_string(), time.month().to_string());
    let (day, year, (hour, minute, second)) = (time.day(), time.year(), time.as_hms());
    format!("{weekday:.3}, {day:02} {month:.3} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn made_events_have_the_id_and_time_of_their_text() {
        let newest = UtcDateTime::UNIX_EPOCH + Duration::from_millis(5_999);
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
            ..World::new(events(90, UtcDateTime::UNIX_EPOCH, 30))
        };
        let walk = |size: usize| -> Vec<&str> {
            let pages = (1..).zip((0..90).step_by(size));
            let page = |(number, at)| world.page(number, world.listing(None), at..at + size);
            pages.flat_map(page).collect()
        };
        let distinct = |texts: Vec<&str>| texts.into_iter().collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(walk(30)), 90, "ties within pages");
        assert!(distinct(walk(45)) < 90, "a tie over an edge");
    }
}
