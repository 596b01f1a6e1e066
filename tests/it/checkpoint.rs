//! The checkpoint's file and its lock: which files are trusted, which are left, and who may run.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::stand_in::{Event, Step, World, events, events_from, stamp};
use crate::support::{AN_HOUR, Bench, Outcome, PROGRAM, minutes_ago, now};

mod files;

/// Returns a bench that has delivered three events.
fn settled() -> Bench {
    let bench = Bench::of(events(3, now(), 1));
    bench.run(&[]).code(0).silent();
    bench
}

/// The run was refused before its first request.
#[track_caller]
fn is_refused(run: &Outcome, because: &str) {
    run.fails(8, because).asks(0);
}

/// Without the option, a lost cache would deliver two weeks again.
#[test]
fn a_required_checkpoint_has_to_exist() {
    let bench = Bench::of(events(3, now(), 1));
    is_refused(
        &bench.run(&["--require-checkpoint"]),
        "--require-checkpoint",
    );
    assert!(!bench.path("checkpoint.json").exists());
    bench.run(&[]).code(0).silent();
    bench.has_all();
    bench
        .run(&["--require-checkpoint"])
        .code(0)
        .silent()
        .prints_nothing();
}

#[test]
fn without_a_checkpoint_each_run_delivers_everything_and_leaves_no_file() {
    let bench = Bench::of(events(3, now(), 1));
    let expected = bench.api.with(|world| world.expected());
    for _ in 0..2 {
        bench
            .run(&["--no-checkpoint"])
            .code(0)
            .silent()
            .prints(&expected);
        assert_eq!(bench.files(), [""; 0]);
    }
}

/// A failed first run with `--since=1h`, and the next one an hour later, must not leave a gap.
#[test]
fn the_since_of_a_failed_first_run_is_kept() {
    let of = |n, minutes| events_from(n, 2, minutes_ago(minutes), 2);
    let bench = Bench::of([of(1, 180), of(11, 90), of(21, 10)].concat());
    bench.script(1, Step::error(503, "unavailable"));
    bench.run(&["--since=2h", "--retries=0"]).fails(5, "503");
    let start = bench.checkpoint_field("boundary_start");
    let run = bench.run(&["--since=1h"]);
    run.code(0).silent().prints_events(&bench.in_order()[2..]);
    let asked = run.asked[0].since.clone().unwrap();
    assert!(start.as_str().unwrap() > asked.as_str(), "{start} {asked}");
    bench.is_settled();
}

#[test]
fn since_has_no_effect_once_events_were_delivered() {
    let bench = settled();
    bench.insert([Event::new(9_000, minutes_ago(5))]);
    for args in [
        &["--since=1s", "-v", "--dry-run"][..],
        &["--since=1s", "-v"],
    ] {
        let run = bench.run(args);
        run.code(0);
        run.holds(
            run.stderr.contains("--since has no effect"),
            "it should say so",
        );
    }
    bench.is_settled();
}

/// A larger overlap in a later run must not repeat events whose IDs are already dropped.
#[test]
fn an_event_may_be_as_late_as_the_overlap() {
    let bench = Bench::of(events(1_200, now(), 1));
    bench.run(&["--overlap=2m"]).code(0).silent();
    let [late, too_late] =
        [1, 4].map(|minutes| Event::new(9_000 + u64::from(minutes), minutes_ago(minutes)));
    bench.insert([late.clone(), too_late]);
    bench
        .run(&["--overlap=24h"])
        .code(0)
        .silent()
        .prints_events(&[late]);
    bench.is_settled();
}

#[test]
fn a_service_that_no_longer_lists_a_delivered_event_is_refused() {
    let bench = settled();
    bench.api.with(|world| world.remove_oldest(3));
    bench.run(&[]).fails(4, "no longer lists");
    let completed = bench.checkpoint_field("completed_at");
    bench.insert(events_from(1_000, 2, now(), 2));
    let run = bench.run(&[]);
    run.code(4)
        .says("no longer lists")
        .prints_events(&bench.in_order());
    assert_eq!(bench.checkpoint_field("completed_at"), completed);
    // What was delivered then is listed now.
    bench.is_settled();
}

