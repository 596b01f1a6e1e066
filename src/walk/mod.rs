//! The walk: which pages to read, and the proof that none of their events was missed.
//!
//! The service numbers its pages from the newest event. So every arrival pushes all older events
//! towards higher numbers while a run reads, and only the oldest end of the list stays where it is.
//! The walk begins there and moves towards the newest event, in *windows* of one page:
//!
//! 1. Page 1 tells how long the list is. It is kept: it becomes the last window, so that a run
//!    delivers what was listed when it began. Nearly always it is the whole list.
//! 2. The first window is the list's oldest end. (`Walk::oldest`)
//! 3. Each further window begins nearer to the newest event, and reaches back into what was read
//!    before. (`sizes.rs`: a page of the right size begins nearly anywhere.)
//! 4. A window is *linked* if its last events were seen in earlier windows. If not, the next page is
//!    read as well. (`window.rs`)
//! 5. The counts of the answers are a second check. (`counts.rs`)
//! 6. What is older than a timestamp near the window's newer end is *due*: it is delivered. The rest
//!    is held: others of its timestamps may still be unread.
//! 7. Later windows are requested ahead, while this one is delivered. (`ahead.rs`)
//!
//! What this promises is tried by `tests/it/model` against random worlds:
//!
//! - **Nothing is passed over.** Everything listed at or behind the *edge*, the newest event of the
//!   last window, was seen. A page that is linked to it has no gap to it, whenever and in whatever
//!   order the service answered, and whatever arrived meanwhile: all that is listed behind an event
//!   that was seen was seen, too. Events of one timestamp may change their order with each request,
//!   so no event of the timestamp that a window began with links the next one. Nor does one that
//!   arrivals pushed onto the further pages of a window, from before its first one.
//! - **The oldest first.** An event is delivered when its whole timestamp was read. One that stands
//!   out of its place by time, up to an eighth of a page, waits for the events of its time.
//! - **It ends**, whatever the service answers: each window begins nearer to the newest event.
//!
//! An event that appears late behind the edge is not seen. The counts may tell, and the next run
//! finds it, within the overlap.

mod ahead;
mod counts;
pub mod identities;
mod sizes;
mod window;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use time::UtcDateTime;

use crate::clock::Clock;
use crate::error::Error;
use crate::event::{Event, Identity};
use crate::retry::Patience;
use crate::source::Missing;
use crate::source::requests::{Pages, Pending};
use crate::walk::counts::{Proof, Seen};
use crate::walk::identities::IdentitySet;
use crate::walk::sizes::{Edge, Place, Sizes};
use crate::walk::window::{MOST_PAGES, Slice, check_order};

/// Windows that are there already are delivered together until they have this number of bytes.
const TOGETHER: u64 = 1024 * 1024;

/// The events that a run wants.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The value of `since`; `None` for everything retained.
    pub since: Option<UtcDateTime>,
    /// Only events at or after this time are new.
    pub from: Option<UtcDateTime>,
    /// Only events before this time are wanted.
    pub until: Option<UtcDateTime>,
    /// Events per page.
    pub page_size: u64,
    /// The most requests at once.
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
    pub to_come: Option<u64>,
}

/// A part of the walk: all new events that are due.
#[derive(Debug)]
pub struct Window {
    /// The new events, oldest first; events of one timestamp in the reverse of the list's order.
    pub events: Vec<Event>,
    /// Lower bound on the remaining timestamps, if no event is listed more than half a page out of
    /// order; `None` if no event remains.
    pub rest: Option<UtcDateTime>,
    /// The events that are missing from this walk so far; `None` if the proof of this window
    /// succeeded or there are no counts.
    pub missing: Option<Missing>,
}

