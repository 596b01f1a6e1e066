//! Secrets, and how they are kept out of messages.

use std::cmp::Reverse;
use std::fmt;

/// The replacement for a secret: shorter than any part that is masked, so that none occurs in it.
const MASK: &str = "***";

/// A text that is never shown: it has no `Display`, and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Marks a text as secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for a request and never for a message.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Replaces the secret by `***` in a text that came back.
    ///
    /// Some proxies and receivers repeat what they were sent, as a whole or in part: `Bearer`
    /// precedes the token, and a query has several values. Parts of at most three characters are
    /// left alone, since they occur in ordinary words.
    #[must_use]
    pub fn mask(&self, text: impl Into<String>) -> String {
        let is_separator = |c: char| c.is_whitespace() || matches!(c, '&' | '=' | ';' | ',');
        let mut parts: Vec<&str> = self.0.split(is_separator).chain([self.0.trim()]).collect();
        parts.retain(|part| part.len() > MASK.len());
        // The whole first: masked after its parts, it would not be found.
        parts.sort_by_key(|part| Reverse(part.len()));
        parts
            .into_iter()
            .fold(text.into(), |text, part| text.replace(part, MASK))
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

    #[test]
    fn a_secret_that_comes_back_is_masked() {
        let secret = Secret::new("Bearer hunter2".into());
        assert_eq!(secret.mask("you sent <Bearer hunter2>"), "you sent <***>");
        assert_eq!(secret.mask(r#"{"token":"hunter2"}"#), r#"{"token":"***"}"#);
        assert_eq!(
            Secret::new("a=1&key=hunter2x".into()).mask("your key=hunter2x"),
            "your key=***"
        );
        assert_eq!(Secret::new("c".into()).mask("code c"), "code c");
    }
}
