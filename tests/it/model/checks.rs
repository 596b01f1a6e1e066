//! What has to hold after each run and at rest, by a ledger of what arrived.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use ::time::UtcDateTime;
use tfc_audit::checkpoint::Checkpoint;
use tfc_audit::clock::Clock;
use tfc_audit::error::{Error, Exit};

use super::scheduler::{Arrived, ModelClock, drive};
use super::world::{Counts, Dice, Listed, Manners, Order, Percent, Since, World, number};
use super::{ENDPOINT, MOST_REQUESTS, Run, SMALLEST_OVERLAP, SMALLEST_PAGE};

/// What is known after some runs, and what has to hold after each further one.
#[derive(Default)]
pub struct Ledger {
    /// How often each event arrived.
    pub arrived: BTreeMap<u64, usize>,
    /// These may arrive again: a crash came between their delivery and the commit.
    pub excused: HashSet<u64>,
    pub boundary: Option<UtcDateTime>,
    /// When each run's first request was answered, by the server's clock, and its overlap.
    pub runs: Vec<(i64, i64)>,
    /// How many events could not be found in five readings, as the last run said each time: those
    /// that it had found since do not count again.
    pub announced: Vec<u64>,
    /// How many all runs had not found in the end, as they said: no silent loss.
    pub announced_in_all: u64,
}

impl Ledger {
    /// Whether an event came too late for the promise: later than by the overlap of a run that had
    /// already begun, or listed behind its place by more than that of some run.
    pub fn is_too_late(&self, event: &Listed, manners: &Manners) -> bool {
        self.runs
            .iter()
            .any(|&(began, overlap)| began <= event.visible && event.time < began - overlap)
            || manners.order == Order::ByArrival
                && self
                    .runs
                    .iter()
                    .any(|&(_, overlap)| event.visible - event.time > overlap)
    }

    /// How many events may be missing: none, unless ties that change their order hide some. That has
    /// to be said, if there are counts that tell of it.
    pub fn excuses(manners: &Manners, announced: u64) -> u64 {
        match manners.counts {
            _ if !manners.shuffles_ties => 0,
            Counts::True | Counts::More(_) | Counts::WithoutSince => announced,
            Counts::Absent | Counts::Less(_) | Counts::Lag(_) => u64::MAX,
        }
    }

    /// Nothing is missing that should have been delivered, but for what was announced.
    pub fn has_all(&self, world: &World, is_due: impl Fn(&Listed) -> bool) -> Result<(), String> {
        let manners = &world.manners;
        let is_lost = |event: &&Listed| {
            is_due(event)
                && !self.arrived.contains_key(&event.id)
                && !self.is_too_late(event, manners)
        };
        let lost = || world.listed.iter().filter(is_lost);
        let announced = self.announced_in_all;
        if lost().count() as u64 <= Self::excuses(manners, announced) {
            return Ok(());
        }
        let lost: Vec<_> = lost().map(|lost| (lost.id, lost.time)).collect();
        Err(format!("{announced} were announced, but lost are {lost:?}"))
    }

    pub fn after_run(
        &mut self,
        run: &Run,
        arrived: &Arrived,
        world: &World,
        was_cut_short: bool,
    ) -> Result<(), String> {
        let began = self.runs.last().map_or(i64::MIN, |run| run.0);
        let visible = world.listed.iter().map(|event| (event.id, event.visible));
        let visible: HashMap<u64, i64> = visible.collect();
        // What retention has removed since is not looked at.
        let was_visible = |id| visible.get(&id).is_some_and(|&visible| visible < began);
        // Which events are where they should be: only those can be said to be in order.
        let is_in_place =
            |id, time| world.manners.order != Order::ByArrival || visible.get(&id) == Some(&time);
        let leeway = match world.manners.order {
            Order::Swapped => SMALLEST_OVERLAP,
            Order::ByTime | Order::ByArrival => 1,
        };
        let mut newest = i64::MIN;
        let mut out_of_order = Vec::new();
        for &(time, id) in &arrived.events {
            let times = self.arrived.entry(id).or_default();
            *times += 1;
            if *times > 1 && !self.excused.contains(&id) {
                return Err(format!("event {id} came {times} times"));
            }
            if is_in_place(id, time) {
                if time + leeway <= newest && was_visible(id) {
                    out_of_order.push(id);
                }
                newest = newest.max(time);
            }
        }
        let announced = self.announced.iter().sum();
        if out_of_order.len() as u64 > Self::excuses(&world.manners, announced) {
            return Err(format!("{out_of_order:?} came after newer ones"));
        }
        let uncommitted = &arrived.events[arrived.committed..];
        if !was_cut_short && !uncommitted.is_empty() {
            return Err(format!("{uncommitted:?} were delivered and not committed"));
        }
        if uncommitted.len() > run.batch {
            return Err("more than a batch was delivered without a commit".to_owned());
        }
        self.excused.extend(uncommitted.iter().map(|event| event.1));
        Ok(())
    }

