//! OpenTelemetry's protocol over HTTP, with logs as Protocol Buffers: `--format otlp`.
//!
//! A body is one `ExportLogsServiceRequest`
//! (<https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/logs/v1/logs.proto>).
//! Each event is a log record, whose body is the event's own text: a structured body would change
//! its numbers, and some receivers find no message in it. The records share a resource, which has
//! `service.name` and the labels, and a scope, which is this program.

use std::borrow::Cow;
use std::collections::BTreeMap;

use time::UtcDateTime;

use crate::event::Event;
use crate::format::Label;
use crate::format::protobuf::{
    bytes, is_message, number, push_bytes, push_fixed, push_head, push_number,
};
use crate::format::verdict::{Answer, Rest, Verdict};
use crate::json::scan;
use crate::retry;

/// The path for events
/// (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-request>).
pub const PATH: &str = "/v1/logs";

/// Attributes, and the members of an event that they hold; `id` and `name` are those of the record.
/// The semantic conventions name the first four
/// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/user/>) and have no names for the
/// others.
const ATTRIBUTES: [(&str, &str); 11] = [
    ("log.record.uid", "id"),
    ("event.name", "name"),
    ("user.id", "auth.accessor_id"),
    ("user.name", "auth.description"),
    ("hcp_terraform.auth.type", "auth.type"),
    ("hcp_terraform.auth.impersonator_id", "auth.impersonator_id"),
    ("hcp_terraform.auth.organization_id", "auth.organization_id"),
    ("hcp_terraform.request.id", "request.id"),
    ("hcp_terraform.resource.type", "resource.type"),
    ("hcp_terraform.resource.id", "resource.id"),
    ("hcp_terraform.resource.action", "resource.action"),
];

/// Makes a body of records: before them are the resource, which has the labels, and the scope.
/// Labels replace attributes of the same name.
pub(super) fn frame(labels: &[Label], records: &[u8]) -> Vec<u8> {
    let mut attributes = BTreeMap::from([("service.name", "hcp-terraform")]);
    attributes.extend(labels.iter().map(|(name, value)| (&**name, &**value)));
    let mut resource = Vec::new();
    for (name, value) in attributes {
        push_attribute(&mut resource, 1, name, value);
    }
    let mut own = Vec::new();
    push_bytes(&mut own, 1, env!("CARGO_PKG_NAME").as_bytes());
    push_bytes(&mut own, 2, env!("CARGO_PKG_VERSION").as_bytes());
    let mut scope = Vec::new();
    push_bytes(&mut scope, 1, &own);
    let mut logs = Vec::new();
    push_bytes(&mut logs, 1, &resource);
    push_head(&mut logs, 2, scope.len() + records.len());
    logs.extend(scope);
    let mut body = Vec::new();
    push_head(&mut body, 1, logs.len() + records.len());
    [&body, &logs, records].concat()
}

/// Appends a record. `observed` is the time at which this program has the event.
///
/// The event's ID is `log.record.uid`, by which receivers may tell an event that was sent again
/// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/log/>). The name of the event is
/// a field of the record, as the conventions require, and also the attribute `event.name`, which
/// preceded that field: Loki and Fluent Bit do not store the field
/// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/event/>).
pub(super) fn push(body: &mut Vec<u8>, event: &Event, json: &str, observed: UtcDateTime) {
    const INFO: u64 = 9;
    let mut texts = texts(json);
    let kind = texts.get("resource.type");
    let name = kind.zip(texts.get("resource.action"));
    let name = name.map(|(kind, action)| format!("hcp_terraform.{kind}.{action}"));
    texts.extend(name.map(|name| ("name".to_owned(), name.into())));
    texts.insert("id".to_owned(), event.id.to_string().into());
    let mut record = Vec::new();
    push_fixed(&mut record, 1, nanoseconds(event.time));
    push_number(&mut record, 2, INFO);
    push_bytes(&mut record, 3, b"INFO");
    push_text_value(&mut record, 5, json);
    for (name, place) in ATTRIBUTES {
        if let Some(text) = texts.get(place) {
            push_attribute(&mut record, 6, name, text);
        }
    }
    push_fixed(&mut record, 11, nanoseconds(observed));
    if let Some(name) = texts.get("name") {
        push_bytes(&mut record, 12, name.as_bytes());
    }
    push_bytes(body, 2, &record);
}

/// Nanoseconds since 1970; 0, which means unknown, for a time that does not fit.
fn nanoseconds(time: UtcDateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos()).unwrap_or_default()
}