#[test]
fn an_empty_span_succeeds_and_an_empty_service_fails_with_4() {
    let bench = Bench::of(Vec::new());
    for args in [&["--since=1h"][..], &["--no-checkpoint", "--since=1h"]] {
        bench.run(args).fails(4, "user or team token").asks(2);
    }
    bench
        .run(&["--no-checkpoint"])
        .fails(4, "user or team token")
        .asks(1);
    bench.insert(events(3, minutes_ago(90), 1));
    for args in [&["--since=1h"][..], &[], &["--no-checkpoint", "--since=1h"]] {
        bench.run(args).code(0).silent().prints_nothing().asks(2);
    }
    let new = events_from(1_000, 1, now(), 1);
    bench.insert(new.clone());
    bench.run(&[]).code(0).silent().prints_events(&new).asks(1);
}

#[test]
fn a_changed_destination_is_warned_of_once() {
    let bench = settled();
    let other = ["--exec", "cat >>other"];
    bench.insert(events_from(1_000, 1, now(), 1));
    let run = bench.run(&other);
    run.code(0)
        .warns("events went to stdout until now, and go to exec")
        .says("--no-checkpoint --until 20");
    bench.run(&other).code(0).silent();
    // An older checkpoint does not know its destination.
    bench.set_checkpoint_field("destination", json!(null));
    bench.run(&[]).code(0).silent();
    assert_eq!(bench.checkpoint_field("destination"), json!("stdout"));
}

#[test]
fn a_span_of_since_counts_back_from_the_services_time() {
    let events = events(3, minutes_ago(150), 1);
    let bench = Bench::new(World {
        // This machine's clock is two hours ahead.
        date: Some(minutes_ago(120)),
        ..World::new(events)
    });
    bench.run(&["--since=1h"]).code(0).silent();
    bench.has_all();
    bench.is_settled();
}

#[test]
fn a_date_in_the_future_does_not_hide_the_present() {
    let ahead = now() + 10 * Duration::from_secs(3600);
    let bench = Bench::new(World {
        date: Some(ahead),
        ..World::new([events(3, now(), 1), events_from(1_000, 1, ahead, 1)].concat())
    });
    bench.run(&[]).code(0).silent();
    bench.api.with(|world| world.date = None);
    let new = events_from(2_000, 2, now(), 1);
    bench.insert(new.clone());
    bench.run(&[]).code(0).silent().prints_events(&new);
    bench.is_settled();
}

#[test]
fn the_last_complete_run_is_dated_by_the_service() {
    let date = minutes_ago(30);
    let bench = Bench::new(World {
        date: Some(date),
        ..World::new(events(3, minutes_ago(40), 1))
    });
    bench.run(&[]).code(0).silent();
    let second = stamp(date).split('.').next().unwrap().to_owned();
    let completed = bench.checkpoint_field("completed_at").to_string();
    assert!(completed.contains(&second), "{completed}");
}

#[test]
fn a_huge_checkpoint_is_refused_in_a_short_message() {
    let bench = settled();
    let good = bench.checkpoint();
    let long = "x".repeat(3_000_000);
    for (content, because) in [
        (
            good.replacen('{', &format!("{{\"{long}\":1,"), 1),
            "damaged",
        ),
        (
            good.replace(
                "\"boundary_ids\":{",
                &format!("\"boundary_ids\":{{\"{long}\":[],"),
            ),
            "is not a time: xxx",
        ),
    ] {
        fs::write(bench.path("checkpoint.json"), content).unwrap();
        let run = bench.run(&[]);
        is_refused(&run, because);
        assert!(run.stderr.len() < 1500, "{}", run.stderr.len());
    }
    let file = fs::File::create(bench.path("checkpoint.json")).unwrap();
    file.set_len(65 * 1024 * 1024).unwrap();
    is_refused(&bench.run(&[]), "larger than 64 MiB");
}

/// No event came for so long that retention has removed the events that were delivered last.
#[test]
fn delivered_events_beyond_retention_need_not_be_listed() {
    let bench = Bench::new(World {
        now: Some(minutes_ago(13 * 24 * 60 + 30)),
        ..World::new(events(3, minutes_ago(13 * 24 * 60 + 30), 1))
    });
    bench.run(&[]).code(0).silent();
    bench.api.with(|world| {
        world.remove_oldest(3);
        world.now = None;
    });
    bench.is_settled();
}

