//! SIGINT and SIGTERM: they end the run at once, and with it the program of `--exec`.
//!
//! The program is in a process group of its own, so that its children can be ended with it. A
//! terminal's Ctrl-C does not reach that group, and a run that died of it would leave the program
//! behind.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::clock::{Clock, SystemClock, within};

/// The process group of the program that runs now. Signals are sent to the process, so the process
/// has one such value.
static GROUP: Mutex<Option<Pid>> = Mutex::new(None);

fn group() -> MutexGuard<'static, Option<Pid>> {
    GROUP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the first SIGINT or SIGTERM from now on end the program that runs, and then the process.
///
/// The process dies of the signal. Process 1 of a container cannot die of one: it exits with 128 plus
/// the signal's number. If no thread can be started, signals act as they do by default.
pub fn listen(clock: SystemClock) {
    let obey = move || -> Option<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).ok()?;
        let signal = signals.forever().next()?;
        // Stays locked: no other program is started, and the end of this one is not reported.
        let running = group();
        if let Some(group) = *running {
            end(group, clock);
        }
        if process::id() != 1 {
            let _ = emulate_default_handler(signal); // it returns for unknown signals only
        }
        process::exit(128 + signal);
    };
    let _ = thread::Builder::new().spawn(obey);
}

/// Runs a program in a process group of its own. Returns its status, or `None` if it took longer than
/// `limit` and the group was ended.
///
/// # Errors
/// If the program cannot be started or waited for.
pub fn run(
    command: &mut Command,
    limit: Duration,
    clock: SystemClock,
) -> io::Result<Option<ExitStatus>> {
    let mut running = group();
    let mut child = command.process_group(0).spawn()?;
    let leader = Pid::from_raw(child.id().cast_signed());
    *running = Some(leader);
    drop(running);
    let status = within(limit, move || child.wait());
    if !matches!(status, Ok(Some(_))) {
        end(leader, clock);
    }
    *group() = None;
    status?.transpose()
}

/// Kills a process group and waits until its processes are gone, for at most 0.2 s: a dead process
/// stays where process 1 of a container does not wait for it.
fn end(group: Pid, clock: SystemClock) {
    for _ in 0..20 {
        if killpg(group, Signal::SIGKILL).is_err() {
            return;
        }
        clock.sleep(Duration::from_millis(10));
    }
}
