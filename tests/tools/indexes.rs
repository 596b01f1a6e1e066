//! Delivery to programs that speak the REST API of a search engine: noida-db as Elasticsearch 8, and
//! osmem-server as OpenSearch. They apply index templates, know documents by their `_id` and compare
//! dates. They have no data streams: here the templates make indexes.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::needs::{found, noida, osmem};
use crate::receivers::{has_stored_all, post, sample};
use crate::server::{Server, TOO_LONG};
use crate::support::{Bench, free_port};

const INDEX: &str = "/logs-tfc_audit-default";

fn elasticsearch(bench: &Bench) -> Server {
    let port = free_port();
    let mut command = Command::new(found(noida));
    command.args(["start", "--only", "elasticsearch", "--data-dir", "noida"]);
    command.arg("--elasticsearch-port").arg(port.to_string());
    Server::start(&bench.path(""), "noida-db", port, command)
}

fn opensearch(bench: &Bench) -> Server {
    let port = free_port();
    let mut command = Command::new(found(osmem));
    command.arg("-no-stdin-watch");
    command.args(["-addr", &format!("127.0.0.1:{port}")]);
    Server::start(&bench.path(""), "osmem-server", port, command)
}

fn recipe(name: &str) -> Value {
    let path = format!("{}/fixtures/recipes/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Sends a body with this method, and returns the answer to it.
#[track_caller]
fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(server.url(path))
        .header("Content-Type", "application/json")
        .body(body.to_string());
    let mut answer = ureq::run(request.unwrap()).expect(path);
    serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
}

/// Installs the recipe's template, which has this type for `resource.meta`.
fn install_template(server: &Server, meta: &str) {
    let mut template = recipe("elasticsearch-index-template.json");
    template.as_object_mut().unwrap().remove("data_stream");
    let resource = "/template/mappings/properties/resource/properties/meta";
    *template.pointer_mut(resource).unwrap() = json!({ "type": meta });
    let answer = ask(server, "PUT", "/_index_template/tfc_audit", &template);
    assert_eq!(answer["acknowledged"], true, "{answer}");
}

/// The documents that a query finds, once there are as many as `count`.
#[track_caller]
fn documents(server: &Server, query: &Value, count: usize) -> Vec<Value> {
    let body = json!({ "query": query, "size": 1000 });
    let began = Instant::now();
    loop {
        let answer = ask(server, "POST", &format!("{INDEX}/_search"), &body);
        let hits = answer["hits"]["hits"].as_array().expect("hits").clone();
        if hits.len() >= count {
            return hits.into_iter().map(|hit| hit["_source"].clone()).collect();
        }
        assert!(began.elapsed() < TOO_LONG, "{} of {count}", hits.len());
        thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// All events are stored once, by time, also after they were sent again.
fn stores_each_event_once(bench: &Bench, server: &Server) {
    let options = ["--format=elasticsearch"];
    let check = ["--format=elasticsearch", "--check"];
    post(bench, &server.url(INDEX), &check).code(0);
    post(bench, &server.url(INDEX), &options).code(0).silent();
    post(bench, &server.url(INDEX), &options).code(0).silent();
    // Each event is there already (409).
    let again = ["--format=elasticsearch", "--no-checkpoint"];
    let url = server.url(INDEX);
    let again = [&["--post", &url, "--retries=0"], &again[..]].concat();
    let mut command = bench.bare(&again);
    command.env("TFC_ORG_TOKEN", crate::support::TOKEN);
    bench.start(command).finish().code(0).silent();

    let all = bench.in_order();
    let stored = documents(server, &json!({ "match_all": {} }), all.len());
    let lines: Vec<_> = stored.iter().map(Value::to_string).collect();
    fs::write(bench.path("stored"), lines.join("\n") + "\n").unwrap();
    has_stored_all(bench, "");

    // `@timestamp` is a date, and `resource.type` a keyword.
    let middle = &all[all.len() / 2];
    let since =
        json!({ "range": { "@timestamp": { "gte": crate::stand_in::stamp(middle.time) } } });
    let later = all.iter().filter(|event| event.time >= middle.time).count();
    assert_eq!(documents(server, &since, later).len(), later);
    let token = json!({ "term": { "resource.type": "authentication_token" } });
    assert!(!documents(server, &token, 1).is_empty());
}

pub fn noida_stores_each_event_once() {
    let bench = sample();
    let server = elasticsearch(&bench);
    install_template(&server, "flattened");
    stores_each_event_once(&bench, &server);
}

pub fn osmem_stores_each_event_once() {
    let bench = sample();
    let server = opensearch(&bench);
    install_template(&server, "flat_object");
    stores_each_event_once(&bench, &server);
}

/// The pipeline's conditions are evaluated, its templates filled in.
pub fn noida_runs_the_ecs_pipeline() {
    let bench = sample();
    let server = elasticsearch(&bench);
    install_template(&server, "flattened");
    let pipeline = recipe("elasticsearch-ecs-pipeline.json");
    let answer = ask(&server, "PUT", "/_ingest/pipeline/tfc_audit_ecs", &pipeline);
    assert_eq!(answer["acknowledged"], true, "{answer}");
    let url = server.url(&format!("{INDEX}?pipeline=tfc_audit_ecs"));
    post(&bench, &url, &["--format=elasticsearch"])
        .code(0)
        .silent();
    let all = documents(&server, &json!({ "match_all": {} }), bench.in_order().len());
    for event in &all {
        assert_eq!(event["event"]["id"], event["id"]);
        assert_eq!(
            event["organization"]["id"],
            event["auth"]["organization_id"]
        );
    }
    let of = |kind: &str, action: &str| {
        let is = |it: &&Value| it["resource"]["type"] == kind && it["resource"]["action"] == action;
        all.iter().find(is).expect(kind)
    };
    let token = of("authentication_token", "create");
    let expected = json!({
        "kind": "event", "module": "hcp_terraform", "dataset": "hcp_terraform.audit",
        "id": token["id"], "action": "authentication_token.create",
        "category": ["iam"], "type": ["creation"]
    });
    assert_eq!(token["event"], expected);
    let user = json!({ "id": token["auth"]["accessor_id"], "name": "alice" });
    assert_eq!(token["user"], user);
    let saml = of("saml_configuration", "enable");
    assert_eq!(saml["event"]["type"], json!(["change"]));
    let impersonated = json!({
        "id": saml["auth"]["impersonator_id"],
        "effective": { "id": saml["auth"]["accessor_id"], "name": "alice" }
    });
    assert_eq!(saml["user"], impersonated);
    let shown = of("configuration_version", "show");
    assert_eq!(shown["event"]["category"], json!(["configuration"]));
    assert_eq!(shown["event"]["type"], json!(["info"]));
    assert_eq!(
        of("data_retention_policy", "destroy")["event"]["type"],
        json!(["deletion"])
    );
    // An event of the system names no user: there is an ID alone.
    let system = of("task_result", "callback");
    assert_eq!(
        system["user"],
        json!({ "id": system["auth"]["accessor_id"] })
    );
}
