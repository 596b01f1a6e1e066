//! Recipes that name fields, labels or metrics name those that are sent. `.ci/run` checks their syntax
//! where there is a schema or a parser.

#![expect(clippy::unwrap_used, reason = "a malformed recipe has to fail")]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::receiver::{Format, Receiver, Rules};
use crate::recipes::recipe;
use crate::stand_in::{events, sample_events};
use crate::support::{Bench, minutes_ago, now};

/// The `name = value` lines of a configuration file.
fn settings(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .collect()
}

#[test]
fn splunk_recipes_have_the_source_type_fields_and_time_of_sent_events() {
    let bench = Bench::of(sample_events(minutes_ago(1)));
    let receiver = Receiver::start(Format::Splunk, Rules::default());
    bench
        .run(&["--post", &receiver.url(), "--format=splunk-hec"])
        .code(0)
        .silent();
    let body = &receiver.received()[0].body;
    let sent = serde_json::Deserializer::from_str(body)
        .into_iter::<Value>()
        .next()
        .unwrap()
        .unwrap();
    let source_type = sent["sourcetype"].as_str().unwrap();
    let (inputs, props) = (recipe("splunk-inputs.conf"), recipe("splunk-props.conf"));
    assert!(props.contains(&format!("\n[{source_type}]\n")));
    assert!(settings(&inputs).contains(&("sourcetype", source_type)));

    let tags = recipe("splunk-tags.conf");
    assert!(tags.contains(&format!("search = sourcetype={source_type}\n")));

    let mut sent = BTreeSet::new();
    for event in samples() {
        every_path(&event, "", &mut sent);
    }
    let searches = recipe("splunk-savedsearches.conf");
    // Aliases name fields bare, expressions in quotes, searches before "=" or in a table.
    let mut named: BTreeSet<_> = settings(&props)
        .into_iter()
        .chain(settings(&searches))
        .filter(|(name, _)| {
            ["FIELDALIAS-", "EVAL-", "search"]
                .iter()
                .any(|it| name.starts_with(it))
        })
        .flat_map(|(_, value)| {
            value.split(|c: char| !(c.is_ascii_alphanumeric() || "._".contains(c)))
        })
        .filter(|word| word.contains('.'))
        .map(str::to_owned)
        .collect();
    assert!(
        named.len() > 8 && named.is_subset(&sent),
        "{:?}",
        named.split_off("").difference(&sent).collect::<Vec<_>>()
    );

    // If a forwarder reads a file of events, Splunk finds each time after this prefix.
    let prefix = settings(&props)
        .into_iter()
        .find(|(name, _)| *name == "TIME_PREFIX")
        .unwrap()
        .1;
    let prefix = prefix.replace(r"\s*", "");
    for event in bench.in_order() {
        let (_, rest) = event.text.split_once(&prefix).expect(&event.text);
        assert!(
            rest.starts_with(&crate::stand_in::stamp(event.time)),
            "{rest}"
        );
    }
}

/// The sample events.
fn samples() -> Vec<Value> {
    let lines = include_str!("../../fixtures/events.ndjson").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// All members of a value, those of inner objects too, as dotted paths.
fn every_path(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        every_path(inner, &format!("{path}."), found);
        found.insert(path);
    }
}

