//! The run as process 1 of a container, for which the kernel drops a signal that is not caught.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stand_in::events;
use crate::support::{AN_HOUR, Bench, now};

/// Returns the only child of a process.
fn child(process: u32) -> Pid {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    Pid::from_raw(children.unwrap().trim().parse().unwrap())
}

pub fn a_signal_ends_process_1_of_a_container() {
    let bench = Bench::of(events(3, now(), 1));
    let start = |command: &str| {
        let inner = bench.command(&["--exec", command]);
        let mut outer = bench.clean("unshare");
        outer.args(["--pid", "--fork", "--kill-child", "--map-root-user"]);
        outer.arg(inner.get_program()).args(inner.get_args());
        bench.start(outer)
    };
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        // While it waits for the service, and while a program runs.
        for (delay, is_there) in [(AN_HOUR, ""), (Duration::ZERO, "started")] {
            bench.api.with(|world| world.delay = delay);
            let _ = fs::remove_file(bench.path("started")); // the first run makes none
            let run = start("touch started; sleep 3600");
            run.has_asked(1);
            while !bench.path(is_there).exists() {
                thread::sleep(Duration::from_millis(5));
            }
            kill(child(run.child.id()), signal).unwrap();
            run.finish().code(code).silent().prints_nothing();
        }
    }
    let run = start("echo $PPID > parent; cat > out");
    run.finish().code(0).silent();
    assert_eq!(fs::read_to_string(bench.path("parent")).unwrap(), "1\n");
}
