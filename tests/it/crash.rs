//! The run that ends at the wrong moment: killed at every system call, as found by tracing one run.
//!
//! After each kill the checkpoint is the old or the new one of that step, to the byte; the next run
//! delivers everything, repeats exactly what was delivered and not committed (one batch at most),
//! and leaves nothing behind. A kill comes before its call is carried out; after it is before the
//! next one.
//!
//! `cargo test` tries the first and the last call of each kind; all of them with
//! `TFC_AUDIT_CRASH_ALL=1`.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::receiver::{Format, Receiver, Rules};
use crate::stand_in::{Event, World, events, events_from, ids, stamp};
use crate::support::{Bench, Outcome, minutes_ago, now};
use crate::trace::{Call, Strace};

/// Calls before and after which everything outside of the process is the same.
const PRIVATE: [&str; 16] = [
    "brk",
    "clock_nanosleep",
    "fcntl",
    "futex",
    "getrandom",
    "gettid",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "prlimit64",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "sigaltstack",
];

/// Where a scene's events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Standard output, appended to the file `out`.
    File,
    /// A receiver of NDJSON.
    Post,
    /// `cat >> out`.
    Exec,
}

/// A run that can be done over and over from the same beginning.
pub struct Scene {
    pub bench: Bench,
    strace: Strace,
    to: To,
    receiver: Option<Receiver>,
    args: Vec<String>,
    /// The checkpoint at the beginning; `None` for a first run.
    before: Option<String>,
    /// What there is to be delivered, in order.
    expected: Vec<Event>,
    /// The checkpoints that an undisturbed run leaves one after the other, the one before included.
    pub legal: Vec<Option<String>>,
    /// The calls of an undisturbed run.
    pub calls: Vec<Call>,
    began: OffsetDateTime,
    /// How much came to the receiver before the present beginning.
    received_before: usize,
}

impl Scene {
    /// A scene with some batches of events to be delivered, after three that were; `None` where
    /// it has to be skipped.
    pub fn new(to: To) -> Option<Self> {
        Self::with(to, false, &[])
    }

    fn with(to: To, first_run: bool, more: &[&str]) -> Option<Self> {
        let strace = Strace::find()?;
        let began = now().replace_nanosecond(0).expect("0 is in range");
        let old = if first_run { 0 } else { 3 };
        let bench = Bench::new(World::new(events(old, minutes_ago(60), 1)));
        let before = (!first_run).then(|| {
            bench.run(&[]).code(0).silent();
            // Unlike any time at which a run of this scene can be completed.
            let hour_ago = minutes_ago(60);
            bench.set_checkpoint_field("completed_at", json!(stamp(hour_ago)));
            bench.checkpoint()
        });
        // In strides of up to ten pages, standard output's batches.
        let count = if to == To::File { 24 } else { 10 };
        let expected = events_from(1_000, count, now(), 1);
        bench.insert(expected.clone());
        let receiver = (to == To::Post).then(|| Receiver::start(Format::Ndjson, Rules::default()));
        let url = receiver.as_ref().map(Receiver::url).unwrap_or_default();
        let own = match to {
            To::File => vec!["--page-size=1"],
            To::Post => vec!["--batch-events=4", "--post", &url],
            To::Exec => vec!["--batch-events=4", "--exec", "cat >> out"],
        };
        let args = own.iter().chain(more).map(|&arg| arg.to_owned()).collect();
        let mut scene = Self {
            bench,
            strace,
            to,
            receiver,
            args,
            before,
            expected,
            legal: Vec::new(),
            calls: Vec::new(),
            began,
            received_before: 0,
        };
        scene.watch();
        Some(scene)
    }

    /// Watches an undisturbed run.
    fn watch(&mut self) {
        self.reset();
        self.run_with(&[]).code(0).silent();
        self.calls = self.strace.calls();
        let temporary = self.bench.path("checkpoint.json.tmp");
        let mut written = String::new();
        self.legal = vec![self.before.clone()];
        for call in &self.calls {
            if call.name == "write" && call.is_on(&temporary) {
                written.push_str(&call.text());
            } else if call.name == "rename" && call.succeeded() {
                self.legal.push(Some(self.timeless(&written)));
                written.clear();
            }
        }
        assert!(self.legal.len() > 4, "there should be several commits");
        assert_eq!(self.legal.last(), Some(&self.checkpoint()));
        assert_eq!(self.delivered(), self.texts(0..self.expected.len()));
    }

