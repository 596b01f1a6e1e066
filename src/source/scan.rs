//! Reads a page's JSON in one pass: where each event stands, its `id` and its `timestamp`.
//!
//! Reading JSON is what most of a run's processor time goes into, and serde would read every event
//! twice: to find its end, and for its two fields. This looks at each byte once, eight at a time
//! within strings.
//!
//! What holds: whatever this accepts, serde reads in the same way. It gives nothing at all for what
//! is no valid JSON, not of the documented shape, beyond its bounds, or merely unusual (a repeated
//! key, an escape in a key or in one of the two fields): [`crate::source::page::parse`] then asks serde, which reads it or says
//! what is wrong with it.

use std::ops::Range;

use ::time::OffsetDateTime;

use crate::event::EventId;
use crate::source::page::{LONGEST_ID, MOST_EVENTS};
use crate::time;

/// An event: where it stands in the text, in bytes, and its two fields.
pub type Found = (Range<usize>, EventId, OffsetDateTime);

/// The events of a page's text, and the text of its `pagination`.
#[must_use]
pub fn page(text: &str) -> Option<(Vec<Found>, &str)> {
    let (mut events, mut pagination) = (None, None);
    let end = object(text, 0, |key, at| match key {
        "data" if events.is_none() => {
            let (found, end) = array_of_events(text, at)?;
            events = Some(found);
            Some(end)
        }
        // That of an object: serde would take a list as well.
        "pagination" if pagination.is_none() && text[at..].starts_with('{') => {
            let end = value(text.as_bytes(), at)?;
            pagination = text.get(at..end);
            Some(end)
        }
        "data" | "pagination" => None,
        _ => value(text.as_bytes(), at),
    })?;
    // Nothing but white space may follow.
    if token(text.as_bytes(), end).is_some() {
        return None;
    }
    Some((events?, pagination?))
}

fn array_of_events(text: &str, at: usize) -> Option<(Vec<Found>, usize)> {
    let (mut events, bytes) = (Vec::new(), text.as_bytes());
    let mut at = after(bytes, at, b'[')?;
    if let (b']', place) = token(bytes, at)? {
        return Some((events, place + 1));
    }
    loop {
        let (_, start) = token(bytes, at)?;
        let (mut id, mut time) = (None, None);
        let end = object(text, start, |key, at| match key {
            "id" if id.is_none() => {
                let (text, end) = plain_string(text, at)?;
                id = Some(
                    (1..=LONGEST_ID)
                        .contains(&text.len())
                        .then(|| EventId::new(text))?,
                );
                Some(end)
            }
            "timestamp" if time.is_none() => {
                let (text, end) = plain_string(text, at)?;
                time = Some(time::parse(text)?);
                Some(end)
            }
            "id" | "timestamp" => None,
            _ => value(bytes, at),
        })?;
        events.push((start..end, id?, time?));
        (events.len() <= MOST_EVENTS).then_some(())?;
        match token(bytes, end)? {
            (b',', place) => at = place + 1,
            (b']', place) => return Some((events, place + 1)),
            _ => return None,
        }
    }
}

// Each of these reads from `at` on and gives where it ended. (A position that is handed on stays in
// a register; one that is kept in a structure makes the processor wait for its memory.)

/// The next byte that is not white space, and where it stands.
fn token(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        match *bytes.get(at)? {
            b' ' | b'\t' | b'\n' | b'\r' => at += 1,
            byte => return Some((byte, at)),
        }
    }
}

/// White space and this byte.
fn after(bytes: &[u8], at: usize, expected: u8) -> Option<usize> {
    let (byte, place) = token(bytes, at)?;
    (byte == expected).then_some(place + 1)
}

/// An object that is not empty. `member` gets each key and the place of its value, and reads that.
fn object<'a>(
    text: &'a str,
    at: usize,
    mut member: impl FnMut(&'a str, usize) -> Option<usize>,
) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = after(bytes, at, b'{')?;
    loop {
        let (key, end) = plain_string(text, at)?;
        let (_, start) = token(bytes, after(bytes, end, b':')?)?;
        match token(bytes, member(key, start)?)? {
            (b',', place) => at = place + 1,
            (b'}', place) => return Some(place + 1),
            _ => return None,
        }
    }
}

