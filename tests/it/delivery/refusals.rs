//! Events that a receiver refuses, and batches that it finds too large.

use super::*;

#[test]
fn a_refused_batch_stops_the_run_and_the_answer_is_shown_cut_and_escaped() {
    for code in [400, 422] {
        let body = format!("\u{1b}[2Jno\r\n{}", "x".repeat(5_000));
        let step = Step::answer(code, &[], &body);
        let delivery = Delivery::of(Format::Ndjson, 50, |rules, _| {
            rules.script.extend([Step::Usual, step]);
        });
        let delivery = delivery.with(&["--batch-events=10"]);
        let run = delivery.run();
        run.code(7)
            .says(&code.to_string())
            .says(r"\u{1b}[2Jno\r\nxxx");
        run.holds(run.stderr.len() < 800, "the answer should be cut");
        delivery.requests(2).delivered(10).recovers();
    }
}

#[test]
fn a_refused_event_becomes_a_dead_letter_and_the_others_arrive_in_order() {
    use Format::{Bulk, Json, JsonArray, Loki, Ndjson, Splunk};
    let cases = [
        (Ndjson, 1_000, 0),
        (Ndjson, 1_000, 617),
        (Ndjson, 1_000, 999),
        (JsonArray, 100, 50),
        (Json, 20, 10),
        (Json, 20, 0),
        (Splunk, 100, 50),
        (Bulk, 100, 50),
        (Bulk, 100, 0),
        (Loki, 100, 50),
    ];
    for (format, count, place) in cases {
        let events = events(count, now(), 1);
        let poison = events[place].clone();
        let delivery = Delivery::new(format, events, poisoned(&[&poison])).with_dead_letters();
        delivery.run().code(0);
        delivery.has(&delivery.expected_without(&[&poison.id]));
        let letters = delivery.dead_letters();
        assert_eq!(letters, poison.text + "\n", "{format:?} {place}");
        delivery.is_settled();
    }
}

#[test]
fn without_dead_letters_a_refused_event_stops_the_run() {
    for format in [Format::Ndjson, Format::Splunk, Format::Bulk] {
        let events = events(50, now(), 1);
        let delivery = Delivery::new(format, events.clone(), poisoned(&[&events[25]]));
        let delivery = delivery.with(&["--batch-events=20"]);
        let run = delivery.run();
        run.code(7).says("400");
        if format != Format::Ndjson {
            run.says(&format!("the event {} was refused: ", events[25].id));
        }
        delivery.requests(if format == Format::Splunk { 3 } else { 2 });
        let committed = if format == Format::Ndjson { 20 } else { 25 };
        assert_eq!(delivery.committed(), committed, "{format:?}");
        delivery.receiver.with(|rules| rules.poison.clear());
        delivery.run().code(0).silent();
        let mut delivered = delivery.receiver.delivered_ids();
        if format == Format::Bulk {
            // The items behind it in its batch were taken before it.
            let poison = delivered.remove(39);
            delivered.insert(25, poison);
        }
        assert_eq!(delivered, delivery.expected_without(&[]), "{format:?}");
        delivery.is_settled();
    }
}

#[test]
fn dead_letters_of_a_failed_run_are_not_lost() {
    let events = events(300, now(), 1);
    let poison: Vec<_> = [7, 8, 99, 100, 101, 250].map(|place| &events[place]).into();
    let rules = poisoned(&poison);
    let letters: String = poison
        .iter()
        .map(|event| event.text.clone() + "\n")
        .collect();
    let ids: Vec<_> = poison.iter().map(|event| event.id.as_str()).collect();
    let delivery = Delivery::new(Format::Ndjson, events.clone(), rules).with_dead_letters();
    let delivery = delivery.with(&["--batch-events=50"]);
    // Each of these runs ends in the middle of halving.
    for requests in [3, 9, 17] {
        delivery.receiver.with(|rules| {
            rules.script.extend(usual(requests));
            rules.script.push_back(Step::status(503));
        });
        delivery.run().code(6);
    }
    delivery.run().code(0);
    delivery.has(&delivery.expected_without(&ids));
    let mut written: Vec<_> = delivery.dead_letters().lines().map(str::to_owned).collect();
    written.dedup(); // a run that could not commit its dead letters leaves them to the next one
    assert_eq!(written.join("\n") + "\n", letters);
    delivery.is_settled();
}

