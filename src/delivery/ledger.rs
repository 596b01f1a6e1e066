//! The ledger: which events of a delivery are settled, and which may be committed.

use std::borrow::Cow;

use crate::delivery::Commit;
use crate::event::Event;
use crate::format::verdict::Fate;

/// How far the delivery of some events has got, and who is told.
pub(super) struct Ledger<'a> {
    pub(super) events: &'a [Event],
    /// What became of each of them.
    pub(super) fates: Vec<Fate>,
    /// The number of events that are committed.
    pub(super) committed: usize,
    /// The number of events up to the first one whose fate is open.
    pub(super) settled: usize,
    /// How many of them, at the end, were refused in a row.
    pub(super) row: usize,
    pub(super) commit: Commit<'a>,
    pub(super) warn: &'a mut dyn FnMut(&str),
}

impl<'a> Ledger<'a> {
    /// The places of the open events before `end`.
    pub(super) fn open(&self, end: usize) -> Vec<usize> {
        let places = self.settled..end;
        places
            .filter(|&place| self.fates[place] == Fate::Open)
            .collect()
    }

    /// The events at these places.
    pub(super) fn pick(&self, places: &[usize]) -> Cow<'a, [Event]> {
        match places {
            [first, .., last] if last - first + 1 == places.len() => {
                Cow::Borrowed(&self.events[*first..=*last])
            }
            _ => places
                .iter()
                .map(|&place| self.events[place].clone())
                .collect(),
        }
    }

    /// Settles the events up to the first open one.
    ///
    /// # Errors
    /// The reason of the last refusal, if more than `most` events were refused in a row; those then
    /// count as open.
    pub(super) fn settle(&mut self, most: usize) -> Result<(), String> {
        while let Some(fate) = self.fates.get(self.settled) {
            match fate {
                Fate::Open => break,
                Fate::Taken => self.row = 0,
                Fate::Refused(why) if self.row == most => {
                    let why = why.clone();
                    self.settled -= std::mem::take(&mut self.row);
                    return Err(why);
                }
                Fate::Refused(_) => self.row += 1,
            }
            self.settled += 1;
        }
        Ok(())
    }
}