    /// Back to the beginning.
    pub fn reset(&mut self) {
        for name in self.bench.files() {
            fs::remove_file(self.bench.path(&name)).expect("it can be removed");
        }
        if let Some(before) = &self.before {
            fs::write(self.bench.path("checkpoint.json"), before).expect("it can be written");
        }
        fs::write(self.bench.path("out"), "").expect("it can be written");
        self.received_before = self.receiver.as_ref().map_or(0, |it| it.delivered().len());
    }

    /// The scene's command.
    pub fn command(&self) -> Command {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        self.bench.command(&args)
    }

    /// Runs a command to the end of all that it started, with standard output where it belongs.
    pub fn finish(&self, mut command: Command) -> Outcome {
        if self.to == To::File {
            let out = OpenOptions::new().append(true).open(self.bench.path("out"));
            command.stdout(out.expect("it can be opened"));
        }
        let run = self.bench.start(command).finish();
        if let Some(receiver) = &self.receiver {
            receiver.wait_until_left();
        }
        run
    }

    /// Runs the scene's command under `strace` with these options.
    pub fn run_with(&self, options: &[&str]) -> Outcome {
        let command = self.command();
        self.finish(self.strace.wrap(&self.bench, &command, options))
    }

    /// What was delivered since the beginning.
    fn delivered(&self) -> Vec<String> {
        match &self.receiver {
            Some(receiver) => {
                let items = receiver.delivered().split_off(self.received_before);
                items.into_iter().map(|item| item.text).collect()
            }
            None => {
                let out = fs::read_to_string(self.bench.path("out")).expect("it can be read");
                assert!(out.is_empty() || out.ends_with('\n'), "half a line: {out}");
                out.lines().map(str::to_owned).collect()
            }
        }
    }

    fn texts(&self, range: std::ops::Range<usize>) -> Vec<String> {
        let events = self.expected[range].iter();
        events.map(|event| event.text.clone()).collect()
    }

    /// The checkpoint as it is, but for the time of its completion.
    fn checkpoint(&self) -> Option<String> {
        let text = fs::read_to_string(self.bench.path("checkpoint.json")).ok()?;
        Some(self.timeless(&text))
    }

    /// A checkpoint in which the time of a completion since the scene began is left out.
    fn timeless(&self, checkpoint: &str) -> String {
        let field = r#""completed_at":""#;
        if Some(checkpoint) == self.before.as_deref() {
            return checkpoint.to_owned();
        }
        let Some((start, rest)) = checkpoint.split_once(field) else {
            return checkpoint.to_owned();
        };
        let (time, end) = rest.split_once('"').expect("it is a string");
        match OffsetDateTime::parse(time, &Rfc3339) {
            Ok(time) if self.began <= time && time <= now() => format!("{start}{field}now\"{end}"),
            _ => checkpoint.to_owned(),
        }
    }

    /// How many of the expected events a checkpoint counts as delivered.
    fn settled(&self, checkpoint: Option<&str>) -> usize {
        let value: Value = checkpoint.map_or(json!(null), |json| {
            serde_json::from_str(json).expect("a checkpoint is JSON")
        });
        let last = value["last_timestamp"].as_str().unwrap_or_default();
        let is_settled = |event: &&Event| stamp(event.time).as_str() <= last;
        self.expected.iter().take_while(is_settled).count()
    }

    /// How many events are acknowledged at once, at most.
    fn batch(&self) -> usize {
        let settled: Vec<_> = self
            .legal
            .iter()
            .map(|checkpoint| self.settled(checkpoint.as_deref()))
            .collect();
        let batches = settled.windows(2).map(|pair| pair[1] - pair[0]);
        batches.max().unwrap_or_default()
    }

