//! What holds for any bytes whatever, said once for the fuzz targets (`tests/fuzz`) and for the
//! plain test of what they found (`tests/it/fuzz.rs`).
//!
//! Each check takes an input, panics if the program does with it what it must not, and gives
//! whether the program accepts it. The measure is a second reading that shares no code with the
//! first beyond `serde_json`'s and `time`'s own, and is slower and plainer.

#![allow(dead_code, reason = "each fuzz target uses one of the checks")]

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcDateTime};

use tfc_audit::checkpoint::Checkpoint;
use tfc_audit::event::EventId;
use tfc_audit::format::normalize::normalize;
use tfc_audit::format::verdict::{Answer, Fate, Taken};
use tfc_audit::format::{FORMATS, Format};
use tfc_audit::retry::named_wait;
use tfc_audit::source::page;
use tfc_audit::time as timestamp;

#[path = "checks/answers.rs"]
mod answers;

pub use answers::answer;

/// A check, by the name of its target and of its folder in `fixtures/fuzz`.
pub type Check = fn(&[u8]) -> bool;

/// All of them.
pub const CHECKS: [(&str, Check); 5] = [
    ("page", page),
    ("checkpoint", checkpoint),
    ("normalize", normalization),
    ("timestamp", times),
    ("answer", answer),
];

/// The service that the checkpoints of the corpus belong to.
const ENDPOINT: &str = "https://app.terraform.io";

/// A page's body is accepted exactly if it has the documented shape; then each event has its own
/// bytes and the right `id` and time, and every body cut short is known as such.
pub fn page(body: &[u8]) -> bool {
    let documented = std::str::from_utf8(body).ok().and_then(documented_page);
    let page = match (page::parse(body.to_vec()), documented) {
        (Err(_), None) => return false,
        (Ok(page), Some(documented)) => {
            assert_eq!(page.events.len(), documented.events.len());
            for (event, (json, head)) in page.events.iter().zip(&documented.events) {
                assert_eq!(event.json(), *json);
                assert_eq!(event.fault.is_none(), head.is_some(), "{event:?}");
                if let Some((id, time)) = head {
                    assert_eq!((&event.id, event.time), (&EventId::new(id), *time));
                }
                let line = event.line();
                assert!(!line.contains(['\n', '\r']), "{line:?}");
                assert!(is_json(&line), "{line:?}");
                assert_eq!(value(&line), value(json));
                if !json.contains(['\n', '\r']) {
                    assert_eq!(line, *json);
                }
            }
            let counts = [page.next, page.total_pages, page.total_count];
            assert_eq!(counts, documented.counts);
            page
        }
        (Ok(page), None) => panic!("accepted, but is no page: {page:?}"),
        // Without any time that can be read, an event has no place.
        (Err(_), Some(documented)) if !documented.is_readable() => return false,
        (Err(malformed), Some(_)) => panic!("is a page, but refused: {malformed:?}"),
    };
    if page.events.iter().any(|event| event.fault.is_some()) {
        return false;
    }
    if let Ok(Value::Object(all)) = serde_json::from_slice::<Value>(body) {
        let events: Vec<_> = page
            .events
            .iter()
            .map(|event| value(event.json()))
            .collect();
        let expected = all["data"].as_array().expect("it is a list").iter();
        assert_eq!(events, expected.cloned().map(Some).collect::<Vec<_>>());
    }
    for cut in cuts(body.trim_ascii_end()) {
        let malformed = page::parse(cut.to_vec()).expect_err("half a page is none");
        // `1.` and the like are an invalid number to serde_json, at the end of the text as well.
        let within_number = cut.ends_with(b".") || cut.ends_with(b"-") || cut.ends_with(b"+");
        let within_number = within_number || cut.to_ascii_lowercase().ends_with(b"e");
        assert!(malformed.is_retryable || within_number, "{malformed:?}");
    }
    true
}

/// A page as its documentation has it: read member by member.
struct DocumentedPage<'a> {
    /// Each event's JSON, and its `id` and time if both can be read.
    events: Vec<(&'a str, Option<(String, UtcDateTime)>)>,
    /// `next_page`, `total_pages`, `total_count`.
    counts: [Option<u64>; 3],
}

impl DocumentedPage<'_> {
    fn is_readable(&self) -> bool {
        self.events.iter().all(|(_, head)| head.is_some())
    }
}

