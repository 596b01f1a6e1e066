//! Events without an `id` or a `timestamp` that can be read: they hold up nothing else.

use std::fs;

use crate::receiver::{Format, Receiver, Rules};
use crate::stand_in::{Event, events};
use crate::support::{Bench, minutes_ago, now};

/// Texts that no event should have, as the newest, one in the middle and the oldest of a list.
fn bench() -> (Bench, Vec<Event>) {
    let sound = events(6, now(), 1);
    let texts = [
        (
            0,
            r#"{"id":"11111111-2222-4333-8444-555555555501","timestamp":"soon"}"#,
        ),
        (
            2,
            r#"{"timestamp":"2026-01-02T03:04:05Z","action":"create"}"#,
        ),
        (5, r#"{"id":7,"timestamp":null}"#),
    ];
    let mut bad = texts.map(|(minutes, text)| {
        let mut event = Event::new(900 + u64::from(minutes), minutes_ago(minutes));
        text.clone_into(&mut event.text);
        event
    });
    let deep = format!(r#""x":{}1{}"#, "[".repeat(200), "]".repeat(200));
    bad[1].text = bad[1].text.replace(r#""action":"create""#, &deep);
    (Bench::of([&sound[..], &bad].concat()), sound)
}

#[test]
fn an_event_that_cannot_be_read_does_not_hold_up_the_others() {
    let (bench, sound) = bench();
    let run = bench.run(&[]);
    run.code(5).prints_events(&sound);
    for reason in [
        "timestamp is not RFC 3339",
        "nested deeper than 128 levels",
        "id is not a string",
    ] {
        let said = run.stderr.lines().filter(|line| line.contains(reason));
        assert_eq!(said.count(), 1, "{}", run.stderr);
    }
    assert!(
        run.stderr.contains("--dead-letter FILE keeps it"),
        "{}",
        run.stderr
    );
    bench.run(&[]).code(5).prints_nothing();
}

#[test]
fn dead_letters_keep_an_event_that_cannot_be_read_whatever_the_receiver() {
    for to in [
        &["--dead-letter=dead"][..],
        &["--dead-letter=dead", "--exec=cat"],
    ] {
        let (bench, sound) = bench();
        bench.run(to).code(0).prints_events(&sound);
        let dead = fs::read_to_string(bench.path("dead")).unwrap();
        assert_eq!(dead.lines().count(), 3, "{dead}");
        bench.run(to).code(0).silent().prints_nothing();
    }
}

#[test]
fn dead_letters_keep_an_event_that_cannot_be_read_once() {
    let (bench, sound) = bench();
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let url = receiver.url();
    let args = ["--post", &url, "--dead-letter=dead"];
    bench.run(&args).code(0).prints_nothing();
    let expected: Vec<_> = sound.iter().map(|event| event.id.clone()).collect();
    assert_eq!(receiver.delivered_ids(), expected);
    let dead = fs::read_to_string(bench.path("dead")).unwrap();
    assert_eq!(dead.lines().count(), 3, "{dead}");
    assert!(dead.contains(r#""timestamp":"soon""#), "{dead}");
    bench.run(&args).code(0).silent();
    assert_eq!(fs::read_to_string(bench.path("dead")).unwrap(), dead);
}
