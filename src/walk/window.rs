//! Reading: single pages, and pages in a row until they are linked to what was read before.

use std::time::Duration;

use ::time::UtcDateTime;

use crate::error::Error;
use crate::event::{Event, Identity};
use crate::source::PageRequest;
use crate::source::page::Page;
use crate::source::requests::{Ask, Fetched};
use crate::walk::identities::IdentitySet;
use crate::walk::sizes::{Place, Sizes};
use crate::walk::{Walk, broken, vanished};

/// The most pages that one run reads, far beyond two weeks of events.
pub(super) const MOST_PAGES: u64 = 20_000;
/// The most pages in a row that bring nothing new. Arrivals push events to the next page, but never
/// so far.
const MOST_STALE_PAGES: u32 = 50;
/// How often a page that was announced may turn out not to be there.
const MOST_REMOVALS: u32 = 3;
/// The most bytes of events that a run holds.
const MOST_BYTES: u64 = 256 * 1024 * 1024;
/// The part of a window's first page that is left to the next window, as a divisor: an eighth of
/// the page may be stamped newer than its place before the cut is wrong.
const LEFT: usize = 8;

/// A page that was read.
pub(super) struct Slice {
    /// As it was asked for.
    pub(super) place: Place,
    /// Its size and the position of its first event, by this answer.
    pub(super) size: u64,
    pub(super) start: u64,
    pub(super) page: Page,
}

impl Slice {
    pub(super) fn identities(&self) -> impl Iterator<Item = Identity> {
        self.page.events.iter().map(|event| event.id.identity())
    }

    fn repeats(&self, other: &Self) -> bool {
        self.identities().eq(other.identities())
    }

    /// The page is not full, and no other one is announced or counted: the list ends here.
    pub(super) fn is_last(&self) -> bool {
        let listed = self.page.events.len() as u64;
        let is_counted = |total| total > self.start + listed;
        let is_more_counted = self.page.total_count.is_some_and(is_counted);
        self.page.next.is_none() && listed < self.size && !is_more_counted
    }

    /// By its count of events, or else of pages, nothing is listed behind this page.
    pub(super) fn is_last_by_count(&self) -> bool {
        match (self.page.total_count, self.page.total_pages) {
            (Some(total), _) => total <= self.start + self.size,
            (None, pages) => pages.is_some_and(|pages| pages <= self.place.number),
        }
    }

    /// What is older than this is counted in a window that begins with this page: what shares the
    /// timestamp of its last event, which the next page may share as well, and what is older. A page of
    /// one timestamp tells nothing of it, unless nothing is listed before the page.
    pub(super) fn cut(&self) -> Option<UtcDateTime> {
        let events = &self.page.events;
        let (newest, oldest) = (events.first()?.time, events.last()?.time);
        let times = events.iter().map(|event| event.time);
        let newer = times.filter(|&time| time > oldest).min();
        let all = newest + Duration::from_nanos(u64::from(self.start == 0));
        Some(newer.unwrap_or(all))
    }

    /// What is older than this may be delivered after a window that begins with this page: its newest
    /// timestamp, without the eighth of the page that may be stamped newer than its place. Timestamps
    /// after `latest` do not count.
    pub(super) fn due(&self, latest: Option<UtcDateTime>) -> Option<UtcDateTime> {
        self.newest_but(LEFT, latest)
    }

    /// The page's median timestamp, of those up to `latest`.
    pub(super) fn middle(&self, latest: Option<UtcDateTime>) -> Option<UtcDateTime> {
        self.newest_but(2, latest)
    }

    /// The newest timestamp of those up to `latest`, after one in so many.
    fn newest_but(&self, part: usize, latest: Option<UtcDateTime>) -> Option<UtcDateTime> {
        let times = self.page.events.iter().map(|event| event.time);
        let mut times: Vec<_> = times
            .filter(|&time| latest.is_none_or(|latest| time <= latest))
            .collect();
        let place = times
            .len()
            .checked_sub(1)?
            .saturating_sub(times.len().div_ceil(part));
        Some(*times.select_nth_unstable(place).1)
    }
}

/// Refuses a list that is oldest first, by its first page and its last ones: there the neighbours
/// rise, and the last pages are newer. A few events out of order do not matter.
pub(super) fn check_order(first: &Slice, last: &[Slice]) -> Result<(), Error> {
    let (mut rising, mut falling) = (0, 0);
    for slice in last.iter().chain([first]) {
        for pair in slice.page.events.windows(2) {
            rising += usize::from(pair[0].time < pair[1].time);
            falling += usize::from(pair[0].time > pair[1].time);
        }
    }
    let is_newer = last
        .last()
        .is_some_and(|last| last.middle(None) > first.middle(None));
    if is_newer && rising > 4 * falling + 4 {
        return Err(broken("its events are oldest first, not newest first"));
    }
    Ok(())
}

