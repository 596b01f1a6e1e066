//! One JSON type for each field whose type varies between events, for stores with a strict schema.
//!
//! The API sends `workspace` as a string in some events and as an object in others, and the
//! top-level `version` as a string or a number; Elasticsearch refuses whatever comes second. The
//! changed values are spliced into the event's own text, so that everything else, large numbers and
//! the order of keys included, stays as it was.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::Object;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    version: Option<&'a RawValue>,
    #[serde(borrow, default)]
    resource: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Resource<'a> {
    #[serde(borrow, default)]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default)]
    workspace: Option<&'a RawValue>,
    #[serde(borrow, default)]
    workspace_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// Gives an event's JSON with `version` as a string, and `resource.meta.workspace` and
/// `resource.meta.payload.workspace` as objects with `id` and `name`: a string becomes the name,
/// and the `workspace_id` beside it the id. What is missing or null stays so, and so does an object.
#[must_use]
pub fn normalize(json: &str) -> Cow<'_, str> {
    let mut changes: Vec<(&str, String)> = Vec::new();
    if let Some(event) = object::<Event>(json) {
        changes.extend(
            event
                .version
                .map(RawValue::get)
                .and_then(|version| Some((version, as_string(version)?))),
        );
        let resource = event
            .resource
            .and_then(|resource| object::<Resource>(resource.get()));
        let meta = resource.and_then(|resource| object::<Meta>(resource.meta?.get()));
        if let Some(meta) = meta {
            changes.extend(workspace_change(&meta));
            changes.extend(
                meta.payload
                    .and_then(|payload| workspace_change(&object::<Meta>(payload.get())?)),
            );
        }
    }
    if changes.is_empty() {
        return json.into();
    }
    // Each old value is a part of `json`: the difference of the addresses is its place there.
    let mut changes: Vec<_> = changes
        .into_iter()
        .map(|(old, new)| (old.as_ptr().addr() - json.as_ptr().addr(), old.len(), new))
        .collect();
    changes.sort_unstable();
    let mut normalized = String::with_capacity(json.len() + 64);
    let mut copied = 0;
    for (start, length, new) in changes {
        normalized.push_str(&json[copied..start]);
        normalized.push_str(&new);
        copied = start + length;
    }
    normalized.push_str(&json[copied..]);
    normalized.into()
}

/// Reads an object; `None` for anything else.
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    serde_json::from_str(json).ok().map(|Object(fields)| fields)
}

/// A value that is no string, as one: its JSON text. `None` if it is a string.
fn as_string(value: &str) -> Option<String> {
    (!value.starts_with('"')).then(|| serde_json::Value::from(value).to_string())
}

fn workspace_change<'a>(meta: &Meta<'a>) -> Option<(&'a str, String)> {
    let old = meta.workspace?.get();
    if old.starts_with('{') {
        return None;
    }
    let name = as_string(old).unwrap_or_else(|| old.to_owned());
    let id = meta
        .workspace_id
        .map(RawValue::get)
        .filter(|id| id.starts_with('"'))
        .unwrap_or("null");
    Some((old, format!(r#"{{"id":{id},"name":{name}}}"#)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_that_vary() {
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
            assert_eq!(normalize(&normalize(json)), expected, "a second time");
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
