//! The bulk API of Elasticsearch and OpenSearch: `--format elasticsearch`.
//!
//! Each event is two lines: an action, and the event as a document with `@timestamp` before its
//! own fields (<https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk>). The
//! action is `create` with the event's ID, so that an event sent again answers 409 and is not
//! stored twice. Data streams take no other action.

use std::io::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::Event;
use crate::format::quoted;
use crate::format::verdict::{Answer, Fate, Rest, Taken, Verdict};
use crate::json::{self, Object};
use crate::time;

/// Appends an action and a document, each on its line.
pub(super) fn push(body: &mut Vec<u8>, event: &Event, json: &str) {
    let fields = json.strip_prefix('{').unwrap_or(json).trim_start();
    let comma = if fields == "}" { "" } else { "," };
    let time = time::format(event.time);
    let id = quoted(&event.id.to_string());
    // Writing to memory cannot fail.
    let _ = write!(
        body,
        "{{\"create\":{{\"_id\":{id}}}}}\n{{\"@timestamp\":\"{time}\"{comma}{fields}\n"
    );
}

/// The path of the bulk API: of the index in the address, else of the cluster.
pub(super) fn path(given: &str) -> String {
    let index = given.strip_suffix("/_bulk").unwrap_or(given);
    format!("{}/_bulk", index.trim_end_matches('/'))
}

/// The root of the cluster, which names its version.
pub(super) fn health(path: &str) -> Option<String> {
    let index = path.strip_suffix("/_bulk")?;
    let (before, _) = index.rsplit_once('/').unwrap_or_default();
    Some(format!("{before}/"))
}

/// The verdict on a 2xx, item by item; `None` for any other answer.
pub(super) fn judge(answer: &Answer, count: usize) -> Option<Verdict> {
    answer.is_success().then(|| {
        by_items(answer, count).unwrap_or_else(|| {
            answer.without_acknowledgement("does not tell which events failed (filter_path has to include errors, items.*.status and items.*.error)")
        })
    })
}

/// Reads the answer to a bulk request of `count` events; `None` if it does not tell what became of
/// each.
///
/// The query option `filter_path` may leave out `items`, which are of no use if there are no errors,
/// or `errors`, which are not if there are items.
fn by_items(answer: &Answer, count: usize) -> Option<Verdict> {
    #[derive(Deserialize)]
    struct Bulk<'a> {
        errors: Option<bool>,
        #[serde(borrow)]
        items: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Created<'a> {
        #[serde(borrow)]
        create: Object<Outcome<'a>>,
    }
    #[derive(Deserialize)]
    struct Outcome<'a> {
        status: u16,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let bulk: Bulk = json::object(answer.body?)?;
    if bulk.errors == Some(false) {
        return Some(Verdict::accepted());
    }
    let outcomes: Vec<Object<Created>> = serde_json::from_str(bulk.items?.get()).ok()?;
    if outcomes.len() != count {
        return None;
    }
    let mut verdict = Verdict::accepted();
    let fate = |Object(Created { create })| {
        let Object(Outcome { status, error }) = create;
        let message = || {
            let said = (answer.show)(error.map_or("", RawValue::get).as_bytes());
            format!("{}: answered {status}: {said}", answer.origin)
        };
        let rest = match status {
            // Created now, or by an earlier request.
            200..300 | 409 => return Fate::Taken,
            400 | 413 | 422 => return Fate::Refused(message()),
            429 | 500..600 => Rest::Retry,
            // A missing privilege or index, an index that takes no more writes.
            _ => Rest::Refused,
        };
        if verdict.rest != Rest::Refused {
            (verdict.rest, verdict.message) = (rest, message());
        }
        Fate::Open
    };
    let fates = outcomes.into_iter().map(fate).collect();
    verdict.taken = Taken::Items(fates);
    Some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use crate::format::tests::body;
    use crate::format::verdict::tests::answer;

    #[test]
    fn an_event_is_an_action_and_a_document() {
        let expected = r#"{"create":{"_id":"id\"1"}}
{"@timestamp":"2023-11-14T22:13:20.500Z","a":"\u00e9","version":"0"}
{"create":{"_id":"id\"1"}}
{"@timestamp":"2023-11-14T22:13:20.500Z","b":2}
"#;
        assert_eq!(body(Format::Elasticsearch, &[]), expected);
    }

    #[test]
    fn paths_are_those_of_the_index_and_of_the_cluster() {
        for (given, path, health) in [
            ("/", "/_bulk", "/"),
            ("/logs-a-b", "/logs-a-b/_bulk", "/"),
            ("/logs-a-b/_bulk", "/logs-a-b/_bulk", "/"),
            ("/a/logs-a-b/", "/a/logs-a-b/_bulk", "/a/"),
        ] {
            assert_eq!(Format::Elasticsearch.path(given), path);
            assert_eq!(super::health(path).as_deref(), Some(health));
        }
    }

    #[test]
    fn each_item_has_an_outcome_of_its_own() {
        let items = r#"{"errors":true,"items":[
            {"create":{"_id":"a","status":201}},
            {"create":{"_id":"b","status":409,"error":{"type":"version_conflict_engine_exception"}}},
            {"create":{"_id":"c","status":429,"error":{"type":"es_rejected_execution_exception"}}},
            {"create":{"_id":"d","status":400,"error":{"type":"document_parsing_exception"}}},
            {"create":{"_id":"e","status":403,"error":{"type":"cluster_block_exception"}}}]}"#;
        let bulk = |count| judge(&answer(200, items), count).unwrap();
        let verdict = bulk(5);
        let Taken::Items(items) = &verdict.taken else {
            panic!("{verdict:?}")
        };
        let [
            Fate::Taken,
            Fate::Taken,
            Fate::Open,
            Fate::Refused(d),
            Fate::Open,
        ] = &items[..]
        else {
            panic!("{items:?}")
        };
        assert!(d.contains("document_parsing"), "{d}");
        // The item that stops the run names the reason.
        assert_eq!(verdict.rest, Rest::Refused);
        assert!(verdict.message.contains("cluster_block"), "{verdict:?}");
        // The answer to some other request.
        assert_eq!(bulk(6).rest, Rest::Refused);
    }

    #[test]
    fn an_answer_without_errors_acknowledges_all() {
        let none = r#"{"took":1,"errors":false,"items":[]}"#;
        let judge = |answer| judge(&answer, 5);
        assert_eq!(judge(answer(200, none)), Some(Verdict::accepted()));
        assert_eq!(judge(answer(503, none)), None);
        let rest = |answer| judge(answer).map(|verdict| verdict.rest);
        assert_eq!(rest(answer(200, "{}")), Some(Rest::Refused));
        let filtered = r#"{"items":[{"create":{"status":201}},{"create":{"status":409}}]}"#;
        let verdict = super::judge(&answer(200, filtered), 2).unwrap();
        assert_eq!(verdict.rest, Rest::Nothing);
        for filtered in [
            "{}",
            r#"{"errors":true}"#,
            r#"{"errors":true,"items":[{"create":{}}]}"#,
        ] {
            let verdict = super::judge(&answer(200, filtered), 1).unwrap();
            assert_eq!(verdict.rest, Rest::Refused);
            assert!(verdict.message.contains("filter_path"), "{verdict:?}");
        }
        let broken = Answer {
            body: None,
            ..answer(200, "")
        };
        assert_eq!(rest(broken), Some(Rest::Retry));
    }
}
