//! `--format otlp` read by two programs that nobody here wrote: Fluent Bit, which is a part of Tenzir,
//! and `opentelemetry-proto`, the messages as the OpenTelemetry project itself generates them.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use time::{UtcDateTime, format_description::well_known::Rfc3339};

use crate::needs::{found, opentelemetry};
use crate::receiver::{Format, Receiver, Rules};
use crate::receivers::{has_stored_all, post, sample, stored};
use crate::server::Server;
use crate::stand_in::Event;

/// An event's time in nanoseconds, and its attributes.
fn expected(event: &Event) -> (i128, Value) {
    let event: Value = serde_json::from_str(&event.text).expect("JSON");
    let time = event["timestamp"].as_str().unwrap_or_default();
    let time = UtcDateTime::parse(time, &Rfc3339).expect("a time");
    let mut attributes: BTreeMap<&str, &str> = [
        ("log.record.uid", "/id"),
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
    ]
    .into_iter()
    .filter_map(|(name, pointer)| Some((name, event.pointer(pointer)?.as_str()?)))
    .collect();
    let resource = |name: &str| event["resource"][name].as_str().expect("text");
    let name = format!("hcp_terraform.{}.{}", resource("type"), resource("action"));
    attributes.insert("event.name", &name);
    (time.unix_timestamp_nanos(), json!(attributes))
}

/// The stored times and attributes are compared as well, not only the events.
pub fn fluent_bit_stores_log_records() {
    for gzip in [&[][..], &["--gzip"]] {
        let bench = sample();
        let server = Server::tenzir(&bench, |port| {
            format!(
                "from_fluent_bit \"opentelemetry\", options={{listen: \"127.0.0.1\", port: {port}}}"
            )
        });
        let args = [&["--format=otlp", "--label=env=prod"], gzip].concat();
        let check = [&args[..], &["--check"]].concat();
        let wrong = post(&bench, &server.url("/wrong"), &check);
        wrong.code(7);
        assert!(
            wrong.stdout.contains("FAIL  receiver: "),
            "{}",
            wrong.stdout
        );
        let right = post(&bench, &server.url(""), &check);
        right.code(0);
        assert!(
            right.stdout.contains("ok    receiver: "),
            "{}",
            right.stdout
        );
        post(&bench, &server.url("/wrong"), &args).fails(7, "invalid endpoint");
        post(&bench, &server.url(""), &args).code(0).silent();
        post(&bench, &server.url(""), &args).code(0).silent();
        has_stored_all(&bench, "/message/log");
        let of = |line: &Value| {
            let otlp = &line["metadata"]["otlp"];
            let time = otlp["timestamp"].as_i64().expect("a time");
            (i128::from(time), otlp["attributes"].clone())
        };
        let lines = stored(&bench, "/message/log");
        let mut is: Vec<_> = lines.iter().map(of).collect();
        let mut should: Vec<_> = bench.in_order().iter().map(expected).collect();
        let by_id = |(_, attributes): &(i128, Value)| attributes["log.record.uid"].to_string();
        is.sort_by_key(by_id);
        should.sort_by_key(by_id);
        assert_eq!(is, should);
        // Before each batch, Fluent Bit stores its resource.
        for group in stored(&bench, "/message/resource") {
            let named = json!({"env": "prod", "service.name": "hcp-terraform"});
            assert_eq!(group["message"]["resource"]["attributes"], named);
        }
    }
}

/// Fails if a body has a field that the messages do not know, or is not written as they would write
/// it. Prints each record as a line of JSON.
const PARSE: &str = r#"
import json, sys
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
for path in sys.argv[1:]:
    body = open(path, "rb").read()
    request = ExportLogsServiceRequest.FromString(body)
    known = json_format.Parse(json_format.MessageToJson(request), ExportLogsServiceRequest())
    assert known.SerializeToString() == body, path
    for logs in request.resource_logs:
        resource = {it.key: it.value.string_value for it in logs.resource.attributes}
        for scope_logs in logs.scope_logs:
            for it in scope_logs.log_records:
                assert it.observed_time_unix_nano > it.time_unix_nano
                attributes = {it.key: it.value.string_value for it in it.attributes}
                assert it.event_name == attributes.get("event.name", "")
                print(json.dumps([resource, scope_logs.scope.name, it.time_unix_nano,
                    it.severity_text, it.body.string_value, attributes]))
"#;

pub fn opentelemetry_proto_parses_bodies() {
    let bench = sample();
    let receiver = Receiver::start(Format::Otlp, Rules::default());
    post(
        &bench,
        &receiver.url(),
        &["--format=otlp", "--label=env=prod"],
    )
    .code(0);
    let mut python = Command::new(found(opentelemetry));
    python.args(["-c", PARSE]);
    for (number, request) in receiver.received().iter().enumerate() {
        let path = bench.path(&format!("body-{number}"));
        fs::write(&path, &request.bytes).expect("it can be written");
        python.arg(path);
    }
    let output = python.output().expect("python can be started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let is: Vec<_> = lines.collect();
    let resource = json!({"env": "prod", "service.name": "hcp-terraform"});
    let line = |event: &Event| {
        let (time, attributes) = expected(event);
        let time = i64::try_from(time).expect("a recent time");
        json!([resource, "tfc-audit", time, "INFO", event.text, attributes])
    };
    let should: Vec<_> = bench.in_order().iter().map(line).collect();
    assert_eq!(is, should);
}
