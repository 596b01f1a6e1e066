//! The kernel refuses a call: each row says which, how, and how the run has to end. However it ends,
//! the checkpoint is the one of the last commit, and the next run does the rest.

// Elsewhere the calls have other names.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

use crate::scene::{Scene, To};
use crate::stand_in::{events, events_from};
use crate::support::{Bench, PROGRAM, minutes_ago, now};
use crate::trace::Strace;

const LOCK: &str = "checkpoint.json.lock";
const CHECKPOINT: &str = "checkpoint.json";
const TEMPORARY: &str = "checkpoint.json.tmp";
const DIRECTORY: &str = "";
const OUT: &str = "out";

/// A call that fails.
struct Fault {
    to: To,
    /// The call, what it is about, and which of those it is, from 0.
    call: (&'static str, &'static str, usize),
    errors: &'static [&'static str],
    code: i32,
    /// A part of the only line; nothing is said where this is empty.
    says: &'static str,
}

const fn fault(
    to: To,
    call: (&'static str, &'static str, usize),
    errors: &'static [&'static str],
    code: i32,
    says: &'static str,
) -> Fault {
    Fault {
        to,
        call,
        errors,
        code,
        says,
    }
}

/// What a disk can say.
const DISK: &[&str] = &["EIO", "ENOSPC", "EACCES", "EROFS"];
const INTERRUPTED: &[&str] = &["EINTR"];

const CANNOT_WRITE: &str = "checkpoint.json cannot be written: ";
const NOT_COMMITTED: &str = " events were delivered, but the checkpoint ";

