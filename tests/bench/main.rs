//! `cargo bench`: how fast the program is and how much memory it takes, beside the goals.
//!
//! Machines differ, and no machine is quiet. So the program takes turns with another one, mostly
//! `curl` reading the same pages over one connection, and their times are compared.
//! `cargo bench -- memory` runs only that part. `cargo bench -- --program FILE` measures that program
//! without building one.
//!
//! Each program runs under a child process that only waits for it. The system's figures for that
//! child's children, CPU time and peak memory, are then those of one program.

#![expect(clippy::print_stdout, reason = "it shows something")]
#![allow(
    clippy::cast_precision_loss,
    reason = "figures are shown with few digits"
)]

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use stand_in::{PATH, StandIn, World, events};
use time::UtcDateTime;

mod parts;
mod peers;
#[path = "../support/receiver.rs"]
mod receiver;
#[path = "../support/stand_in.rs"]
#[allow(unused_imports, reason = "its tests belong to the integration tests")]
mod stand_in;

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

/// A part measures some of the goals.
type Part = fn(&mut Bench) -> Result;

/// The parts in their order: name, what it shows, function.
const PARTS: [(&str, &str, Part); 9] = [
    ("file", "100,000 events to a file, beside curl", parts::file),
    (
        "requests",
        "requests for a backlog of 100 pages",
        parts::requests,
    ),
    ("idle", "a run that finds no new events", parts::idle),
    (
        "memory",
        "peak memory, by size of the backlog",
        parts::memory,
    ),
    (
        "latency",
        "a backlog over a slow network, with a rate limit",
        parts::latency,
    ),
    (
        "receiver",
        "reading and posting at the same time",
        parts::posting,
    ),
    (
        "binary",
        "the size of the program, and its start",
        parts::binary,
    ),
    (
        "instructions",
        "instructions for each event",
        parts::instructions,
    ),
    (
        "peers",
        "beside curl with jq, and a Python poller",
        peers::peers,
    ),
];

/// How often each of two programs that take turns runs.
const TURNS: usize = 15;
/// The documented rate limit: requests in a second.
const RATE_LIMIT: u32 = 30;
/// The time that the receiver takes for a batch.
const POST_LATENCY: Duration = Duration::from_millis(20);
/// Events for each page.
const PAGE: usize = 1000;
/// Bytes in a MiB.
const MIB: f64 = 1024.0 * 1024.0;

fn main() -> Result {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == "measure").is_some() {
        return measure(arguments);
    }
    let (mut program, mut chosen) = (None, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--bench") => {} // from cargo
            Some("--program") => program = arguments.next(),
            Some(part) if PARTS.iter().any(|(name, ..)| *name == part) => {
                chosen.push(part.to_owned());
            }
            _ => {
                let names = PARTS.map(|(name, ..)| name).join(", ");
                let argument = argument.display();
                return Err(format!("unknown part {argument}: use some of {names}").into());
            }
        }
    }
    let program = match program {
        Some(program) => fs::canonicalize(program)?,
        None => build()?,
    };
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let directory = place.join(format!("tfc-audit-bench-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let mut bench = Bench {
        program,
        directory: directory.clone(),
        goals: Vec::new(),
    };
    println!("{}", machine(&place)?);
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|part| part == name);
    let mut parts = PARTS.iter().filter(|(name, ..)| wanted(name));
    let result = parts.try_for_each(|(name, shows, part)| {
        println!("\n{name}: {shows}");
        part(&mut bench)
    });
    fs::remove_dir_all(&directory)?;
    result?;
    bench.print_goals();
    Ok(())
}

/// The program under test, and the goals measured so far.
struct Bench {
    program: PathBuf,
    /// The directory of all files that the bench writes.
    directory: PathBuf,
    goals: Vec<Goal>,
}

/// A measured figure beside its goal.
struct Goal {
    name: String,
    most: f64,
    reached: f64,
}

/// Time and memory of one run of a program.
struct Trial {
    wall: Duration,
    cpu: Duration,
    /// Peak memory in bytes.
    peak: f64,
}

impl Bench {
    fn goal(&mut self, name: impl Into<String>, most: f64, reached: f64) {
        self.goals.push(Goal {
            name: name.into(),
            most,
            reached,
        });
    }

    fn print_goals(&self) {
        println!("\n{:62} {:>9} {:>9}", "goal", "at most", "reached");
        for goal in &self.goals {
            let verdict = if goal.reached <= goal.most {
                "met"
            } else {
                "missed"
            };
            println!(
                "{:62} {:9.2} {:9.2} {verdict}",
                goal.name, goal.most, goal.reached
            );
        }
    }