    /// After a run that ended early, everything is as it should be, and the next run does the rest.
    /// Gives how many events came again.
    #[track_caller]
    pub fn recovers(&self, run: &Outcome) -> usize {
        let calls = self.strace.calls();
        let is_commit = |call: &&Call| call.name == "rename" && call.succeeded();
        let commits = calls.iter().filter(is_commit).count();
        let checkpoint = &self.legal[commits];
        run.holds(
            self.checkpoint() == *checkpoint,
            format_args!(
                "the checkpoint should be that of commit {commits}, {checkpoint:?}, not {:?}",
                self.checkpoint()
            ),
        );
        let (sent, settled) = (self.delivered().len(), self.settled(checkpoint.as_deref()));
        run.holds(
            (settled..=settled + self.batch()).contains(&sent),
            format_args!("{sent} were sent, and {settled} committed"),
        );

        let next = self.finish(self.command());
        next.code(0).silent();
        next.holds(
            self.checkpoint() == *self.legal.last().expect("there are some"),
            "the checkpoint should be complete",
        );
        let expected = [
            self.texts(0..sent),
            self.texts(settled..self.expected.len()),
        ];
        next.holds(
            self.delivered() == expected.concat(),
            format_args!(
                "what came should be the first {sent}, then all from {settled} on:\n{:#?}\n{run}",
                self.delivered()
            ),
        );
        assert_eq!(
            self.bench.files(),
            ["checkpoint.json", "checkpoint.json.lock", "out"]
        );
        sent - settled
    }

    /// Where to kill: each call, as its name and its number among those of its name, from the first
    /// that has to do with the checkpoint on.
    fn points(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut points = Vec::new();
        let mut has_begun = false;
        for call in &self.calls {
            let count = counts.entry(&call.name).or_default();
            *count += 1;
            has_begun = has_begun || call.line.contains("checkpoint.json.lock\"");
            if has_begun && !PRIVATE.contains(&call.name.as_str()) {
                let opened = call.opened().unwrap_or_default();
                let kind = if opened.contains("->") { "" } else { opened };
                points.push(((call.name.clone(), *count), (&call.name, kind)));
            }
        }
        if env::var_os("TFC_AUDIT_CRASH_ALL").is_none_or(|value| value != "1") {
            let kinds: Vec<_> = points.iter().map(|point| point.1).collect();
            let first = |place: usize| !kinds[..place].contains(&kinds[place]);
            let last = |place: usize| !kinds[place + 1..].contains(&kinds[place]);
            let mut place = 0;
            points.retain(|_| {
                place += 1;
                first(place - 1) || last(place - 1)
            });
        }
        points.into_iter().map(|(point, _)| point).collect()
    }

    /// Kills the run at each of its calls.
    #[expect(clippy::print_stderr, reason = "how much was tried is worth knowing")]
    fn survives_every_kill(mut self) {
        let points = self.points();
        let (mut killed, mut repeats) = (0, 0);
        for (name, number) in &points {
            self.reset();
            let inject = format!("inject={name}:signal=SIGKILL:when={number}");
            let run = self.run_with(&["-e", &inject]);
            if !run.was_killed() {
                run.code(0);
            }
            killed += usize::from(run.was_killed());
            repeats += usize::from(self.recovers(&run) > 0);
        }
        eprintln!(
            "{:?}: killed at {killed} calls of {}; events came again after {repeats}",
            self.to,
            points.len()
        );
        // Some counts, such as that of reads of a connection, differ from run to run.
        assert!(
            killed * 10 > points.len() * 9,
            "{killed} of {}",
            points.len()
        );
        assert!(repeats > 0, "no kill came between delivery and commit");
    }
}

#[test]
fn killed_while_writing_to_a_file() {
    if let Some(scene) = Scene::new(To::File) {
        scene.survives_every_kill();
    }
}

#[test]
fn killed_in_a_first_run() {
    if let Some(scene) = Scene::with(To::File, true, &[]) {
        scene.survives_every_kill();
    }
}

#[test]
fn killed_while_posting() {
    if let Some(scene) = Scene::new(To::Post) {
        scene.survives_every_kill();
    }
}

#[test]
fn killed_while_a_command_runs() {
    if let Some(scene) = Scene::new(To::Exec) {
        scene.survives_every_kill();
    }
}

