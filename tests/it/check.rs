//! `--check`: each thing that can be wrong is told apart, by its line and by the exit code, and
//! nothing is delivered or changed.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::receiver::{Format, Receiver, Rules, Step as Answer};
use crate::receivers::{Server, free_port, program};
use crate::stand_in::{Step, events};
use crate::support::{Bench, Outcome, PROGRAM, TOKEN, minutes_ago, now};

fn bench() -> Bench {
    Bench::of(events(3, now(), 1))
}

/// The line of a step begins with this word and has this text.
#[track_caller]
fn finds<'a>(run: &'a Outcome, word: &str, step: &str, text: &str) -> &'a Outcome {
    let begins = format!("{word:<5} {step}: ");
    let line = run.stdout.lines().find(|line| line.starts_with(&begins));
    run.silent().holds(
        line.is_some_and(|line| line.contains(text) && !line.contains(char::is_control)),
        format_args!("there should be a line \"{begins}…{text}\""),
    )
}

/// A check with these arguments ends with this code, for this failure, which is the only one.
#[track_caller]
fn fails(bench: &Bench, args: &[&str], code: i32, step: &str, text: &str) -> Outcome {
    let run = bench.run(&[&["--check"], args].concat());
    run.code(code);
    finds(&run, "FAIL", step, text);
    let failures = run.stdout.lines().filter(|line| line.starts_with("FAIL"));
    run.holds(failures.count() == 1, "nothing else should fail");
    run.holds(!run.stdout.contains("hunter2"), "no secret should be shown");
    run
}

#[test]
fn all_is_well_and_nothing_is_changed() {
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
            "ok    source",
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
fn a_checkpoint_is_looked_at_and_stays_as_it_is() {
    let bench = bench();
    bench.run(&[]).code(0).silent();
    let before = (bench.checkpoint(), bench.files());
    let run = bench.run(&["--check"]);
    finds(
        &run,
        "ok",
        "checkpoint",
        "and the newest event listed is delivered",
    );
    bench.insert(events(3, now() + Duration::from_secs(90), 1));
    let run = bench.run(&["--check"]);
    finds(&run, "ok", "checkpoint", "older than the newest listed").code(0);
    assert_eq!((bench.checkpoint(), bench.files()), before);
}

#[test]
fn the_token_is_wrong() {
    for (code, text) in [
        (401, "answered 401: "),
        (403, "no audit trails by its plan"),
        (404, "no audit trails by its plan"),
    ] {
        let bench = bench();
        bench.script(1, Step::error(code, "so"));
        let run = fails(&bench, &[], 4, "source", text);
        finds(&run, "skip", "events", "");
    }
    let bench = bench();
    let mut command = bench.command(&["--check"]);
    command.env("TFC_ORG_TOKEN", "another");
    let run = bench.start(command).finish();
    finds(&run, "FAIL", "source", "the token is not valid").code(4);
}

/// A user or team token is answered with an empty list.
#[test]
fn the_token_is_of_another_kind() {
    let bench = Bench::of(Vec::new());
    let kinds = "it takes an organization token or an audit-trail token";
    fails(&bench, &[], 4, "events", kinds);
    let run = bench.run(&["--check", "--since=1h"]);
    finds(&run, "warn", "events", kinds).code(0);
    bench.insert(events(3, now(), 1));
    bench.run(&[]).code(0).silent();
    bench.api.with(|world| world.remove_oldest(3));
    let run = bench.run(&["--check"]);
    finds(&run, "warn", "events", "although some were before").code(0);
    for field in ["last_timestamp", "boundary_start", "completed_at"] {
        bench.set_checkpoint_field(field, json!("2026-01-02T03:04:05Z"));
    }
    let ids = json!({"2026-01-02T03:04:05Z": ["a"]});
    bench.set_checkpoint_field("boundary_ids", ids);
    let run = bench.run(&["--check"]);
    finds(&run, "warn", "events", "none is listed in 14 days").code(0);
}

#[test]
fn the_token_file_is_missing_or_open_to_others() {
    let bench = bench();
    let check = || {
        let mut command = bench.command(&["--check", "--token-file=token"]);
        command.env_remove("TFC_ORG_TOKEN");
        bench.start(command).finish()
    };
    let run = check();
    finds(&run, "FAIL", "token", "No such file").code(2).asks(0);
    finds(&run, "skip", "source", "no token");
    fs::write(bench.path("token"), TOKEN).unwrap();
    for (mode, word, text) in [
        (0o600, "ok", "in token"),
        (0o400, "ok", "in token"),
        (0o640, "ok", "in token"),
        (0o604, "warn", "token can be read by every user"),
        (0o620, "warn", "token can be written by others"),
    ] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(bench.path("token"), fs::Permissions::from_mode(mode)).unwrap();
        finds(&check(), word, "token", text).code(0);
    }
}

