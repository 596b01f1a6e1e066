//! One page of the audit trail, read from an answer's body.
//!
//! The documented shape is `{"data":[event, …],"pagination":{…}}`. Anything else is an error that
//! says what was found where, so that a changed API or a proxy's own page is recognised at once.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::time::OffsetDateTime;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::{Event, EventId, Text};
use crate::json::Object;
use crate::source::scan::{self, Found};
use crate::time;

/// A page as the API gave it.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The events in the API's order, which is newest first as far as is known.
    pub events: Vec<Event>,
    /// `next_page`: null on the last page.
    pub next: Option<u64>,
    /// `total_pages`, if the answer has it.
    pub total_pages: Option<u64>,
    /// `total_count`: how many events there are on all pages, if the answer has it.
    pub total_count: Option<u64>,
    /// `page_size`, if the answer has it: the size in effect, which may be less than was asked for.
    pub size: Option<u64>,
    /// The server's clock when it answered (the `Date` header).
    pub date: Option<OffsetDateTime>,
    /// How long the source asks to be left alone after this answer.
    pub pause: Option<Duration>,
    /// The length of the body, decompressed.
    pub bytes: u64,
}

/// Why a body is not a page. Neither text is fit to be shown as it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was wrong, and where.
    pub fault: String,
    /// The beginning of what was found there.
    pub found: String,
    /// The body just ends: a connection that broke without saying so, worth another try.
    pub truncated: bool,
}

impl Malformed {
    fn new(fault: String, found: &[u8]) -> Self {
        let found = String::from_utf8_lossy(&found[..found.len().min(LONGEST_FOUND)]).into_owned();
        Self {
            fault,
            found,
            truncated: false,
        }
    }
}

/// A `page_size` beyond this is not believed.
const LARGEST_PAGE: u64 = 1_000_000;

/// The most events of a page. 1,000 are asked for at most; a server that heeds no size may send
/// more, but a million tiny ones would only fill the memory.
pub(crate) const MOST_EVENTS: usize = 10_000;

/// The longest `id` in bytes. A UUID has 36, and Elasticsearch takes 512
/// (<https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/mapping-id-field>).
pub(crate) const LONGEST_ID: usize = 512;

/// How deep arrays and objects of an event may lie in each other: as deep as `serde_json` itself
/// would read them, and deeper than a receiver does.
const DEEPEST: usize = 128;

/// How many bytes of what was found are kept: more than a message shows.
const LONGEST_FOUND: usize = 2048;

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, deserialize_with = "events")]
    data: Vec<&'a RawValue>,
    pagination: Object<Pagination>,
}

#[derive(Deserialize)]
struct Pagination {
    #[serde(default)]
    next_page: Option<u64>,
    #[serde(default)]
    total_pages: Option<u64>,
    #[serde(default)]
    total_count: Option<u64>,
    #[serde(default)]
    page_size: Option<u64>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
}

/// Reads the events, and no more than a page may have.
fn events<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Vec<&'a RawValue>, D::Error> {
    struct Events;
    impl<'de> Visitor<'de> for Events {
        type Value = Vec<&'de RawValue>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            let mut events = Vec::new();
            while let Some(event) = sequence.next_element()? {
                if events.len() == MOST_EVENTS {
                    return Err(A::Error::custom(format!("more than {MOST_EVENTS} events")));
                }
                events.push(event);
            }
            Ok(events)
        }
    }
    from.deserialize_seq(Events)
}

/// Whether valid JSON is nested deeper than it may be.
fn is_too_deep(json: &str) -> bool {
    let opens = |byte: &u8| matches!(byte, b'[' | b'{');
    // Nearly no event has so many, whatever they mean.
    json.bytes().filter(opens).count() > DEEPEST && {
        let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
        for byte in json.bytes() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        deepest > DEEPEST
    }
}