fn documented_page(body: &str) -> Option<DocumentedPage<'_>> {
    let body = Members::of(body)?;
    let events: Vec<&RawValue> = serde_json::from_str(body.only("data")?).ok()?;
    // Bounds that are ours.
    let others = body.0.iter().filter(|(name, _)| name != "data");
    if events.len() > 10_000
        || events.iter().any(|event| depth(event.get()) > 128)
        || others
            .into_iter()
            .any(|(_, value)| depth(value.get()) > 127)
    {
        return None;
    }
    let event = |json: &&'_ RawValue| {
        let event = Members::of(json.get())?;
        let text = |name| serde_json::from_str::<String>(event.only(name)?).ok();
        let id = text("id").filter(|id| (1..=512).contains(&id.len()))?;
        Some((id, documented_time(&text("timestamp")?)?))
    };
    let heads: Vec<_> = events.iter().map(event).collect();
    let pagination = Members::of(body.only("pagination")?)?;
    let count = |name| match pagination.at_most_one(name) {
        Err(()) => None,
        Ok(None) => Some(None),
        Ok(Some(json)) => serde_json::from_str::<Option<u64>>(json).ok(),
    };
    // Whatever it says, it has to be a number.
    count("page_size")?;
    let counts = [
        count("next_page")?,
        count("total_pages")?,
        count("total_count")?,
    ];
    let events = events.iter().zip(heads);
    let events = events.map(|(json, head)| (json.get(), head));
    Some(DocumentedPage {
        events: events.collect(),
        counts,
    })
}

/// How many arrays and objects of valid JSON lie in each other at most.
fn depth(json: &str) -> usize {
    let (mut open, mut deepest, mut rest) = (0, 0, json);
    while let Some(place) = rest.find(['"', '[', '{', ']', '}']) {
        let (mark, after) = (rest.as_bytes()[place], &rest[place + 1..]);
        rest = after;
        match mark {
            b'"' => {
                let mut strings =
                    serde_json::Deserializer::from_str(&json[json.len() - after.len() - 1..])
                        .into_iter::<&RawValue>();
                let string = strings
                    .next()
                    .and_then(Result::ok)
                    .map_or(1, |string| string.get().len());
                rest = &after[string - 1..];
            }
            b'[' | b'{' => open += 1,
            _ => open -= 1,
        }
        deepest = deepest.max(open);
    }
    deepest
}

fn documented_time(text: &str) -> Option<UtcDateTime> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let time = time.checked_to_utc()?;
    (time.year() >= 0).then_some(time)
}

/// What is read as a checkpoint is an object, is written as the same again, and is refused if it is
/// cut anywhere.
pub fn checkpoint(json: &[u8]) -> bool {
    let Ok(read) = Checkpoint::parse(json, ENDPOINT) else {
        return false;
    };
    let text = std::str::from_utf8(json).expect("what is no UTF-8 is refused");
    assert!(Members::of(text).is_some(), "it is no object");
    let written = read.to_json();
    let again = Checkpoint::parse(&written, ENDPOINT).expect("what was written can be read");
    assert_eq!(again, read);
    assert_eq!(again.to_json(), written);
    assert_eq!(again.known().is_empty(), read.last_timestamp.is_none());
    for cut in cuts(written.trim_ascii_end()) {
        assert!(Checkpoint::parse(cut, ENDPOINT).is_err(), "a cut one");
    }
    true
}

/// A normalised event is JSON, is the same when it is normalised again, and differs from what it was
/// in the documented fields only. Accepted is what it changes.
pub fn normalization(json: &[u8]) -> bool {
    let Ok(json) = std::str::from_utf8(json) else {
        return false;
    };
    let json = json.trim_ascii();
    let normalized = normalize(json);
    let changed = normalized != json;
    if !is_json(json) {
        return false;
    }
    assert!(is_json(&normalized), "{normalized}");
    assert_eq!(normalize(&normalized), normalized, "a second time");
    // Where the second reading has limits of its own, or one name stands twice, nothing is known.
    if let Some(expected) = documented_event(json).ok().flatten() {
        assert_eq!(value(&normalized), Some(expected));
    }
    changed
}

