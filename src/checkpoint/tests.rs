use std::sync::Arc;

use super::*;

const ENDPOINT: &str = "https://app.terraform.io";
const OVERLAP: Duration = Duration::from_secs(600);

fn time(text: &str) -> UtcDateTime {
    time::parse(&format!("2026-01-02T{text}Z")).unwrap()
}

fn event(id: &str, at: &str) -> Event {
    let json = r#"{"auth":{"organization_id":"org-A"}}"#;
    Event::new(
        &Arc::new(json.into()),
        0..json.len(),
        EventId::new(id),
        time(at),
    )
}

/// Advances by events, each an ID and a time, when the service's clock is at `now`.
fn advance(checkpoint: &mut Checkpoint, events: &[(&str, &str)], rest: Option<&str>, now: &str) {
    let events: Vec<_> = events.iter().map(|(id, at)| event(id, at)).collect();
    let acknowledged = Acknowledged::of_test(&events);
    checkpoint.advance(&acknowledged, rest.map(time), time(now), OVERLAP);
}

fn ids(checkpoint: &Checkpoint) -> String {
    checkpoint
        .boundary
        .values()
        .flatten()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_written_checkpoint_is_read_back_unchanged() {
    let mut checkpoint = Checkpoint::new(ENDPOINT.into());
    assert_eq!(
        Checkpoint::parse(&checkpoint.to_json(), ENDPOINT),
        Ok(checkpoint.clone())
    );
    advance(
        &mut checkpoint,
        &[
            ("a", "03:00:00.5"),
            ("b", "03:00:00.5"),
            ("é\"", "03:00:01"),
        ],
        None,
        "04:00:00",
    );
    checkpoint.complete(time("04:00:00"), time("04:00:00"), OVERLAP);
    let json = checkpoint.to_json();
    assert_eq!(Checkpoint::parse(&json, ENDPOINT), Ok(checkpoint));
    assert_eq!(
        String::from_utf8(json).unwrap(),
        r#"{"version":1,"endpoint":"https://app.terraform.io","organization_id":"org-A","last_timestamp":"2026-01-02T03:00:01.000Z","boundary_start":"2026-01-02T02:50:01.000Z","boundary_ids":{"2026-01-02T03:00:00.500Z":["a","b"],"2026-01-02T03:00:01.000Z":["é\""]},"completed_at":"2026-01-02T04:00:00.000Z"}
"#
    );
}

/// A part of a good checkpoint, its replacement, and a part of the message.
const FAULTS: &str = r#"
    "version":1                            | "version":2                 | version 2
    "version":1                            | "version":"1"               | damaged
    app.terraform.io                       | tfe.example.com             | belongs to https://tfe.example.com
    https://app.terraform.io               | \u001b[2J                   | belongs to \u{1b}[2J
    "organization_id":null                 | "organization_id":7         | damaged
    "2026-01-02T03:00:01Z"                 | "now"                       | not a time: now
    "2026-01-02T03:00:01Z"                 | 1767322801                  | damaged
    "2026-01-02T03:00:01Z"                 | null                        | lie outside
    02:50:01.000Z                          | 02:50:01.500Z               | not a whole second
    02:50:01.000Z                          | 03:00:02.000Z               | lie outside
    "2026-01-02T02:50:01.000Z"             | null                        | lack the event of last_timestamp
    {"2026-01-02T03:00:01.000Z":["a"]}     | {}                          | lack the event of last_timestamp
    {"2026-01-02T03:00:01.000Z":["a"]}     | []                          | damaged
    2026-01-02T03:00:01.000Z               | noon                        | not a time: noon
    ["a"]                                  | [""]                        | no id or an empty one
    ["a"]                                  | []                          | no id or an empty one
    ["a"]                                  | [7]                         | damaged
    "completed_at":null                    | "completed_at":null,"x":1   | unknown field
    "completed_at":null                    | "completed_at":"soon"       | not a time: soon
    "completed_at"                         | "resume_at":"2026-01-02T03:00:01.1Z","completed_at" | resume_at lies after
    null}                                  | null}{}                     | damaged
    null}                                  | null                        | damaged
"#;

#[test]
fn a_checkpoint_with_any_wrong_field_is_refused() {
    let good = r#"{"version":1,"endpoint":"https://app.terraform.io","organization_id":null,"last_timestamp":"2026-01-02T03:00:01Z","boundary_start":"2026-01-02T02:50:01.000Z","boundary_ids":{"2026-01-02T03:00:01.000Z":["a"]},"completed_at":null}"#;
    assert!(Checkpoint::parse(good.as_bytes(), ENDPOINT).is_ok());
    let same = good.replace("https://app.terraform.io", "HTTPS://APP.terraform.io:443/");
    assert!(Checkpoint::parse(same.as_bytes(), ENDPOINT).is_ok());
    let at_the_boundary = good.replace(
        r#""boundary_ids":{"#,
        r#""boundary_ids":{"2026-01-02T02:50:01.000Z":["b"],"#,
    );
    let known = Checkpoint::parse(at_the_boundary.as_bytes(), ENDPOINT)
        .unwrap()
        .known();
    assert_eq!(known.len(), 2);
    assert!(known.contains(EventId::new("b").identity()));
    for row in FAULTS.trim().lines() {
        let [old, new, message] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("{row} does not have three columns");
        };
        assert!(good.contains(old), "{row}");
        is_refused(&good.replacen(old, new, 1), message);
    }
    let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(good).unwrap();
    for field in fields.keys() {
        let mut fields = fields.clone();
        fields.remove(field);
        let less = serde_json::to_string(&fields).unwrap();
        is_refused(&less, &format!("missing field `{field}`"));
    }
}

