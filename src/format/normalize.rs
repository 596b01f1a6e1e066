//! One JSON type for each field whose type varies between events, for stores with a strict schema.
//!
//! The service sends `workspace` as a string in some events and as an object in others, and the
//! top-level `version` as a string or a number. Elasticsearch takes the type that comes first and
//! refuses the other one. The new values replace the old ones in the event's own text: everything
//! else stays as it was, large numbers and the order of keys included.

use std::borrow::Cow;
use std::ops::Range;

use crate::event::Event;
use crate::format::quoted;
use crate::json::scan;

/// Values to be replaced, each by its place in the text and with its replacement.
type Changes = Vec<(Range<usize>, String)>;

/// The event itself, which is no member of another object.
const EVENT: &str = "";

/// Returns an event's JSON with `version` as a string, and with `resource.meta.workspace` and
/// `resource.meta.payload.workspace` as objects that have `id` and `name`.
///
/// A workspace that is a string becomes the name, and the `workspace_id` beside it the ID. A value
/// that is missing or null stays so, and so does an object.
pub fn normalize(json: &str) -> Cow<'_, str> {
    let mut changes = Changes::new();
    if read(json, 0, EVENT, &mut changes).is_err() || changes.is_empty() {
        return json.into();
    }
    changes.sort_unstable_by_key(|(old, _)| old.start);
    let mut normalized = String::with_capacity(json.len() + 64);
    let mut copied = 0;
    for (old, new) in changes {
        normalized.push_str(&json[copied..old.start]);
        normalized.push_str(&new);
        copied = old.end;
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

/// Reads the object that is a member `within` another one, and notes what is to be replaced. Returns
/// where the object ends.
fn read(json: &str, at: usize, within: &str, changes: &mut Changes) -> Result<usize, &'static str> {
    let (mut workspace, mut id) = (None, "null");
    let end = scan::object(json, at, |key, at| {
        // The first byte of a value tells its type.
        let token = scan::token(json.as_bytes(), at);
        let (kind, start) = token.unwrap_or((0, at));
        if let (EVENT, "resource", b'{') | ("resource", "meta", b'{') | ("meta", "payload", b'{') =
            (within, key, kind)
        {
            // An object with a name that is no text stays as it is.
            return read(json, at, key, changes).or_else(|_| scan::value(json, at));
        }
        let end = scan::value(json, at)?;
        match (within, key, kind) {
            (EVENT, "version", b'"' | b'n') => {}
            (EVENT, "version", _) => changes.push((start..end, quoted(&json[start..end]))),
            ("meta" | "payload", "workspace", _) => workspace = Some((start..end, kind)),
            ("meta" | "payload", "workspace_id", b'"') => id = &json[start..end],
            _ => {}
        }
        Ok(end)
    })?;
    if let Some((place, kind)) = workspace {
        let old = &json[place.clone()];
        let name = match kind {
            b'{' | b'n' => return Ok(end),
            b'"' => old.to_owned(),
            _ => quoted(old),
        };
        changes.push((place, format!(r#"{{"id":{id},"name":{name}}}"#)));
    }
    Ok(end)
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
            // A name that is no text.
            (
                r#"{"version":3,"resource":{"meta":{"\ud800":1,"workspace":"s"}}}"#,
                r#"{"version":"3","resource":{"meta":{"\ud800":1,"workspace":"s"}}}"#,
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
