//! The main job, shown: `cargo run --example demo` runs the real command three times against a
//! stand-in for the API on this machine. It needs neither a token nor a network. With `-- --serve`
//! the stand-in, and one for a receiver, stay up to be tried by hand.

#![expect(clippy::print_stdout, reason = "to show something is what it is for")]

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

/// Serves the stand-ins until it is interrupted, and says what they are asked. An event arrives every
/// ten seconds.
fn serve(program: &Path) -> ! {
    let api = StandIn::start(World::new(sample_events(OffsetDateTime::now_utc())));
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let token = api.with(|world| world.token.clone());
    println!("A stand-in for the API and one for a receiver are up. In another terminal:\n");
    println!("export TFC_ORG_TOKEN={token}");
    println!(
        "tfc-audit() {{ {} --endpoint {} \"$@\"; }}",
        program.display(),
        api.url()
    );
    println!("cd \"$(mktemp -d)\"\n");
    let post = format!("--post {}", receiver.url());
    // Never the default checkpoint, which the real service may need later.
    for (arguments, title) in [
        ("-c printed.json -v", "what is new"),
        (&*format!("-c posted.json --check {post}"), "is all there?"),
        (
            &*format!("-c posted.json --dry-run {post}"),
            "what would be posted",
        ),
        (&*format!("-c posted.json -v {post}"), "post it"),
        ("-c given.json --exec 'wc -l'", "give it to a program"),
        (
            "-c counted.json --metrics m.prom >/dev/null; cat m.prom",
            "the figures of a run",
        ),
    ] {
        println!("tfc-audit {arguments}    # {title}");
    }
    println!(
        "\nThe README's commands can be tried so, too. An event arrives every ten seconds. Ctrl-C ends this. What they are asked:"
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

/// Runs the command three times.
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

    run("The first run delivers every event that there is, oldest first:")?;
    run("The second run has nothing to deliver:")?;
    api.with(|world| world.insert(events_from(1_000, 3, now, 1)));
    run("Three events have arrived, and only these are delivered:")?;

    println!("\n# The checkpoint knows which events need not be delivered again:");
    print!("{}", std::fs::read_to_string(&checkpoint)?);
    println!("\n# Events are cut to a line here; they are delivered whole.");
    println!("# To try it by hand: cargo run --example demo -- --serve");
    println!(
        "# For the real service: export TFC_ORG_TOKEN=<an organization token>, then the README's First run"
    );
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

/// Builds the command, which cargo does not do for an example, and says where it is.
fn build() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let example = std::env::current_exe()?;
    let profile = example
        .parent()
        .and_then(Path::parent)
        .ok_or("the example lies in no target directory")?;
    let release = profile.ends_with("release").then_some("--release");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let target = profile
        .parent()
        .ok_or("the example lies in no target directory")?;
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--bin",
            "tfc-audit",
            "--manifest-path",
            manifest,
            "--target-dir",
        ])
        .arg(target)
        .args(release)
        .status()?;
    if !status.success() {
        return Err("cargo build failed".into());
    }
    Ok(profile
        .join("tfc-audit")
        .with_extension(std::env::consts::EXE_EXTENSION))
}

/// Runs the command once and shows what it printed, each event cut to a line's length, and what the
/// API was asked.
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
            "  (the API was asked: {} {}?{})",
            asked.method, asked.path, asked.query
        );
    }
    print!("  ({})", String::from_utf8_lossy(&output.stderr).trim_end());
    println!("  ({})", output.status);
    if output.status.success() {
        Ok(())
    } else {
        Err("the run failed".into())
    }
}
