//! A page in its place in the list, and the order of its events.

use ::time::OffsetDateTime;

use crate::error::Error;
use crate::source::ahead::{Forward, More};
use crate::source::page::Page;
use crate::walk::broken;

/// The part of a window's first page that is left to the next window, as a divisor: an eighth of the
/// page may be stamped newer than its place before the cut is wrong.
const LEFT: usize = 8;

/// A page with its place.
pub(super) struct Numbered {
    pub(super) number: u64,
    /// The effective page size by this answer.
    pub(super) size: u64,
    /// Not announced by `next_page`.
    pub(super) is_guess: bool,
    pub(super) oldest: Option<OffsetDateTime>,
    pub(super) page: Page,
}

impl Numbered {
    pub(super) fn new(place: &Forward, page: Page) -> Self {
        Self {
            number: place.number,
            size: place.effective_size(&page),
            is_guess: place.more == More::Perhaps,
            oldest: page.events.iter().map(|event| event.time).min(),
            page,
        }
    }

    /// Tells if the page is not full, so that nothing can have been pushed over its end.
    pub(super) fn is_short(&self) -> bool {
        (self.page.events.len() as u64) < self.size
    }

    /// Tells if the first page is the whole list.
    pub(super) fn is_whole_list(&self) -> bool {
        self.number == 1 && self.page.next.is_none() && self.is_short()
    }

    /// The cut of a window that begins with this page: its newest timestamp, without the eighth of
    /// the page that may be stamped newer than its place.
    pub(super) fn cut(&self) -> Option<OffsetDateTime> {
        self.newest_but(self.page.events.len().div_ceil(LEFT))
    }

    /// The page's median timestamp.
    pub(super) fn middle(&self) -> Option<OffsetDateTime> {
        self.newest_but(self.page.events.len().div_ceil(2))
    }

    /// The timestamp after skipping the `count` newest, or the oldest.
    pub(super) fn newest_but(&self, count: usize) -> Option<OffsetDateTime> {
        let mut times: Vec<_> = self.page.events.iter().map(|event| event.time).collect();
        let place = times.len().checked_sub(1)?.saturating_sub(count);
        Some(*times.select_nth_unstable(place).1)
    }
}

/// The order of a reading's events, by neighbours that differ.
#[derive(Default)]
pub(super) struct Order {
    pub(super) rising: usize,
    pub(super) falling: usize,
}

impl Order {
    pub(super) fn take_in(&mut self, numbered: &Numbered) {
        let pairs = || numbered.page.events.windows(2);
        self.rising += pairs().filter(|pair| pair[0].time < pair[1].time).count();
        self.falling += pairs().filter(|pair| pair[0].time > pair[1].time).count();
    }

    /// Refuses a list that is nearly all oldest first: a walk of several windows would deliver the
    /// newest first. A few events out of order do not matter.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.rising > 4 * self.falling + 8 {
            return Err(broken("its events are oldest first, not newest first"));
        }
        Ok(())
    }
}
