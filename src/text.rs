//! Text from elsewhere, made safe to show in a message.

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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn long_text_is_cut() {
        let line = excerpt("x".repeat(5_000_000).as_bytes());
        assert_eq!(line.chars().count(), 201);
        assert!(line.ends_with('…'));
        assert_eq!(excerpt("ä".repeat(200).as_bytes()), "ä".repeat(200));
        assert!(excerpt("ä".repeat(201).as_bytes()).ends_with("ä…"));
    }
}