const FAULTS: &[Fault] = &[
    fault(
        To::File,
        ("openat", LOCK, 0),
        &["EACCES"],
        8,
        "(os error 13); let this user read and write there, or name",
    ),
    fault(
        To::File,
        ("openat", LOCK, 0),
        &["EIO", "ENOSPC", "EROFS"],
        8,
        "); name another file with --checkpoint",
    ),
    fault(To::File, ("openat", LOCK, 0), INTERRUPTED, 0, ""),
    fault(
        To::File,
        ("flock", LOCK, 0),
        &["EIO", "ENOLCK"],
        8,
        "cannot take the lock",
    ),
    fault(To::File, ("flock", LOCK, 0), INTERRUPTED, 0, ""),
    fault(
        To::File,
        ("openat", CHECKPOINT, 0),
        &["EIO", "EACCES"],
        8,
        "cannot be read",
    ),
    fault(To::File, ("openat", CHECKPOINT, 0), INTERRUPTED, 0, ""),
    fault(
        To::File,
        ("read", CHECKPOINT, 0),
        &["EIO"],
        8,
        "cannot be read",
    ),
    fault(To::File, ("read", CHECKPOINT, 0), INTERRUPTED, 0, ""),
    // Before anything is fetched.
    fault(
        To::File,
        ("unlink", TEMPORARY, 0),
        &["EIO", "EACCES", "EROFS"],
        8,
        CANNOT_WRITE,
    ),
    fault(To::File, ("openat", TEMPORARY, 0), DISK, 8, CANNOT_WRITE),
    fault(To::File, ("openat", TEMPORARY, 0), INTERRUPTED, 0, ""),
    fault(To::File, ("write", TEMPORARY, 0), DISK, 8, CANNOT_WRITE),
    fault(To::File, ("write", TEMPORARY, 0), INTERRUPTED, 0, ""),
    fault(To::File, ("fsync", TEMPORARY, 0), DISK, 8, CANNOT_WRITE),
    fault(To::File, ("fsync", TEMPORARY, 0), INTERRUPTED, 0, ""),
    fault(To::File, ("rename", TEMPORARY, 0), DISK, 8, CANNOT_WRITE),
    fault(
        To::File,
        ("openat", DIRECTORY, 0),
        &["EIO", "EACCES"],
        8,
        CANNOT_WRITE,
    ),
    fault(To::File, ("fsync", DIRECTORY, 0), DISK, 8, CANNOT_WRITE),
    fault(To::File, ("fsync", DIRECTORY, 0), INTERRUPTED, 0, ""),
    // Some network file systems cannot, and need not.
    fault(To::File, ("fsync", DIRECTORY, 0), &["EINVAL"], 0, ""),
    // After the first batch.
    fault(
        To::Post,
        ("unlink", TEMPORARY, 1),
        &["EIO", "EACCES", "EROFS"],
        8,
        NOT_COMMITTED,
    ),
    fault(To::Post, ("openat", TEMPORARY, 1), DISK, 8, NOT_COMMITTED),
    fault(To::Post, ("write", TEMPORARY, 1), DISK, 8, NOT_COMMITTED),
    fault(To::Post, ("fsync", TEMPORARY, 1), DISK, 8, NOT_COMMITTED),
    fault(To::Post, ("rename", TEMPORARY, 1), DISK, 8, NOT_COMMITTED),
    fault(To::Post, ("fsync", DIRECTORY, 1), DISK, 8, NOT_COMMITTED),
    fault(To::File, ("rename", TEMPORARY, 2), DISK, 8, NOT_COMMITTED),
    fault(To::Exec, ("rename", TEMPORARY, 3), DISK, 8, NOT_COMMITTED),
    // When all is delivered and committed.
    fault(To::Post, ("rename", TEMPORARY, 4), DISK, 8, CANNOT_WRITE),
    // Where events go.
    fault(
        To::File,
        ("write", OUT, 0),
        &["EIO", "ENOSPC", "EDQUOT"],
        1,
        "standard output",
    ),
    fault(
        To::File,
        ("write", OUT, 1),
        &["ENOSPC"],
        1,
        "standard output",
    ),
    fault(To::File, ("write", OUT, 0), &["EINTR", "EAGAIN"], 0, ""),
    fault(
        To::File,
        ("write", OUT, 0),
        &["EPIPE"],
        141,
        "standard output",
    ),
    fault(
        To::File,
        ("fdatasync", OUT, 0),
        &["EIO", "ENOSPC"],
        1,
        "standard output",
    ),
    fault(
        To::File,
        ("fdatasync", OUT, 1),
        &["EIO"],
        1,
        "standard output",
    ),
    fault(To::File, ("fdatasync", OUT, 0), INTERRUPTED, 0, ""),
    fault(To::File, ("lseek", OUT, 0), &["EIO"], 1, "standard output"),
    fault(
        To::Exec,
        ("pipe2", "O_CLOEXEC", 0),
        &["EMFILE"],
        6,
        "cannot start sh",
    ),
    fault(
        To::Exec,
        ("clone3", "CLONE_VFORK", 0),
        &["EAGAIN"],
        6,
        "cannot start sh",
    ),
    fault(
        To::Exec,
        ("clone3", "CLONE_THREAD", 1),
        &["EAGAIN"],
        6,
        "cannot start",
    ),
    fault(
        To::Exec,
        ("wait4", "", 0),
        &["ECHILD"],
        6,
        "cannot wait for the command",
    ),
    fault(To::Exec, ("wait4", "", 0), INTERRUPTED, 0, ""),
];

/// The text of an error, as the kernel's documentation has it.
fn in_words(error: &str) -> &'static str {
    match error {
        "EACCES" => "Permission denied",
        "EAGAIN" => "Resource temporarily unavailable",
        "ECHILD" => "No child process",
        "EDQUOT" => "Disk quota exceeded",
        "EIO" => "Input/output error",
        "EMFILE" => "Too many open files",
        "ENOLCK" => "No locks available",
        "ENOSPC" => "No space left on device",
        "EROFS" => "Read-only file system",
        _ => "",
    }
}