#[test]
fn the_source_is_not_there() {
    let bench = bench();
    let mut command = bench.clean(PROGRAM);
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    command.args(["--check", "-c", "checkpoint.json", "--endpoint", &endpoint]);
    let run = bench.start(command).finish();
    finds(&run, "FAIL", "source", "Connection refused").code(5);
    run.holds(run.took < Duration::from_secs(5), "one try is enough");
    finds(&run, "ok", "directory", "");

    bench.script(1, Step::error(503, "unavailable"));
    fails(&bench, &[], 5, "source", "answered 503").asks(1);
    bench.script(2, Step::Stall(Duration::from_secs(20)));
    fails(&bench, &["--timeout=1s"], 5, "source", "timeout");
}

/// A TLS server with a certificate that nobody has signed.
fn tls(bench: &Bench) -> Option<(Server, String)> {
    let openssl = program("openssl", None)?;
    let certificate = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ];
    let mut command = Command::new(&openssl);
    let output = command
        .args(certificate)
        .current_dir(bench.path(""))
        .output();
    let output = output.expect("openssl runs");
    assert!(output.status.success(), "{output:?}");
    let port = free_port();
    let mut command = Command::new(openssl);
    command.args([
        "s_server", "-cert", "cert.pem", "-key", "key.pem", "-quiet", "-accept",
    ]);
    command.arg(port.to_string());
    let server = Server::start(&bench.path(""), "s_server", port, command);
    Some((server, format!("https://localhost:{port}")))
}

#[test]
fn a_certificate_is_not_trusted() {
    let bench = bench();
    let Some((_server, url)) = tls(&bench) else {
        return;
    };
    let mut command = bench.clean(PROGRAM);
    command.args(["--check", "--no-checkpoint", "--endpoint", &url]);
    let run = bench.start(command).finish();
    finds(&run, "FAIL", "source", "certificate").code(5);
    fails(&bench, &["--post", &url], 6, "receiver", "certificate");
}

#[test]
fn the_clock_is_wrong() {
    for (off, word, text) in [
        (0, "ok", "s ahead of"),
        (30, "ok", "s behind"),
        (90, "warn", "s behind"),
        (-90, "warn", "s ahead of"),
    ] {
        let bench = bench();
        let offset = time::Duration::seconds(off);
        bench.api.with(|world| world.date = Some(now() + offset));
        let run = bench.run(&["--check"]);
        finds(&run, word, "clock", text).code(0);
    }
    let bench = bench();
    let date = now() + Duration::from_secs(8);
    bench.api.with(|world| world.date = Some(date));
    let run = bench.run(&["--check", "--overlap=1s"]);
    finds(&run, "warn", "clock", "NTP").code(0);
}

#[test]
fn the_age_of_all_events_takes_one_more_request() {
    let bench = Bench::of(events(2_500, minutes_ago(2), 1));
    let run = bench.run(&["--check"]);
    let text = "2500 listed, the newest 2m0";
    finds(&run, "ok", "events", text).asks(2);
    finds(&run, "ok", "events", "the oldest 43m");
    bench.script(4, Step::error(500, "so"));
    let run = bench.run(&["--check"]);
    finds(&run, "ok", "events", "the oldest of unknown age").code(0);
}

