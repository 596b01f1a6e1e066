//! Servers that answer against the documentation or each other. Each was found by a hostile server,
//! and a run once lost events there, raised a false alarm, or asked too much.

use std::io::{BufReader, Write};
use std::time::Duration;

use crate::network::run;
use crate::relay::{Head, Relay};
use crate::stand_in::{
    Counts, Event, Next, Order, PastEnd, Sizes, Step, Ties, World, events, events_from, stamp,
};
use crate::support::{AN_HOUR, Bench, at_once, minutes_ago, now};

const SMALL: [&str; 2] = ["--page-size=10", "--connections=1"];

/// As many events of a minute ago and before, with this many in a second.
fn past(count: usize, per_second: u32) -> World {
    World::new(events(count, minutes_ago(1), per_second))
}

#[test]
fn replicas_that_lag_open_no_gap() {
    let lags = [&[0, 1][..], &[2, 0, 0, 1], &[0, 0, 2, 2]];
    at_once(lags, |lags| {
        for count in [20, 45] {
            let bench = Bench::new(World {
                lags: lags.to_vec(),
                ..past(count, 1)
            });
            bench.run(&SMALL).code(0).silent();
            assert!(
                bench.missing() <= lags[0],
                "no more than the first answer lacks"
            );
            bench.api.with(|world| world.lags.clear());
            bench.run(&SMALL).code(0).silent();
            bench.has_all();
        }
    });
}

/// They disagree by up to a page and more. That may look like missing events, but no missing event
/// stays unknown.
#[test]
fn replicas_that_lag_far_lose_nothing_in_silence() {
    let cases = [
        // Here a smaller count of a later page once lowered what was owed.
        (29, &[0, 13, 0, 4, 0, 6, 0, 7, 10][..]),
        (24, &[0, 10, 7, 11, 13]),
        (53, &[0, 5, 10, 1, 9, 9, 0, 1, 10, 0, 0]),
        (200, &[0, 5, 5, 10]),
        (20, &[0, 5, 5, 10]),
        (45, &[0, 0, 5, 5]),
        (200, &[0, 3, 0, 12]),
        (200, &[4, 0, 9]),
        (45, &[0, 30, 7]),
        // Here the second reading's smaller count did.
        (37, &[0, 3, 12]),
        (44, &[0, 12, 11, 7]),
        (58, &[0, 0, 0, 13, 11, 9]),
    ];
    at_once(cases, |(count, lags)| {
        let bench = Bench::new(World {
            lags: lags.to_vec(),
            ..past(count, 1)
        });
        let run = bench.run(&SMALL);
        let missing = bench.missing();
        run.holds(
            !run.stderr.is_empty() || missing <= lags[0],
            format_args!("{missing} events are lost in silence"),
        );
        bench.api.with(|world| world.lags.clear());
        bench.run(&SMALL).code(0).silent();
        assert_eq!(bench.missing(), 0, "after {run}");
    });
}

#[test]
fn a_page_that_is_announced_behind_a_full_last_page_need_not_exist() {
    for (status, counts) in [
        (400, Counts::True),
        (404, Counts::OnlyPages),
        (422, Counts::True),
    ] {
        for count in [10, 20, 200] {
            let bench = Bench::new(World {
                next: Next::AfterFull,
                past_end: PastEnd::Status(status),
                counts,
                ..past(count, 1)
            });
            bench.run(&SMALL).code(0).silent();
            bench.has_all();
            bench.run(&SMALL).code(0).silent().prints_nothing();
        }
    }
}

/// Of as many events, the one at this place, counted from the oldest, is listed twice.
#[track_caller]
fn is_silent_with_a_double(count: usize, place: usize) {
    let mut all = past(count, 1).events;
    all.push(all[place].clone());
    let bench = Bench::of(all);
    bench.run(&SMALL).code(0).silent();
    bench.has_all();
    bench.run(&SMALL).code(0).silent().prints_nothing();
}

