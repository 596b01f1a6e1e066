//! The whole run against a model, in memory: random worlds, random faults, and after each program
//! the guarantee: complete, in order, never twice without a crash, and it always ends.
//!
//! The real walk, delivery, checkpoint and retries run; the source, the target, the store and the
//! clock are the model's. `TFC_AUDIT_MODEL_PROGRAMS` asks for that many other programs.

#![expect(
    clippy::unwrap_used,
    reason = "a model that breaks its own rules has to fail"
)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as Settings, RngAlgorithm, TestRng, TestRunner};
use tfc_audit::checkpoint::{Checkpoint, Store};
use tfc_audit::clock::Clock;
use tfc_audit::delivery::{Delivery, Limits, Target};
use tfc_audit::error::Error;
use tfc_audit::event::Event;
use tfc_audit::format::Verdict;
use tfc_audit::page::{self, Page};
use tfc_audit::retry::{Failure, Patience};
use tfc_audit::run::{Drain, Report};
use tfc_audit::source::{PageRequest, Source, SourceError};
use tfc_audit::timestamp;
use time::OffsetDateTime;

const ENDPOINT: &str = "https://app.terraform.io";
/// The model's time starts here, in seconds.
const START: i64 = 1_800_000_000;
/// Events are late by at most this many seconds, the smallest overlap of any run.
const MOST_LATE: i64 = 60;

/// No run asks more often than this: there are at most some hundred pages.
const MOST_REQUESTS: usize = 3000;

/// How the source behaves all the time.
#[derive(Clone, Debug)]
struct Manners {
    shuffles_ties: bool,
    since: Since,
    counts: Counts,
    sizes: Sizes,
    tells_size: bool,
    denies_past_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Since {
    Inclusive,
    Exclusive,
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Counts {
    True,
    Absent,
    Less(u64),
    More(u64),
    WithoutSince,
}

#[derive(Clone, Copy, Debug)]
enum Sizes {
    Honoured,
    Clamped(u64),
    Ignored(u64),
}

/// One run, and what happens before and during it.
#[derive(Clone, Debug)]
struct Run {
    /// Seconds since the last run.
    pause: i64,
    /// Events that arrived meanwhile: each so many seconds after the one before.
    arrived: Vec<i64>,
    /// Of every hundred requests, how many bring an arrival, a burst, a late event, one from the
    /// future, a loss by retention, an empty answer, a failure.
    percent: [u32; 7],
    burst: usize,
    page_size: u64,
    overlap: u64,
    batch: usize,
    max_time: Option<u64>,
    /// At which delivery the target fails, and at which commit the run is killed.
    failing_delivery: Option<usize>,
    killed_commit: Option<usize>,
}

/// A small generator, so that a program is the same each time (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides.max(1)
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.roll(100) < u64::from(percent)
    }
}

struct World {
    manners: Manners,
    dice: Dice,
    /// By time, then by arrival; newest last.
    listed: Vec<(i64, u64)>,
    next_id: u64,
    requests: usize,
    run: Run,
}

impl World {
    fn now(clock: &ModelClock) -> i64 {
        START + i64::try_from(clock.0.get().as_secs()).unwrap()
    }

    fn add(&mut self, time: i64) {
        self.next_id += 1;
        let place = self.listed.partition_point(|&(other, _)| other <= time);
        self.listed.insert(place, (time, self.next_id));
    }

    /// What happens between two requests.
    fn pass(&mut self, now: i64) {
        // The world becomes quiet one day, or a source that is read slowly is never read to its end.
        if self.requests > 150 {
            return;
        }
        let [arrival, burst, late, future, retention, ..] = self.run.percent;
        // A late event that appears during a walk, or retention, can hide that a change of order
        // made us miss another: the walk's documentation says so.
        let is_provable = !self.manners.shuffles_ties;
        if self.dice.percent(arrival) {
            self.add(now);
        }
        if self.dice.percent(burst) {
            // If more than a page arrives between two requests, the same holds.
            let most = if is_provable {
                self.run.burst
            } else {
                self.run.burst.min(2)
            };
            (0..most).for_each(|_| self.add(now));
        }
        if self.dice.percent(late) && is_provable {
            let late = i64::try_from(self.dice.roll(MOST_LATE.unsigned_abs())).unwrap();
            self.add(now - late);
        }
        if self.dice.percent(future) {
            self.add(now + 86_400);
        }
        if let Some(&(oldest, _)) = self
            .listed
            .first()
            .filter(|_| self.dice.percent(retention) && is_provable)
        {
            self.listed.retain(|&(time, _)| time > oldest);
        }
    }

