//! The stride walk: which pages to read, and the proof that none of their events was missed.
//!
//! The API numbers its pages from the newest event, so that every arrival pushes all older events
//! towards higher numbers while a run reads. Reading towards *higher* numbers can therefore only
//! meet an event twice; reading towards lower ones can skip events. But delivery wants the oldest
//! first, and must neither hold two weeks in memory nor read them again after a failure. So a
//! backlog is read in *strides* of about ten pages: each is read forward, and the strides follow
//! each other from the oldest to the newest.
//!
//! What holds, and why:
//!
//! - **A stride has no gap at its newer end.** The newest timestamp on its first page is its *cut*.
//!   It delivers what is older than the cut and leaves what is at the cut to the next stride, since
//!   the events of one timestamp may be spread over a page boundary and may come in another order
//!   at each request.
//! - **Two strides have no gap between them.** The next stride starts nearer to the newest and is
//!   read forward until a page holds nothing at or after the last cut. Its end is found by what the
//!   pages hold, not by arithmetic, so that arrivals cannot open a gap; if it turns out to have
//!   started too late, it starts again earlier.
//! - **Within a stride nothing is missed.** Events that share a timestamp and straddle a page
//!   boundary can be missed if their order changes between two requests. So the number of distinct
//!   events older than the cut is compared with what the counts of the answer promise
//!   (`Numbered::promised`) *before* the stride is delivered, and the stride is read again with
//!   page boundaries elsewhere until the number is reached.
//!   (What the counts cannot tell: an event that appears late in the middle of a walk, one that was
//!   seen and that retention then removes, and, while the first page's stride is read, what arrives
//!   faster than a page for each request, can each stand in for one that was missed.)
//! - **It ends**, whatever the source answers: page numbers only grow within a reading, a reading
//!   ends when pages bring nothing new, and a run reads a bounded number of pages.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::Clock;
use crate::error::Error;
use crate::event::{Event, Identity};
use crate::page::Page;
use crate::retry::{Failure, GaveUp, Patience, retry};
use crate::source::{PageRequest, Source, SourceError};

/// How many pages a stride has. Fewer cost more requests (each stride reads about two pages of its
/// neighbour), more cost memory.
const STRIDE: u64 = 10;
/// How many pages of its older neighbour a stride reads until it knows where that one began.
const OVERLAP: u64 = 2;
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
    /// The new events, oldest first; events of one timestamp in the source's order.
    pub events: Vec<Event>,
    /// No event that is still to come in this run is older than this; `None` if none is to come.
    pub rest: Option<OffsetDateTime>,
    /// How many events the proof found missing in this walk so far, and of how many; `None` if this
    /// stride's succeeded or none was owed.
    pub missing: Option<Missing>,
}

/// Events that the source counts but did not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// How many were not seen.
    pub unseen: u64,
    /// How many there should be.
    pub promised: u64,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the source counts {} events, but {} of them were on none of its pages, read five times: they are lost unless they appear within the overlap; all others are delivered",
            self.promised, self.unseen
        )
    }
}

/// A walk over the pages of one run.
pub struct Walk<'a> {
    source: &'a mut dyn Source,
    clock: &'a dyn Clock,
    patience: Patience,
    scope: Scope,
    /// Delivered by earlier runs.
    known: HashSet<Identity>,
    /// Whether one of the known events was met again.
    known_met: bool,
    /// Every event of the strides that are finished: all those older than the last cut.
    seen: HashSet<Identity>,
    /// How many events of the strides that are finished were never seen.
    unseen: u64,
    /// The oldest new event that was on a page left to a later stride.
    oldest_left: Option<OffsetDateTime>,
    /// The cut of the last stride.
    cut: Option<OffsetDateTime>,
    position: Position,
    /// The effective page size.
    size: u64,
    /// `total_count` of the newest answer that has one.
    total: Option<u64>,
    server_time: OffsetDateTime,
    figures: Figures,
}

/// Where the next stride starts.
enum Position {
    /// To be found from the first page, which is here already.
    First(Page),
    /// At the page of this number.
    At(u64),
    /// There is no next stride.
    Done,
}

/// An answer to the request for a page.
enum Answer {
    Page(Page),
    /// There is no such page, although one was announced or asked for; the text says how we know.
    Missing(String),
}

/// A page with its place.
struct Numbered {
    number: u64,
    /// The effective page size by this answer.
    size: u64,
    newest: Option<OffsetDateTime>,
    oldest: Option<OffsetDateTime>,
    page: Page,
}

