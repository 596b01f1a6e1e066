//! What the walk needs of the API: one page at a time. The API client is one such source; tests
//! bring their own.

pub mod ahead;
pub mod client;
pub mod page;
pub mod scan;

use std::fmt;
use std::time::Duration;

use time::OffsetDateTime;

use crate::retry::Failure;
use crate::source::page::Page;

/// Which page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Only events created after this time, a whole second; the API does not say whether events
    /// of exactly this time are among them.
    pub since: Option<OffsetDateTime>,
    /// The page's number, from 1, which is the newest.
    pub number: u64,
    /// How many events a page is to hold.
    pub size: u64,
}

/// Something that answers with pages; several may be asked for at once.
pub trait Source {
    /// Makes one request, with no second try, and returns within `timeout`.
    ///
    /// # Errors
    /// What went wrong, and whether another try may do better.
    fn page(&self, request: &PageRequest, timeout: Duration) -> Result<Page, Failure<SourceError>>;
}

/// Why the source gave no page.
#[derive(Debug, PartialEq, Eq)]
pub enum SourceError {
    /// It refused the token, or the organization has no audit trails: 401, 403, 404.
    Refused(String),
    /// There is no page of this number: 400, 404 or 422 for a page other than the first.
    NoSuchPage(String),
    /// It failed, or answered something that is not documented.
    Failed(String),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(message) | Self::NoSuchPage(message) | Self::Failed(message)) = self;
        f.write_str(message)
    }
}

impl std::error::Error for SourceError {}

/// Events that the source counts but did not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// How many were not seen.
    pub unseen: u64,
    /// How many there should be.
    pub promised: u64,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the service counts {} events, but {} of them were on none of its pages, read five times: they are lost unless they appear within the overlap",
            self.promised, self.unseen
        )
    }
}