#[test]
fn a_gap_longer_than_retention_is_a_warning() {
    let bench = settled();
    bench.set_checkpoint_field("completed_at", json!(stamp(minutes_ago(15 * 24 * 60))));
    let new = events_from(1_000, 1, now(), 1);
    bench.insert(new.clone());
    bench.run(&[]).code(0).warns("14 days").prints_events(&new);
    bench.is_settled();
}

/// Returns a service that keeps the first run waiting until that run is killed.
fn waiting() -> Bench {
    Bench::new(World {
        delay: AN_HOUR,
        ..World::new(events(3, now(), 1))
    })
}

#[test]
fn a_second_run_at_the_same_time_fails_with_75() {
    let bench = waiting();
    let mut first = bench.start(bench.command(&[]));
    first.has_asked(1);
    let second = bench.run(&[]);
    second.fails(75, "checkpoint.json.lock").asks(0);
    let third = bench.run(&["--lock-wait=1s"]);
    third.fails(75, "checkpoint.json.lock").asks(0);
    third.holds(third.took >= Duration::from_secs(1), "it should wait first");
    // Nothing is read or opened before the lock is held.
    let args = [
        "--post=http://127.0.0.1:1",
        "--header=@missing",
        "--dead-letter=dead",
    ];
    bench.run(&args).fails(75, "checkpoint.json.lock").asks(0);
    assert!(!bench.path("dead").exists());

    first.child.kill().unwrap(); // the lock's file stays, the lock does not
    first.finish();
    bench.api.with(|world| world.delay = Duration::ZERO);
    bench.delivers_all();
}

#[test]
fn a_second_run_may_wait_for_the_first() {
    let bench = Bench::new(World {
        delay: Duration::from_millis(500),
        ..World::new(events(3, now(), 1))
    });
    let new = events_from(1_000, 1, now(), 1);
    bench.script(2, Step::Insert(new.clone()));
    let first = bench.start(bench.command(&[]));
    first.has_asked(1);
    let second = bench.start(bench.command(&["--lock-wait=20s"]));
    first.finish().code(0).silent();
    second.finish().code(0).silent().prints_events(&new);
    bench.has_all();
    bench.is_settled();
}

/// The organization changes when the last events are new, and when retention has removed them.
#[test]
fn a_token_of_another_organization_is_refused() {
    for age in [Duration::from_secs(60), Duration::from_secs(20 * 86_400)] {
        let bench = Bench::of(events(5, now() - age, 1));
        bench.run(&[]).code(0);
        bench.api.with(|world| {
            let mut others = events_from(1_000, 5, now(), 1);
            for event in &mut others {
                let own = "org-BBBBBBBBBBBBBBBB";
                event.text = event.text.replace(own, "org-CCCCCCCCCCCCCCCC");
            }
            world.events = others;
        });
        let before = bench.checkpoint();
        // Neither a warning about the receiver nor a summary distracts from it.
        bench
            .run(&["-v", "--exec=cat"])
            .fails(8, "and the token to org-CCCCCCCCCCCCCCCC");
        assert_eq!(bench.checkpoint(), before);
        // One known event shows that the service still belongs to the same organization.
        bench.api.with(|world| world.events.clear());
        bench.insert(events(5, now() - age, 1));
        bench.insert(events_from(1_000, 5, now(), 1));
        bench.run(&[]).code(0);
    }
}

/// A wrong address in the first run does not stop later runs.
#[test]
fn the_address_may_change_before_the_first_event_and_not_after_it() {
    let bench = Bench::of(events(5, now(), 1));
    let args = ["--endpoint=http://127.0.0.1:1", "--retries=0", "-c"];
    let mut command = bench.clean(PROGRAM);
    command.args(args).arg(bench.path("checkpoint.json"));
    bench.start(command).finish().fails(5, "refused");
    bench.delivers_all();
    let other = bench
        .checkpoint()
        .replace(&bench.api.url(), "http://127.0.0.1:1");
    fs::write(bench.path("checkpoint.json"), other).unwrap();
    bench.run(&[]).fails(8, "it belongs to http://127.0.0.1:1");
}
