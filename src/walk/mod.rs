//! The walk: which pages to read, and the proof that none of their events was missed.
//!
//! The service numbers its pages from the newest event. So every arrival pushes all older events
//! towards higher numbers while a run reads. Reading towards *higher* numbers can only meet an event
//! twice; reading towards lower ones can skip events. But delivery needs the oldest first, and must
//! neither hold two weeks in memory nor read them again after a failure. So a backlog is read in
//! *windows* of up to ten pages: each is read forward, and the oldest window comes first.
//!
//! These promises are all tried by `tests/it/model.rs` against random worlds with any interleaving
//! of the readings. The tests in brackets, of `tests/it`, try one each:
//!
//! - **A window has no gap at its newer end.** A timestamp from the newer end of its first page is
//!   its *cut*. The window delivers the events older than the cut and leaves the others to the next
//!   one: events of one timestamp may lie on both sides of a page boundary, and may change their
//!   order with each request. (`walk::ties_…`)
//! - **An event far from its place is kept.** An event that is listed behind older ones, and is not
//!   older than the cut, may not be listed in a later window. It is carried to the window of its
//!   time. The proof counts it unless arrivals may have pushed it there.
//!   (`walk::an_event_is_stamped_newer_…`)
//! - **Two windows have no gap between them.** The next window starts nearer to the newest event. It
//!   is read until half a page in a row is older than the last cut and known from earlier windows.
//!   So the pages themselves show where it ends, and arrivals cannot open a gap. A window that
//!   started too late starts again earlier. (`defects::defect_05_…`)
//! - **Within a window nothing is missed.** Events that share a timestamp at a page boundary can be
//!   missed if their order changes between two requests. So the number of distinct events older than
//!   the cut is compared with the counts of the answers (`Tally`) *before* the window is delivered.
//!   If events are missing, the window is read again with other page boundaries, up to four times;
//!   then the run says how many are missing.
//!   (`walk::ties_and_a_source_that_fails_on_the_way`, `walk::ties_that_hide_some_of_their_events`)
//!   Counts cannot detect everything: an event that appears late in the middle of a walk, or one
//!   that retention removes after it was seen, can each hide one missed event.
//! - **Several readings at once change nothing of this.** Each is read forward
//!   ([`crate::source::ahead`]), and the windows are made of them in order, the oldest first. The
//!   time of a request matters only within its own reading. Retention removes the oldest events;
//!   these are read alone, before any other window begins. (the model's scheduler;
//!   `http::a_429_pauses_…`)
//! - **It ends**, whatever the service answers. Page numbers only grow within a reading, a reading
//!   ends when pages bring nothing new, and a run reads a bounded number of pages.
//!   (`walk::pages_that_repeat_for_ever_are_an_error`)

pub mod identities;
mod numbered;
mod proof;
mod reading;
mod tally;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::Clock;
use crate::error::Error;
use crate::event::{Event, Identity};
use crate::retry::Patience;
use crate::source::ahead::{More, Readings};
use crate::source::page::Page;
use crate::source::{Missing, SourceError};
use crate::walk::identities::IdentitySet;
use crate::walk::numbered::{Numbered, Order};
use crate::walk::reading::Reading;

/// The most pages of a window. Longer windows need memory; shorter ones re-read more, since each
/// reads about a page of its neighbour.
const LONGEST_WINDOW: u64 = 10;
/// The most pages that all readings ahead hold together, beside the window that is being delivered.
/// With more readings, windows are shorter.
const PAGES_IN_MEMORY: u64 = 20;
/// The pages of its older neighbour that a window reads to find where that one began.
const OVERLAP: u64 = 1;
/// The pages by which a window may exceed its length. Beyond that, its newest pages are left to the
/// next one.
const SLACK: u64 = 4;

/// The events that a run wants.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The value of `since`; `None` for everything retained.
    pub since: Option<OffsetDateTime>,
    /// Only events at or after this time are new.
    pub from: Option<OffsetDateTime>,
    /// Only events before this time are wanted.
    pub until: Option<OffsetDateTime>,
    /// Events per page.
    pub page_size: u64,
    /// The most windows that are read at once.
    pub connections: u64,
}

impl Scope {
    fn holds(&self, event: &Event) -> bool {
        self.from.is_none_or(|from| event.time >= from)
            && self.until.is_none_or(|until| event.time < until)
    }
}

