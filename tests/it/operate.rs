//! Looking after runs: the dry run, the metrics, the summary and the progress line.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::thread;
use std::time::Duration;

use crate::receiver::{Format, Receiver, Rules, Step as Answer};
use crate::stand_in::{Counts, Step, World, events, events_from};
use crate::support::{Bench, Outcome, at_once, free_port, minutes_ago, now};

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

// The metrics.

/// The value of each metric.
type Metrics = BTreeMap<String, f64>;

/// Reads a text in Prometheus' format, as strictly as its documentation and naming conventions ask:
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>.
#[track_caller]
fn parsed(text: &str, file: &str) -> Metrics {
    let mut metrics = Metrics::new();
    assert!(
        text.ends_with('\n') && !text.contains("\n\n") && !text.contains('\r'),
        "{text}"
    );
    let lines: Vec<_> = text.lines().collect();
    let (families, rest) = lines.as_chunks::<3>();
    assert_eq!(rest, [""; 0], "each metric has three lines");
    for [help, kind, sample] in families {
        let (name, help) = help
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split_once(' '))
            .unwrap_or_else(|| panic!("no help: {help}"));
        assert!(!help.is_empty() && !help.contains('\\'), "{help}");
        let is_name = |name: &str| {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            name.chars().all(is_word) && !name.starts_with(|c: char| c.is_ascii_digit())
        };
        assert!(is_name(name) && name.starts_with("tfc_audit_"), "{name}");
        assert!(!name.ends_with("_total"), "no counter is written: {name}");
        assert_eq!(*kind, format!("# TYPE {name} gauge"));
        let value = sample
            .strip_prefix(&format!("{name}{{file=\"{file}\"}} "))
            .unwrap_or_else(|| panic!("no sample: {sample}"));
        let value: f64 = value
            .parse()
            .unwrap_or_else(|_| panic!("no number: {sample}"));
        assert!(value.is_finite() && value >= 0.0, "{sample}");
        let twin = metrics.insert(name["tfc_audit_".len()..].to_owned(), value);
        assert_eq!(twin, None, "{name} is there twice");
    }
    metrics
}

/// A bench whose runs write metrics.
struct Measured(Bench);

impl Measured {
    #[track_caller]
    fn run(&self, args: &[&str]) -> Outcome {
        self.0.run(&[&["--metrics=a.prom"], args].concat())
    }

    #[track_caller]
    fn metrics(&self) -> Metrics {
        let text = fs::read_to_string(self.0.path("a.prom")).expect("there are metrics");
        let others = self
            .0
            .files()
            .into_iter()
            .filter(|name| name.contains(".prom"));
        assert_eq!(
            others.collect::<Vec<_>>(),
            ["a.prom"],
            "nothing else is left"
        );
        parsed(&text, "a.prom")
    }

    /// The last run wrote these figures, and these metrics are not there.
    #[track_caller]
    fn has(&self, figures: &[(&str, u32)], absent: &[&str]) {
        let metrics = self.metrics();
        for &(name, value) in figures {
            let is = metrics.get(name).copied();
            assert_eq!(is, Some(f64::from(value)), "{name} in {metrics:#?}");
        }
        for &name in absent {
            assert!(!metrics.contains_key(name), "{name} in {metrics:#?}");
        }
    }

    #[track_caller]
    fn value(&self, name: &str) -> f64 {
        *self.metrics().get(name).expect(name)
    }
}

const SUCCESS: &str = "last_success_timestamp_seconds";
const NEWEST: &str = "newest_event_timestamp_seconds";

