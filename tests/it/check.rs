//! `--check`: every cause of a failing run has a line of its own and an exit code. Nothing is
//! delivered or changed.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::receiver::{Format, Receiver, Rules, Step as Answer};
use crate::stand_in::{Step, events};
use crate::support::{
    AN_HOUR, Bench, Outcome, PROGRAM, TOKEN, at_once, free_port, minutes_ago, now,
};

mod receivers;

fn bench() -> Bench {
    Bench::of(events(3, now(), 1))
}

/// The line of this step begins with this word and contains this text.
#[track_caller]
fn finds<'a>(run: &'a Outcome, word: &str, step: &str, text: &str) -> &'a Outcome {
    let begins = format!("{word:<5} {step}: ");
    let line = run.stdout.lines().find(|line| line.starts_with(&begins));
    run.silent().holds(
        line.is_some_and(|line| line.contains(text) && !line.contains(char::is_control)),
        format_args!("there should be a line \"{begins}…{text}\""),
    )
}

/// A check with these arguments ends with this code because of this step, the only one that fails.
#[track_caller]
fn fails(bench: &Bench, args: &[&str], code: i32, step: &str, text: &str) -> Outcome {
    let run = bench.run(&[&["--check"], args].concat());
    run.code(code);
    finds(&run, "FAIL", step, text);
    let failures = run.stdout.lines().filter(|line| line.starts_with("FAIL"));
    run.holds(failures.count() == 1, "nothing else should fail");
    run
}

#[test]
fn a_check_tries_every_step_and_changes_nothing() {
    let bench = bench();
    let receiver = Receiver::start(Format::Splunk, Rules::default());
    let args = [
        "--check",
        "--post",
        &receiver.url(),
        "--format=splunk-hec",
        "--dead-letter=dead",
        "--metrics=metrics.prom",
    ];
    for _ in 0..2 {
        let run = bench.run(&args);
        run.code(0).asks(1).silent();
        let steps: Vec<_> = run
            .stdout
            .lines()
            .map(|line| line.split_once(": ").unwrap().0)
            .collect();
        let expected = [
            "ok    configuration",
            "ok    token",
            "ok    service",
            "ok    events",
            "ok    clock",
            "ok    checkpoint",
            "ok    directory",
            "ok    lock",
            "ok    receiver",
            "ok    dead letters",
            "ok    metrics",
        ];
        assert_eq!(steps, expected, "{run}");
        assert_eq!(bench.files(), [""; 0]);
    }
    let asked = receiver.received();
    assert_eq!(
        asked
            .iter()
            .map(|asked| format!("{} {}", asked.method, asked.path))
            .collect::<Vec<_>>(),
        [
            "GET /services/collector/health",
            "POST /services/collector/event"
        ]
        .repeat(2)
    );
    assert!(receiver.delivered().is_empty());
}

#[test]
fn steps_that_the_options_do_not_use_are_skipped() {
    let run = bench().run(&["--check", "--no-checkpoint"]);
    run.code(0);
    for step in ["checkpoint", "directory", "lock"] {
        finds(&run, "skip", step, "--no-checkpoint");
    }
    finds(&run, "skip", "receiver", "standard output");
    finds(&run, "skip", "dead letters", "--dead-letter is not given");
    finds(&run, "skip", "metrics", "--metrics is not given");
}

#[test]
fn the_checkpoint_line_says_how_far_earlier_runs_got() {
    let bench = bench();
    bench.run(&[]).code(0).silent();
    let before = (bench.checkpoint(), bench.files());
    let run = bench.run(&["--check"]);
    let text = " ago; last complete run: ";
    finds(&run, "ok", "checkpoint", text).code(0);
    assert_eq!((bench.checkpoint(), bench.files()), before);
    bench.set_checkpoint_field("completed_at", json!(null));
    let run = bench.run(&["--check"]);
    finds(&run, "ok", "checkpoint", "last complete run: none").code(0);
}

#[test]
fn a_refused_token_fails_with_4() {
    for (code, text) in [
        (401, "answered 401: "),
        (403, "the plan of its organization has no audit trails"),
        (404, "the plan of its organization has no audit trails"),
    ] {
        let bench = bench();
        bench.script(1, Step::error(code, "so"));
        let run = fails(&bench, &[], 4, "service", text);
        finds(&run, "skip", "events", "did not answer");
    }
    let bench = bench();
    let mut command = bench.command(&["--check"]);
    command.env("TFC_ORG_TOKEN", "another");
    let run = bench.start(command).finish();
    finds(&run, "FAIL", "service", "the token is not valid").code(4);
}

