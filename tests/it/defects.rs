//! What others got wrong with this API, each with the incident that it leads to.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::{Value, json};

use crate::stand_in::{Event, Order, PATH, Step, World, events, events_from, stamp};
use crate::support::{Bench, at_once, minutes_ago, now};

/// `page` is not a parameter: page 1 would come again and again.
#[test]
fn defect_01_page_is_sent_as_page_number() {
    let bench = Bench::of(events(2_500, now(), 2));
    let run = bench.run(&[]);
    run.code(0).silent();
    // Each page reaches back into the one before, from the oldest to the newest.
    let pages = [(1, 1000), (3, 834), (2, 839)];
    for (asked, (number, size)) in run.asked.iter().zip(pages) {
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", PATH));
        let query = format!("page%5Bnumber%5D={number}&page%5Bsize%5D={size}");
        assert_eq!(asked.query, query, "{run}");
    }
    run.asks(3);
    bench.has_all();
    bench.is_settled();
}

/// The first event of an answer need not be the newest: everything after it would come again.
#[test]
fn defect_02_the_cursor_is_the_largest_timestamp() {
    let newest = now();
    let bench = Bench::new(World {
        order: Order::OldestFirst,
        ..World::new(events(100, newest, 1))
    });
    bench.run(&["--overlap=1s"]).code(0).silent();
    let last = bench.api.with(|world| stamp(world.events[99].time));
    assert_eq!(bench.checkpoint_field("last_timestamp"), json!(last));
    bench.has_all();
    bench
        .run(&["--overlap=1s"])
        .code(0)
        .silent()
        .prints_nothing();
}

/// Each run adds to what was delivered at the newest second. If it replaced that, the earlier
/// events of the second would come again.
#[test]
fn defect_03_boundary_ids_are_a_union() {
    let time = now();
    let bench = Bench::of(events_from(1, 2, time, 9));
    for n in [10, 20, 30] {
        bench.run(&["--overlap=1s"]).code(0).silent();
        bench.has_all();
        bench.insert(events_from(n, 2, time, 9));
    }
    bench.run(&[]).code(0).silent();
    bench.has_all();
    bench.is_settled();
}

/// More events may appear at the newest delivered second. Were everything up to it dropped, they
/// would be lost.
#[test]
fn defect_04_the_last_second_stays_open() {
    let time = now();
    let bench = Bench::of(events_from(1, 3, time, 9));
    bench.run(&["--overlap=1s"]).code(0).silent();
    let later = events_from(10, 1, time, 9);
    bench.insert(later.clone());
    bench
        .run(&["--overlap=1s"])
        .code(0)
        .silent()
        .prints_events(&later);
    bench.is_settled();
}

/// Arrivals push events over page boundaries while a run reads. A walk from the last page to the
/// first would skip some of them at each step.
#[test]
fn defect_05_arrivals_push_no_event_past_the_walk() {
    at_once(["--connections=1", "--connections=4"], |connections| {
        let bench = Bench::new(World {
            arrivals_per_request: 3,
            // Not a page of arrivals in a second: which of them were there before can not be told.
            delay: Duration::from_millis(100),
            ..World::new(events(1_000, minutes_ago(1), 2))
        });
        let args = ["--page-size=130", connections];
        bench.run(&args).code(0).silent();
        bench.api.with(|world| world.arrivals_per_request = 0);
        bench.run(&args).code(0).silent();
        bench.has_all();
        bench.is_settled();
    });
}

/// A delivery that fails or never ends leaves the checkpoint where it was, so that the next run
/// delivers what was not.
#[cfg(target_os = "linux")]
#[test]
fn defect_06_the_cursor_is_saved_after_delivery() {
    let bench = Bench::of(events(2_500, now(), 2));
    let nothing_committed = || {
        assert_eq!(bench.checkpoint_field("last_timestamp"), Value::Null);
        assert_eq!(bench.checkpoint_field("boundary_ids"), json!({}));
    };

    let mut command = bench.command(&[]);
    command.stdout(File::create("/dev/full").unwrap());
    bench
        .start(command)
        .finish()
        .fails(1, "No space left on device");
    nothing_committed();

    let mut killed = bench.start(bench.command(&[]));
    let mut first = String::new();
    let mut reader = BufReader::new(killed.stdout());
    reader.read_line(&mut first).unwrap();
    killed.child.kill().unwrap();
    let killed = killed.finish();
    killed.holds(!first.is_empty(), "it should have begun to deliver");
    nothing_committed();

    bench.delivers_all();
}

/// Nothing ran for 13 days: a look-back with a limit would lose the events of the first of them.
#[test]
fn defect_07_the_look_back_has_no_limit() {
    let hours = |ago: u64| now() - Duration::from_secs(3600 * ago);
    let bench = Bench::new(World {
        now: Some(hours(313)),
        ..World::new(vec![Event::new(1, hours(313))])
    });
    bench.run(&[]).code(0).silent();
    bench.api.with(|world| {
        world.now = None;
        world.insert((1..313).map(|ago| Event::new(1_000 - ago, hours(ago))));
    });
    bench.delivers_all();
}

/// Failures that pass are waited out, 429 no sooner than it says. (What receivers answer is tested
/// with each of them; a standard output that fails is in `stdout`.)
#[test]
fn defect_08_passing_failures_are_tried_again() {
    let steps = [
        (Step::error(503, "unavailable"), 0),
        (Step::rate_limited(&[("Retry-After", "1")]), 1),
        (Step::Reset, 0),
        (Step::Truncate, 0),
    ];
    at_once(steps, |(step, seconds)| {
        let bench = Bench::of(events(3, now(), 1));
        bench.script(1, step);
        let run = bench.run(&[]);
        run.code(0).silent().asks(2);
        run.waits_after(1, Duration::from_secs(seconds));
        bench.has_all();
        bench.is_settled();
    });
}

/// An unreadable checkpoint taken for none would deliver two weeks again, or end in a cheerful 0.
#[test]
fn defect_09_an_unreadable_checkpoint_is_an_error() {
    let bench = Bench::of(events(3, now(), 1));
    for content in ["", "{", "null", "\0\0\0\0"] {
        std::fs::write(bench.path("checkpoint.json"), content).unwrap();
        bench.run(&[]).fails(8, "checkpoint.json").asks(0);
        assert_eq!(bench.checkpoint(), content);
    }
}

/// A user or team token is answered with an empty list and status 200. A run that ended
/// with 0 would report success while the SIEM stays empty.
#[test]
fn defect_10_nothing_new_is_told_apart_from_a_wrong_token() {
    let bench = Bench::of(Vec::new());
    for _ in 0..2 {
        bench.run(&[]).fails(4, "user or team token");
    }
    bench.insert(events(3, now(), 1));
    bench.delivers_all();
    bench.api.with(|world| world.remove_oldest(3));
    bench.run(&[]).fails(4, "no longer lists");
}