#[track_caller]
fn is_refused(json: &str, message: &str) {
    let fault = Checkpoint::parse(json.as_bytes(), ENDPOINT).unwrap_err();
    assert!(fault.contains(message), "{json}: {fault}");
    assert!(!fault.contains(char::is_control), "{fault}");
}

#[test]
fn the_boundary_keeps_every_id_within_the_overlap() {
    let mut checkpoint = Checkpoint::new(ENDPOINT.into());
    advance(
        &mut checkpoint,
        &[("a", "03:00:00"), ("b", "03:05:00")],
        None,
        "04:00:00",
    );
    // In a later run, the same second and a late one.
    advance(
        &mut checkpoint,
        &[("c", "03:01:00"), ("d", "03:05:00")],
        None,
        "04:00:00",
    );
    assert_eq!(ids(&checkpoint), "a c b d");
    advance(&mut checkpoint, &[("e", "03:10:30")], None, "04:00:00");
    assert_eq!(checkpoint.boundary_start, Some(time("03:00:30")));
    assert_eq!(ids(&checkpoint), "c b d e");
}

#[test]
fn an_event_stamped_in_the_future_does_not_hide_the_present() {
    let mut checkpoint = Checkpoint::new(ENDPOINT.into());
    advance(
        &mut checkpoint,
        &[("a", "03:00:00"), ("future", "23:00:00")],
        None,
        "03:00:05",
    );
    assert_eq!(checkpoint.boundary_start, Some(time("02:50:05")));
    assert_eq!(ids(&checkpoint), "a future");
    checkpoint.complete(time("03:30:00"), time("03:30:00"), OVERLAP);
    assert_eq!(ids(&checkpoint), "future");
}

#[test]
fn the_boundary_stays_behind_the_oldest_waiting_event() {
    let mut checkpoint = Checkpoint::new(ENDPOINT.into());
    advance(
        &mut checkpoint,
        &[("a", "03:00:00"), ("future", "23:00:00")],
        Some("02:00:00"),
        "04:00:00",
    );
    assert_eq!(checkpoint.boundary_start, Some(time("01:50:00")));
}

#[test]
fn the_boundary_never_moves_back() {
    let mut checkpoint = Checkpoint::new(ENDPOINT.into());
    advance(&mut checkpoint, &[("a", "03:00:00")], None, "04:00:00");
    let events = [event("b", "03:00:01")];
    let day = Duration::from_secs(86_400);
    checkpoint.advance(&Acknowledged::of_test(&events), None, time("04:00:00"), day);
    assert_eq!(checkpoint.boundary_start, Some(time("02:50:00")));
}

#[test]
fn the_earliest_since_applies_until_an_event_is_delivered() {
    let mut checkpoint = Checkpoint::new(ENDPOINT.into());
    assert!(checkpoint.start_at(time("03:00:00.9")));
    assert_eq!(checkpoint.boundary_start, Some(time("03:00:00")));
    assert!(checkpoint.start_at(time("04:00:00")));
    assert_eq!(checkpoint.boundary_start, Some(time("03:00:00")));
    assert!(checkpoint.start_at(time("02:00:00")));
    assert_eq!(checkpoint.boundary_start, Some(time("02:00:00")));
    advance(&mut checkpoint, &[("a", "03:00:00")], None, "04:00:00");
    assert!(!checkpoint.start_at(time("01:00:00")));
}

#[test]
fn the_newest_known_events_are_few_but_for_ties() {
    let mut checkpoint = Checkpoint::new(ENDPOINT.into());
    assert_eq!(checkpoint.newest_known(9), None);
    let times = ["03:00:00", "03:00:01", "03:00:07", "03:00:07", "03:00:07.9"];
    let events: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().zip(times).collect();
    advance(&mut checkpoint, &events, None, "04:00:00");
    for (most, oldest, before) in [
        (9, None, 0),
        (5, None, 0),
        (4, Some("03:00:01"), 1),
        (3, Some("03:00:07"), 2),
        (2, Some("03:00:07.9"), 4),
        (0, Some("03:00:07.9"), 4),
    ] {
        let oldest = oldest.map(time);
        assert_eq!(checkpoint.newest_known(most), oldest, "{most}");
        assert_eq!(checkpoint.known_before(oldest), before, "{most}");
    }
    checkpoint.resume_at = Some(time("03:00:07"));
    let written = checkpoint.to_json();
    assert_eq!(Checkpoint::parse(&written, ENDPOINT), Ok(checkpoint));
}