    /// What the checkpoint on disk treats as done has arrived.
    pub fn on_disk(&mut self, json: &[u8], world: &World) -> Result<(), String> {
        let committed = Checkpoint::parse(json, ENDPOINT)?;
        if committed.boundary_start < self.boundary {
            return Err("the boundary moved back".to_owned());
        }
        self.boundary = committed.boundary_start;
        for known in committed.boundary.values().flatten() {
            let known = number(&known.to_string());
            if !self.arrived.contains_key(&known) {
                return Err(format!("event {known} was committed and never delivered"));
            }
        }
        let Some(start) = committed.boundary_start.map(UtcDateTime::unix_timestamp) else {
            return Ok(());
        };
        self.has_all(world, |event| event.time < start)
            .map_err(|fault| format!("before the boundary {start}: {fault}"))
    }
}

/// At rest nothing happens any more, and nothing fails.
pub fn calm(run: &Run) -> Run {
    Run {
        pause: 3600,
        arrived: Vec::new(),
        crowd: None,
        percent: Percent::default(),
        failing_delivery: None,
        failing_commit: None,
        kill: None,
        max_time: None,
        overlap: 600,
        ..run.clone()
    }
}

/// Runs a program and checks it; an error says what did not hold.
pub fn check(manners: &Manners, runs: &[Run], seed: u64) -> Result<(), String> {
    let clock = ModelClock(Cell::new(Duration::ZERO));
    let happens = |of: fn(&Percent) -> u32| runs.iter().any(|run| of(&run.percent) > 0);
    let arrivals = happens(|percent| percent.arrival + percent.burst);
    let future = happens(|percent| percent.future);
    // For all that is known, they may have pushed an event there.
    let may_mislead = match manners.order {
        // Arrivals are listed behind what is stamped in the future, as late events are.
        Order::ByTime => arrivals && future,
        Order::Swapped | Order::ByArrival => arrivals || future,
    };
    let world = RefCell::new(World {
        manners: manners.clone(),
        dice: Dice(seed | 1),
        listed: Vec::new(),
        next_id: 0,
        last_ahead: 0,
        requests: 0,
        began: None,
        quiet_until: Duration::ZERO,
        fault: None,
        run: runs[0].clone(),
        announces_nothing: manners.counts == Counts::True
            && !manners.shuffles_ties
            && !may_mislead
            && !happens(|percent| percent.late + percent.retention),
    });
    let disk = RefCell::new(None);
    let mut ledger = Ledger::default();
    let rest = std::iter::repeat_n(calm(&runs[0]), 3);
    let has_late = runs.iter().any(|run| run.percent.late > 0);
    for (place, mut run) in runs.iter().cloned().chain(rest).enumerate() {
        if manners.order == Order::ByArrival && has_late {
            // What it has not read may be older than its overlap: its documentation says so.
            run.max_time = None;
        }
        prepare(&world, &clock, &run);
        one_run(&run, &world, &clock, &disk, &mut ledger)
            .map_err(|fault| format!("run {place}: {fault}"))?;
    }
    let world = world.into_inner();
    ledger
        .has_all(&world, |_| true)
        .map_err(|fault| format!("at rest: {fault}"))?;
    // What is remembered at rest is what the last run had to look back at.
    let newest = world.listed.iter().map(|event| event.time).max();
    if let (Some(boundary), Some(newest)) = (ledger.boundary, newest)
        && ledger.announced_in_all == 0
        && boundary.unix_timestamp() < newest.min(clock.seconds() - 3600) - 600
    {
        return Err("the boundary stays behind".to_owned());
    }
    Ok(())
}

/// What happens before a run.
pub fn prepare(world: &RefCell<World>, clock: &ModelClock, run: &Run) {
    let mut world = world.borrow_mut();
    let (mut at, mut times) = (clock.seconds(), Vec::new());
    for (place, gap) in run.arrived.iter().enumerate() {
        at += gap;
        times.push(at);
        if let Some((_, count)) = run.crowd.filter(|crowd| crowd.0 == place) {
            times.extend(std::iter::repeat_n(at, count));
        }
    }
    clock.sleep(Duration::from_secs(
        (at - clock.seconds() + run.pause).unsigned_abs(),
    ));
    for time in times {
        world.add(time, time);
    }
    world.run = run.clone();
    world.requests = 0;
    world.began = None;
    world.quiet_until = Duration::ZERO;
}

