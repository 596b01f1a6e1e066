//! `--format otlp`: the records as a receiver reads them, and the answers that only OTLP has.

use std::fs;

use serde_json::{Value, json};

use crate::receiver::{Format, Receiver, Rules, Step, otlp};
use crate::stand_in::{Event, events, sample_events};
use crate::support::{Bench, Outcome, minutes_ago, now};

const SECRET: &str = "hunter2-hidden";

/// These events, and a receiver that takes all except those in `poison`.
fn delivery(events: Vec<Event>, poison: &[&Event]) -> (Bench, Receiver) {
    let rules = Rules {
        poison: poison.iter().map(|event| event.id.clone()).collect(),
        ..Rules::default()
    };
    (Bench::of(events), Receiver::start(Format::Otlp, rules))
}

/// Runs the command with these arguments.
#[track_caller]
fn run((bench, receiver): &(Bench, Receiver), args: &[&str]) -> Outcome {
    let header = format!("--header=X-Key: {SECRET}");
    let url = receiver.url();
    let post = ["--format=otlp", "--post", &url, &header];
    bench.run(&[&post[..], args].concat())
}

/// The answer with this status and these bytes.
fn answer(code: u16, body: &[u8]) -> Step {
    Step::answer(code, &[], std::str::from_utf8(body).expect("short lengths"))
}

#[test]
fn a_record_has_the_time_the_text_and_the_main_fields_of_its_event() {
    let delivery = delivery(sample_events(minutes_ago(1)), &[]);
    let labels = ["--label=env=prod", "--label=service.namespace=a=b\"c"];
    run(&delivery, &labels).code(0).silent();
    let (bench, receiver) = &delivery;
    let requests = receiver.received();
    let body: Value = serde_json::from_str(&requests[0].body).unwrap();
    let logs = &body["resourceLogs"][0];
    let resource = otlp::attributes(&logs["resource"]);
    let expected = json!({
        "env": "prod", "service.name": "hcp-terraform", "service.namespace": "a=b\"c",
    });
    assert_eq!(Value::from(resource.unwrap()), expected);
    let scope = &logs["scopeLogs"][0]["scope"];
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(*scope, json!({"name": "tfc-audit", "version": version}));
    let records = otlp::records(&body);
    let events = bench.in_order();
    assert_eq!(records.len(), events.len());
    // The stand-in compares each record's time, ID and name with its event.
    for (record, event) in records.into_iter().zip(events) {
        assert_eq!(record["body"]["stringValue"], event.text);
        assert_eq!(record["severityText"], "INFO");
        let attributes = otlp::attributes(record).unwrap();
        let parsed: Value = serde_json::from_str(&event.text).unwrap();
        for (name, pointer) in [
            ("user.id", "/auth/accessor_id"),
            ("user.name", "/auth/description"),
            ("hcp_terraform.auth.type", "/auth/type"),
            (
                "hcp_terraform.auth.impersonator_id",
                "/auth/impersonator_id",
            ),
            (
                "hcp_terraform.auth.organization_id",
                "/auth/organization_id",
            ),
            ("hcp_terraform.request.id", "/request/id"),
            ("hcp_terraform.resource.type", "/resource/type"),
            ("hcp_terraform.resource.id", "/resource/id"),
            ("hcp_terraform.resource.action", "/resource/action"),
        ] {
            let text = parsed.pointer(pointer).filter(|value| value.is_string());
            assert_eq!(attributes.get(name), text, "{name} of {}", event.text);
        }
        let word = |name: &str| parsed["resource"][name].as_str();
        let name = word("type").zip(word("action"));
        let name = name.map(|(kind, action)| format!("hcp_terraform.{kind}.{action}").into());
        assert_eq!(attributes.get("event.name"), name.as_ref());
    }
}

/// The answer tells how many records were rejected and not which ones.
#[test]
fn a_rejected_record_is_found_by_halves_and_put_aside() {
    let events = events(50, now(), 1);
    let poison = &events[31];
    let delivery = delivery(events.clone(), &[poison]);
    let letters = delivery.0.path("dead.ndjson");
    let option = format!("--dead-letter={}", letters.display());
    run(&delivery, &[&option])
        .code(0)
        .warns("Invalid data format");
    assert_eq!(
        fs::read_to_string(letters).unwrap(),
        poison.text.clone() + "\n"
    );
    let mut delivered = delivery.1.delivered_ids();
    delivered.sort();
    delivered.dedup();
    assert_eq!(delivered.len(), 49);
    let count = delivery.1.count();
    run(&delivery, &[&option]).code(0).silent();
    assert_eq!(delivery.1.count(), count);
}

#[test]
fn the_message_of_a_refusal_is_shown_as_text_without_secrets() {
    let why = format!("no such key: {SECRET}");
    for (body, shown) in [
        (otlp::status(&why), "answered 403: no such key: ***; check"),
        (
            why.clone().into_bytes(),
            "answered 403: no such key: ***; check",
        ),
    ] {
        let delivery = delivery(events(3, now(), 1), &[]);
        delivery.1.with(|rules| rules.always = answer(403, &body));
        run(&delivery, &[]).fails(7, shown);
    }
    let delivery = delivery(events(3, now(), 1), &[]);
    let body = otlp::rejects(3, &why);
    delivery.1.with(|rules| rules.always = answer(200, &body));
    run(&delivery, &[]).fails(7, "answered 200: no such key: *** (3 of 3 events rejected)");
}

/// The masked text of this answer would no longer be a message.
#[test]
fn a_secret_in_an_answer_does_not_change_the_verdict() {
    let events = events(3, now(), 1);
    let delivery = delivery(events, &[]);
    let body = otlp::rejects(1, &format!("{SECRET} {SECRET}"));
    delivery
        .1
        .with(|rules| rules.script.push_back(answer(200, &body)));
    run(&delivery, &[]).fails(7, "(1 of 3 events rejected)");
}

#[test]
fn a_dry_run_prints_ndjson_and_says_so() {
    let delivery = delivery(events(25, now(), 2), &[]);
    let dry = run(&delivery, &["--dry-run", "--batch-events=10"]);
    dry.code(0)
        .warns("--dry-run prints the events as ndjson, since otlp is binary");
    dry.prints_events(&delivery.0.in_order());
    assert_eq!(delivery.1.count(), 0);
}