    fn answer(&mut self, request: &PageRequest, now: i64) -> Page {
        let size = match self.manners.sizes {
            Sizes::Honoured => request.size,
            Sizes::Clamped(most) => request.size.min(most),
            Sizes::Ignored(fixed) => fixed,
        };
        let since = request
            .since
            .map_or(i64::MIN, OffsetDateTime::unix_timestamp);
        let mut newest_first: Vec<(i64, u64)> = self
            .listed
            .iter()
            .rev()
            .filter(|&&(time, _)| match self.manners.since {
                Since::Inclusive => time >= since,
                Since::Exclusive => time > since,
                Since::Ignored => true,
            })
            .copied()
            .collect();
        if self.manners.shuffles_ties {
            newest_first.sort_by_cached_key(|&(time, _)| (-time, self.dice.roll(u64::MAX)));
        }
        let (all, count) = (self.listed.len() as u64, newest_first.len() as u64);
        let before = (request.number - 1).saturating_mul(size);
        let events = newest_first
            .iter()
            .skip(usize::try_from(before).unwrap_or(usize::MAX));
        let events: Vec<_> = events
            .take(usize::try_from(size).unwrap())
            .map(|&(time, id)| json(time, id))
            .collect();
        let next = (before + size < count).then_some(request.number + 1);
        let told = match self.manners.counts {
            Counts::True => Some(count),
            Counts::Absent => None,
            Counts::Less(less) => Some(count.saturating_sub(less)),
            Counts::More(more) => Some(count + more),
            Counts::WithoutSince => Some(all),
        };
        let mut pagination = serde_json::json!({"current_page": request.number, "next_page": next});
        if let Some(told) = told {
            pagination["total_count"] = told.into();
            pagination["total_pages"] = told.div_ceil(size).into();
        }
        if self.manners.tells_size {
            pagination["page_size"] = size.into();
        }
        let body = format!(
            r#"{{"data":[{}],"pagination":{pagination}}}"#,
            events.join(",")
        );
        let date = OffsetDateTime::from_unix_timestamp(now).ok();
        Page {
            date,
            ..page::parse(body.into_bytes()).unwrap()
        }
    }
}

fn json(time: i64, id: u64) -> String {
    let time = timestamp::format(OffsetDateTime::from_unix_timestamp(time).unwrap());
    format!(r#"{{"id":"{id:08x}-0000-4000-8000-000000000000","timestamp":"{time}"}}"#)
}

fn id(event: &Event) -> u64 {
    u64::from_str_radix(&event.id.to_string()[..8], 16).unwrap()
}

struct ModelSource<'a>(&'a RefCell<World>, &'a ModelClock);

impl Source for ModelSource<'_> {
    fn page(&mut self, request: &PageRequest, _: Duration) -> Result<Page, Failure<SourceError>> {
        self.1.sleep(Duration::from_millis(300));
        let mut world = self.0.borrow_mut();
        let now = World::now(self.1);
        world.requests += 1;
        if world.requests > MOST_REQUESTS {
            return Err(Failure::lasting(SourceError::Failed(
                "too many requests".to_owned(),
            )));
        }
        world.pass(now);
        let [.., empty, failure] = world.run.percent;
        if world.dice.percent(failure) {
            return Err(Failure::passing(SourceError::Failed("503".to_owned())));
        }
        let page = world.answer(request, now);
        if page.events.is_empty() && request.number > 1 && world.manners.denies_past_end {
            return Err(Failure::lasting(SourceError::NoSuchPage("404".to_owned())));
        }
        if world.dice.percent(empty) {
            let date = page.date;
            return Ok(Page {
                total_pages: Some(0),
                total_count: Some(0),
                date,
                ..Page::default()
            });
        }
        Ok(page)
    }
}

/// Time passes only when somebody waits for it.
struct ModelClock(Cell<Duration>);

impl Clock for ModelClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(World::now(self)).unwrap()
    }
    fn elapsed(&self) -> Duration {
        self.0.get()
    }
    fn sleep(&self, span: Duration) {
        self.0.set(self.0.get() + span);
    }
    fn chance(&self) -> f64 {
        0.5
    }
}

/// Remembers what it acknowledged, and in which order.
#[derive(Default)]
struct ModelTarget {
    acknowledged: Vec<(OffsetDateTime, u64)>,
    calls: usize,
    fails_at: Option<usize>,
    batch: usize,
}