#[test]
fn an_event_that_is_listed_twice_at_any_place_raises_no_alarm() {
    is_silent_with_a_double(15, 4);
    at_once(0..35, |place| is_silent_with_a_double(35, place));
}

/// Old events are listed once more, at the end of page 1. They do not show that all behind them was
/// read. The count has both listings, so that the run may say that some are missing.
#[test]
fn old_events_that_are_listed_again_hide_none_of_those_between() {
    for (count, old) in [(30, 4), (200, 0), (200, 120)] {
        at_once(1..=10, |again| {
            let mut world = past(count, 1);
            for place in 0..again {
                world.events[count - 10 + place] = world.events[old + place].clone();
            }
            let bench = Bench::new(world);
            let run = bench.run(&SMALL);
            run.holds(bench.missing() == 0, "no event should be passed over");
        });
    }
}

#[test]
fn pages_of_one_event_hold_ties_while_events_arrive() {
    at_once(1..=4, |per_second| {
        for arrivals in [[2, 3, 5], [4, 9, 11], [6, 7, 8]] {
            let bench = Bench::new(past(12, per_second));
            for (first, request) in (100..).step_by(10).zip(arrivals) {
                let arriving = events_from(first, 2, now(), 2);
                bench.script(request, Step::Insert(arriving));
            }
            let args = ["--page-size=1", "--connections=1"];
            bench.run(&args).code(0).silent();
            bench.run(&args).code(0).silent();
            bench.has_all();
        }
    });
}

#[test]
fn a_page_size_that_repeats_what_was_asked_for_costs_few_requests() {
    at_once([30, 60, 120], |pages| {
        let bench = Bench::new(World {
            sizes: Sizes::Clamped(20),
            ..past(20 * pages, 1)
        });
        let run = bench.run(&["--page-size=200"]);
        run.code(0).silent();
        bench.has_all();
        run.holds(
            run.asked.len() <= 3 * pages,
            "it should make 3 requests a page at most",
        );
    });
}

/// Events are published 15 minutes after their stamps, and one of them a little later: after a run
/// that a time limit cut short.
#[test]
fn a_late_event_is_found_after_a_run_that_was_cut_short() {
    let mut all = events(300, minutes_ago(15), 1);
    let late = all.remove(39);
    let bench = Bench::new(World {
        always: Some((15, Step::Stall(AN_HOUR))),
        ..World::new(all)
    });
    let cut_short = bench.run(&[&SMALL[..], &["--max-time=3s"]].concat());
    cut_short.code(3).says("--max-time");
    let newer = |time: &Event| time.time > late.time;
    cut_short.holds(
        bench
            .in_order()
            .iter()
            .any(|it| newer(it) && cut_short.stdout.contains(&it.id)),
        "it should deliver events that are newer than the late one",
    );
    bench.api.with(|world| world.always = None);
    bench.insert([late]);
    bench.run(&SMALL).code(0).silent();
    assert_eq!(bench.missing(), 0);
    bench.is_settled();
}

/// The pages have 15 events, whatever is asked for. Two events of one timestamp lie on two pages,
/// and change places between two requests.
#[test]
fn ties_that_change_places_once_are_found_where_the_page_size_is_ignored() {
    let ends = [PastEnd::Empty, PastEnd::Status(404)];
    at_once(ends, |past_end| {
        for request in 1..=10 {
            let mut all = past(150, 1).events;
            // The edges of pages are at multiples of 15.
            let earlier = all[74].time;
            all[75] = Event::new(9_000, earlier);
            let bench = Bench::new(World {
                sizes: Sizes::Ignored(15),
                past_end,
                ..World::new(all)
            });
            bench.script(request, Step::SwapTies);
            bench.run(&["--connections=1"]).code(0).silent();
            bench.has_all();
            bench.is_settled();
        }
    });
}

