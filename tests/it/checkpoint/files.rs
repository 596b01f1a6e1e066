//! The files of a checkpoint: which are refused, and what a run leaves.

use super::*;

fn make_fifo(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status();
    assert!(status.expect("it can be started").success());
}

#[test]
fn only_a_regular_file_is_a_checkpoint_a_lock_or_dead_letters() {
    use std::os::unix::{fs::symlink, net::UnixListener};
    type Make = fn(&Path);
    let kinds: [Make; 5] = [
        |path| fs::create_dir(path).unwrap(),
        |path| symlink("nowhere", path).unwrap(),
        |path| symlink("victim", path).unwrap(),
        make_fifo,
        |path| drop(UnixListener::bind(path).unwrap()),
    ];
    let files = [
        ("checkpoint.json", 8),
        ("checkpoint.json.lock", 8),
        ("dead", 2),
    ];
    for (name, code) in files {
        for make in kinds {
            let bench = Bench::of(events(3, now(), 1));
            fs::write(bench.path("victim"), "precious").unwrap();
            let path = bench.path(name);
            make(&path);
            let before = fs::symlink_metadata(&path).unwrap().file_type();
            let run = bench.run(&["--post=http://127.0.0.1:1", "--dead-letter=dead"]);
            run.fails(code, ", not a regular file").says(name).asks(0);
            assert_eq!(fs::symlink_metadata(&path).unwrap().file_type(), before);
            assert_eq!(
                fs::read_to_string(bench.path("victim")).unwrap(),
                "precious"
            );
        }
    }
}

/// Another user could plant a FIFO to read the events.
#[test]
fn a_fifo_for_dead_letters_is_refused_also_if_it_has_a_reader() {
    let bench = Bench::of(events(3, now(), 1));
    let path = bench.path("dead");
    make_fifo(&path);
    // Opened for writing, too, so that opening does not wait for a writer.
    let mut options = fs::OpenOptions::new();
    let _reader = options.read(true).write(true).open(&path).unwrap();
    let run = bench.run(&["--post=http://127.0.0.1:1", "--dead-letter=dead"]);
    run.fails(2, ", not a regular file").asks(0);
}

#[test]
fn a_missing_directory_is_refused_and_not_created() {
    let bench = Bench::of(events(3, now(), 1));
    let run = bench
        .start(bench.bare(&["-c", "state/checkpoint.json"]))
        .finish();
    is_refused(&run, "create the directory");
    assert!(!bench.path("state").exists());
}

#[test]
fn the_default_directory_is_created() {
    for (variable, place) in [
        ("STATE_DIRECTORY", "state/checkpoint.json"),
        ("XDG_STATE_HOME", "state/tfc-audit/checkpoint.json"),
        ("HOME", "state/.local/state/tfc-audit/checkpoint.json"),
    ] {
        let bench = Bench::of(events(3, now(), 1));
        let mut command = bench.bare(&[]);
        command.env(variable, bench.path("state"));
        bench.start(command).finish().code(0).silent();
        assert!(bench.path(place).is_file(), "{variable}");
        assert_eq!(mode(&bench.path("state")), 0o700, "{variable}");
    }
}

/// Returns the permissions of a file, as `chmod` writes them.
fn mode(path: &Path) -> u32 {
    let permissions = fs::metadata(path).expect("it is there").permissions();
    std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o777
}

#[test]
fn a_run_leaves_only_the_checkpoint_and_its_lock_and_both_are_private() {
    let bench = settled();
    bench.is_settled();
    assert_eq!(bench.files(), ["checkpoint.json", "checkpoint.json.lock"]);
    for name in bench.files() {
        assert_eq!(mode(&bench.path(&name)), 0o600, "{name}");
    }
}

#[test]
fn a_link_in_place_of_the_temporary_file_is_removed() {
    let bench = Bench::of(events(3, now(), 1));
    fs::write(bench.path("victim"), "precious").unwrap();
    std::os::unix::fs::symlink("victim", bench.path("checkpoint.json.tmp")).unwrap();
    bench.delivers_all();
    assert_eq!(
        fs::read_to_string(bench.path("victim")).unwrap(),
        "precious"
    );
    assert_eq!(
        bench.files(),
        ["checkpoint.json", "checkpoint.json.lock", "victim"]
    );
}

/// A full disk is noticed before the first request.
#[test]
fn a_checkpoint_that_cannot_be_written_is_refused() {
    for bench in [Bench::of(events(3, now(), 1)), settled()] {
        let before = bench.files();
        let run = bench.start(bench.limited(0, &[])).finish();
        is_refused(&run, "cannot be written");
        let left = bench.files();
        assert!(
            left == before || left == ["checkpoint.json.lock"],
            "{left:?}"
        );
        bench.run(&[]).code(0).silent();
        bench.has_all();
        bench.is_settled();
    }
}

/// The disk fills up between delivery and commit.
#[test]
fn a_commit_that_fails_after_delivery_says_which_events_are_repeated() {
    let bench = Bench::of(events(100, now(), 1));
    let run = bench.start(bench.limited(1, &[])).finish();
    run.code(8)
        .says("100 events were delivered")
        .says("the next run repeats them");
    bench.run(&[]).code(0).silent().prints(&run.stdout);
    assert_eq!(bench.files(), ["checkpoint.json", "checkpoint.json.lock"]);
    bench.is_settled();
}

#[test]
fn a_directory_in_place_of_the_temporary_file_is_named_and_left_alone() {
    let bench = settled();
    fs::create_dir(bench.path("checkpoint.json.tmp")).unwrap();
    let run = bench.run(&[]);
    is_refused(&run, "cannot be written: Is a directory");
    run.says("checkpoint.json.tmp");
    fs::remove_dir(bench.path("checkpoint.json.tmp")).unwrap();
    bench.is_settled();
}
