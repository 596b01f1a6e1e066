//! One JSON type for each field whose type varies between events, for stores with a strict schema.
//!
//! The service sends `workspace` as a string in some events and as an object in others, and the
//! top-level `version` as a string or a number. Elasticsearch takes the type that comes first and
//! refuses the other one. The new values replace the old ones in the event's own text: everything
//! else stays as it was, large numbers and the order of keys included.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::Event;
use crate::json;

#[derive(Deserialize)]
struct EventFields<'a> {
    #[serde(borrow)]
    version: Option<&'a RawValue>,
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Resource<'a> {
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    workspace: Option<&'a RawValue>,
    #[serde(borrow)]
    workspace_id: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// Returns an event's JSON with `version` as a string, and with `resource.meta.workspace` and
/// `resource.meta.payload.workspace` as objects that have `id` and `name`.
///
/// A workspace that is a string becomes the name, and the `workspace_id` beside it the ID. A value
/// that is missing or null stays so, and so does an object.
pub fn normalize(json: &str) -> Cow<'_, str> {
    let mut changes = changes(json);
    if changes.is_empty() {
        return json.into();
    }
    // Each old value is a part of `json`.
    changes.sort_unstable_by_key(|(old, _)| old.as_ptr());
    let mut normalized = String::with_capacity(json.len() + 64);
    let mut copied = 0;
    for (old, new) in changes {
        let start = old.as_ptr().addr() - json.as_ptr().addr();
        normalized.push_str(&json[copied..start]);
        normalized.push_str(&new);
        copied = start + old.len();
    }
    normalized.push_str(&json[copied..]);
    normalized.into()
}

/// An event's JSON on one line, normalized or byte for byte as the service sent it.
pub fn line(event: &Event, normalized: bool) -> Cow<'_, str> {
    match event.line() {
        line if !normalized => line,
        Cow::Borrowed(line) => normalize(line),
        Cow::Owned(line) => normalize(&line).into_owned().into(),
    }
}

/// The values to be replaced, each with its replacement.
fn changes(json: &str) -> Vec<(&str, String)> {
    let Some(event) = json::object::<EventFields>(json.as_bytes()) else {
        return Vec::new();
    };
    let resource = event
        .resource
        .and_then(|it| json::object::<Resource>(it.get().as_bytes()));
    let meta = resource.and_then(|it| json::object::<Meta>(it.meta?.get().as_bytes()));
    let payload = meta
        .as_ref()
        .and_then(|it| json::object(it.payload?.get().as_bytes()));
    let version = event.version.map(RawValue::get);
    let version = version.and_then(|old| Some((old, as_string(old)?)));
    let workspaces = [meta, payload].map(|it| workspace_as_object(&it?));
    version
        .into_iter()
        .chain(workspaces.into_iter().flatten())
        .collect()
}

/// A value's JSON text as a string; `None` if the value is a string.
fn as_string(value: &str) -> Option<String> {
    (!value.starts_with('"')).then(|| serde_json::Value::from(value).to_string())
}

/// The workspace and its replacement; `None` if it is missing or an object.
fn workspace_as_object<'a>(meta: &Meta<'a>) -> Option<(&'a str, String)> {
    let old = meta.workspace?.get();
    if old.starts_with('{') {
        return None;
    }
    let name = as_string(old).unwrap_or_else(|| old.to_owned());
    let id = meta.workspace_id.map(RawValue::get);
    let id = id.filter(|id| id.starts_with('"')).unwrap_or("null");
    Some((old, format!(r#"{{"id":{id},"name":{name}}}"#)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_whose_type_varies_gets_one_type() {
        let cases = [
            (r#"{"version":0}"#, r#"{"version":"0"}"#),
            (r#"{"version":"0"}"#, r#"{"version":"0"}"#),
            (r#"{"version":null}"#, r#"{"version":null}"#),
            (r#"{"version":{"a":"b"}}"#, r#"{"version":"{\"a\":\"b\"}"}"#),
            (
                r#"{"resource":{"meta":{"workspace":"net","workspace_id":"ws-1"}}}"#,
                r#"{"resource":{"meta":{"workspace":{"id":"ws-1","name":"net"},"workspace_id":"ws-1"}}}"#,
            ),
            (
                r#"{"resource":{"meta":{"workspace":"a\"b"}}}"#,
                r#"{"resource":{"meta":{"workspace":{"id":null,"name":"a\"b"}}}}"#,
            ),
            (
                r#"{"resource":{"meta":{"workspace":7,"workspace_id":8}}}"#,
                r#"{"resource":{"meta":{"workspace":{"id":null,"name":"7"},"workspace_id":8}}}"#,
            ),
            (
                r#"{"resource":{"meta":{"payload":{"workspace_id":"ws-2","workspace":"p"},"workspace":"net"}},"version":1.0}"#,
                r#"{"resource":{"meta":{"payload":{"workspace_id":"ws-2","workspace":{"id":"ws-2","name":"p"}},"workspace":{"id":null,"name":"net"}}},"version":"1.0"}"#,
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(normalize(json), expected);
            assert_eq!(normalize(&normalize(json)), expected, "normalized twice");
        }
    }

    #[test]
    fn everything_else_stays_as_it_was() {
        let cases = [
            r#"{ "z":12345678901234567890, "a":1.50, "e":"\u00e9", "resource":{"meta":{"workspace":{"name":"n"},"version":1}}}"#,
            r#"{"resource":{"meta":null}}"#,
            r#"{"resource":{"meta":{"workspace":null}}}"#,
            r#"{"resource":{"meta":["workspace"]}}"#,
            r#"{"resource":[{"workspace":"x"}]}"#,
            r#"{"resource":{"workspace":"x","meta":{"run":{"workspace":"x"}}}}"#,
        ];
        for json in cases {
            assert!(
                matches!(normalize(json), Cow::Borrowed(same) if same == json),
                "{json}"
            );
        }
    }
}