/// More events than a page holds have one timestamp, and change their order at each request. Where no
/// count tells, a window is read again until that finds nothing. Read once, it lacks three of them.
#[test]
fn a_crowd_is_read_again_where_there_is_no_count() {
    at_once([Counts::Absent, Counts::OnlyPages], |counts| {
        let missing = (1..=40).map(|seed| {
            let mut world = past(60, 1);
            let time = world.events[30].time;
            world.insert((100..125).map(|n| Event::new(n, time)));
            let bench = Bench::new(World {
                counts,
                seed,
                ties: Ties::Shuffled,
                ..world
            });
            bench.run(&SMALL).code(0).silent();
            bench.missing()
        });
        let missing: usize = missing.sum();
        assert!(missing < 20, "{missing} of 40 times 25");
    });
}

/// Each timestamp fills five pages. Once a window has read past it, its events link later windows. If
/// they never did, the walk would take twice the requests.
#[test]
fn crowds_on_small_pages_take_few_requests() {
    let requests = (1..=3).map(|seed| {
        let bench = Bench::new(World {
            seed,
            ties: Ties::Shuffled,
            ..past(180, 15)
        });
        let run = bench.run(&["--page-size=3", "--connections=1"]);
        run.code(0).silent();
        bench.has_all();
        run.asked.len()
    });
    let requests: usize = requests.sum();
    assert!(requests < 1_400, "{requests} for 3 times 60 pages");
}

/// Lists events up to `most` places from those that their timestamps give them.
fn by_arrival(world: &mut World, most: usize) {
    let mut places = (0..).map(|place| place + place * 7_919 % most);
    world.events.sort_by_cached_key(|_| places.next());
}

/// The timestamps differ from the places in the list by minutes, and the pages have 11 events,
/// whatever is asked for.
#[test]
fn a_list_by_arrival_with_pages_of_one_size_raises_no_alarm() {
    at_once(150..190, |count| {
        let mut world = World {
            sizes: Sizes::Ignored(11),
            ..past(count, 1)
        };
        by_arrival(&mut world, 200);
        let bench = Bench::new(world);
        bench.run(&["--page-size=50"]).code(0).silent();
        assert_eq!(bench.missing(), 0, "{count}");
    });
}

/// The timestamps differ from the places in the list by up to 23 minutes. A window that begins with a much
/// older event must not make the next one read back to where its time belongs.
#[test]
fn a_list_by_arrival_takes_few_requests_for_a_page() {
    let mut world = past(1_500, 1);
    by_arrival(&mut world, 1_400);
    let bench = Bench::new(world);
    let run = bench.run(&["--page-size=5"]);
    run.code(0).silent();
    assert_eq!(bench.missing(), 0);
    let requests = run.asked.len();
    run.holds(requests < 900, format_args!("{requests} for 300 pages"));
}

/// The list is up to 4,000 seconds out of order, and half of it is not read when the time is over. The next
/// run must not look back by less, although it could then read further.
#[test]
fn a_list_by_arrival_loses_nothing_where_the_time_is_over() {
    let mut world = World {
        delay: Duration::from_millis(50),
        ..past(6_000, 1)
    };
    by_arrival(&mut world, 4_000);
    let bench = Bench::new(world);
    let args = ["--page-size=100", "--overlap=24h", "--connections=1"];
    let cut_short = bench.run(&[&args[..], &["--max-time=2s"]].concat());
    cut_short.code(3).says("--max-time");
    bench.api.with(|world| world.delay = Duration::ZERO);
    bench.run(&args).code(0).silent();
    assert_eq!(bench.missing(), 0);
}