/// The numbers of a walk so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Pages that were read.
    pub pages: u64,
    /// Requests that were retried.
    pub retries: u64,
    /// The time that reading pages took.
    pub reading: Duration,
    /// Bytes of the pages' bodies, decompressed.
    pub bytes: u64,
    /// New events in the windows so far.
    pub found: u64,
    /// Events that were dropped because an earlier run delivered them, or because they were on an
    /// earlier page as well.
    pub duplicates: u64,
    /// New events that are still to come by the service's counts; `None` without counts.
    pub ahead: Option<u64>,
}

/// A part of the walk: all new events that are older than its cut.
#[derive(Debug)]
pub struct Window {
    /// The new events, oldest first; events of one timestamp in the reverse of the list's order.
    pub events: Vec<Event>,
    /// Lower bound on the remaining timestamps, if no event is listed more than half a page out of
    /// order; `None` if no event remains.
    pub rest: Option<OffsetDateTime>,
    /// The events that are missing from this walk so far; `None` if the proof of this window
    /// succeeded or there are no counts.
    pub missing: Option<Missing>,
}

/// A walk over the pages of one run.
pub struct Walk<'a> {
    readings: &'a dyn Readings,
    clock: &'a dyn Clock,
    patience: Patience,
    scope: Scope,
    /// Delivered by earlier runs.
    known: IdentitySet,
    /// The number of them that no finished window has seen.
    known_ahead: usize,
    /// One of the known events was listed again.
    known_met: bool,
    /// Every event of the windows so far.
    seen: IdentitySet,
    /// Events that are listed behind older ones, and belong to a later window by their time.
    carried: BTreeMap<Identity, Carried>,
    /// The number of events that finished windows have never seen.
    unseen: u64,
    /// The oldest new event on the first page, if a later window reads that page again, and on the
    /// pages that the last window has left to the next.
    oldest_left: [Option<OffsetDateTime>; 2],
    /// The cut of the last window.
    cut: Option<OffsetDateTime>,
    /// The first page, until a window takes it.
    first: Option<Reading<'a>>,
    /// The readings of the next windows, the oldest first.
    ahead: VecDeque<Reading<'a>>,
    /// The first page of the newest planned window, and `total_count` at that time.
    planned: (u64, Option<u64>),
    /// The effective page size.
    size: u64,
    /// The last `total_count` that was taken. With readings side by side it need not be the newest:
    /// that only moves the beginnings of windows.
    total: Option<u64>,
    server_time: OffsetDateTime,
    figures: Figures,
}

/// An event that waits for the window of its time.
struct Carried {
    event: Event,
    /// It is listed in its place, so that the counts of an earlier window include it. Otherwise
    /// arrivals may have pushed it there.
    is_placed: bool,
}

impl<'a> Walk<'a> {
    /// Prepares a walk; nothing is requested yet. `known` are the events that earlier runs delivered.
    #[must_use]
    pub fn new(
        readings: &'a dyn Readings,
        clock: &'a dyn Clock,
        patience: Patience,
        scope: Scope,
        known: IdentitySet,
    ) -> Self {
        Self {
            readings,
            clock,
            patience,
            scope,
            known_ahead: known.len(),
            known,
            known_met: false,
            seen: IdentitySet::default(),
            carried: BTreeMap::new(),
            unseen: 0,
            oldest_left: [None; 2],
            cut: None,
            first: None,
            ahead: VecDeque::new(),
            planned: (1, None),
            size: scope.page_size,
            total: None,
            server_time: clock.now(),
            figures: Figures::default(),
        }
    }

    /// Reads the first page, whose counts tell how long the list is.
    ///
    /// # Errors
    /// If the service returns no page.
    pub fn start(&mut self) -> Result<(), Error> {
        let mut reading = self.open(1, self.scope.page_size, More::Perhaps);
        let Some(first) = self.take(&mut reading)? else {
            return Err(broken("there is no first page"));
        };
        self.server_time = first.page.date.unwrap_or(self.server_time);
        self.size = first.size;
        reading.at_hand = Some(first);
        self.first = Some(reading);
        self.look_ahead(false);
        Ok(())
    }

    /// The events on the first page; empty once the first window was taken.
    #[must_use]
    pub fn first_events(&self) -> &[Event] {
        let first = self.first.as_ref().and_then(|first| first.at_hand.as_ref());
        first.map_or(&[], |first| &first.page.events)
    }

    /// How many events the first answer counts and does not list, if it lists all on one page that
    /// is not full. Only where no `since` was sent: counts may ignore it.
    #[must_use]
    pub fn first_shortfall(&self) -> Option<Missing> {
        let first = self.first.as_ref()?.at_hand.as_ref()?;
        let promised = first
            .page
            .total_count
            .filter(|_| self.scope.since.is_none())?;
        let listed = first.page.events.len() as u64;
        let is_all = first.page.next.is_none() && listed < first.size;
        let unseen = promised.saturating_sub(listed);
        (is_all && unseen > 0).then_some(Missing { unseen, promised })
    }