/// Reads a page from a body.
///
/// # Errors
/// [`Malformed`] if the body is not of the documented shape.
pub fn parse(body: Vec<u8>) -> Result<Page, Malformed> {
    let text = String::from_utf8(body).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Malformed {
            // In the middle of a character.
            truncated: error.utf8_error().error_len().is_none(),
            ..Malformed::new(
                format!("the body is not UTF-8 from byte {place} on"),
                error.as_bytes(),
            )
        }
    })?;
    let (found, pagination) = match scan(&text) {
        Some(found) => found,
        None => read(&text)?,
    };
    let bytes = text.len() as u64;
    let text = Arc::new(Text::from(text));
    Ok(Page {
        events: found
            .into_iter()
            .map(|(extent, id, time)| Event::new(&text, extent, id, time))
            .collect(),
        next: pagination.next_page,
        total_pages: pagination.total_pages,
        total_count: pagination.total_count,
        size: pagination
            .page_size
            .filter(|size| (1..=LARGEST_PAGE).contains(size)),
        date: None,
        pause: None,
        bytes,
    })
}

/// Reads a page as nearly all are, fast.
fn scan(text: &str) -> Option<(Vec<Found>, Pagination)> {
    let (found, pagination) = scan::page(text)?;
    let Object(pagination) = serde_json::from_str(pagination).ok()?;
    Some((found, pagination))
}

