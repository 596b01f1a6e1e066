//! An audit event: its own bytes, and the two fields that may be relied on.
//!
//! The API documents more fields, but their types differ between events, and new kinds of event
//! appear without notice. So everything except `id` and `timestamp` passes through untouched.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::UtcDateTime;

use crate::spare;
use crate::text::fnv1a;

/// An event, as a range of its page's text. The text lives as long as one of its events.
#[derive(Clone, Debug)]
pub struct Event {
    page: Arc<Text>,
    extent: Range<usize>,
    /// The event's `id`.
    pub id: EventId,
    /// The event's `timestamp`, in UTC.
    pub time: UtcDateTime,
    /// The reason why `id` or `timestamp` cannot be read, if one cannot. Then both are stand-ins,
    /// which are the same whenever the service lists the event.
    pub fault: Option<&'static str>,
}

impl Event {
    /// Returns the event at `extent`, in bytes, of a page's text.
    pub fn new(page: &Arc<Text>, extent: Range<usize>, id: EventId, time: UtcDateTime) -> Self {
        Self {
            page: Arc::clone(page),
            extent,
            id,
            time,
            fault: None,
        }
    }

    /// Returns the event's JSON, byte for byte as the service sent it.
    pub fn json(&self) -> &str {
        &self.page.json[self.extent.clone()]
    }

    /// Returns the event's position in the text of its page, in bytes.
    pub fn start(&self) -> usize {
        self.extent.start
    }

    /// Returns the organization of the event (`auth.organization_id`), or `None` if the event does
    /// not name one in the usual form. The checkpoint keeps it, and must not keep anything else.
    pub fn organization(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Event {
            auth: Auth,
        }
        #[derive(Deserialize)]
        struct Auth {
            organization_id: String,
        }
        let event: Event = serde_json::from_str(self.json()).ok()?;
        let id = event.auth.organization_id;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_usual = id.starts_with("org-") && id.len() <= 64 && id.bytes().all(is_word);
        is_usual.then_some(id)
    }

    /// Returns the event's JSON on one line. Only an event that contains line breaks is compacted:
    /// the white space between its tokens is dropped. JSON strings contain no line breaks.
    pub fn line(&self) -> Cow<'_, str> {
        let json = self.json();
        if self.page.has_line_breaks && json.contains(['\n', '\r']) {
            compact(json).into()
        } else {
            json.into()
        }
    }

    /// Returns the same event with a text of its own, so that keeping it does not keep the page.
    #[must_use]
    pub fn detached(&self) -> Self {
        let json = self.json();
        Self {
            extent: 0..json.len(),
            page: Arc::new(json.into()),
            ..self.clone()
        }
    }
}

/// A page's text. Its memory is reused for later pages.
#[derive(Debug)]
pub struct Text {
    json: String,
    /// Looked for once for all events of the page, since nearly no page has any.
    has_line_breaks: bool,
}

impl<T: Into<String>> From<T> for Text {
    fn from(json: T) -> Self {
        let json = json.into();
        // A search that does not stop early is compiled to check many bytes at a time.
        let found = |found, byte| found | matches!(byte, b'\n' | b'\r');
        let has_line_breaks = json.bytes().fold(false, found);
        Self {
            json,
            has_line_breaks,
        }
    }
}

impl Text {
    /// The text.
    pub fn json(&self) -> &str {
        &self.json
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        spare::keep(std::mem::take(&mut self.json).into_bytes());
    }
}

/// Removes the white space between the tokens of valid JSON; nothing else changes.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|&character| {
            if in_string {
                in_string = escaped || character != '"';
                escaped = character == '\\' && !escaped;
                return true;
            }
            in_string = character == '"';
            !matches!(character, ' ' | '\t' | '\n' | '\r')
        })
        .collect()
}

/// An event's `id`: a UUID, or any other text that the service may send one day.
///
/// A UUID in its usual spelling is kept as 16 bytes, since a run remembers very many of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventId {
    /// A UUID that was written in lower case with hyphens, in the order of its digits.
    Uuid([u8; 16]),
    /// Any other text, as it was written.
    Other(Box<str>),
}

/// The key by which a run tells events apart: 128 bits, whatever the length of the `id`.
pub type Identity = u128;

impl EventId {
    /// Returns the stand-in for the `id` of an event that has none: a name for its bytes.
    pub fn stand_in(json: &str) -> Self {
        Self::new(&format!("unreadable-{:032x}", fnv1a(json.bytes())))
    }

    /// Converts an `id` as the service writes it.
    pub fn new(text: &str) -> Self {
        parse_uuid(text).map_or_else(|| Self::Other(text.into()), Self::Uuid)
    }