/// The service answers a user or team token with an empty list.
#[test]
fn an_empty_list_fails_with_4_unless_the_last_event_is_beyond_retention() {
    let bench = Bench::of(Vec::new());
    let kinds = "use an organization token or an audit-trail token";
    fails(&bench, &[], 4, "events", kinds);
    fails(&bench, &["--since=1h"], 4, "events", kinds);
    bench.insert(events(3, minutes_ago(13 * 24 * 60 + 30), 1));
    bench.run(&[]).code(0).silent();
    bench.api.with(|world| world.remove_oldest(3));
    let run = bench.run(&["--check"]);
    finds(&run, "warn", "events", "none is listed in 14 days").code(0);
}

#[test]
fn a_token_file_that_others_can_read_or_write_is_a_warning() {
    let bench = bench();
    let check = || {
        let mut command = bench.command(&["--check", "--token-file=token"]);
        command.env_remove("TFC_ORG_TOKEN");
        bench.start(command).finish()
    };
    let run = check();
    finds(&run, "FAIL", "token", "No such file").code(2).asks(0);
    finds(&run, "skip", "service", "no token");
    fs::write(bench.path("token"), TOKEN).unwrap();
    for (mode, word, text) in [
        (0o600, "ok", "in token"),
        (0o604, "warn", "token can be read by every user"),
        (0o620, "warn", "token can be written by others"),
    ] {
        fs::set_permissions(bench.path("token"), fs::Permissions::from_mode(mode)).unwrap();
        finds(&check(), word, "token", text).code(0);
    }
}

#[test]
fn a_header_file_that_others_can_read_or_write_is_a_warning() {
    let bench = bench();
    fs::write(bench.path("headers"), "X-Key: hunter2\n").unwrap();
    let args = ["--check", "--post=http://127.0.0.1:1", "--header=@headers"];
    for (mode, word, text) in [
        (0o600, "ok", "valid"),
        (0o604, "warn", "headers can be read by every user"),
        (0o620, "warn", "headers can be written by others"),
    ] {
        fs::set_permissions(bench.path("headers"), fs::Permissions::from_mode(mode)).unwrap();
        finds(&bench.run(&args), word, "configuration", text);
    }
}

#[test]
fn a_service_that_fails_is_asked_once() {
    let bench = bench();
    let mut command = bench.clean(PROGRAM);
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    command.args(["--check", "-c", "checkpoint.json", "--endpoint", &endpoint]);
    let run = bench.start(command).finish();
    finds(&run, "FAIL", "service", "Connection refused").code(5);
    finds(&run, "ok", "directory", "");

    bench.script(1, Step::error(503, "unavailable"));
    fails(&bench, &[], 5, "service", "answered 503").asks(1);
    bench.script(2, Step::Stall(AN_HOUR));
    fails(&bench, &["--timeout=1s"], 5, "service", "timeout").asks(1);
}

#[test]
fn a_clock_that_is_off_by_more_than_a_minute_is_a_warning() {
    let run = bench().run(&["--check"]);
    finds(&run, "ok", "clock", "s ahead of").code(0);
    for (off, text) in [(2, "behind"), (-2, "ahead of")] {
        let bench = bench();
        let date = now() + time::Duration::hours(off);
        bench.api.with(|world| world.date = Some(date));
        let run = bench.run(&["--check"]);
        finds(&run, "warn", "clock", text).code(0);
        finds(&run, "warn", "clock", "NTP");
    }
}

#[test]
fn one_request_tells_how_many_events_are_listed() {
    let bench = Bench::of(events(2_500, minutes_ago(150), 1));
    let run = bench.run(&["--check"]);
    let text = "2500 listed, the newest 2h3";
    finds(&run, "ok", "events", text).code(0).asks(1);
}

#[test]
fn a_directory_that_cannot_be_written_fails_with_8() {
    let bench = bench();
    let named = |path: &str| {
        let run = bench.start(bench.bare(&["--check", "-c", path])).finish();
        run.code(8);
        run
    };
    let run = named("missing/checkpoint.json");
    finds(
        &run,
        "FAIL",
        "directory",
        "missing cannot be written: No such file",
    );
    finds(&run, "FAIL", "directory", "; create the directory, or");
    fs::write(bench.path("file"), "").unwrap();
    finds(
        &named("file/checkpoint.json"),
        "FAIL",
        "directory",
        "Not a directory",
    );
    fs::create_dir(bench.path("directory")).unwrap();
    finds(&named("directory"), "FAIL", "checkpoint", "is a directory");
    let run = bench.start(bench.limited(0, &["--check"])).finish();
    finds(&run, "FAIL", "directory", "File too large").code(8);
    assert_eq!(bench.files(), ["directory", "file"]);
}

