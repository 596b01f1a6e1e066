//! A bench for the built command: a stand-in for the API, a directory of its own, and an
//! environment with nothing in it but the token. What fails here says all there is to know: the
//! command, where it ran, how it ended, what it wrote and what it asked of the API.

#![allow(dead_code, reason = "each test target that includes this uses a part")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{self, Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tfc_audit::cli;
use tfc_audit::config::Config;
use time::UtcDateTime;

use crate::stand_in::{Event, StandIn, Step, World};

#[path = "support/outcome.rs"]
mod outcome;

pub use outcome::Outcome;

/// The token that a [`World`] takes. No run may show it or leave it anywhere.
pub const TOKEN: &str = "test-token";
/// What no run may show or leave anywhere: the token, and this word, which every other secret of the
/// tests has in it (values of headers, passwords, what stands in a query).
const SECRETS: [&str; 2] = [TOKEN, "hunter2"];
/// The files that are made to hold some have names that begin so.
const MADE_FOR_SECRETS: [&str; 2] = ["token", "headers"];
/// The built command.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tfc-audit");
/// A run that takes longer hangs, even on a busy machine.
pub const TOO_LONG: Duration = Duration::from_secs(600);
/// As [`TOO_LONG`], for what outlasts every test.
pub const AN_HOUR: Duration = Duration::from_secs(3600);

/// The present time.
pub fn now() -> UtcDateTime {
    UtcDateTime::now()
}

/// The present time less this many minutes.
pub fn minutes_ago(minutes: u32) -> UtcDateTime {
    now() - 60 * minutes * Duration::from_secs(1)
}

/// Tries these cases at the same time, since each mostly waits.
pub fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, attempt: impl Fn(T) + Sync) {
    let attempt = &attempt;
    thread::scope(|scope| {
        let start = |case| scope.spawn(move || attempt(case));
        let attempts: Vec<_> = cases.into_iter().map(start).collect();
        for attempt in attempts {
            if let Err(panic) = attempt.join() {
                resume_unwind(panic);
            }
        }
    });
}

/// A port at which nobody listens. The kernel takes ports for others from a higher range, so that
/// nobody gets this one by chance.
pub fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = process::id() * 97 + TRIED.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(10_000 + number % 20_000).expect("it is below 30,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What these arguments mean, with a token wherever it has to be; `None` if they mean no run.
pub fn configure(arguments: impl IntoIterator<Item = String>) -> Result<Option<Config>, String> {
    let cli::Command::Run(args) = cli::parse(arguments)? else {
        return Ok(None);
    };
    let environment = |name: &str| match name {
        "TFC_ORG_TOKEN" if args.token_file.is_none() => Some(TOKEN.into()),
        "HOME" => Some("/home/ann".into()),
        _ => None,
    };
    Config::new(&args, &environment, now()).map(Some)
}

/// What a run needs, and what all runs printed.
pub struct Bench {
    pub api: StandIn,
    dir: TempDir,
    printed: RefCell<String>,
    /// The last run, as [`Outcome`] shows it.
    last_run: RefCell<String>,
}

impl Bench {
    /// An API with this world, and an empty directory.
    pub fn new(world: World) -> Self {
        Self {
            api: StandIn::start(world),
            dir: TempDir::new().expect("a temporary directory"),
            printed: RefCell::default(),
            last_run: RefCell::default(),
        }
    }

    /// A well-behaved API with these events.
    pub fn of(events: Vec<Event>) -> Self {
        Self::new(World::new(events))
    }

    /// A place in the bench's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command with these arguments, after the endpoint and, unless there is to be none, the
    /// checkpoint.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare(args);
        if !args.contains(&"--no-checkpoint") {
            command.arg("-c").arg(self.path("checkpoint.json"));
        }
        command
    }

    /// The command with the endpoint and these arguments.
    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = self.clean(PROGRAM);
        command.args(["--endpoint", &self.api.url()]).args(args);
        command
    }

    /// As [`Bench::command`], and no file that it writes can grow beyond so many blocks of 512
    /// bytes: a full disk without one.
    pub fn limited(&self, blocks: u32, args: &[&str]) -> Command {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        self.scripted(&script, args)
    }

    /// As [`Bench::command`], started by a shell script as `"$0" "$@"`.
    pub fn scripted(&self, script: &str, args: &[&str]) -> Command {
        let inner = self.command(args);
        let mut command = self.clean("/bin/sh");
        command.args([OsStr::new("-c"), OsStr::new(script), inner.get_program()]);
        command.args(inner.get_args());
        command
    }

    /// A program in the bench's directory, without arguments.
    pub fn clean(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("TFC_ORG_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts a command.
    pub fn start(&self, mut command: Command) -> Running<'_> {
        let words = command.get_args().map(OsStr::to_string_lossy);
        let words = std::iter::once(command.get_program().to_string_lossy()).chain(words);
        let line = words.collect::<Vec<_>>().join(" ");
        Running {
            bench: self,
            line,
            began: Instant::now(),
            asked_before: self.api.requests().len(),
            child: command.spawn().expect("the command can be started"),
        }
    }

    /// Runs [`Bench::command`] to its end.
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.start(self.command(args)).finish()
    }

    /// One more run has nothing to deliver and nothing to say.
    #[track_caller]
    pub fn is_settled(&self) {
        self.run(&[]).code(0).silent().prints_nothing();
    }

    /// A run delivers everything in silence, and nothing is left for another.
    #[track_caller]
    pub fn delivers_all(&self) {
        self.run(&[]).code(0).silent();
        self.has_all();
        self.is_settled();
    }

    /// All runs together printed each event of the API once, byte for byte, in order of time.
    #[track_caller]
    pub fn has_all(&self) {
        let (printed, last_run) = (self.printed.borrow(), self.last_run.borrow());
        let events = self.in_order();
        let times: BTreeMap<&str, UtcDateTime> = events
            .iter()
            .map(|event| (event.text.as_str(), event.time))
            .collect();
        let (mut seen, mut last) = (BTreeSet::new(), UtcDateTime::UNIX_EPOCH);
        for line in printed.lines() {
            let Some(&time) = times.get(line) else {
                panic!("this is no event of the API: {line}\n{last_run}");
            };
            assert!(seen.insert(line), "printed twice: {line}\n{last_run}");
            assert!(time >= last, "printed too late: {line}\n{last_run}");
            last = time;
        }
        let missing = events
            .iter()
            .find(|event| !seen.contains(event.text.as_str()));
        assert!(
            missing.is_none(),
            "{} of {} events were not printed, such as {missing:?}\n{last_run}",
            events.len() - seen.len(),
            events.len(),
        );
    }

    /// How many events of the API no run has printed.
    pub fn missing(&self) -> usize {
        let printed = self.printed.borrow();
        let printed: BTreeSet<&str> = printed.lines().collect();
        let is_missing = |event: &&Event| !printed.contains(event.text.as_str());
        self.in_order().iter().filter(is_missing).count()
    }

    /// These events come into being.
    pub fn insert(&self, events: impl IntoIterator<Item = Event>) {
        self.api.with(|world| world.insert(events));
    }

    /// Has this happen at a request of this number, counted from the bench's first.
    pub fn script(&self, request: usize, step: Step) {
        self.api.with(|world| world.script(request, step));
    }

    /// The API's events in the order of their delivery.
    pub fn in_order(&self) -> Vec<Event> {
        self.api
            .with(|world| world.in_order().into_iter().cloned().collect())
    }

    /// What is in the checkpoint's file.
    pub fn checkpoint(&self) -> String {
        fs::read_to_string(self.path("checkpoint.json")).expect("there is a checkpoint")
    }

    /// A field of the checkpoint.
    pub fn checkpoint_field(&self, name: &str) -> Value {
        let value: Value = serde_json::from_str(&self.checkpoint()).expect("it is JSON");
        value[name].clone()
    }

    /// Changes a field of the checkpoint.
    pub fn set_checkpoint_field(&self, name: &str, to: Value) {
        let mut value: Value = serde_json::from_str(&self.checkpoint()).expect("it is JSON");
        value[name] = to;
        fs::write(self.path("checkpoint.json"), value.to_string()).expect("it can be written");
    }

    /// The names of what is in the bench's directory, sorted.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("the directory can be read");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry.expect("an entry")))
            .collect();
        names.sort();
        names
    }
}

