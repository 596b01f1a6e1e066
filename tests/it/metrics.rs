//! The file of `--metrics`.

use std::collections::BTreeMap;
use std::fs::{self, File};

use crate::receiver::{Format, Receiver, Rules, Step as Answer};
use crate::stand_in::{Counts, Step, World, events, events_from};
use crate::support::{Bench, Outcome, free_port, minutes_ago, now};

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
    let now = (now() - time::UtcDateTime::UNIX_EPOCH).as_seconds_f64();
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
