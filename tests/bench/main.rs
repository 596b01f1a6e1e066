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
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use stand_in::{Event, PATH, StandIn, Ties, World, events};
use time::OffsetDateTime;

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
    ("file", "100,000 events to a file, beside curl", file),
    ("requests", "requests for a backlog of 100 pages", requests),
    ("idle", "a run that finds no new events", idle),
    ("memory", "peak memory, by size of the backlog", memory),
    (
        "latency",
        "a backlog over a slow network, with a rate limit",
        latency,
    ),
    ("receiver", "reading and posting at the same time", posting),
    ("binary", "the size of the program, and its start", binary),
    ("instructions", "instructions for each event", instructions),
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
    let now = OffsetDateTime::now_utc();
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

/// 100,000 events to a file.
fn file(bench: &mut Bench) -> Result {
    let (api, out) = (backlog(100 * PAGE), bench.path("out"));
    let (mut curl, mut own) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        let trials = [
            Bench::curl(&api, 100, &out)?,
            bench.drain(&api, None, &[], &out)?,
        ];
        let lines = BufReader::new(File::open(&out)?).split(b'\n').count();
        assert_eq!(lines, 100 * PAGE, "events are missing");
        // In the first turn the stand-in renders its pages.
        if turn > 0 {
            let [theirs, ours] = trials;
            curl.push(theirs);
            own.push(ours);
        }
    }
    show("curl", &curl);
    show("tfc-audit", &own);
    let ratio = |of: fn(&Trial) -> f64| median(&own, of) / median(&curl, of);
    bench.goal("100,000 events to a file: wall, × curl", 1.5, ratio(wall));
    bench.goal("100,000 events to a file: CPU, × curl", 2.5, ratio(cpu));
    Ok(())
}

/// Requests for a backlog.
fn requests(bench: &mut Bench) -> Result {
    let nothing = Path::new("/dev/null");
    let api = backlog(100 * PAGE);
    for number in ["1", "8", "16"] {
        let before = api.count();
        bench.drain(&api, None, &["--connections", number], nothing)?;
        bench.goal(
            format!("requests for 100 pages, {number} connections"),
            108.0,
            (api.count() - before) as f64,
        );
    }
    // Not frozen: each request lists the events of a second in another order.
    for (ties, most) in [(12, 125.0), (97, 150.0)] {
        let api = StandIn::start(World {
            ties: Ties::Shuffled,
            ..world(100 * PAGE, ties)
        });
        bench.drain(&api, None, &[], nothing)?;
        bench.goal(
            format!("requests for 100 pages, {ties} shuffled events a second"),
            most,
            api.count() as f64,
        );
    }
    Ok(())
}

/// A run that finds no new events.
fn idle(bench: &mut Bench) -> Result {
    let now = OffsetDateTime::now_utc();
    // One event a second: those of the overlap, ten minutes, are listed again.
    let event = |n: u64| Event::new(n, now - Duration::from_secs(n));
    let api = frozen(World {
        now: Some(now),
        ..World::new((0..PAGE as u64).map(event).collect())
    });
    let (checkpoint, nothing) = (bench.path("idle.json"), Path::new("/dev/null"));
    bench.drain(&api, Some(&checkpoint), &[], nothing)?;
    bench.drain(&api, Some(&checkpoint), &[], nothing)?;
    let before = api.count();
    let trial = |_| bench.drain(&api, Some(&checkpoint), &[], nothing);
    let trials = (0..TURNS).map(trial).collect::<Result<Vec<_>>>()?;
    show("tfc-audit", &trials);
    let name = "idle run, 600 events listed";
    bench.goal(
        format!("{name}: requests"),
        1.0,
        (api.count() - before) as f64 / TURNS as f64,
    );
    bench.goal(
        format!("{name}: CPU, ms"),
        5.0,
        median(&trials, cpu) * 1000.0,
    );
    Ok(())
}

/// The peak memory of a backlog.
fn memory(bench: &mut Bench) -> Result {
    for count in [100_000, 1_000_000] {
        let api = backlog(count);
        let trial = bench.drain(&api, None, &[], Path::new("/dev/null"))?;
        show("tfc-audit", &[&trial]);
        bench.goal(
            format!("peak memory, {count} events: MiB"),
            16.0 + 40.0 * count as f64 / MIB,
            trial.peak / MIB,
        );
    }
    Ok(())
}