    /// The service's time at its first answer, or this machine's if the answer has none.
    #[must_use]
    pub fn server_time(&self) -> OffsetDateTime {
        self.server_time
    }

    /// Tells if an event that an earlier run delivered was listed again.
    #[must_use]
    pub fn known_met(&self) -> bool {
        self.known_met
    }

    /// The numbers so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Reads and proves the next window; `None` when the walk is over.
    ///
    /// Once a batch is delivered, later windows are read at the same time. Until then only this one
    /// is, so that a receiver that is down costs little.
    ///
    /// # Errors
    /// If the service fails or breaks its contract, or if `--max-time` leaves no time for another
    /// window. Earlier windows stay valid.
    pub fn next_window(&mut self, has_delivered: bool) -> Result<Option<Window>, Error> {
        let mut pages = self.window_pages();
        let mut reading = match self.first.take() {
            Some(first) => self.first_window(first, pages),
            None => match self.ahead.pop_front() {
                None => return Ok(None),
                Some(_) if self.is_late() => return Err(Error::OutOfTime),
                Some(reading) => reading,
            },
        };
        reading.read_ahead(pages + OVERLAP);
        let beside = if has_delivered {
            self.scope.connections
        } else {
            0
        };
        if beside > 0 {
            self.plan(beside.saturating_sub(1));
            for reading in &mut self.ahead {
                reading.read_ahead(pages + OVERLAP);
            }
        }
        let window = loop {
            let start = reading.start;
            let window = self.read_window(reading, pages + OVERLAP + SLACK)?;
            if start == 1 || self.is_far_enough(&window) {
                break window;
            }
            // It started too late: the counts were wrong, or one timestamp fills the pages. Later
            // windows would start too late, too.
            self.ahead.clear();
            let start = start.saturating_sub(pages).max(1);
            pages = pages.saturating_mul(2);
            reading = self.open(start, self.scope.page_size, More::Perhaps);
            reading.read_ahead(pages + OVERLAP);
        };
        let window = self.prove(window)?;
        if self.cut.is_some() {
            self.plan(beside.max(1));
        }
        if beside > 0 {
            let pages = self.window_pages();
            for reading in &mut self.ahead {
                reading.read_ahead(pages + OVERLAP);
            }
        }
        Ok(Some(window))
    }

    /// Tells if the time that is left is too short for another window.
    fn is_late(&self) -> bool {
        self.patience
            .left(self.clock)
            .is_some_and(|left| left < self.page_time() * 3)
    }

