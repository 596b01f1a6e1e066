//! Every event once, oldest first, whatever the API does while it is read.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tfc_audit::time;

use crate::stand_in::{
    Counts, Event, Next, PastEnd, Sizes, Step, Ties, World, events, events_from, sample_events,
    stamp,
};
use crate::support::{AN_HOUR, Bench, Outcome, free_port, minutes_ago, now};

const THREE_DAYS: Duration = Duration::from_secs(3 * 24 * 3600);

/// The events of a minute ago and before, so that what arrives comes after them.
fn past(count: usize, per_second: u32) -> World {
    World::new(events(count, minutes_ago(1), per_second))
}

#[test]
fn every_event_comes_byte_for_byte_and_later_ones_alone() {
    let bench = Bench::new(past(2_500, 2));
    let expected = bench.api.with(|world| world.expected());
    bench
        .run(&["--page-size=1000"])
        .code(0)
        .silent()
        .prints(&expected)
        .asks(3);
    bench.is_settled();
    let seven = events_from(10_000, 7, now(), 3);
    bench.insert(seven.clone());
    let run = bench.run(&[]);
    run.code(0).silent();
    assert_eq!(run.stdout.lines().count(), 7, "{run}");
    bench.has_all();
    bench.is_settled();
}

#[test]
fn the_sample_events_come_byte_for_byte() {
    let bench = Bench::of(sample_events(now()));
    let expected = bench.api.with(|world| world.expected());
    bench.run(&[]).code(0).silent().prints(&expected);
    bench.is_settled();
}

#[test]
fn a_backlog_with_arrivals_costs_few_requests_and_little_memory() {
    let bench = Bench::new(World {
        arrivals_per_request: 11,
        ..past(31_000, 2)
    });
    // 24 MiB, and 40 bytes for each event; on a busy machine a few MiB more. A run that kept all events
    // would need more. The bench measures more connections.
    let first = bench.run(&["--connections=1"]);
    first.code(0).silent().stays_below(32);
    bench.api.with(|world| world.arrivals_per_request = 0);
    let second = bench.run(&[]);
    second.code(0).silent();
    bench.has_all();
    let (asked, most) = (first.asked.len() + second.asked.len(), 31 * 14 / 10 + 12);
    first.holds(
        asked <= most,
        format_args!("both runs should make {most} requests, not {asked}"),
    );
    bench.is_settled();
}

/// Each window begins where arrivals have pushed the last one to, not where that was: it would be
/// read for nothing.
#[test]
fn a_window_begins_where_arrivals_have_pushed_the_last_one() {
    let bench = Bench::new(past(1_000, 2));
    for (request, place) in [(20, 2_000), (45, 3_000), (70, 4_000)] {
        let arrivals = events_from(place, 80, now(), 2);
        bench.script(request, Step::Insert(arrivals));
    }
    let args = ["--page-size=10", "--connections=1"];
    let run = bench.run(&args);
    run.code(0).silent();
    bench.run(&args).code(0).silent();
    bench.has_all();
    let asked = run.asked.len();
    run.holds(
        asked <= 200,
        format_args!("it should make 200 requests for 100 pages at most, not {asked}"),
    );
}

/// An API that lists events of one second in another order at each request.
fn shuffled(count: usize, per_second: u32, seed: u64) -> World {
    World {
        ties: Ties::Shuffled,
        seed,
        ..past(count, per_second)
    }
}

#[test]
fn events_of_one_second_may_change_their_order_at_each_request() {
    Bench::new(shuffled(26_000, 12, 1)).delivers_all();
}

/// Gaps must be found before a window is delivered: a run that is cut short would leave them behind
/// the checkpoint, where no later run looks.
#[test]
fn ties_and_a_source_that_fails_on_the_way() {
    let bench = Bench::new(shuffled(26_000, 12, 1));
    bench.script(15, Step::error(503, "unavailable"));
    let cut_short = bench.run(&["--retries=0", "--connections=1"]);
    cut_short.code(5).says("503");
    cut_short.holds(
        !cut_short.stdout.is_empty(),
        "what was proved should be delivered",
    );
    bench.run(&[]).code(0).silent();
    bench.has_all();
    bench.is_settled();
}

