//! Secrets, and how they are kept out of messages.

use std::cmp::Reverse;
use std::fmt;

use percent_encoding::percent_decode_str;

use crate::text;

/// The replacement for a secret: shorter than any part that is masked, so that none occurs in it.
const MASK: &str = "***";

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
    let mut parts: Vec<String> = secrets.iter().flat_map(Secret::parts).collect();
    // The whole first: masked after its parts, it would not be found.
    parts.sort_by_key(|part| Reverse(part.len()));
    // The characters with which a part can begin, in any spelling.
    let mut begins: Vec<char> = parts
        .iter()
        .filter_map(|part| part.chars().next())
        .collect();
    begins.extend(['\\', '&', '%', '+']);
    let (mut masked, mut rest) = (String::new(), text);
    while let Some(place) = rest.find(begins.as_slice()) {
        masked.push_str(&rest[..place]);
        rest = &rest[place..];
        if let Some(end) = parts.iter().find_map(|part| strip_spelled(rest, part)) {
            masked.push_str(MASK);
            rest = end;
        } else {
            let mut characters = rest.chars();
            masked.extend(characters.next());
            rest = characters.as_str();
        }
    }
    masked + rest
}

/// Prepares foreign text for a message: secrets are masked first, and the rest is cut then, so that
/// half a secret never remains.
pub fn excerpt(secrets: &[Secret], bytes: &[u8]) -> String {
    text::excerpt(mask(secrets, &String::from_utf8_lossy(bytes)).as_bytes())
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
    if let Some(rest) = text.strip_prefix('\\') {
        let code = rest
            .strip_prefix('u')
            .and_then(|rest| rest.split_at_checked(4));
        return match code {
            Some((code, rest)) if is(code, 16) => Some(rest),
            _ => rest.strip_prefix(character),
        };
    }
    if let Some(rest) = text.strip_prefix('&') {
        let (entity, rest) = rest.split_once(';')?;
        let is_character = match (entity, entity.strip_prefix("#x"), entity.strip_prefix('#')) {
            (_, Some(code), _) => is(code, 16),
            (_, _, Some(code)) => is(code, 10),
            ("amp", ..) => character == '&',
            ("lt", ..) => character == '<',
            ("gt", ..) => character == '>',
            ("quot", ..) => character == '"',
            ("apos", ..) => character == '\'',
            _ => false,
        };
        return is_character.then_some(rest);
    }
    if character == ' ' && text.starts_with('+') {
        return text.strip_prefix('+');
    }
    character.to_string().bytes().try_fold(text, |rest, byte| {
        let (code, rest) = rest.strip_prefix('%')?.split_at_checked(2)?;
        (u8::from_str_radix(code, 16) == Ok(byte)).then_some(rest)
    })
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
}
