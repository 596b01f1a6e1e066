//! The stride walk: which pages to read, and the proof that none of their events was missed.
//!
//! The API numbers its pages from the newest event, so that every arrival pushes all older events
//! towards higher numbers while a run reads. Reading towards *higher* numbers can therefore only
//! meet an event twice; reading towards lower ones can skip events. But delivery wants the oldest
//! first, and must neither hold two weeks in memory nor read them again after a failure. So a
//! backlog is read in *strides* of up to ten pages: each is read forward, and the strides follow
//! each other from the oldest to the newest.
//!
//! What holds, why, and what tries it. All of it is tried by `tests/it/model.rs` against random
//! worlds with any interleaving of the readings, and by these of `tests/it`:
//!
//! - **A stride has no gap at its newer end.** A timestamp from the newer end of its first page is
//!   its *cut*. It delivers what is older than the cut and leaves what is at the cut to the next
//!   stride, since the events of one timestamp may be spread over a page boundary and may come in
//!   another order at each request. (`walk::ties_…`)
//! - **What stands far from its place is kept.** An event that a stride meets behind older ones, and
//!   that is not older than the cut, may be met by no later stride. It is carried to the stride to
//!   which it belongs by its time, and the proof counts it if no arrivals can have pushed it there.
//!   (`walk::an_event_is_stamped_newer_…`)
//! - **Two strides have no gap between them.** The next stride starts nearer to the newest and is
//!   read forward until half a page in a row is older than the last cut, and known from the strides
//!   before. Its end is found by what the pages hold, not by arithmetic, so that arrivals cannot
//!   open a gap; if it turns out to have started too late, it starts again earlier.
//!   (`defects::defect_05_…`)
//! - **Within a stride nothing is missed.** Events that share a timestamp and straddle a page
//!   boundary can be missed if their order changes between two requests. So the number of distinct
//!   events older than the cut is compared with what the counts of the answer promise
//!   (`Tally`) *before* the stride is delivered, and the stride is read again with
//!   page boundaries elsewhere until the number is reached; if it never is, that is said.
//!   (`walk::ties_and_a_source_that_fails_on_the_way`, `walk::ties_that_hide_some_of_their_events`)
//!   What the counts cannot tell: an event that appears late in the middle of a walk, and one that
//!   was seen and that retention then removes, can each stand in for one that was missed.
//! - **Several readings at once change nothing of this.** Each is read forward ([`crate::source::ahead`]),
//!   and the strides are made of them one after the other, the oldest first. When a page was asked
//!   for matters only in comparison with the other pages of its own reading. Retention takes the
//!   oldest, which are read, alone, before any other stride is begun. (the model's scheduler;
//!   `http::a_429_slows_all_connections`)
//! - **It ends**, whatever the source answers: page numbers only grow within a reading, a reading
//!   ends when pages bring nothing new, and a run reads a bounded number of pages.
//!   (`walk::pages_that_repeat_for_ever_are_an_error`)

pub mod identities;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::Clock;
use crate::error::Error;
use crate::event::{Event, Identity};
use crate::retry::Patience;
use crate::source::ahead::{Answer, Fetched, Forward, More, Readings, Stream};
use crate::source::page::Page;
use crate::source::{Missing, SourceError};
use crate::walk::identities::IdentitySet;

/// How many pages a stride has at most. Fewer cost more requests (each stride reads about a page of
/// its neighbour), more cost memory.
const LONGEST_STRIDE: u64 = 10;
/// How many pages the readings ahead may hold together, beside the stride that is being delivered:
/// strides shorten as their number grows.
const PAGES_IN_MEMORY: u64 = 20;
/// How many pages of its older neighbour a stride reads until it knows where that one began.
const OVERLAP: u64 = 1;
/// How much of a stride's first page is left to the next stride, as a divisor: so many events of it
/// may be stamped newer than their place before the cut is.
const LEFT: usize = 8;
/// By how many pages a stride may outgrow its length before its newest pages are left to the next.
const SLACK: u64 = 4;
/// The sizes, in percent of the effective one, with which a stride is read again, so that page
/// boundaries fall elsewhere each time.
const OTHER_SIZES: [u64; 4] = [93, 87, 79, 71];
/// The most pages that one run asks for. Far beyond two weeks of events: a source that has more is
/// lying.
const MOST_PAGES: u64 = 20_000;
/// How many pages in a row may bring nothing new. Arrivals push events on to the next page, but not
/// this many pages of them.
const MOST_STALE_PAGES: u32 = 50;

