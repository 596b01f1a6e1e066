//! Delivery by POST to a receiver that answers as told: which answers acknowledge, are retried, or
//! refuse. Whatever happens, the receiver acknowledges every event once and in order.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::receiver::{Format, Item, Receiver, Rules, Step};
use crate::stand_in::{Event, events, events_from, sample_events};
use crate::support::{Bench, Outcome, Running, TOKEN, at_once, minutes_ago, now};

mod refusals;

/// Every run gets it as a header and in the receiver's address. No run may show it.
const SECRET: &str = "hunter2-hidden";

/// A service, a receiver, and runs that ship from one to the other.
pub struct Delivery {
    pub bench: Bench,
    pub receiver: Receiver,
    args: Vec<String>,
}

impl Delivery {
    /// These events, for a receiver with these rules. Nothing is retried.
    pub fn new(format: Format, events: Vec<Event>, rules: Rules) -> Self {
        let receiver = Receiver::start(format, rules);
        let url = format!("{}?key={SECRET}", receiver.url());
        let header = format!("Authorization: Bearer {SECRET}");
        let args = ["--post", &url, "--header", &header, "--retries=0"];
        let mut args = args.map(str::to_owned).to_vec();
        if format != Format::Ndjson {
            args.push(format!("--format={}", format.name()));
        }
        Self {
            bench: Bench::of(events),
            receiver,
            args,
        }
    }

    /// This number of events, one a second, for a receiver with the rules that `change` makes.
    pub fn of(format: Format, count: usize, change: impl FnOnce(&mut Rules, &[Event])) -> Self {
        let events = events(count, now(), 1);
        let mut rules = Rules::default();
        change(&mut rules, &events);
        Self::new(format, events, rules)
    }

    /// Adds these arguments to every run. They replace earlier ones of their name.
    pub fn with(mut self, args: &[&str]) -> Self {
        for &arg in args {
            let name = arg.split_inclusive('=').next().unwrap_or_default();
            self.args.retain(|given| !given.starts_with(name));
            self.args.push(arg.to_owned());
        }
        self
    }

    /// Adds a file for dead letters.
    pub fn with_dead_letters(self) -> Self {
        let path = self.bench.path("dead.ndjson");
        self.with(&[&format!("--dead-letter={}", path.display())])
    }

    /// The content of the file of dead letters.
    pub fn dead_letters(&self) -> String {
        fs::read_to_string(self.bench.path("dead.ndjson")).unwrap_or_default()
    }

    /// Runs the command to its end, with more arguments.
    #[track_caller]
    pub fn run_with(&self, more: &[&str]) -> Outcome {
        let args = self.args.iter().map(String::as_str);
        let args: Vec<_> = args.chain(more.iter().copied()).collect();
        let run = self.bench.run(&args);
        let shown = run.stdout.clone() + &run.stderr + &self.dead_letters();
        run.holds(!shown.contains(SECRET), "the secret should not be shown");
        run.prints_nothing();
        for request in self.receiver.received() {
            let sent = format!("{:?}", request.headers);
            run.holds(
                !sent.contains(TOKEN),
                "the token should not reach the receiver",
            );
            run.holds(sent.contains(SECRET), "each request should have the header");
        }
        run
    }