/// Reading forward, page after page.
struct Reading {
    /// The number of the next page.
    number: u64,
    /// The size that is asked for.
    size: u64,
    more: More,
    /// A page that has been read already.
    at_hand: Option<Page>,
    seen: HashSet<Identity>,
    oldest: Option<OffsetDateTime>,
    stale: u32,
}

/// Whether a reading goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    /// The source says that there is a page of this number.
    Announced,
    /// Perhaps: nobody has said so.
    Perhaps,
    No,
}

/// The events of a stride as they are found.
struct Found {
    cut: Option<OffsetDateTime>,
    /// Distinct, not of an earlier stride, older than the cut.
    older: Vec<Event>,
    identities: HashSet<Identity>,
}

impl<'a> Walk<'a> {
    /// Prepares a walk; nothing is asked yet. `known` are the events that earlier runs delivered.
    #[must_use]
    pub fn new(
        source: &'a mut dyn Source,
        clock: &'a dyn Clock,
        patience: Patience,
        scope: Scope,
        known: HashSet<Identity>,
    ) -> Self {
        Self {
            source,
            clock,
            patience,
            scope,
            known,
            known_met: false,
            seen: HashSet::new(),
            unseen: 0,
            oldest_left: None,
            cut: None,
            position: Position::Done,
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
        let page = match self.fetch(1, self.scope.page_size, false)? {
            Answer::Page(page) => page,
            Answer::Missing(message) => return Err(Error::Source(SourceError::Failed(message))),
        };
        self.server_time = page.date.unwrap_or(self.server_time);
        self.size = self.effective_size(&page, self.scope.page_size);
        self.position = Position::First(page);
        self.look_ahead();
        Ok(())
    }

    /// The events on the first page, as long as the first stride was not asked for.
    #[must_use]
    pub fn first_events(&self) -> &[Event] {
        match &self.position {
            Position::First(page) => &page.events,
            _ => &[],
        }
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

    /// Reads and proves the next stride; `None` when the walk is over.
    ///
    /// # Errors
    /// If a page cannot be had or breaks the source's contract, or if `--max-time` leaves no time
    /// for another stride. The strides that were given before stay valid.
    pub fn next_stride(&mut self) -> Result<Option<Stride>, Error> {
        let mut pages = self.stride_pages();
        let (mut start, mut at_hand) = match std::mem::replace(&mut self.position, Position::Done) {
            Position::Done => return Ok(None),
            Position::First(page) => self.first_start(page, pages),
            Position::At(number) => {
                if self
                    .patience
                    .left(self.clock)
                    .is_some_and(|left| left < self.page_time() * 3)
                {
                    return Err(Error::OutOfTime);
                }
                (number, None)
            }
        };
        let mut announced = true;
        let window = loop {
            let limit = pages + OVERLAP + SLACK;
            let window = self.read_window(
                Reading::new(start, self.scope.page_size, announced, at_hand.take()),
                limit,
            )?;
            if start == 1 || self.is_far_enough(&window) {
                break window;
            }
            // Too late a start: the counts were wrong, or one timestamp fills the pages.
            start = start.saturating_sub(pages).max(1);
            pages *= 2;
            // The first page was there when the walk began.
            announced = start == 1;
        };
        let stride = self.prove(window)?;
        Ok(Some(stride))
    }

    /// Where the first stride starts. The first page is handed on if it is there, and else dropped:
    /// it will be read again in its turn.
    fn first_start(&mut self, page: Page, pages: u64) -> (u64, Option<Page>) {
        let start = match (page.next, page.total_count, page.total_pages) {
            (None, ..) | (_, None, None) => 1,
            (_, Some(count), _) => count.saturating_sub(pages * self.size) / self.size + 1,
            (_, None, Some(total_pages)) => total_pages.saturating_sub(pages) + 1,
        };
        if start == 1 {
            return (1, Some(page));
        }
        self.leave(&page);
        (start, None)
    }

    /// How many pages the next stride has: fewer if a third of the time that is left is not enough.
    fn stride_pages(&self) -> u64 {
        let Some(left) = self.patience.left(self.clock) else {
            return STRIDE;
        };
        let affordable = (left / 3).as_nanos() / self.page_time().as_nanos().max(1);
        u64::try_from(affordable)
            .unwrap_or(u64::MAX)
            .saturating_sub(OVERLAP)
            .clamp(1, STRIDE)
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
        let is_jump = reading.number > 1;
        while let Some(numbered) = self.advance(&mut reading)? {
            if is_jump || window.len() as u64 >= limit {
                check_order(&numbered)?;
            }
            let is_past = self.is_past_cut(&numbered);
            window.push_back(numbered);
            if is_past {
                break;
            }
            while window.len() as u64 > limit && self.is_useful_without_first(&window) {
                if let Some(first) = window.pop_front() {
                    check_order(&first)?;
                    self.leave(&first.page);
                }
            }
        }
        Ok(window)
    }

    /// Whether nothing on this page belongs to a stride that comes after the last one: it is older
    /// than the last cut, and the last strides have seen it. The cut alone would not do: if one
    /// event is stamped newer than its place, so is the cut.
    fn is_past_cut(&self, numbered: &Numbered) -> bool {
        let (Some(cut), Some(newest)) = (self.cut, numbered.newest) else {
            return false;
        };
        let is_seen = |event: &Event| self.seen.contains(&event.id.identity());
        newest < cut && numbered.page.events.iter().all(is_seen)
    }

    /// Whether a stride with these pages would deliver something and leave no gap to the last one.
    fn is_far_enough(&self, window: &VecDeque<Numbered>) -> bool {
        let Some(new_cut) = window.front().and_then(|first| first.newest) else {
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
        let Some(new_cut) = window.get(1).and_then(|second| second.newest) else {
            return false;
        };
        self.cut.is_none_or(|last_cut| new_cut > last_cut)
            && window
                .iter()
                .skip(1)
                .any(|page| page.oldest.is_some_and(|oldest| oldest < new_cut))
    }

    /// Remembers that a page's new events are still to be delivered.
    fn leave(&mut self, page: &Page) {
        let new = page
            .events
            .iter()
            .filter(|event| self.is_wanted(event))
            .map(|event| event.time)
            .min();
        self.oldest_left = [self.oldest_left, new].into_iter().flatten().min();
    }

    /// Whether no earlier run delivered this event, and it is in the scope.
    fn is_wanted(&self, event: &Event) -> bool {
        self.scope.holds(event) && !self.known.contains(&event.id.identity())
    }

    /// Notes how many events are still to come: what the source counts, less what the strides have
    /// seen and what is known to come from earlier runs. What was never seen will not come, but it
    /// is there.
    fn look_ahead(&mut self) {
        let known = || self.known.difference(&self.seen).count();
        self.figures.ahead = match self.position {
            Position::Done => Some(self.unseen),
            _ => self
                .total
                .map(|total| total.saturating_sub((self.seen.len() + known()) as u64)),
        };
    }

    /// Makes a stride of its pages, after trying hard to find what is missing.
    fn prove(&mut self, window: VecDeque<Numbered>) -> Result<Stride, Error> {
        let (start, start_size, total_at_start) =
            window.front().map_or((1, self.size, None), |first| {
                (first.number, first.size, first.page.total_count)
            });
        let cut = window
            .front()
            .filter(|first| first.number > 1)
            .and_then(|first| first.newest);
        let is_whole = window.len() == 1 && window.iter().all(Numbered::is_whole_list);
        let pages: Vec<_> = window.iter().collect();
        // One page that is not full is all there is, whatever the counts say.
        let mut owed = if is_whole {
            None
        } else {
            Numbered::promised(&pages, cut)
        };
        let mut found = Found::new(cut);
        for event in window.into_iter().flat_map(|numbered| numbered.page.events) {
            if found.lacks(&event, &self.seen) {
                found.add(event);
            } else if found.is_older(&event) {
                self.figures.duplicates += 1;
            }
        }
        let mut sizes = OTHER_SIZES
            .iter()
            .map(|percent| start_size * percent / 100)
            .filter(|&size| size > 0);
        let missing = loop {
            // What an earlier stride did not find is missing from this one's number as well.
            let have = (self.seen.len() + found.older.len()) as u64 + self.unseen;
            let Some(promised) = owed.filter(|&promised| promised > have) else {
                break None;
            };
            let Some(size) = sizes.next() else {
                self.unseen += promised - have;
                break Some(Missing {
                    unseen: self.unseen,
                    promised,
                });
            };
            // A reading that finds nothing proves nothing.
            owed = self
                .read_again((start - 1) * start_size, size, &mut found)?
                .or(owed);
        };
        self.position = match cut {
            None => Position::Done,
            Some(_) => Position::At(self.next_start(start, total_at_start)),
        };
        self.cut = cut;
        self.seen
            .extend(found.older.iter().map(|event| event.id.identity()));
        let mut events = found.older;
        events.retain(|event| {
            let is_known = self.known.contains(&event.id.identity());
            self.figures.duplicates += u64::from(is_known);
            !is_known && self.scope.holds(event)
        });
        events.sort_by_key(|event| event.time);
        self.figures.found += events.len() as u64;
        self.look_ahead();
        let rest = cut.map(|cut| self.oldest_left.map_or(cut, |oldest| oldest.min(cut)));
        Ok(Stride {
            events,
            rest,
            missing,
        })
    }

    /// Where the stride after one that began at page `start` begins: about a stride nearer to the
    /// newest, from where arrivals have pushed that page by now.
    fn next_start(&self, start: u64, total_at_start: Option<u64>) -> u64 {
        let pushed = match (self.total, total_at_start) {
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
    /// size, adds what was not found before, and gives the number promised by the new answers.
    fn read_again(
        &mut self,
        position: u64,
        size: u64,
        found: &mut Found,
    ) -> Result<Option<u64>, Error> {
        let mut reading = Reading::new(position / size + 1, size, false, None);
        let mut first = self.advance(&mut reading)?;
        if let Some(effective) = first
            .as_ref()
            .map(|first| first.size)
            .filter(|&effective| effective != size)
        {
            // The source chose a size of its own, so that this is another place in its list.
            reading = Reading::new(position / effective + 1, size, false, None);
            first = self.advance(&mut reading)?;
        }
        let mut promised = None;
        while let Some(numbered) = first {
            promised = promised.or_else(|| Numbered::promised(&[&numbered], found.cut));
            for event in &numbered.page.events {
                // The page around an event is not kept: only few events were missed.
                if found.lacks(event, &self.seen) {
                    found.add(event.detached());
                }
            }
            if self.is_past_cut(&numbered) {
                break;
            }
            first = self.advance(&mut reading)?;
        }
        Ok(promised)
    }

    /// Reads the next page of a reading; `None` at the end of the list.
    fn advance(&mut self, reading: &mut Reading) -> Result<Option<Numbered>, Error> {
        let number = reading.number;
        let page = match reading.at_hand.take() {
            Some(page) => page,
            None if reading.more == More::No => return Ok(None),
            None => match self.fetch(number, reading.size, reading.more == More::Announced)? {
                Answer::Page(page) => page,
                // A jump that leads nowhere is for the caller to mend.
                Answer::Missing(message)
                    if reading.more == More::Announced
                        && (!reading.seen.is_empty() || number == 1) =>
                {
                    return Err(Error::Source(SourceError::Failed(message)));
                }
                Answer::Missing(_) => return Ok(None),
            },
        };
        let fresh = page.events.iter().filter(|event| {
            let is_new = reading.seen.insert(event.id.identity());
            is_new && reading.oldest.is_none_or(|oldest| event.time <= oldest)
        });
        let fresh = fresh.count();
        if fresh == 0 && reading.more == More::Perhaps {
            return Ok(None);
        }
        reading.stale = if fresh == 0 { reading.stale + 1 } else { 0 };
        if reading.stale > MOST_STALE_PAGES {
            return Err(broken(&format!(
                "page {number} and {MOST_STALE_PAGES} pages before it hold nothing that was not on the pages before them"
            )));
        }
        let numbered = Numbered::new(number, self.effective_size(&page, reading.size), page);
        reading.more = match numbered.page.next {
            Some(next) if next <= number => {
                return Err(broken(&format!(
                    "next_page of page {number} is {next}: it does not increase"
                )));
            }
            Some(_) => More::Announced,
            // Arrivals may have pushed something over the end of a full page.
            None if numbered.is_short() => More::No,
            None => More::Perhaps,
        };
        reading.oldest = [reading.oldest, numbered.oldest]
            .into_iter()
            .flatten()
            .min();
        reading.number += 1;
        Ok(Some(numbered))
    }

    /// The page size in effect: what the answer says, else the length of a page that has a
    /// successor, else what is known so far.
    fn effective_size(&self, page: &Page, asked: u64) -> u64 {
        let length = page.events.len() as u64;
        page.size
            .or(page.next.map(|_| length).filter(|&length| length > 0))
            .unwrap_or(asked.min(self.size))
    }

    /// Asks for a page, again and again if need be. If the page was announced, an empty answer or
    /// one that denies the page is a failure that may pass.
    fn fetch(&mut self, number: u64, size: u64, announced: bool) -> Result<Answer, Error> {
        if self.figures.pages == MOST_PAGES {
            return Err(broken(&format!(
                "it has more than {MOST_PAGES} pages for one run"
            )));
        }
        let request = PageRequest {
            since: self.scope.since,
            number,
            size,
        };
        let began = self.clock.elapsed();
        let result = retry(
            self.clock,
            &self.patience,
            &mut self.figures.retries,
            |timeout| {
                let denied = |message: String| Failure {
                    passing: announced,
                    ..Failure::lasting(SourceError::NoSuchPage(message))
                };
                match self.source.page(&request, timeout) {
                    Ok(page) if announced && is_hole(&page, number) => Err(denied(format!(
                        "page {number} is empty, although it was announced"
                    ))),
                    Err(Failure {
                        error: SourceError::NoSuchPage(message),
                        ..
                    }) => Err(denied(message)),
                    result => result,
                }
            },
        );
        self.figures.reading += self.clock.elapsed().saturating_sub(began);
        match result {
            Ok(page) => {
                self.figures.pages += 1;
                self.figures.bytes += page.bytes;
                self.total = page.total_count.or(self.total);
                self.known_met = self.known_met
                    || page
                        .events
                        .iter()
                        .any(|event| self.known.contains(&event.id.identity()));
                Ok(Answer::Page(page))
            }
            Err(GaveUp::OutOfTime) => Err(Error::OutOfTime),
            Err(GaveUp::Failed {
                error: SourceError::NoSuchPage(message),
                why,
            }) => Ok(Answer::Missing(message + &why)),
            Err(GaveUp::Failed {
                error: SourceError::Refused(message),
                why,
            }) => Err(Error::Source(SourceError::Refused(message + &why))),
            Err(GaveUp::Failed {
                error: SourceError::Failed(message),
                why,
            }) => Err(Error::Source(SourceError::Failed(message + &why))),
        }
    }
}

impl Reading {
    fn new(number: u64, size: u64, announced: bool, at_hand: Option<Page>) -> Self {
        let more = if announced {
            More::Announced
        } else {
            More::Perhaps
        };
        Self {
            number,
            size,
            more,
            at_hand,
            seen: HashSet::new(),
            oldest: None,
            stale: 0,
        }
    }
}

impl Numbered {
    fn new(number: u64, size: u64, page: Page) -> Self {
        let times = || page.events.iter().map(|event| event.time);
        Self {
            number,
            size,
            newest: times().max(),
            oldest: times().min(),
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

    /// How many distinct events older than the cut there are in the whole list, by the counts of
    /// the first of these pages that holds one: all events, less those on the pages before it, less
    /// those at or after the cut on the page itself. Every later page holds older events only.
    /// `None` if the answer has no counts.
    fn promised(pages: &[&Self], cut: Option<OffsetDateTime>) -> Option<u64> {
        let is_older = |event: &Event| cut.is_none_or(|cut| event.time < cut);
        let first = pages
            .iter()
            .find(|numbered| numbered.page.events.iter().any(is_older))?;
        let newer = first
            .page
            .events
            .iter()
            .filter(|event| !is_older(event))
            .count() as u64;
        let before = (first.number - 1)
            .saturating_mul(first.size)
            .saturating_add(newer);
        Some(first.page.total_count?.saturating_sub(before))
    }
}

impl Found {
    fn new(cut: Option<OffsetDateTime>) -> Self {
        Self {
            cut,
            older: Vec::new(),
            identities: HashSet::new(),
        }
    }

    /// Whether an event belongs to the stride, but is neither here yet nor in `seen`.
    fn lacks(&self, event: &Event, seen: &HashSet<Identity>) -> bool {
        let identity = event.id.identity();
        self.is_older(event) && !seen.contains(&identity) && !self.identities.contains(&identity)
    }

    fn is_older(&self, event: &Event) -> bool {
        self.cut.is_none_or(|cut| event.time < cut)
    }

    fn add(&mut self, event: Event) {
        self.identities.insert(event.id.identity());
        self.older.push(event);
    }
}

/// Whether an announced page is empty and does not itself say that the list has become shorter, as
/// it does when retention has just removed the last event of the last page.
fn is_hole(page: &Page, number: u64) -> bool {
    let is_shorter_now = page
        .total_pages
        .is_some_and(|total| (1..number).contains(&total));
    page.events.is_empty() && page.next.is_none() && !is_shorter_now
}

/// Refuses a page whose events are mostly oldest first: of a list in that order, a walk of several
/// strides would deliver the newest first and lose its place. A few events out of order are none of
/// our business.
fn check_order(numbered: &Numbered) -> Result<(), Error> {
    let pairs = || numbered.page.events.windows(2);
    let rising = pairs().filter(|pair| pair[0].time < pair[1].time).count();
    let falling = pairs().filter(|pair| pair[0].time > pair[1].time).count();
    if rising > falling {
        return Err(broken(&format!(
            "the events on page {} are oldest first, not newest first",
            numbered.number
        )));
    }
    Ok(())
}

/// The source breaks its contract.
fn broken(how: &str) -> Error {
    Error::Source(SourceError::Failed(format!(
        "the source does not keep to its API: {how}"
    )))
}