/// A string without escapes.
fn plain_string(text: &str, at: usize) -> Option<(&str, usize)> {
    let start = after(text.as_bytes(), at, b'"')?;
    let end = plain(text.as_bytes(), start);
    (*text.as_bytes().get(end)? == b'"').then_some((text.get(start..end)?, end + 1))
}

/// A string, after its opening quote.
fn string(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = plain(bytes, at);
        at += match *bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => match *bytes.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                b'u' => {
                    let digits = bytes.get(at + 2..at + 6)?;
                    digits.iter().all(u8::is_ascii_hexdigit).then_some(6)?
                }
                _ => return None,
            },
            _ => return None,
        };
    }
}

/// A key and its colon.
fn key(bytes: &[u8], at: usize) -> Option<usize> {
    after(bytes, string(bytes, after(bytes, at, b'"')?)?, b':')
}

/// Any value.
fn value(bytes: &[u8], mut at: usize) -> Option<usize> {
    // What is open around the value: a bit for each, the innermost lowest, set for an object.
    let (mut depth, mut objects) = (0, 0_u64);
    loop {
        let (byte, place) = token(bytes, at)?;
        at = match byte {
            b'"' => string(bytes, place + 1)?,
            b'{' | b'[' => {
                let is_object = byte == b'{';
                let close = if is_object { b'}' } else { b']' };
                match token(bytes, place + 1)? {
                    (byte, place) if byte == close => place + 1,
                    (_, place) => {
                        depth += 1;
                        if depth > u64::BITS {
                            return None;
                        }
                        objects = objects << 1 | u64::from(is_object);
                        at = if is_object { key(bytes, place)? } else { place };
                        continue;
                    }
                }
            }
            b't' => word(bytes, place, b"true")?,
            b'f' => word(bytes, place, b"false")?,
            b'n' => word(bytes, place, b"null")?,
            _ => number(bytes, place)?,
        };
        // A value has ended, and with it perhaps what is open around it.
        loop {
            if depth == 0 {
                return Some(at);
            }
            let (byte, place) = token(bytes, at)?;
            at = place + 1;
            match (byte, objects & 1 == 1) {
                (b',', true) => {
                    at = key(bytes, at)?;
                    break;
                }
                (b',', false) => break,
                (b'}', true) | (b']', false) => {
                    depth -= 1;
                    objects >>= 1;
                }
                _ => return None,
            }
        }
    }
}

fn word(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    let end = at + word.len();
    (bytes.get(at..end)? == word).then_some(end)
}

fn number(bytes: &[u8], mut at: usize) -> Option<usize> {
    let is_at = |at: usize, any_of: &[u8]| bytes.get(at).is_some_and(|b| any_of.contains(b));
    at += usize::from(is_at(at, b"-"));
    at = if is_at(at, b"0") {
        at + 1
    } else {
        digits(bytes, at)?
    };
    if is_at(at, b".") {
        at = digits(bytes, at + 1)?;
    }
    if is_at(at, b"eE") {
        at += 1;
        at = digits(bytes, at + usize::from(is_at(at, b"+-")))?;
    }
    Some(at)
}

/// One digit or more.
fn digits(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count > 0).then_some(at + count)
}

