//! The demonstration: each run delivers the events that no earlier run has delivered.
//!
//! `cargo run --example demo` runs the real command three times against a stand-in for the API on
//! this machine. It needs no token and no network. With `-- --serve` the stand-in, and one for a
//! receiver, keep running, to be tried by hand.

#![expect(clippy::print_stdout, reason = "it shows something")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use receiver::{Format, Receiver, Rules};
use stand_in::{StandIn, World, events_from, sample_events};
use time::OffsetDateTime;

#[path = "../support/receiver.rs"]
mod receiver;
#[path = "../support/stand_in.rs"]
mod stand_in;

fn main() -> Result<(), Box<dyn Error>> {
    let program = build()?;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => show(&program),
        ["--serve"] => serve(&program),
        _ => Err("usage: cargo run --example demo [-- --serve]".into()),
    }
}

/// Serves the stand-ins until it is interrupted, and prints the requests to them. An event arrives
/// every ten seconds.
fn serve(program: &Path) -> ! {
    let api = StandIn::start(World::new(sample_events(OffsetDateTime::now_utc())));
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let token = api.with(|world| world.token.clone());
    println!("Two stand-ins are running: for the API and for a receiver. In another terminal:\n");
    println!("export TFC_ORG_TOKEN={token}");
    println!(
        "tfc-audit() {{ {} --endpoint {} \"$@\"; }}",
        program.display(),
        api.url()
    );
    println!("cd \"$(mktemp -d)\"\n");
    let post = format!("--post {}", receiver.url());
    // Never the default checkpoint: runs against the real service need it.
    for (arguments, title) in [
        ("-c printed.json -v", "print new events"),
        (
            &*format!("-c posted.json --check {post}"),
            "check that everything is in place",
        ),
        (
            &*format!("-c posted.json --dry-run {post}"),
            "show what would be posted",
        ),
        (&*format!("-c posted.json -v {post}"), "post new events"),
        (
            "-c passed.json --exec 'wc -l'",
            "pass new events to a program",
        ),
        (
            "-c counted.json --metrics m.prom >/dev/null; cat m.prom",
            "show the metrics of a run",
        ),
    ] {
        println!("tfc-audit {arguments}    # {title}");
    }
    println!(
        "\nThe README's commands work here, too. An event arrives every ten seconds. Ctrl-C stops the stand-ins.\nRequests:"
    );
    let (mut number, mut asked, mut posted) = (1_000, 0, 0);
    loop {
        let next = Instant::now() + Duration::from_secs(10);
        while Instant::now() < next {
            for request in api.requests().drain(asked..) {
                println!("API: {} {}?{}", request.method, request.path, request.query);
                asked += 1;
            }
            for request in receiver.received().drain(posted..) {
                println!("receiver: {request}");
                posted += 1;
            }
            thread::sleep(Duration::from_millis(100));
        }
        api.with(|world| world.insert(events_from(number, 1, OffsetDateTime::now_utc(), 1)));
        number += 1;
    }
}

/// Runs the command three times, and shows the checkpoint.
fn show(program: &Path) -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("tfc-audit-demo-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let checkpoint = directory.join("checkpoint.json");

    let now = OffsetDateTime::now_utc();
    let api = StandIn::start(World {
        date: Some(now),
        ..World::new(sample_events(now))
    });
    let run = |title: &str| {
        println!(
            "\n# {title}\n$ tfc-audit --verbose --endpoint {} --checkpoint {}",
            api.url(),
            checkpoint.display()
        );
        run(program, &api, &checkpoint)
    };

    println!("# Each run delivers the events that no earlier run has delivered.");
    println!("# Here each event is cut to fit a line. The command prints it whole.");
    run("The first run delivers every event, oldest first:")?;
    run("The second run has nothing to deliver:")?;
    api.with(|world| world.insert(events_from(1_000, 3, now, 1)));
    run("Three events have arrived. The third run delivers only these:")?;

    println!("\n# The checkpoint has the IDs of the newest events that were delivered:");
    print!("{}", std::fs::read_to_string(&checkpoint)?);
    println!("\n# To try it by hand: cargo run --example demo -- --serve");
    println!("# To use the real service, see the README's section First run");
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

/// Builds the command, which cargo does not do for an example, and returns its path.
fn build() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let example = std::env::current_exe()?;
    let mut above = example.ancestors().skip(2);
    let (Some(profile), Some(target)) = (above.next(), above.next()) else {
        return Err("the example is not in a target directory".into());
    };
    let release = profile.ends_with("release").then_some("--release");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "tfc-audit"])
        .args(["--manifest-path", manifest, "--target-dir"])
        .arg(target)
        .args(release)
        .status()?;
    if !status.success() {
        return Err("cargo build failed".into());
    }
    Ok(profile.join("tfc-audit"))
}

/// Runs the command once, and shows its events, the requests to the API, its summary and its exit
/// status.
fn run(program: &Path, api: &StandIn, checkpoint: &Path) -> Result<(), Box<dyn Error>> {
    api.clear_requests();
    let output = Command::new(program)
        .args(["--verbose", "--endpoint", &api.url(), "--checkpoint"])
        .arg(checkpoint)
        .env("TFC_ORG_TOKEN", api.with(|world| world.token.clone()))
        .output()?;
    for event in String::from_utf8_lossy(&output.stdout).lines() {
        println!("{}…", event.chars().take(99).collect::<String>());
    }
    for asked in api.requests() {
        println!(
            "  (request: {} {}?{})",
            asked.method, asked.path, asked.query
        );
    }
    println!("  ({})", String::from_utf8_lossy(&output.stderr).trim_end());
    println!("  ({})", output.status);
    if output.status.success() {
        Ok(())
    } else {
        Err("the run failed".into())
    }
}