#[test]
fn a_receiver_that_refuses_everything_makes_no_dead_letters() {
    let everything = |code| Rules {
        always: Step::status(code),
        ..Rules::default()
    };
    for (code, most) in [(401, 1), (403, 1), (400, 20), (422, 20), (413, 20)] {
        let rules = everything(code);
        let delivery = Delivery::new(Format::Ndjson, events(30, now(), 1), rules);
        let delivery = delivery.with(&["--batch-events=8"]).with_dead_letters();
        delivery.run().code(7).says(&code.to_string());
        let (count, summary) = (delivery.receiver.count(), delivery.receiver.summary());
        assert!(count <= most, "{summary}");
        assert_eq!(delivery.dead_letters(), "", "{code}");
        assert_eq!(delivery.committed(), 0, "{code}");
        delivery.recovers();
    }
    let events = events(30, now(), 1);
    let rules = poisoned(&events.iter().collect::<Vec<_>>());
    let delivery = Delivery::new(Format::Bulk, events, rules).with_dead_letters();
    delivery.run().code(7).says("document_parsing_exception");
    assert_eq!(delivery.dead_letters(), "");
    delivery.receiver.with(|rules| rules.poison.clear());
    delivery.recovers();
}

/// Of 500 events, about 125 are accepted at once.
#[test]
fn a_413_halves_batches_until_they_fit() {
    let delivery = Delivery::of(Format::Ndjson, 1_000, |rules, _| {
        rules.most_events = 200;
        rules.script.extend(usual(4)); // 500, 250, and two of 125
        rules.script.push_back(Step::status(503));
    });
    let delivery = delivery.with(&["--batch-events=500"]);
    delivery.run().code(6).says("503");
    let taken = delivery.receiver.delivered_ids().len();
    assert!((240..260).contains(&taken), "{taken}");
    delivery.requests(5).delivered(taken).recovers();
    let received = delivery.receiver.received();
    let refused = received.iter().filter(|it| it.answered == Some(413));
    let (refused, summary) = (refused.count(), delivery.receiver.summary());
    assert!(refused <= 8, "the limit should be learnt:\n{summary}");
}

