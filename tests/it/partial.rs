//! Receivers that take a part of a batch, or say late or not at all what they took: no event is sent
//! again that a receiver is known to have, and none is lost.

use std::collections::BTreeMap;
use std::fs;

use crate::delivery::{Delivery, poisoned, usual};
use crate::receiver::{Format, Receiver, Rules, Step};
use crate::stand_in::{Event, events, events_from};
use crate::support::{Bench, at_once, minutes_ago, now};

/// How often each event was indexed.
fn indexed(delivery: &Delivery) -> BTreeMap<String, usize> {
    let mut indexed = BTreeMap::new();
    for id in delivery.receiver.delivered_ids() {
        *indexed.entry(id).or_default() += 1;
    }
    indexed
}

#[test]
fn a_busy_splunk_gets_the_events_that_it_did_not_take() {
    let delivery = Delivery::of(Format::Splunk, 100, |rules, _| {
        rules.full_after = [40, 0].into();
    });
    let delivery = delivery.with(&["--retries=2"]);
    delivery.run().code(0).silent();
    delivery.delivered(100).requests(3).is_settled();

    // The part that was taken is committed, also if the run fails.
    let delivery = Delivery::of(Format::Splunk, 100, |rules, _| {
        rules.full_after = [40].into();
    });
    delivery.run().code(6).says("Server is busy");
    assert_eq!(delivery.committed(), 40);
    delivery.delivered(40).recovers();
}

/// Products count the events of a body from 0 or from 1, and say it nowhere.
#[test]
fn of_the_events_before_a_refused_one_at_most_one_is_indexed_twice() {
    for counts_from in [0, 1] {
        for places in [&[50, 150, 250][..], &[0], &[1], &[299], &[7, 8, 9]] {
            for has_dead_letters in [true, false] {
                let events = events(300, now(), 1);
                let poison: Vec<_> = places.iter().map(|&place| &events[place]).collect();
                let rules = Rules {
                    counts_from,
                    ..poisoned(&poison)
                };
                let mut delivery = Delivery::new(Format::Splunk, events.clone(), rules);
                if has_dead_letters {
                    delivery = delivery.with_dead_letters();
                }
                for _ in 0..3 {
                    delivery.run().code(if has_dead_letters { 0 } else { 7 });
                }
                let case = format!("from {counts_from}, {places:?}, {has_dead_letters}");
                let indexed = indexed(&delivery);
                let twice = indexed.values().filter(|&&times| times == 2).count();
                assert!(indexed.values().all(|&times| times <= 2), "{case}");
                assert!(twice <= 1, "{case}: {twice}");
                if has_dead_letters {
                    assert_eq!(indexed.len(), 300 - places.len(), "{case}");
                    let letters = delivery.dead_letters();
                    assert_eq!(letters.lines().count(), places.len(), "{case}");
                } else {
                    assert_eq!(delivery.committed(), places[0], "{case}");
                }
            }
        }
    }
}

#[test]
fn nothing_is_committed_before_the_indexer_has_it() {
    let acknowledged = |polls| {
        let delivery = Delivery::of(Format::Splunk, 5, |rules, _| {
            (rules.has_acks, rules.polls) = (true, polls);
        });
        delivery.with(&["--gzip"])
    };
    let delivery = acknowledged(2);
    delivery.run().code(0).silent();
    delivery.delivered(5).requests(4);
    let received = delivery.receiver.received();
    let channel = received[0].header("x-splunk-request-channel");
    assert_eq!(
        channel.split('-').map(str::len).collect::<Vec<_>>(),
        [8, 4, 4, 4, 12]
    );
    assert!(
        received[1].path.ends_with("&key=hunter2-hidden"),
        "{}",
        received[1]
    );
    delivery.is_settled();

    // A channel that was chosen is used.
    let delivery = acknowledged(0);
    delivery
        .run_with(&["--header=X-Splunk-Request-Channel: mine"])
        .code(0)
        .silent();
    let received = delivery.receiver.received();
    assert_eq!(
        received[1].path.split('&').next(),
        Some("/services/collector/ack?channel=mine")
    );

    let delivery = acknowledged(usize::MAX).with(&["--timeout=2s"]);
    delivery
        .run()
        .code(6)
        .says("the indexer did not acknowledge");
    assert_eq!(delivery.committed(), 0);
    delivery.receiver.with(|rules| rules.polls = 0);
    delivery.run().code(0).silent();
    assert_eq!(delivery.committed(), 5);
    delivery.is_settled();
}

