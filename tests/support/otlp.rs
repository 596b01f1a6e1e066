//! OTLP's messages as a receiver reads them, which shares no code with the program: each message by
//! its schema (<https://github.com/open-telemetry/opentelemetry-proto>), nothing unknown, no field
//! twice. The result is JSON, with the names of OTLP's JSON encoding.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The fields of a message: number, name and kind.
type Schema = &'static [(u64, &'static str, Kind)];

#[derive(Clone, Copy)]
enum Kind {
    One(Schema),
    Many(Schema),
    Text,
    Number,
    Fixed,
}

use Kind::{Fixed, Many, Number, One, Text};

const REQUEST: Schema = &[(1, "resourceLogs", Many(RESOURCE_LOGS))];
const RESOURCE_LOGS: Schema = &[
    (1, "resource", One(RESOURCE)),
    (2, "scopeLogs", Many(SCOPE_LOGS)),
];
const RESOURCE: Schema = &[(1, "attributes", Many(KEY_VALUE))];
const SCOPE_LOGS: Schema = &[(1, "scope", One(SCOPE)), (2, "logRecords", Many(RECORD))];
const SCOPE: Schema = &[(1, "name", Text), (2, "version", Text)];
const RECORD: Schema = &[
    (1, "timeUnixNano", Fixed),
    (2, "severityNumber", Number),
    (3, "severityText", Text),
    (5, "body", One(ANY_VALUE)),
    (6, "attributes", Many(KEY_VALUE)),
    (11, "observedTimeUnixNano", Fixed),
    (12, "eventName", Text),
];
const KEY_VALUE: Schema = &[(1, "key", Text), (2, "value", One(ANY_VALUE))];
const ANY_VALUE: Schema = &[(1, "stringValue", Text)];

/// Reads a request.
pub fn request(bytes: &[u8]) -> Result<Value, String> {
    message(bytes, REQUEST)
}

/// The records of a request that [`request`] has read.
pub fn records(request: &Value) -> Vec<&Value> {
    let scopes = list(&request["resourceLogs"]).flat_map(|logs| list(&logs["scopeLogs"]));
    scopes.flat_map(|logs| list(&logs["logRecords"])).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The attributes of a record or a resource, as an object.
pub fn attributes(of: &Value) -> Result<Map<String, Value>, String> {
    let mut attributes = Map::new();
    for pair in list(&of["attributes"]) {
        let name = pair["key"].as_str().ok_or("a key is missing")?;
        let value = pair["value"]["stringValue"].clone();
        if attributes.insert(name.to_owned(), value).is_some() {
            return Err(format!("two attributes {name}"));
        }
    }
    Ok(attributes)
}

fn message(mut bytes: &[u8], schema: Schema) -> Result<Value, String> {
    let (mut read, mut seen) = (Map::new(), BTreeSet::new());
    while !bytes.is_empty() {
        let (number, wire) = field(&mut bytes).ok_or("half a field")?;
        let known = schema.iter().find(|(known, ..)| *known == number);
        let (_, name, kind) = known.ok_or_else(|| format!("field {number}"))?;
        if !seen.insert(number) && !matches!(kind, Many(_)) {
            return Err(format!("{name} twice"));
        }
        let value = match (kind, wire) {
            (One(schema), Wire::Bytes(bytes)) => message(bytes, schema)?,
            (Many(schema), Wire::Bytes(bytes)) => {
                let item = message(bytes, schema)?;
                let list = read.entry(*name).or_insert(json!([]));
                list.as_array_mut().expect("a list").push(item);
                continue;
            }
            (Text, Wire::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes);
                text.map_err(|error| format!("{name}: {error}"))?.into()
            }
            (Number, Wire::Varint(number)) => number.into(),
            (Fixed, Wire::Fixed(number)) => number.to_string().into(),
            _ => return Err(format!("{name} has another type")),
        };
        read.insert((*name).to_owned(), value);
    }
    Ok(read.into())
}

enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// Takes a field's number and value.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Wire<'a>)> {
    let tag = varint(bytes)?;
    let wire = match tag % 8 {
        0 => Wire::Varint(varint(bytes)?),
        1 => Wire::Fixed(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?)),
        2 => {
            let length = varint(bytes)?;
            Wire::Bytes(take(bytes, length)?)
        }
        _ => return None,
    };
    Some((tag / 8, wire))
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length.try_into().ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// Takes an integer in its shortest form.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let length = bytes.iter().position(|byte| *byte < 128)? + 1;
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    if length > 1 && taken.last() == Some(&0) {
        return None;
    }
    taken.iter().rev().try_fold(0_u64, |number, byte| {
        number.checked_mul(128)?.checked_add(u64::from(byte % 128))
    })
}

/// An `ExportLogsServiceResponse` without a partial success, as the OpenTelemetry Collector writes it.
pub const SUCCESS: &[u8] = b"\n\0";

/// An `ExportLogsServiceResponse` that rejects records.
pub fn rejects(count: usize, why: &str) -> Vec<u8> {
    let byte = |length: usize| u8::try_from(length).ok().filter(|it| *it < 128);
    let byte = |length| byte(length).expect("an answer of the tests is short");
    let partial = [&[8, byte(count), 18, byte(why.len())], why.as_bytes()].concat();
    [&[10, byte(partial.len())], &partial[..]].concat()
}

/// A `google.rpc.Status` with this message.
pub fn status(why: &str) -> Vec<u8> {
    let length = u8::try_from(why.len()).expect("an answer of the tests is short");
    [&[8, 3, 18, length], why.as_bytes()].concat()
}