/// The overlap has 40 pages, and the time of a run is enough for 20 of them. What is new is delivered by the
/// next run, and a late event by the first one that has time for all.
#[test]
fn an_overlap_that_takes_too_long_holds_up_nothing_and_loses_nothing() {
    let mut all = past(400, 1).events;
    let late = all.remove(300);
    let bench = Bench::of(all);
    let args = ["--page-size=10", "--overlap=24h", "--connections=1"];
    bench.run(&args).code(0).silent();
    let new = events_from(1_000, 5, now(), 1);
    bench.insert(new.clone());
    bench.insert([late]);
    let slowly = |delay| {
        let delay = Duration::from_millis(delay);
        bench.api.with(|world| world.delay = delay);
    };
    slowly(150);
    let limited = [&args[..], &["--max-time=3s"]].concat();
    bench.run(&limited).fails(3, "--max-time was reached");
    let run = bench.run(&limited);
    run.code(3)
        .says("too short for the last run to look back")
        .prints_events(&new);
    assert_ne!(bench.missing(), 0);
    slowly(0);
    bench.run(&limited).code(0).silent();
    assert_eq!(bench.missing(), 0);
}

#[test]
fn a_count_that_ignores_since_is_no_alarm_in_a_second_run() {
    // A few of them are within the overlap.
    let old = (1..=400).map(|n| Event::new(n, minutes_ago(2_000 - u32::try_from(n).unwrap())));
    let bench = Bench::new(World {
        counts: Counts::IgnoreSince,
        ..World::new(old.collect())
    });
    bench.run(&SMALL).code(0).silent();
    bench.insert(events_from(1_000, 15, now(), 1));
    let second = bench.run(&SMALL);
    second.code(0).silent();
    bench.has_all();
    second.holds(second.asked.len() < 15, "it should not search for long");
    bench.run(&SMALL).code(0).silent().prints_nothing();
}

#[test]
fn retention_may_take_the_oldest_events_between_two_requests() {
    let ends = [PastEnd::Empty, PastEnd::Status(404)];
    at_once(ends, |past_end| {
        for (count, removed) in [(41, 1), (41, 15), (60, 10), (60, 30)] {
            for request in 2..=5 {
                let bench = Bench::new(World {
                    past_end,
                    ..past(count, 1)
                });
                bench.script(request, Step::RemoveOldest(removed));
                bench.run(&SMALL).code(0).silent();
                assert_eq!(bench.missing(), 0, "{count} {removed} {request}");
                bench.is_settled();
            }
        }
    });
}

/// The oldest pages go one after the other, while they are read: what the last answer announced is not
/// there, nor are the pages before it.
#[test]
fn retention_may_take_several_pages_between_two_requests() {
    for (count, removed) in [(400, 8), (400, 16), (404, 30)] {
        let bench = Bench::new(World {
            past_end: PastEnd::Status(404),
            sizes: Sizes::Ignored(8),
            ..past(count, 1)
        });
        for request in 3..7 {
            bench.script(request, Step::RemoveOldest(removed));
        }
        bench.run(&SMALL).code(0).silent();
        bench.is_settled();
    }
}

/// The counts say that there is more. What is read oldest first can be delivered before all is read.
#[test]
fn pages_that_announce_no_other_are_read_oldest_first() {
    let bench = Bench::new(World {
        next: Next::Never,
        always: Some((20, Step::error(500, "failed"))),
        ..past(400, 1)
    });
    let args = [&SMALL[..], &["--retries=0"]].concat();
    let run = bench.run(&args);
    run.code(5);
    run.holds(!run.stdout.is_empty(), "it should deliver something");
    bench.api.with(|world| world.always = None);
    bench.run(&args).code(0).silent();
    bench.has_all();
    bench.is_settled();
}

#[test]
fn pages_that_repeat_for_ever_are_an_error() {
    let bench = Bench::new(World {
        next: Next::Endless,
        counts: Counts::Absent,
        ..past(2_500, 2)
    });
    let run = bench.run(&["--page-size=10"]);
    run.fails(5, "it has more than 20000 pages");
    run.holds(run.asked.len() < 100, "it should give up sooner");
}

