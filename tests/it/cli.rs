//! Arguments and environment where only a whole run shows their effect.

use std::fs;
use std::process::Stdio;

use crate::stand_in::{events, events_from, stamp};
use crate::support::{Bench, TOKEN, at_once, minutes_ago, now};

fn bench() -> Bench {
    Bench::of(events(3, now(), 1))
}

#[test]
fn a_usage_error_is_one_line_and_nothing_else_happens() {
    let bench = bench();
    for (arg, message) in [
        ("--page-sise=5", "--page-sise"),
        ("--page-size=0", "--page-size: \"0\" is not a number from 1"),
        ("--until=1h", "--no-checkpoint"),
    ] {
        bench.run(&[arg]).fails(2, message).asks(0);
        assert_eq!(bench.files(), [""; 0], "{arg}");
    }
}

#[test]
fn help_manual_and_version_need_nothing() {
    for (option, has) in [
        ("--help", "--require-checkpoint"),
        ("--man", ".It Fl -require-checkpoint"),
        ("--version", "tfc-audit 0."),
    ] {
        let bench = bench();
        let mut command = bench.bare(&[option]);
        command.env_clear();
        let run = bench.start(command).finish();
        run.code(0).silent().asks(0);
        run.holds(
            run.stdout.contains(has),
            format_args!("{has} should be there"),
        );
    }
}

#[test]
fn the_token_comes_from_a_file_or_standard_input() {
    let bench = bench();
    fs::write(bench.path("token"), format!("{TOKEN}\n")).unwrap();
    let file = || fs::File::open(bench.path("token")).unwrap();
    for (place, stdin) in [("token", Stdio::null()), ("-", file().into())] {
        let mut command = bench.command(&["--token-file", place]);
        command.env_remove("TFC_ORG_TOKEN").stdin(stdin);
        bench.start(command).finish().code(0).silent().asks(1);
    }
    bench.has_all();
}

/// Nobody writes to the pipe, or closes it.
#[test]
fn max_time_ends_a_run_that_gets_no_token() {
    at_once(
        [("token", "token"), ("-", "standard input")],
        |(place, named)| {
            let bench = bench();
            let fifo = bench.clean("mkfifo").arg("token").status().unwrap();
            assert!(fifo.success());
            let mut command = bench.command(&["--max-time=1s", "--token-file", place]);
            command.env_remove("TFC_ORG_TOKEN").stdin(Stdio::piped());
            let mut run = bench.start(command);
            let writer = run.child.stdin.take();
            let run = run.finish();
            run.fails(3, &format!("waiting for the token from {named}"))
                .asks(0);
            drop(writer);
            // The lock is free.
            bench.delivers_all();
        },
    );
}

#[test]
fn max_time_ends_a_run_that_gets_no_headers() {
    let bench = bench();
    let fifo = bench.clean("mkfifo").arg("headers").status().unwrap();
    assert!(fifo.success());
    let post = ["--post=http://127.0.0.1:9", "--header=@headers"];
    let run = bench.run(&[&post[..], &["--max-time=1s"]].concat());
    run.fails(3, "waiting for the files of --header").asks(0);
    let check = ["--check", "--max-time=1s"];
    bench.run(&[&post[..], &check].concat()).code(3);
}

#[test]
fn verbose_prints_one_line() {
    let bench = Bench::of(events(2_500, now(), 2));
    bench
        .run(&["-v"])
        .code(0)
        .says("delivered 2500 events; the newest event delivered is ")
        .says(" old; read 3 pages and sent 2 batches in ");
    bench.has_all();
    bench
        .run(&["-v"])
        .code(0)
        .prints_nothing()
        .says("found nothing new; the newest event delivered is ");
}

/// An event at the time itself belongs to the span that begins there.
#[test]
fn since_and_until_select_a_span() {
    let [old, middle, new] = [180, 90, 10].map(minutes_ago);
    let of = |n, time| events_from(n, 3, time, 3);
    let bench = Bench::of([of(1, old), of(11, middle), of(21, new)].concat());
    let since = format!("--since={}", stamp(of(11, middle)[0].time));
    let until = since.replace("since", "until");
    let spans: [(&[&str], usize, usize); 5] = [
        (&["--until=1h"], 0, 6),
        (&["--since=2h"], 3, 9),
        (&["--since=2h", "--until=1h"], 3, 6),
        (&[&since], 3, 9),
        (&[&until], 0, 3),
    ];
    for (span, from, to) in spans {
        let run = bench.run(&[&["--no-checkpoint"], span].concat());
        run.code(0)
            .silent()
            .prints_events(&bench.in_order()[from..to]);
    }
    let run = bench.run(&["--no-checkpoint", "--until=15d"]);
    run.code(0).prints_nothing().warns("for 14 days only");
}