#[test]
fn metrics_are_the_figures_of_the_last_run() {
    let newest = minutes_ago(150);
    let bench = Measured(Bench::of(events(250, newest, 2)));
    let run = bench.run(&["--page-size=100"]);
    run.code(0).silent();
    let bytes = u32::try_from(run.stdout.len()).unwrap();
    let figures = [
        ("last_run_exit_code", 0),
        ("last_run_events_delivered", 250),
        ("last_run_dead_letters", 0),
        ("last_run_service_pages", 3),
        ("last_run_service_retries", 0),
        ("last_run_receiver_requests", 2),
        ("last_run_receiver_retries", 0),
        ("last_run_receiver_bytes", bytes),
        ("events_waiting", 0),
    ];
    bench.has(&figures, &[]);
    assert_eq!(bench.metrics().len(), 14);
    assert!(bench.value("last_run_service_bytes") > f64::from(bytes));
    let took = bench.value("last_run_duration_seconds");
    assert!(took > 0.0 && took <= run.took.as_secs_f64(), "{took}");
    let last_run = bench.value("last_run_timestamp_seconds");
    let now = (now() - time::OffsetDateTime::UNIX_EPOCH).as_seconds_f64();
    assert!(
        (now - 60.0..=now).contains(&last_run),
        "{last_run} at {now}"
    );
    assert_eq!(Some(bench.value(SUCCESS)), Some(last_run));
    let age = now - bench.value(NEWEST);
    assert!((9_000.0..9_060.0).contains(&age), "{age}");

    bench.0.insert(events_from(10_000, 7, minutes_ago(1), 9));
    bench.0.script(4, Step::error(503, "unavailable"));
    bench.run(&[]).code(0).silent();
    let figures = [
        ("last_run_events_delivered", 7),
        ("last_run_service_pages", 1),
        ("last_run_service_retries", 1),
        ("last_run_receiver_requests", 1),
    ];
    bench.has(&figures, &[]);
}

#[test]
fn a_failed_run_takes_neither_the_last_success_nor_the_newest_event_back() {
    let bench = Measured(Bench::of(events(250, now(), 2)));
    bench.run(&[]).code(0).silent();
    let kept = (bench.value(SUCCESS), bench.value(NEWEST));
    bench.0.script(2, Step::error(401, "unauthorized"));
    bench.run(&[]).fails(4, "401");
    let figures = [
        ("last_run_exit_code", 4),
        ("last_run_events_delivered", 0),
        ("events_waiting", 0),
    ];
    bench.has(&figures, &[]);
    bench.run(&["--until=1h"]).fails(2, "--no-checkpoint");
    bench.has(&[("last_run_exit_code", 2)], &[]);
    assert_eq!((bench.value(SUCCESS), bench.value(NEWEST)), kept);
}

#[test]
fn metrics_are_written_whatever_the_outcome() {
    let bench = Measured(Bench::of(events(50, now(), 1)));
    let unknown = [SUCCESS, NEWEST, "events_waiting"];
    bench.run(&["--until=1h"]).fails(2, "--no-checkpoint");
    bench.has(
        &[("last_run_exit_code", 2), ("last_run_service_pages", 0)],
        &unknown,
    );
    bench
        .run(&["--token-file=missing"])
        .fails(2, "TFC_ORG_TOKEN");
    bench
        .run(&["--require-checkpoint"])
        .fails(8, "there is no checkpoint");
    bench.has(&[("last_run_exit_code", 8)], &unknown);
    bench.0.script(1, Step::error(500, "so"));
    bench.0.script(2, Step::error(500, "so"));
    bench.run(&["--retries=1"]).code(5);
    bench.has(
        &[("last_run_exit_code", 5), ("last_run_service_retries", 1)],
        &unknown,
    );

    let lock = File::open(bench.0.path("checkpoint.json.lock")).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    bench.run(&[]).fails(75, "another run holds the lock");
    bench.has(&[("last_run_exit_code", 75)], &unknown);
    drop(lock);

    let url = format!("--post=http://127.0.0.1:{}", free_port());
    bench.run(&[&url, "--retries=0"]).code(6);
    bench.has(
        &[
            ("last_run_exit_code", 6),
            ("events_waiting", 50),
            ("last_run_events_delivered", 0),
            ("last_run_receiver_requests", 1),
        ],
        &unknown[..2],
    );
    let mut run = bench.0.start(bench.0.command(&["--metrics=a.prom"]));
    drop(run.stdout());
    run.finish().code(141);
    bench.has(
        &[("last_run_exit_code", 141), ("events_waiting", 50)],
        &unknown[..2],
    );
    bench.run(&[]).code(0).silent();
    bench.has(&[("last_run_exit_code", 0), ("events_waiting", 0)], &[]);
}

