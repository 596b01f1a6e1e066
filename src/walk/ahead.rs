//! Requests ahead: how many windows are requested before the walk needs them.

use crate::walk::Walk;
use crate::walk::sizes::growth;

/// The most bytes of pages that are requested ahead, by the largest page so far.
const MOST_AHEAD: u64 = 64 * 1024 * 1024;

/// As many requests ahead are enough for a service that answers faster than the walk needs it. Their
/// pages take memory.
const FEW: usize = 3;

impl Walk<'_> {
    /// How many requests may be made ahead.
    pub(super) fn most_ahead(&self, has_delivered: bool) -> u64 {
        let unseen = self.known.len().saturating_sub(self.known_seen) as u64;
        let known_pages = unseen / self.sizes.effective;
        let most = self.scope.connections;
        if has_delivered {
            most
        } else {
            most.min(known_pages)
        }
    }

    /// Requests the next windows, up to page 1, at most so many at once.
    pub(super) fn request_ahead(&mut self, connections: u64) {
        let (Some(edge), Some(first)) = (self.edge, &self.first) else {
            return;
        };
        let end = first.page.events.len() as u64 + growth(self.total, first.page.total_count);
        let mut most = (MOST_AHEAD / self.largest.max(1)).min(connections);
        if self.patience.deadline.is_some() {
            // What the time limit throws away is not much more than what was delivered.
            most = most.min(self.windows);
        }
        let planned = self.planned.filter(|_| !self.ahead.is_empty());
        let mut edge = planned.unwrap_or(edge).pushed(self.total);
        while (self.ahead.len() as u64) < most && edge.position + self.sizes.reach_back(edge) > end
        {
            // Its newest answer is there already: the service is faster than the walk.
            let is_fast = self
                .ahead
                .back()
                .is_some_and(|(_, newest)| newest.is_ready());
            if is_fast && self.ahead.len() >= FEW {
                break;
            }
            let place = self.sizes.before(edge);
            if !self.sizes.is_certain(place) {
                break;
            }
            let pages = self.pages;
            self.ahead
                .push_back((place, pages.begin(self.ask(place, true))));
            edge.position = place.start;
        }
        self.planned = Some(edge);
    }
}
