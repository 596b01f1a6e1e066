//! Text for messages: foreign text made safe to show, and spans of time.

use std::time::Duration;

use time::UtcDateTime;

/// The most characters of foreign text that a message shows.
const EXCERPT: usize = 200;
/// The most bytes of foreign text that a message can show: a character has at most four.
pub const EXCERPT_BYTES: usize = 4 * EXCERPT;

/// Converts foreign bytes to one line for a message, by the rules of [`one_line`].
///
/// Bytes that are not UTF-8 are replaced. The text is cut after 200 characters.
pub fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(EXCERPT_BYTES)];
    let text = String::from_utf8_lossy(shown);
    let text = text.trim();
    let mut line = one_line(&text.chars().take(EXCERPT).collect::<String>());
    if shown.len() < bytes.len() || text.chars().nth(EXCERPT).is_some() {
        line.push('…');
    }
    line
}

/// Converts a whole message to one line in which a terminal has nothing to obey.
///
/// Every message passes through here, since the names of files and options, which are the user's,
/// have not passed through [`excerpt`]. All characters are escaped except letters, digits, blanks,
/// those that ASCII prints and the sign of a cut.
pub fn one_line(message: &str) -> String {
    let mut line = String::new();
    for it in message.chars() {
        if matches!(it, ' ' | '…') || it.is_ascii_graphic() || it.is_alphanumeric() {
            line.push(it);
        } else {
            line.extend(it.escape_default());
        }
    }
    line
}

/// The hash FNV-1a with 128 bits (<https://datatracker.ietf.org/doc/html/rfc9923>).
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u128 {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.into_iter().fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    })
}

/// Formats the time from one instant to a later one; zero if it is not later.
pub fn age(from: UtcDateTime, to: UtcDateTime) -> String {
    span(Duration::try_from(to - from).unwrap_or_default())
}

/// Formats a span of time for people, in its two largest units: `12s`, `4m08s`, `3h12m`, `13d4h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let message = "größer \u{1b}[2Ja\r\nb\u{202e}c…";
        assert_eq!(one_line(message), r"größer \u{1b}[2Ja\r\nb\u{202e}c…");
    }

    #[test]
    fn foreign_text_is_escaped() {
        assert_eq!(excerpt(b"\x1b[2J\r\nred\0"), r"\u{1b}[2J\r\nred\u{0}");
        assert_eq!(
            excerpt("a\u{202e}b\u{9b}c".as_bytes()),
            r"a\u{202e}b\u{9b}c"
        );
        assert_eq!(excerpt(b"\xff"), r"\u{fffd}");
        assert_eq!(excerpt("  größer \n".as_bytes()), "größer");
    }

    #[test]
    fn a_span_is_shown_in_its_two_largest_units() {
        let spans = [
            (0, "0s"),
            (59, "59s"),
            (248, "4m08s"),
            (3600, "1h00m"),
            (11_520, "3h12m"),
            (86_399, "23h59m"),
            (1_138_000, "13d4h"),
        ];
        for (seconds, text) in spans {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn long_foreign_text_is_cut() {
        let line = excerpt("x".repeat(5_000_000).as_bytes());
        assert_eq!(line.chars().count(), 201);
        assert!(line.ends_with('…'));
        assert_eq!(excerpt("ä".repeat(200).as_bytes()), "ä".repeat(200));
        assert!(excerpt("ä".repeat(201).as_bytes()).ends_with("ä…"));
    }
}
