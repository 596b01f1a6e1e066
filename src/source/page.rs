//! One page of the audit trail, read from the body of an answer.
//!
//! The documented shape is `{"data":[event, …],"pagination":{…}}`. Any other shape is an error that
//! shows the place and what is there, so that a changed API or the page of a proxy is recognised.

use std::sync::Arc;
use std::time::Duration;

use ::time::UtcDateTime;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::event::{Event, EventId, Text};
use crate::json::Object;
use crate::json::scan;
use crate::time;

/// The largest `page_size` that is believed.
const LARGEST_PAGE: u64 = 1_000_000;

/// The most events of a page. A run asks for 1,000 at most. A service that ignores the size may
/// send more, but a million tiny events would fill the memory.
const MOST_EVENTS: usize = 10_000;

/// The longest `id` in bytes. A UUID has 36, and Elasticsearch accepts 512
/// (<https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/mapping-id-field>).
const LONGEST_ID: usize = 512;

/// How many bytes of a malformed body are kept: more than a message shows.
const LONGEST_FOUND: usize = 16 * 1024;

/// One page of the list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The events in the service's order: the newest first, as far as is known.
    pub events: Vec<Event>,
    /// `next_page`: null on the last page.
    pub next: Option<u64>,
    /// `total_pages`, if the answer has it.
    pub total_pages: Option<u64>,
    /// `total_count`, if the answer has it: the number of events on all pages.
    pub total_count: Option<u64>,
    /// `page_size`, if the answer has it: the size in effect, which may be less than was asked for.
    pub size: Option<u64>,
    /// The service's clock when it answered (the `Date` header).
    pub date: Option<UtcDateTime>,
    /// How long the service asks all requests to wait after this answer.
    pub pause: Option<Duration>,
    /// The length of the body in bytes, decompressed.
    pub bytes: u64,
}

/// Why a body is not a page. Both texts may hold control characters and secrets.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The fault and its place.
    pub fault: String,
    /// The beginning of the text there.
    pub found: String,
    /// A retry may succeed: the body ends too early, since the connection broke off, or it is no
    /// JSON at all, as the page of a gateway under maintenance.
    pub is_retryable: bool,
}

impl Malformed {
    fn new(fault: String, found: &[u8], is_retryable: bool) -> Self {
        let found = String::from_utf8_lossy(&found[..found.len().min(LONGEST_FOUND)]).into_owned();
        Self {
            fault,
            found,
            is_retryable,
        }
    }
}

/// Tells if a body is no JSON object, but perhaps a gateway's page.
fn is_other(body: &[u8]) -> bool {
    body.trim_ascii_start().first() != Some(&b'{')
}

/// Reads a page from a body.
///
/// # Errors
/// [`Malformed`] if the body does not have the documented shape.
pub fn parse(body: Vec<u8>) -> Result<Page, Malformed> {
    let text = String::from_utf8(body).map_err(|error| {
        let (fault, body) = (error.utf8_error(), error.as_bytes());
        let ends_within_a_character = fault.error_len().is_none();
        let place = fault.valid_up_to();
        Malformed::new(
            format!("the body is not UTF-8 from byte {place} on"),
            body,
            ends_within_a_character || is_other(body),
        )
    })?;
    let text = Arc::new(Text::from(text));
    let read = read(&text).map_err(|reason| no_page(text.json(), reason));
    let (mut events, untimed, pagination) = read?;
    if let Some(next) = events.get(untimed).map(|event| event.time) {
        let first = events[..untimed].iter_mut();
        first.for_each(|event| event.time = next);
    } else if let Some(event) = events.first() {
        let reason = event.fault.unwrap_or_default();
        let fault = format!("event 1 of the page is not as documented ({reason})");
        let found = &text.json()[event.start()..];
        return Err(Malformed::new(fault, found.as_bytes(), false));
    }
    Ok(Page {
        events,
        next: pagination.next_page,
        total_pages: pagination.total_pages,
        total_count: pagination.total_count,
        size: pagination
            .page_size
            .filter(|size| (1..=LARGEST_PAGE).contains(size)),
        date: None,
        pause: None,
        bytes: text.json().len() as u64,
    })
}

