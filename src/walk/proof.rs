//! The second check: what the counts promise, against what was seen.
//!
//! `total_count` less a page's position is the number of events at or behind that position. A window
//! that is linked has seen all of them, unless one page boundary within it fell among events of one
//! timestamp, and these changed their order between two requests.
//!
//! What the counts are wrong by is the same from window to window. It is measured at the list's end,
//! where one answer shows both, the count and that nothing follows. Retention lowers it.

use ::time::OffsetDateTime;

use crate::error::Error;
use crate::event::{Event, Identity};
use crate::source::Missing;
use crate::walk::Walk;
use crate::walk::identities::IdentitySet;
use crate::walk::place::{Edge, growth};
use crate::walk::reading::Slice;

/// The page sizes for reading a window again, in percent of the largest. Each has other page
/// boundaries.
const OTHER_SIZES: [u64; 4] = [93, 87, 79, 71];

#[derive(Default)]
pub(super) struct Proof {
    /// How many events more the counts promise than were seen; `None` before the first window.
    balance: Option<i64>,
    /// How many events were missing in all windows so far.
    pub(super) unseen: u64,
    /// Events that are listed twice. Each listing counts.
    twice: IdentitySet,
}

/// An event that was seen.
pub(super) struct Seen {
    time: OffsetDateTime,
    identity: Identity,
    /// It was listed behind an older one.
    is_misplaced: bool,
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Walk<'_> {
    /// Takes in a window. If the counts promise more events, the window is read again with other
    /// page boundaries. Returns the page that the window begins with, and what is still missing.
    pub(super) fn prove(
        &mut self,
        mut window: Vec<Slice>,
    ) -> Result<(Slice, Option<Missing>), Error> {
        let mark = self.front.len();
        self.cut = self.cut.max(window[0].cut());
        self.due = self.due.max(window[0].due(self.latest));
        self.rest = window[0].middle(self.latest).or(self.rest);
        let excess = self.excess(&window);
        let balance = *self.proof.balance.get_or_insert(excess);
        self.take_in(&window);
        let mut owed = self.owed(&window, mark);
        let mut sizes = OTHER_SIZES.into_iter();
        while owed.is_some_and(|owed| owed > balance)
            && let Some(percent) = sizes.next()
        {
            let first = &window[0];
            let pushed = growth(self.total, first.page.total_count);
            let start = if first.start == 0 {
                0
            } else {
                first.start + pushed
            };
            let (_, first) = self.read_sized(|sizes| sizes.around(start, percent), false)?;
            let Some(first) = first else {
                continue;
            };
            let own = self.front[mark..].iter().map(|seen| seen.identity);
            let again = self.read_on(first, &own.collect())?;
            self.take_in(&again);
            // A page of another size than was asked for may begin elsewhere.
            if again[0].start > start {
                continue;
            }
            // A replica that is behind, answering later, does not lower what is owed.
            if again[0].page.total_count >= window[0].page.total_count {
                owed = self.owed(&again, mark);
            }
        }
        let missing = owed.and_then(|owed| self.settle(owed, balance, &window[0]));
        self.front.retain(|seen| Some(seen.time) >= self.cut);
        let first = window.swap_remove(0);
        self.edge = first.page.events.first().map(|&Event { time, .. }| Edge {
            position: first.start,
            total: first.page.total_count,
            time,
            drift: 0,
            ties: self.front.iter().filter(|seen| seen.time == time).count() as u64,
        });
        Ok((first, missing))
    }