#[test]
fn metrics_say_how_many_events_wait() {
    let bench = Measured(Bench::of(events(2_500, now(), 2)));
    let rules = Rules {
        script: [Answer::Usual].into(),
        always: Answer::status(503),
        ..Rules::default()
    };
    let receiver = Receiver::start(Format::Ndjson, rules);
    let post = format!("--post={}", receiver.url());
    let args = [&post, "--batch-events=20", "--page-size=100", "--retries=1"];
    bench.run(&args).code(6);
    let figures = [
        ("last_run_events_delivered", 20),
        ("events_waiting", 2_480),
        ("last_run_receiver_requests", 3),
        ("last_run_receiver_retries", 1),
    ];
    bench.has(&figures, &[SUCCESS]);
    receiver.with(|rules| rules.always = Answer::Usual);
    let before: usize = receiver.received().iter().map(|post| post.body.len()).sum();
    bench.run(&args).code(0).silent();
    let after: usize = receiver.received().iter().map(|post| post.body.len()).sum();
    let figures = [
        ("last_run_events_delivered", 2_480),
        ("events_waiting", 0),
        (
            "last_run_receiver_bytes",
            u32::try_from(after - before).unwrap(),
        ),
    ];
    bench.has(&figures, &[]);
}

#[test]
fn events_that_are_counted_and_not_listed_count_as_waiting() {
    let bench = Measured(Bench::new(World {
        counts: Counts::Plus(3),
        ..World::new(events(250, now(), 2))
    }));
    bench.run(&["--page-size=100"]).code(5);
    let figures = [("last_run_events_delivered", 250), ("events_waiting", 3)];
    bench.has(&figures, &[]);
}

#[test]
fn events_that_a_failing_service_did_not_list_count_as_waiting() {
    let bench = Measured(Bench::of(events(250, now(), 2)));
    bench.0.script(18, Step::error(401, "unauthorized"));
    bench.run(&["--page-size=10", "--connections=1"]).code(4);
    let [delivered, waiting] =
        ["last_run_events_delivered", "events_waiting"].map(|name| bench.value(name));
    assert!(delivered > 0.0 && waiting > 0.0, "{delivered} {waiting}");
    assert_eq!(Some(delivered + waiting), Some(250.0));
}

#[test]
fn dead_letters_do_not_count_as_delivered() {
    let bench = Measured(Bench::of(events(30, now(), 1)));
    let poison = [bench.0.in_order()[20].id.clone()].into();
    let rules = Rules {
        poison,
        ..Rules::default()
    };
    let receiver = Receiver::start(Format::Ndjson, rules);
    let args = [
        "--post",
        &receiver.url(),
        "--batch-events=10",
        "--dead-letter=dead",
        "-v",
    ];
    let run = bench.run(&args);
    let summary = "tfc-audit: delivered 29 events; put 1 dead letter aside; ";
    run.code(0)
        .holds(run.stderr.contains(summary), "both are in the summary");
    let figures = [
        ("last_run_dead_letters", 1),
        ("last_run_events_delivered", 29),
        ("events_waiting", 0),
    ];
    bench.has(&figures, &[]);
}

#[test]
fn metrics_that_cannot_be_written_are_a_warning() {
    let bench = Bench::of(events(5, now(), 1));
    fs::write(bench.path("foreign"), "some text\n").unwrap();
    fs::create_dir(bench.path("directory")).unwrap();
    for (file, why) in [
        ("missing/a.prom", "No such file"),
        ("foreign", "it holds something else"),
        ("directory", "not a regular file"),
        ("/dev/null", "not a regular file"),
    ] {
        let metrics = format!("--metrics={file}");
        bench.run(&["--no-checkpoint", &metrics]).code(0).warns(why);
    }
    std::os::unix::fs::symlink("elsewhere", bench.path("link")).unwrap();
    let args = ["--no-checkpoint", "--metrics=link"];
    bench.run(&args).code(0).warns("not a regular file");
    fs::remove_file(bench.path("link")).unwrap();
    let run = bench.start(bench.limited(0, &["--no-checkpoint", "--metrics=a.prom"]));
    run.finish().code(0).warns("File too large");
    assert_eq!(bench.files(), ["directory", "foreign"]);
    assert_eq!(
        fs::read_to_string(bench.path("foreign")).unwrap(),
        "some text\n"
    );
    bench.run(&["--metrics="]).fails(2, "--metrics");
}

#[test]
fn everybody_can_read_the_metrics_unless_the_umask_says_otherwise() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::of(events(5, now(), 1));
    for (umask, mode) in [("022", 0o644), ("000", 0o644), ("077", 0o600)] {
        let inner = bench.command(&["--metrics=a.prom"]);
        let mut command = bench.clean("/bin/sh");
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        command.args(["-c", &script]).arg(inner.get_program());
        command.args(inner.get_args());
        bench.start(command).finish().code(0).silent();
        let metadata = fs::metadata(bench.path("a.prom")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{umask}");
    }
}

// The summary.

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
