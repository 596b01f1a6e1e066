//! Delivery to a program: its exit code alone acknowledges a batch.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::stand_in::{events, ids};
use crate::support::{Bench, Outcome, TOKEN, TOO_LONG, now};

/// Events, one a second, and runs in which a shell command gets twenty at a time.
struct Delivery(Bench);

impl Delivery {
    fn of(count: usize) -> Self {
        Self(Bench::of(events(count, now(), 1)))
    }

    #[track_caller]
    fn run(&self, command: &str) -> Outcome {
        self.0.run(&["--exec", command, "--batch-events=20"])
    }

    /// The content of a file that the commands wrote.
    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.0.path(name)).unwrap_or_default()
    }

    /// The commands wrote all events to `out`, in order, each once, and another run has none.
    #[track_caller]
    fn is_complete(&self) {
        let expected = self.0.api.with(|world| world.expected());
        assert!(self.file("out") == expected, "{:?}", ids(&self.file("out")));
        self.run("echo run again >> out").code(0).silent();
        assert_eq!(self.file("out"), expected);
    }
}

#[test]
fn a_command_gets_each_batch_and_variables_about_it() {
    let delivery = Delivery::of(50);
    let command = r#"cat >> out; env > env
        echo "$TFC_AUDIT_BATCH_ID $TFC_AUDIT_COUNT $TFC_AUDIT_FIRST_TIMESTAMP $TFC_AUDIT_LAST_TIMESTAMP" >> batches
        echo passed; echo through >&2"#;
    let run = delivery.run(command);
    run.code(0).prints("passed\npassed\npassed\n");
    run.holds(
        run.stderr == "through\nthrough\nthrough\n",
        "stderr should pass through",
    );
    delivery.is_complete();
    let environment = delivery.file("env");
    assert!(
        environment.contains("TFC_AUDIT_COUNT=10\n"),
        "{environment}"
    );
    assert!(!environment.contains("TFC_ORG_TOKEN") && !environment.contains(TOKEN));

    let times = delivery.0.api.with(|world| {
        let all = world.in_order().into_iter();
        all.map(|event| crate::stand_in::stamp(event.time))
            .collect::<Vec<_>>()
    });
    let batches = delivery.file("batches");
    let mut names = Vec::new();
    for (line, (count, first)) in batches.lines().zip([(20, 0), (20, 20), (10, 40)]) {
        let (name, rest) = line.split_once(' ').unwrap();
        assert_eq!(
            rest,
            format!("{count} {} {}", times[first], times[first + count - 1])
        );
        assert!(
            name.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
            "{name}"
        );
        names.push(name.to_owned());
    }
    assert_eq!(names.len(), 3);
    names.dedup();
    assert_eq!(names.len(), 3);
}

#[test]
fn without_exit_code_0_the_same_batch_comes_again() {
    let failures = [
        ("cat > /dev/null; exit 1", "exit status: 1"),
        ("exit 255", "exit status: 255"),
        ("cat > /dev/null; kill -9 $$", "signal: 9"),
        ("kill -TERM $$", "signal: 15"),
        ("head -c 10 > /dev/null; exit 3", "exit status: 3"),
        ("no-such-program", "exit status: 127"),
    ];
    for (end, named) in failures {
        let delivery = Delivery::of(50);
        let name = r#"echo "$TFC_AUDIT_BATCH_ID" >> names"#;
        let run = delivery.run(&format!("{name}; [ -e out ] || exec cat > out; {end}"));
        run.code(6).prints_nothing();
        run.holds(
            run.stderr
                .trim_end()
                .lines()
                .last()
                .is_some_and(|line| line.contains(named)),
            named,
        );
        delivery
            .run(&format!("{name}; cat >> out"))
            .code(0)
            .silent();
        let names = delivery.file("names");
        let names: Vec<_> = names.lines().collect();
        assert!(names.len() == 4 && names[1] == names[2], "{names:?}");
        delivery.is_complete();
    }
}

#[test]
fn a_command_need_not_read_its_input() {
    for command in [
        "true",
        "head -c 10 > /dev/null",
        "exec <&-",
        "cat > /dev/null",
    ] {
        let delivery = Delivery(Bench::of(events(3_000, now(), 10)));
        let run = delivery.0.run(&["--exec", command]);
        run.code(0).silent();
        let run = delivery.run("echo again");
        run.code(0).prints_nothing();
    }
}

#[test]
fn a_command_may_write_a_lot_before_it_reads() {
    let delivery = Delivery(Bench::of(events(2_000, now(), 10)));
    let lots = "yes | head -c 2000000; cat >> out; yes | head -c 2000000 >&2";
    let run = delivery.0.run(&["--exec", lots]);
    run.code(0);
    assert_eq!((run.stdout.len(), run.stderr.len()), (6_000_000, 6_000_000));
    delivery.is_complete();
}