/// Reads any page, or says what is wrong with it.
fn read(text: &str) -> Result<(Vec<Found>, Pagination), Malformed> {
    let Object(body): Object<Body> = serde_json::from_str(text).map_err(|error| Malformed {
        truncated: error.is_eof(),
        ..Malformed::new(
            format!("the body is not a page of the audit trail ({error})"),
            text.as_bytes(),
        )
    })?;
    let events = body.data.iter().enumerate().map(|(place, raw)| {
        let json = raw.get();
        let malformed = |fault: &dyn std::fmt::Display| {
            Malformed::new(
                format!("event {} of the page {fault}", place + 1),
                json.as_bytes(),
            )
        };
        let Object(head): Object<Head> = serde_json::from_str(json)
            .map_err(|error| malformed(&format_args!("is not as documented ({error})")))?;
        if head.id.is_empty() {
            return Err(malformed(&"has an empty id"));
        }
        if head.id.len() > LONGEST_ID {
            return Err(malformed(&format_args!(
                "has an id of more than {LONGEST_ID} bytes"
            )));
        }
        if is_too_deep(json) {
            return Err(malformed(&format_args!(
                "is nested deeper than {DEEPEST} levels"
            )));
        }
        let time = time::parse(&head.timestamp)
            .ok_or_else(|| malformed(&"has a timestamp that is not RFC 3339"))?;
        // `raw` borrows from `text`, so the difference of the addresses is its place there.
        let start = json.as_ptr().addr() - text.as_ptr().addr();
        Ok((start..start + json.len(), EventId::new(&head.id), time))
    });
    let Object(pagination) = body.pagination;
    Ok((events.collect::<Result<_, _>>()?, pagination))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> String {
        let Malformed { fault, found, .. } = parse(body.into()).unwrap_err();
        format!("{fault}: {found}")
    }

    #[test]
    fn events_keep_their_own_bytes() {
        let first = r#"{ "id":"a", "n":12345678901234567890, "timestamp":"2026-01-02T03:04:05Z", "e":"\u00e9" }"#;
        let body = format!(
            r#"{{"data": [ {first} ,{{"timestamp":"2026-01-02T03:04:04.000Z","\u0069d":"\u0062"}}],
                "pagination":{{"current_page":1,"next_page":2,"total_pages":3,"total_count":5,"page_size":2}},"more":[]}}"#
        );
        let page = parse(body.into()).unwrap();
        assert_eq!(page.events[0].json(), first);
        assert_eq!(page.events[0].id, EventId::new("a"));
        assert_eq!(page.events[1].id, EventId::new("b"));
        assert_eq!(
            (page.next, page.total_pages, page.total_count, page.size),
            (Some(2), Some(3), Some(5), Some(2))
        );
    }

    #[test]
    fn the_documented_empty_answer_is_a_page() {
        let page = parse(
            br#"{"data":[],"pagination":{"current_page":1,"page_size":1000,"prev_page":null,"next_page":null,"total_pages":0,"total_count":0}}"#.to_vec(),
        ).unwrap();
        assert!(page.events.is_empty());
        assert_eq!(page.total_count, Some(0));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let good = r#"{"id":"a","timestamp":"2026-01-02T03:04:05Z"}"#;
        let second =
            |event: &str| message(&format!(r#"{{"data":[{good},{event}],"pagination":{{}}}}"#));
        assert!(
            second(r#"{"timestamp":"2026-01-02T03:04:05Z"}"#)
                .starts_with("event 2 of the page is not as documented (missing field `id`")
        );
        assert!(
            second(r#"{"id":7,"timestamp":"2026-01-02T03:04:05Z"}"#)
                .contains("event 2 of the page")
        );
        assert!(
            second(r#"{"id":"","timestamp":"2026-01-02T03:04:05Z"}"#).contains("has an empty id")
        );
        assert!(
            second(r#"{"id":"b","timestamp":"today"}"#).contains("timestamp that is not RFC 3339")
        );
        assert!(second("null").contains("event 2 of the page"));
        assert!(message("<html>Sign in</html>").ends_with(": <html>Sign in</html>"));
        assert!(message(r#"{"data":[]}"#).contains("missing field `pagination`"));
        assert!(message(r#"{"pagination":{}}"#).contains("missing field `data`"));
        assert!(
            message(r#"{"data":{},"pagination":{}}"#)
                .contains("invalid type: map, expected a sequence")
        );
        assert!(
            message(r#"{"data":[],"pagination":{"next_page":-1}}"#).contains("next_page")
                || message(r#"{"data":[],"pagination":{"next_page":-1}}"#).contains("u64")
        );
        assert!(
            parse(b"{\"data\":[\xff]}".to_vec())
                .unwrap_err()
                .fault
                .contains("not UTF-8 from byte 9")
        );
    }

    #[test]
    fn what_nothing_honest_would_send_is_refused() {
        let event = |id: &str, more: &str| {
            format!(r#"{{"id":"{id}","timestamp":"2026-01-02T03:04:05Z"{more}}}"#)
        };
        let page = |events: &[String]| {
            let data = events.join(",");
            parse(format!(r#"{{"data":[{data}],"pagination":{{}}}}"#).into())
        };
        let nested = |levels: usize| {
            // What stands in the string counts for nothing, and what is closed for no more.
            let middle = format!(r#"["]]\"{}"{}]"#, "{".repeat(200), ",[]".repeat(200));
            let (open, close) = ("[".repeat(levels - 2), "]".repeat(levels - 2));
            page(&[event("a", &format!(r#","x":{open}{middle}{close}"#))])
        };
        assert!(nested(DEEPEST - 1).is_ok());
        assert!(nested(DEEPEST).unwrap_err().fault.contains("nested deeper"));
        let flat = ",[]".repeat(200);
        assert!(page(&[event("a", &format!(r#","x":[1{flat}]"#))]).is_ok());

        let long = "x".repeat(LONGEST_ID + 1);
        assert!(page(&[event(&long[1..], "")]).is_ok());
        // An escape is for serde to read.
        assert!(page(&[event(&format!("{}\\u0061", &long[2..]), "")]).is_ok());
        let fault = page(&[event("a", ""), event(&long, "")]).unwrap_err().fault;
        assert!(fault.contains("event 2 of the page has an id of more than"));

        let many = vec![event("a", ""); MOST_EVENTS + 1];
        assert!(page(&many[1..]).is_ok());
        assert!(
            page(&many)
                .unwrap_err()
                .fault
                .contains("more than 10000 events")
        );
    }

    #[test]
    fn a_body_that_just_ends_is_told_apart() {
        assert!(
            parse(br#"{"data":[{"id":"a","#.to_vec())
                .unwrap_err()
                .truncated
        );
        assert!(parse(Vec::new()).unwrap_err().truncated);
        assert!(parse(b"{\"data\":[\"\xc3".to_vec()).unwrap_err().truncated);
        assert!(!parse(b"{\"data\":[\"\xff".to_vec()).unwrap_err().truncated);
        assert!(!parse(b"nonsense".to_vec()).unwrap_err().truncated);
    }
}