impl Target for ModelTarget {
    fn encode(&self, events: &[Event], _: Limits) -> (Vec<u8>, usize) {
        (Vec::new(), events.len().min(self.batch))
    }
    fn send(&mut self, events: &[Event], _: &[u8], _: Duration) -> Result<Verdict, Error> {
        self.calls += 1;
        if self.fails_at == Some(self.calls) {
            return Ok(Verdict::Failed {
                message: "down".to_owned(),
                passing: false,
                wait: None,
            });
        }
        self.acknowledged
            .extend(events.iter().map(|event| (event.time, id(event))));
        Ok(Verdict::Accepted)
    }
}

/// A disk that holds one checkpoint, and a power cut at the k-th commit.
struct ModelStore<'a> {
    disk: &'a mut Option<Vec<u8>>,
    calls: usize,
    killed_at: Option<usize>,
}

impl Store for ModelStore<'_> {
    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<(), String> {
        self.calls += 1;
        if self.killed_at == Some(self.calls) {
            return Err("killed".to_owned());
        }
        *self.disk = Some(checkpoint.to_json());
        Ok(())
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "one program from its start to its end"
)]
/// Runs a program and checks it; an error says what did not hold.
fn check(manners: &Manners, runs: &[Run], seed: u64) -> Result<(), String> {
    let clock = ModelClock(Cell::new(Duration::ZERO));
    let world = RefCell::new(World {
        manners: manners.clone(),
        dice: Dice(seed | 1),
        listed: Vec::new(),
        next_id: 0,
        requests: 0,
        run: runs[0].clone(),
    });
    let mut disk: Option<Vec<u8>> = None;
    let mut acknowledged: BTreeMap<u64, usize> = BTreeMap::new();
    let mut excused: HashSet<u64> = HashSet::new();
    let mut boundary = None;
    // What could not be found in five readings is no silent loss.
    let mut is_announced = false;
    // At rest: nothing happens any more, and nothing fails.
    let rest = Run {
        pause: 3600,
        arrived: Vec::new(),
        percent: [0; 7],
        failing_delivery: None,
        killed_commit: None,
        max_time: None,
        overlap: 600,
        ..runs[0].clone()
    };
    let calm: Vec<Run> = std::iter::repeat_n(rest, 3).collect();
    for (place, run) in runs.iter().chain(&calm).enumerate() {
        let deadline = {
            let mut world = world.borrow_mut();
            let mut at = World::now(&clock);
            for gap in &run.arrived {
                at += gap;
                world.add(at);
            }
            clock.sleep(Duration::from_secs(
                (at - World::now(&clock) + run.pause).unsigned_abs(),
            ));
            world.run = run.clone();
            world.requests = 0;
            run.max_time
                .map(|span| clock.elapsed() + Duration::from_secs(span))
        };
        let patience = Patience {
            timeout: Duration::from_secs(30),
            retries: 5,
            deadline,
        };
        let mut target = ModelTarget {
            fails_at: run.failing_delivery,
            batch: run.batch,
            ..ModelTarget::default()
        };
        let mut checkpoint = match &disk {
            Some(json) => Checkpoint::parse(json, ENDPOINT)?,
            None => Checkpoint::new(ENDPOINT.to_owned(), None),
        };
        let mut store = ModelStore {
            disk: &mut disk,
            calls: 0,
            killed_at: run.killed_commit,
        };
        let mut source = ModelSource(&world, &clock);
        let limits = Limits {
            events: run.batch,
            bytes: usize::MAX,
        };
        let mut delivery = Delivery::new(&mut target, &clock, patience, limits, None);
        let drain = Drain {
            clock: &clock,
            patience,
            overlap: Duration::from_secs(run.overlap),
            since: None,
            until: None,
            page_size: run.page_size,
            watch: &|_| {},
        };
        let mut report = Report::default();
        let result = drain.run(
            &mut source,
            &mut delivery,
            &mut checkpoint,
            &mut store,
            &mut report,
            &mut |warning| is_announced |= warning.contains("on none of its pages"),
        );
        let waiting = report.waiting();
        let what = |fault: String| format!("run {place}, which ended with {result:?}: {fault}");
        let order = target
            .acknowledged
            .iter()
            .map(|&(_, id)| id)
            .collect::<Vec<_>>();
        for &event in &order {
            let times = acknowledged.entry(event).or_default();
            *times += 1;
            if *times > 1 && !excused.contains(&event) {
                return Err(what(format!("event {event} came {times} times")));
            }
        }
        // Without late events the order is that of the timestamps.
        let is_sorted = target.acknowledged.is_sorted_by_key(|&(time, _)| time);
        if !is_sorted && runs.iter().all(|run| run.percent[2] == 0) && !manners.shuffles_ties {
            return Err(what("the order is wrong".to_owned()));
        }
        if result.is_ok() && (waiting, report.walk.found) != (Some(0), report.delivered) {
            return Err(what(format!("{waiting:?} events wait: {report:?}")));
        }
        match &result {
            Err(Error::NotCommitted { events, .. }) if run.killed_commit.is_some() => {
                excused.extend(order.iter().rev().take(*events));
            }
            Err(Error::Checkpoint(fault)) => return Err(what(fault.clone())),
            _ => {}
        }
        if let Some(json) = &disk {
            let committed = Checkpoint::parse(json, ENDPOINT)?;
            if committed.boundary_start < boundary {
                return Err(what("the boundary moved back".to_owned()));
            }
            boundary = committed.boundary_start;
            for known in committed.boundary.values().flatten() {
                let known = u64::from_str_radix(&known.to_string()[..8], 16).unwrap();
                if !acknowledged.contains_key(&known) {
                    return Err(what(format!(
                        "event {known} was committed but never acknowledged"
                    )));
                }
            }
        }
        if world.borrow().requests > MOST_REQUESTS {
            return Err(what(format!(
                "it does not end: {} events listed",
                world.borrow().listed.len()
            )));
        }
    }
    let world = world.into_inner();
    let lost: Vec<_> = world
        .listed
        .iter()
        .filter(|(_, id)| !acknowledged.contains_key(id))
        .collect();
    // Without counts, or with counts that are too small, ties in random order cannot be proved.
    let is_provable =
        matches!(manners.counts, Counts::True | Counts::More(_)) || !manners.shuffles_ties;
    if is_provable && !is_announced && !lost.is_empty() {
        return Err(format!("lost at rest: {lost:?} (time, id)"));
    }
    Ok(())
}