impl Walk<'_> {
    /// The request for a page. `is_promised`: it must hold events.
    pub(super) fn ask(&self, place: Place, is_promised: bool) -> Ask {
        Ask {
            request: PageRequest {
                since: self.scope.since,
                number: place.number,
                size: place.size,
            },
            is_promised,
        }
    }

    /// Reads a page; `None` if there is none, or if it is empty. Page 1 may be empty.
    pub(super) fn read(&mut self, place: Place, is_promised: bool) -> Result<Option<Slice>, Error> {
        let fetched = self.pages.get(self.ask(place, is_promised));
        self.accept(place, fetched)
    }

    /// Reads a page that may be smaller than the largest. If there is none, every page may have the
    /// same size; then the page of that size is read. `is_promised`: the list reaches there.
    pub(super) fn read_sized(
        &mut self,
        place: impl Fn(&Sizes) -> Place,
        is_promised: bool,
    ) -> Result<(Place, Option<Slice>), Error> {
        loop {
            let place = place(&self.sizes);
            let is_certain = self.sizes.is_certain(place);
            let slice = self.read(place, is_promised && is_certain)?;
            if is_certain || slice.is_some() {
                return Ok((place, slice));
            }
            self.sizes.follows = Some(false);
        }
    }

    pub(super) fn accept(
        &mut self,
        place: Place,
        fetched: Fetched,
    ) -> Result<Option<Slice>, Error> {
        self.figures.retries += fetched.retries;
        self.figures.reading += fetched.took;
        let number = place.number;
        let page = match fetched.answer? {
            Some(page) => page,
            None if number == 1 => return Err(vanished(number)),
            None => return Ok(None),
        };
        self.figures.pages += 1;
        self.figures.bytes += page.bytes;
        if self.figures.pages.max(number) > MOST_PAGES {
            return Err(broken(&format!(
                "it has more than {MOST_PAGES} pages for one run"
            )));
        }
        if let Some(next) = page.next.filter(|&next| next <= number) {
            return Err(broken(&format!(
                "next_page of page {number} is {next}: it does not increase"
            )));
        }
        self.largest = self.largest.max(page.bytes);
        if !page.events.is_empty() {
            self.total = page.total_count.or(self.total);
        }
        let is_known = |event: &Event| self.known.contains(event.id.identity());
        self.known_met =
            self.known_met || !self.known.is_empty() && page.events.iter().any(is_known);
        let size = self.sizes.learn(place, &page);
        let is_there = number == 1 || !page.events.is_empty();
        Ok(is_there.then(|| Slice {
            place,
            size,
            start: (number - 1).saturating_mul(size),
            page,
        }))
    }

    /// Reads on from a page towards higher numbers, until a page is linked to earlier windows or the
    /// list ends. `own` are the events that this window has found already.
    pub(super) fn read_on(&mut self, first: Slice, own: &IdentitySet) -> Result<Vec<Slice>, Error> {
        let mut slices = vec![first];
        let (mut listed, mut stale, mut removals) = (IdentitySet::default(), 0, 0);
        while let Some(last) = slices.last() {
            if last.is_last() || self.is_linked(last, own) {
                break;
            }
            self.check_memory(slices.iter().map(|slice| slice.page.bytes).sum())?;
            if listed.is_empty() {
                listed.extend(last.identities());
            }
            let (place, is_announced) = (last.place, last.page.next.is_some());
            let is_promised = is_announced && !last.is_last_by_count();
            let next = Place {
                number: place.number + 1,
                ..place
            };
            // Some services repeat the last page for all higher numbers. Where events of one timestamp
            // change their order, a page may repeat another by chance; one far from it does not.
            let far = Place {
                number: next.number + u64::from(MOST_STALE_PAGES),
                ..next
            };
            let slice = match self.read(next, is_announced)? {
                Some(slice)
                    if !is_announced
                        && slice.repeats(last)
                        && self.read(far, false)?.is_some_and(|far| far.repeats(last)) =>
                {
                    break;
                }
                Some(slice) => slice,
                None if !is_promised => break,
                // The list may have become shorter since the page was announced.
                None if removals < MOST_REMOVALS => {
                    removals += 1;
                    self.nearest(place)?
                }
                None => return Err(vanished(next.number)),
            };
            let before = listed.len();
            listed.extend(slice.identities());
            stale = if listed.len() > before { 0 } else { stale + 1 };
            if stale > MOST_STALE_PAGES {
                let number = slice.place.number;
                return Err(broken(&format!(
                    "page {number} and {MOST_STALE_PAGES} pages before it hold nothing that was not on the pages before them"
                )));
            }
            slices.push(slice);
        }
        Ok(slices)
    }

    /// Reads this page, or one of a lower number that is still there.
    fn nearest(&mut self, place: Place) -> Result<Slice, Error> {
        let mut step = 0;
        loop {
            let number = place.number.saturating_sub(step).max(1);
            if let Some(slice) = self.read(Place { number, ..place }, true)? {
                return Ok(slice);
            }
            step = 2 * step + 1;
        }
    }

    /// Tells if everything behind this page was read before: its last events were, and behind two of
    /// them nothing unseen is listed. One alone may be listed in two places.
    pub(super) fn is_linked(&self, page: &Slice, own: &IdentitySet) -> bool {
        let is_earlier =
            |identity: &Identity| self.seen.contains(*identity) && !own.contains(*identity);
        let events = page.page.events.iter().rev();
        let linked = events
            .map(|event| event.id.identity())
            .take_while(is_earlier)
            .filter(|identity| !self.loose.contains(identity));
        let needed = page.page.events.len().clamp(1, 2);
        linked.take(needed).count() == needed
    }

    /// Refuses to hold more than a bound. `bytes` are those of the pages that are not taken in yet.
    fn check_memory(&self, bytes: u64) -> Result<(), Error> {
        let held: usize = self.held.iter().map(|event| event.json().len()).sum();
        let first = self.first.as_ref().map_or(0, |first| first.page.bytes);
        if bytes + first + held as u64 > MOST_BYTES {
            let most = MOST_BYTES >> 20;
            return Err(broken(&format!(
                "more than {most} MiB of its events have to be held until the next can be delivered; a smaller --page-size may help"
            )));
        }
        Ok(())
    }
}