    /// Starts the command.
    pub fn start(&self) -> Running<'_> {
        let args: Vec<_> = self.args.iter().map(String::as_str).collect();
        self.bench.start(self.bench.command(&args))
    }

    #[track_caller]
    pub fn run(&self) -> Outcome {
        self.run_with(&[])
    }

    /// The IDs of all events in the order of delivery, except these.
    pub fn expected_without(&self, ids: &[&str]) -> Vec<String> {
        self.bench.api.with(|world| {
            let all = world.in_order().into_iter();
            let all = all.filter(|event| !ids.contains(&event.id.as_str()));
            all.map(|event| event.id.clone()).collect()
        })
    }

    /// The first `count` events were acknowledged, in order, each once, and no other.
    #[track_caller]
    pub fn delivered(&self, count: usize) -> &Self {
        let expected = self.expected_without(&[]);
        self.has(&expected[..count])
    }

    /// These events were acknowledged, in order, each once, and no other.
    #[track_caller]
    pub fn has(&self, expected: &[String]) -> &Self {
        let is = self.receiver.delivered_ids();
        if is != expected {
            let equal = is
                .iter()
                .zip(expected)
                .take_while(|(is, should)| is == should);
            panic!(
                "{} events were acknowledged, not {}; they differ after {}. The receiver's requests:\n{}",
                is.len(),
                expected.len(),
                equal.count(),
                self.receiver.summary()
            );
        }
        self
    }

    /// The receiver got this number of requests.
    #[track_caller]
    pub fn requests(&self, count: usize) -> &Self {
        let (is, summary) = (self.receiver.count(), self.receiver.summary());
        assert_eq!(is, count, "the receiver's requests:\n{summary}");
        self
    }

    /// The receiver takes everything from now on. The next run delivers the rest.
    #[track_caller]
    pub fn recovers(&self) {
        self.receiver.with(|rules| rules.always = Step::Usual);
        self.run().code(0).silent();
        let all = self.bench.api.with(|world| world.events.len());
        self.delivered(all).is_settled();
    }

    /// One more run delivers nothing and says nothing.
    #[track_caller]
    pub fn is_settled(&self) {
        let before = self.receiver.count();
        self.run().code(0).silent();
        self.requests(before);
    }

    /// The number of events up to the checkpoint's `last_timestamp`.
    pub fn committed(&self) -> usize {
        let last = self.bench.checkpoint_field("last_timestamp");
        let Some(last) = last.as_str().map(str::to_owned) else {
            return 0;
        };
        self.bench.api.with(|world| {
            let passed = |event: &&Event| {
                let event: Value = serde_json::from_str(&event.text).expect("JSON");
                event["timestamp"]
                    .as_str()
                    .is_some_and(|time| time <= last.as_str())
            };
            world.events.iter().filter(passed).count()
        })
    }
}

/// Rules that take everything except these events.
pub fn poisoned(events: &[&Event]) -> Rules {
    Rules {
        poison: events.iter().map(|event| event.id.clone()).collect(),
        ..Rules::default()
    }
}

/// This number of usual answers.
pub fn usual(count: usize) -> impl Iterator<Item = Step> {
    std::iter::repeat_n(Step::Usual, count)
}

