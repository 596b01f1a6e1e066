//! Text for messages: what comes from elsewhere made safe to show, and spans of time.

use std::time::Duration;

/// The most characters of foreign text that a message shows.
const EXCERPT: usize = 200;

/// What came from outside, on one line for a message: control and other invisible characters
/// escaped (a terminal must not obey them), bytes that are no UTF-8 replaced, cut after 200
/// characters.
#[must_use]
pub fn excerpt(bytes: &[u8]) -> String {
    // No character takes more than four bytes: what lies behind cannot be shown anyway.
    let shown = &bytes[..bytes.len().min(4 * EXCERPT)];
    let text = String::from_utf8_lossy(shown);
    let text = text.trim();
    let mut line = String::new();
    for character in text.chars().take(EXCERPT) {
        if character == ' ' || character.is_ascii_graphic() || character.is_alphanumeric() {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
    }
    if shown.len() < bytes.len() || text.chars().nth(EXCERPT).is_some() {
        line.push('…');
    }
    line
}

/// A message on one line, in which a terminal has nothing to obey. Text from elsewhere goes through
/// [`excerpt`] before; this is for the names of files and options, which are the user's, and to have
/// one place through which everything goes.
#[must_use]
pub fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for character in message.chars() {
        if character.is_control() || is_invisible(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Characters that show nothing, or change the direction of what stands behind them.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

/// A span of time as a person reads it, in its two largest units: `12s`, `4m08s`, `3h12m`, `13d4h`.
#[must_use]
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
    fn a_terminal_has_nothing_to_obey() {
        assert_eq!(excerpt(b"\x1b[2J\r\nred\0"), r"\u{1b}[2J\r\nred\u{0}");
        assert_eq!(
            excerpt("a\u{202e}b\u{9b}c".as_bytes()),
            r"a\u{202e}b\u{9b}c"
        );
        assert_eq!(excerpt(b"\xff"), r"\u{fffd}");
        assert_eq!(excerpt("  größer \n".as_bytes()), "größer");
    }

    #[test]
    fn a_span_in_its_two_largest_units() {
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
    fn long_text_is_cut() {
        let line = excerpt("x".repeat(5_000_000).as_bytes());
        assert_eq!(line.chars().count(), 201);
        assert!(line.ends_with('…'));
        assert_eq!(excerpt("ä".repeat(200).as_bytes()), "ä".repeat(200));
        assert!(excerpt("ä".repeat(201).as_bytes()).ends_with("ä…"));
    }
}
