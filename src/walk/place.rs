//! The arithmetic of pages: which page begins and ends where in the list.
//!
//! A position is the number of newer events in the list. A page of any size up to the largest can
//! be asked for, so a page can be made to reach any position and to begin nearly anywhere.

use time::OffsetDateTime;

use crate::source::page::Page;

/// The part of a page, as a divisor, by which each window reaches back into the last one at least.
const OVERLAP: u64 = 64;

/// A page as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) size: u64,
    /// The position of the page's first event, by what is known of the service's sizes.
    pub(super) start: u64,
}

/// The newest end of what was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    /// The position of its event, when it was read.
    pub(super) position: u64,
    /// `total_count` at that time.
    pub(super) total: Option<u64>,
    /// Every event that is older than this, and listed at or behind the edge, was seen.
    pub(super) read_before: OffsetDateTime,
    /// The timestamp of its event.
    pub(super) time: OffsetDateTime,
    /// How many events of this timestamp were seen.
    pub(super) ties: u64,
    /// By how many events the list grew lately.
    pub(super) drift: u64,
}

impl Edge {
    /// The edge as it lies by a later count: arrivals have pushed it to a higher position.
    pub(super) fn pushed(self, total: Option<u64>) -> Self {
        let drift = growth(total, self.total);
        Self {
            position: self.position + drift,
            total,
            drift,
            ..self
        }
    }
}

/// By how many events the list has grown between two counts; 0 without both.
pub(super) fn growth(now: Option<u64>, then: Option<u64>) -> u64 {
    match (now, then) {
        (Some(now), Some(then)) => now.saturating_sub(then),
        _ => 0,
    }
}

/// What is known of the page sizes that the service grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The size to ask for; the largest that is asked for.
    asked: u64,
    /// The size of the pages that come then.
    pub(super) effective: u64,
    /// Whether a smaller page has that smaller size, or the same size whatever is asked for; `None`
    /// as long as no answer has told.
    pub(super) follows: Option<bool>,
}

impl Sizes {
    pub(super) fn new(asked: u64) -> Self {
        Self {
            asked,
            effective: asked,
            follows: None,
        }
    }

    /// Learns from an answer, and returns the size that the page has.
    pub(super) fn learn(&mut self, place: Place, page: &Page) -> u64 {
        let length = page.events.len() as u64;
        let told = page.size.filter(|&size| size >= length);
        // A page that another one follows is full. What the answer says is only a claim.
        let full = page.next.map(|_| length).filter(|&length| length > 0);
        let Some(size) = full.or(told) else {
            return if length > place.size || self.is_fixed() {
                self.effective.max(length)
            } else {
                place.size.min(self.effective)
            };
        };
        if size > place.size {
            (self.follows, self.effective) = (Some(false), size);
        } else if size < place.size {
            self.effective = self.effective.min(size);
        } else if size < self.effective {
            self.follows = Some(true);
        }
        size
    }

    fn is_fixed(&self) -> bool {
        self.follows == Some(false)
    }

    /// Tells if a page of this place begins where it should, if the list reaches there.
    pub(super) fn is_certain(&self, place: Place) -> bool {
        self.follows.is_some() || place.size == self.effective
    }

    /// The page of this number, in pages of the largest size.
    pub(super) fn page(&self, number: u64) -> Place {
        let size = if self.is_fixed() {
            self.asked
        } else {
            self.effective
        };
        Place {
            number,
            size,
            start: (number - 1).saturating_mul(self.effective),
        }
    }

    /// The page that holds this position, with pages of about this percentage of the largest size.
    pub(super) fn around(&self, position: u64, percent: u64) -> Place {
        if self.is_fixed() {
            return self.page(position / self.effective + 1);
        }
        let size = (self.effective * percent / 100).max(1);
        let number = position / size + 1;
        Place {
            number,
            size,
            start: (number - 1) * size,
        }
    }

    /// The page that reaches as far towards the newest event as one can that holds the position
    /// before `end`.
    pub(super) fn reaching(&self, end: u64) -> Place {
        let last = end.max(1) - 1;
        if self.is_fixed() {
            return self.around(last, 100);
        }
        let sizes = self.effective.div_ceil(2)..=self.effective;
        let size = sizes.max_by_key(|size| last % size).unwrap_or(1);
        Place {
            number: last / size + 1,
            size,
            start: last / size * size,
        }
    }

    /// The page for the window before this edge: it begins nearer to the newest event, and reaches
    /// back behind the edge and its ties as far as a page of this size can.
    pub(super) fn before(&self, edge: Edge) -> Place {
        let overlap = self.overlap(edge);
        let place = self.reaching(edge.position + overlap);
        if !self.is_fixed() && overlap * 2 <= self.effective && place.start < edge.position {
            return place;
        }
        // The pages behind it are read as well, until the window is linked: so there are several.
        let pages = overlap.div_ceil(self.effective);
        let number = edge.position.div_ceil(self.effective).max(pages) + 1 - pages;
        self.page(number)
    }

    /// How many pages a window usually needs: where each has the same size, no page overlaps the
    /// last window.
    pub(super) fn pages_of_a_window(&self) -> usize {
        1 + usize::from(self.is_fixed())
    }

    /// How far a window should reach back behind the edge, in events.
    pub(super) fn overlap(&self, edge: Edge) -> u64 {
        (self.effective / OVERLAP).max(1) + edge.ties + 2 * edge.drift
    }
}