fn manners() -> impl Strategy<Value = Manners> {
    (
        any::<bool>(),
        prop_oneof![Just(Since::Inclusive), Just(Since::Exclusive), Just(Since::Ignored)],
        prop_oneof![
            6 => Just(Counts::True),
            1 => Just(Counts::Absent),
            1 => (1..30_u64).prop_map(Counts::Less),
            1 => (1..30_u64).prop_map(Counts::More),
            1 => Just(Counts::WithoutSince),
        ],
        prop_oneof![4 => Just(Sizes::Honoured), 1 => (3..8_u64).prop_map(Sizes::Clamped), 1 => (3..8_u64).prop_map(Sizes::Ignored)],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(shuffles_ties, since, counts, sizes, tells_size, denies_past_end)| Manners {
            shuffles_ties,
            since,
            counts,
            sizes,
            tells_size,
            denies_past_end,
        })
}

fn run() -> impl Strategy<Value = Run> {
    // Not more arrivals for a request than it can bring: a list that grows faster has no end.
    let seldom = || prop_oneof![3 => Just(0_u32), 1 => 1..30_u32];
    let rarely = || prop_oneof![3 => Just(0_u32), 1 => 1..4_u32];
    let fault = || prop_oneof![3 => Just(None), 1 => (1..6_usize).prop_map(Some)];
    (
        (
            0..7200_i64,
            proptest::collection::vec(
                prop_oneof![3 => Just(0_i64), 2 => 1..3_i64, 1 => 3..400_i64],
                0..150,
            ),
        ),
        (
            seldom(),
            rarely(),
            seldom(),
            rarely(),
            seldom(),
            seldom(),
            seldom(),
        ),
        (
            2..30_usize,
            3..12_u64,
            prop_oneof![Just(60_u64), Just(600), Just(86_400)],
            1..40_usize,
        ),
        (
            prop_oneof![4 => Just(None), 1 => (2..20_u64).prop_map(Some)],
            fault(),
            fault(),
        ),
    )
        .prop_map(
            |(
                (pause, arrived),
                percent,
                (burst, page_size, overlap, batch),
                (max_time, failing_delivery, killed_commit),
            )| Run {
                pause,
                arrived,
                percent: percent.into(),
                burst,
                page_size,
                overlap,
                batch,
                max_time,
                failing_delivery,
                killed_commit,
            },
        )
}

#[test]
fn the_guarantee_holds_in_random_worlds() {
    let asked = std::env::var("TFC_AUDIT_MODEL_PROGRAMS")
        .ok()
        .and_then(|text| text.parse().ok());
    let settings = Settings {
        cases: asked.unwrap_or(400),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Settings::default()
    };
    // The same programs each time, unless more were asked for.
    let mut runner = match asked {
        Some(_) => TestRunner::new(settings),
        None => {
            TestRunner::new_with_rng(settings, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        }
    };
    let programs = (
        manners(),
        proptest::collection::vec(run(), 1..6),
        any::<u64>(),
    );
    let result = runner.run(&programs, |(manners, runs, seed)| {
        check(&manners, &runs, seed).map_err(TestCaseError::fail)
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