/// A walk over the pages of one run.
pub struct Walk<'a> {
    pages: &'a dyn Pages,
    patience: Patience,
    scope: Scope,
    /// Delivered by earlier runs.
    known: IdentitySet,
    /// How many of them this walk has seen or skipped.
    known_seen: usize,
    /// One of them was listed again.
    known_met: bool,
    sizes: Sizes,
    /// Page 1, until it becomes the last window.
    first: Option<Slice>,
    /// The oldest event on it that the run wants.
    first_oldest: Option<UtcDateTime>,
    /// What is due after it. What is listed later and stamped newer is out of its place.
    latest: Option<UtcDateTime>,
    /// The newest event of the last window; `None` before the first one.
    edge: Option<Edge>,
    /// Every event of the windows so far.
    seen: IdentitySet,
    /// Those of them that an unseen event may be listed behind.
    loose: HashSet<Identity>,
    /// Everything older than this is counted.
    cut: Option<UtcDateTime>,
    /// Everything older than this may be delivered.
    due: Option<UtcDateTime>,
    /// Hardly anything older than this is listed before the edge.
    rest: Option<UtcDateTime>,
    /// The events of the windows so far that are not older than the cut.
    front: Vec<Seen>,
    /// Events of the windows so far that are not delivered yet.
    held: Vec<Event>,
    proof: Proof,
    /// Requests for the next windows, the oldest first.
    ahead: VecDeque<(Place, Box<dyn Pending + 'a>)>,
    /// The edge after the newest of them.
    planned: Option<Edge>,
    /// The last window had more pages than usual: a crowd of one timestamp.
    is_crowded: bool,
    /// How many windows were delivered.
    windows: u64,
    /// The newest `total_count`.
    total: Option<u64>,
    /// The size of the largest page, in bytes.
    largest: u64,
    server_time: UtcDateTime,
    figures: Figures,
}

impl<'a> Walk<'a> {
    /// Prepares a walk; nothing is requested yet. `known` are the events that earlier runs delivered;
    /// `skipped` of them are not asked for.
    #[must_use]
    pub fn new(
        pages: &'a dyn Pages,
        clock: &'a dyn Clock,
        patience: Patience,
        scope: Scope,
        known: IdentitySet,
        skipped: usize,
    ) -> Self {
        Self {
            pages,
            patience,
            scope,
            known,
            known_seen: skipped,
            known_met: false,
            sizes: Sizes::new(scope.page_size),
            first: None,
            first_oldest: None,
            latest: None,
            edge: None,
            seen: IdentitySet::default(),
            loose: HashSet::new(),
            cut: None,
            due: None,
            rest: None,
            front: Vec::new(),
            held: Vec::new(),
            proof: Proof::default(),
            ahead: VecDeque::new(),
            planned: None,
            is_crowded: false,
            windows: 0,
            total: None,
            largest: 0,
            server_time: clock.now(),
            figures: Figures::default(),
        }
    }

    /// Reads the first page, whose counts tell how long the list is.
    ///
    /// # Errors
    /// If the service returns no page.
    pub fn start(&mut self) -> Result<(), Error> {
        self.first = self.read(self.sizes.page(1), false)?;
        let events = self.first_events();
        let is_wanted =
            |event: &&Event| self.scope.holds(event) && !self.known.contains(event.id.identity());
        let wanted = events.iter().filter(is_wanted);
        self.first_oldest = wanted.map(|event| event.time).min();
        self.latest = self.first.as_ref().and_then(|first| first.due(None));
        let date = self.first.as_ref().and_then(|first| first.page.date);
        self.server_time = date.unwrap_or(self.server_time);
        self.count_to_come(false);
        Ok(())
    }

    /// The events on the first page; empty once it was delivered.
    #[must_use]
    pub fn first_events(&self) -> &[Event] {
        self.first.as_ref().map_or(&[], |first| &first.page.events)
    }