/// Loki takes nothing that is more than an hour older than the newest entry of a stream.
#[test]
fn loki_has_each_event_of_14_days_once_despite_failures_and_a_kill() {
    let mut all = Vec::new();
    for hour in 0..14 * 24 {
        let newest = now() - std::time::Duration::from_secs(hour * 3_600 + 60);
        all.extend(events_from(hour * 10, 3, newest, 1));
    }
    let count = all.len();
    let delivery = Delivery::new(Format::Loki, all.clone(), Rules::default());
    let delivery = delivery.with(&["--retries=1", "--label=env=prod"]);
    delivery.receiver.with(|rules| {
        rules.script.extend([Step::Usual, Step::Unanswered]);
        rules.script.extend(usual(20));
        rules.script.push_back(Step::Unanswered);
    });
    delivery
        .receiver
        .with(|rules| rules.script.push_back(Step::Stall));
    let mut running = delivery.start();
    delivery.receiver.wait_for(24);
    running.child.kill().expect("it waits for an answer");
    running.finish();
    delivery.run().code(0).silent();
    delivery.delivered(count).is_settled();
    for request in delivery.receiver.received() {
        let times = request.items.iter().map(|item| item.time);
        let (oldest, newest) = (times.clone().min(), times.max());
        let span = newest.unwrap_or(0) - oldest.unwrap_or(0);
        assert!(span < 3_600_000_000_000, "{request}: {span}");
    }

    // A second organization has a stream of its own.
    let other = |event: Event| {
        Event::from_json(
            &event
                .text
                .replace("org-BBBBBBBBBBBBBBBB", "org-CCCCCCCCCCCCCCCC"),
        )
    };
    let second = Bench::of(all.into_iter().map(other).collect());
    let url = delivery.receiver.url();
    second
        .run(&["--post", &url, "--format=loki", "--label=env=prod"])
        .code(0)
        .silent();
    assert_eq!(delivery.receiver.delivered_ids().len(), 2 * count);

    // What is sent again needs a stream of its own, too.
    let again = [
        "--post",
        &url,
        "--format=loki",
        "--no-checkpoint",
        "--label=env=prod",
    ];
    second.run(&again).code(7).says("--label resend=1");
    let renamed = [&again[..], &["--label=resend=1"]].concat();
    second.run(&renamed).code(0).silent();
}

#[test]
fn a_refused_batch_of_loki_makes_dead_letters_of_the_bad_entries_only() {
    let events = events(500, now(), 1);
    let poison = [&events[100], &events[101], &events[499]];
    let ids: Vec<_> = poison.iter().map(|event| event.id.as_str()).collect();
    let delivery = Delivery::new(Format::Loki, events.clone(), poisoned(&poison));
    let delivery = delivery.with_dead_letters().with(&["--batch-events=200"]);
    let run = delivery.run();
    run.code(0);
    run.holds(run.stderr.contains("max_line_size"), "a way out");
    let mut stored = delivery.receiver.delivered_ids();
    let mut expected = delivery.expected_without(&ids);
    stored.sort();
    expected.sort();
    assert_eq!(stored, expected);
    assert_eq!(delivery.dead_letters().lines().count(), 3);
    delivery.is_settled();
}

#[test]
fn a_late_event_is_in_loki_or_named() {
    for (minutes, code) in [(50, 0), (70, 7)] {
        let delivery = Delivery::of(Format::Loki, 100, |_, _| ());
        let delivery = delivery.with(&["--overlap=3h"]);
        delivery.run().code(0).silent();
        let late = Event::new(5_000, minutes_ago(minutes));
        delivery.bench.insert([late, Event::new(5_001, now())]);
        let run = delivery.run();
        run.code(code);
        if code == 7 {
            run.says("too far behind").says("--dead-letter");
            let delivery = delivery.with_dead_letters();
            delivery.run().code(0);
            assert_eq!(delivery.dead_letters().lines().count(), 1);
        }
    }
}

