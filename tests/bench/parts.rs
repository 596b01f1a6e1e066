//! The parts of the bench: each measures some of the goals.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use time::UtcDateTime;

use crate::stand_in::{Event, StandIn, Ties, World};
use crate::{
    Bench, MIB, PAGE, POST_LATENCY, RATE_LIMIT, Result, TURNS, Trial, backlog, cpu, frozen, median,
    show, wall, world,
};

/// 100,000 events to a file.
pub(crate) fn file(bench: &mut Bench) -> Result {
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
pub(crate) fn requests(bench: &mut Bench) -> Result {
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
pub(crate) fn idle(bench: &mut Bench) -> Result {
    let now = UtcDateTime::now();
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
pub(crate) fn memory(bench: &mut Bench) -> Result {
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
pub(crate) fn latency(bench: &mut Bench) -> Result {
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
pub(crate) fn posting(bench: &mut Bench) -> Result {
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
pub(crate) fn binary(bench: &mut Bench) -> Result {
    let size = fs::metadata(&bench.program)?.len() as f64 / MIB;
    let version = |_| Bench::run(&bench.program, ["--version"], Path::new("/dev/null"));
    let trials = (0..TURNS).map(version).collect::<Result<Vec<_>>>()?;
    show("--version", &trials);
    bench.goal("size of the program: MiB", 3.0, size);
    bench.goal("--version: CPU, ms", 3.0, median(&trials, cpu) * 1000.0);
    Ok(())
}

/// Instructions, which are the same in every run, unlike times.
pub(crate) fn instructions(bench: &mut Bench) -> Result {
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