/// Which events are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// What is sent as `since`.
    pub since: Option<OffsetDateTime>,
    /// Only events at or after this time are new.
    pub from: Option<OffsetDateTime>,
    /// Only events before this time are wanted.
    pub until: Option<OffsetDateTime>,
    /// How many events to ask for in a page.
    pub page_size: u64,
    /// How many strides may be read at once.
    pub connections: u64,
}

impl Scope {
    fn holds(&self, event: &Event) -> bool {
        self.from.is_none_or(|from| event.time >= from)
            && self.until.is_none_or(|until| event.time < until)
    }
}

/// What a walk has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Pages that were read.
    pub pages: u64,
    /// Requests that were tried again.
    pub retries: u64,
    /// The time that reading pages took.
    pub reading: Duration,
    /// Bytes of the pages' bodies, decompressed.
    pub bytes: u64,
    /// New events in the strides so far.
    pub found: u64,
    /// Events that were dropped because an earlier run delivered them, or because they were on an
    /// earlier page as well.
    pub duplicates: u64,
    /// New events that are still to come, as far as the source's counts tell; `None` if it has
    /// sent none.
    pub ahead: Option<u64>,
}

/// Part of the walk: new events that are proved to be all there are before [`Stride::rest`].
#[derive(Debug)]
pub struct Stride {
    /// The new events, oldest first; events of one timestamp in the reverse of the list's order.
    pub events: Vec<Event>,
    /// No event that is still to come in this run is older than this, if it stands no further than
    /// half a page from its place; `None` if none is to come.
    pub rest: Option<OffsetDateTime>,
    /// How many events the proof found missing in this walk so far, and of how many; `None` if this
    /// stride's succeeded or none was owed.
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
    /// How many of them no finished stride has seen.
    known_ahead: usize,
    /// Whether one of the known events was met again.
    known_met: bool,
    /// Every event of the strides so far.
    seen: IdentitySet,
    /// Events that were met behind older ones, and that belong to a later stride by their time.
    carried: BTreeMap<Identity, Carried>,
    /// How many events of the strides that are finished were never seen.
    unseen: u64,
    /// The oldest new event on the first page, if that was left to a later stride, and on the pages
    /// that the stride read last has left to the next.
    oldest_left: [Option<OffsetDateTime>; 2],
    /// The cut of the last stride.
    cut: Option<OffsetDateTime>,
    /// The first page, as long as nothing was made of it.
    first: Option<Reading<'a>>,
    /// The readings of the next strides, the oldest first.
    ahead: VecDeque<Reading<'a>>,
    /// Where the newest stride starts that was planned, and `total_count` at that time.
    planned: (u64, Option<u64>),
    /// The effective page size.
    size: u64,
    /// `total_count` of the answer taken last that has one; of readings side by side that need not be
    /// the newest, which moves where strides begin and nothing else.
    total: Option<u64>,
    server_time: OffsetDateTime,
    figures: Figures,
}

/// An event that waits for the stride of its time.
struct Carried {
    event: Event,
    /// Whether it stands where it was met, so that the promise of a stride that starts before counts
    /// it; else arrivals may have pushed it there.
    is_placed: bool,
}

/// A page with its place.
struct Numbered {
    number: u64,
    /// The effective page size by this answer.
    size: u64,
    /// Nobody had said that there is such a page.
    is_guess: bool,
    oldest: Option<OffsetDateTime>,
    page: Page,
}

/// What a reading forward has brought so far.
struct Reading<'a> {
    stream: Box<dyn Stream + 'a>,
    /// The number of its first page.
    start: u64,
    /// Whether pages may be read ahead of need.
    is_ahead: bool,
    /// A page that was taken from the stream already.
    at_hand: Option<Numbered>,
    has_ended: bool,
    seen: IdentitySet,
    stale: u32,
}

impl<'a> Walk<'a> {
    /// Prepares a walk; nothing is asked yet. `known` are the events that earlier runs delivered.
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

    /// Reads the first page, which tells how far there is to go.
    ///
    /// # Errors
    /// If it cannot be had.
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

    /// The events on the first page, as long as the first stride was not asked for.
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

    /// The source's time when it first answered, else ours.
    #[must_use]
    pub fn server_time(&self) -> OffsetDateTime {
        self.server_time
    }

