//! The recipes "spool.sh" and "rsyslog.conf" with a real rsyslog, which sends to a socket of the test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;

use crate::needs::{found, rsyslog};
use crate::receivers::sample;
use crate::server::TOO_LONG;
use crate::stand_in::{events_from, stamp};
use crate::support::{Bench, now};

/// An rsyslog that ends with the test, or when it is dropped.
struct Rsyslog(Child);

impl Rsyslog {
    fn start(bench: &Bench) -> Self {
        let mut command = Command::new(found(rsyslog));
        command.args(["-n", "-f", "rsyslog.conf", "-i", "rsyslog.pid"]);
        command.current_dir(bench.path(""));
        Self(command.spawn().expect("rsyslog can be started"))
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        // By a signal that it saves its place for.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Passes on each message of all connections, as RFC 6587 counts them.
fn messages(listener: TcpListener) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = BufReader::new(connection.unwrap());
            let mut count = Vec::new();
            while connection.read_until(b' ', &mut count).unwrap_or(0) > 0 {
                let text = String::from_utf8(count.split_off(0)).unwrap();
                let mut message = vec![0; text.trim().parse().expect("a length")];
                connection.read_exact(&mut message).unwrap();
                if sender.send(String::from_utf8(message).unwrap()).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// Each event arrives once, as its own bytes behind its own time, and a large one in one piece.
pub fn rsyslog_sends_each_event_with_its_time() {
    let mut more = events_from(4000, 1, now(), 1);
    more[0].text = more[0].text.replacen(
        '{',
        &format!("{{\"filler\":\"{}\",", "x".repeat(300_000)),
        1,
    );
    let bench = sample();
    bench.insert(more);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let here = bench.path("").display().to_string();
    let here = here.trim_end_matches('/');
    let text = include_str!("../../fixtures/recipes/rsyslog.conf");
    let tls = text
        .find("streamDriver=")
        .and_then(|at| Some(&text[at..at + text[at..].find("queue.type")?]));
    let text = text
        .replace(tls.expect("the recipe uses TLS"), "")
        .replace(
            "siem.example.com\" port=\"6514\"",
            &format!("127.0.0.1\" port=\"{port}\""),
        )
        .replace("/var/lib/tfc-audit", here);
    let text = format!("global(workDirectory=\"{here}\")\n{text}");
    fs::write(bench.path("rsyslog.conf"), text).unwrap();
    let received = messages(listener);

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/recipes/spool.sh");
    let command = format!("{script} {here}/acme/spool");
    let deliver = || bench.run(&["--exec", &command, "--batch-events=50"]);
    let mut expected: Vec<_> = bench
        .in_order()
        .into_iter()
        .map(|event| (event.text, format!("<110>1 {} ", stamp(event.time))))
        .collect();
    deliver().code(0).silent();
    let rsyslog = Rsyslog::start(&bench);
    // It reads several files in any order.
    while !expected.is_empty() {
        let message = received.recv_timeout(TOO_LONG).expect("a message");
        let (head, body) = message.split_once(" - - - ").expect("a header");
        let is = |(text, _): &(String, String)| text == body.trim_end();
        let (_, start) = expected.swap_remove(expected.iter().position(is).expect(&message));
        assert!(
            head.starts_with(&start) && head.ends_with(" tfc-audit"),
            "{head}"
        );
    }
    // What comes while it does not run is sent later; nothing is sent again.
    drop(rsyslog);
    let new = events_from(5000, 3, now(), 1);
    bench.insert(new.clone());
    deliver().code(0).silent();
    let _rsyslog = Rsyslog::start(&bench);
    for _ in &new {
        let message = received.recv_timeout(TOO_LONG).expect("a message");
        assert!(
            new.iter().any(|event| message.contains(&event.id)),
            "{message}"
        );
    }
}