#[test]
fn a_backlog_that_is_oldest_first_is_an_error() {
    let bench = Bench::new(World {
        order: Order::OldestFirst,
        ..past(2_500, 2)
    });
    bench.run(&["--page-size=10"]).fails(5, "oldest first");
}

#[test]
fn a_count_that_is_too_high_is_reported_after_all_is_delivered() {
    let bench = Bench::new(World {
        counts: Counts::Plus(3),
        ..past(2_500, 2)
    });
    let run = bench.run(&[]);
    run.code(5).says("3 of them were on none of its pages");
    bench.has_all();
    bench.api.with(|world| world.counts = Counts::True);
    bench.is_settled();
}

/// Whatever the counts say, the walk comes to its end.
#[test]
fn a_count_beyond_all_pages_does_not_keep_the_run() {
    let bench = Bench::new(World {
        counts: Counts::Plus(1 << 40),
        ..past(300, 2)
    });
    let run = bench.run(&["--page-size=10", "--retries=0"]);
    run.code(5).says("were on none of its pages");
    run.holds(run.asked.len() < 400, "it should give up sooner");
    bench.has_all();
}

/// The counts promise an event too many every now and then, and no reading finds it.
#[test]
fn counts_that_are_wrong_again_and_again_cost_few_requests() {
    let runs = [Counts::True, Counts::Wobbling].map(|counts| {
        let bench = Bench::new(World {
            counts,
            ..past(2_000, 1)
        });
        let run = bench.run(&SMALL);
        bench.has_all();
        (
            run.asked.len(),
            run.stderr.matches("were on none").count(),
            run,
        )
    });
    let [(usual, 0, right), (requests, warnings, wrong)] = runs else {
        panic!("no event is missing by right counts");
    };
    right.code(0);
    wrong.code(5);
    wrong.holds(warnings == 2, "one at once, one with the final number");
    wrong.holds(requests < usual + 120, "a few readings in vain");
}

/// All events have one timestamp, so that none may be delivered before the last was read.
#[test]
fn huge_pages_of_one_timestamp_end_a_run_before_they_fill_the_memory() {
    let time = stamp(now());
    let relay = Relay::start(move |mut stream, note| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let filler = "x".repeat(20 << 20);
        let pages = 1_000;
        while let Some(head) = Head::read(&mut reader) {
            note(&head);
            let line = head.line.replace("%5B", "[").replace("%5D", "]");
            let mut words = line.split(['?', '&', ' ']);
            let number = words.find_map(|word| word.strip_prefix("page[number]=")?.parse().ok());
            let number: u32 = number.expect("a page is asked for");
            let next = if number < pages {
                (number + 1).to_string()
            } else {
                "null".to_owned()
            };
            let body = format!(
                r#"{{"data":[{{"id":"{number}-a","timestamp":"{time}","x":"{filler}"}},{{"id":"{number}-b","timestamp":"{time}"}}],"pagination":{{"next_page":{next},"page_size":2,"total_pages":{pages},"total_count":{}}}}}"#,
                2 * pages
            );
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.write_all(body.as_bytes())?;
        }
        Ok(())
    });
    let bench = Bench::of(Vec::new());
    let run = run(&bench, &relay.url(), &[], &[]);
    run.fails(5, "--page-size").stays_below(400);
    run.holds(relay.heads().len() < 30, "it should give up soon");
}

/// A run without pauses makes all its requests within the second that the limit is for.
#[test]
fn a_told_rate_limit_is_never_reached() {
    let bench = Bench::new(World {
        rate_limit: Some(30),
        ..past(200, 1)
    });
    let run = bench.run(&["--page-size=10"]);
    run.code(0).silent();
    bench.has_all();
    let refused = bench.api.refused();
    run.holds(refused == 0, format_args!("refused: {refused}"));
    let requests = run.asked.len();
    run.holds(requests > 40, format_args!("requests: {requests}"));
}
