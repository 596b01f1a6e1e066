//! What a check finds out about a receiver, a command or a file.

use super::*;

#[test]
fn an_unreachable_receiver_fails_with_6() {
    let bench = bench();
    let url = format!("http://127.0.0.1:{}", free_port());
    for format in [Format::Splunk, Format::Ndjson] {
        let format = format!("--format={}", format.name());
        let args = ["--post", &url, &format];
        fails(&bench, &args, 6, "receiver", "Connection refused");
    }
}

#[test]
fn a_delivery_without_events_shows_whether_the_credential_is_accepted() {
    for (format, says) in [
        (
            Format::Splunk,
            r#"answered 403: {"text":"Invalid token","code":4}"#,
        ),
        (Format::Bulk, "answered 401: unauthorized"),
        (Format::Loki, "answered 401: unauthorized"),
        (Format::Otlp, "answered 401: unauthorized"),
    ] {
        let bench = bench();
        let rules = Rules {
            credential: Some("Bearer hunter2-right".to_owned()),
            ..Rules::default()
        };
        let receiver = Receiver::start(format, rules);
        let format = format!("--format={}", format.name());
        let args = ["--post", &receiver.url(), &format, "--gzip"];
        let with = |header| [&args[..], &[header]].concat();
        let wrong = with("--header=Authorization:Bearer hunter2-wrong");
        let run = fails(&bench, &wrong, 7, "receiver", says);
        finds(&run, "FAIL", "receiver", "check the credential");
        let right = with("--header=Authorization:Bearer hunter2-right");
        let run = bench.run(&[&["--check"], &right[..]].concat());
        finds(&run, "ok", "receiver", ", and accepts the credential; ").code(0);
        assert!(receiver.delivered().is_empty());
    }
}

/// A wrong path, or another product.
#[test]
fn an_unknown_answer_to_a_delivery_without_events_fails() {
    for format in [Format::Splunk, Format::Bulk, Format::Loki] {
        let bench = bench();
        let other = Answer::answer(400, &[], "unsupported path requested");
        let rules = Rules {
            script: [Answer::Usual, other].into(),
            ..Rules::default()
        };
        let receiver = Receiver::start(format, rules);
        let format = format!("--format={}", format.name());
        let args = ["--post", &receiver.url(), &format];
        let run = fails(&bench, &args, 7, "receiver", "unsupported path");
        finds(&run, "FAIL", "receiver", "is the address right?");
    }
}

#[test]
fn a_loki_that_has_just_started_is_a_warning() {
    let bench = bench();
    let starting = "Ingester not ready: waiting for 15s after being ready";
    let rules = Rules {
        script: [Answer::answer(503, &[], starting)].into(),
        ..Rules::default()
    };
    let receiver = Receiver::start(Format::Loki, rules);
    let run = bench.run(&["--check", "--format=loki", "--post", &receiver.url()]);
    finds(&run, "warn", "receiver", "waiting for 15s").code(0);
}

/// A credential may be for writing only, so that a cluster refuses to tell about itself.
#[test]
fn a_credential_for_writing_only_is_ok() {
    let bench = bench();
    let rules = Rules {
        script: [Answer::status(403)].into(),
        ..Rules::default()
    };
    let receiver = Receiver::start(Format::Bulk, rules);
    let args = ["--check", "--format=elasticsearch", "--post"];
    let run = bench.run(&[&args[..], &[&receiver.url()]].concat());
    finds(&run, "ok", "receiver", "answered 403 to GET /").code(0);
    finds(&run, "ok", "receiver", "request body is required");
}

