//! The service: what it lists, in which order, what it counts, and what happens meanwhile.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use ::time::UtcDateTime;
use tfc_audit::clock::Clock;
use tfc_audit::error::Error;
use tfc_audit::retry::Failure;
use tfc_audit::source::gate::Gate;
use tfc_audit::source::page::{self, Page};
use tfc_audit::source::{PageRequest, Source};
use tfc_audit::time;

use super::scheduler::{Executioner, ModelClock};
use super::{MOST_REQUESTS, Place, Run, SMALLEST_OVERLAP, SMALLEST_PAGE};

/// The world becomes quiet after so many requests of a run, or a source that is read slowly would
/// never be read to its end.
pub const LAST_EVENTFUL_REQUEST: usize = 150;

/// How the source behaves all the time.
#[derive(Clone, Debug)]
pub struct Manners {
    pub order: Order,
    pub shuffles_ties: bool,
    pub since: Since,
    pub counts: Counts,
    pub sizes: Sizes,
    pub tells_size: bool,
    pub denies_past_end: bool,
    /// How many seconds after its time an event of a run appears, while the clock of the answers is
    /// right.
    pub delay: i64,
}

impl Manners {
    /// Whether the last pages are not announced: then a page that is empty by mistake, or filled
    /// with known events by a page of arrivals since the last request, cannot be told from the end.
    /// So there are neither.
    pub fn hides_its_end(&self) -> bool {
        matches!(self.counts, Counts::Lag(_))
    }
}

/// In which order the source lists its events, newest first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    ByTime,
    /// Some neighbours, less than the smallest overlap apart, have changed places.
    Swapped,
    /// Late events and those stamped in the future stand where they arrived, however far from
    /// their place by time.
    ByArrival,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Since {
    Inclusive,
    Exclusive,
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Counts {
    True,
    Absent,
    Less(u64),
    More(u64),
    WithoutSince,
    /// Too small, and `next_page` goes by it.
    Lag(u64),
}

#[derive(Clone, Copy, Debug)]
pub enum Sizes {
    Honoured,
    Clamped(u64),
    Ignored(u64),
}

/// What can happen between two requests, or to one: of every hundred, how many bring it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Percent {
    pub arrival: u32,
    pub burst: u32,
    pub late: u32,
    pub future: u32,
    pub retention: u32,
    pub empty: u32,
    pub failure: u32,
}

/// A small generator, so that a program is the same each time (xorshift, Marsaglia 2003).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides.max(1)
    }

    pub fn percent(&mut self, percent: u32) -> bool {
        self.roll(100) < u64::from(percent)
    }
}

/// An event of the model.
#[derive(Clone)]
pub struct Listed {
    pub time: i64,
    pub id: u64,
    pub visible: i64,
    pub json: Rc<str>,
}

pub struct World {
    pub manners: Manners,
    pub dice: Dice,
    /// By time, then by arrival; newest last.
    pub listed: Vec<Listed>,
    pub next_id: u64,
    /// The last event that was stamped in the future.
    pub last_ahead: u64,
    pub requests: usize,
    /// When the run's first request was answered.
    pub began: Option<i64>,
    /// Until when the source has asked to be left alone.
    pub quiet_until: Duration,
    /// What no client may do, if this one did.
    pub fault: Option<String>,
    pub run: Run,
    /// Whether the counts are true and nothing happens that a count could mistake for a gap.
    pub announces_nothing: bool,
}