/// Large events come before many small ones, so that the sizes of accepted and refused bodies
/// contradict each other.
#[test]
fn a_413_for_too_many_events_shrinks_batches() {
    let large = |event: Event| {
        let version = format!(r#""version":"{}""#, "0".repeat(5_000));
        Event::from_json(&event.text.replace(r#""version":"0""#, &version))
    };
    let mut all = events_from(1, 300, minutes_ago(10), 1);
    all = all.into_iter().map(large).collect();
    all.extend(events_from(1_000, 1_500, now(), 5));
    let rules = Rules {
        most_events: 100,
        ..Rules::default()
    };
    let delivery = Delivery::new(Format::JsonArray, all, rules);
    delivery.run().code(0).silent();
    delivery.delivered(1_800).is_settled();
}

/// A proxy that is restarted breaks connections off by chance. The receiver has accepted batches of
/// this size.
#[test]
fn connections_that_break_off_divide_one_batch_and_not_the_later_ones() {
    let delivery = Delivery::of(Format::Ndjson, 1_000, |rules, _| {
        rules.script.extend(usual(2));
        rules.script.extend([Step::Unread, Step::Unread]);
    });
    let delivery = delivery.with(&["--batch-events=100", "--retries=1"]);
    delivery.run().code(0).silent();
    delivery.delivered(1_000).requests(13).is_settled();
}

/// The other events still go in large batches.
#[test]
fn an_event_that_no_request_can_hold_is_refused() {
    let (mut all, huge) = (events(999, now(), 1), minutes_ago(5));
    let huge = Event::new(5_000, huge).text;
    let huge = huge.replace(
        r#""version":"0""#,
        &format!(r#""version":"{}""#, "0".repeat(90_000)),
    );
    let huge = Event::from_json(&huge);
    all.push(huge.clone());
    let rules = || Rules {
        most_bytes: 60_000,
        ..Rules::default()
    };
    let delivery = Delivery::new(Format::Ndjson, all.clone(), rules());
    let run = delivery.run();
    run.code(7).says("413");
    run.says(&format!("the event {} was refused: ", huge.id));
    let before = delivery.receiver.delivered_ids().len();
    delivery.delivered(before);
    assert!((600..=700).contains(&before), "{before} events are older");
    delivery.with_dead_letters().run().code(0);

    let delivery = Delivery::new(Format::Ndjson, all.clone(), rules()).with_dead_letters();
    delivery.run().code(0);
    delivery.has(&delivery.expected_without(&[&huge.id]));
    assert_eq!(delivery.dead_letters(), huge.text.clone() + "\n");
    let (count, summary) = (delivery.receiver.count(), delivery.receiver.summary());
    assert!(count <= 60, "11 would do:\n{summary}");
    delivery.is_settled();

    // A batch has a limit, and the receiver has none: the event goes alone.
    let delivery = Delivery::new(Format::Ndjson, all, Rules::default());
    delivery
        .with(&["--batch-bytes=60000"])
        .run()
        .code(0)
        .silent();
}

#[test]
fn batches_keep_to_their_limits() {
    let delivery = Delivery::of(Format::Bulk, 60, |_, _| ());
    let delivery = delivery.with(&["--batch-bytes=5000", "--batch-events=7", "--gzip"]);
    delivery.run().code(0).silent();
    delivery.delivered(60);
    for request in delivery.receiver.received() {
        let (bytes, events) = (request.body.len(), request.items.len());
        assert!(bytes <= 5_000 && events <= 7, "{request}");
    }
}

/// Each event was acknowledged alone, and the run ends before a batch of them is full.
#[test]
fn single_events_are_committed_when_a_run_fails() {
    let delivery = Delivery::of(Format::Json, 30, |rules, _| {
        rules.script.extend(usual(13));
        rules.script.push_back(Step::status(503));
    });
    let delivery = delivery.with(&["--batch-events=10"]);
    delivery.run().code(6).says("503");
    assert_eq!(delivery.committed(), 13);
    delivery.delivered(13).recovers();
}

#[test]
fn events_sent_again_create_no_document_twice() {
    let mut all = sample_events(minutes_ago(90));
    all.extend(events(300, now(), 1));
    let delivery = Delivery::new(Format::Bulk, all, Rules::default());
    delivery.run().code(0).silent();
    let count = delivery.expected_without(&[]).len();
    delivery.delivered(count);
    fs::remove_file(delivery.bench.path("checkpoint.json")).unwrap();
    delivery.run().code(0).silent();
    delivery.delivered(count).is_settled();
    let documents = delivery.receiver.with(|rules| rules.documents.clone());
    let mut workspaces = 0;
    for (id, document) in documents {
        assert_eq!(document["@timestamp"], document["timestamp"], "{id}");
        assert!(document["version"].is_string(), "{id}: {document}");
        for meta in [
            &document["resource"]["meta"],
            &document["resource"]["meta"]["payload"],
        ] {
            if let Some(workspace) = meta.get("workspace") {
                workspaces += 1;
                assert!(workspace["name"].is_string(), "{id}: {document}");
            }
        }
    }
    assert!(workspaces > 200, "{workspaces}");
}

#[test]
fn only_the_items_that_failed_are_sent_again() {
    let all = events(10, now(), 1);
    let id = |place: usize| all[place].id.clone();
    // Two items are busy: one of them once, the other one twice.
    let rules = Rules {
        busy: [(id(3), 1), (id(7), 2)].into(),
        ..Rules::default()
    };
    let delivery = Delivery::new(Format::Bulk, all.clone(), rules).with(&["--retries=2"]);
    delivery.run().code(0).silent();
    let again = |request: usize| {
        let received = delivery.receiver.received();
        let ids = received[request].items.iter().map(|item| item.id.clone());
        ids.collect::<Vec<_>>()
    };
    delivery.requests(3);
    assert_eq!([again(1), again(2)], [vec![id(3), id(7)], vec![id(7)]]);
    delivery.is_settled();

    // One item stays busy. The items before it are committed, those behind it are stored already.
    let rules = Rules {
        busy: [(id(4), usize::MAX)].into(),
        ..Rules::default()
    };
    let delivery = Delivery::new(Format::Bulk, all.clone(), rules).with(&["--retries=1"]);
    delivery
        .run()
        .code(6)
        .says("es_rejected_execution_exception");
    assert_eq!(delivery.committed(), 4);
    delivery.receiver.with(|rules| rules.busy.clear());
    delivery.run().code(0).silent();
    assert_eq!(delivery.receiver.with(|rules| rules.documents.len()), 10);
    delivery.is_settled();
}