/// An event's value as it should be after normalisation. An error if a name that matters stands
/// there twice.
fn documented_event(json: &str) -> Result<Option<Value>, ()> {
    let (Some(mut all), Some(event)) = (value(json), Members::of(json)) else {
        return Ok(value(json));
    };
    if let Some(version) = event.at_most_one("version")? {
        all["version"] = as_string(version);
    }
    let meta = match event.object("resource")? {
        Some(resource) => resource.object("meta")?,
        None => None,
    };
    if let Some(meta) = meta {
        as_object(&mut all["resource"]["meta"], &meta)?;
        if let Some(payload) = meta.object("payload")? {
            as_object(&mut all["resource"]["meta"]["payload"], &payload)?;
        }
    }
    Ok(Some(all))
}

/// A value as a string: its own JSON, unless it is one or null.
fn as_string(json: &str) -> Value {
    match value(json) {
        Some(same @ (Value::String(_) | Value::Null)) => same,
        _ => json.into(),
    }
}

/// `workspace` becomes an object.
fn as_object(meta: &mut Value, members: &Members) -> Result<(), ()> {
    let id = members.at_most_one("workspace_id")?.and_then(value);
    if let Some(workspace) = members.at_most_one("workspace")?
        && !matches!(value(workspace), Some(Value::Object(_) | Value::Null))
    {
        let id = id.filter(Value::is_string);
        meta["workspace"] = serde_json::json!({"id": id, "name": as_string(workspace)});
    }
    Ok(())
}

/// Times, spans, HTTP dates and waits: what is read is written as the same again, agrees with a
/// second reading, and can be reckoned with. Accepted is what is any of them.
pub fn times(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let time = timestamp::parse(text);
    assert_eq!(time, documented_time(text));
    let date = timestamp::parse_http_date(text);
    for time in [time, date].into_iter().flatten() {
        let written = timestamp::format(time);
        assert_eq!(timestamp::parse(&written), Some(time), "{written}");
        assert!(written.len() >= 24 && written.ends_with('Z'), "{written}");
        assert_eq!(&written[4..5], "-", "{written}");
        let second = timestamp::floor_second(time);
        assert!(second <= time && time - second < Duration::from_secs(1));
        for span in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
            let before = timestamp::before(time, span);
            assert!(before <= time);
            assert_eq!(timestamp::parse(&timestamp::format(before)), Some(before));
        }
    }
    let span = timestamp::parse_span(text);
    assert_eq!(
        span.as_ref().ok().map(Duration::as_secs),
        documented_span(text)
    );
    let wait = named_wait(|_| Some(text));
    if let (Some(wait), Ok(seconds)) = (wait, text.parse::<u64>()) {
        // A number beyond 2^53 is rounded, which does not matter to a wait.
        assert!(wait.as_secs() == seconds || seconds > 1 << 53, "{wait:?}");
    }
    time.is_some() || date.is_some() || span.is_ok() || wait.is_some()
}

fn documented_span(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let number = &text[..text.len() - unit.len_utf8()];
    let each = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];
    let (_, each) = each.into_iter().find(|(name, _)| *name == unit)?;
    let mut seconds: u64 = if number.is_empty() { return None } else { 0 };
    for digit in number.chars() {
        seconds = seconds.checked_mul(10)?;
        seconds = seconds.checked_add(u64::from(digit.to_digit(10)?))?;
    }
    seconds.checked_mul(each)
}

/// The beginnings of a text that is not empty, or of a long one some of them.
fn cuts(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = text.len() / 64 + 1;
    (0..text.len()).step_by(step).map(|end| &text[..end])
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A text's value. Deep nesting, large exponents and halves of surrogate pairs are JSON, but are
/// too much for this.
fn value(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// An object's members in their order, names that stand there twice included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// `None` for anything but an object.
    fn of(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The value of a name that stands there once.
    fn only(&self, name: &str) -> Option<&'a str> {
        self.at_most_one(name).ok()?
    }

    /// The value of a name that may be missing; an error if it stands there twice.
    fn at_most_one(&self, name: &str) -> Result<Option<&'a str>, ()> {
        let mut values = self.0.iter().filter(|(given, _)| given == name);
        let value = values.next().map(|(_, value)| value.get());
        if values.next().is_some() {
            return Err(());
        }
        Ok(value)
    }

    /// As [`Members::at_most_one`], if it is an object.
    fn object(&self, name: &str) -> Result<Option<Self>, ()> {
        Ok(self.at_most_one(name)?.and_then(Self::of))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}