/// Where the first quote, backslash or control character is, or the end.
fn plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH_BITS: u64 = ONES << 7;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        // Subtracting from a byte that is smaller sets its high bit. That may borrow from the next
        // byte, which can then be taken for one of these wrongly, but only after a right one.
        let word = u64::from_le_bytes(*word);
        let less = |word: u64, than: u8| word.wrapping_sub(ONES * u64::from(than)) & !word;
        let quotes = less(word ^ (ONES * u64::from(b'"')), 1);
        let backslashes = less(word ^ (ONES * u64::from(b'\\')), 1);
        let found = (quotes | backslashes | less(word, 0x20)) & HIGH_BITS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_plain = |byte: &u8| !matches!(byte, ..0x20 | b'"' | b'\\');
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|&byte| is_plain(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_that_end_a_run_are_found_wherever_they_stand() {
        for byte in 0..=u8::MAX {
            for place in 0..20 {
                for after in [b'"', b'\\', 0, b'!', b'#', 0x7f, 0x80, 0xff] {
                    let mut bytes = [b'x'; 24];
                    bytes[place] = byte;
                    bytes[place + 1..].fill(after);
                    let expected = bytes
                        .iter()
                        .position(|byte| matches!(byte, ..0x20 | b'"' | b'\\'))
                        .unwrap_or(bytes.len());
                    assert_eq!(plain(&bytes, 0), expected, "{bytes:?}");
                }
            }
        }
    }

    /// Whether a value inside an event is taken; serde's opinion must then be the same.
    fn takes(value: &str) -> bool {
        let event = format!(r#"{{"id":"a","x":{value},"timestamp":"2026-01-02T03:04:05Z"}}"#);
        let text = format!(r#"{{"data":[{event}],"pagination":{{}}}}"#);
        let found = page(&text);
        if let Some((events, pagination)) = &found {
            assert_eq!(text[events[0].0.clone()], event);
            assert_eq!(*pagination, "{}");
            serde_json::from_str::<serde::de::IgnoredAny>(&event).expect(value);
        }
        found.is_some()
    }

    #[test]
    fn valid_values_are_taken() {
        let deepest = "[".repeat(65) + &"]".repeat(65);
        let values = [
            r#""""#,
            r#""plain, and longer than eight bytes""#,
            r#""\"\\\/\b\f\n\r\t\u00e9\uD83d\ud800""#,
            "\"é 🔒 \u{7f}\"",
            "0",
            "-0",
            "10",
            "12345678901234567890.50",
            "1e5",
            "1E+5",
            "0.1e-05",
            "true",
            "false",
            "null",
            "[]",
            "{}",
            " [ 1 , { } , [ ] , { \"a\" : 1 , \"\\u0062\" : [ ] } ] ",
            "{\r\n\t\"a\": [\n1\n]\n}",
            deepest.as_str(),
        ];
        for value in values {
            assert!(takes(value), "{value}");
        }
    }

    #[test]
    fn invalid_values_are_not_taken() {
        let too_deep = "[".repeat(66) + &"]".repeat(66);
        let values = [
            "",
            "\"",
            "\"\n\"",
            "\"\t\"",
            "\"\0\"",
            r#""\""#,
            r#""\x""#,
            r#""\u12g4""#,
            r#""\u12""#,
            "01",
            "+1",
            "-",
            "1.",
            ".5",
            "1e",
            "1e+",
            "0x1",
            "1 2",
            "tru",
            "truee",
            "nul",
            "None",
            "NaN",
            "[",
            "]",
            "[1",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1}",
            "{\"a\":1]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "{\"a\" 1}",
            "'a'",
            "\u{a0}1",
            "\u{feff}1",
            "1/**/",
            too_deep.as_str(),
        ];
        for value in values {
            assert!(!takes(value), "{value}");
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_serde() {
        let good = r#"{"id":"a","timestamp":"2026-01-02T03:04:05Z"}"#;
        let whole = |data: &str| format!(r#"{{"data":[{data}],"pagination":{{}}}}"#);
        assert!(page(&whole(good)).is_some());
        assert!(page(&whole("")).is_some());
        let two = whole(&format!("{good} , {good}"));
        let places = page(&two).unwrap().0.into_iter().map(|found| found.0);
        assert!(places.map(|place| &two[place]).eq([good, good]));
        let texts = [
            whole(&good.replace("\"id\"", r#""\u0069d""#)),
            whole(&good.replace("\"a\"", r#""\u0061""#)),
            whole(&good.replace("\"a\"", r#""a","id":"b""#)),
            whole(&good.replace('{', r#"{"timestamp":"2026-01-02T03:04:05Z","#)),
            whole(&good.replace("\"a\"", "\"\"")),
            whole(&good.replace("\"a\"", "7")),
            whole(&good.replace("2026", "year")),
            whole(&good.replace("id", "x")),
            whole("{}"),
            whole("[]"),
            whole("null"),
            whole(&format!("{good},")),
            whole(good) + "x",
            whole(good).replace("[{", "{").replace("}]", "}"),
            whole(good).replace("pagination", "p"),
            whole(good).replace("data", "d"),
            whole(good).replace(r#","pagination""#, r#","data":[],"pagination""#),
            whole(good).replace("}}", r#"},"pagination":{}}"#),
            whole(good).replace("{}", "[]"),
            format!("[{}]", whole(good)),
            String::new(),
        ];
        for text in texts {
            assert!(page(&text).is_none(), "{text}");
        }
        for end in 0..whole(good).len() {
            assert!(page(&whole(good)[..end]).is_none(), "cut after {end} bytes");
        }
    }
}