#[derive(Deserialize)]
struct Pagination {
    next_page: Option<u64>,
    total_pages: Option<u64>,
    total_count: Option<u64>,
    page_size: Option<u64>,
}

/// Describes why a text is refused. If it is no JSON at all, serde names the reason and the place.
fn no_page(text: &str, reason: String) -> Malformed {
    let body = text.as_bytes();
    let (reason, is_retryable) = match serde_json::from_str::<IgnoredAny>(text) {
        Err(error) => (error.to_string(), error.is_eof() || is_other(body)),
        Ok(_) => (reason, false),
    };
    let fault = format!("the body is not a page of the audit trail ({reason})");
    Malformed::new(fault, body, is_retryable)
}

/// Reads the events, how many of the first ones are untimed, and the pagination.
fn read(page: &Arc<Text>) -> Result<(Vec<Event>, usize, Pagination), String> {
    let text = page.json();
    let (mut data, mut untimed, mut pagination) = (None, 0, None);
    let end = scan::object(text, 0, |key, at| match key {
        "data" if data.is_none() => {
            let events = data.insert(Vec::new());
            scan::array(text, at, |at| event(page, at, events, &mut untimed))
        }
        "pagination" if pagination.is_none() => {
            let end = scan::value(text, at)?;
            pagination = Some(&text[at..end]);
            Ok(end)
        }
        "data" | "pagination" => Err(format!("duplicate field `{key}`")),
        _ => Ok(scan::value(text, at)?),
    })?;
    if scan::token(text.as_bytes(), end).is_some() {
        return Err("trailing characters".to_owned());
    }
    let data = data.ok_or("missing field `data`")?;
    let pagination = pagination.ok_or("missing field `pagination`")?;
    match serde_json::from_str(pagination) {
        Ok(Object(pagination)) => Ok((data, untimed, pagination)),
        Err(error) => Err(format!("in `pagination`: {error}")),
    }
}

