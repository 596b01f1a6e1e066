//! The kernel fails a system call. Each row names the call, the errors, and the end of the run.
//!
//! However a run ends, the checkpoint is that of the last commit, and the next run does the rest.

// Other systems have calls of other names.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::fs::{self, OpenOptions};
use std::process::Command;

use crate::scene::{Scene, To};
use crate::stand_in::{events, events_from};
use crate::support::{Bench, PROGRAM, minutes_ago, now};
use crate::trace::{Strace, TRACED};

const TEMPORARY: &str = "checkpoint.json.tmp";

/// A part of the message after a delivery whose commit fails.
const NOT_COMMITTED: &str = "events were delivered, but the checkpoint";

/// Each row: where the events go; the call, its file (`.` is the directory) or a word in its arguments,
/// and its number among such calls, from 0; the errors; the exit code; and a part of the only line on
/// stderr, which is empty if that part is.
const FAULTS: &str = "
    File | openat checkpoint.json.lock 0    | EACCES                  | 8 | (os error 13); let this user read and write there, or name
    File | openat checkpoint.json.lock 0    | EIO ENOSPC EROFS        | 8 | ); name another file with --checkpoint
    File | openat checkpoint.json.lock 0    | EINTR                   | 0 |
    File | flock checkpoint.json.lock 0     | EIO ENOLCK              | 8 | cannot take the lock
    File | flock checkpoint.json.lock 0     | EINTR                   | 0 |
    File | openat checkpoint.json 0         | EIO EACCES              | 8 | cannot be read
    File | openat checkpoint.json 0         | EINTR                   | 0 |
    File | read checkpoint.json 0           | EIO                     | 8 | cannot be read
    File | read checkpoint.json 0           | EINTR                   | 0 |

    # The commit before the first request. Some network file systems cannot sync a directory (EINVAL),
    # and need not.
    File | unlink checkpoint.json.tmp 0     | EIO EACCES EROFS        | 8 | checkpoint.json cannot be written:
    File | openat checkpoint.json.tmp 0     | EIO ENOSPC EACCES EROFS | 8 | checkpoint.json cannot be written:
    File | openat checkpoint.json.tmp 0     | EINTR                   | 0 |
    File | write checkpoint.json.tmp 0      | EIO ENOSPC EACCES EROFS | 8 | checkpoint.json cannot be written:
    File | write checkpoint.json.tmp 0      | EINTR                   | 0 |
    File | fsync checkpoint.json.tmp 0      | EIO ENOSPC EACCES EROFS | 8 | checkpoint.json cannot be written:
    File | fsync checkpoint.json.tmp 0      | EINTR                   | 0 |
    File | rename checkpoint.json.tmp 0     | EIO ENOSPC EACCES EROFS | 8 | checkpoint.json cannot be written:
    File | openat . 0                       | EIO EACCES              | 8 | checkpoint.json cannot be written:
    File | fsync . 0                        | EIO ENOSPC EACCES EROFS | 8 | checkpoint.json cannot be written:
    File | fsync . 0                        | EINTR EINVAL            | 0 |

    # The commit after a batch.
    Post | unlink checkpoint.json.tmp 1     | EIO EACCES EROFS        | 8 | events were delivered, but the checkpoint
    Post | openat checkpoint.json.tmp 1     | EIO ENOSPC EACCES EROFS | 8 | events were delivered, but the checkpoint
    Post | write checkpoint.json.tmp 1      | EIO ENOSPC EACCES EROFS | 8 | events were delivered, but the checkpoint
    Post | fsync checkpoint.json.tmp 1      | EIO ENOSPC EACCES EROFS | 8 | events were delivered, but the checkpoint
    Post | rename checkpoint.json.tmp 1     | EIO ENOSPC EACCES EROFS | 8 | events were delivered, but the checkpoint
    Post | fsync . 1                        | EIO ENOSPC EACCES EROFS | 8 | events were delivered, but the checkpoint
    File | rename checkpoint.json.tmp 2     | EIO ENOSPC EACCES EROFS | 8 | events were delivered, but the checkpoint
    Exec | rename checkpoint.json.tmp 3     | EIO ENOSPC EACCES EROFS | 8 | events were delivered, but the checkpoint

    # The commit at the end.
    Post | rename checkpoint.json.tmp 4     | EIO ENOSPC EACCES EROFS | 8 | checkpoint.json cannot be written:

    # The delivery.
    File | write out 0                      | EIO ENOSPC EDQUOT       | 1 | standard output
    File | write out 1                      | ENOSPC                  | 1 | standard output
    File | write out 0                      | EINTR EAGAIN            | 0 |
    File | write out 0                      | EPIPE                   | 141 | standard output
    File | fdatasync out 0                  | EIO ENOSPC              | 1 | standard output
    File | fdatasync out 1                  | EIO                     | 1 | standard output
    File | fdatasync out 0                  | EINTR                   | 0 |
    File | lseek out 0                      | EIO                     | 1 | standard output
    Exec | openat O_RDWR 0                  | EACCES ENOSPC EMFILE    | 6 | cannot write the batch to a file in /tmp:
    Exec | write Resource 0                 | EIO ENOSPC EDQUOT       | 6 | cannot write the batch to a file in /tmp:
    Exec | write Resource 1                 | EINTR                   | 0 |
    Exec | lseek SEEK_SET 0                 | EIO                     | 6 | cannot write the batch to a file in /tmp:
    Exec | clone3 CLONE_VFORK 0             | EAGAIN                  | 6 | cannot run sh
    Exec | wait4 . 0                        | ECHILD                  | 6 | cannot run sh
    Exec | wait4 . 0                        | EINTR                   | 0 |

    # The thread that waits for signals.
    Exec | clone3 CLONE_THREAD 0            | EAGAIN                  | 0 |
