//! What a receiver's answer acknowledges, read a second time.

use super::*;

/// A receiver's answer acknowledges by the format's own rule and by nothing else, whatever the
/// status and however many events were sent. Accepted is what acknowledges by its body.
pub fn answer(body: &[u8]) -> bool {
    let text = std::str::from_utf8(body).ok();
    if text.is_none() {
        // Within strings that do not matter this is let pass, which our second reading does not.
        for (_, format) in FORMATS {
            let _ = format.judge(&received(200, Some(body)), 1);
        }
        return false;
    }
    let code = text.and_then(splunk_code);
    let bulk = text.and_then(bulk_items);
    for status in [
        100, 200, 201, 204, 260, 299, 302, 400, 409, 413, 429, 501, 503, 999,
    ] {
        let success = (200..300).contains(&status);
        let items = bulk.as_ref().map_or(0, |(_, items)| items.len());
        for (name, format) in FORMATS {
            for count in [items, items + 1] {
                for body in [Some(body), None] {
                    let verdict = format.judge(&received(status, body), count);
                    let accepts = match format {
                        Format::Ndjson | Format::JsonArray | Format::Json => success,
                        Format::Loki => status == 204,
                        Format::Otlp => success && body.is_some_and(|it| otlp_rejected(it) == 0),
                        Format::SplunkHec => {
                            success && body.is_some() && matches!(code, Some(0 | 24 | 25))
                        }
                        Format::Elasticsearch => {
                            let all = bulk
                                .as_ref()
                                .is_some_and(|(errors, _)| *errors == Some(false));
                            success && body.is_some() && all
                        }
                    };
                    assert_eq!(
                        verdict.taken == Taken::All,
                        accepts,
                        "{name} {status}: {verdict:?}"
                    );
                    if let Taken::Items(fates) = &verdict.taken {
                        let (_, items) = bulk.as_ref().expect("a bulk answer");
                        let taken = |status: &u64| matches!(status, 200..300 | 409);
                        let fates = fates.iter().map(|fate| *fate == Fate::Taken);
                        assert!(success && format == Format::Elasticsearch && count == items.len());
                        assert!(fates.eq(items.iter().map(taken)), "{verdict:?}");
                    }
                }
            }
        }
    }
    let is_bulk =
        |(errors, items): &(Option<bool>, Vec<u64>)| *errors == Some(false) || !items.is_empty();
    code == Some(0) || bulk.as_ref().is_some_and(is_bulk)
}

/// How many records an answer of OTLP rejects.
fn otlp_rejected(body: &[u8]) -> u64 {
    let partial_success = protobuf_field(body, 1, false).map(|(_, bytes)| bytes);
    let rejected = partial_success.and_then(|it| protobuf_field(it, 1, true));
    rejected.map_or(0, |(number, _)| number)
}

/// The last value of a field of a protobuf message: an integer, or else bytes.
fn protobuf_field(message: &[u8], wanted: u64, is_integer: bool) -> Option<(u64, &[u8])> {
    let (mut rest, mut found) = (message, None);
    let varint = |rest: &mut &[u8]| {
        let last = rest.iter().take(10).position(|byte| *byte < 128)?;
        let (bytes, after) = rest.split_at(last + 1);
        *rest = after;
        let join = |number, byte: &u8| number << 7 | u64::from(byte & 127);
        Some(bytes.iter().rev().fold(0, join))
    };
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let value = match (tag & 7, tag >> 3) {
            (_, 0) | (3 | 4 | 6 | 7, _) => return None,
            (0, _) => (varint(&mut rest)?, &[][..]),
            (kind, _) => {
                let length = match kind {
                    1 => 8,
                    5 => 4,
                    _ => varint(&mut rest)?.try_into().ok()?,
                };
                let (bytes, after) = rest.split_at_checked(length)?;
                rest = after;
                (0, bytes)
            }
        };
        if tag >> 3 == wanted && (tag % 8 == 0) == is_integer {
            found = Some(value);
        }
    }
    found
}

fn received(status: u16, body: Option<&[u8]>) -> Answer<'_> {
    Answer {
        origin: "",
        status,
        body,
        said: "said",
        show: &|text| String::from_utf8_lossy(text).into_owned(),
    }
}

fn splunk_code(body: &str) -> Option<u64> {
    serde_json::from_str(Members::of(body)?.only("code")?).ok()
}

/// `errors`, and the `status` of each of the `items`. Either may be left out.
fn bulk_items(body: &str) -> Option<(Option<bool>, Vec<u64>)> {
    let body = Members::of(body)?;
    let errors = body.at_most_one("errors").ok()?.unwrap_or("null");
    let errors = serde_json::from_str(errors).ok()?;
    let items = body.at_most_one("items").ok()?.unwrap_or("null");
    Some((errors, bulk_statuses(items).unwrap_or_default()))
}

fn bulk_statuses(items: &str) -> Option<Vec<u64>> {
    let items: Vec<&RawValue> = serde_json::from_str(items).ok()?;
    let status = |item: &&RawValue| {
        let item = Members::of(item.get())?;
        let outcome = Members::of(item.only("create")?)?;
        outcome.at_most_one("error").ok()?;
        let status: u16 = serde_json::from_str(outcome.only("status")?).ok()?;
        Some(u64::from(status))
    };
    items.iter().map(status).collect()
}
