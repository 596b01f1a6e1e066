//! Delivery to standard output: a pipe, a file or a full disk.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::stand_in::events;
use crate::support::{Bench, TOKEN, at_once, now};

fn bench() -> Bench {
    Bench::of(events(2_500, now(), 2))
}

/// `tfc-audit | head -1`: nobody knows how much of the rest was read.
#[test]
fn a_reader_that_goes_away_gets_everything_from_the_next_run() {
    let bench = bench();
    let mut run = bench.start(bench.command(&[]));
    let mut line = String::new();
    BufReader::new(run.stdout()).read_line(&mut line).unwrap();
    let run = run.finish();
    run.code(141);
    run.holds(line.ends_with("}\n"), "the reader should have had a line");
    assert_eq!(bench.checkpoint_field("last_timestamp"), json!(null));
    bench.delivers_all();
}

#[test]
fn nothing_is_promised_for_the_next_run_where_nothing_is_kept() {
    for (args, promised) in [
        (
            &[][..],
            "; the next run delivers the events that were not written",
        ),
        (&["--no-checkpoint"], "\n"),
        (&["--dry-run"], "\n"),
    ] {
        let bench = bench();
        let mut run = bench.start(bench.command(args));
        drop(run.stdout());
        let says = format!("tfc-audit: the reader of standard output closed it{promised}");
        run.finish().code(141).says(&says);
    }
}

/// The reader keeps the pipe open and reads nothing.
#[test]
fn max_time_ends_a_run_whose_reader_is_stuck() {
    let args: [&[&str]; 2] = [&[], &["--dry-run", "--post=http://127.0.0.1:9/"]];
    at_once(args, |args| {
        let bench = bench();
        let mut run = bench.start(bench.command(&[args, &["--max-time=3s"]].concat()));
        let reader = run.stdout();
        let run = run.finish();
        run.fails(3, "waiting for the reader of standard output");
        drop(reader);
        if args.is_empty() {
            assert_eq!(bench.checkpoint_field("last_timestamp"), json!(null));
        }
        bench.delivers_all();
    });
}

#[test]
fn a_reader_may_take_longer_than_timeout() {
    let bench = bench();
    let run = bench.start(bench.command(&["--timeout=1s", "--retries=9", "--max-time=10m"]));
    thread::sleep(Duration::from_millis(1_500));
    run.finish().code(0).silent();
    bench.has_all();
    bench.is_settled();
}

/// `tfc-audit >&-`: the events would be written to the null device and count as delivered.
#[test]
fn a_closed_standard_output_gets_no_event() {
    let bench = bench();
    let with = |redirection: &str, args: &[&str]| {
        let script = format!("exec \"$0\" \"$@\" {redirection}");
        bench.start(bench.scripted(&script, args)).finish()
    };
    let closed = "standard output: it is closed";
    with(">&-", &[]).fails(1, closed);
    // Some programs start others like this, as if they were closed.
    with("1<>/dev/null", &[]).fails(1, closed);
    for only_says in ["--dry-run", "--check", "--version"] {
        with(">&-", &[only_says]).fails(1, closed);
    }
    assert!(!bench.files().contains(&"checkpoint.json".to_owned()));
    // Where no event goes to standard output, it may be closed.
    let exec = ["--no-checkpoint", "--exec", "cat >> out"];
    with(">&-", &exec).code(0).silent();
    let expected = bench.api.with(|world| world.expected());
    assert!(fs::read_to_string(bench.path("out")).unwrap() == expected);

    // Events may be discarded on purpose.
    with(">/dev/null", &["--no-checkpoint"]).code(0).silent();
    with(">/dev/null", &[]).code(0).silent();
    bench.is_settled();
}

/// A file is cut back to where the batch began, so that no half line stays.
#[test]
fn a_file_that_cannot_grow_keeps_only_whole_batches() {
    let bench = bench();
    fs::write(bench.path("out"), "{}\n").unwrap();
    let append = || {
        OpenOptions::new()
            .append(true)
            .open(bench.path("out"))
            .unwrap()
    };
    let mut command = bench.limited(400, &[]);
    command.stdout(append());
    bench
        .start(command)
        .finish()
        .fails(1, "cannot write to standard output");
    assert_eq!(fs::read_to_string(bench.path("out")).unwrap(), "{}\n");

    let mut command = bench.command(&[]);
    command.stdout(append());
    bench.start(command).finish().code(0).silent();
    let expected = bench.api.with(|world| world.expected());
    let written = fs::read_to_string(bench.path("out")).unwrap();
    assert!(written == format!("{{}}\n{expected}"), "the file differs");
    bench.is_settled();
}

/// A killed run, or another program, left half a line.
#[test]
fn half_a_line_is_ended_before_the_first_event() {
    for (before, separator) in [("{\"id\":\"hal", "\n"), ("{}\n", ""), ("", "")] {
        let bench = Bench::of(events(3, now(), 1));
        fs::write(bench.path("out"), before).unwrap();
        let file = OpenOptions::new().append(true).open(bench.path("out"));
        let mut command = bench.command(&[]);
        command.stdout(file.unwrap());
        bench.start(command).finish().code(0).silent();
        let expected = bench.api.with(|world| world.expected());
        let written = fs::read_to_string(bench.path("out")).unwrap();
        assert_eq!(written, format!("{before}{separator}{expected}"));
        bench.is_settled();
    }
}

/// `{ echo header; tfc-audit; } > out`: another program wrote to the same open file before.
#[test]
fn output_continues_where_the_last_program_stopped() {
    let bench = Bench::of(events(3, now(), 1));
    let mut out = fs::File::create(bench.path("out")).unwrap();
    writeln!(out, "header").unwrap();
    let mut command = bench.command(&[]);
    command.stdout(out.try_clone().unwrap());
    bench.start(command).finish().code(0).silent();
    writeln!(out, "trailer").unwrap();
    let expected = bench.api.with(|world| world.expected());
    let written = fs::read_to_string(bench.path("out")).unwrap();
    assert_eq!(written, format!("header\n{expected}trailer\n"));
}

/// Where even the message cannot be written, the exit code is all there is.
#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_error_does_not_change_the_exit_code() {
    let bench = bench();
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = |args: &[&str]| {
        let mut command = bench.command(args);
        command.stderr(full());
        bench.start(command).finish()
    };
    bench.api.with(|world| world.token = "another".to_owned());
    run(&[]).code(4);
    bench.api.with(|world| world.token = TOKEN.to_owned());
    run(&["-v"]).code(0);
    bench.has_all();
    bench.is_settled();
}
