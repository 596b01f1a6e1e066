//! Looking after runs: the dry run and the progress line.

use std::fs::{self, File};
use std::io::Read;
use std::thread;
use std::time::Duration;

use crate::receiver::{Format, Receiver, Rules, Step as Answer};
use crate::stand_in::{Counts, World, events, events_from};
use crate::support::{Bench, at_once, now};

// The dry run.

#[test]
fn a_dry_run_prints_what_a_run_delivers_and_leaves_no_trace() {
    let bench = Bench::new(World::new(events(2_500, now(), 7)));
    let dry = bench.run(&["--dry-run", "--page-size=100"]);
    dry.code(0).silent().prints_events(&bench.in_order());
    assert_eq!(bench.files(), [""; 0]);
    let mut command = bench.bare(&["--dry-run"]);
    command.env("HOME", bench.path("home"));
    let run = bench.start(command).finish();
    run.code(0).silent().prints(&dry.stdout);
    assert_eq!(bench.files(), [""; 0]);
    bench.run(&[]).code(0).silent().prints(&dry.stdout);

    bench.insert(events_from(10_000, 20, now(), 3));
    let before = (bench.checkpoint(), bench.files());
    // A dry run needs no lock.
    let lock = File::open(bench.path("checkpoint.json.lock")).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    let dry = bench.run(&["--dry-run", "--metrics=metrics.prom", "-v"]);
    dry.code(0).says("dry run: 20 events to deliver; read ");
    assert_eq!((bench.checkpoint(), bench.files()), before);
    drop(lock);
    bench.run(&[]).code(0).silent().prints(&dry.stdout);
}

#[test]
fn a_dry_run_prints_the_bodies_as_they_would_be_posted() {
    // The bodies of OTLP are binary.
    let textual = Format::ALL.into_iter().filter(|it| *it != Format::Otlp);
    for format in textual {
        let bench = Bench::of(events(25, now(), 2));
        let receiver = Receiver::start(format, Rules::default());
        let format = format!("--format={}", format.name());
        let args = ["--post", &receiver.url(), &format, "--batch-events=10"];
        let more = ["--dry-run", "--dead-letter=dead", "--gzip"];
        let dry = bench.run(&[&args[..], &more].concat());
        dry.code(0).silent();
        assert_eq!((receiver.count(), bench.files()), (0, Vec::new()));
        bench.run(&args).code(0).silent();
        let bodies = receiver.received().into_iter().map(|post| post.body);
        let lines = bodies.map(|body| body.trim_end().to_owned() + "\n");
        dry.prints(&lines.collect::<String>());
        let values =
            serde_json::Deserializer::from_str(&dry.stdout).into_iter::<serde_json::Value>();
        let values: Result<Vec<_>, _> = values.collect();
        dry.holds(values.is_ok(), "it should be a sequence of JSON values");
    }
}

#[test]
fn a_dry_run_starts_no_program() {
    let bench = Bench::of(events(5, now(), 2));
    let run = bench.run(&["--dry-run", "--exec", "touch ran", "--no-checkpoint"]);
    run.code(0).silent().prints_events(&bench.in_order());
    assert_eq!(bench.files(), [""; 0]);
}

#[test]
fn a_dry_run_distrusts_a_checkpoint_as_a_run_does() {
    let bench = Bench::of(events(5, now(), 2));
    let required = ["--dry-run", "--require-checkpoint"];
    bench.run(&required).fails(8, "there is no checkpoint");
    fs::write(bench.path("checkpoint.json"), "{").unwrap();
    bench
        .run(&["--dry-run"])
        .fails(8, "cannot be trusted")
        .asks(0);
    assert_eq!(bench.checkpoint(), "{");
    fs::remove_file(bench.path("checkpoint.json")).unwrap();
    let run = bench.run(&["--dry-run", "--since=1s"]);
    run.code(0).silent();
    run.holds(run.ids().len() < 5, "--since should have an effect");
}