/// A command that runs.
pub struct Running<'a> {
    pub child: Child,
    bench: &'a Bench,
    line: String,
    began: Instant,
    asked_before: usize,
}

impl Running<'_> {
    /// The reading end of its standard output, to be closed by whoever takes it.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout is piped")
    }

    /// Waits until it has made so many requests.
    #[track_caller]
    pub fn has_asked(&self, count: usize) {
        while self.bench.api.requests().len() - self.asked_before < count {
            assert!(
                self.began.elapsed() < TOO_LONG,
                "{} asks nothing",
                self.line
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        let stdout = read(self.child.stdout.take());
        let stderr = read(self.child.stderr.take());
        let mut peak = None;
        let mut hangs = false;
        let status = loop {
            peak = peak.max(peak_memory(self.child.id()));
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if self.began.elapsed() > TOO_LONG {
                hangs = true;
                let _ = self.child.kill(); // it may just have ended
            }
            thread::sleep(Duration::from_millis(3));
        };
        let took = self.began.elapsed();
        let text = |reader: thread::JoinHandle<_>| reader.join().expect("output is UTF-8");
        let outcome = Outcome {
            line: self.line,
            cwd: self.bench.dir.path().to_owned(),
            code: status.code(),
            how: status.to_string(),
            stdout: text(stdout),
            stderr: text(stderr),
            asked: self.bench.api.requests().split_off(self.asked_before),
            took,
            peak,
        };
        outcome.holds(!hangs, "it hangs and was killed");
        outcome.keeps_secrets(&self.bench.path(""));
        self.bench.printed.borrow_mut().push_str(&outcome.stdout);
        *self.bench.last_run.borrow_mut() = outcome.to_string();
        outcome
    }
}

/// Reads an output to its end, beside everything else.
fn read(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut stream) = stream {
            stream.read_to_string(&mut text).expect("output is UTF-8");
        }
        text
    })
}

/// The most memory that a process has had so far, in KiB; `None` where there is no knowing.
fn peak_memory(process: u32) -> Option<u64> {
    // For a moment the new process still has the memory of this one.
    if fs::read_link(format!("/proc/{process}/exe")).ok()? == env::current_exe().ok()? {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}
