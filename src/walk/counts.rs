//! The second check: the counts promise a number of events, and as many have to be seen.
//!
//! `total_count` less a position is the *depth* there: the number of events at or behind it. Arrivals
//! add to both, so the depth of an event stays. A window that is linked has seen all events down from
//! its depth, unless one page boundary within it fell among events of one timestamp, and these
//! changed their order between two requests.
//!
//! Counts may be wrong by a constant number. It is measured at the list's end, where one answer shows
//! both, the count and that nothing follows. Retention lowers it.

use ::time::UtcDateTime;

use crate::error::Error;
use crate::event::{Event, Identity};
use crate::source::Missing;
use crate::walk::Walk;
use crate::walk::identities::IdentitySet;
use crate::walk::sizes::{Edge, growth};
use crate::walk::window::Slice;

/// The page sizes for reading a window again, in percent of the largest. Each has other page
/// boundaries.
const OTHER_SIZES: [u64; 4] = [93, 87, 79, 71];
/// After so many readings in vain, the counts are not worth another.
const MOST_VAIN: u32 = 40;

#[derive(Default)]
pub(super) struct Proof {
    /// How many more events the counts promise than were seen; `None` before the first window.
    balance: Option<i64>,
    /// How many events were missing in all windows so far.
    pub(super) unseen: u64,
    /// How many of them no later window has found.
    unfound: i64,
    /// How many readings in a row have found nothing that was missing.
    vain: u32,
    /// Events that are listed twice. The counts count each listing.
    twice: IdentitySet,
}

/// An event that was seen.
pub(super) struct Seen {
    time: UtcDateTime,
    identity: Identity,
    /// Where the last answer listed it; `None` without a count.
    depth: Option<i64>,
}

