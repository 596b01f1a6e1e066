//! A run that can be done over and over from the same beginning, and disturbed at any of its system
//! calls: what it may leave behind then, and what the next run makes of it.

// Elsewhere the calls have other names.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::process::Command;

use serde_json::{Value, json};
use time::UtcDateTime;
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

/// The places of the events that are refused in [`Scene::with_refused_events`].
const REFUSED: [usize; 2] = [1, 6];

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
    pub to: To,
    pub receiver: Option<Receiver>,
    args: Vec<String>,
    /// The checkpoint at the beginning; `None` for a first run.
    before: Option<String>,
    /// What there is to be delivered, in order.
    expected: Vec<Event>,
    /// The checkpoints that an undisturbed run leaves one after the other, the one before included.
    pub legal: Vec<Option<String>>,
    /// The calls of an undisturbed run.
    pub calls: Vec<Call>,
    began: UtcDateTime,
    /// How much came to the receiver before the present beginning.
    received_before: usize,
}

impl Scene {
    /// A scene with some batches of events to be delivered, after three that were; `None` where
    /// it has to be skipped.
    pub fn new(to: To) -> Option<Self> {
        Self::with(to, false, &[])
    }

    /// As [`Scene::new`], perhaps without a checkpoint to begin with, and with more arguments.
    pub fn with(to: To, first_run: bool, more: &[&str]) -> Option<Self> {
        let strace = Strace::find()?;
        let began = now().replace_nanosecond(0).expect("0 is in range");
        let old = if first_run { 0 } else { 3 };
        let bench = Bench::new(World::new(events(old, minutes_ago(60), 1)));
        let before = (!first_run).then(|| {
            bench.run(&[]).code(0).silent();
            // Unlike any time at which a run of this scene can be completed.
            let hour_ago = minutes_ago(60);
            bench.set_checkpoint_field("completed_at", json!(stamp(hour_ago)));
            // As in an older checkpoint, so that the scene's own receiver is not a change.
            bench.set_checkpoint_field("destination", json!(null));
            bench.checkpoint()
        });
        // With few events on a page, standard output has several batches.
        let count = if to == To::File { 14 } else { 10 };
        let expected = events_from(1_000, count, now(), 1);
        bench.insert(expected.clone());
        let receiver = (to == To::Post).then(|| Receiver::start(Format::Ndjson, Rules::default()));
        let url = receiver.as_ref().map(Receiver::url).unwrap_or_default();
        let own = match to {
            To::File => vec!["--page-size=3"],
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
        if let Some(receiver) = &self.receiver {
            let items = receiver.delivered().split_off(self.received_before);
            return items.into_iter().map(|item| item.text).collect();
        }
        let out = fs::read_to_string(self.bench.path("out")).expect("it can be read");
        assert!(out.is_empty() || out.ends_with('\n'), "half a line: {out}");
        out.lines().map(str::to_owned).collect()
    }

    fn texts(&self, range: Range<usize>) -> Vec<String> {
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
        match UtcDateTime::parse(time, &Rfc3339) {
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

    /// The number, among the calls of its name in an undisturbed run, of the call (counted from 0) of
    /// this name that is about this file of the bench's directory or, where that is a word in capitals,
    /// has it among its arguments.
    pub fn number(&self, name: &str, at: &str, which: usize) -> usize {
        let path = |path: &str| self.bench.path("").join(path);
        let is_word = at.starts_with(char::is_uppercase);
        let calls = self.calls.iter().filter(|call| call.name == name);
        let is_about = |call: &Call| {
            if is_word {
                return call.line.contains(at);
            }
            call.path().is_none_or(|about| path(about) == path(at))
        };
        let mut numbers = (1..).zip(calls).filter(|(_, call)| is_about(call));
        let (number, _) = numbers.nth(which).expect("there is such a call");
        number
    }

    /// Whether the latest run met a call that was failed on purpose.
    pub fn was_injected(&self) -> bool {
        let is_injected = |call: &Call| call.line.ends_with("(INJECTED)");
        self.strace.calls().iter().any(is_injected)
    }

    /// Where to kill: each call, as its name and its number among those of its name, from the first
    /// that has to do with the checkpoint on.
    pub fn points(&self) -> Vec<(String, usize)> {
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
                // At each rename a delivery waits for its commit.
                let is_rename = kinds[place - 1].0 == "rename";
                first(place - 1) || last(place - 1) || is_rename
            });
        }
        points.into_iter().map(|(point, _)| point).collect()
    }

    /// A scene in which the receiver refuses two events for what they hold.
    pub fn with_refused_events() -> Option<Self> {
        let mut scene = Self::with(To::Post, false, &["--dead-letter=dead"])?;
        let receiver = scene.receiver.as_ref().expect("it posts");
        let poison = REFUSED.map(|place| scene.expected[place].id.clone());
        receiver.with(|rules| rules.poison = poison.into());
        scene.reset();
        scene.run_with(&[]).code(0);
        scene.calls = scene.strace.calls();
        Some(scene)
    }

    /// After a run that ended early, the next one has every event where it belongs: with the receiver
    /// or among the dead letters.
    #[track_caller]
    pub fn puts_aside(&self, run: &Outcome) {
        let next = self.finish(self.command());
        next.code(0);
        let dead = fs::read_to_string(self.bench.path("dead")).expect("it can be read");
        next.holds(dead.ends_with('\n'), format_args!("half a line: {dead}"));
        let (dead, taken) = (ids(&dead), self.delivered());
        for (place, event) in self.expected.iter().enumerate() {
            let is_dead = dead.contains(&event.id);
            next.holds(
                is_dead == REFUSED.contains(&place) && is_dead != taken.contains(&event.text),
                format_args!("event {place} should be where it belongs\n{run}"),
            );
        }
    }
}
