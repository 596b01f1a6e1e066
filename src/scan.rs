//! Reads a page's JSON in one pass: where each event stands, its `id` and its `timestamp`.
//!
//! Reading JSON is what most of a run's processor time goes into, and serde would read every event
//! twice: to find its end, and for its two fields. This looks at each byte once, eight at a time
//! within strings.
//!
//! What holds: whatever this accepts, serde reads in the same way. It gives nothing at all for what
//! is no valid JSON, not of the documented shape, or merely unusual (a repeated key, an escape in a
//! key or in one of the two fields): [`crate::page::parse`] then asks serde, which reads it or says
//! what is wrong with it.

use std::ops::Range;

use time::OffsetDateTime;

use crate::event::EventId;
use crate::timestamp;

/// An event: where it stands in the text, in bytes, and its two fields.
pub type Found = (Range<usize>, EventId, OffsetDateTime);

/// The events of a page's text, and the text of its `pagination`.
#[must_use]
pub fn page(text: &str) -> Option<(Vec<Found>, &str)> {
    let mut scanner = Scanner { text, at: 0 };
    let (mut events, mut pagination) = (None, None);
    scanner.object(|scanner, key| match key {
        b"data" if events.is_none() => {
            events = Some(scanner.events()?);
            Some(())
        }
        b"pagination" if pagination.is_none() => {
            scanner.peek()?;
            let start = scanner.at;
            scanner.skip()?;
            pagination = text.get(start..scanner.at);
            Some(())
        }
        b"data" | b"pagination" => None,
        _ => scanner.skip(),
    })?;
    match scanner.peek() {
        None => Some((events?, pagination?)),
        Some(_) => None,
    }
}

struct Scanner<'a> {
    text: &'a str,
    /// Where the next byte is.
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The next byte that is not white space; it stays the next one.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.text.as_bytes().get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// The next byte that is not white space.
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.at += 1;
        byte
    }

    /// Reads this byte.
    fn take(&mut self, expected: u8) -> Option<()> {
        (self.next()? == expected).then_some(())
    }

    /// Reads an object that is not empty; `value` gets each key and reads its value.
    fn object(&mut self, mut value: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        loop {
            let key = self.plain_string()?;
            self.take(b':')?;
            value(self, key.as_bytes())?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn events(&mut self) -> Option<Vec<Found>> {
        let mut events = Vec::new();
        self.take(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(events);
        }
        loop {
            events.push(self.event()?);
            match self.next()? {
                b',' => {}
                b']' => return Some(events),
                _ => return None,
            }
        }
    }

    fn event(&mut self) -> Option<Found> {
        self.peek()?;
        let start = self.at;
        let (mut id, mut time) = (None, None);
        self.object(|scanner, key| match key {
            b"id" if id.is_none() => {
                id = Some(scanner.plain_string().filter(|id| !id.is_empty())?);
                Some(())
            }
            b"timestamp" if time.is_none() => {
                time = Some(timestamp::parse(scanner.plain_string()?)?);
                Some(())
            }
            b"id" | b"timestamp" => None,
            _ => scanner.skip(),
        })?;
        Some((start..self.at, EventId::new(id?), time?))
    }

    /// Reads a string without escapes.
    fn plain_string(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let start = self.at;
        self.at += plain(&self.text.as_bytes()[start..]);
        let string = self.text.get(start..self.at);
        // Not to be taken by `take`, which skips white space: a line break is none here.
        (*self.text.as_bytes().get(self.at)? == b'"').then_some(())?;
        self.at += 1;
        string
    }

    /// Reads a string.
    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        let bytes = self.text.as_bytes();
        loop {
            self.at += plain(&bytes[self.at..]);
            self.at += match *bytes.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => match *bytes.get(self.at + 1)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                    b'u' => {
                        let digits = bytes.get(self.at + 2..self.at + 6)?;
                        digits.iter().all(u8::is_ascii_hexdigit).then_some(6)?
                    }
                    _ => return None,
                },
                _ => return None,
            };
        }
    }

    /// Reads any value.
    fn skip(&mut self) -> Option<()> {
        // What is open around the value: a bit for each, the innermost lowest, set for an object.
        let (mut depth, mut objects) = (0, 0_u64);
        loop {
            match self.peek()? {
                b'"' => self.string()?,
                open @ (b'{' | b'[') => {
                    self.at += 1;
                    let is_object = open == b'{';
                    let close = if is_object { b'}' } else { b']' };
                    if self.peek()? == close {
                        self.at += 1;
                    } else {
                        depth += 1;
                        if depth > u64::BITS {
                            return None;
                        }
                        objects = objects << 1 | u64::from(is_object);
                        if is_object {
                            self.string()?;
                            self.take(b':')?;
                        }
                        continue;
                    }
                }
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            // A value has ended, and with it perhaps what is open around it.
            loop {
                if depth == 0 {
                    return Some(());
                }
                match (self.next()?, objects & 1 == 1) {
                    (b',', true) => {
                        self.string()?;
                        self.take(b':')?;
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

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let found = self.text.as_bytes().get(self.at..self.at + word.len())?;
        self.at += word.len();
        (found == word).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        let is_next = |at: usize, any_of: &[u8]| bytes.get(at).is_some_and(|b| any_of.contains(b));
        self.at += usize::from(is_next(self.at, b"-"));
        if is_next(self.at, b"0") {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if is_next(self.at, b".") {
            self.at += 1;
            self.digits()?;
        }
        if is_next(self.at, b"eE") {
            self.at += 1;
            self.at += usize::from(is_next(self.at, b"+-"));
            self.digits()?;
        }
        Some(())
    }

    /// Reads one digit or more.
    fn digits(&mut self) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }
}

/// How many bytes come before the first quote, backslash or control character.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH_BITS: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks();
    for (place, &word) in words.iter().enumerate() {
        // Subtracting from a byte that is smaller sets its high bit. That may borrow from the next
        // byte, which can then be taken for one of these wrongly, but only after a right one.
        let word = u64::from_le_bytes(word);
        let less = |word: u64, than: u8| word.wrapping_sub(ONES * u64::from(than)) & !word;
        let quotes = less(word ^ (ONES * u64::from(b'"')), 1);
        let backslashes = less(word ^ (ONES * u64::from(b'\\')), 1);
        let found = (quotes | backslashes | less(word, 0x20)) & HIGH_BITS;
        if found != 0 {
            return place * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let is_plain = |&byte: &u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    words.len() * 8 + rest.iter().take_while(|&byte| is_plain(byte)).count()
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
                    assert_eq!(plain(&bytes), expected, "{bytes:?}");
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
        let deepest = "[".repeat(64) + &"]".repeat(64);
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
        let texts = [
            whole(&good.replace("\"id\"", r#""\u0069d""#)),
            whole(&good.replace("\"a\"", r#""\u0061""#)),
            whole(&good.replace("\"a\"", r#""a","id":"b""#)),
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
