//! The network between the command and the other side: certificates, proxies, and the ways that
//! secrets may take.

use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, date_time_ymd};

use crate::receiver::{Format, Receiver, Rules, Step};
use crate::relay::{Authority, Identity, Relay};
use crate::stand_in::{events, ids};
use crate::support::{AN_HOUR, Bench, Outcome, PROGRAM, now};

mod proxies;
mod tls;

/// The names of this machine.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];
/// A host that only a proxy can reach.
const FAR: &str = "source.example.com";

pub fn bench() -> Bench {
    Bench::of(events(30, now(), 1))
}

/// The port of an address that ends in it.
fn port(url: &str) -> u16 {
    let place = url.trim_start_matches("http://");
    let port = place.split('/').next().and_then(|it| it.rsplit_once(':'));
    port.expect("a port").1.parse().expect("a number")
}

/// A run with this endpoint, and without a checkpoint, because the endpoint differs each time.
#[track_caller]
pub fn run(bench: &Bench, endpoint: &str, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let mut command = bench.clean(PROGRAM);
    command.args(["--endpoint", endpoint, "--no-checkpoint"]);
    command.args(args).envs(variables.iter().copied());
    bench.start(command).finish()
}

/// Writes a file into the bench's directory and returns its path.
fn write(bench: &Bench, name: &str, content: &str) -> String {
    let path = bench.path(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("it can be made");
    fs::write(&path, content).expect("it can be written");
    path.display().to_string()
}

/// 0.0.0.0 is an address of this machine that is not known as one.
#[test]
fn no_secret_goes_over_plain_http_to_another_machine() {
    let bench = bench();
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let elsewhere = |url: &str| url.replace("127.0.0.1", "0.0.0.0");
    run(&bench, &elsewhere(&bench.api.url()), &[], &[])
        .fails(2, "over https only")
        .asks(0);
    let post = elsewhere(&receiver.url());
    let headers = format!("@{}", write(&bench, "headers", "X-Key: hunter2\n"));
    for header in ["X-Key: hunter2", &headers] {
        let args = ["--post", &post, "--header", header];
        run(&bench, &bench.api.url(), &args, &[])
            .fails(2, "--allow-plain-http")
            .asks(0);
        assert_eq!(receiver.count(), 0);
    }
    let args = ["--post", &post, "--header", &headers, "--allow-plain-http"];
    run(&bench, &bench.api.url(), &args, &[]).code(0).silent();
    assert_eq!(receiver.received()[0].header("x-key"), "hunter2");
    run(&bench, &bench.api.url(), &["--post", &post], &[])
        .code(0)
        .silent();
    assert_eq!(receiver.count(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn other_users_of_the_machine_see_no_secret_of_the_process() {
    let bench = bench();
    // Until the run is killed.
    bench.api.with(|world| world.delay = AN_HOUR);
    write(&bench, "token", "test-token\n");
    write(&bench, "headers", "Authorization: Bearer hunter2\n");
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let url = receiver.url();
    let args = ["--token-file=token", "--header=@headers", "--post", &url];
    let start = || {
        let mut command = bench.command(&args);
        command.env_remove("TFC_ORG_TOKEN");
        bench.start(command)
    };
    let mut running = start();
    running.has_asked(1);
    for name in ["cmdline", "environ", "comm"] {
        let path = format!("/proc/{}/{name}", running.child.id());
        let text = fs::read_to_string(path).expect("it is ours");
        assert!(
            !text.contains("test-token") && !text.contains("hunter2"),
            "{text}"
        );
    }
    running.child.kill().expect("it waits for the answer");
    running.finish();
    bench.api.with(|world| world.delay = Duration::ZERO);
    start().finish().code(0).silent();
    assert_eq!(
        receiver.received()[0].header("authorization"),
        "Bearer hunter2"
    );
}

#[test]
fn an_invalid_token_is_named_by_its_place_and_not_shown() {
    let bench = bench();
    let files = [
        "hunter2\nhunter2",
        "hunter2\r\nX: y",
        "hunter 2",
        "hünter2",
        "hunter2\0",
        "",
    ];
    for token in files {
        write(&bench, "token", token);
        let mut command = bench.command(&["--token-file=token"]);
        command.env_remove("TFC_ORG_TOKEN");
        let run = bench.start(command).finish();
        run.fails(2, "--token-file: the token in token ").asks(0);
        run.holds(!run.stderr.contains("nter"), "it should not be shown");
    }
    let mut command = bench.command(&["--token-file=token\u{1b}[2J\nx"]);
    command.env_remove("TFC_ORG_TOKEN");
    bench
        .start(command)
        .finish()
        .fails(2, r"token\u{1b}[2J\nx: No such file");
}