    /// The service's time at its first answer, or this machine's if the answer has none.
    #[must_use]
    pub fn server_time(&self) -> UtcDateTime {
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

    /// Reads and proves the next windows that are there; `None` when the walk is over.
    ///
    /// Once a batch is delivered, later pages are requested at the same time. Until then only those of
    /// events that earlier runs delivered are: they have to be read anyway, and a receiver that is
    /// down costs little.
    ///
    /// # Errors
    /// If the service fails or breaks its contract, or if `--max-time` is over. Earlier windows stay
    /// valid.
    pub fn next_window(&mut self, has_delivered: bool) -> Result<Option<Window>, Error> {
        if self.first.is_none() {
            return Ok(None);
        }
        let (mut bytes, mut missing) = (0, None);
        let newest = loop {
            if let Some(first) = self.first.take() {
                if self.is_last_window(&first) {
                    self.take_in(&[first], true);
                    break None;
                }
                self.first = Some(first);
            }
            let pages = match self.edge {
                None => self.oldest()?,
                // A replica that is behind has answered for page 1: the first answer is newer.
                Some(Edge { position: 0, .. }) => match self.first.take() {
                    Some(first) => self.read_on(first, &IdentitySet::default())?,
                    None => break None,
                },
                Some(edge) => {
                    if !self.is_crowded {
                        self.request_ahead(self.most_ahead(has_delivered));
                    }
                    self.newer(edge)?
                }
            };
            if let (None, Some(first)) = (self.edge, &self.first) {
                check_order(first, &pages)?;
            }
            bytes += pages.iter().map(|slice| slice.page.bytes).sum::<u64>();
            self.is_crowded = pages.len() > self.sizes.pages_of_a_window();
            let (newest, short) = self.prove(pages)?;
            missing = short.or(missing);
            self.windows += 1;
            if self.first.is_none() {
                break None;
            }
            if self.is_crowded {
                // What was planned begins too near.
                self.ahead.clear();
            } else {
                // One connection is left for pages behind the next window.
                let most = (self.scope.connections - 1).max(1);
                self.request_ahead(self.most_ahead(has_delivered).min(most));
            }
            let is_ready = self
                .first
                .as_ref()
                .is_some_and(|first| self.is_last_window(first))
                || self.ahead.front().is_some_and(|(_, next)| next.is_ready());
            if !is_ready || bytes >= TOGETHER {
                break Some(newest);
            }
        };
        let events = self.release(newest.is_none());
        self.count_to_come(newest.is_none());
        let held = self.held.first().map(|event| event.time);
        let rest = [self.rest, held, self.first_oldest].into_iter().flatten();
        Ok(Some(Window {
            events,
            rest: newest.and(rest.min()),
            missing,
        }))
    }

    /// Tells if everything behind page 1 was read. Where its count disagrees, further windows are read
    /// up to the newest event first.
    fn is_last_window(&self, first: &Slice) -> bool {
        match self.edge {
            None => first.is_last(),
            Some(edge) => {
                self.is_linked(first, &IdentitySet::default())
                    && (edge.position == 0 || self.is_complete(first))
            }
        }
    }

    /// Reads the oldest end of the list.
    fn oldest(&mut self) -> Result<Vec<Slice>, Error> {
        let Some(first) = &self.first else {
            return Ok(Vec::new());
        };
        let (total, pages) = (first.page.total_count, first.page.total_pages);
        let (mut low, mut high) = (1, first.page.next.is_none().then_some(2));
        // Some services announce no page, and count those that there are.
        let is_open = high.is_none() || first.page.events.len() as u64 >= first.size;
        let is_possible = |place: &Place| is_open && (2..=MOST_PAGES).contains(&place.number);
        // The counts may be wrong, and then these pages need not be there.
        let fitting = total.map(|total| self.sizes.reaching(total + 1));
        if let Some(place) = fitting.filter(is_possible)
            && let Some(slice) = self.read(place, false)?
            && self.is_end(&slice)
        {
            return self.read_on(slice, &IdentitySet::default());
        }
        let pages = total
            .map(|total| total.div_ceil(self.sizes.effective))
            .or(pages);
        let full = pages.map(|number| self.sizes.page(number.max(1)));
        if let Some(place) = full
            .filter(is_possible)
            .filter(|&full| Some(full) != fitting)
        {
            match self.read(place, false)? {
                Some(slice) if self.is_end(&slice) => {
                    return self.read_on(slice, &IdentitySet::default());
                }
                Some(_) => low = place.number,
                None => high = high.or(Some(place.number)),
            }
        }
        let last = self.search(low, high)?;
        self.read_on(last, &IdentitySet::default())
    }

    /// Tells if this answer agrees that the list ends on its page or, as arrivals push, behind it.
    fn is_end(&self, slice: &Slice) -> bool {
        let end = slice.start + slice.page.events.len() as u64;
        match slice.page.next {
            Some(_) => !slice.is_last_by_count(),
            None => self.sizes.is_certain(slice.place) || slice.page.total_count == Some(end),
        }
    }

    /// Searches for the last page that holds events. Page `low` does, page `high` does not.
    fn search(&mut self, mut low: u64, mut high: Option<u64>) -> Result<Slice, Error> {
        let (mut last, mut step) = (None, 1);
        while high.is_none_or(|high| low + 1 < high) {
            let number = high.map_or(low + step, |high| low.midpoint(high));
            step *= 2;
            match self.read(self.sizes.page(number), false)? {
                Some(slice) if slice.page.next.is_none() => return Ok(slice),
                Some(slice) => (low, last) = (number, Some(slice)),
                None => high = Some(number),
            }
        }
        let last = match last {
            None if low == 1 => self.first.take(),
            None => self.read(self.sizes.page(low), true)?,
            last => last,
        };
        last.ok_or_else(|| vanished(low))
    }

    /// Reads the next window before this edge.
    fn newer(&mut self, edge: Edge) -> Result<Vec<Slice>, Error> {
        let pushed = |total| move |sizes: &Sizes| sizes.before(edge.pushed(total));
        let (mut place, mut read) = match self.ahead.pop_front() {
            Some((place, next)) => (place, self.accept(place, next.wait())?),
            None => self.read_sized(pushed(self.total), true)?,
        };
        let mut step = 1;
        loop {
            if let Some(slice) = read {
                let newest = slice.page.events.first();
                let is_newer = |event: &Event| event.time > edge.time || self.is_new(event);
                let is_nearer = slice.start < edge.pushed(slice.page.total_count).position;
                if place.number == 1 || is_nearer && newest.is_some_and(is_newer) {
                    return self.read_on(slice, &IdentitySet::default());
                }
                self.take_in(&[slice], false);
            }
            // It lies behind the edge: the counts were wrong, or the list has become shorter, or
            // every page has the same size.
            self.ahead.clear();
            (place, read) = if step == 1 && pushed(self.total)(&self.sizes) != place {
                self.read_sized(pushed(self.total), true)?
            } else {
                place.number = place.number.saturating_sub(step).max(1);
                (place, self.read(place, true)?)
            };
            step *= 2;
        }
    }

    /// Takes the held events that are due, the oldest first, or all of them.
    fn release(&mut self, all: bool) -> Vec<Event> {
        // Events of one timestamp keep their order: what is listed later is older.
        self.held.sort_by_key(|event| event.time);
        let is_due = |event: &Event| all || Some(event.time) < self.due;
        let count = self.held.partition_point(is_due);
        // Their pages need not stay in memory.
        let left = self.held[count..].iter().map(Event::detached).collect();
        let mut events = std::mem::replace(&mut self.held, left);
        events.truncate(count);
        self.figures.found += events.len() as u64;
        events
    }

    /// Notes the number of events that are still to come: the service's count, less the events of
    /// the windows so far and those that earlier runs delivered. Missing events are counted as seen.
    fn count_to_come(&mut self, is_done: bool) {
        self.figures.to_come = if is_done {
            Some(self.proof.unseen)
        } else {
            let behind = self.seen.len() + self.known.len().saturating_sub(self.known_seen);
            let unread = self.total.map(|total| total.saturating_sub(behind as u64));
            unread.map(|unread| unread + self.held.len() as u64)
        };
    }
}

/// The error for a service that breaks its contract.
fn broken(how: &str) -> Error {
    Error::Source(format!("the service breaks its contract: {how}"))
}

/// The error for a page that other answers promise, and that is not there.
fn vanished(number: u64) -> Error {
    broken(&format!("page {number} is announced, but not there"))
}