#[test]
fn every_command_is_waited_for() {
    let delivery = Delivery::of(100);
    // The run's children, with those that ended and that nobody waited for.
    let command = "cat >> out; cat /proc/$PPID/task/*/children >> children; echo >> children";
    delivery.run(command).code(0);
    for line in delivery
        .file("children")
        .lines()
        .filter(|line| !line.is_empty())
    {
        assert_eq!(
            line.split_whitespace().count(),
            1,
            "{}",
            delivery.file("children")
        );
    }
    delivery.is_complete();
}

/// Its child writes to the file `beats`, until it is ended or five seconds have passed.
const BEATING: &str = "echo > beat; mv beat beats; (for i in $(seq 500); do echo >> beats; sleep 0.01; done) & wait; exit 1";

impl Delivery {
    /// Waits until a command has made this file.
    #[track_caller]
    fn has(&self, name: &str) {
        let began = Instant::now();
        while !self.0.path(name).exists() {
            assert!(began.elapsed() < TOO_LONG, "no file {name}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The child in [`BEATING`] has been ended.
    #[track_caller]
    fn beats_no_more(&self) {
        let beats = self.file("beats");
        thread::sleep(Duration::from_millis(200));
        assert!(!beats.is_empty());
        assert_eq!(self.file("beats"), beats);
    }
}

/// The batch comes again. The limit leaves a busy machine time for the first batch.
#[test]
fn max_time_ends_a_command_and_its_children() {
    let delivery = Delivery::of(50);
    let slow = format!("[ -e second ] || {{ touch second; exec cat >> out; }}; {BEATING}");
    let run = delivery
        .0
        .run(&["--exec", &slow, "--batch-events=20", "--max-time=3s"]);
    run.fails(3, "waiting for the command of --exec");
    delivery.beats_no_more();
    delivery.run("cat >> out").code(0).silent();
    delivery.is_complete();
}

#[test]
fn sigint_and_sigterm_end_the_command_its_children_and_the_run() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let delivery = Delivery::of(50);
        let run = delivery.0.command(&["--exec", BEATING]);
        let run = delivery.0.start(run);
        delivery.has("beats");
        kill(Pid::from_raw(run.child.id().cast_signed()), signal).unwrap();
        let run = run.finish();
        run.silent().prints_nothing();
        let named = format!("signal: {}", signal as i32);
        run.holds(run.to_string().contains(&named), named);
        delivery.beats_no_more();
        assert_eq!(delivery.0.checkpoint_field("last_timestamp"), json!(null));
        delivery.run("cat >> out").code(0).silent();
        delivery.is_complete();
    }
}

/// The end of a pipe would look like the end of the batch.
#[test]
fn a_command_that_outlives_a_killed_run_reads_the_whole_batch() {
    let delivery = Delivery(Bench::of(events(1_000, now(), 10)));
    let late = "touch started; until [ -e go ]; do sleep 0.05; done; cat > out";
    let mut run = delivery.0.start(delivery.0.command(&["--exec", late]));
    delivery.has("started");
    run.child.kill().unwrap();
    fs::write(delivery.0.path("go"), "").unwrap();
    // This waits for all that have the run's standard output.
    let run = run.finish();
    run.holds(run.was_killed(), "it should have been killed");
    let expected = delivery.0.api.with(|world| world.expected());
    assert!(delivery.file("out") == expected);
    delivery.0.run(&["--exec", late]).code(0).silent();
    delivery.is_complete();
}

#[cfg(target_os = "linux")]
#[test]
fn a_batch_is_a_private_file_without_a_name() {
    let delivery = Delivery::of(50);
    let stat = "stat -Lc '%F %a %h' /dev/stdin >> stats; ls -A tmp >> names; cat >> out";
    fs::create_dir(delivery.0.path("tmp")).unwrap();
    let mut command = delivery.0.command(&["--exec", stat, "--batch-events=25"]);
    command.env("TMPDIR", delivery.0.path("tmp"));
    delivery.0.start(command).finish().code(0).silent();
    assert_eq!(delivery.file("stats"), "regular file 600 0\n".repeat(2));
    assert_eq!(delivery.file("names"), "");
    delivery.is_complete();
}

#[test]
fn a_temporary_directory_that_is_missing_or_full_fails_with_6() {
    let delivery = Delivery(Bench::of(events(1_000, now(), 10)));
    let args = ["--exec", "cat >> out"];
    let fault = "--exec: cannot write the batch to a file in missing: No such file or directory";
    let mut command = delivery.0.command(&args);
    command.env("TMPDIR", "missing");
    delivery.0.start(command).finish().fails(6, fault);
    let mut check = delivery.0.command(&[&args[..], &["--check"]].concat());
    check.env("TMPDIR", "missing");
    let check = delivery.0.start(check).finish();
    check.code(6);
    check.holds(check.stdout.contains(fault), "it should fail as a run does");
    let full = delivery.0.start(delivery.0.limited(100, &args)).finish();
    full.fails(6, "File too large")
        .says("set TMPDIR to a directory");
    assert_eq!(delivery.file("out"), "");
    delivery.0.run(&args).code(0).silent();
    delivery.is_complete();
}