/// It is the oldest event, and the receiver has accepted no other.
#[test]
fn an_oversized_event_is_put_aside_wherever_it_stands() {
    for place in [0, 7, 19] {
        let mut all = events(20, now(), 1);
        let huge = all[place].text.replace(
            r#""version":"0""#,
            &format!(r#""version":"{}""#, "0".repeat(90_000)),
        );
        all[place] = Event::from_json(&huge);
        let id = all[place].id.clone();
        let rules = Rules {
            most_bytes: 60_000,
            ..Rules::default()
        };
        let delivery = Delivery::new(Format::Ndjson, all, rules).with_dead_letters();
        delivery.run().code(0);
        delivery.has(&delivery.expected_without(&[&id]));
        assert_eq!(delivery.dead_letters(), huge + "\n");
        delivery.is_settled();
    }
}

/// The checkpoint says that the receiver has accepted events, but not one at another address.
#[test]
fn an_oversized_event_is_put_aside_only_where_others_were_accepted() {
    let delivery = Delivery::of(Format::Ndjson, 5, |rules, _| rules.most_bytes = 60_000);
    let delivery = delivery.with_dead_letters();
    delivery.run().code(0).silent();
    let huge = Event::new(5_000, now()).text;
    let version = format!(r#""version":"{}""#, "0".repeat(90_000));
    let huge = huge.replace(r#""version":"0""#, &version);
    delivery.bench.insert([Event::from_json(&huge)]);
    let other = Receiver::start(
        Format::Ndjson,
        Rules {
            most_bytes: 60_000,
            ..Rules::default()
        },
    );
    let url = other.url();
    let letters = format!(
        "--dead-letter={}",
        delivery.bench.path("dead.ndjson").display()
    );
    for _ in 0..2 {
        let run = delivery.bench.run(&["--post", &url, &letters]);
        run.code(7);
        run.holds(run.stderr.contains("every event"), "the receiver is new");
    }
    assert_eq!(delivery.dead_letters(), "");
    delivery.run().code(0);
    assert_eq!(delivery.dead_letters(), huge + "\n");
    delivery.is_settled();
}

#[test]
fn more_than_100_refused_events_in_a_row_stop_the_run() {
    for (count, code) in [(100, 0), (101, 7)] {
        let all = events(300, now(), 1);
        let poison: Vec<_> = all[50..50 + count].iter().collect();
        let delivery = Delivery::new(Format::Bulk, all.clone(), poisoned(&poison));
        let delivery = delivery.with_dead_letters();
        delivery.run().code(code);
        let letters = delivery.dead_letters().lines().count();
        assert_eq!(letters, if code == 0 { count } else { 0 });
        if code == 7 {
            assert_eq!(delivery.committed(), 50);
        }
    }
    // A receiver that begins to refuse everything is not asked for each event.
    let delivery = Delivery::of(Format::Ndjson, 2_000, |rules, _| {
        rules.script.extend(usual(1));
        rules.always = Step::status(400);
    });
    let delivery = delivery.with_dead_letters().with(&["--batch-events=1000"]);
    delivery.run().code(7).says("more than 100 events in a row");
    assert_eq!(delivery.dead_letters(), "");
    assert!(
        delivery.receiver.count() < 220,
        "{}",
        delivery.receiver.count()
    );
    // The first batch is what is older than the newest eighth of the oldest page.
    delivery.delivered(581).recovers();
}

/// A proxy may say so that a body is too large.
#[test]
fn a_connection_that_is_reset_again_and_again_is_tried_in_halves() {
    let resets_above = |bytes| Rules {
        resets_above: bytes,
        ..Rules::default()
    };
    let delivery = Delivery::new(
        Format::Ndjson,
        events(2_000, now(), 10),
        resets_above(200_000),
    );
    let delivery = delivery.with(&["--retries=2"]);
    delivery.run().code(0).silent();
    delivery.delivered(2_000).is_settled();

    let delivery = Delivery::new(
        Format::Ndjson,
        events(2_000, now(), 10),
        resets_above(200_000),
    );
    delivery.run().code(6).says("--batch-bytes");
}

/// Each try may store the events once more, where the receiver does not know them by an ID.
#[test]
fn a_request_that_timed_out_after_it_was_sent_is_repeated_once() {
    at_once(
        [(Format::Ndjson, 2), (Format::Bulk, 3)],
        |(format, requests)| {
            let delivery = Delivery::of(format, 5, |rules, _| {
                rules.script.extend((0..requests).map(|_| Step::Stall));
            });
            let delivery = delivery.with(&["--retries=2"]);
            delivery
                .run_with(&["--timeout=1s"])
                .code(6)
                .says("gave up after");
            delivery.requests(requests).recovers();
        },
    );
}

/// The options and headers occur in the answers.
#[test]
fn query_options_and_headers_do_not_change_the_verdict() {
    let all = events(5, now(), 1);
    let poison = all[2].text.clone();
    let delivery = Delivery::new(Format::Bulk, all.clone(), poisoned(&[&all[2]]));
    let url = delivery.receiver.url()
        + "?refresh=false&filter_path=errors,items&require_data_stream=true";
    let letters = delivery.bench.path("dead.ndjson");
    let args = [
        "--format=elasticsearch",
        "--header=kbn-xsrf: true",
        "--post",
        &url,
    ];
    let letters = format!("--dead-letter={}", letters.display());
    delivery
        .bench
        .run(&[&args[..], &[&letters]].concat())
        .code(0);
    assert_eq!(delivery.dead_letters(), poison + "\n");
    fs::remove_file(delivery.bench.path("checkpoint.json")).unwrap();
    delivery.receiver.with(|rules| rules.poison.clear());
    delivery.bench.run(&args).code(0).silent();
    assert_eq!(delivery.receiver.with(|rules| rules.documents.len()), 5);
}