/// What a run has done to the world for good, step by step: what it wrote, synced and renamed in the
/// bench's directory, what it sent to the receiver and heard from it, and which children ended well.
fn steps(calls: &[Call], bench: &Bench, receiver: Option<&Receiver>) -> Vec<String> {
    let dir = bench.path("");
    let receiver = receiver.map(|it| it.url()).unwrap_or_default();
    let (address, _) = receiver
        .trim_start_matches("http://")
        .split_once('/')
        .unwrap_or_default();
    let step = |call: &Call| {
        let opened = call.opened().unwrap_or_default();
        let file = || {
            let name = Path::new(opened).strip_prefix(&dir).ok()?.to_str()?;
            Some(if name.is_empty() {
                "the directory"
            } else {
                name
            })
        };
        let is_receiver = !address.is_empty() && opened.ends_with(&format!("->{address}]"));
        match call.name.as_str() {
            _ if !call.succeeded() => None,
            "write" => Some(format!("write {}", file()?)),
            "fsync" | "fdatasync" => Some(format!("sync {}", file()?)),
            "rename" => Some("rename".to_owned()),
            "sendto" if is_receiver => Some("post".to_owned()),
            "sendto" => Some("ask".to_owned()),
            "recvfrom" if is_receiver && call.line.contains("\"HTTP/1.1 2") => {
                Some("acknowledged".to_owned())
            }
            "wait4" if call.line.contains("WEXITSTATUS(s) == 0") => Some("exited".to_owned()),
            _ => None,
        }
    };
    let mut steps: Vec<_> = calls.iter().filter_map(step).collect();
    steps.dedup();
    steps
}

const COMMIT: [&str; 4] = [
    "write checkpoint.json.tmp",
    "sync checkpoint.json.tmp",
    "rename",
    "sync the directory",
];

/// A commit before anything is asked for; then for each batch the delivery, what proves it, and a
/// commit; and one at the end. Where a sync is left out, nothing else fails: no test can cut the
/// power.
#[test]
fn the_order_on_disk() {
    let deliveries: [(To, &[&str]); 3] = [
        (To::File, &["write out", "sync out"]),
        (To::Post, &["post", "acknowledged"]),
        (To::Exec, &["exited"]),
    ];
    for (to, delivery) in deliveries {
        let Some(scene) = Scene::new(to) else { return };
        let mut steps = steps(&scene.calls, &scene.bench, scene.receiver.as_ref());
        assert_eq!(steps[..4], COMMIT, "{to:?}: {steps:#?}");
        steps.retain(|step| step != "ask");
        let batches = scene.legal.len() - 3;
        let expected = [&COMMIT[..]]
            .into_iter()
            .chain((0..batches).flat_map(|_| [delivery, &COMMIT]))
            .chain([&COMMIT[..]]);
        assert_eq!(steps, expected.collect::<Vec<_>>().concat(), "{to:?}");
    }
}

/// An event that the receiver refuses is synced among the dead letters before it is committed, and
/// is there or comes again after a kill at any call from there on.
#[test]
fn killed_while_putting_events_aside() {
    let Some(mut scene) = Scene::with(To::Post, false, &["--dead-letter=dead"]) else {
        return;
    };
    let poison = [1, 6].map(|place| scene.expected[place].clone());
    let receiver = scene.receiver.as_ref().expect("it posts");
    receiver.with(|rules| rules.poison = poison.iter().map(|event| event.id.clone()).collect());
    scene.reset();
    scene.run_with(&[]).code(0);
    scene.calls = scene.strace.calls();

    let steps = steps(&scene.calls, &scene.bench, scene.receiver.as_ref());
    let written: Vec<_> = (0..steps.len())
        .filter(|&place| steps[place] == "write dead")
        .collect();
    assert_eq!(written.len(), 2, "{steps:#?}");
    for place in written {
        assert_eq!(steps[place + 1], "sync dead");
        assert_eq!(steps[place + 2..place + 6], COMMIT);
    }

    let points = scene.points();
    let first = points.iter().position(|(name, _)| name == "fdatasync");
    for (name, number) in &points[first.expect("it is synced") - 1..] {
        scene.reset();
        let run = scene.run_with(&["-e", &format!("inject={name}:signal=SIGKILL:when={number}")]);
        let next = scene.finish(scene.command());
        next.code(0);
        let dead = fs::read_to_string(scene.bench.path("dead")).expect("it can be read");
        assert!(dead.ends_with('\n'), "half a line: {dead}");
        let (dead, taken) = (ids(&dead), scene.delivered());
        for event in &scene.expected {
            let is_dead = dead.contains(&event.id);
            next.holds(
                is_dead == poison.contains(event) && is_dead != taken.contains(&event.text),
                format_args!("{} should be where it belongs\n{run}", event.id),
            );
        }
    }
}