impl World {
    pub fn add(&mut self, time: i64, visible: i64) {
        self.next_id += 1;
        let id = self.next_id;
        let place = self.listed.partition_point(|other| other.time <= time);
        let stamp = time::format(UtcDateTime::from_unix_timestamp(time).unwrap());
        let json =
            format!(r#"{{"id":"{id:08x}-0000-4000-8000-000000000000","timestamp":"{stamp}"}}"#);
        let json = json.into();
        self.listed.insert(
            place,
            Listed {
                time,
                id,
                visible,
                json,
            },
        );
    }

    /// What happens between two requests.
    pub fn pass(&mut self, now: i64) {
        if self.requests > LAST_EVENTFUL_REQUEST {
            return;
        }
        let mut percent = self.run.percent;
        if self.manners.hides_its_end() {
            // No more than one between two requests of a reading.
            let is_slow = self.run.connections > 1 || percent.failure > 0;
            percent = Percent {
                arrival: if is_slow { 0 } else { percent.arrival },
                ..Percent::default()
            };
        }
        // A late event that appears during a walk, or retention, can hide that a change of order
        // made us miss another: the man page says so. Behind an event that is stamped in the future,
        // every arrival is late.
        let is_provable = !self.manners.shuffles_ties;
        let newest = now - self.manners.delay;
        if self.dice.percent(percent.arrival) {
            self.add(newest, now);
        }
        if self.dice.percent(percent.burst) {
            (0..self.run.burst).for_each(|_| self.add(newest, now));
        }
        if self.dice.percent(percent.late) && is_provable {
            let late = self.dice.roll(self.run.most_late.unsigned_abs());
            self.add(now - i64::try_from(late).unwrap(), now);
        }
        // Listed by arrival they must not fill a page: nothing on it would tell of its place. Nor if
        // events appear after their time: nothing on the first page would tell what is new.
        let may_be_ahead = match self.manners.order {
            Order::ByArrival => {
                self.next_id >= self.last_ahead + u64::try_from(SMALLEST_PAGE).unwrap()
            }
            Order::ByTime | Order::Swapped => self.manners.delay == 0,
        };
        if self.dice.percent(percent.future) && may_be_ahead && is_provable {
            let ahead = self.dice.roll(86_400);
            self.add(now + i64::try_from(ahead).unwrap(), now);
            self.last_ahead = self.next_id;
        }
        // What it removes is the end of the list; of two that have changed places it may be the last
        // but one, and what follows moves up.
        let takes_the_end = self.manners.order != Order::Swapped;
        if self.dice.percent(percent.retention) && is_provable && takes_the_end {
            let by_arrival = self.manners.order == Order::ByArrival;
            let age = |event: &Listed| {
                if by_arrival {
                    event.visible
                } else {
                    event.time
                }
            };
            let oldest = self.listed.iter().map(age).min();
            self.listed.retain(|event| Some(age(event)) > oldest);
        }
    }

    /// How many requests a run may make, with short windows, each read five times and each request
    /// tried again where anything is in its way; the longest runs of some hundred thousand programs
    /// needed nine tenths of it.
    pub fn most_requests(&self, run: &Run) -> usize {
        let size = match self.manners.sizes {
            Sizes::Honoured => run.page_size,
            Sizes::Clamped(most) => most.min(run.page_size),
            Sizes::Ignored(fixed) => fixed,
        };
        let pages = self.listed.len() / usize::try_from(size).unwrap() + 10;
        let percent = run.percent;
        let is_easy = self.announces_nothing && percent.failure + percent.empty == 0;
        pages * if is_easy { 6 } else { 25 }
    }

    /// How long the source asks to be left alone, if it does.
    pub fn pause(&mut self, now: Duration) -> Option<Duration> {
        let failure = self.run.percent.failure;
        let is_asked = self.dice.percent(failure / 2);
        let pause = is_asked.then(|| Duration::from_millis(self.dice.roll(4000)))?;
        self.quiet_until = self.quiet_until.max(now + pause);
        Some(pause)
    }

    pub fn answer(&mut self, request: &PageRequest, now: i64) -> Page {
        self.began.get_or_insert(now);
        let size = match self.manners.sizes {
            Sizes::Honoured => request.size,
            Sizes::Clamped(most) => request.size.min(most),
            Sizes::Ignored(fixed) => fixed,
        };
        let since = request.since.map_or(i64::MIN, UtcDateTime::unix_timestamp);
        let first = match self.manners.since {
            Since::Inclusive => self.listed.partition_point(|event| event.time < since),
            Since::Exclusive => self.listed.partition_point(|event| event.time <= since),
            Since::Ignored => 0,
        };
        let mut newest_first: Vec<&Listed> = self.listed[first..].iter().rev().collect();
        if self.manners.order == Order::ByArrival {
            newest_first.sort_by_key(|event| Reverse(event.id));
        }
        if self.manners.shuffles_ties {
            let dice = &mut self.dice;
            for tied in newest_first.chunk_by_mut(|one, other| one.time == other.time) {
                tied.sort_by_cached_key(|_| dice.roll(u64::MAX));
            }
        }
        if self.manners.order == Order::Swapped {
            swap_some(&mut newest_first);
        }
        let (all, count) = (self.listed.len() as u64, newest_first.len() as u64);
        let before = (request.number - 1).saturating_mul(size);
        let told = match self.manners.counts {
            Counts::True => Some(count),
            Counts::Absent => None,
            Counts::Less(less) | Counts::Lag(less) => Some(count.saturating_sub(less)),
            Counts::More(more) => Some(count + more),
            Counts::WithoutSince => Some(all),
        };
        let listed = match self.manners.counts {
            Counts::Lag(less) => count.saturating_sub(less),
            _ => count,
        };
        let next = if before + size < listed {
            (request.number + 1).to_string()
        } else {
            "null".to_owned()
        };
        let mut body = String::from(r#"{"data":["#);
        let events = newest_first
            .iter()
            .skip(usize::try_from(before).unwrap_or(usize::MAX))
            .take(usize::try_from(size).unwrap());
        for (place, event) in events.enumerate() {
            if place > 0 {
                body.push(',');
            }
            body.push_str(&event.json);
        }
        write!(body, r#"],"pagination":{{"next_page":{next}"#).unwrap();
        if let Some(told) = told {
            let pages = told.div_ceil(size);
            write!(body, r#","total_count":{told},"total_pages":{pages}"#).unwrap();
        }
        if self.manners.tells_size {
            write!(body, r#","page_size":{size}"#).unwrap();
        }
        body += "}}";
        Page {
            date: UtcDateTime::from_unix_timestamp(now).ok(),
            ..page::parse(body.into_bytes()).unwrap()
        }
    }
}

/// Lets some events change places with the next newer one, the same ones each time.
pub fn swap_some(newest_first: &mut [&Listed]) {
    let mut place = newest_first.len();
    while place >= 2 {
        let (newer, older) = (newest_first[place - 2], newest_first[place - 1]);
        place -= 1;
        if older.id % 3 == 0 && newer.time - older.time < SMALLEST_OVERLAP {
            newest_first.swap(place - 1, place);
            place -= 1;
        }
    }
}

pub fn number(id: &str) -> u64 {
    u64::from_str_radix(&id[..8], 16).unwrap()
}

pub struct ModelSource<'a> {
    pub world: &'a RefCell<World>,
    pub clock: &'a ModelClock,
    pub executioner: &'a Executioner,
    pub gate: Gate,
}

impl Source for ModelSource<'_> {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn page(&self, request: &PageRequest, _: Duration) -> Result<Option<Page>, Failure> {
        self.executioner.at(Place::Request);
        let mut world = self.world.borrow_mut();
        if self.clock.elapsed() < world.quiet_until && world.run.max_time.is_none() {
            world.fault = Some("it asked during a pause".to_owned());
        }
        self.clock.sleep(Duration::from_millis(300));
        let (now, elapsed) = (self.clock.seconds(), self.clock.elapsed());
        world.requests += 1;
        if world.requests > MOST_REQUESTS {
            let fault = "too many requests".to_owned();
            return Err(Failure::permanent(Error::Source(fault)));
        }
        world.pass(now);
        let percent = world.run.percent;
        if world.dice.percent(percent.failure) {
            return Err(Failure {
                wait: world.pause(elapsed),
                ..Failure::temporary(Error::Source("503".to_owned()))
            });
        }
        let mut page = world.answer(request, now);
        if page.events.is_empty() && request.number > 1 && world.manners.denies_past_end {
            return Ok(None);
        }
        // Where only events stamped in the future are known, an empty first page may be right.
        let is_told = request.number > 1 || world.last_ahead == 0;
        if world.dice.percent(percent.empty) && is_told && !world.manners.hides_its_end() {
            let date = page.date;
            return Ok(Some(Page {
                total_pages: Some(0),
                total_count: Some(0),
                date,
                ..Page::default()
            }));
        }
        page.pause = world.pause(elapsed);
        Ok(Some(page))
    }
}