#[test]
fn the_directory_cannot_be_written() {
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

/// What a run would make, a check does not.
#[test]
fn the_default_directory_need_not_be_there() {
    let bench = bench();
    let mut command = bench.bare(&["--check"]);
    command.env("HOME", bench.path("home"));
    let run = bench.start(command).finish();
    finds(&run, "ok", "directory", "a run can make ").code(0);
    assert_eq!(bench.files(), [""; 0]);
    fs::write(bench.path("home"), "").unwrap();
    let mut command = bench.bare(&["--check"]);
    command.env("HOME", bench.path("home"));
    let run = bench.start(command).finish();
    finds(&run, "FAIL", "directory", "Not a directory").code(8);
}

#[test]
fn the_checkpoint_cannot_be_trusted() {
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
    finds(&run, "warn", "checkpoint", "some may be gone").code(0);
    bench.set_checkpoint_field("organization_id", json!("org-CCCCCCCCCCCCCCCC"));
    let last = bench.checkpoint_field("last_timestamp");
    bench.set_checkpoint_field("boundary_ids", json!({last.as_str().unwrap(): ["gone"]}));
    let other = "belongs to the organization org-CCCCCCCCCCCCCCCC";
    fails(&bench, &[], 8, "checkpoint", other);
    let run = bench.run(&["--check", "--no-checkpoint"]);
    finds(&run, "skip", "checkpoint", "--no-checkpoint").code(0);
}

#[test]
fn the_lock_is_held() {
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
fn the_receiver_is_not_there() {
    let bench = bench();
    let url = format!("http://127.0.0.1:{}", free_port());
    for format in Format::ALL {
        let format = format!("--format={}", format.name());
        let run = fails(
            &bench,
            &["--post", &url, &format],
            6,
            "receiver",
            "Connection refused",
        );
        run.holds(run.took < Duration::from_secs(5), "one try is enough");
    }
}

/// What the product says of itself is asked for, and a request without events tells whether it takes
/// the credential.
#[test]
fn the_receiver_refuses_the_credential() {
    for (format, says) in [
        (
            Format::Splunk,
            r#"answered 403: {"text":"Invalid token","code":4}"#,
        ),
        (Format::Bulk, "answered 401: unauthorized"),
        (Format::Loki, "answered 401: unauthorized"),
    ] {
        let bench = bench();
        let rules = Rules {
            credential: Some("Bearer right".to_owned()),
            ..Rules::default()
        };
        let receiver = Receiver::start(format, rules);
        let format = format!("--format={}", format.name());
        let args = ["--post", &receiver.url(), &format, "--gzip"];
        let with = |header| [&args[..], &[header]].concat();
        let run = fails(
            &bench,
            &with("--header=Authorization:Bearer wrong"),
            7,
            "receiver",
            says,
        );
        finds(&run, "FAIL", "receiver", "check the credential");
        run.holds(
            !run.stdout.contains("wrong"),
            "the credential should not be shown",
        );
        let right = with("--header=Authorization:Bearer right");
        let run = bench.run(&[&["--check"], &right[..]].concat());
        finds(&run, "ok", "receiver", "as it should without events").code(0);
        assert!(
            receiver
                .received()
                .iter()
                .all(|asked| asked.body.is_empty())
        );
    }
}

/// A credential may be for nothing but writing, and then the cluster's root is not for it.
#[test]
fn the_cluster_does_not_tell_about_itself() {
    let bench = bench();
    let rules = Rules {
        script: [Answer::status(403)].into(),
        ..Rules::default()
    };
    let receiver = Receiver::start(Format::Bulk, rules);
    let run = bench.run(&[
        "--check",
        "--format=elasticsearch",
        "--post",
        &receiver.url(),
    ]);
    finds(&run, "warn", "receiver", "GET / it answered 403").code(0);
    finds(&run, "warn", "receiver", "request body is required");
}

#[test]
fn the_receiver_is_not_well() {
    for format in [Format::Splunk, Format::Bulk, Format::Loki, Format::Ndjson] {
        let bench = bench();
        let receiver = Receiver::start(format, Rules::default());
        let format = format!("--format={}", format.name());
        let args = ["--post", &receiver.url(), &format];
        receiver.with(|rules| rules.script.push_back(Answer::status(503)));
        fails(&bench, &args, 6, "receiver", "answered 503");
        // Some answer with what they were sent.
        let echo = Answer::answer(502, &[], "you sent hunter2-hidden");
        receiver.with(|rules| rules.script.push_back(echo));
        let secret = [&args[..], &["--header=X-Key:hunter2-hidden"]].concat();
        fails(&bench, &secret, 6, "receiver", "answered 502");
        receiver.with(|rules| rules.script.push_back(Answer::Stall));
        fails(
            &bench,
            &[&args[..], &["--timeout=1s"]].concat(),
            6,
            "receiver",
            "timeout",
        );
    }
    // Behind its health, the path for events is another one.
    let bench = bench();
    let rules = Rules {
        script: [Answer::Usual, Answer::status(404)].into(),
        ..Rules::default()
    };
    let receiver = Receiver::start(Format::Loki, rules);
    let args = ["--post", &receiver.url(), "--format=loki"];
    fails(&bench, &args, 7, "receiver", "answered 404");
}

/// Of other receivers no request is known that is sure to make no event.
#[test]
fn nothing_is_posted_where_it_could_become_an_event() {
    for format in [Format::Ndjson, Format::JsonArray, Format::Json] {
        let bench = bench();
        let receiver = Receiver::start(format, Rules::default());
        let format = format!("--format={}", format.name());
        let args = ["--check", "--post", &receiver.url(), &format];
        let run = bench.run(&args);
        finds(&run, "ok", "receiver", "answered 405 to OPTIONS").code(0);
        for (code, text) in [
            (401, "credential"),
            (403, "credential"),
            (404, "path"),
            (301, "path"),
        ] {
            receiver.with(|rules| rules.script.push_back(Answer::status(code)));
            let run = bench.run(&args);
            finds(
                &run,
                "warn",
                "receiver",
                &format!("answered {code} to OPTIONS"),
            )
            .code(0);
            finds(&run, "warn", "receiver", text);
        }
        assert!(
            receiver
                .received()
                .iter()
                .all(|asked| asked.method == "OPTIONS")
        );
    }
}

#[test]
fn the_command_is_read_and_not_run() {
    let bench = bench();
    let run = bench.run(&["--check", "--exec", "touch ran; exit 9"]);
    finds(&run, "ok", "receiver", "it was not run").code(0);
    assert_eq!(bench.files(), [""; 0]);
    fails(
        &bench,
        &["--exec", "if touch ran"],
        6,
        "receiver",
        "sh cannot read the command",
    );
    assert_eq!(bench.files(), [""; 0]);
    let mut command = bench.command(&["--check", "--exec", "cat"]);
    command.env("PATH", bench.path("nowhere"));
    let run = bench.start(command).finish();
    finds(&run, "FAIL", "receiver", "cannot start sh").code(6);
}

#[test]
fn the_files_beside_cannot_be_written() {
    let bench = bench();
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let post = ["--post", &receiver.url()];
    let with = |more| [&post[..], &[more]].concat();
    fails(
        &bench,
        &with("--dead-letter=missing/dead"),
        2,
        "dead letters",
        "No such file",
    );
    fs::write(bench.path("foreign"), "some text\n").unwrap();
    fs::write(bench.path("dead"), "").unwrap();
    let run = bench.run(&[
        "--check",
        "--metrics=missing/metrics",
        "--dead-letter=dead",
        "--post",
        &receiver.url(),
    ]);
    finds(&run, "warn", "metrics", "No such file").code(0);
    finds(&run, "ok", "dead letters", "");
    let run = bench.run(&["--check", "--metrics=foreign"]);
    finds(&run, "warn", "metrics", "holds something else").code(0);
    let run = bench.run(&["--check", "--metrics=/dev/null"]);
    finds(&run, "warn", "metrics", "no regular file").code(0);
    assert_eq!(bench.files(), ["dead", "foreign"]);
    assert!(
        Path::new("/dev/null")
            .metadata()
            .is_ok_and(|there| !there.is_file())
    );
}

#[test]
fn the_first_failure_counts_and_the_others_are_told() {
    let bench = bench();
    bench.script(1, Step::error(401, "unauthorized"));
    let url = format!("http://127.0.0.1:{}", free_port());
    let run = bench
        .start(bench.bare(&["--check", "-c", "missing/checkpoint.json", "--post", &url]))
        .finish();
    finds(&run, "FAIL", "source", "401").code(4);
    finds(&run, "FAIL", "directory", "");
    finds(&run, "FAIL", "receiver", "");
}

#[test]
fn the_configuration_is_wrong() {
    let bench = bench();
    let args = ["--check", "--until=1h"];
    let run = bench.run(&args);
    finds(&run, "FAIL", "configuration", "--until")
        .code(2)
        .asks(0);
    run.holds(run.stdout.lines().count() == 1, "nothing else can be told");
    bench.run(&["--check", "--dry-run"]).code(2).silent();
    bench.run(&["--check", "--unknown"]).fails(2, "--unknown");
    let headers = ["--post=http://127.0.0.1:9", "--header=@missing"];
    fails(&bench, &headers, 2, "receiver", "--header: missing");
}
