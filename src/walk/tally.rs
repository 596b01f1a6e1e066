//! The proof by counts: how many events a window should find.

use ::time::OffsetDateTime;

use crate::event::Event;
use crate::walk::identities::IdentitySet;
use crate::walk::is_older;
use crate::walk::numbered::Numbered;

/// The number of events that a window should find, by the answers of its reading.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) cut: Option<OffsetDateTime>,
    /// The count of the whole list, less the events before the first one that is older than the cut,
    /// by the page of that event.
    pub(super) promised: Option<u64>,
    /// The number of that page, and of the last page.
    pub(super) measure: Option<u64>,
    pub(super) page: u64,
    /// The effective page size.
    pub(super) size: u64,
    /// The events up to and on that page that are not older than the cut.
    pub(super) newer: IdentitySet,
    /// An event older than the cut was listed.
    pub(super) met_older: bool,
    /// The first answer's page number, the oldest time of events that may have come after it, and
    /// its `total_count`. That time allows for events that appear a little late, and for newest
    /// events that are stamped ahead.
    pub(super) first: Option<(u64, Option<OffsetDateTime>, Option<u64>)>,
    /// The number of events by which the list has grown since.
    pub(super) grown: u64,
    /// The number of events found on later pages that may have come since.
    pub(super) new: u64,
}

impl Tally {
    pub(super) fn new(cut: Option<OffsetDateTime>) -> Self {
        Self {
            cut,
            ..Self::default()
        }
    }

    /// Adds a page, before its events.
    pub(super) fn answered(&mut self, numbered: &Numbered) {
        let (page, number) = (&numbered.page, numbered.number);
        (self.page, self.size) = (number, numbered.size);
        let &mut (_, _, then) = self.first.get_or_insert_with(|| {
            let since = [page.date, numbered.cut()].into_iter().flatten().min();
            (number, since, page.total_count)
        });
        if let (Some(now), Some(then)) = (page.total_count, then) {
            self.grown = self.grown.max(now.saturating_sub(then));
        }
        if self.measure.is_some() {
            return;
        }
        let mut before = (number - 1).saturating_mul(numbered.size);
        for event in &page.events {
            if is_older(event, self.cut) {
                self.measure = Some(number);
            } else {
                self.newer.insert(event.id.identity());
                before += 1;
            }
        }
        if self.measure.is_some() {
            self.promised = page.total_count.map(|total| total.saturating_sub(before));
        }
    }

    /// Adds an event of that page that is older than the cut and new to this walk.
    pub(super) fn found(&mut self, event: &Event) {
        if let Some((first, Some(since), _)) = self.first
            && self.page > first
            && event.time >= since
        {
            self.new += 1;
        }
    }

    /// Tells if no arrivals can have pushed an event of that page behind an older one.
    pub(super) fn is_placed(&self) -> bool {
        let pushed = self.grown.div_ceil(self.size.max(1));
        self.measure
            .is_some_and(|measure| self.page == measure || self.page > measure + pushed)
    }

    /// The number of events that the windows up to this one should have found or carried; `None`
    /// without counts.
    ///
    /// An event that came after the first answer must not replace one that this answer counts. At
    /// most as many came as the list has grown by, and only events as new as that answer can be among
    /// them. That is rare: arrivals stay behind a reading, unless more than a page of them comes
    /// between two requests.
    pub(super) fn owed(&self) -> Option<u64> {
        self.promised
            .map(|promised| promised + self.grown.min(self.new))
    }
}