#[test]
fn a_receiver_that_fails_is_named_without_secrets() {
    at_once(Format::ALL, |format| {
        let bench = bench();
        let receiver = Receiver::start(format, Rules::default());
        let format = format!("--format={}", format.name());
        let args = ["--post", &receiver.url(), &format];
        receiver.with(|rules| rules.script.push_back(Answer::status(503)));
        fails(&bench, &args, 6, "receiver", "answered 503");
        // Some receivers answer with the request.
        let echo = Answer::answer(502, &[], "you sent hunter2-hidden");
        receiver.with(|rules| rules.script.push_back(echo));
        let secret = [&args[..], &["--header=X-Key:hunter2-hidden"]].concat();
        fails(&bench, &secret, 6, "receiver", "answered 502");
        receiver.with(|rules| rules.script.push_back(Answer::Stall));
        let hasty = [&args[..], &["--timeout=2s"]].concat();
        fails(&bench, &hasty, 6, "receiver", "timeout");
    });
    // The product is well, but takes no events at this path.
    let bench = bench();
    let rules = Rules {
        script: [Answer::Usual, Answer::status(404)].into(),
        ..Rules::default()
    };
    let receiver = Receiver::start(Format::Loki, rules);
    let args = ["--post", &receiver.url(), "--format=loki"];
    fails(&bench, &args, 7, "receiver", "answered 404");
}

/// Each is the answer of a receiver to a request without records: OTLP asks for success.
#[test]
fn an_otlp_receiver_is_ok_only_if_it_takes_a_request_without_records() {
    for (word, code, body) in [
        ("ok", 200, ""),
        ("ok", 204, ""),
        ("ok", 400, "error: invalid content-length"), // Fluent Bit
        (
            "ok",
            422,
            "error at least one valid stream is required for ingestion",
        ), // Loki
        ("FAIL", 400, "error: invalid endpoint"),
        ("FAIL", 404, "page not found"),
    ] {
        let bench = bench();
        let receiver = Receiver::start(Format::Otlp, Rules::default());
        receiver.with(|rules| rules.script.push_back(Answer::answer(code, &[], body)));
        let args = ["--check", "--format=otlp", "--post", &receiver.url()];
        let run = bench.run(&args);
        finds(&run, word, "receiver", body).code(if word == "FAIL" { 7 } else { 0 });
    }
}

/// At such an address, any POST could become an event.
#[test]
fn receivers_without_a_known_product_are_only_asked_for_options() {
    for format in [Format::Ndjson, Format::JsonArray, Format::Json] {
        let bench = bench();
        let receiver = Receiver::start(format, Rules::default());
        let format = format!("--format={}", format.name());
        let args = ["--check", "--post", &receiver.url(), &format];
        let run = bench.run(&args);
        finds(&run, "ok", "receiver", "answered 405 to OPTIONS").code(0);
        for code in [401, 403, 404, 301] {
            receiver.with(|rules| rules.script.push_back(Answer::status(code)));
            let run = bench.run(&args);
            let answered = format!("answered {code} to OPTIONS");
            finds(&run, "warn", "receiver", &answered).code(0);
            finds(
                &run,
                "warn",
                "receiver",
                "check the path and the credential",
            );
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
fn a_command_is_read_and_not_run() {
    let bench = bench();
    let run = bench.run(&["--check", "--exec", "touch ran; exit 9"]);
    finds(&run, "ok", "receiver", "it was not run").code(0);
    let unreadable = ["--exec", "if touch ran"];
    let text = "sh cannot read the command";
    fails(&bench, &unreadable, 6, "receiver", text);
    assert_eq!(bench.files(), [""; 0]);
    let mut command = bench.command(&["--check", "--exec", "cat"]);
    command.env("PATH", bench.path("nowhere"));
    let run = bench.start(command).finish();
    finds(&run, "FAIL", "receiver", "cannot start sh").code(6);
}

#[test]
fn dead_letters_that_cannot_be_written_fail_and_metrics_warn() {
    let bench = bench();
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let post = ["--post", &receiver.url(), "--dead-letter=missing/dead"];
    fails(&bench, &post, 2, "dead letters", "No such file");
    fs::write(bench.path("foreign"), "some text\n").unwrap();
    fs::write(bench.path("dead"), "").unwrap();
    let post = ["--check", "--post", &receiver.url(), "--dead-letter=dead"];
    finds(&bench.run(&post), "ok", "dead letters", "").code(0);
    for (metrics, text) in [
        ("--metrics=missing/metrics", "No such file"),
        ("--metrics=foreign", "holds something else"),
        ("--metrics=/dev/null", "not a regular file"),
    ] {
        let run = bench.run(&["--check", metrics]);
        finds(&run, "warn", "metrics", text).code(0);
    }
    assert_eq!(bench.files(), ["dead", "foreign"]);
}