/// Tries the rows about one kind of delivery.
fn try_faults(to: To) {
    let Some(mut scene) = Scene::new(to) else {
        return;
    };
    for fault in FAULTS.iter().filter(|fault| fault.to == to) {
        let Fault {
            call: (call, at, which),
            code,
            says,
            ..
        } = *fault;
        for error in fault.errors {
            let number = scene.number(call, at, which);
            scene.reset();
            let inject = format!("inject={call}:error={error}:when={number}");
            let run = scene.run_with(&["-e", &inject]);
            let told = format!("{call} on {at:?} ({which}): {error}");
            run.holds(scene.was_injected(), &told).code(code);
            if says.is_empty() {
                run.silent();
            } else {
                run.says(says).says(in_words(error));
            }
            let cleared = call == "unlink" || !scene.bench.files().contains(&TEMPORARY.to_owned());
            run.holds(cleared, "the temporary file should not be left behind");
            let repeats = scene.recovers(&run);
            let may_repeat = says == NOT_COMMITTED || call == "wait4";
            run.holds(
                repeats == 0 || may_repeat,
                format_args!("{told}: {repeats} came again"),
            );
        }
    }
}

#[test]
fn calls_that_fail_while_writing_to_a_file() {
    try_faults(To::File);
}

#[test]
fn calls_that_fail_while_posting() {
    try_faults(To::Post);
}

#[test]
fn calls_that_fail_while_a_command_runs() {
    try_faults(To::Exec);
}

#[test]
fn dead_letters_that_cannot_be_written() {
    let Some(mut scene) = Scene::with_refused_events() else {
        return;
    };
    let faults: [(_, &[&str], _, _); 3] = [
        ("openat", DISK, 2, "--dead-letter: cannot open dead: "),
        ("write", DISK, 1, "cannot write refused events to dead: "),
        (
            "fdatasync",
            &["EIO", "ENOSPC"],
            1,
            "cannot write refused events to dead: ",
        ),
    ];
    for (call, errors, code, says) in faults {
        let number = scene.number(call, "dead", 0);
        for error in errors {
            scene.reset();
            let run =
                scene.run_with(&["-e", &format!("inject={call}:error={error}:when={number}")]);
            run.code(code).says(says).says(in_words(error));
            let left = fs::read_to_string(scene.bench.path("dead")).unwrap_or_default();
            run.holds(left.is_empty(), "it should be cut back");
            scene.puts_aside(&run);
        }
    }
}

/// What was delivered to a file.
fn output(bench: &Bench) -> String {
    fs::read_to_string(bench.path("out")).expect("it can be read")
}

/// Ten events to be delivered to a file in one batch, which grows to 3,584 bytes and no further:
/// between two lines there is no limit so.
fn limited(trap: &str) -> (Bench, Command) {
    let bench = Bench::of(events(10, now(), 1));
    let text = bench.api.with(|world| world.expected());
    assert!(text.len() > 3_584 && text.as_bytes()[3_583] != b'\n');
    let mut command = bench.clean("/bin/sh");
    let script = format!("{trap}; ulimit -f 7; exec \"$0\" \"$@\"");
    let inner = bench.command(&[]);
    command
        .arg("-c")
        .arg(script)
        .arg(PROGRAM)
        .args(inner.get_args());
    (bench, command)
}

/// Half a line stays, is ended by the next run, and everything comes again.
#[track_caller]
fn goes_on_after_half_a_line(bench: &Bench) {
    let text = bench.api.with(|world| world.expected());
    let half = &text[..3_584];
    assert_eq!(output(bench), half);
    let mut command = bench.command(&[]);
    command.stdout(append(bench));
    bench.start(command).finish().code(0).silent();
    let all = output(bench);
    assert_eq!(all, format!("{half}\n{text}"));
    bench.is_settled();
}

fn append(bench: &Bench) -> fs::File {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).open(bench.path("out"));
    file.expect("it can be opened")
}

/// The kill that no system call stands at: in the middle of a write.
#[test]
fn killed_within_a_line() {
    let (bench, mut command) = limited("trap - XFSZ; ulimit -c 0");
    command.stdout(append(&bench));
    let run = bench.start(command).finish();
    run.holds(run.was_killed(), "the signal should kill it");
    goes_on_after_half_a_line(&bench);
}

