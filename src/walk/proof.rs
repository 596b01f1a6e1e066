//! The proof: a window is complete, or the run says how many events are missing.

use std::cmp::Reverse;
use std::collections::VecDeque;

use ::time::OffsetDateTime;

use crate::error::Error;
use crate::event::{Event, Identity};
use crate::source::Missing;
use crate::source::ahead::More;
use crate::walk::identities::IdentitySet;
use crate::walk::numbered::Numbered;
use crate::walk::tally::Tally;
use crate::walk::{Carried, Walk, Window, is_older};

/// The page sizes for reading a window again, in percent of the effective one. Each has other page
/// boundaries.
const OTHER_SIZES: [u64; 4] = [93, 87, 79, 71];

impl Walk<'_> {
    /// Makes a window of its pages. If events are missing, the pages are read again.
    pub(super) fn prove(&mut self, window: VecDeque<Numbered>) -> Result<Window, Error> {
        let (start, start_size, total_at_start) =
            window.front().map_or((1, self.size, None), |first| {
                (first.number, first.size, first.page.total_count)
            });
        if self.ahead.is_empty() {
            self.planned = (start, total_at_start);
        }
        let (cut, rest) = match window.front() {
            Some(first) if first.number > 1 => (first.cut(), first.middle()),
            _ => (None, None),
        };
        // One page that is not full is all there is, whatever the counts say.
        let is_whole = window.len() == 1 && window.iter().all(Numbered::is_whole_list);
        let mut found = Vec::new();
        let mut tally = Tally::new(cut);
        for numbered in window {
            tally.answered(&numbered);
            for event in &numbered.page.events {
                self.meet(event, Event::clone, &mut tally, &mut found);
            }
        }
        // An event that came after these answers is not among their counts.
        let mut unplaced = 0;
        for (identity, carried) in std::mem::take(&mut self.carried) {
            if !is_older(&carried.event, cut) {
                self.carried.insert(identity, carried);
            } else if self.seen.insert(identity) {
                unplaced += u64::from(!carried.is_placed);
                found.push(carried.event);
            }
        }
        let mut owed = tally.owed().filter(|_| !is_whole);
        let mut sizes = OTHER_SIZES
            .iter()
            .map(|percent| start_size * percent / 100)
            .filter(|&size| size > 0);
        let missing = loop {
            // Events that no window has found so far are missing from the number, too.
            let after_all = found.iter().filter(|event| is_older(event, self.cut));
            let unseen = self.unseen.saturating_sub(after_all.count() as u64);
            let have = self.seen.len() as u64 + unseen + self.behind(&tally) - unplaced;
            let Some(promised) = owed.filter(|&promised| promised > have) else {
                self.unseen = unseen;
                break None;
            };
            let Some(size) = sizes.next() else {
                self.unseen = unseen + promised - have;
                break Some(Missing {
                    unseen: self.unseen,
                    promised,
                });
            };
            // A reading without events proves nothing.
            let again = self.read_again((start - 1) * start_size, size, cut, &mut found)?;
            if again.owed().is_some() {
                (owed, tally, unplaced) = (again.owed(), again, 0);
            }
        };
        self.cut = cut;
        let mut events = found;
        events.retain(|event| {
            let is_known = self.known.contains(event.id.identity());
            self.figures.duplicates += u64::from(is_known);
            self.known_ahead -= usize::from(is_known);
            !is_known && self.scope.holds(event)
        });
        sort(&mut events);
        self.figures.found += events.len() as u64;
        self.look_ahead(cut.is_none());
        let rest = rest.map(|rest| self.oldest_left.into_iter().flatten().fold(rest, Ord::min));
        Ok(Window {
            events,
            rest,
            missing,
        })
    }

    /// Reads a window again from `position`, the number of events before it, with another page size.
    /// Adds the events that were not found before, and returns the tally of the new answers.
    pub(super) fn read_again(
        &mut self,
        position: u64,
        size: u64,
        cut: Option<OffsetDateTime>,
        found: &mut Vec<Event>,
    ) -> Result<Tally, Error> {
        let mut reading = self.open(position / size + 1, size, More::Perhaps);
        let mut first = self.advance(&mut reading)?;
        if let Some(effective) = first
            .as_ref()
            .map(|first| first.size)
            .filter(|&effective| effective != size)
        {
            // The service chose its own size, so that the number is another place in the list.
            reading = self.open(position / effective + 1, size, More::Perhaps);
            first = self.advance(&mut reading)?;
        }
        let own: IdentitySet = found.iter().map(|event| event.id.identity()).collect();
        let mut tally = Tally::new(cut);
        while let Some(numbered) = first {
            tally.answered(&numbered);
            let is_past = self.is_past_cut(&numbered, &own);
            for event in &numbered.page.events {
                // Few events were missed, so each is kept without its page.
                self.meet(event, Event::detached, &mut tally, found);
            }
            if is_past {
                break;
            }
            first = self.advance(&mut reading)?;
        }
        Ok(tally)
    }

    /// Sorts an event of a window's page: it is found, left to the next window, or, far from its
    /// place, carried to the window of its time.
    pub(super) fn meet(
        &mut self,
        event: &Event,
        keep: fn(&Event) -> Event,
        tally: &mut Tally,
        found: &mut Vec<Event>,
    ) {
        let identity = event.id.identity();
        if is_older(event, tally.cut) {
            tally.met_older = true;
            if self.seen.insert(identity) {
                tally.found(event);
                found.push(keep(event));
            } else {
                self.figures.duplicates += 1;
            }
        } else if tally.met_older {
            let carried = self.carried.entry(identity).or_insert_with(|| Carried {
                event: event.detached(),
                is_placed: false,
            });
            carried.is_placed |= tally.is_placed();
        }
    }

    /// The number of carried events that are listed behind the tally's page, and so are among its
    /// counts.
    pub(super) fn behind(&self, tally: &Tally) -> u64 {
        let is_behind = |(identity, carried): &(&Identity, &Carried)| {
            carried.is_placed && !tally.newer.contains(**identity)
        };
        self.carried.iter().filter(is_behind).count() as u64
    }
}

/// Orders events that are listed newest first: the oldest first, and those of one timestamp in the
/// reverse of the list's order: within a second, too, the service lists the newest first.
fn sort(events: &mut [Event]) {
    // Quick for a list that is in order.
    events.sort_by_key(|event| Reverse(event.time));
    events.reverse();
}