/// Tells if two of these pages share a timestamp: its events may have changed their order between the
/// two requests, so that one was on neither page. Where there is no count, another reading may show it.
fn is_split(pages: &[Slice]) -> bool {
    pages.windows(2).any(|pair| {
        let [newer, older] = [&pair[0].page.events, &pair[1].page.events];
        newer.last().map(|event| event.time) == older.first().map(|event| event.time)
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Walk<'_> {
    /// Takes in a window. If the counts promise more events, or there are none and ties may hide one, the
    /// window is read again with other page boundaries. Returns the page that the window begins with,
    /// and what is still missing.
    pub(super) fn prove(
        &mut self,
        mut window: Vec<Slice>,
    ) -> Result<(Slice, Option<Missing>), Error> {
        let (mark, counted) = (self.front.len(), self.cut);
        self.cut = self.cut.max(window[0].cut());
        self.due = self.due.max(window[0].due(self.latest));
        self.rest = window[0].middle(self.latest).or(self.rest);
        let excess = self.excess(&window);
        let balance = *self.proof.balance.get_or_insert(excess);
        self.take_in(&window, true);
        let mut owed = self.owed(&window);
        let mut is_doubtful = is_split(&window);
        let mut sizes = OTHER_SIZES.into_iter();
        while owed.map_or(is_doubtful, |owed| owed > balance - self.found(counted))
            && self.proof.vain < MOST_VAIN
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
            let before = self.older(self.cut);
            self.take_in(&again, false);
            let is_vain = self.older(self.cut) == before;
            self.proof.vain = if is_vain { self.proof.vain + 1 } else { 0 };
            is_doubtful = !is_vain;
            // Not by the answers of this reading: a replica that is behind would lower it.
            owed = self.owed(&window);
        }
        let found = self.found(counted);
        let missing = owed.and_then(|owed| self.settle(owed, found, &window[0]));
        self.front.retain(|seen| Some(seen.time) >= self.cut);
        for (number, slice) in window.iter().enumerate() {
            for event in &slice.page.events {
                if self.is_whole(&window, number, event) {
                    self.loose.remove(&event.id.identity());
                }
            }
        }
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

    /// How many more events these pages promise than were seen, from the first one on that is older
    /// than the cut; `None` without counts.
    fn owed(&self, pages: &[Slice]) -> Option<i64> {
        let is_newer = |event: &&Event| Some(event.time) >= self.cut;
        let newer = |slice: &Slice| slice.page.events.iter().take_while(is_newer).count();
        let is_all_newer = |slice: &&Slice| newer(slice) == slice.page.events.len();
        let place = pages.iter().take_while(is_all_newer).count();
        let first = pages.get(place).or(pages.last())?;
        let measure = first.start + newer(first) as u64;
        // Where that page's count is smaller than that of the first, a replica that is behind may have
        // left a gap before it.
        let total = first.page.total_count?.max(pages[0].page.total_count?);
        let promised = signed(total) - signed(measure);
        let is_counted = |seen: &Seen| {
            let is_older = Some(seen.time) < self.cut;
            seen.depth.map_or(is_older, |depth| depth <= promised)
        };
        let listings = |seen: &Seen| 1 + usize::from(self.proof.twice.contains(seen.identity));
        let uncounted = self.front.iter().filter(|seen| !is_counted(seen));
        let uncounted: usize = uncounted.map(listings).sum();
        let seen = self.seen.len() + self.proof.twice.len() - uncounted;
        Some(promised - signed(seen as u64))
    }

    /// Tells if as many events were seen as page 1 promises. If not, it may be linked by chance: by events
    /// that are listed twice.
    pub(super) fn is_complete(&self, first: &Slice) -> bool {
        let events = first.page.events.iter();
        let older = events.skip_while(|event| Some(event.time) >= self.cut);
        let new = older.filter(|event| self.is_new(event)).count();
        let balance = self.proof.balance.unwrap_or_default() + signed(new as u64);
        let owed = self.owed(std::slice::from_ref(first));
        owed.is_none_or(|owed| owed <= balance)
    }

    /// How many events this window found that earlier ones missed: they are older than what these
    /// `counted`.
    fn found(&self, counted: Option<UtcDateTime>) -> i64 {
        signed(self.older(counted)).min(self.proof.unfound)
    }

    /// How many events of the windows since the last cut are older than this.
    fn older(&self, time: Option<UtcDateTime>) -> u64 {
        let is_older = |seen: &&Seen| Some(seen.time) < time;
        self.front.iter().filter(is_older).count() as u64
    }

    /// Notes what the counts are wrong by after this window, and what it misses.
    fn settle(&mut self, owed: i64, found: i64, first: &Slice) -> Option<Missing> {
        let balance = self.proof.balance.replace(owed)?;
        let short = (owed - (balance - found)).max(0);
        self.proof.unfound += short - found;
        self.proof.unseen += short.unsigned_abs();
        (short > 0).then(|| Missing {
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

    /// Takes in the events of pages in a row, the oldest first. `is_window`: they are a window, linked to
    /// the last one, and not another reading of it.
    pub(super) fn take_in(&mut self, pages: &[Slice], is_window: bool) {
        let (edge, earlier) = (self.edge.map(|edge| edge.time), self.front.len());
        let mut again = Vec::new();
        for (number, slice) in pages.iter().enumerate().rev() {
            let events = &slice.page.events;
            for (place, event) in events.iter().enumerate().rev() {
                let position = slice.start + place as u64;
                let total = slice.page.total_count;
                let depth = total.map(|total| signed(total) - signed(position));
                let identity = event.id.identity();
                if self.meet(event, depth) {
                    if !(is_window && self.is_whole(pages, number, event)) {
                        self.loose.insert(identity);
                    }
                    continue;
                }
                again.push((identity, depth));
                let is_same = |other: &&Event| other.id == event.id;
                if Some(event.time) >= edge && events.iter().filter(is_same).count() > 1 {
                    self.proof.twice.insert(identity);
                }
            }
        }
        for (identity, depth) in again.into_iter().rev() {
            let is_same = |seen: &&mut Seen| seen.identity == identity;
            for seen in self.front[..earlier].iter_mut().filter(is_same) {
                seen.depth = depth;
            }
        }
    }

    /// Tells if everything that may be listed behind this event was read. It is on the window's page
    /// `number`. Others of the window's first timestamp may stand before the window now, and behind the
    /// event later. What arrivals pushed onto further pages is not counted: some of its ties may be unread.
    fn is_whole(&self, window: &[Slice], number: usize, event: &Event) -> bool {
        let newest = window[0].page.events.first().map(|event| event.time);
        Some(event.time) != newest && (number == 0 || Some(event.time) < self.cut)
    }

    /// Takes in an event; tells if it is new to this walk. It is held if the run wants it.
    fn meet(&mut self, event: &Event, depth: Option<i64>) -> bool {
        let identity = event.id.identity();
        if !self.seen.insert(identity) {
            self.figures.duplicates += 1;
            return false;
        }
        self.front.push(Seen {
            time: event.time,
            identity,
            depth,
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