/// Appends a `KeyValue` whose value is text.
fn push_attribute(message: &mut Vec<u8>, field: u64, name: &str, value: &str) {
    let mut attribute = Vec::new();
    push_bytes(&mut attribute, 1, name.as_bytes());
    push_text_value(&mut attribute, 2, value);
    push_bytes(message, field, &attribute);
}

/// Appends an `AnyValue` that is text.
fn push_text_value(message: &mut Vec<u8>, field: u64, text: &str) {
    let mut value = Vec::with_capacity(text.len() + 4);
    push_bytes(&mut value, 1, text.as_bytes());
    push_bytes(message, field, &value);
}

/// The texts in an event's objects, by their places such as `resource.type`.
fn texts(json: &str) -> BTreeMap<String, Cow<'_, str>> {
    let mut texts = BTreeMap::new();
    // Nothing is left out of an event, which is an object.
    let _ = scan::object(json, 0, |object, at| {
        let members = scan::object(json, at, |member, at| {
            if let Some((text, _)) = scan::string(json, at) {
                texts.insert(format!("{object}.{member}"), text);
            }
            scan::value(json, at)
        });
        members.or_else(|_: &str| scan::value(json, at))
    });
    texts
}

/// The verdict on a 2xx, and on failures that OTLP forbids to retry; `None` for the rest
/// (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>).
///
/// An answer may reject some records. It tells how many and not which ones.
pub(super) fn judge(answer: &Answer, count: usize) -> Option<Verdict> {
    let message = answer.message();
    match answer.status {
        200..300 => Some(match answer.body.map(rejected) {
            None => answer.without_acknowledgement(""),
            Some(0) => Verdict::accepted(),
            Some(rejected) => Verdict::new(
                Rest::RefusedEvents,
                format!("{message} ({rejected} of {count} events rejected)"),
            ),
        }),
        429 | 502..=504 => None,
        status if retry::is_retryable(status) => Some(Verdict::new(Rest::Failed, message)),
        _ => None,
    }
}

/// The number of records that an `ExportLogsServiceResponse` rejects.
fn rejected(body: &[u8]) -> u64 {
    bytes(body, 1).map_or(0, |partial_success| number(partial_success, 1))
}

