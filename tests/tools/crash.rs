//! A run is killed at every system call that an undisturbed run makes.
//!
//! After each kill, the checkpoint is that of the last commit, to the byte. The next run delivers
//! everything, repeats exactly the events that were delivered and not committed (one batch at most),
//! and leaves no file behind. A kill comes before its call is carried out.
//!
//! `cargo test` tries the first and the last call of each kind, and each rename.
//! `TFC_AUDIT_CRASH_ALL=1` tries all calls.

// Other systems have calls of other names.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::Path;

use crate::receiver::Receiver;
use crate::scene::{Scene, To};
use crate::support::Bench;
use crate::trace::{Call, TRACED};

/// Kills the run at each of its calls.
fn survives_every_kill(mut scene: Scene) {
    let points = scene.points();
    let (mut killed, mut repeats) = (0, 0);
    for (name, number) in &points {
        scene.reset();
        let inject = format!("inject={name}:signal=SIGKILL:when={number}");
        let run = scene.run_with(&["-e", &inject]);
        if !run.was_killed() {
            run.code(0);
        }
        killed += usize::from(run.was_killed());
        repeats += usize::from(scene.recovers(&run) > 0);
    }
    // Some counts, such as that of reads of a connection, differ from run to run.
    assert!(
        killed * 10 > points.len() * 9,
        "{killed} of {}",
        points.len()
    );
    assert!(repeats > 0, "no kill came between delivery and commit");
}

pub fn a_kill_while_writing_to_a_file_repeats_one_batch_at_most() {
    survives_every_kill(Scene::new(To::File).expect(TRACED));
}

pub fn a_kill_in_a_first_run_repeats_one_batch_at_most() {
    survives_every_kill(Scene::with(To::File, true, &[]).expect(TRACED));
}

pub fn a_kill_while_posting_repeats_one_batch_at_most() {
    survives_every_kill(Scene::new(To::Post).expect(TRACED));
}

pub fn a_kill_while_a_command_runs_repeats_one_batch_at_most() {
    survives_every_kill(Scene::new(To::Exec).expect(TRACED));
}

/// Returns the lasting effects of a run in order: writes, syncs and renames in the bench's directory,
/// requests, acknowledgements of the receiver, and programs that ended well.
fn steps(calls: &[Call], bench: &Bench, receiver: Option<&Receiver>) -> Vec<String> {
    let dir = bench.path("");
    let receiver = receiver.map(Receiver::url).unwrap_or_default();
    let (address, _) = receiver
        .trim_start_matches("http://")
        .split_once('/')
        .unwrap_or_default();
    let step = |call: &Call| {
        let opened = call.opened().unwrap_or_default();
        let file = || {
            let name = Path::new(opened).strip_prefix(&dir).ok()?.to_str()?;
            Some(if name.is_empty() {
                "the directory"
            } else {
                name
            })
        };
        let is_receiver = !address.is_empty() && opened.ends_with(&format!("->{address}]"));
        match call.name.as_str() {
            _ if !call.succeeded() => None,
            "write" => Some(format!("write {}", file()?)),
            "fsync" | "fdatasync" => Some(format!("sync {}", file()?)),
            "rename" => Some("rename".to_owned()),
            "sendto" if is_receiver => Some("post".to_owned()),
            "sendto" => Some("ask".to_owned()),
            "recvfrom" if is_receiver && call.line.contains("\"HTTP/1.1 2") => {
                Some("acknowledged".to_owned())
            }
            "wait4" if call.line.contains("WEXITSTATUS(s) == 0") => Some("exited".to_owned()),
            _ => None,
        }
    };
    let mut steps: Vec<_> = calls.iter().filter_map(step).collect();
    steps.dedup();
    steps
}

const COMMIT: [&str; 4] = [
    "write checkpoint.json.tmp",
    "sync checkpoint.json.tmp",
    "rename",
    "sync the directory",
];

/// A run commits before its first request, after each batch is delivered and acknowledged, and at the
/// end. Only this test would notice a missing sync, since no test can cut the power.
pub fn each_commit_follows_its_delivery_and_is_synced() {
    let deliveries: [(To, &[&str]); 3] = [
        (To::File, &["write out", "sync out"]),
        (To::Post, &["post", "acknowledged"]),
        (To::Exec, &["exited"]),
    ];
    for (to, delivery) in deliveries {
        let scene = Scene::new(to).expect(TRACED);
        let mut steps = steps(&scene.calls, &scene.bench, scene.receiver.as_ref());
        assert_eq!(steps[..4], COMMIT, "{to:?}: {steps:#?}");
        steps.retain(|step| step != "ask");
        let batches = scene.legal.len() - 3;
        let expected = [&COMMIT[..]]
            .into_iter()
            .chain((0..batches).flat_map(|_| [delivery, &COMMIT]))
            .chain([&COMMIT[..]]);
        assert_eq!(steps, expected.collect::<Vec<_>>().concat(), "{to:?}");
    }
}

/// A dead letter is synced before it is committed. After a kill at any call from then on, it is in the
/// file or is refused again by the next run.
pub fn a_kill_while_writing_dead_letters_loses_none() {
    let mut scene = Scene::with_refused_events().expect(TRACED);
    let steps = steps(&scene.calls, &scene.bench, scene.receiver.as_ref());
    // The name of the new file is synced before everything else.
    assert_eq!(steps[0], "sync the directory");
    assert_eq!(steps[1..5], COMMIT);
    let written = |&place: &usize| steps[place] == "write dead";
    let written: Vec<_> = (0..steps.len()).filter(written).collect();
    assert_eq!(written.len(), 2, "{steps:#?}");
    for place in written {
        assert_eq!(steps[place + 1], "sync dead");
        assert_eq!(steps[place + 2..place + 6], COMMIT);
    }

    let points = scene.points();
    let first = points.iter().position(|(name, _)| name == "fdatasync");
    for (name, number) in &points[first.expect("it is synced") - 1..] {
        scene.reset();
        let inject = format!("inject={name}:signal=SIGKILL:when={number}");
        let run = scene.run_with(&["-e", &inject]);
        scene.puts_aside(&run);
    }
}