/// `/proc` takes the place of the `/` that containers often have for `HOME`: not even root can
/// write there.
#[test]
fn no_home_directory_is_no_reason_to_make_the_root_writable() {
    for args in [&[][..], &["--check"]] {
        let bench = bench();
        let mut command = bench.bare(args);
        command.env("HOME", "/proc");
        let run = bench.start(command).finish();
        run.code(8);
        let all = format!("{}{}", run.stdout, run.stderr);
        assert!(
            all.contains("; set XDG_STATE_HOME or HOME to a directory"),
            "{run}"
        );
        assert!(all.contains("or name a file with --checkpoint"), "{run}");
        assert!(!all.contains("let this user"), "{run}");
    }
}

/// A run creates the default place; a check only tries the nearest directory above it.
#[test]
fn a_missing_default_directory_is_ok_if_a_run_can_create_it() {
    let bench = bench();
    let check = || {
        let mut command = bench.bare(&["--check"]);
        command.env("HOME", bench.path("home"));
        bench.start(command).finish()
    };
    finds(&check(), "ok", "directory", " can be written").code(0);
    assert_eq!(bench.files(), [""; 0]);
    fs::write(bench.path("home"), "").unwrap();
    finds(&check(), "FAIL", "directory", "Not a directory").code(8);
}

#[test]
fn a_checkpoint_that_cannot_be_trusted_fails_with_8() {
    let bench = bench();
    fails(
        &bench,
        &["--require-checkpoint"],
        8,
        "checkpoint",
        "there is no checkpoint",
    );
    let run = bench.run(&["--check", "--since=1h"]);
    finds(&run, "ok", "checkpoint", "none yet").code(0);
    fs::write(bench.path("checkpoint.json"), "{").unwrap();
    fails(&bench, &[], 8, "checkpoint", "cannot be trusted");
    assert_eq!(bench.checkpoint(), "{");
    fs::remove_file(bench.path("checkpoint.json")).unwrap();

    bench.run(&[]).code(0).silent();
    bench.set_checkpoint_field("completed_at", json!("2026-01-02T03:04:05Z"));
    let run = bench.run(&["--check"]);
    finds(&run, "warn", "checkpoint", "may be gone").code(0);
    bench.set_checkpoint_field("organization_id", json!("org-CCCCCCCCCCCCCCCC"));
    let last = bench.checkpoint_field("last_timestamp");
    bench.set_checkpoint_field("boundary_ids", json!({last.as_str().unwrap(): ["gone"]}));
    let other = "belongs to the organization org-CCCCCCCCCCCCCCCC";
    fails(&bench, &[], 8, "checkpoint", other);
}

#[test]
fn a_lock_that_another_run_holds_fails_with_75() {
    let bench = bench();
    bench.run(&[]).code(0).silent();
    let lock = File::open(bench.path("checkpoint.json.lock")).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    fails(&bench, &[], 75, "lock", "another run holds the lock");
    drop(lock);
    bench.run(&["--check"]).code(0);
    fs::remove_file(bench.path("checkpoint.json.lock")).unwrap();
    fs::create_dir(bench.path("checkpoint.json.lock")).unwrap();
    fails(&bench, &[], 8, "lock", "is a directory");
}

#[test]
fn the_exit_code_is_that_of_the_first_failure() {
    let bench = bench();
    bench.script(1, Step::error(401, "unauthorized"));
    let url = format!("http://127.0.0.1:{}", free_port());
    let args = ["--check", "-c", "missing/checkpoint.json", "--post", &url];
    let run = bench.start(bench.bare(&args)).finish();
    finds(&run, "FAIL", "service", "401").code(4);
    finds(&run, "FAIL", "directory", "");
    finds(&run, "FAIL", "receiver", "");
}

#[test]
fn a_wrong_configuration_is_the_only_line() {
    let bench = bench();
    let run = fails(&bench, &["--until=1h"], 2, "configuration", "--until");
    run.asks(0)
        .holds(run.stdout.lines().count() == 1, "no step can be tried");
    bench.run(&["--check", "--dry-run"]).code(2).silent();
    bench.run(&["--check", "--unknown"]).fails(2, "--unknown");
    let headers = ["--post=http://127.0.0.1:9", "--header=@missing"];
    fails(&bench, &headers, 2, "receiver", "--header: missing");
}