";

/// Returns the text of an error.
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

/// Tries the rows of one kind of delivery.
fn try_faults(to: To) {
    let mut scene = Scene::new(to).expect(TRACED);
    let is_row = |line: &&str| line.starts_with(&format!("{to:?} |"));
    let mut tried = 0;
    for row in FAULTS.lines().map(str::trim).filter(is_row) {
        let columns: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, call, errors, code, says] = columns[..] else {
            panic!("{row} does not have five columns");
        };
        let [name, at, which] = call.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{row} does not name a call, a file and a number");
        };
        let which = which.parse().expect("it is a number");
        for error in errors.split(' ') {
            let number = scene.number(name, at, which);
            scene.reset();
            let inject = format!("inject={name}:error={error}:when={number}");
            let run = scene.run_with(&["-e", &inject]);
            run.holds(scene.was_injected(), row);
            run.code(code.parse().expect("it is a number"));
            if says.is_empty() {
                run.silent();
            } else {
                run.says(says).says(in_words(error));
            }
            let cleared = name == "unlink" || !scene.bench.files().contains(&TEMPORARY.to_owned());
            run.holds(cleared, "the temporary file should not be left behind");
            let repeats = scene.recovers(&run);
            let may_repeat = says == NOT_COMMITTED || name == "wait4";
            run.holds(
                repeats == 0 || may_repeat,
                format_args!("{row}: {error}: {repeats} came again"),
            );
            tried += 1;
        }
    }
    assert!(tried > 0, "there should be rows of {to:?}");
}

pub fn a_failed_call_while_writing_to_a_file_loses_nothing() {
    try_faults(To::File);
}

pub fn a_failed_call_while_posting_loses_nothing() {
    try_faults(To::Post);
}

pub fn a_failed_call_while_a_command_runs_loses_nothing() {
    try_faults(To::Exec);
}

pub fn events_that_cannot_be_put_aside_are_delivered_again() {
    let mut scene = Scene::with_refused_events().expect(TRACED);
    let unwritten = "cannot write refused events to dead: ";
    let faults = [
        (
            "openat",
            "EIO ENOSPC EACCES EROFS",
            2,
            "--dead-letter: cannot open dead: ",
        ),
        ("write", "EIO ENOSPC EACCES EROFS", 1, unwritten),
        ("fdatasync", "EIO ENOSPC", 1, unwritten),
    ];
    for (call, errors, code, says) in faults {
        let number = scene.number(call, "dead", 0);
        for error in errors.split(' ') {
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

/// Returns the events that were delivered to a file.
fn output(bench: &Bench) -> String {
    fs::read_to_string(bench.path("out")).expect("it can be read")
}

/// Returns a run that delivers ten events to a file in one batch. The file cannot grow beyond 3,584
/// bytes, which end within a line.
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

/// The next run ends the half line with a line feed and delivers everything again.
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

/// A kill in the middle of a write, which no kill at a system call tries.
pub fn a_kill_within_a_line_loses_nothing() {
    let (bench, mut command) = limited("trap - XFSZ; ulimit -c 0");
    command.stdout(append(&bench));
    let run = bench.start(command).finish();
    run.holds(run.was_killed(), "the signal should kill it");
    goes_on_after_half_a_line(&bench);
}

/// The half line cannot be removed, either.
pub fn half_a_line_that_cannot_be_cut_off_loses_nothing() {
    let strace = Strace::find().expect(TRACED);
    let (bench, command) = limited("trap '' XFSZ");
    let mut command = strace.wrap(&bench, &command, &["-e", "inject=ftruncate:error=EIO"]);
    command.stdout(append(&bench));
    let run = bench.start(command).finish();
    run.fails(1, "cannot write to standard output: File too large");
    goes_on_after_half_a_line(&bench);
}

/// Returns a bench with the checkpoint in a directory of its own, and a run that appends to `out`.
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

pub fn a_directory_that_vanishes_during_a_run_is_named() {
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

/// The checkpoint's disk is full from the start, or fills up between delivery and commit.
pub fn a_full_disk_loses_nothing() {
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
        // The mount ends with the shell, so that all checks are in the script.
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