/// What was written of a line cannot be taken back either.
#[test]
fn a_file_that_cannot_be_cut_back() {
    let Some(strace) = Strace::find() else { return };
    let (bench, command) = limited("trap '' XFSZ");
    let mut command = strace.wrap(&bench, &command, &["-e", "inject=ftruncate:error=EIO"]);
    command.stdout(append(&bench));
    let run = bench.start(command).finish();
    run.fails(1, "cannot write to standard output: File too large");
    goes_on_after_half_a_line(&bench);
}

/// A directory of checkpoints beside the bench's own files, and a run that appends to `out`.
fn apart() -> (Bench, impl Fn(&Bench, &str) -> Command) {
    let bench = Bench::of(events(3, minutes_ago(60), 1));
    fs::create_dir(bench.path("state")).expect("it can be made");
    let command = |bench: &Bench, command: &str| {
        let args = [
            "-c",
            "state/checkpoint.json",
            "--batch-events=4",
            "--exec",
            command,
        ];
        bench.bare(&args)
    };
    bench
        .start(command(&bench, "cat >> out"))
        .finish()
        .code(0)
        .silent();
    bench.insert(events_from(1_000, 10, now(), 1));
    (bench, command)
}

#[test]
fn a_directory_that_vanishes_during_the_run() {
    let (bench, command) = apart();
    let run = |how| bench.start(command(&bench, how)).finish();
    let vanishes = run("cat >> out; mv state gone");
    vanishes.fails(
        8,
        "4 events were delivered, but the checkpoint state/checkpoint.json",
    );
    vanishes.says("No such file or directory");
    run("cat >> out").fails(8, "create the directory").asks(0);
    fs::rename(bench.path("gone"), bench.path("state")).unwrap();
    run("cat >> out").code(0).silent();

    let expected = bench.api.with(|world| world.expected());
    let lines: Vec<_> = expected.lines().collect();
    let expected = [&lines[..7], &lines[3..]].concat();
    let out = output(&bench);
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    run("cat >> out").code(0).silent();
    assert_eq!(output(&bench), out);
}

/// A disk of its own, which is full from the start or becomes so between delivery and commit.
#[test]
fn a_disk_that_is_full() {
    let mut mount = Command::new("unshare");
    mount.args([
        "--mount",
        "--map-root-user",
        "mount",
        "-t",
        "tmpfs",
        "none",
        "/mnt",
    ]);
    if !mount
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("skipped: a disk cannot be mounted; files of limited size have to do");
        return;
    }
    let fill = "head -c 100000 /dev/zero > state/fill 2> /dev/null || true";
    for (before, during, code, says) in [
        (
            fill,
            "true",
            8,
            "checkpoint.json cannot be written: No space left on device",
        ),
        (
            "true",
            fill,
            8,
            "4 events were delivered, but the checkpoint state/checkpoint.json cannot",
        ),
    ] {
        let (bench, command) = apart();
        // What is mounted goes with the shell, so that it has to see all of it.
        let script = format!(
            "cp -r state old; mount -t tmpfs -o size=12k none state; cp old/* state
            {before}; \"$0\" \"$@\"; code=$?
            cmp state/checkpoint.json old/checkpoint.json && ls -A state > left
            rm state/fill; \"$0\" \"$@\" 2> second || exit; cp state/* old; exit $code"
        );
        let inner = command(
            &bench,
            &format!("cat >> out; [ -e once ] || {{ >> once; {during}; }}"),
        );
        let mut outer = bench.clean("unshare");
        outer.args(["--mount", "--map-root-user", "sh", "-c", &script, PROGRAM]);
        outer.args(inner.get_args()).env("PATH", "/usr/bin:/bin");
        let run = bench.start(outer).finish();
        run.fails(code, says).says("No space left on device");
        let left = fs::read_to_string(bench.path("left")).unwrap();
        assert_eq!(left, "checkpoint.json\ncheckpoint.json.lock\nfill\n");
        assert_eq!(fs::read_to_string(bench.path("second")).unwrap(), "");
        let expected = bench.api.with(|world| world.expected());
        let lines: Vec<_> = expected.lines().collect();
        let again = if before == fill { 3 } else { 7 };
        let out = output(&bench);
        let expected = [&lines[..again], &lines[3..]].concat();
        assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    }
}