/// An event far from its place was seen on the newest page and left there, and then the run failed:
/// what was delivered after its time must not hide it.
#[test]
fn an_event_out_of_order_is_not_passed_over() {
    let mut stray = Event::new(9_000, minutes_ago(20));
    stray.time = now(); // its place in the list only
    let bench = Bench::of([events(500, minutes_ago(1), 1), vec![stray]].concat());
    bench.script(30, Step::error(503, "unavailable"));
    let args = ["--page-size=10", "--overlap=1s"];
    let failing = ["--retries=0", "--connections=1"];
    let cut_short = bench.run(&[&args[..], &failing].concat());
    cut_short.code(5).says("503");
    let rest = bench.run(&args);
    rest.code(0).silent();
    let mut printed = [cut_short.ids(), rest.ids()].concat();
    cut_short.holds(
        printed.len() > rest.ids().len(),
        "it should deliver something",
    );
    printed.sort();
    let mut expected: Vec<_> = bench.in_order().into_iter().map(|event| event.id).collect();
    expected.sort();
    rest.holds(
        printed == expected,
        "both runs should deliver each event once",
    );
    bench.is_settled();
}

/// Servers that differ in what only HTTP shows, or only a long backlog. The model has the others.
mod everything_is_delivered_if {
    use super::*;

    macro_rules! delivers_all {
        ($($name:ident: $world:expr;)*) => {$(
            #[test]
            fn $name() {
                Bench::new($world).delivers_all();
            }
        )*};
    }

    delivers_all! {
        bodies_are_compressed: World { gzip: true, ..past(2_500, 2) };
        bodies_are_indented: World { pretty: true, ..past(2_500, 2) };
        pages_are_larger_than_asked_for: World { sizes: Sizes::Ignored(2_000), ..past(5_000, 2) };
        the_last_page_is_full_and_the_next_is_404:
            World { past_end: PastEnd::Status(404), ..past(1_000, 2) };
        the_last_page_of_a_long_backlog_is_full_and_the_next_is_422:
            World { past_end: PastEnd::Status(422), ..past(30_000, 2) };
        totals_are_absent_in_a_long_backlog: World { counts: Counts::Absent, ..past(31_000, 2) };
    }
}

/// A file behind a web server: neither `since` nor the page is looked at.
#[test]
fn one_static_page_is_delivered_once() {
    let world = past(1_000, 2);
    let data: Vec<_> = world
        .in_order()
        .iter()
        .rev()
        .map(|event| event.text.as_str())
        .collect();
    let body = format!(
        r#"{{"data":[{}],"pagination":{{"next_page":null}}}}"#,
        data.join(",")
    );
    Bench::new(World {
        always: Some((1, Step::Body(body))),
        ..world
    })
    .delivers_all();
}

#[test]
fn a_next_page_that_does_not_increase_is_an_error() {
    let bench = Bench::new(World {
        next: Next::Same,
        ..past(2_500, 2)
    });
    bench
        .run(&[])
        .fails(5, "next_page of page 1 is 1: it does not increase")
        .asks(1);
}

/// Ten pages of events that an earlier run delivered come before ten of new ones. Then a request for one of
/// the first ten stays without an answer.
#[test]
fn pages_that_earlier_runs_delivered_are_requested_together() {
    let bench = Bench::new(past(1_000, 1));
    let args = ["--page-size=100", "--overlap=1h", "--retries=0"];
    let first = bench.run(&args).asked.len();
    bench.insert(events_from(2_000, 1_000, now(), 20));
    let down = format!("--post=http://127.0.0.1:{}", free_port());
    let down = bench.run(&[&args[..], &[&down]].concat());
    down.code(6);
    down.holds(down.asked.len() < 15, "most new events should stay");
    bench.script(first + down.asked.len() + 3, Step::Stall(AN_HOUR));
    let run = bench.run(&[&args[..], &["--timeout=1s"]].concat());
    run.code(5);
    run.holds(run.asked.len() > 8, "no request should wait for another");
}

/// An event that is stamped newer than its place waits for the window of its time, and moves no cut:
/// on the first page of a window, in its middle, and on its last page.
#[test]
fn an_event_is_stamped_newer_than_its_place() {
    for place in [0, 36, 39, 99, 405] {
        let bench = misplaced(place);
        let run = bench.run(&["--page-size=10"]);
        run.code(0).silent();
        assert_eq!(bench.missing(), 0, "{place}");
        is_oldest_first(&run);
    }
}