/// A backlog over a slow network, from a service that keeps its rate limit.
fn latency(bench: &mut Bench) -> Result {
    let nothing = Path::new("/dev/null");
    let api = frozen(World {
        rate_limit: Some(RATE_LIMIT),
        ..world(100 * PAGE, 5)
    });
    bench.drain(&api, None, &[], nothing)?;
    for delay in [250, 50] {
        api.with(|world| world.delay = Duration::from_millis(delay));
        let before = api.refused();
        let trial = |_| {
            // The requests of the last run count towards the limit, too.
            std::thread::sleep(Duration::from_secs(1));
            bench.drain(&api, None, &[], nothing)
        };
        let trials = (0..3).map(trial).collect::<Result<Vec<_>>>()?;
        show(&format!("{delay} ms a request"), &trials);
        let name = format!("100 pages, {delay} ms a request, limit {RATE_LIMIT} a second");
        bench.goal(format!("{name}: wall, s"), 4.5, median(&trials, wall));
        bench.goal(
            format!("{name}: 429s"),
            0.0,
            (api.refused() - before) as f64,
        );
    }
    Ok(())
}

/// 100,000 events to a receiver that takes [`POST_LATENCY`] for each batch.
fn posting(bench: &mut Bench) -> Result {
    let (api, nothing) = (backlog(100 * PAGE), Path::new("/dev/null"));
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let url = format!("http://{}/", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || accept_batches(&stream));
        }
    });
    let batch = bench.path("batch");
    let first = api.with(|world| {
        let texts = world.events[..PAGE].iter().map(|event| event.text.as_str());
        texts.collect::<Vec<_>>().join("\n") + "\n"
    });
    fs::write(&batch, first)?;
    let data = format!("@{}", batch.display());
    let all = format!("{url}[1-100]");
    let posts = [
        "-q",
        "-sSf",
        "--noproxy",
        "*",
        "-H",
        "Expect:",
        "--data-binary",
        &data,
        &all,
    ];
    let (mut reading, mut posting, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=3 {
        let trials = [
            bench.drain(&api, None, &[], &bench.path("out"))?,
            Bench::run("curl", posts, nothing)?,
            bench.drain(&api, None, &["--post", &url], nothing)?,
        ];
        if turn > 0 {
            let [read, post, whole] = trials;
            reading.push(read);
            posting.push(post);
            both.push(whole);
        }
    }
    show("reading alone", &reading);
    show("posting alone (curl)", &posting);
    show("both", &both);
    let larger = median(&reading, wall).max(median(&posting, wall));
    bench.goal(
        "100,000 events, 20 ms a batch: wall, × the slower side alone",
        1.15,
        median(&both, wall) / larger,
    );
    Ok(())
}

/// Accepts requests with a `Content-Length`, and answers each after [`POST_LATENCY`].
fn accept_batches(mut stream: &TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line).ok()? > 2 {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
            line.clear();
        }
        if line.is_empty() {
            return None;
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
        std::thread::sleep(POST_LATENCY);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).ok()?;
    }
}

/// The size of the program, and the time of its start.
fn binary(bench: &mut Bench) -> Result {
    let size = fs::metadata(&bench.program)?.len() as f64 / MIB;
    let version = |_| Bench::run(&bench.program, ["--version"], Path::new("/dev/null"));
    let trials = (0..TURNS).map(version).collect::<Result<Vec<_>>>()?;
    show("--version", &trials);
    bench.goal("size of the program: MiB", 3.0, size);
    bench.goal("--version: CPU, ms", 3.0, median(&trials, cpu) * 1000.0);
    Ok(())
}

/// Instructions, which are the same in every run, unlike times.
fn instructions(bench: &mut Bench) -> Result {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("  skipped: this part needs valgrind");
        return Ok(());
    }
    let count = |arguments: Vec<OsString>| -> Result<f64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(&bench.program)
            .args(arguments)
            .env("TFC_ORG_TOKEN", "test-token")
            .stdout(File::create(bench.path("out"))?)
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let collected = stderr
            .lines()
            .find_map(|line| line.split_once("Collected :"));
        let collected = collected.filter(|_| output.status.success());
        let (_, collected) = collected.ok_or_else(|| format!("valgrind failed: {stderr}"))?;
        Ok(collected.trim().parse()?)
    };
    println!("  --version: {:.0}", count(vec!["--version".into()])?);
    let mut last = None;
    for events in [1, 10_000, 50_000] {
        let api = backlog(events);
        let all = count(bench.arguments(&api, None, &[])?)?;
        println!("  {events} events: {all:.0}");
        if let Some((fewer, theirs)) = last {
            let more = events - fewer;
            println!(
                "  for each further event: {:.0}",
                (all - theirs) / more as f64
            );
        }
        last = Some((events, all));
    }
    Ok(())
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
