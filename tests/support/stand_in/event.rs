//! The invented events, and the forms of their ids and times.

use std::time::Duration;

use time::{UtcDateTime, format_description::well_known::Rfc3339};

/// A `meta` with strings that a careless parser changes.
const ESCAPED: &str = r#"{"workspace":"caf\u00e9 \"prod\"","workspace_id":"ws-GGGGGGGGGGGGGGGG","run_id":"run-HHHHHHHHHHHHHHHH","run_message":"Triggered\tvia\nUI","comment":"café 🔒 }],{","task_result_url":"https:\/\/scan.example.invalid\/1"}"#;

/// A `meta` with numbers and an order of keys that a careless parser changes.
const NUMBERS: &str = r#"{"workspace":{"name":"networking-prod","id":"ws-GGGGGGGGGGGGGGGG"},"run":{"message":"m","id":"run-HHHHHHHHHHHHHHHH"},"passed":3,"serial":9007199254740993,"digest":123456789012345678901234567890,"score":1.10,"ratio":1.0E+2,"result":[]}"#;

/// One audit event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The `id` of the text.
    pub id: String,
    /// The `timestamp` of the text.
    pub time: UtcDateTime,
    /// The event's JSON, which has to arrive byte for byte.
    pub text: String,
}

impl Event {
    /// The `n`th invented event, at `time` cut to milliseconds. Its id depends only on `n`. Two of
    /// three events hold text that a careless parser changes: escapes, trailing zeros, unsorted
    /// keys, numbers beyond 2^53.
    pub fn new(n: u64, time: UtcDateTime) -> Self {
        let time = milliseconds(time);
        let (id, request, resource) = (uuid(n), uuid(!n), mix(n));
        let kinds = ["team", "task_result", "policy_check"];
        let metas = ["null", ESCAPED, NUMBERS];
        let kind = usize::try_from(n % 3).expect("below 3");
        let (kind, meta, stamp) = (kinds[kind], metas[kind], stamp(time));
        let text = format!(
            r#"{{"id":"{id}","version":"0","type":"Resource","timestamp":"{stamp}","auth":{{"accessor_id":"user-AAAAAAAAAAAAAAAA","description":"alice","type":"Client","impersonator_id":null,"organization_id":"org-BBBBBBBBBBBBBBBB"}},"request":{{"id":"{request}"}},"resource":{{"id":"at-{resource:016x}","type":"{kind}","action":"create","meta":{meta}}}}}"#,
        );
        Self { id, time, text }
    }

    /// Reads an event. Panics unless it has an `id` and an RFC 3339 `timestamp`.
    pub fn from_json(text: &str) -> Self {
        let value: serde_json::Value = serde_json::from_str(text).expect("an event is JSON");
        let field = |name: &str| value[name].as_str().expect("an event has id and timestamp");
        Self {
            id: field("id").to_owned(),
            time: UtcDateTime::parse(field("timestamp"), &Rfc3339).expect("an RFC 3339 time"),
            text: text.to_owned(),
        }
    }
}

/// Makes `count` events, numbered from 1 and oldest first: `per_second` in each second, up to the
/// second of `newest`.
pub fn events(count: usize, newest: UtcDateTime, per_second: u32) -> Vec<Event> {
    events_from(1, count, newest, per_second)
}

/// As [`events`], numbered from `first`, for worlds of several such sets.
pub fn events_from(first: u64, count: usize, newest: UtcDateTime, per_second: u32) -> Vec<Event> {
    let newest = seconds(newest);
    (0..count as u64)
        .map(|index| {
            let age = (count as u64 - 1 - index) / u64::from(per_second);
            Event::new(first + index, newest - Duration::from_secs(age))
        })
        .collect()
}

/// The events of `fixtures/events.ndjson`, moved in time so that the newest is at `newest`. Only
/// the timestamps differ from the file.
pub fn sample_events(newest: UtcDateTime) -> Vec<Event> {
    let mut events = parsed(include_str!("../../../fixtures/events.ndjson"));
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

/// The documented form of a time: UTC, `2026-01-02T03:04:05.000Z`.
pub fn stamp(time: UtcDateTime) -> String {
    let (date, (hour, minute, second)) = (time.date(), time.as_hms());
    let millisecond = time.millisecond();
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// `time`, cut to milliseconds.
fn milliseconds(time: UtcDateTime) -> UtcDateTime {
    let whole = time.replace_millisecond(time.millisecond());
    whole.expect("a time's own millisecond is in range")
}

/// `time`, cut to seconds.
pub(super) fn seconds(time: UtcDateTime) -> UtcDateTime {
    time.replace_millisecond(0).expect("0 is in range")
}

/// `SplitMix64`: a number that looks random, from `number` alone.
pub(super) fn mix(number: u64) -> u64 {
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
