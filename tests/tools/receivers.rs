//! Delivery to receivers that nobody here wrote: Tenzir (an HTTP server of its own, Splunk's HEC,
//! Elasticsearch's bulk API, and an embedded Fluent Bit), with nginx before it for a limit on
//! bodies and for TLS. A status proves nothing: the tests read back the stored events one by one.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use time::{UtcDateTime, format_description::well_known::Rfc3339};

use crate::relay::Authority;
use crate::server::{Server, TOO_LONG};
use crate::stand_in::{Event, events, sample_events};
use crate::support::{Bench, Outcome, minutes_ago};

/// Waits until as many events are stored as the service has, each at `pointer` of its line. Each
/// event is stored once, with its own content. Lines without an event do not count.
#[track_caller]
pub fn has_stored_all(bench: &Bench, pointer: &str) {
    let all: Vec<Event> = bench
        .api
        .with(|world| world.in_order().into_iter().cloned().collect());
    let began = Instant::now();
    let stored = loop {
        let stored = stored(bench, pointer);
        let count = stored.len();
        if count >= all.len() {
            break stored;
        }
        assert!(
            began.elapsed() < TOO_LONG,
            "{count} of {} are stored",
            all.len()
        );
        thread::sleep(Duration::from_millis(50));
    };
    // Receivers may write numbers and times in another form. Tenzir computes a time's seconds as a
    // floating-point number: 13.680 becomes 13.679999999. The service's times have milliseconds.
    let essence = |event: &Value| {
        let time = event["timestamp"].as_str().unwrap_or_default();
        let time = UtcDateTime::parse(time, &Rfc3339).expect("a time");
        let milliseconds = (time.unix_timestamp_nanos() + 500_000) / 1_000_000;
        let text = |pointer| event.pointer(pointer).map(Value::to_string);
        let rest = [
            "/id",
            "/request/id",
            "/resource/id",
            "/resource/action",
            "/auth/description",
        ];
        (milliseconds, rest.map(text))
    };
    let event = |line: &Value| essence(line.pointer(pointer).expect("an event"));
    let mut is: Vec<_> = stored.iter().map(event).collect();
    let mut should: Vec<_> = all
        .iter()
        .map(|event| essence(&serde_json::from_str(&event.text).expect("JSON")))
        .collect();
    // Tenzir stores events of one shape together.
    is.sort();
    should.sort();
    let differs = is.iter().zip(&should).find(|(is, should)| is != should);
    assert!(differs.is_none(), "stored and sent: {differs:#?}");
    assert_eq!(is.len(), should.len());
}

/// The lines that are stored and have something at `pointer`.
pub fn stored(bench: &Bench, pointer: &str) -> Vec<Value> {
    let text = fs::read_to_string(bench.path("stored")).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    lines
        .filter(|line: &Value| line.pointer(pointer).is_some())
        .collect()
}

/// Events of every known shape, and more than fit in one batch.
pub fn sample() -> Bench {
    let mut all = sample_events(minutes_ago(30));
    all.extend(events(100, minutes_ago(1), 1));
    Bench::of(all)
}

#[track_caller]
pub fn post(bench: &Bench, url: &str, args: &[&str]) -> Outcome {
    let args = [&["--post", url, "--retries=0", "--batch-events=50"], args].concat();
    bench.run(&args)
}

/// A run with these arguments sends all events to Tenzir, which stores them. A second run has none.
#[track_caller]
fn arrives(source: impl Fn(u16) -> String, path: &str, pointer: &str, args: &[&str]) {
    for gzip in [&[][..], &["--gzip"]] {
        let bench = sample();
        let server = Server::tenzir(&bench, &source);
        let args = [args, gzip].concat();
        // Its requests make no event: only those of the runs are stored.
        post(
            &bench,
            &server.url(path),
            &[&args[..], &["--check"]].concat(),
        )
        .code(0);
        post(&bench, &server.url(path), &args).code(0).silent();
        post(&bench, &server.url(path), &args).code(0).silent();
        has_stored_all(&bench, pointer);
    }
}

fn http(port: u16) -> String {
    format!("accept_http \"127.0.0.1:{port}\" {{ read_ndjson }}")
}

pub fn tenzir_stores_ndjson() {
    arrives(http, "/", "", &[]);
}