/// The text of an answer's body: the message of a `google.rpc.Status` or of a partial success. The
/// answer of a proxy or of another product may be text itself.
pub(super) fn said(body: &[u8]) -> &[u8] {
    let of_partial_success = || bytes(bytes(body, 1)?, 2);
    match bytes(body, 2).or_else(of_partial_success) {
        Some(message) => message,
        None if is_message(body) => b"",
        None => body,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::EventId;
    use crate::format::tests::NO_LIMITS;
    use crate::format::verdict::tests::{answer, judged};
    use crate::format::{Encoder, Format};
    use crate::time;

    const OBSERVED: &str = "2026-01-02T03:04:06Z";

    /// The body of events with these texts.
    fn body(texts: &[&str], labels: &[Label]) -> Vec<u8> {
        let time = time::parse("2026-01-02T03:04:05Z").unwrap();
        let event = |json: &&str| {
            Event::new(
                &Arc::new((*json).into()),
                0..json.len(),
                EventId::new("x"),
                time,
            )
        };
        let events: Vec<_> = texts.iter().map(event).collect();
        let encoder = Encoder::new(Format::Otlp, false, labels);
        let observed = time::parse(OBSERVED).unwrap();
        let (body, count) = encoder.encode(&events, NO_LIMITS, observed);
        assert_eq!(count, texts.len());
        body
    }

    /// The text of all values of a body, with its bytes that are not printable dropped.
    fn printable(body: &[u8]) -> String {
        let bytes = body.iter().filter(|byte| byte.is_ascii_graphic());
        bytes.map(|&byte| char::from(byte)).collect()
    }

    #[test]
    fn a_body_is_one_resource_and_one_scope_with_a_record_for_each_event() {
        let one = body(&["{}"], &[]);
        let logs = bytes(&one, 1).unwrap();
        let resource = bytes(logs, 1).unwrap();
        assert_eq!(
            bytes(bytes(resource, 1).unwrap(), 1),
            Some(&b"service.name"[..])
        );
        let scope_logs = bytes(logs, 2).unwrap();
        let scope = bytes(scope_logs, 1).unwrap();
        assert_eq!(bytes(scope, 1), Some(&b"tfc-audit"[..]));
        let record = bytes(scope_logs, 2).unwrap();
        assert_eq!(
            bytes(record, 1),
            Some(&1_767_323_045_000_000_000_u64.to_le_bytes()[..])
        );
        assert_eq!(
            bytes(record, 11),
            Some(&1_767_323_046_000_000_000_u64.to_le_bytes()[..])
        );
        assert_eq!(number(record, 2), 9);
        assert_eq!(bytes(bytes(record, 5).unwrap(), 1), Some(&b"{}"[..]));
        // Every further record adds its own bytes, and its length is in those of the messages above.
        let hundred = body(&["{}"; 100], &[]);
        let scope_logs = bytes(bytes(&hundred, 1).unwrap(), 2).unwrap();
        assert_eq!(bytes(scope_logs, 2), Some(record));
    }

    #[test]
    fn the_text_of_main_fields_becomes_attributes() {
        let named = |json| printable(&body(&[json], &[]));
        let all = named(
            r#"{"auth":{"accessor_id":"user-A","description":"al\u0069ce","impersonator_id":null},"resource":{"action":"create","type":"team"}}"#,
        );
        for pair in [
            "log.record.uidx",
            "event.namehcp_terraform.team.create",
            "user.iduser-A",
            "user.namealice",
            "hcp_terraform.resource.actioncreate",
        ] {
            assert!(all.contains(pair), "{pair} in {all}");
        }
        assert!(!all.contains("hcp_terraform.auth.impersonator_id"), "{all}");
        // Whatever an event holds, it is delivered.
        for odd in [
            r#"{"auth":[],"resource":{"type":7,"action":"create"}}"#,
            r#"{"resource":{"type":"\ud800","action":1e400}}"#,
            r#"{"resource":null}"#,
        ] {
            assert!(!named(odd).contains("event.name"), "{odd}");
        }
    }

    #[test]
    fn a_label_is_an_attribute_of_the_resource() {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let labels = [label("env", "prod"), label("service.name", "terraform")];
        let named = printable(&body(&[], &labels));
        assert!(named.contains("envprod"), "{named}");
        assert!(named.contains("service.nameterraform"), "{named}");
        assert!(!named.contains("hcp-terraform"), "{named}");
    }

    /// A response whose partial success has this count and message.
    fn partial(rejected: u64, message: &str) -> String {
        let (mut partial, mut response) = (Vec::new(), Vec::new());
        push_number(&mut partial, 1, rejected);
        push_bytes(&mut partial, 2, message.as_bytes());
        push_bytes(&mut response, 1, &partial);
        String::from_utf8(response).unwrap()
    }

    #[test]
    fn a_2xx_acknowledges_unless_it_rejects_records() {
        for (status, body, verdict) in [
            (200, "", 'a'),
            (200, "\n\0", 'a'),
            (204, "", 'a'),
            (201, "created", 'a'),
            (200, &partial(0, "this field is deprecated"), 'a'),
            (200, &partial(2, "too old"), 'e'),
            (400, &partial(0, ""), 'e'),
            (413, "", 'l'),
            (401, "", 'r'),
        ] {
            let is = judged(Format::Otlp, status, body);
            assert_eq!(is, verdict, "{status} {body:?}");
        }
        let broken = Answer {
            body: None,
            ..answer(200, "")
        };
        let why = "there: answered 200, and the answer broke off".to_owned();
        assert_eq!(judge(&broken, 1), Some(Verdict::new(Rest::Retry, why)));
    }

    #[test]
    fn only_429_502_503_and_504_are_retried() {
        for (status, verdict) in [
            (408, 'p'),
            (425, 'p'),
            (429, 't'),
            (500, 'p'),
            (501, 'r'),
            (502, 't'),
            (503, 't'),
            (504, 't'),
            (505, 'p'),
        ] {
            assert_eq!(judged(Format::Otlp, status, ""), verdict, "{status}");
        }
    }

    #[test]
    fn the_message_of_an_answer_is_its_text() {
        let status = "\u{8}\u{3}\u{12}\u{7}too old\u{1a}\0";
        for (body, text) in [
            (status, "too old"),
            (&partial(3, "too new"), "too new"),
            ("\n\0", ""),
            ("\u{8}\u{3}", ""),
            ("<html>Sign in", "<html>Sign in"),
            ("{\"code\":3}", "{\"code\":3}"),
            ("error: invalid endpoint\n", "error: invalid endpoint\n"),
        ] {
            assert_eq!(said(body.as_bytes()), text.as_bytes(), "{body:?}");
        }
    }

    #[test]
    fn an_address_without_a_path_gets_that_of_the_protocol() {
        assert_eq!(Format::Otlp.path("/"), "/v1/logs");
        assert_eq!(Format::Otlp.path("/otlp/v1/logs"), "/otlp/v1/logs");
    }
}
