//! The service as the walk sees it: a list that is read page by page.
//!
//! [`client::Client`] is the service over HTTP. Tests implement [`Source`], too.

pub mod client;
pub mod gate;
pub mod page;
pub mod requests;

use std::fmt;
use std::time::Duration;

use time::UtcDateTime;

use crate::retry::Failure;
use crate::source::gate::Gate;
use crate::source::page::Page;

/// A request for one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// List only events after this time, a whole second. The documentation leaves open whether
    /// events of exactly this time are listed.
    pub since: Option<UtcDateTime>,
    /// The number of the page. Page 1 is the newest.
    pub number: u64,
    /// How many events to list on a page.
    pub size: u64,
}

/// Something that answers with pages, also to several requests at once.
pub trait Source {
    /// Makes one request without a retry, and returns within `timeout`. Returns `None` if no page has
    /// this number.
    ///
    /// # Errors
    /// The fault, and whether a retry may succeed.
    fn page(&self, request: &PageRequest, timeout: Duration) -> Result<Option<Page>, Failure>;

    /// What all requests wait for. The service's answers tell its pace.
    fn gate(&self) -> &Gate;
}

/// Events that the service counts but did not list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// How many were on no page.
    pub unseen: u64,
    /// How many the service counts.
    pub promised: u64,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the service counts {} events, but {} of them were on none of its pages, however often these were read: they are lost unless they appear within the overlap (to look for them later: --no-checkpoint --since TIME --until TIME)",
            self.promised, self.unseen
        )
    }
}