/// The input is that of the recipe, at a free port.
pub fn fluent_bit_stores_json_arrays() {
    let recipe = include_str!("../../fixtures/recipes/fluent-bit.yaml");
    let (_, input) = recipe.split_once("- name: http\n").expect("an input");
    let input = input.lines().take_while(|line| !line.is_empty());
    let options: Vec<_> = input
        .filter_map(|line| line.trim().split_once(": "))
        // Files belong to Fluent Bit's service, which is Tenzir here.
        .filter(|(name, _)| !name.starts_with('#') && *name != "storage.type")
        .collect();
    assert!(options.len() >= 3, "{options:?}");
    let source = |port: u16| {
        let option = |(name, value): &(&str, &str)| match *name {
            "port" => format!("port: {port}"),
            _ => format!("{name}: \"{value}\""),
        };
        let options: Vec<_> = options.iter().map(option).collect();
        format!(
            "from_fluent_bit \"http\", options={{{}}}",
            options.join(", ")
        )
    };
    arrives(
        source,
        "/hcp_terraform",
        "/message",
        &["--format=json-array"],
    );
}

pub fn tenzir_stores_bulk_requests() {
    let source = |port| format!("accept_opensearch \"127.0.0.1:{port}\"");
    for path in ["/audit", "/audit/_bulk"] {
        arrives(source, path, "", &["--format=elasticsearch"]);
    }
}

/// Tenzir refuses an event with an integer of more than 64 bits: a real poison event.
pub fn tenzir_stores_splunk_envelopes() {
    let is_large = |event: &Event| event.text.contains("123456789012345678901234567890");
    let (large, mut all): (Vec<_>, Vec<_>) = sample()
        .api
        .with(|world| world.events.drain(..).partition(is_large));
    let poison = large[large.len() / 2].clone();
    all.push(poison.clone());
    let bench = Bench::of(all);
    let server = Server::tenzir(&bench, |port| {
        format!("accept_splunk \"127.0.0.1:{port}\", hec_token=\"t0ken\"")
    });
    let url = server.url("/services/collector/event");
    let letters = bench.path("dead.ndjson");
    let letters_option = format!("--dead-letter={}", letters.display());
    let run = |header: &[&str]| {
        let args = [
            "--format=splunk-hec",
            "--label=index=audit",
            &letters_option,
        ];
        post(&bench, &url, &[&args[..], header].concat())
    };
    let wrong = "--header=Authorization: Splunk wr0ng";
    run(&[wrong]).fails(7, "Invalid token");
    run(&[]).fails(7, "Token is required");
    let token = "--header=Authorization: Splunk t0ken";
    run(&[wrong, "--check"]).code(7).silent();
    run(&[token, "--check"]).code(0).silent();
    run(&[token]).code(0).warns("Invalid data format");
    run(&[token, "--gzip"]).code(0).silent();
    assert_eq!(fs::read_to_string(letters).unwrap(), poison.text + "\n");
    bench
        .api
        .with(|world| world.events.retain(|event| event.id != poison.id));
    has_stored_all(&bench, "/event");
}

pub fn nginx_with_a_limit_gets_smaller_bodies() {
    let bench = sample();
    let server = Server::tenzir(&bench, http);
    let nginx = Server::nginx(&bench, server.port, "", "client_max_body_size 8k;");
    for _ in 0..2 {
        post(&bench, &nginx.url("/"), &[]).code(0).silent();
    }
    has_stored_all(&bench, "");
}

pub fn nginx_with_a_certificate_of_the_company_is_trusted() {
    let bench = sample();
    let authority = Authority::new("company");
    let server = authority.certify(&["localhost"], |_| {});
    let write = |name, text| fs::write(bench.path(name), text).expect("it can be written");
    write("authority.pem", authority.pem());
    write("server.pem", server.certificate_pem());
    write("server.key", server.key_pem());

    let server = Server::tenzir(&bench, http);
    let dir = bench.path("").display().to_string();
    let lines = format!("ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key;");
    let nginx = Server::nginx(&bench, server.port, "ssl", &lines);
    let url = format!("https://localhost:{}/", nginx.port);
    post(&bench, &url, &[]).fails(6, "certificate");
    for _ in 0..2 {
        let mut command = bench.command(&["--post", &url, "--header=X-Key: k", "--retries=0"]);
        command.env("SSL_CERT_FILE", bench.path("authority.pem"));
        bench.start(command).finish().code(0).silent();
    }
    has_stored_all(&bench, "");
}