    /// How many events older than the cut are promised by these pages, more than were seen; `None`
    /// without counts.
    fn owed(&self, pages: &[Slice], mark: usize) -> Option<i64> {
        let is_newer = |event: &&Event| Some(event.time) >= self.cut;
        let newer = |slice: &Slice| slice.page.events.iter().take_while(is_newer).count();
        // Everything is counted that is listed from the first older event on.
        let is_all_newer = |slice: &&Slice| newer(slice) == slice.page.events.len();
        let place = pages.iter().take_while(is_all_newer).count();
        let first = pages.get(place)?;
        let measure = first.start + newer(first) as u64;
        // Where that page's count is smaller than that of the first, a replica that is behind may have
        // left a gap before it.
        let total = first.page.total_count?.max(pages[0].page.total_count?);
        let promised = signed(total) - signed(measure);
        // Newer events that were seen count if they stand behind it, out of their place, and were not
        // pushed there by arrivals.
        let (mut before_it, mut behind_it) = (IdentitySet::default(), IdentitySet::default());
        for slice in pages {
            let pushed = growth(slice.page.total_count, first.page.total_count);
            for (position, event) in (slice.start..).zip(&slice.page.events) {
                let set = if position < measure + pushed {
                    &mut before_it
                } else {
                    &mut behind_it
                };
                if is_newer(&event) {
                    set.insert(event.id.identity());
                }
            }
        }
        // So do those of earlier windows if an older one is listed before the edge.
        let edge = self
            .edge
            .map(|edge| edge.pushed(pages[0].page.total_count).position);
        let before_edge = (pages[0].start..).zip(&pages[0].page.events);
        let before_edge = before_edge.filter(|&(position, _)| Some(position) < edge);
        let oldest = before_edge.map(|(_, event)| event.time).min();
        let is_counted = |(place, newer): &(usize, &Seen)| {
            let is_misplaced = newer.is_misplaced
                || *place < mark && oldest.is_some_and(|oldest| oldest < newer.time);
            let is_behind = behind_it.contains(newer.identity) || is_misplaced;
            Some(newer.time) < self.cut || is_behind && !before_it.contains(newer.identity)
        };
        let listings = |newer: &Seen| 1 + usize::from(self.proof.twice.contains(newer.identity));
        let uncounted = self.front.iter().enumerate();
        let uncounted = uncounted.filter(|newer| !is_counted(newer));
        let uncounted: usize = uncounted.map(|(_, newer)| listings(newer)).sum();
        let seen = self.seen.len() + self.proof.twice.len() - uncounted;
        Some(promised - signed(seen as u64))
    }

    /// Notes what the counts are wrong by after this window, and what it misses.
    fn settle(&mut self, owed: i64, balance: i64, first: &Slice) -> Option<Missing> {
        self.proof.balance = Some(owed);
        let short = u64::try_from(owed - balance)
            .ok()
            .filter(|&short| short > 0)?;
        self.proof.unseen += short;
        Some(Missing {
            unseen: self.proof.unseen,
            promised: first.page.total_count.unwrap_or_default(),
        })
    }

    /// What the counts are wrong by, by the answer at the list's end. Where they should be right,
    /// since the whole list was asked for, events that they promise are missing.
    fn excess(&self, window: &[Slice]) -> i64 {
        let excess = window.last().and_then(|last| {
            let listed = last.page.events.len() as u64;
            Some(signed(last.page.total_count?).saturating_sub(signed(last.start + listed)))
        });
        let excess = excess.unwrap_or_default();
        if self.scope.since.is_some() {
            excess
        } else {
            excess.min(0)
        }
    }

    /// Takes in the events of pages in a row.
    pub(super) fn take_in(&mut self, pages: &[Slice]) {
        let (mut oldest, mut total) = (None, None);
        let mut rows = Vec::new();
        for slice in pages {
            let events = &slice.page.events;
            // Arrivals push the last events of a page to the next one.
            oldest = oldest.filter(|_| total == slice.page.total_count);
            total = slice.page.total_count;
            for event in events {
                let is_misplaced = oldest.is_some_and(|oldest| event.time > oldest);
                rows.push((event, is_misplaced, events));
                oldest = oldest.into_iter().chain([event.time]).min();
            }
        }
        let edge = self.edge.map(|edge| edge.time);
        for (event, is_misplaced, page) in rows.into_iter().rev() {
            if self.meet(event, is_misplaced) {
                continue;
            }
            let identity = event.id.identity();
            let is_same = |other: &&Event| other.id == event.id;
            if Some(event.time) >= edge && page.iter().filter(is_same).count() > 1 {
                self.proof.twice.insert(identity);
            }
            if is_misplaced {
                for seen in &mut self.front {
                    seen.is_misplaced |= seen.identity == identity;
                }
            }
        }
    }

    /// Takes in an event; tells if it is new to this walk. It is held if the run wants it.
    fn meet(&mut self, event: &Event, is_misplaced: bool) -> bool {
        let identity = event.id.identity();
        if !self.seen.insert(identity) {
            self.figures.duplicates += 1;
            return false;
        }
        self.front.push(Seen {
            time: event.time,
            identity,
            is_misplaced,
        });
        if self.known.contains(identity) {
            self.known_seen += 1;
            self.figures.duplicates += 1;
        } else if self.scope.holds(event) {
            self.held.push(event.clone());
        }
        true
    }

    pub(super) fn is_new(&self, event: &Event) -> bool {
        !self.seen.contains(event.id.identity())
    }
}
