//! The files that users install by hand.

#![expect(clippy::unwrap_used, reason = "a file of another shape has to fail")]

use std::collections::BTreeSet;

use serde_json::Value;

/// The fields of a mapping as dotted paths with their types; what lies below a `flattened` field has
/// no mapping of its own.
fn fields(properties: &Value, prefix: &str, found: &mut BTreeSet<(String, String)>) {
    for (name, field) in properties.as_object().unwrap() {
        let path = format!("{prefix}{name}");
        match field.get("properties") {
            Some(inner) => fields(inner, &format!("{path}."), found),
            None => drop(found.insert((path, field["type"].as_str().unwrap().to_owned()))),
        }
    }
}

/// The leaves of an event, down to what the template keeps as one field.
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
fn the_index_template_maps_every_field_of_the_sample_events() {
    let template = include_str!("../../fixtures/elasticsearch-index-template.json");
    let template: Value = serde_json::from_str(template).unwrap();
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
    let mut sent = BTreeSet::from(["@timestamp".to_owned()]);
    for line in include_str!("../../fixtures/events.ndjson").lines() {
        leaves(&serde_json::from_str(line).unwrap(), "", &mut sent);
    }
    let mapped: BTreeSet<_> = mapped.into_iter().map(|(path, _)| path).collect();
    assert_eq!(mapped, sent);
}
