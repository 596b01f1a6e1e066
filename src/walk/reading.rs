//! A reading: page after page towards higher numbers, until the list ends.

use crate::error::Error;
use crate::source::SourceError;
use crate::source::ahead::{Answer, Fetched, Forward, More, Stream};
use crate::walk::identities::IdentitySet;
use crate::walk::numbered::Numbered;
use crate::walk::{Walk, broken};

/// The most pages that one run requests, far beyond two weeks of events. Treat a longer list as a
/// server bug.
const MOST_PAGES: u64 = 20_000;
/// The most pages in a row that bring nothing new. Arrivals push events to the next page, but never
/// so far.
const MOST_STALE_PAGES: u32 = 50;

/// A reading forward, and the pages so far.
pub(super) struct Reading<'a> {
    pub(super) stream: Box<dyn Stream + 'a>,
    /// The number of its first page.
    pub(super) start: u64,
    /// Pages may be read ahead of need.
    pub(super) is_ahead: bool,
    /// A page that was taken from the stream already.
    pub(super) at_hand: Option<Numbered>,
    pub(super) has_ended: bool,
    pub(super) seen: IdentitySet,
    pub(super) stale: u32,
}

impl<'a> Walk<'a> {
    pub(super) fn open(&self, start: u64, size: u64, more: More) -> Reading<'a> {
        // The first page existed when the walk began.
        let more = if start == 1 && self.figures.pages > 0 {
            More::Announced
        } else {
            more
        };
        Reading {
            stream: self.readings.open(Forward {
                since: self.scope.since,
                number: start,
                size,
                // Some services always return larger pages than requested.
                effective: if size == self.scope.page_size {
                    self.size
                } else {
                    size.min(self.size)
                },
                more,
            }),
            start,
            is_ahead: false,
            at_hand: None,
            has_ended: false,
            seen: IdentitySet::default(),
            stale: 0,
        }
    }

    /// Takes the next page of a reading; `None` at the end of the list.
    pub(super) fn advance(&mut self, reading: &mut Reading) -> Result<Option<Numbered>, Error> {
        let numbered = match reading.at_hand.take() {
            Some(numbered) => numbered,
            None => match self.take(reading)? {
                Some(numbered) => numbered,
                None => return Ok(None),
            },
        };
        let mut has_new = false;
        for event in &numbered.page.events {
            has_new |= reading.seen.insert(event.id.identity());
        }
        if !has_new && numbered.is_guess {
            reading.has_ended = true;
            return Ok(None);
        }
        reading.stale = if has_new { 0 } else { reading.stale + 1 };
        let number = numbered.number;
        if reading.stale > MOST_STALE_PAGES {
            return Err(broken(&format!(
                "page {number} and {MOST_STALE_PAGES} pages before it hold nothing that was not on the pages before them"
            )));
        }
        if let Some(next) = numbered.page.next.filter(|&next| next <= number) {
            return Err(broken(&format!(
                "next_page of page {number} is {next}: it does not increase"
            )));
        }
        Ok(Some(numbered))
    }

    /// Waits for the next page of a reading.
    pub(super) fn take(&mut self, reading: &mut Reading) -> Result<Option<Numbered>, Error> {
        if reading.has_ended {
            return Ok(None);
        }
        if self.figures.pages == MOST_PAGES {
            return Err(broken(&format!(
                "it has more than {MOST_PAGES} pages for one run"
            )));
        }
        let Some(Fetched {
            place,
            answer,
            retries,
            took,
        }) = reading.stream.next()
        else {
            reading.has_ended = true;
            return Ok(None);
        };
        self.figures.retries += retries;
        self.figures.reading += took;
        let page = match answer? {
            Answer::Page(page) => page,
            // The caller handles a jump to a page that does not exist.
            Answer::Missing(message)
                if place.number == 1
                    || place.more == More::Announced && !reading.seen.is_empty() =>
            {
                return Err(Error::Source(SourceError::Failed(message)));
            }
            Answer::Missing(_) => {
                reading.has_ended = true;
                return Ok(None);
            }
        };
        self.figures.pages += 1;
        self.figures.bytes += page.bytes;
        self.total = page.total_count.or(self.total);
        self.known_met = self.known_met
            || !self.known.is_empty()
                && page
                    .events
                    .iter()
                    .any(|event| self.known.contains(event.id.identity()));
        Ok(Some(Numbered::new(&place, page)))
    }
}

impl Reading<'_> {
    /// Starts to read ahead, unless the reading does so already.
    pub(super) fn read_ahead(&mut self, pages: u64) {
        if !std::mem::replace(&mut self.is_ahead, true) {
            self.stream.read_ahead(pages);
        }
    }
}