fn splunk(status: u16, code: u32) -> Step {
    let body = format!(r#"{{"text":"as scripted","code":{code}}}"#);
    Step::answer(status, &[], &body)
}

#[test]
fn every_format_takes_everything_in_order_on_one_connection() {
    for format in Format::ALL {
        for gzip in [false, true] {
            let count = if format == Format::Json { 25 } else { 250 };
            let delivery = Delivery::of(format, count, |_, _| ());
            let delivery = delivery.with(&["--batch-events=100"]);
            let delivery = if gzip {
                delivery.with(&["--gzip"])
            } else {
                delivery
            };
            delivery.run().code(0).silent();
            delivery.delivered(count).is_settled();
            delivery.requests(if format == Format::Json { 25 } else { 3 });
            for request in delivery.receiver.received() {
                assert_eq!((request.connection, request.method.as_str()), (1, "POST"));
                let content_type = match format {
                    Format::Ndjson | Format::Bulk => "application/x-ndjson",
                    Format::Otlp => "application/x-protobuf",
                    _ => "application/json",
                };
                assert_eq!(request.header("content-type"), content_type);
                assert_eq!(request.header("content-encoding") == "gzip", gzip);
                let path = format!("{}?key={SECRET}", format.path());
                assert_eq!(request.path, path);
            }
            if format != Format::Bulk {
                let text = |item: Item| item.text + "\n";
                let all: String = delivery
                    .receiver
                    .delivered()
                    .into_iter()
                    .map(text)
                    .collect();
                assert_eq!(all, delivery.bench.api.with(|world| world.expected()));
            }
        }
    }
}

#[test]
fn a_receiver_that_is_down_does_not_cost_the_whole_list() {
    let down = Rules {
        always: Step::status(503),
        ..Rules::default()
    };
    let delivery = Delivery::new(Format::Ndjson, events(30_000, now(), 100), down);
    let run = delivery.run();
    run.code(6).says("503");
    run.holds(run.asked.len() < 30, "some of the 30 pages should stay");
    delivery.requests(1).delivered(0);
    delivery
        .receiver
        .with(|rules| rules.script.extend(usual(8)));
    delivery.run().code(6).says("503");
    let taken = delivery.receiver.delivered_ids().len();
    assert!(taken > 4_000, "{taken}");
    delivery.requests(10).delivered(taken).recovers();
}

/// Each answer to a first batch: the exit code, and a part of the message. Nothing is acknowledged,
/// retried or put among the dead letters, and the next run delivers. The unit tests of the formats try
/// every status.
#[test]
fn only_the_success_of_a_format_acknowledges() {
    use Format::{Bulk, Loki, Ndjson, Splunk};
    let html = || Step::answer(200, &[], "<html>Sign in");
    let cases = [
        (Ndjson, Step::status(429), 6, "429"),
        (Ndjson, Step::status(401), 7, "401"),
        (Ndjson, html(), 7, "Sign in"),
        (Ndjson, Step::Unread, 6, ""),
        (Ndjson, Step::Unanswered, 6, ""),
        (Splunk, Step::Half, 6, "broke off"),
        (Splunk, splunk(200, 7), 7, "as scripted"),
        (Bulk, Step::Half, 6, "broke off"),
        (Bulk, html(), 7, "Sign in"),
        (Loki, Step::answer(260, &[], "blocked"), 7, "260"),
    ];
    for (format, step, exit, named) in cases {
        let delivery = Delivery::of(format, 5, |rules, _| rules.script.push_back(step.clone()));
        let delivery = delivery.with_dead_letters();
        delivery.run().code(exit).says(named);
        assert_eq!(delivery.dead_letters(), "", "{format:?} {step:?}");
        delivery.requests(1).run().code(0).silent();
        delivery.delivered(5);
    }
}

#[test]
fn a_status_acknowledges_although_its_body_breaks_off() {
    for format in [Format::Ndjson, Format::JsonArray] {
        let delivery = Delivery::of(format, 5, |rules, _| rules.script.push_back(Step::Half));
        delivery.run().code(0).silent();
        delivery.delivered(5).is_settled();
    }
}

#[test]
fn temporary_failures_are_retried() {
    let busy = Step::answer(503, &[("Retry-After", "0")], r#"{"text":"busy","code":9}"#);
    let cases = [
        (Format::Ndjson, vec![Step::status(408), Step::status(425)]),
        (Format::Ndjson, vec![Step::Unread, Step::Unanswered]),
        (Format::Splunk, vec![busy, splunk(200, 9)]),
        (Format::Bulk, vec![Step::Half, Step::status(429)]),
        (Format::Loki, vec![Step::status(500), Step::status(502)]),
    ];
    at_once(cases, |(format, steps)| {
        let delivery = Delivery::of(format, 5, |rules, _| rules.script.extend(steps));
        let delivery = delivery.with(&["--retries=2"]);
        delivery.run().code(0).silent();
        delivery.delivered(5).requests(3).is_settled();
    });
}

/// A wait that is too long ends the run. So the test sees that it was understood, and does not have
/// to wait.
#[test]
fn a_wait_that_the_receiver_names_is_honoured() {
    let date = ("Date", "Mon, 23 Nov 2026 20:00:00 GMT");
    let at = ("Retry-After", "Mon, 23 Nov 2026 22:00:00 GMT");
    for (code, headers) in [(429, vec![("Retry-After", "7200")]), (503, vec![date, at])] {
        let step = Step::answer(code, &headers, "later");
        let delivery = Delivery::of(Format::Ndjson, 5, |rules, _| rules.script.push_back(step));
        let delivery = delivery.with(&["--retries=5"]);
        delivery.run().code(6).says("7200");
        delivery.requests(1).recovers();
    }
}

/// The limit leaves a busy machine time for everything before the answer that does not come.
#[test]
fn a_slow_answer_is_waited_for_and_one_that_does_not_come_times_out() {
    let slow = Step::Spread(Duration::from_millis(200));
    let delivery = Delivery::of(Format::Bulk, 5, |rules, _| {
        rules.script.extend([slow, Step::Stall]);
    });
    let delivery = delivery.with(&["--batch-events=2", "--timeout=2s"]);
    delivery.run().code(6).says("timeout");
    delivery.delivered(2).recovers();
}

#[test]
fn max_time_ends_a_run_that_waits_for_an_answer() {
    let delivery = Delivery::of(Format::Ndjson, 5, |rules, _| {
        rules.script.push_back(Step::Stall);
    });
    let run = delivery.with(&["--max-time=3s"]).run();
    run.fails(3, "while waiting for http://127.0.0.1:");
}

/// A message is cut after it was masked: half a secret is one, too.
#[test]
fn a_message_about_an_item_shows_no_part_of_a_header() {
    let secret = "abcdefghijklmnopqrstuvwxyz";
    let reason = format!("{}{secret}", "A".repeat(150));
    let item = serde_json::json!({"create": {"status": 403, "error": {"type": "denied", "reason": reason}}});
    let body = serde_json::json!({"errors": true, "items": [item]}).to_string();
    let delivery = Delivery::of(Format::Bulk, 1, |rules, _| {
        rules.script.extend([Step::answer(200, &[], &body)]);
    });
    let run = delivery.run_with(&["--header", &format!("X-Key: {secret}")]);
    run.code(7).says("AAA***");
}

#[test]
fn headers_come_from_arguments_and_files_and_are_never_shown() {
    let delivery = Delivery::of(Format::Ndjson, 5, |rules, _| {
        rules
            .script
            .extend([Step::status(401), Step::Unanswered, Step::Usual]);
    });
    let path = delivery.bench.path("headers");
    let text = "X-Api-Key: hunter3-hidden\n\nX-Second:  b \r\nContent-Type: application/json\n";
    fs::write(&path, text).unwrap();
    let file = format!("@{}", path.display());
    let more = ["-v", "--header=X-Third: c", "--header", &file];
    for code in [7, 6, 0] {
        let run = delivery.run_with(&more);
        run.code(code);
        run.holds(
            !run.stderr.contains("hunter3"),
            "the header should not be shown",
        );
    }
    let received = delivery.receiver.received();
    let headers = ["x-api-key", "x-second", "x-third", "content-type"];
    let headers = headers.map(|name| received[2].header(name));
    assert_eq!(headers, ["hunter3-hidden", "b", "c", "application/json"]);
}

#[test]
fn secrets_that_come_back_are_masked() {
    let query = "?a=1&key=only-in-the-query";
    let path = "/hooks/only-in-the-path";
    let said =
        format!("c: no such key: only-in-the-query, a=1; Bearer {SECRET} [{query}] no {path}");
    let delivery = Delivery::of(Format::Ndjson, 5, |rules, _| {
        rules.always = Step::answer(401, &[], &said);
    });
    let url = delivery.receiver.url().replace("/in", path) + query;
    let header = format!("--header=Authorization: Bearer {SECRET}");
    let run = delivery
        .bench
        .run(&["--post", &url, &header, "--header=X-Short: c"]);
    run.fails(7, "c: no such key: ***, a=1; ***");
    let shown = run.stderr.contains(SECRET) || run.stderr.contains("only-in");
    run.holds(!shown, "secrets should be masked");
}

/// Nothing else changes: escapes, large numbers and the order of keys stay.
#[test]
fn normalize_gives_each_field_one_type() {
    let mut all = events(6, now(), 1);
    let number = all[0].text.replace(r#""version":"0""#, r#""version":0"#);
    all[0] = Event::from_json(&number);
    let changes = [
        (r#""version":0"#, r#""version":"0""#),
        (
            r#""workspace":"caf\u00e9 \"prod\"""#,
            r#""workspace":{"id":"ws-GGGGGGGGGGGGGGGG","name":"caf\u00e9 \"prod\""}"#,
        ),
    ];
    let delivery = Delivery::new(Format::Ndjson, all, Rules::default());
    delivery.run_with(&["--normalize"]).code(0).silent();
    let mut expected = delivery.bench.api.with(|world| world.expected());
    for (from, to) in changes {
        assert!(expected.contains(from));
        expected = expected.replace(from, to);
    }
    assert_eq!(delivery.receiver.received()[0].body, expected);
}

/// A divided batch is committed part by part.
#[test]
fn a_run_that_is_killed_in_a_divided_batch_keeps_its_parts() {
    let delivery = Delivery::of(Format::Ndjson, 1_000, |rules, _| {
        rules.most_events = 300;
        rules.script.extend(usual(4)); // about 1,000, 500, and two of 250
        rules.script.push_back(Step::Stall);
    });
    let mut running = delivery.start();
    delivery.receiver.wait_for(5);
    running.child.kill().expect("it waits for an answer");
    running.finish();
    let committed = delivery.committed();
    assert!((480..520).contains(&committed), "{committed}");
    delivery.delivered(committed).recovers();
}