/// The names of events' fields in a query, as `| json` writes them.
fn loki_fields(query: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    query
        .split(|c| !is_name(c))
        .filter(|word| word.starts_with("auth_") || word.starts_with("resource_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn loki_rules_query_only_labels_and_fields_that_are_sent() {
    let rules = recipe("loki-rules.yaml");
    let queries: Vec<_> = rules
        .lines()
        .filter(|line| line.contains("| json") && line.contains("count_over_time"))
        .collect();
    assert!(queries.len() >= 6, "{queries:?}");
    let sent: BTreeSet<_> = sent_fields()
        .iter()
        .map(|field| field.replace('.', "_"))
        .collect();
    for query in &queries {
        assert!(query.contains(r#"{job="tfc-audit"}"#), "{query}");
    }
    let named = loki_fields(&rules);
    assert!(named.len() >= 3 && named.is_subset(&sent), "{named:?}");
}

/// Whether an event has, in each of these fields, one of the values. `*` at a value's end stands for
/// any text.
fn has(event: &Value, wanted: &[(String, Vec<String>)]) -> bool {
    wanted.iter().all(|(field, values)| {
        let found = event.pointer(&format!("/{}", field.replace('.', "/")));
        let found = found.and_then(Value::as_str).unwrap_or_default();
        values.iter().any(|value| match value.strip_suffix('*') {
            Some(start) => found.starts_with(start),
            None => found == value,
        })
    })
}

/// Each query finds something, and none finds everything.
fn finds_some(query: &str, wanted: &[(String, Vec<String>)]) {
    let found = samples().iter().filter(|it| has(it, wanted)).count();
    assert!(
        !wanted.is_empty() && (1..6).contains(&found),
        "{found}: {query}"
    );
}

#[test]
fn each_detection_finds_its_sample_event() {
    let rules = recipe("loki-rules.yaml");
    let alerts = rules.lines().filter(|line| line.contains("[1h])"));
    let mut count = 0;
    for query in alerts.filter(|line| !line.contains("__error__")) {
        // `| field="value"` or `| field=~"one|another"`
        let filters = query.split(" | ").filter_map(|part| part.split_once('"'));
        let wanted = filters.filter_map(|(field, rest)| {
            let field = field.strip_suffix("=~").or(field.strip_suffix('='))?;
            let field = field.strip_suffix('!').map_or(Some(field), |_| None)?;
            let field = field.replacen('_', ".", 1);
            let value = rest.split('"').next()?.replace(".+", "*");
            Some((field, value.split('|').map(str::to_owned).collect()))
        });
        finds_some(
            query,
            &wanted
                .filter(|(field, _)| !field.contains('{'))
                .collect::<Vec<_>>(),
        );
        count += 1;
    }
    assert_eq!(count, 5);

    let searches = recipe("splunk-savedsearches.conf");
    let searches: Vec<_> = searches
        .lines()
        .filter(|line| line.starts_with("search = "))
        .collect();
    assert_eq!(searches.len(), 4);
    for search in searches {
        let (filter, _) = search.split_once(" | ").unwrap();
        let (filter, _) = filter.split_once(" NOT ").unwrap_or((filter, ""));
        let mut wanted: Vec<(String, Vec<String>)> = Vec::new();
        for term in filter.split([' ', '(', ')']) {
            let Some((field, value)) = term.split_once('=').filter(|it| it.0.contains('.')) else {
                continue;
            };
            match wanted.iter_mut().find(|it| it.0 == field) {
                Some(same) => same.1.push(value.to_owned()),
                None => wanted.push((field.to_owned(), vec![value.to_owned()])),
            }
        }
        finds_some(search, &wanted);
    }
}

#[test]
fn the_dashboard_queries_only_metrics_and_fields_that_exist() {
    let dashboard: Value = serde_json::from_str(&recipe("grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let metrics = written_metrics();
    let sent: BTreeSet<_> = sent_fields()
        .iter()
        .map(|field| field.replace('.', "_"))
        .collect();
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            assert_eq!(target["datasource"], panel["datasource"], "{query}");
            match target["datasource"]["type"].as_str().unwrap() {
                "prometheus" => {
                    let asked = metrics_in(query);
                    assert!(!asked.is_empty() && asked.is_subset(&metrics), "{query}");
                }
                kind => {
                    assert_eq!(kind, "loki");
                    assert!(query.contains(r#"{job="tfc-audit"}"#), "{query}");
                    assert!(loki_fields(query).is_subset(&sent), "{query}");
                }
            }
        }
    }
}

/// The names of this program's metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("tfc_audit_"))
        .map(str::to_owned)
        .collect()
}

/// The names of the metrics that a run writes.
fn written_metrics() -> BTreeSet<String> {
    let bench = Bench::of(events(3, now(), 1));
    let file = bench.path("tfc-audit-acme.prom");
    bench
        .run(&["--metrics", &file.display().to_string()])
        .code(0);
    metrics_in(&fs::read_to_string(file).unwrap())
}

#[test]
fn prometheus_rules_query_only_metrics_that_are_written() {
    let (asked, written) = (
        metrics_in(&recipe("prometheus-rules.yaml")),
        written_metrics(),
    );
    assert!(
        asked.len() > 3 && asked.is_subset(&written),
        "{asked:?} {written:?}"
    );
}

/// The fields of the sample events, as dotted paths.
fn sent_fields() -> BTreeSet<String> {
    let mut sent = BTreeSet::new();
    for event in samples() {
        leaves(&event, "", &mut sent);
    }
    sent
}

/// The fields of a mapping as dotted paths with their types. Fields below a `flattened` field have no
/// mapping of their own.
fn fields(properties: &Value, prefix: &str, found: &mut BTreeSet<(String, String)>) {
    for (name, field) in properties.as_object().unwrap() {
        let path = format!("{prefix}{name}");
        match field.get("properties") {
            Some(inner) => fields(inner, &format!("{path}."), found),
            None => drop(found.insert((path, field["type"].as_str().unwrap().to_owned()))),
        }
    }
}

/// The dotted paths of an event's fields, where `resource.meta` is one field, as in the template.
fn leaves(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(inner) if prefix != "resource.meta" => {
            for (name, value) in inner {
                let dot = if prefix.is_empty() { "" } else { "." };
                leaves(value, &format!("{prefix}{dot}{name}"), found);
            }
        }
        _ => drop(found.insert(prefix.to_owned())),
    }
}

#[test]
fn the_index_template_maps_every_field_of_events_and_of_the_pipeline() {
    let template = recipe("elasticsearch-index-template.json");
    let template: Value = serde_json::from_str(&template).unwrap();
    assert_eq!(
        template["data_stream"],
        serde_json::json!({}),
        "events go to a data stream"
    );
    let mappings = &template["template"]["mappings"];
    assert_eq!(
        mappings["dynamic"], false,
        "a new field must not become a mapping"
    );
    let mut mapped = BTreeSet::new();
    fields(&mappings["properties"], "", &mut mapped);
    for (path, kind) in [
        ("@timestamp", "date"),
        ("resource.meta", "flattened"),
        ("version", "keyword"),
    ] {
        assert!(
            mapped.contains(&(path.to_owned(), kind.to_owned())),
            "{path} as {kind}"
        );
    }
    let mut sent = sent_fields();
    sent.insert("@timestamp".to_owned());
    sent.extend(pipeline_fields());
    let mapped: BTreeSet<_> = mapped.into_iter().map(|(path, _)| path).collect();
    assert_eq!(mapped, sent);
}

/// The fields that the ingest pipeline sets.
fn pipeline_fields() -> BTreeSet<String> {
    let pipeline: Value = serde_json::from_str(&recipe("elasticsearch-ecs-pipeline.json")).unwrap();
    let mut set = BTreeSet::new();
    for processor in pipeline["processors"].as_array().unwrap() {
        let field = processor["set"]["field"].as_str().unwrap();
        leaves(&processor["set"]["value"], field, &mut set);
    }
    set
}

#[test]
fn azures_rule_has_a_column_for_each_member_of_an_event() {
    let rule: Value = serde_json::from_str(&recipe("azure-dcr.json")).unwrap();
    let rule = &rule["properties"];
    let (stream, declared) = rule["streamDeclarations"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();
    let columns = declared["columns"].as_array().unwrap();
    let columns: BTreeSet<_> = columns
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    let events = samples();
    let members = events
        .iter()
        .flat_map(|event| event.as_object().unwrap().keys());
    assert_eq!(columns, members.map(String::as_str).collect());
    // All of them get into the table, at the address that the options name.
    let flow = &rule["dataFlows"][0];
    assert_eq!(flow["streams"][0], stream.as_str());
    let transform = flow["transformKql"].as_str().unwrap();
    let words: BTreeSet<_> = transform
        .split(|c: char| !c.is_ascii_alphanumeric())
        .collect();
    assert!(columns.is_subset(&words), "{transform}");
    assert!(recipe("options").contains(&format!("/streams/{stream}?api-version=")));
}
