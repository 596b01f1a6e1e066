//! The program beside two that are quickly written: events lost, doubled, requests, seconds.
//!
//! Each program has the same world for itself, and runs once in each act, as cron would have it. The
//! service keeps to its documentation. The scripts beside this file check for errors, retry as often as
//! the program, and keep a cursor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use time::UtcDateTime;

use crate::receiver::{Format, Receiver, Rules, Step};
use crate::stand_in::{StandIn, World, events_from};
use crate::{Bench, PAGE, Result, version};

/// A program: its name, the tools that it needs, and its command line.
const PROGRAMS: [(&str, &[&str], &str); 3] = [
    (
        "tfc-audit",
        &[],
        r#""$PROGRAM" --endpoint "$ENDPOINT" --checkpoint c.json --retries 2 --post "$RECEIVER""#,
    ),
    (
        "curl and jq",
        &["bash", "curl", "jq"],
        r#"bash "$SCRIPTS/curl_jq.sh""#,
    ),
    ("Python", &["python3"], r#"python3 "$SCRIPTS/poller.py""#),
];

/// What happens before or during each run.
const ACTS: [&str; 7] = [
    "12,000 events, and 3 after each page",
    "no new event",
    "1 event of the newest second",
    "1 event that appears 2 minutes late",
    "5,000 events; the receiver fails after 2,000",
    "the receiver is up again",
    "no new event",
];

/// What a program did in an act.
#[derive(Clone, Copy, Default)]
struct Tally {
    /// Events of this act that never arrived.
    lost: usize,
    /// Events that arrived again in this act.
    doubled: usize,
    /// Requests to the service.
    requests: usize,
    time: Duration,
}

/// Runs the acts with each program, and prints a table.
pub fn peers(bench: &mut Bench) -> Result {
    let mut columns = Vec::new();
    for (name, tools, line) in PROGRAMS {
        let versions: Option<Vec<_>> = tools.iter().copied().map(version).collect();
        let Some(versions) = versions else {
            println!("  {name}: skipped, since it needs {}", tools.join(", "));
            continue;
        };
        if !versions.is_empty() {
            println!("  {name}: {}", versions.join(", "));
        }
        columns.push((name, play(bench, name, line)?));
    }
    print(&columns);
    let (_, own) = &columns[0];
    let wrong: usize = own.iter().map(|tally| tally.lost + tally.doubled).sum();
    bench.goal("events that tfc-audit lost or doubled", 0.0, wrong as f64);
    Ok(())
}

/// Runs a program once in each act.
fn play(bench: &Bench, name: &str, line: &str) -> Result<[Tally; ACTS.len()]> {
    let directory = bench.path(name);
    fs::create_dir(&directory)?;
    // Whole seconds, as the service stamps events.
    let mut now = UtcDateTime::now().replace_nanosecond(0)? - Duration::from_secs(3600);
    let api = StandIn::start(World {
        arrivals_per_request: 3,
        arrivals_left: 30,
        ..World::new(events_from(1, 12 * PAGE, now - Duration::from_secs(1), 7))
    });
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let (mut acts, mut origins, mut arrived) = (
        [Tally::default(); ACTS.len()],
        BTreeMap::new(),
        BTreeSet::new(),
    );
    for (act, tally) in acts.iter_mut().enumerate() {
        let appear = |number, count, time| {
            api.with(|world| world.insert(events_from(number, count, time, 7)));
        };
        let newest = api.with(|world| world.events.last().map_or(now, |event| event.time));
        match act {
            2 => appear(20_000, 1, newest),
            3 => appear(30_000, 1, newest - Duration::from_secs(120)),
            4 => {
                now += Duration::from_secs(1200);
                appear(40_000, 5 * PAGE, now);
                receiver.with(|rules| {
                    rules.script = [Step::Usual, Step::Usual].into();
                    rules.always = Step::status(503);
                });
            }
            5 => receiver.with(|rules| *rules = Rules::default()),
            _ => {}
        }
        api.with(|world| world.now = Some(now));
        let (asked, delivered) = (api.count(), receiver.delivered_ids().len());
        let start = Instant::now();
        // A failure shows in what arrived.
        Command::new("sh")
            .args(["-c", line])
            .current_dir(&directory)
            .env("PROGRAM", &bench.program)
            .env(
                "SCRIPTS",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench"),
            )
            .env("ENDPOINT", api.url())
            .env("RECEIVER", receiver.url())
            .env("TFC_ORG_TOKEN", api.with(|world| world.token.clone()))
            .env("no_proxy", "*")
            .stdin(Stdio::null())
            .stderr(fs::File::create(directory.join(format!("stderr-{act}")))?)
            .status()?;
        tally.time = start.elapsed();
        tally.requests = api.count() - asked;
        for id in receiver.delivered_ids().split_off(delivered) {
            tally.doubled += usize::from(!arrived.insert(id));
        }
        for event in api.with(|world| world.events.clone()) {
            origins.entry(event.id).or_insert(act);
        }
        now += Duration::from_secs(60);
    }
    for (id, act) in origins {
        acts[act].lost += usize::from(!arrived.contains(&id));
    }
    Ok(acts)
}

/// Prints what each program did in each act, and in all.
fn print(columns: &[(&str, [Tally; ACTS.len()])]) {
    let row = |title: &str, cell: &dyn Fn(&[Tally; ACTS.len()]) -> String| {
        let cells = columns
            .iter()
            .map(|(_, acts)| format!("{:>14}", cell(acts)));
        println!("  {title:46}{}", cells.collect::<String>());
    };
    let names = columns.iter().map(|(name, _)| format!("{name:>14}"));
    println!(
        "\n  {:46}{}",
        "events lost, doubled",
        names.collect::<String>()
    );
    for (act, title) in ACTS.iter().enumerate() {
        row(title, &|acts| {
            format!("{}, {}", acts[act].lost, acts[act].doubled)
        });
    }
    let all = |acts: &[Tally; ACTS.len()], of: fn(&Tally) -> usize| {
        acts.iter().map(of).sum::<usize>().to_string()
    };
    row("all events lost", &|acts| all(acts, |tally| tally.lost));
    row("all events doubled", &|acts| {
        all(acts, |tally| tally.doubled)
    });
    row("requests to the service", &|acts| {
        all(acts, |tally| tally.requests)
    });
    row("seconds", &|acts| {
        let time: Duration = acts.iter().map(|tally| tally.time).sum();
        format!("{:.1}", time.as_secs_f64())
    });
}