    /// Returns the UUID's own bits. Any other `id` is hashed with a random key, so that nobody can
    /// construct two IDs that collide.
    pub fn identity(&self) -> Identity {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        match self {
            Self::Uuid(bytes) => u128::from_be_bytes(*bytes),
            Self::Other(text) => {
                let [high, low] = [0, 1].map(|half| u128::from(KEY.hash_one((half, text))));
                high << 64 | low
            }
        }
    }
}

/// The position, in a UUID's text, of the first of the two digits of each byte.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// Parses `11111111-2222-4333-8444-555555555501` in exactly that spelling.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
    // Right for a digit, and anything for another character: that is not spelled in the same way.
    let digit = |place: usize| (text[place] & 0xf) + 9 * (text[place] >> 6);
    let bytes = PLACES.map(|place| digit(place) << 4 | digit(place + 1));
    (spell_uuid(&bytes) == *text).then_some(bytes)
}

fn spell_uuid(bytes: &[u8; 16]) -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    for (byte, place) in bytes.iter().zip(PLACES) {
        text[place] = DIGITS[usize::from(byte >> 4)];
        text[place + 1] = DIGITS[usize::from(byte & 0xf)];
    }
    text
}

fn text(spelled: &[u8; 36]) -> &str {
    str::from_utf8(spelled).unwrap_or_default()
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(text) => f.write_str(text),
            Self::Uuid(bytes) => f.write_str(text(&spell_uuid(bytes))),
        }
    }
}

/// Serializes the ID as its text.
impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Other(text) => serializer.serialize_str(text),
            Self::Uuid(bytes) => serializer.serialize_str(text(&spell_uuid(bytes))),
        }
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::new(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_it_was_read() {
        let ids = [
            "6513270e-269e-4d37-b2a7-4de452e6b438",
            "6513270E-269E-4D37-B2A7-4DE452E6B438",
            "6513270e-269e-4d37-b2a7-4de452e6b43",
            "6513270e0269e04d370b2a704de452e6b438",
            "6513270e-269e-4d37-b2a7-4de452e6b43g",
            "6513270e-269e-4d37-b2a7-4de452e6b4é",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "ae-123",
            "é",
        ];
        for text in ids {
            assert_eq!(EventId::new(text).to_string(), text);
        }
        assert!(matches!(EventId::new(ids[0]), EventId::Uuid(_)));
        assert!(matches!(EventId::new(ids[1]), EventId::Other(_)));
        let identities: std::collections::HashSet<_> =
            ids.map(|id| EventId::new(id).identity()).into();
        assert_eq!(identities.len(), ids.len());
        let hashed = EventId::new("ae-123").identity();
        assert!(hashed >> 64 != 0 && hashed << 64 != 0);
    }

    #[test]
    fn only_an_event_with_line_breaks_is_compacted() {
        let time = UtcDateTime::UNIX_EPOCH;
        let line = |json: &str| {
            Event::new(
                &Arc::new(json.into()),
                0..json.len(),
                EventId::new("x"),
                time,
            )
            .line()
            .into_owned()
        };
        let odd = r#"{ "a" : 1.50, "b":"\" \\" }"#;
        assert_eq!(line(odd), odd);
        let page = Arc::new(format!("[\n{odd}\n]").into());
        let among_lines = Event::new(&page, 2..2 + odd.len(), EventId::new("x"), time);
        assert_eq!(among_lines.line(), odd);
        let pretty =
            "{\r\n\t\"z\": 12345678901234567890,\n  \"a b\": \"\\\\\\\" {\", \"n\": -0.10e+2\n}";
        assert_eq!(
            line(pretty),
            r#"{"z":12345678901234567890,"a b":"\\\" {","n":-0.10e+2}"#
        );
    }

    #[test]
    fn a_detached_event_keeps_its_json_and_drops_its_page() {
        let page = Arc::new(r#"[{"id":"x"}]"#.into());
        let event = Event::new(&page, 1..11, EventId::new("x"), UtcDateTime::UNIX_EPOCH);
        assert_eq!(event.detached().json(), r#"{"id":"x"}"#);
        drop(event);
        assert_eq!(Arc::strong_count(&page), 1);
    }

    #[test]
    fn the_organization_is_none_unless_the_event_names_it() {
        let organization = |json: &str| {
            let (page, id) = (Arc::new(json.into()), EventId::new("a"));
            Event::new(&page, 0..json.len(), id, UtcDateTime::UNIX_EPOCH).organization()
        };
        assert_eq!(
            organization(r#"{"auth":{"organization_id":"org-A"}}"#).as_deref(),
            Some("org-A")
        );
        assert_eq!(organization(r#"{"auth":null}"#), None);
        assert_eq!(organization(r#"{"auth":{"organization_id":null}}"#), None);
        for other in ["hunter2", "org-a b", &format!("org-{}", "a".repeat(61))] {
            let event = format!(r#"{{"auth":{{"organization_id":"{other}"}}}}"#);
            assert_eq!(organization(&event), None);
        }
    }
}