/// As many events as an eighth of a page wait for those of their time.
#[test]
fn an_eighth_of_a_page_is_stamped_newer_than_its_place() {
    for place in (200..280).step_by(10) {
        let mut all = past(620, 2).events;
        for event in &mut all[place..place + 10] {
            stamp_later(event, Duration::from_secs(60));
        }
        let bench = Bench::of(all);
        let run = bench.run(&["--page-size=80"]);
        run.code(0).silent();
        assert_eq!(bench.missing(), 0, "{place}");
        is_oldest_first(&run);
    }
}

fn is_oldest_first(run: &Outcome) {
    let time = |line: &str| -> Value {
        let event: Value = serde_json::from_str(line).expect("each line is an event");
        event["timestamp"].clone()
    };
    let times: Vec<_> = run.stdout.lines().map(time).collect();
    run.holds(
        times.is_sorted_by_key(Value::to_string),
        "the oldest should come first",
    );
}

/// Such an event does not keep the rest of a backlog in memory.
#[test]
fn an_event_is_stamped_newer_in_a_long_backlog() {
    let mut all = past(30_000, 2).events;
    stamp_later(&mut all[9_500], THREE_DAYS);
    let bench = Bench::of(all);
    let run = bench.run(&["--connections=1"]);
    run.code(0).silent().stays_below(32);
    assert_eq!(bench.missing(), 0);
}

/// After such an event no window takes its own events for missing ones that it has found.
#[test]
fn an_event_is_stamped_newer_and_the_count_is_too_high() {
    for place in [36, 99, 405] {
        let bench = misplaced(place);
        bench.api.with(|world| world.counts = Counts::Plus(3));
        let run = bench.run(&["--page-size=10"]);
        run.code(5).says("623 events, but 3 of them were on none");
        let warnings = run.stderr.matches("were on none").count();
        run.holds(warnings == 1, "the number should stay");
        assert_eq!(bench.missing(), 0, "{place}");
    }
}

/// A window that has to be read again must not take its own events for those of earlier windows,
/// nor that event for one that it has missed.
#[test]
fn an_event_is_stamped_newer_and_ties_change_their_order() {
    for seed in 1..=3 {
        for place in [39, 99] {
            let bench = misplaced(place);
            bench.api.with(|world| {
                world.ties = Ties::Shuffled;
                world.seed = seed;
            });
            bench.run(&["--page-size=10"]).code(0).silent();
            assert_eq!(bench.missing(), 0, "{seed} {place}");
        }
    }
}

/// On the page before a window there is an event of the window's time: half a page from its
/// place, and older than the overlap. The run is cut short before it.
#[test]
fn an_event_just_beyond_a_window_is_not_passed_over() {
    let mut all = past(620, 1).events;
    let event = &mut all[100];
    let earlier = stamp(event.time - Duration::from_millis(5_500));
    event.text = event.text.replace(&stamp(event.time), &earlier);
    let bench = Bench::of(all);
    let args = ["--page-size=10", "--overlap=1s", "--connections=1"];
    bench.script(13, Step::error(503, "unavailable"));
    let run = bench.run(&[&args[..], &["--retries=0"]].concat());
    run.code(5).says("503");
    assert!(!run.ids().is_empty() && bench.missing() > 500);
    bench.run(&args).code(0).silent();
    assert_eq!(bench.missing(), 0);
}

/// Fifty pages of events that are newer than one before them are no source that repeats itself.
#[test]
fn an_event_is_stamped_older_than_its_place() {
    let mut all = past(620, 2).events;
    let event = &mut all[615];
    let earlier = stamp(event.time - ::time::Duration::days(3));
    event.text = event.text.replace(&stamp(event.time), &earlier);
    let bench = Bench::new(World {
        // So that one reading goes through all pages.
        counts: Counts::Absent,
        ..World::new(all)
    });
    bench.run(&["--page-size=10"]).code(0).silent();
    assert_eq!(bench.missing(), 0);
}

