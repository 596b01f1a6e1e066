//! Hostile answers of the service and of receivers. Each ends the run in time and with bounded
//! memory, and the message is one line without control characters.

use std::io::{self, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use flate2::{Compression, write::GzEncoder};

use crate::network::{bench, run};
use crate::relay::Relay;
use crate::support::at_once;

mod receivers;

type Answer = Box<dyn Fn(&mut TcpStream) -> io::Result<()> + Send + Sync>;

/// An answer with this status, these header lines and this body.
fn answer(status: u16, headers: &str, body: impl Into<Vec<u8>>) -> Answer {
    let body = body.into();
    let length = body.len();
    // The relay closes the connection. A batch that is halved needs another one.
    let close = "Connection: close";
    let head =
        format!("HTTP/1.1 {status} Hm\r\n{headers}{close}\r\nContent-Length: {length}\r\n\r\n");
    bytes([head.as_bytes(), &body].concat())
}

/// An answer of these bytes.
fn bytes(bytes: impl Into<Vec<u8>>) -> Answer {
    let bytes = bytes.into();
    Box::new(move |stream| stream.write_all(&bytes))
}

/// An answer that begins with `start` and repeats `more` without end, with a pause in milliseconds.
fn endless(start: &'static str, more: impl Into<Vec<u8>>, pause: u64) -> Answer {
    let more = more.into();
    Box::new(move |stream| {
        stream.write_all(start.as_bytes())?;
        loop {
            stream.write_all(&more)?;
            thread::sleep(Duration::from_millis(pause));
        }
    })
}

/// `start` and this many MiB of spaces, compressed.
fn bomb(start: &str, mebibytes: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(start.as_bytes()).expect("memory");
    let blanks = vec![b' '; 1 << 20];
    (0..mebibytes).for_each(|_| encoder.write_all(&blanks).expect("memory"));
    encoder.finish().expect("memory")
}

fn event(id: &str, more: &str) -> String {
    format!(r#"{{"id":"{id}","timestamp":"2026-01-02T03:04:05.000Z"{more}}}"#)
}

fn page(events: &str) -> String {
    let end = r#""pagination":{"next_page":null,"total_pages":1,"total_count":1}"#;
    format!(r#"{{"data":[{events}],{end}}}"#)
}

fn nested(levels: usize) -> String {
    "[".repeat(levels) + &"]".repeat(levels)
}

const GZIP: &str = "Content-Encoding: gzip\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Control characters that change how a terminal shows text.
const CONTROLS: &str = "\x1b]0;title\x07\x1b[2J\u{9b}31m\u{202e}\r\n\0";

/// A short time limit, which leaves a busy machine time for everything else.
const SOON: &str = "--timeout=2s";

/// The short time limit for answers that have to reach it. No other answer reaches the long one, on
/// a busy machine either.
fn within(reason: &str) -> &'static str {
    if reason.contains("in time") {
        SOON
    } else {
        "--timeout=10m"
    }
}

/// If the service answers so, the run ends with this code and one line that contains `reason`, with
/// bounded memory.
#[track_caller]
fn the_service(answer: Answer, code: i32, reason: &str) {
    let bench = bench();
    let relay = Relay::answering(answer);
    let args = [within(reason), "--retries=0"];
    let run = run(&bench, &relay.url(), &args, &[]);
    run.fails(code, reason).stays_below(200);
    assert_eq!(relay.heads().len(), 1, "{run}");
}

/// If the receiver answers so, a run with each of these formats ends with this code and `reason`, and
/// with bounded memory.
#[track_caller]
fn the_receiver(answer: Answer, formats: &[&str], code: i32, reason: &str) {
    the_receiver_within(within(reason), answer, formats, code, reason);
}

/// As [`the_receiver`], with another time limit.
#[track_caller]
fn the_receiver_within(timeout: &str, answer: Answer, formats: &[&str], code: i32, reason: &str) {
    let relay = Relay::answering(answer);
    at_once(formats, |format| {
        let bench = bench();
        let post = format!("{}/logs?key=hunter2", relay.url());
        let args = [
            "--post",
            &post,
            "--format",
            format,
            "--header=X-Key: hunter2",
        ];
        let args = [&args[..], &[timeout, "--retries=0"]].concat();
        let run = run(&bench, &bench.api.url(), &args, &[]);
        if code == 0 {
            run.code(0).silent();
        } else {
            run.fails(code, reason);
        }
        run.stays_below(100);
    });
}

#[test]
fn endless_bodies_of_the_service_end_the_run() {
    let large = "the answer is larger than 64 MiB";
    let late = "no complete answer in time";
    let busy = "answered 503: busy";
    let blanks = vec![b' '; 1 << 16];
    let chunk = [b"10000\r\n", &blanks[..], b"\r\n"].concat();
    let cases = [
        (endless("HTTP/1.1 200 OK\r\n\r\n{", blanks, 0), large),
        (endless(CHUNKED, chunk, 0), large),
        (answer(200, "", vec![b' '; 65 << 20]), large),
        (endless("HTTP/1.1 200 OK\r\n\r\n{", " ", 50), late),
        (endless(CHUNKED, "1\r\n \r\n", 50), late),
        (endless("HTTP/1.1 503 No\r\n\r\nbusy", " busy", 0), busy),
    ];
    at_once(cases, |(answer, reason)| the_service(answer, 5, reason));
}

#[test]
fn the_size_of_a_page_is_limited_after_decompression() {
    the_service(
        answer(200, GZIP, bomb("{", 100)),
        5,
        "the answer is larger than 64 MiB",
    );
}

#[test]
fn invalid_gzip_is_an_error() {
    let whole = bomb(&page(""), 0);
    let half = &whole[..whole.len() / 2];
    the_service(answer(200, GZIP, page("")), 5, "gzip");
    the_service(answer(200, GZIP, half), 5, "gzip");
    let name = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\u{1f}";
    let name = Box::new(move |stream: &mut TcpStream| {
        stream.write_all(&name.as_bytes()[..name.len() - 1])?;
        stream.write_all(b"\x1f\x8b\x08\x08\0\0\0\0\0\x03")?;
        loop {
            stream.write_all(&[b'a'; 10_000])?;
        }
    });
    the_service(name, 5, "gzip");
}

#[test]
fn endless_headers_end_the_run() {
    let cases = || -> [(Answer, &str); 7] {
        [
            (
                endless("HTTP/1.1 200 OK\r\n", "X: 1\r\n", 0),
                "not valid HTTP",
            ),
            (
                endless("HTTP/1.1 200 OK\r\nX: ", "a".repeat(1000), 0),
                "larger than 64 KiB",
            ),
            (
                endless("", "HTTP/1.1 100 Continue\r\n\r\n", 50),
                "no complete answer in time",
            ),
            (
                endless("HTTP/1.1 200 OK\r\nX: ", "a", 50),
                "no complete answer in time",
            ),
            (endless("", "a".repeat(1000), 0), "not valid HTTP"),
            (
                Box::new(|_: &mut TcpStream| {
                    thread::sleep(Duration::from_secs(4));
                    Ok(())
                }),
                "no complete answer in time",
            ),
            (bytes(""), "the connection broke off"),
        ]
    };
    let cases = [false, true].map(|posts| cases().map(|case| (posts, case)));
    at_once(cases.into_iter().flatten(), |(posts, (answer, reason))| {
        if posts {
            the_receiver(answer, &["ndjson"], 6, reason);
        } else {
            the_service(answer, 5, reason);
        }
    });
}

#[test]
fn wrong_lengths_of_a_body_are_errors() {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n{}", page(""));
    for (lines, reason) in [
        ("Content-Length: 100000", "the connection broke off"),
        ("Content-Length: 20", "the body is not a page"),
        (
            "Content-Length: 18446744073709551615",
            "the connection broke off",
        ),
        ("Content-Length: 99999999999999999999", "not valid HTTP"),
        ("Content-Length: -5", "not valid HTTP"),
        ("Content-Length: five", "not valid HTTP"),
        ("Content-Length: 5\r\nContent-Length: 6", "not valid HTTP"),
        ("Transfer-Encoding: chunked", "not valid HTTP"),
    ] {
        the_service(bytes(head(lines)), 5, reason);
    }
    for (chunks, reason) in [
        ("zz\r\nhello", "not valid HTTP"),
        ("-5\r\nhello", "not valid HTTP"),
        ("ffffffffffffffff\r\nhello", "the connection broke off"),
        ("fffffffffffffffffffff\r\nhello", "not valid HTTP"),
        ("5\r\nhelloworld", "not valid HTTP"),
        ("5\r\nhello\r\n", "the connection broke off"),
    ] {
        the_service(bytes([CHUNKED, chunks].concat()), 5, reason);
    }
    let extension = [CHUNKED, "5;"].concat();
    the_service(
        endless(extension.leak(), "a".repeat(1000), 0),
        5,
        "not valid HTTP",
    );
}

#[test]
fn bytes_after_a_body_do_not_answer_the_next_request() {
    let bench = bench();
    let other = page(&event("smuggled", ""));
    let body = page(&event("first", ""))
        .replace(":null", ":2")
        .replace(":1}", ":2}");
    let extra = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{other}",
        other.len()
    );
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let relay = Relay::answering(bytes([head, body, extra].concat()));
    let run = run(&bench, &relay.url(), &["--retries=0"], &[]);
    assert!(relay.heads().len() > 1, "{run}");
    run.holds(!run.stdout.contains("smuggled"), "nobody asked for it");
}

#[test]
fn hostile_pages_are_refused_with_the_reason() {
    let million = vec![event("a", ""); 1_000_000].join(",");
    let long = "x".repeat(1 << 20);
    for (body, reason) in [
        (nested(1_000_000), "the body is not a page"),
        (
            page(&nested(1_000_000)),
            "event 1 of the page is not as documented",
        ),
        ("[".repeat(10_000_000), "the body is not a page"),
        (
            page("").replace("null", &nested(1_000_000)),
            "the body is not a page",
        ),
        (page(&million), "more than 10000 events"),
        (
            page(&["0,".repeat(20_000_000), "0".to_owned()].concat()),
            "more than 10000 events",
        ),
        (
            page(&event(&long, "")),
            "event 1 of the page is not as documented (id is longer than 512 bytes)",
        ),
        (
            page(&event("a", "").replace("2026", &long)),
            "event 1 of the page is not as documented (timestamp is not RFC 3339)",
        ),
        (
            page("").replace("null", &"9".repeat(1 << 20)),
            "number out of range",
        ),
        ("\0".repeat(1000), r"\u{0}\u{0}"),
        (page(&event("a\0", "")), "the body is not a page"),
        (
            CONTROLS.to_owned(),
            r"\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{202e}\r\n\u{0}",
        ),
        (
            page(&event(r"a", "").replace("2026", r"\u001b[2J")),
            r"\u001b[2J",
        ),
    ] {
        the_service(answer(200, "", body), 5, reason);
    }
    let invalid = page(&event("a", r#","x":"@@""#)).into_bytes();
    let invalid = invalid
        .into_iter()
        .map(|byte| if byte == b'@' { 0xff } else { byte });
    the_service(
        answer(200, "", invalid.collect::<Vec<_>>()),
        5,
        "the body is not UTF-8 from byte",
    );
}

#[test]
fn control_characters_are_escaped_in_messages() {
    let shown = r"\u{1b}]0;title\u{7}\u{1b}[2J";
    for (status, code) in [(401, 4), (400, 5), (503, 5), (204, 5)] {
        let text = if status == 204 { "" } else { CONTROLS };
        let shown = if status == 204 { "204" } else { shown };
        the_service(answer(status, "", text), code, shown);
    }
    for (status, code) in [(401, 7), (400, 7), (413, 7), (503, 6)] {
        the_receiver(
            answer(status, "", CONTROLS),
            &["ndjson", "elasticsearch", "loki"],
            code,
            shown,
        );
    }
    the_receiver(
        answer(200, "", CONTROLS),
        &["splunk-hec", "elasticsearch", "loki"],
        7,
        shown,
    );
    for head in [
        "HTTP/1.1 200 \x1b[2J\r\n\r\n",
        "HTTP/1.1 200 OK\r\nDate: \x1b[2J\r\n\r\n",
        "\x15\x03\x01\x00\x02\x02",
    ] {
        the_service(bytes(head), 5, "not valid HTTP");
        the_receiver(bytes(head), &["ndjson"], 6, "not valid HTTP");
    }
    // The user's own arguments are escaped, too.
    let bench = bench();
    for arg in [
        "--checkpoint=\x1b[2J/\n",
        "--\x1b[2J",
        "--label=\x1b[2J",
        "--token-file=\x1b[2J",
        "--format=\x1b[2J",
    ] {
        let run = run(&bench, &bench.api.url(), &[arg], &[]);
        run.code(2).says("tfc-audit: ");
    }
}

#[test]
fn control_characters_are_escaped_in_the_warning_about_a_refused_event() {
    let id = r"\u001b[2J\u202e";
    let relay = Relay::answering(answer(
        200,
        "",
        page(&[event(id, ""), event("a", "")].join(",")),
    ));
    let refusal = r#"{"errors":true,"items":[{"create":{"status":201}},{"create":{"status":400,"error":"\u001b[2J"}}]}"#;
    let receiver = Relay::answering(answer(200, "", refusal));
    let bench = bench();
    let post = format!("{}/logs", receiver.url());
    let args = [
        "--post",
        &post,
        "--format=elasticsearch",
        "--dead-letter=dead\u{1b}[2J",
    ];
    let run = run(&bench, &relay.url(), &args, &[]);
    run.code(0)
        .warns(r"the event \u{1b}[2J\u{202e} was refused and is now in dead\u{1b}[2J");
    let letters = std::fs::metadata(bench.path("dead\u{1b}[2J")).expect("it is there");
    let mode = std::os::unix::fs::MetadataExt::mode(&letters);
    assert_eq!(mode & 0o777, 0o600);
}
