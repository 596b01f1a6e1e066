//! Secrets, and how they are kept out of messages.

use std::cmp::Reverse;
use std::{fmt, iter};

use percent_encoding::percent_decode_str;

use crate::text;

/// The replacement for a secret: shorter than any part that is masked, so that none occurs in it.
const MASK: &str = "***";

/// The entities of HTML that have a name and stand for an ASCII character, each before that character.
const ENTITIES: [&str; 5] = ["amp&", "lt<", "gt>", "quot\"", "apos'"];

/// A text that is never shown: it has no `Display`, and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Marks a text as secret.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for a request and never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The parts that are masked, each as it is and as a query's decoded value.
    ///
    /// Others may repeat only a part: `Bearer` precedes the token, and a query has several values.
    /// Parts of at most three characters are left alone, since they occur in ordinary words.
    fn parts(&self) -> impl Iterator<Item = String> {
        let is_separator = |c: char| c.is_whitespace() || matches!(c, '&' | '=' | ';' | ',');
        let parts = self.0.split(is_separator).chain([self.0.trim()]);
        parts
            .flat_map(|part| {
                let decoded = percent_decode_str(part).decode_utf8_lossy();
                [part.to_owned(), decoded.into_owned()]
            })
            .filter(|part| part.len() > MASK.len())
    }
}

/// Replaces secrets by `***` in a text that came back: some proxies and receivers repeat what they
/// were sent. They may spell it as JSON, HTML or a query does.
pub fn mask(secrets: &[Secret], text: &str) -> String {
    masked(secrets, text).collect()
}

/// Prepares foreign text for a message: secrets are masked first, and the rest is cut then, so that
/// half a secret never remains. Only as much is masked as can be shown.
pub fn excerpt(secrets: &[Secret], bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let masked = masked(secrets, &text).take(text::EXCERPT_BYTES + 1);
    text::excerpt(masked.collect::<String>().as_bytes())
}

/// The characters of a text, with `***` in the place of each secret.
fn masked<'t>(secrets: &[Secret], mut rest: &'t str) -> impl Iterator<Item = &'t str> {
    let mut parts: Vec<String> = secrets.iter().flat_map(Secret::parts).collect();
    // The whole first: masked after its parts, it would not be found.
    parts.sort_by_key(|part| Reverse(part.len()));
    iter::from_fn(move || {
        let length = rest.chars().next()?.len_utf8();
        let masked = parts.iter().find_map(|part| strip_spelled(rest, part));
        let (shown, end) = masked.map_or(rest.split_at(length), |end| (MASK, end));
        rest = end;
        Some(shown)
    })
}

/// Removes a secret from the beginning of a text, in any spelling of each character.
fn strip_spelled<'t>(text: &'t str, secret: &str) -> Option<&'t str> {
    secret.chars().try_fold(text, |rest, character| {
        strip_encoded(rest, character).or_else(|| rest.strip_prefix(character))
    })
}

/// Removes a character that is written as in JSON (`\/`, `\u002b`), as in HTML (`&#43;`, `&amp;`) or
/// as in a query (`%2B`, `+` for a space).
fn strip_encoded(text: &str, character: char) -> Option<&str> {
    let is = |code: &str, radix| u32::from_str_radix(code, radix) == Ok(u32::from(character));
    match text.split_at_checked(1)? {
        ("\\", rest) => {
            let code = rest.strip_prefix('u').and_then(|it| it.split_at_checked(4));
            match code {
                Some((code, rest)) if is(code, 16) => Some(rest),
                _ => rest.strip_prefix(character),
            }
        }
        ("&", rest) => {
            // Only near: a large text may have many `&` without an end.
            let end = rest.bytes().take(16).position(|it| it == b';')?;
            let (entity, rest) = (&rest[..end], &rest[end + 1..]);
            let is_named = |it: &&str| it.strip_suffix(character) == Some(entity);
            let is_character = match (entity.strip_prefix("#x"), entity.strip_prefix('#')) {
                (Some(code), _) => is(code, 16),
                (None, Some(code)) => is(code, 10),
                (None, None) => ENTITIES.iter().any(is_named),
            };
            is_character.then_some(rest)
        }
        ("%", _) => character.to_string().bytes().try_fold(text, |rest, byte| {
            let (code, rest) = rest.strip_prefix('%')?.split_at_checked(2)?;
            (u8::from_str_radix(code, 16) == Ok(byte)).then_some(rest)
        }),
        ("+", rest) if character == ' ' => Some(rest),
        _ => None,
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secret: &Secret, text: &str) -> String {
        mask(std::slice::from_ref(secret), text)
    }

    #[test]
    fn a_secret_that_comes_back_is_masked() {
        let secret = Secret::new("Bearer hunter2".into());
        assert_eq!(
            masked(&secret, "you sent <Bearer hunter2>"),
            "you sent <***>"
        );
        assert_eq!(
            masked(&secret, r#"{"token":"hunter2"}"#),
            r#"{"token":"***"}"#
        );
        assert_eq!(
            masked(&Secret::new("a=1&key=hunter2x".into()), "your key=hunter2x"),
            "your key=***"
        );
        assert_eq!(masked(&Secret::new("c".into()), "code c"), "code c");
    }

    #[test]
    fn a_secret_is_masked_in_every_spelling() {
        let secret = Secret::new("a/b+c\"d&é".into());
        for spelled in [
            "a/b+c\"d&é",
            r#"a\/b\u002bc\"d\u0026\u00e9"#,
            "a&#47;b&#x2B;c&quot;d&amp;&#233;",
            "a%2Fb%2bc%22d%26%C3%A9",
        ] {
            assert_eq!(
                masked(&secret, &format!("<{spelled}>")),
                "<***>",
                "{spelled}"
            );
        }
        let query = Secret::new("key=hun%2Fter+2".into());
        assert_eq!(masked(&query, "the key hun/ter+2"), "the key ***");
        assert_eq!(
            masked(&Secret::new("hunter 2".into()), "q=hunter+2"),
            "q=***"
        );
        assert_eq!(masked(&Secret::new("hun%é%".into()), "hun%é%x"), "***x");
    }

    #[test]
    fn a_secret_is_masked_before_the_text_is_cut() {
        let secret = Secret::new("hunter2".repeat(20));
        let text = format!("{}{}", "x".repeat(190), secret.expose());
        let shown = excerpt(&[secret], text.as_bytes());
        assert_eq!(shown, format!("{}***", "x".repeat(190)));
    }

    /// A receiver's answer may be as large, and each `&` may begin an entity.
    #[test]
    fn a_large_text_is_masked_in_time() {
        let text = "&".repeat(16 * 1024 * 1024);
        let shown = excerpt(&[Secret::new("hunter2".into())], text.as_bytes());
        assert_eq!(shown, format!("{}…", "&".repeat(200)));
    }
}