// The progress line.

const CLEAR: &str = "\u{1b}[K";

/// Runs the command at a terminal, with standard output in a file. Returns the bytes that the
/// terminal gets.
fn on_a_terminal(bench: &Bench, terminal: &str, code: i32, args: &[&str]) -> String {
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let mut screen = File::from(pty.master);
    let seen = thread::spawn(move || {
        let mut seen = Vec::new();
        // Reading fails when the run has closed its end.
        let _ = screen.read_to_end(&mut seen);
        String::from_utf8(seen).expect("UTF-8")
    });
    let mut command = bench.command(args);
    let out = File::create(bench.path("out")).expect("it can be made");
    command.env("TERM", terminal).stdout(out).stderr(pty.slave);
    bench.start(command).finish().code(code);
    seen.join().expect("it can be read")
}

/// A backlog of 2,500 events whose pages take this long each.
fn backlog(milliseconds: u64) -> Bench {
    Bench::new(World {
        delay: Duration::from_millis(milliseconds),
        ..World::new(events(2_500, now(), 2))
    })
}

/// Each answer takes much longer than the quarter of a second after which the line may be drawn anew.
#[test]
fn the_progress_line_follows_the_deliveries_and_is_cleared_at_the_end() {
    let bench = Bench::of(events(100, now(), 2));
    let rules = Rules {
        always: Answer::Spread(Duration::from_millis(600)),
        ..Rules::default()
    };
    let receiver = Receiver::start(Format::Ndjson, rules);
    let args = ["-v", "--batch-events=25", "--post", &receiver.url()];
    let seen = on_a_terminal(&bench, "xterm", 0, &args);
    let (drawn, rest) = seen
        .rsplit_once(&format!("\r{CLEAR}"))
        .expect("it is cleared");
    let summary = rest.strip_suffix("\r\n").expect("a line stays");
    assert!(
        summary.starts_with("tfc-audit: delivered 100 events; "),
        "{seen:?}"
    );
    assert!(!summary.contains(char::is_control), "{seen:?}");
    let lines: Vec<_> = drawn.split('\r').skip(1).collect();
    let is_line = |line: &&str| {
        let text = line
            .strip_prefix("tfc-audit: ")
            .and_then(|line| line.strip_suffix(CLEAR));
        text.is_some_and(|text| {
            text.contains(" of 100 events") && !text.contains(char::is_control) && line.len() < 80
        })
    };
    assert!(
        drawn.starts_with('\r') && lines.iter().all(is_line),
        "{seen:?}"
    );
    for done in [25, 50, 75, 100] {
        let begins = format!("tfc-audit: {done} of 100 events ({done} %), ");
        let line = lines.iter().find(|line| line.starts_with(&begins));
        assert!(
            line.is_some_and(|line| line.contains("/s, ") && line.contains(" left")),
            "{begins} in {seen:?}"
        );
    }
}

#[test]
fn the_progress_line_is_cleared_before_a_warning() {
    let bench = backlog(40);
    bench.api.with(|world| world.counts = Counts::Plus(3));
    let args = ["--page-size=250", "--no-checkpoint"];
    let seen = on_a_terminal(&bench, "xterm", 5, &args);
    let warning = format!("\r{CLEAR}tfc-audit: warning: ");
    assert!(seen.contains(&warning), "{seen:?}");
}

#[test]
fn a_dumb_terminal_or_a_command_gets_no_progress_line() {
    // Two terminals that cannot clear a line, and one that shows the output of a program as well.
    let cases = [
        ("dumb", &["--page-size=100"][..]),
        ("", &["--page-size=100"]),
        ("xterm", &["--page-size=100", "--exec", "cat > /dev/null"]),
    ];
    at_once(cases, |(terminal, args)| {
        let bench = backlog(40);
        let seen = on_a_terminal(&bench, terminal, 0, args);
        assert_eq!(seen, "", "{terminal} {args:?}");
    });
}