/// While a backlog drains, the boundary follows what is delivered, also where pages were met and
/// left on the way to its oldest events.
#[test]
fn the_boundary_follows_a_backlog() {
    for (counts, request) in [(Counts::True, 60), (Counts::Absent, 150)] {
        let bench = Bench::new(World {
            counts,
            ..past(1_000, 2)
        });
        bench.script(request, Step::error(503, "unavailable"));
        let args = ["--page-size=10", "--overlap=1s", "--connections=1"];
        let run = bench.run(&[&args[..], &["--retries=0"]].concat());
        run.code(5).says("503");
        let time = |field| time::parse(bench.checkpoint_field(field).as_str().unwrap());
        let (last, start) = (
            time("last_timestamp").unwrap(),
            time("boundary_start").unwrap(),
        );
        run.holds(
            run.ids().len() > 100 && last - start < Duration::from_secs(10),
            format_args!("the boundary {start} should be a page behind {last}"),
        );
        bench.run(&args).code(0).silent();
        bench.has_all();
    }
}

/// 620 events, of which this one, counted from the oldest, is stamped three days later.
fn misplaced(place: usize) -> Bench {
    let mut all = past(620, 2).events;
    stamp_later(&mut all[place], THREE_DAYS);
    Bench::of(all)
}

/// Leaves an event in its place in the list, before its time.
fn stamp_later(event: &mut Event, span: Duration) {
    let later = stamp(event.time + span);
    event.text = event.text.replace(&stamp(event.time), &later);
}

/// What a count that ignores `since` promises is not there: no reason for alarm, nor to look for it
/// at every poll.
#[test]
fn an_idle_poll_is_one_silent_request() {
    // A count that ignores `since` promises a second page.
    for (counts, requests) in [
        (Counts::True, 1),
        (Counts::IgnoreSince, 2),
        (Counts::Absent, 1),
    ] {
        let bench = Bench::new(World {
            counts,
            ..past(2_500, 1)
        });
        bench.run(&[]).code(0).silent();
        bench
            .run(&[])
            .code(0)
            .silent()
            .prints_nothing()
            .asks(requests);
    }
}

#[test]
fn an_announced_page_that_stays_empty_is_an_error() {
    let bench = Bench::new(past(2_500, 2));
    bench
        .api
        .with(|world| world.always = Some((2, Step::EmptyPage)));
    bench
        .run(&["--retries=1"])
        .fails(5, "page 2 is empty, although it was announced");
    bench.api.with(|world| world.always = None);
    bench.delivers_all();
}

/// The service stops answering after the first window. The limit leaves a busy machine time for that
/// window.
#[test]
fn a_time_limit_ends_a_run_that_the_next_one_continues() {
    let bench = Bench::new(World {
        always: Some((15, Step::Stall(AN_HOUR))),
        ..past(2_000, 1)
    });
    let args = ["--page-size=100", "--overlap=1m", "--connections=1"];
    let limited = bench.run(&[&args[..], &["--max-time=3s"]].concat());
    limited.code(3).says("--max-time");
    limited.holds(!limited.stdout.is_empty(), "it should deliver something");
    assert_eq!(bench.checkpoint_field("completed_at"), json!(null));
    bench.api.with(|world| world.always = None);
    bench.run(&args).code(0).silent();
    bench.has_all();
    bench.is_settled();
}

#[test]
fn as_many_connections_serve_a_run_as_it_may_have() {
    for (option, most) in [("--connections=1", 1), ("--connections=4", 4)] {
        let bench = Bench::new(past(2_500, 2));
        let run = bench.run(&["--page-size=100", option]);
        run.code(0).silent();
        let connections: BTreeSet<_> = run.asked.iter().map(|asked| asked.connection).collect();
        run.holds(
            connections.len() <= most,
            format_args!("there should be {most} connections at most"),
        );
        bench.has_all();
    }
}

/// The first answer counts events that it does not list, and nothing explains that.
#[test]
fn a_first_answer_that_counts_more_than_it_lists_is_an_error() {
    let bench = Bench::new(World {
        counts: Counts::Plus(497),
        ..World::new(events(3, now(), 1))
    });
    let run = bench.run(&[]);
    run.code(5)
        .warns("counts 500 events, but 497 of them were on none of its pages, however often these were read")
        .prints_events(&bench.in_order());
    // What is counted beyond `since` may be anything.
    bench.run(&[]).code(0).silent();
}
