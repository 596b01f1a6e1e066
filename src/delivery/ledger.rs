//! The ledger: which events of a delivery are settled, and which may be committed.

use std::borrow::Cow;

use crate::delivery::Commit;
use crate::event::Event;

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

/// What became of an event.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// The receiver has neither taken nor refused it.
    Open,
    /// The receiver took it.
    Taken,
    /// The receiver refused it because of its content, and why.
    Refused(String),
}

impl<'a> Ledger<'a> {
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

    /// Settles the events up to the first open one. Returns false if more than `most` of them were
    /// refused in a row; those then count as open.
    pub(super) fn settle(&mut self, most: usize) -> bool {
        while let Some(fate) = self.fates.get(self.settled) {
            match fate {
                Fate::Open => break,
                Fate::Taken => self.row = 0,
                Fate::Refused(_) => self.row += 1,
            }
            self.settled += 1;
            if self.row > most {
                self.settled -= std::mem::take(&mut self.row);
                return false;
            }
        }
        true
    }

    /// The reason of the last refusal.
    pub(super) fn last_refusal(&self) -> &str {
        let refusal = |fate: &'_ Fate| matches!(fate, Fate::Refused(_));
        match self.fates.iter().rfind(|fate| refusal(fate)) {
            Some(Fate::Refused(why)) => why,
            _ => "",
        }
    }

    /// The refused events that are settled and not committed, up to a place, with the reasons.
    pub(super) fn refused(&self, until: usize) -> Vec<(&'a Event, String)> {
        let places = self.committed..until;
        let refused = places.filter_map(|place| match &self.fates[place] {
            Fate::Refused(why) => Some((&self.events[place], why.clone())),
            _ => None,
        });
        refused.collect()
    }
}