/// Reads the event at this position, and returns the position behind it.
///
/// An event whose `id` or `timestamp` cannot be read must not hide the others. Its `id` is then a name
/// for its bytes, and its time that of the event before it, which is hardly newer. `untimed` counts
/// the first events of the page, which have none before them: theirs is that of the next one.
fn event(
    page: &Arc<Text>,
    at: usize,
    events: &mut Vec<Event>,
    untimed: &mut usize,
) -> Result<usize, String> {
    let text = page.json();
    if events.len() == MOST_EVENTS {
        return Err("more than 10000 events".to_owned());
    }
    let (mut id, mut time) = (None, None);
    let read = scan::object(text, at, |key, at| match key {
        "id" if id.is_none() => {
            let (text, end) = scan::string(text, at).ok_or("id is not a string")?;
            match text.len() {
                0 => return Err("id is empty"),
                1..=LONGEST_ID => id = Some(EventId::new(&text)),
                _ => return Err("id is longer than 512 bytes"),
            }
            Ok(end)
        }
        "timestamp" if time.is_none() => {
            let (text, end) = scan::string(text, at).ok_or("timestamp is not a string")?;
            time = Some(time::parse(&text).ok_or("timestamp is not RFC 3339")?);
            Ok(end)
        }
        "id" => Err("duplicate field `id`"),
        "timestamp" => Err("duplicate field `timestamp`"),
        _ => scan::value(text, at),
    });
    let read = read.and_then(|end| match (&id, time) {
        (None, _) => Err("missing field `id`"),
        (_, None) => Err("missing field `timestamp`"),
        _ => Ok(end),
    });
    let (end, fault) = match read {
        Ok(end) => (end, None),
        Err(reason) => {
            // Where even its end cannot be found, the page is refused.
            let end = match scan::value(text, at) {
                Err(scan::TOO_DEEP) => scan::skip(text, at).ok_or(scan::TOO_DEEP)?,
                end => end?,
            };
            (end, Some(reason))
        }
    };
    let id = id.unwrap_or_else(|| EventId::stand_in(&text[at..end]));
    *untimed += usize::from(time.is_none() && events.len() == *untimed);
    let before = events.last().map(|before| before.time);
    let time = time.or(before).unwrap_or(UtcDateTime::UNIX_EPOCH);
    let mut event = Event::new(page, at..end, id, time);
    event.fault = fault;
    events.push(event);
    Ok(end)
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
        assert!(
            message(&format!(
                r#"{{"data":[{good},{{"id":"b""x"}}],"pagination":{{}}}}"#
            ))
            .starts_with("the body is not a page of the audit trail")
        );
        assert!(
            message(r#"{"data":[{"id":"b","timestamp":"today"}],"pagination":{}}"#).starts_with(
                "event 1 of the page is not as documented (timestamp is not RFC 3339)"
            )
        );
        assert!(message("<html>Sign in</html>").ends_with(": <html>Sign in</html>"));
        assert!(message(r#"{"data":[]}"#).contains("missing field `pagination`"));
        assert!(message(r#"{"pagination":{}}"#).contains("missing field `data`"));
        assert!(message(r#"{"data":{},"pagination":{}}"#).contains("(not an array)"));
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
    fn an_event_that_cannot_be_read_has_a_neighbours_time_and_a_name_of_its_bytes() {
        let good = r#"{"id":"a","timestamp":"2026-01-02T03:04:05Z"}"#;
        for (event, fault) in [
            (
                r#"{"id":"b","timestamp":"today"}"#,
                "timestamp is not RFC 3339",
            ),
            (r#"{"id":7,"timestamp":"x"}"#, "id is not a string"),
            (
                r#"{"timestamp":"2026-01-02T03:04:05Z"}"#,
                "missing field `id`",
            ),
            ("null", "not an object"),
        ] {
            for data in [format!("{good},{event}"), format!("{event},{good}")] {
                let body = format!(r#"{{"data":[{data}],"pagination":{{}}}}"#);
                let [page, again] = [0, 1].map(|_| parse(body.clone().into()).unwrap());
                let bad = page
                    .events
                    .iter()
                    .position(|it| it.fault.is_some())
                    .unwrap();
                assert_eq!(page.events[bad].fault, Some(fault), "{data}");
                assert_eq!(page.events[bad].json(), event);
                assert_eq!(page.events[0].time, page.events[1].time);
                assert_eq!(page.events[bad].id, again.events[bad].id);
                assert!(page.events[1 - bad].fault.is_none());
            }
        }
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
            // Brackets in strings do not count, and neither do those that are closed again.
            let middle = format!(r#"["]]\"{}"{}]"#, "{".repeat(200), ",[]".repeat(200));
            let (open, close) = ("[".repeat(levels - 2), "]".repeat(levels - 2));
            page(&[event("a", &format!(r#","x":{open}{middle}{close}"#))])
        };
        let fault = |levels| nested(levels).unwrap().events[0].fault;
        assert_eq!(fault(127), None);
        assert_eq!(fault(128), Some(scan::TOO_DEEP));
        assert_eq!(fault(1_000_000), Some(scan::TOO_DEEP));
        let flat = ",[]".repeat(200);
        assert!(page(&[event("a", &format!(r#","x":[1{flat}]"#))]).is_ok());

        let long = "x".repeat(LONGEST_ID + 1);
        assert!(page(&[event(&long[1..], "")]).is_ok());
        // An escape counts as the character that it is.
        assert!(page(&[event(&format!("{}\\u0061", &long[2..]), "")]).is_ok());
        let too_long = page(&[event("a", ""), event(&long, "")]).unwrap();
        let fault = Some("id is longer than 512 bytes");
        assert_eq!(too_long.events[1].fault, fault);

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
    fn a_body_that_ends_early_or_is_no_json_is_retried() {
        assert!(
            parse(br#"{"data":[{"id":"a","#.to_vec())
                .unwrap_err()
                .is_retryable
        );
        assert!(parse(Vec::new()).unwrap_err().is_retryable);
        assert!(
            parse(b"{\"data\":[\"\xc3".to_vec())
                .unwrap_err()
                .is_retryable
        );
        assert!(
            !parse(b"{\"data\":[\"\xff".to_vec())
                .unwrap_err()
                .is_retryable
        );
        assert!(!parse(b"{nonsense".to_vec()).unwrap_err().is_retryable);
        // The page of a gateway.
        assert!(parse(b" <html>".to_vec()).unwrap_err().is_retryable);
    }
}