    /// The path of a file in the bench's directory.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Runs a program to its end. Its standard output goes to the file `out`.
    fn run<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
        out: &Path,
    ) -> Result<Trial> {
        let program = program.as_ref();
        let output = Command::new(std::env::current_exe()?)
            .arg("measure")
            .arg(out)
            .arg(program)
            .args(arguments)
            .env("TFC_ORG_TOKEN", "test-token")
            .stderr(Stdio::inherit())
            .output()?;
        let figures = String::from_utf8(output.stdout)?;
        let figures: Vec<u64> = figures
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        match figures[..] {
            [wall, cpu, peak] if output.status.success() => Ok(Trial {
                wall: Duration::from_micros(wall),
                cpu: Duration::from_micros(cpu),
                peak: peak as f64 * 1024.0,
            }),
            _ => Err(format!("{} failed", program.display()).into()),
        }
    }

    /// Delivers all events of the API to the file `out`. Without a `checkpoint` it is a first run.
    fn drain(
        &self,
        api: &StandIn,
        checkpoint: Option<&Path>,
        more: &[&str],
        out: &Path,
    ) -> Result<Trial> {
        Self::run(&self.program, self.arguments(api, checkpoint, more)?, out)
    }

    fn arguments(
        &self,
        api: &StandIn,
        checkpoint: Option<&Path>,
        more: &[&str],
    ) -> Result<Vec<OsString>> {
        let new = self.path("new-checkpoint.json");
        if checkpoint.is_none() && new.exists() {
            fs::remove_file(&new)?;
        }
        let url = api.url();
        let mut arguments = vec!["--endpoint".into(), url.into(), "--checkpoint".into()];
        arguments.push(checkpoint.unwrap_or(&new).into());
        arguments.extend(more.iter().map(OsString::from));
        Ok(arguments)
    }

    /// Reads the same pages with curl.
    fn curl(api: &StandIn, pages: usize, out: &Path) -> Result<Trial> {
        let url = format!(
            "{}{PATH}?page%5Bnumber%5D=[1-{pages}]&page%5Bsize%5D={PAGE}",
            api.url()
        );
        let token = "Authorization: Bearer test-token";
        Self::run(
            "curl",
            ["-q", "-sSf", "--noproxy", "*", "-H", token, &url],
            out,
        )
    }
}

/// Runs a program for [`Bench::run`], and prints wall time and CPU time in microseconds and peak
/// memory in KiB.
fn measure(mut arguments: impl Iterator<Item = OsString>) -> Result {
    let (Some(out), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("usage: measure FILE PROGRAM [ARGUMENT ...]".into());
    };
    let out = File::create(out)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(out);
    let start = Instant::now();
    let status = command.status()?;
    let wall = start.elapsed().as_micros();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    println!("{wall} {cpu} {}", usage.max_rss());
    if status.success() {
        Ok(())
    } else {
        Err(status.to_string().into())
    }
}

/// A world with a backlog of `count` events, whose time stands still.
fn world(count: usize, per_second: u32) -> World {
    let now = UtcDateTime::now();
    World {
        now: Some(now),
        ..World::new(events(count, now, per_second))
    }
}

/// A stand-in that renders each page of this world only once.
fn frozen(world: World) -> StandIn {
    let api = StandIn::start(world);
    api.freeze();
    api
}

/// A stand-in with a backlog of `count` events, five a second.
fn backlog(count: usize) -> StandIn {
    frozen(world(count, 5))
}

fn wall(trial: &Trial) -> f64 {
    trial.wall.as_secs_f64()
}

fn cpu(trial: &Trial) -> f64 {
    trial.cpu.as_secs_f64()
}

fn median<T: std::borrow::Borrow<Trial>>(trials: &[T], of: fn(&Trial) -> f64) -> f64 {
    let mut figures: Vec<_> = trials.iter().map(|trial| of(trial.borrow())).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Shows the medians of some runs.
fn show<T: std::borrow::Borrow<Trial>>(who: &str, trials: &[T]) {
    println!(
        "  {who:20} wall {:8.4} s, CPU {:7.4} s, peak {:6.1} MiB",
        median(trials, wall),
        median(trials, cpu),
        median(trials, |trial| trial.peak) / MIB,
    );
}

/// Builds the release binary, and returns its path.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let own = std::env::current_exe()?;
    let target = own
        .ancestors()
        .nth(3)
        .ok_or("the bench is not in a target directory")?;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--bin", "tfc-audit"])
        .args(["--manifest-path", manifest, "--target-dir"])
        .arg(target)
        .status()?;
    if !status.success() {
        return Err("cargo build failed".into());
    }
    Ok(target.join("release/tfc-audit"))
}

/// The name and version of a tool, if it is installed.
fn version(tool: &str) -> Option<String> {
    let output = Command::new(tool).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.lines().next()?.split(" (").next()?.to_owned();
    output.status.success().then_some(version)
}

/// A line about the machine and the programs of this measurement.
fn machine(place: &Path) -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let curl = version("curl").unwrap_or("no curl".to_owned());
    Ok(format!(
        "{} × {model}; Linux {}; {curl}; load {}; files in {}; medians of {TURNS} runs",
        std::thread::available_parallelism()?,
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        place.display(),
    ))
}
