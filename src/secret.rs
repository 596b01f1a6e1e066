//! Secrets, and how they are kept out of messages.

use std::fmt;

/// A text that is never shown: it has no `Display`, and its `Debug` does not tell it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text into care.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the header that it is meant for.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Takes it out of a text that came back, since some proxies and receivers answer with what
    /// they were sent: the whole of it and any of its parts (`Bearer` stands beside the token, and
    /// a query has several values). What has no more than three characters is no secret, and would
    /// be found everywhere.
    #[must_use]
    pub fn mask(&self, text: impl Into<String>) -> String {
        let parts = self
            .0
            .split(|c: char| c.is_whitespace() || matches!(c, '&' | '=' | ';' | ','));
        let mut parts: Vec<&str> = parts
            .chain([self.0.trim()])
            .filter(|part| part.len() > 3)
            .collect();
        // The whole goes before its parts.
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.into_iter().fold(text.into(), |text, part| {
            if text.contains(part) {
                text.replace(part, MASK)
            } else {
                text
            }
        })
    }
}

/// What stands in the place of a secret: nothing that a part of another could be found in.
const MASK: &str = "***";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
