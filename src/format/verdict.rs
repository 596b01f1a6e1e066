//! What a receiver's answer means for the events of its request, by the status.

use std::borrow::Cow;
use std::time::Duration;

use crate::retry;

/// The verdict of a format without a rule of its own.
pub(super) fn by_status(answer: &Answer) -> Verdict {
    let message = answer.message();
    match answer.status {
        200..300 => Verdict::accepted(),
        413 => Verdict::new(Rest::TooLarge, message),
        400 | 422 => Verdict::new(Rest::RefusedEvents, message),
        status if retry::is_retryable(status) => Verdict::new(Rest::Retry, message),
        status => {
            let remedy = match status {
                300..=399 => "; redirects are not followed: is the address right?",
                401 | 403 | 407 => CREDENTIAL,
                404 | 405 | 410 => "; is the address right?",
                _ => "",
            };
            Verdict::new(Rest::Refused, message + remedy)
        }
    }
}

/// The remedy where a receiver refuses the sender.
pub(super) const CREDENTIAL: &str = "; check the credential (--header)";

/// A receiver's answer.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The receiver, as messages name it.
    pub origin: &'a str,
    /// The status.
    pub status: u16,
    /// The body as the receiver sent it; `None` if it broke off.
    pub body: Option<&'a [u8]>,
    /// The body as messages show it.
    pub said: &'a str,
    /// Makes a part of the body fit to be shown: without secrets, cut and escaped.
    pub show: &'a dyn Fn(&[u8]) -> String,
}

impl Answer<'_> {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.body.unwrap_or_default())
    }

    /// Whether a 2xx is an HTML page.
    pub(super) fn is_login_page(&self) -> bool {
        let text = self.body.unwrap_or_default().trim_ascii_start();
        let start = text[..text.len().min(16)].to_ascii_lowercase();
        let is_page = start.starts_with(b"<!doctype html") || start.starts_with(b"<html");
        self.is_success() && is_page
    }

    /// The answer in words: `https://siem.example.com: answered 503: busy`.
    pub(super) fn message(&self) -> String {
        let message = format!("{}: answered {}", self.origin, self.status);
        match self.said {
            "" => message,
            said => format!("{message}: {said}"),
        }
    }

    /// The verdict on a 2xx whose body does not acknowledge. A whole body of another kind comes
    /// from another product than was meant.
    pub(super) fn without_acknowledgement(&self, kind: &str) -> Verdict {
        let message = self.message();
        match self.body {
            None => Verdict::new(Rest::Retry, format!("{message}, and the answer broke off")),
            Some(_) => Verdict::new(
                Rest::Refused,
                format!("{message}, which {kind}: is the address right?"),
            ),
        }
    }
}

/// The outcome of a request: the events that the receiver took, and what the others need.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The events that it took.
    pub taken: Taken,
    /// What the other events need.
    pub rest: Rest,
    /// The answer in words.
    pub message: String,
    /// The wait that the receiver asked for.
    pub wait: Option<Duration>,
}

/// The events of a request that the receiver took.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of them.
    All,
    /// None, as far as the answer tells.
    None,
    /// Those before the event with this number. Products count from 0 or from 1, and may do so
    /// differently for each `code` of their answers.
    Before {
        /// The number of the first event that was not taken.
        number: usize,
        /// The answer's code.
        code: u64,
    },
    /// Each event has an outcome of its own, in their order.
    Items(Vec<Fate>),
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The receiver took it.
    Taken,
    /// The receiver refused it because of its content, and why.
    Refused(String),
    /// The receiver has neither taken nor refused it.
    Open,
}

/// What the events need that were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// No event is left.
    Nothing,
    /// A retry: the receiver failed, and that may pass.
    Retry,
    /// A retry, but not many: the receiver may have taken the events without an answer.
    Unanswered,
    /// A retry, or smaller bodies: the connection broke off, and the body was large.
    Reset,
    /// Smaller bodies: this one was too large.
    TooLarge,
    /// To be told apart: at least one event was refused because of its content.
    RefusedEvents,
    /// A change of the options: the receiver would refuse any other request.
    Refused,
    /// A change of something else: the receiver failed, and a retry would fail as well.
    Failed,
}

impl Verdict {
    /// The receiver acknowledges all events.
    pub fn accepted() -> Self {
        Self {
            taken: Taken::All,
            ..Self::new(Rest::Nothing, String::new())
        }
    }

    /// The receiver took nothing, as far as is known.
    pub fn new(rest: Rest, message: String) -> Self {
        Self {
            taken: Taken::None,
            rest,
            message,
            wait: None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::format::{FORMATS, Format};

    /// An answer that is whole and names nobody.
    pub(in crate::format) fn answer(status: u16, body: &str) -> Answer<'_> {
        Answer {
            origin: "there",
            status,
            body: Some(body.as_bytes()),
            said: body,
            show: &|text| String::from_utf8_lossy(text).into_owned(),
        }
    }

    /// The verdict on such an answer to two events, as the letter that the cases use.
    pub(in crate::format) fn judged(format: Format, status: u16, body: &str) -> char {
        match format.judge(&answer(status, body), 2).rest {
            Rest::Nothing => 'a',
            Rest::Retry => 't',
            Rest::Failed => 'p',
            Rest::TooLarge => 'l',
            Rest::RefusedEvents => 'e',
            Rest::Refused => 'r',
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_status_means_the_same_in_every_format() {
        let statuses = [
            (200, 'a'),
            (202, 'a'),
            (204, 'a'),
            (302, 'r'),
            (400, 'e'),
            (401, 'r'),
            (403, 'r'),
            (404, 'r'),
            (405, 'r'),
            (407, 'r'),
            (408, 't'),
            (409, 'r'),
            (410, 'r'),
            (413, 'l'),
            (415, 'r'),
            (422, 'e'),
            (425, 't'),
            (429, 't'),
            (500, 't'),
            (501, 'r'),
            (502, 't'),
            (503, 't'),
            (504, 't'),
        ];
        for (status, verdict) in statuses {
            for (name, format) in FORMATS {
                // A product acknowledges by its own rule.
                let own = !matches!(format, Format::Ndjson | Format::JsonArray | Format::Json);
                // OTLP lists what is retried.
                let own_failure = format == Format::Otlp && verdict == 't';
                if !(own && status < 300 || own_failure) {
                    assert_eq!(judged(format, status, ""), verdict, "{name} {status}");
                }
            }
        }
    }

    #[test]
    fn a_login_page_acknowledges_nothing() {
        for page in ["<!DOCTYPE html><p>", "\n <html lang=en>", "<HTML>"] {
            for (name, format) in FORMATS {
                assert_eq!(judged(format, 200, page), 'r', "{name} {page}");
            }
        }
        assert_eq!(judged(Format::Ndjson, 503, "<html>"), 't');
        assert_eq!(judged(Format::Ndjson, 200, "<htm"), 'a');
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (status, remedy) in [
            (302, "there: answered 302; redirects are not followed"),
            (401, "there: answered 401; check the credential"),
            (404, "there: answered 404; is the address right?"),
        ] {
            let verdict = Format::Ndjson.judge(&answer(status, ""), 2);
            assert!(verdict.message.starts_with(remedy), "{verdict:?}");
        }
    }
}