    /// Whether an event that an earlier run delivered was met again.
    #[must_use]
    pub fn known_met(&self) -> bool {
        self.known_met
    }

    /// What was done so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Reads and proves the next stride; `None` when the walk is over. Once something was
    /// delivered, the strides after it are read meanwhile; until then no more than this one is,
    /// so that a receiver that is down costs little.
    ///
    /// # Errors
    /// If a page cannot be had or breaks the source's contract, or if `--max-time` leaves no time
    /// for another stride. The strides that were given before stay valid.
    pub fn next_stride(&mut self, has_delivered: bool) -> Result<Option<Stride>, Error> {
        let mut pages = self.stride_pages();
        let mut reading = match self.first.take() {
            Some(first) => self.first_stride(first, pages),
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
            // Too late a start: the counts were wrong, or one timestamp fills the pages. The
            // strides after it would start too late as well.
            self.ahead.clear();
            let start = start.saturating_sub(pages).max(1);
            pages = pages.saturating_mul(2);
            reading = self.open(start, self.scope.page_size, More::Perhaps);
            reading.read_ahead(pages + OVERLAP);
        };
        let stride = self.prove(window)?;
        if self.cut.is_some() {
            self.plan(beside.max(1));
        }
        if beside > 0 {
            let pages = self.stride_pages();
            for reading in &mut self.ahead {
                reading.read_ahead(pages + OVERLAP);
            }
        }
        Ok(Some(stride))
    }

    /// Whether the time that is left is too short for another stride.
    fn is_late(&self) -> bool {
        self.patience
            .left(self.clock)
            .is_some_and(|left| left < self.page_time() * 3)
    }