    /// The reading of the first window. Continue from page 1, or drop it and read it again later.
    fn first_window(&mut self, reading: Reading<'a>, pages: u64) -> Reading<'a> {
        let Some(first) = reading.at_hand.as_ref().map(|first| &first.page) else {
            return reading;
        };
        let start = match (first.next, first.total_count, first.total_pages) {
            (None, ..) | (_, None, None) => 1,
            (_, Some(count), _) => count.saturating_sub(pages * self.size) / self.size + 1,
            (_, None, Some(total_pages)) => total_pages.saturating_sub(pages) + 1,
        };
        self.planned = (start, self.total);
        if start == 1 {
            return reading;
        }
        self.oldest_left[0] = self.oldest_wanted(first);
        self.open(start, self.scope.page_size, More::Announced)
    }

    /// Plans this number of windows after the one that is read.
    fn plan(&mut self, ahead: u64) {
        let ahead = ahead.min(PAGES_IN_MEMORY / (self.window_pages() + OVERLAP));
        while (self.ahead.len() as u64) < ahead && self.planned.0 > 1 {
            let start = self.next_start();
            self.planned = (start, self.total);
            self.ahead
                .push_back(self.open(start, self.scope.page_size, More::Announced));
        }
    }

    /// The number of pages of the next window. It is smaller if a third of the remaining time does
    /// not suffice.
    fn window_pages(&self) -> u64 {
        let longest = (PAGES_IN_MEMORY / self.scope.connections)
            .saturating_sub(OVERLAP)
            .clamp(1, LONGEST_WINDOW);
        let Some(left) = self.patience.left(self.clock) else {
            return longest;
        };
        let affordable = (left / 3).as_nanos() / self.page_time().as_nanos().max(1);
        u64::try_from(affordable)
            .unwrap_or(u64::MAX)
            .saturating_sub(OVERLAP)
            .clamp(1, longest)
    }

    /// The average time that a page has taken.
    fn page_time(&self) -> Duration {
        self.figures.reading / u32::try_from(self.figures.pages.max(1)).unwrap_or(u32::MAX)
    }

    /// Reads forward until the pages are past the last cut, or the list ends. If that takes more than
    /// `limit` pages, the newest ones are left to the next window, as far as this one stays useful.
    fn read_window(
        &mut self,
        mut reading: Reading,
        limit: u64,
    ) -> Result<VecDeque<Numbered>, Error> {
        let mut window = VecDeque::new();
        let is_jump = reading.start > 1;
        self.oldest_left[1] = None;
        let mut order = Order::default();
        while let Some(numbered) = self.advance(&mut reading)? {
            order.take_in(&numbered);
            if is_jump || window.len() as u64 >= limit {
                order.check()?;
            }
            let is_past = self.is_past_cut(&numbered, &IdentitySet::default());
            window.push_back(numbered);
            if is_past {
                break;
            }
            while window.len() as u64 > limit && self.is_useful_without_first(&window) {
                if let Some(first) = window.pop_front() {
                    let times = [self.oldest_left[1], self.oldest_wanted(&first.page)];
                    self.oldest_left[1] = times.into_iter().flatten().min();
                }
            }
        }
        Ok(window)
    }

    /// Tells if the reading is past the last cut: half a page in a row is older than it, and earlier
    /// windows have seen these events.
    ///
    /// The cut alone does not suffice, since events stamped newer than their place move it. Half a
    /// page tolerates misplaced events, of which a single event would be one. `own` are the events
    /// that this window has found already.
    fn is_past_cut(&self, numbered: &Numbered, own: &IdentitySet) -> bool {
        let Some(cut) = self.cut else {
            return false;
        };
        let events = &numbered.page.events;
        let is_earlier = |event: &&Event| {
            event.time < cut
                && self.seen.contains(event.id.identity())
                && !own.contains(event.id.identity())
        };
        let trailing = events.iter().rev().take_while(is_earlier).count();
        trailing as u64 * 2 >= numbered.size
    }

    /// Tells if a window of these pages delivers something and leaves no gap to the last one.
    fn is_far_enough(&self, window: &VecDeque<Numbered>) -> bool {
        let Some(new_cut) = window.front().and_then(Numbered::cut) else {
            return false;
        };
        match self.cut {
            Some(last_cut) => new_cut > last_cut,
            None => window
                .iter()
                .any(|page| page.oldest.is_some_and(|oldest| oldest < new_cut)),
        }
    }

    fn is_useful_without_first(&self, window: &VecDeque<Numbered>) -> bool {
        let Some(new_cut) = window.get(1).and_then(Numbered::cut) else {
            return false;
        };
        self.cut.is_none_or(|last_cut| new_cut > last_cut)
            && window
                .iter()
                .skip(1)
                .any(|page| page.oldest.is_some_and(|oldest| oldest < new_cut))
    }

    /// The oldest event of a page that the run wants.
    fn oldest_wanted(&self, page: &Page) -> Option<OffsetDateTime> {
        let wanted = page.events.iter().filter(|event| self.is_wanted(event));
        wanted.map(|event| event.time).min()
    }

    /// Tells if the run wants this event: it is in the scope, and no earlier run delivered it.
    fn is_wanted(&self, event: &Event) -> bool {
        self.scope.holds(event) && !self.known.contains(event.id.identity())
    }

    /// Notes the number of events that are still to come: the service's count, less the events of
    /// finished windows and those that earlier runs delivered. Missing events are counted as seen.
    fn look_ahead(&mut self, is_done: bool) {
        self.figures.ahead = if is_done {
            Some(self.unseen)
        } else {
            let behind = self.seen.len() + self.known_ahead;
            self.total.map(|total| total.saturating_sub(behind as u64))
        };
    }

    /// The first page of the window after the newest planned one. Arrivals have pushed that one's
    /// first page to a higher number since.
    fn next_start(&self) -> u64 {
        let (start, total_then) = self.planned;
        let pushed = match (self.total, total_then) {
            (Some(now), Some(then)) => now.saturating_sub(then) / self.size,
            _ => 0,
        };
        match (start + pushed).saturating_sub(self.window_pages()) {
            // A window of the first page alone is not worth its requests.
            0..=2 => 1,
            number => number,
        }
    }
}

/// Tells if an event is older than the cut, if there is one.
fn is_older(event: &Event, cut: Option<OffsetDateTime>) -> bool {
    cut.is_none_or(|cut| event.time < cut)
}

/// The error for a service that breaks its contract.
fn broken(how: &str) -> Error {
    Error::Source(SourceError::Failed(format!(
        "the service breaks its contract: {how}"
    )))
}
