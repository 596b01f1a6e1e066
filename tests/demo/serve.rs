//! Stand-ins that run until they are interrupted, and the command lines to try with them.

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use time::UtcDateTime;

use crate::receiver::{Format, Receiver, Rules};
use crate::stand_in::{StandIn, World, events_from, sample_events};

/// Serves the stand-ins, and prints the requests to them. An event arrives every ten seconds.
pub fn serve() -> Result<(), Box<dyn Error>> {
    let own = std::env::current_exe()?;
    let command = own.with_file_name(crate::COMMAND);
    // The program's name decides what it is.
    if std::fs::read_link(&command).ok().as_ref() != Some(&own) {
        let _ = std::fs::remove_file(&command);
        std::os::unix::fs::symlink(&own, &command)?;
    }
    let api = StandIn::start(World::new(sample_events(UtcDateTime::now())));
    let receiver = Receiver::start(Format::Ndjson, Rules::default());
    let (url, post) = (api.url(), receiver.url());
    let token = api.with(|world| world.token.clone());
    println!(
        "Two stand-ins are running: for the API and for a receiver. In another terminal (bash or zsh):\n"
    );
    println!("export TFC_ORG_TOKEN={token}");
    println!(
        "tfc-audit() {{ '{}' --endpoint {url} \"$@\"; }}",
        command.display()
    );
    println!("cd \"$(mktemp -d)\"\n");
    // Never the default checkpoint: runs against the real service need it.
    for (title, arguments) in [
        ("Print new events", "-c printed.json -v".to_owned()),
        (
            "Check that everything is in place",
            format!("-c posted.json --check --post {post}"),
        ),
        (
            "Show what would be posted",
            format!("-c posted.json --dry-run --post {post}"),
        ),
        (
            "Post new events",
            format!("-c posted.json -v --post {post}"),
        ),
        (
            "Pass new events to a program",
            "-c passed.json -v --exec 'wc -l'".to_owned(),
        ),
        (
            "Show the metrics of a run",
            "-c counted.json --metrics m.prom >/dev/null; cat m.prom".to_owned(),
        ),
    ] {
        // All lines can be pasted at once: ":" does nothing, and an interactive zsh knows no comments.
        println!(": {title}\ntfc-audit {arguments}");
    }
    println!(
        "\nThe README's section First run works here, too. An event arrives every ten seconds. Ctrl-C stops the stand-ins.\nRequests:"
    );
    let (mut number, mut asked, mut posted) = (1_000, 0, 0);
    loop {
        let next = Instant::now() + Duration::from_secs(10);
        while Instant::now() < next {
            for request in api.requests().drain(asked..) {
                println!(
                    "API: {} {}?{}",
                    request.method,
                    request.path,
                    request.readable_query()
                );
                asked += 1;
            }
            for request in receiver.received().drain(posted..) {
                println!("receiver: {request}");
                posted += 1;
            }
            thread::sleep(Duration::from_millis(100));
        }
        api.with(|world| world.insert(events_from(number, 1, UtcDateTime::now(), 1)));
        number += 1;
    }
}