pub fn one_run(
    run: &Run,
    world: &RefCell<World>,
    clock: &ModelClock,
    disk: &RefCell<Option<Vec<u8>>>,
    ledger: &mut Ledger,
) -> Result<(), String> {
    let before = match &*disk.borrow() {
        Some(json) => Some(Checkpoint::parse(json, ENDPOINT)?),
        None => None,
    };
    let known = before.as_ref().map_or(0, |before| before.known().len());
    let arrived = RefCell::default();
    let mut announced = Vec::new();
    let result = drive(run, world, clock, disk, &arrived, &mut |warning| {
        let words = warning.split_once(" events, but ");
        if let Some((unseen, _)) =
            words.and_then(|(_, rest)| rest.split_once(" of them were on none"))
        {
            announced.push(unseen.parse().unwrap());
        }
    })?;
    // A kill keeps it from telling the final number.
    let told = match announced.last() {
        Some(_) if result.is_none() => u64::MAX,
        number => number.copied().unwrap_or(0),
    };
    ledger.announced_in_all = ledger.announced_in_all.saturating_add(told);
    ledger.announced = announced;
    let world = world.borrow();
    let began = world.began.unwrap_or(i64::MAX);
    ledger
        .runs
        .push((began, i64::try_from(run.overlap).unwrap()));
    let what = |fault: String| format!("it ended with {result:?} (None: killed): {fault}");
    if !ledger.announced.is_empty() && world.announces_nothing {
        return Err(what(
            "events were missing that there are none of".to_owned(),
        ));
    }
    if let Some(Err(Error::Checkpoint(fault))) = &result {
        return Err(what(fault.clone()));
    }
    if let Some(Err(Error::TokenRefused(_))) = &result {
        // Retention has removed every event that the checkpoint knows, or an answer was empty.
        let ids = before
            .iter()
            .flat_map(|before| before.boundary.values().flatten());
        let known: HashSet<u64> = ids.map(|id| number(&id.to_string())).collect();
        let listed = world
            .listed
            .iter()
            .filter(|event| known.contains(&event.id));
        // Each of them may be among the events that this run did not find.
        let excused = Ledger::excuses(&world.manners, ledger.announced.iter().sum());
        if listed.count() as u64 > excused && run.percent.empty == 0 {
            return Err(what("an event of the boundary is listed".to_owned()));
        }
    }
    let is_complete = matches!(&result, Some(Ok(_) | Err(Error::TokenRefused(_))));
    let was_cut_short = !is_complete;
    let is_failed_commit = matches!(&result, None | Some(Err(Error::NotCommitted { .. })));
    ledger
        .after_run(run, &arrived.borrow(), &world, is_failed_commit)
        .map_err(what)?;
    if let Some(json) = &*disk.borrow() {
        ledger.on_disk(json, &world).map_err(what)?;
    }
    if world.requests > MOST_REQUESTS {
        return Err(what(format!(
            "it does not end: {} events listed",
            world.listed.len()
        )));
    }
    if let Some(fault) = &world.fault {
        return Err(what(fault.clone()));
    }
    let most = world.most_requests(run);
    if world.requests > most {
        let requests = world.requests;
        return Err(what(format!("{requests} requests instead of {most}")));
    }
    let percent = run.percent;
    let is_eventful = percent.failure + percent.empty + percent.retention + percent.burst > 0
        || run.max_time.is_some();
    let is_bound_to_fail = run.failing_commit.is_some() || run.failing_delivery.is_some();
    if was_cut_short && run.kill.is_none() && !is_eventful && !is_bound_to_fail {
        return Err(what("nothing was in its way".to_owned()));
    }
    // Three times what it takes to read what is known, and as many events of one second.
    let tied = world.listed.chunk_by(|one, other| one.time == other.time);
    let behind = known + tied.map(<[_]>::len).max().unwrap_or(0);
    let had_time = |span: u64| usize::try_from(span).unwrap() > behind / SMALLEST_PAGE + 4;
    if matches!(&result, Some(Err(error)) if error.exit() == Exit::OutOfTime)
        && arrived.borrow().events.is_empty()
        && percent.failure + percent.empty == 0
        && world.announces_nothing
        && world.manners.since != Since::Ignored
        && run.max_time.is_some_and(had_time)
        && before.is_none_or(|before| before.resume_at.is_none())
    {
        return Err(what("it gets no further".to_owned()));
    }
    Ok(())
}