    /// The reading of the first stride. That of the first page goes on if the stride starts there,
    /// and is else dropped: the page will be read again in its turn.
    fn first_stride(&mut self, reading: Reading<'a>, pages: u64) -> Reading<'a> {
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

    /// Plans so many strides ahead of the one that is read.
    fn plan(&mut self, ahead: u64) {
        let ahead = ahead.min(PAGES_IN_MEMORY / (self.stride_pages() + OVERLAP));
        while (self.ahead.len() as u64) < ahead && self.planned.0 > 1 {
            let start = self.next_start();
            self.planned = (start, self.total);
            self.ahead
                .push_back(self.open(start, self.scope.page_size, More::Announced));
        }
    }

    /// How many pages the next stride has: fewer if a third of the time that is left is not enough.
    fn stride_pages(&self) -> u64 {
        let longest = (PAGES_IN_MEMORY / self.scope.connections)
            .saturating_sub(OVERLAP)
            .clamp(1, LONGEST_STRIDE);
        let Some(left) = self.patience.left(self.clock) else {
            return longest;
        };
        let affordable = (left / 3).as_nanos() / self.page_time().as_nanos().max(1);
        u64::try_from(affordable)
            .unwrap_or(u64::MAX)
            .saturating_sub(OVERLAP)
            .clamp(1, longest)
    }

    /// How long a page takes, by those that were read.
    fn page_time(&self) -> Duration {
        self.figures.reading / u32::try_from(self.figures.pages.max(1)).unwrap_or(u32::MAX)
    }

    /// Reads forward until the last stride's cut lies behind, or the list ends. If that is further
    /// than `limit` pages, the newest pages are left to the next stride as long as the stride stays
    /// useful without them.
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

    /// Whether, after this page, nothing belongs to a stride that comes after the last one: half a
    /// page in a row is older than the last cut, and the last strides have seen it. The cut alone
    /// would not do: if an eighth of a page is stamped newer than its place, so is the cut. One event
    /// would do in a list that is strictly in order; half a page bears one that is not. `own` are events
    /// that this stride itself has found already.
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

    /// Whether a stride with these pages would deliver something and leave no gap to the last one.
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

    /// The oldest of a page's events that are to be delivered.
    fn oldest_wanted(&self, page: &Page) -> Option<OffsetDateTime> {
        let wanted = page.events.iter().filter(|event| self.is_wanted(event));
        wanted.map(|event| event.time).min()
    }

    /// Whether no earlier run delivered this event, and it is in the scope.
    fn is_wanted(&self, event: &Event) -> bool {
        self.scope.holds(event) && !self.known.contains(event.id.identity())
    }

    /// Notes how many events are still to come: what the source counts, less what the strides have
    /// seen and what is known to come from earlier runs. What was never seen will not come, but it
    /// is there.
    fn look_ahead(&mut self, is_done: bool) {
        self.figures.ahead = if is_done {
            Some(self.unseen)
        } else {
            let behind = self.seen.len() + self.known_ahead;
            self.total.map(|total| total.saturating_sub(behind as u64))
        };
    }

    /// Makes a stride of its pages, after trying hard to find what is missing.
    fn prove(&mut self, window: VecDeque<Numbered>) -> Result<Stride, Error> {
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
        // It may have come after the answers of this reading, that is, not be promised by them.
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
            // What an earlier stride did not find, nor this one, is missing from the number as well.
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
            // A reading that finds nothing proves nothing.
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
        Ok(Stride {
            events,
            rest,
            missing,
        })
    }

    /// Where the stride after the newest planned one begins: a stride nearer to the newest, from
    /// where arrivals have pushed that one's first page by now.
    fn next_start(&self) -> u64 {
        let (start, total_then) = self.planned;
        let pushed = match (self.total, total_then) {
            (Some(now), Some(then)) => now.saturating_sub(then) / self.size,
            _ => 0,
        };
        match (start + pushed).saturating_sub(self.stride_pages()) {
            // A stride of the first page alone would not be worth its requests.
            0..=2 => 1,
            number => number,
        }
    }

    /// Reads a stride again from `position` (the number of events before it) with pages of another
    /// size, adds what was not found before, and gives the number owed by the new answers.
    fn read_again(
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
            // The source chose a size of its own, so that this is another place in its list.
            reading = self.open(position / effective + 1, size, More::Perhaps);
            first = self.advance(&mut reading)?;
        }
        let own: IdentitySet = found.iter().map(|event| event.id.identity()).collect();
        let mut tally = Tally::new(cut);
        while let Some(numbered) = first {
            tally.answered(&numbered);
            let is_past = self.is_past_cut(&numbered, &own);
            for event in &numbered.page.events {
                // The page around an event is not kept: only few events were missed.
                self.meet(event, Event::detached, &mut tally, found);
            }
            if is_past {
                break;
            }
            first = self.advance(&mut reading)?;
        }
        Ok(tally)
    }

    /// Takes in an event of a stride's page: it is found, or left to the next stride, or, if it stands
    /// far from its place, carried to the stride of its time.
    fn meet(
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

    /// How many of the carried events stand behind the page that the tally goes by, which counts
    /// them therefore.
    fn behind(&self, tally: &Tally) -> u64 {
        let is_behind = |(identity, carried): &(&Identity, &Carried)| {
            carried.is_placed && !tally.newer.contains(**identity)
        };
        self.carried.iter().filter(is_behind).count() as u64
    }

    fn open(&self, start: u64, size: u64, more: More) -> Reading<'a> {
        // The first page was there when the walk began.
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
                // A source may give larger pages than it is asked for, always.
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
    fn advance(&mut self, reading: &mut Reading) -> Result<Option<Numbered>, Error> {
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
    fn take(&mut self, reading: &mut Reading) -> Result<Option<Numbered>, Error> {
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
            // A jump that leads nowhere is for the caller to mend.
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
    /// Lets a reading that is not yet reading ahead do so.
    fn read_ahead(&mut self, pages: u64) {
        if !std::mem::replace(&mut self.is_ahead, true) {
            self.stream.read_ahead(pages);
        }
    }
}

impl Numbered {
    fn new(place: &Forward, page: Page) -> Self {
        Self {
            number: place.number,
            size: place.effective_size(&page),
            is_guess: place.more == More::Perhaps,
            oldest: page.events.iter().map(|event| event.time).min(),
            page,
        }
    }

    /// Not full: nothing can have been pushed over its end.
    fn is_short(&self) -> bool {
        (self.page.events.len() as u64) < self.size
    }

    /// The first page is all there is.
    fn is_whole_list(&self) -> bool {
        self.number == 1 && self.page.next.is_none() && self.is_short()
    }

    /// Where a stride that begins with this page is cut: at its newest event, but for those that
    /// may be stamped newer than their place.
    fn cut(&self) -> Option<OffsetDateTime> {
        self.newest_but(self.page.events.len().div_ceil(LEFT))
    }

    /// The time in the middle of this page: what stands nearer to the newest, but for no more than
    /// half a page, is no older.
    fn middle(&self) -> Option<OffsetDateTime> {
        self.newest_but(self.page.events.len().div_ceil(2))
    }

    /// The newest time but for so many, or the oldest.
    fn newest_but(&self, count: usize) -> Option<OffsetDateTime> {
        let mut times: Vec<_> = self.page.events.iter().map(|event| event.time).collect();
        let place = times.len().checked_sub(1)?.saturating_sub(count);
        Some(*times.select_nth_unstable(place).1)
    }
}

/// What the answers of a reading say of how many events a stride should find.
#[derive(Default)]
struct Tally {
    cut: Option<OffsetDateTime>,
    /// By the first page that holds an event older than the cut: how many events there are in the
    /// whole list, less those on the pages before it, less those on itself that are not older.
    promised: Option<u64>,
    /// The number of that page, and of the page that was taken in last.
    measure: Option<u64>,
    page: u64,
    /// The effective page size.
    size: u64,
    /// The events up to and on that page that are not older than the cut.
    newer: IdentitySet,
    /// Whether an event older than the cut was met.
    met_older: bool,
    /// The first answer's number, the oldest time that what comes after it may have, and its
    /// `total_count`. That time is not the answer's alone: an event may appear a little after its
    /// own. Nor is it that of its newest events alone: they may be stamped ahead.
    first: Option<(u64, Option<OffsetDateTime>, Option<u64>)>,
    /// By how many events the list has grown since.
    grown: u64,
    /// How many of the events found on later pages may have come since.
    new: u64,
}

impl Tally {
    fn new(cut: Option<OffsetDateTime>) -> Self {
        Self {
            cut,
            ..Self::default()
        }
    }

    /// Takes in a page, before its events are.
    fn answered(&mut self, numbered: &Numbered) {
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

    /// Takes in an event of that page that is older than the cut and was not known.
    fn found(&mut self, event: &Event) {
        if let Some((first, Some(since), _)) = self.first
            && self.page > first
            && event.time >= since
        {
            self.new += 1;
        }
    }

    /// Whether no arrivals can have pushed an event of that page behind an older one.
    fn is_placed(&self) -> bool {
        let pushed = self.grown.div_ceil(self.size.max(1));
        self.measure
            .is_some_and(|measure| self.page == measure || self.page > measure + pushed)
    }

    /// How many events the strides up to this one should have found, or met astray; `None` if there
    /// are no counts.
    ///
    /// What may have come after the first answer must not stand in for what that answer counts: no
    /// more than the list has grown by since, and only events as new as that answer or the newer
    /// end of its page, on later pages. Hardly ever any: arrivals are the newest, and stay behind a
    /// reading, unless more than a page of them comes between two requests, or other events are
    /// stamped as new as they are.
    fn owed(&self) -> Option<u64> {
        self.promised
            .map(|promised| promised + self.grown.min(self.new))
    }
}

/// Orders events that are listed newest first: the oldest first, and those of one timestamp in the
/// reverse of the list's order: within a second, too, the service lists the newest first.
fn sort(events: &mut [Event]) {
    // Quick for a list that is in order.
    events.sort_by_key(|event| Reverse(event.time));
    events.reverse();
}

/// Whether an event is older than the cut, if there is one.
fn is_older(event: &Event, cut: Option<OffsetDateTime>) -> bool {
    cut.is_none_or(|cut| event.time < cut)
}

/// In which order the events of a reading come, by neighbours that differ.
#[derive(Default)]
struct Order {
    rising: usize,
    falling: usize,
}

impl Order {
    fn take_in(&mut self, numbered: &Numbered) {
        let pairs = || numbered.page.events.windows(2);
        self.rising += pairs().filter(|pair| pair[0].time < pair[1].time).count();
        self.falling += pairs().filter(|pair| pair[0].time > pair[1].time).count();
    }

    /// Refuses events that are nearly all oldest first: a walk of several strides would deliver the
    /// newest first. A few that are out of order are none of our business.
    fn check(&self) -> Result<(), Error> {
        if self.rising > 4 * self.falling + 8 {
            return Err(broken("its events are oldest first, not newest first"));
        }
        Ok(())
    }
}

/// The source breaks its contract.
fn broken(how: &str) -> Error {
    Error::Source(SourceError::Failed(format!(
        "the source does not keep to its API: {how}"
    )))
}
