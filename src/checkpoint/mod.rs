//! The checkpoint: how far earlier runs got, who may change it, and how it is changed.
//!
//! What holds, why, and what tries it (the names are of `tests/it`, whose model tries all but the
//! first two):
//!
//! - **One run at a time.** A lock on a file beside the checkpoint, which is never renamed or
//!   deleted: the checkpoint itself is replaced at each commit, so that a lock on it could have two
//!   owners. (`checkpoint::a_second_run_…`)
//! - **The old or the new one, never a third thing.** A commit writes a temporary file, syncs it,
//!   renames it over the checkpoint and syncs the directory. (`crash`: killed at each system call,
//!   and `the_order_on_disk`; `faults`: each call refused)
//! - **No premature commit.** [`Checkpoint::advance`] takes the proof of a delivery, which only
//!   [`crate::delivery::Delivery`] makes. (`crash`, `defects::defect_06_…`)
//! - **No repetition.** An event is new if its ID is not among the boundary's and its timestamp is
//!   not before `boundary_start`. The boundary has the IDs of *all* delivered events from
//!   `boundary_start` on, so these two together know every event that was delivered.
//!   (`defects::defect_03_…`)
//! - **No loss.** `boundary_start` stays behind everything that may still appear: by the overlap
//!   behind the newest delivered event and the server's clock, and never past an event that was
//!   seen or may be waiting and is not delivered. (`checkpoint::the_overlap_is_how_late_…`)

pub mod file;

use std::collections::BTreeMap;
use std::time::Duration;

use ::time::OffsetDateTime;
use serde::{Deserialize, Serialize};

use crate::config::url::Url;
use crate::delivery::Acknowledged;
use crate::event::{Event, EventId};
use crate::json::Object;
use crate::text::excerpt;
use crate::time;
use crate::walk::identities::IdentitySet;

/// The format that this program reads and writes.
const VERSION: u64 = 1;

/// What earlier runs delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The service that it belongs to, as [`crate::config::Url`] spells it.
    pub endpoint: String,
    /// The organization of the delivered events, once one has told it.
    pub organization_id: Option<String>,
    /// The largest timestamp that was delivered.
    pub last_timestamp: Option<OffsetDateTime>,
    /// A whole second: everything before it is settled. `None`: nothing is.
    pub boundary_start: Option<OffsetDateTime>,
    /// The IDs of all delivered events at or after `boundary_start`.
    pub boundary: BTreeMap<OffsetDateTime, Vec<EventId>>,
    /// When a run last delivered everything there was.
    pub completed_at: Option<OffsetDateTime>,
}

/// The file's content. A field that is not there is an error, not a null: only `null` is null.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u64,
    endpoint: String,
    #[serde(deserialize_with = "Option::deserialize")]
    organization_id: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    last_timestamp: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    boundary_start: Option<String>,
    boundary_ids: BTreeMap<String, Vec<EventId>>,
    #[serde(deserialize_with = "Option::deserialize")]
    completed_at: Option<String>,
}

impl Checkpoint {
    /// The checkpoint before the first event, which starts at `since` (cut to its second).
    #[must_use]
    pub fn new(endpoint: String, since: Option<OffsetDateTime>) -> Self {
        Self {
            endpoint,
            organization_id: None,
            last_timestamp: None,
            boundary_start: since.map(time::floor_second),
            boundary: BTreeMap::new(),
            completed_at: None,
        }
    }

    /// Reads a checkpoint for this endpoint, distrusting all of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8], endpoint: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        if let Ok(Object(Version { version })) = serde_json::from_slice(json)
            && version != VERSION
        {
            return Err(format!(
                "it has version {version}, and this program knows version {VERSION} only"
            ));
        }
        let Object(mut content): Object<Content> =
            serde_json::from_slice(json).map_err(|error| format!("it is damaged ({error})"))?;
        let theirs = Url::parse_endpoint(&content.endpoint).ok();
        let is_theirs = theirs.is_some_and(|theirs| theirs.to_string() == endpoint);
        // Before the first event it holds nothing of the service that it was made for: the first
        // run's mistake in the address is no reason to stop the next.
        if !is_theirs && content.last_timestamp.is_some() {
            return Err(format!(
                "it belongs to {}, not to {endpoint}",
                excerpt(content.endpoint.as_bytes())
            ));
        }
        let time = |name: &str, text: &str| {
            time::parse(text)
                .ok_or_else(|| format!("its {name} is not a time: {}", excerpt(text.as_bytes())))
        };
        let optional = |name, text: Option<String>| text.map(|text| time(name, &text)).transpose();
        let last_timestamp = optional("last_timestamp", content.last_timestamp)?;
        let boundary_start = optional("boundary_start", content.boundary_start)?;
        let completed_at = optional("completed_at", content.completed_at)?;
        if boundary_start.is_some_and(|start| start != time::floor_second(start)) {
            return Err("its boundary_start is not a whole second".to_owned());
        }
        let mut boundary: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (text, ids) in &mut content.boundary_ids {
            let time = time("boundary_ids", text)?;
            if Some(time) > last_timestamp || boundary_start.is_some_and(|start| time < start) {
                return Err(format!(
                    "its boundary_ids at {text} lie outside of boundary_start to last_timestamp"
                ));
            }
            if ids.is_empty() || ids.contains(&EventId::new("")) {
                return Err(format!(
                    "its boundary_ids at {text} hold no id or an empty one"
                ));
            }
            boundary.entry(time).or_default().append(ids);
        }
        if last_timestamp
            .is_some_and(|last| boundary_start.is_none() || !boundary.contains_key(&last))
        {
            return Err("its boundary_ids lack the event of last_timestamp".to_owned());
        }
        let endpoint = endpoint.to_owned();
        Ok(Self {
            endpoint,
            organization_id: content.organization_id,
            last_timestamp,
            boundary_start,
            boundary,
            completed_at,
        })
    }

    /// The file's content.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let ids =
            |(&time, ids): (&OffsetDateTime, &Vec<EventId>)| (time::format(time), ids.clone());
        let content = Content {
            version: VERSION,
            endpoint: self.endpoint.clone(),
            organization_id: self.organization_id.clone(),
            last_timestamp: self.last_timestamp.map(time::format),
            boundary_start: self.boundary_start.map(time::format),
            boundary_ids: self.boundary.iter().map(ids).collect(),
            completed_at: self.completed_at.map(time::format),
        };
        let mut json = serde_json::to_vec(&content).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// The identities of the boundary's events.
    #[must_use]
    pub fn known(&self) -> IdentitySet {
        self.boundary
            .values()
            .flatten()
            .map(EventId::identity)
            .collect()
    }

    /// Where a run starts that has delivered nothing yet: the earliest time that was asked for.
    /// Gives whether `since` has an effect.
    pub fn start_at(&mut self, since: OffsetDateTime) -> bool {
        if self.last_timestamp.is_some() {
            return false;
        }
        let since = time::floor_second(since);
        self.boundary_start = Some(self.boundary_start.map_or(since, |start| start.min(since)));
        true
    }

    /// Takes in what was delivered, and moves the boundary after it. `rest` is a time that no event
    /// still to come in this run is older than, `server_time` the server's clock when the run's
    /// reading began.
    pub fn advance(
        &mut self,
        delivered: &Acknowledged,
        rest: Option<OffsetDateTime>,
        server_time: OffsetDateTime,
        overlap: Duration,
    ) {
        let events = delivered.events();
        let newest = events.iter().map(|event| event.time).max();
        self.last_timestamp = self.last_timestamp.max(newest);
        if self.organization_id.is_none() {
            self.organization_id = events.iter().find_map(Event::organization);
        }
        self.move_boundary(rest, server_time, overlap);
        for event in events
            .iter()
            .filter(|event| self.boundary_start.is_none_or(|start| event.time >= start))
        {
            let id = event.id.clone();
            // Nearly always the last one: no search.
            match self.boundary.last_entry() {
                Some(mut last) if *last.key() == event.time => last.get_mut().push(id),
                _ => self.boundary.entry(event.time).or_default().push(id),
            }
        }
    }

    /// Notes that everything there was is delivered.
    pub fn complete(
        &mut self,
        now: OffsetDateTime,
        server_time: OffsetDateTime,
        overlap: Duration,
    ) {
        self.move_boundary(None, server_time, overlap);
        self.completed_at = Some(time::floor_second(now));
    }

    /// Moves `boundary_start` forward, never back: what lies before it is forgotten already.
    fn move_boundary(
        &mut self,
        rest: Option<OffsetDateTime>,
        server_time: OffsetDateTime,
        overlap: Duration,
    ) {
        let Some(last) = self.last_timestamp else {
            return;
        };
        // An event stamped in the future must not hide the present.
        let settled = last.min(server_time).min(rest.unwrap_or(last));
        let start = time::floor_second(time::before(settled, overlap));
        self.boundary_start = self.boundary_start.max(Some(start));
        if let Some(start) = self.boundary_start {
            self.boundary = self.boundary.split_off(&start);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ENDPOINT: &str = "https://app.terraform.io";
    const OVERLAP: Duration = Duration::from_secs(600);

    fn time(text: &str) -> OffsetDateTime {
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

    /// Advances by events that are given as (id, time), with the server's clock far ahead.
    fn advance(
        checkpoint: &mut Checkpoint,
        events: &[(&str, &str)],
        rest: Option<&str>,
        now: &str,
    ) {
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
    fn what_is_written_is_read_again() {
        let mut checkpoint = Checkpoint::new(ENDPOINT.into(), None);
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

    #[test]
    fn every_field_is_distrusted() {
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
        let faults = [
            (r#""version":1"#, r#""version":2"#, "version 2"),
            (r#""version":1,"#, "", "missing field `version`"),
            (r#""version":1"#, r#""version":"1""#, "damaged"),
            (
                "app.terraform.io",
                "tfe.example.com",
                "belongs to https://tfe.example.com",
            ),
            (
                r#""organization_id":null,"#,
                "",
                "missing field `organization_id`",
            ),
            (
                r#""organization_id":null"#,
                r#""organization_id":7"#,
                "damaged",
            ),
            (
                r#""2026-01-02T03:00:01Z""#,
                r#""now""#,
                "last_timestamp is not a time",
            ),
            (r#""2026-01-02T03:00:01Z""#, "null", "lie outside"),
            ("02:50:01.000Z", "02:50:01.500Z", "not a whole second"),
            ("02:50:01.000Z", "03:00:02.000Z", "lie outside"),
            (
                r#""2026-01-02T02:50:01.000Z""#,
                "null",
                "lack the event of last_timestamp",
            ),
            (
                r#"{"2026-01-02T03:00:01.000Z":["a"]}"#,
                "{}",
                "lack the event of last_timestamp",
            ),
            (r#"["a"]"#, r#"[""]"#, "no id or an empty one"),
            (r#"["a"]"#, "[]", "no id or an empty one"),
            (r#"["a"]"#, "[7]", "damaged"),
            (
                r#""completed_at":null"#,
                r#""completed_at":null,"x":1"#,
                "unknown field",
            ),
            (
                r#""completed_at":null"#,
                r#""completed_at":"soon""#,
                "completed_at is not a time",
            ),
            ("}", "", "damaged"),
        ];
        for (old, new, message) in faults {
            let fault =
                Checkpoint::parse(good.replacen(old, new, 1).as_bytes(), ENDPOINT).unwrap_err();
            assert!(fault.contains(message), "{old} -> {new}: {fault}");
            assert!(!fault.contains('\n'));
        }
    }

    #[test]
    fn the_boundary_keeps_every_id_within_the_overlap() {
        let mut checkpoint = Checkpoint::new(ENDPOINT.into(), None);
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
        let mut checkpoint = Checkpoint::new(ENDPOINT.into(), None);
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
    fn the_boundary_stays_behind_what_is_still_to_come() {
        let mut checkpoint = Checkpoint::new(ENDPOINT.into(), None);
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
        let mut checkpoint = Checkpoint::new(ENDPOINT.into(), None);
        advance(&mut checkpoint, &[("a", "03:00:00")], None, "04:00:00");
        let events = [event("b", "03:00:01")];
        let day = Duration::from_secs(86_400);
        checkpoint.advance(&Acknowledged::of_test(&events), None, time("04:00:00"), day);
        assert_eq!(checkpoint.boundary_start, Some(time("02:50:00")));
    }

    #[test]
    fn the_earliest_start_counts_until_an_event_was_delivered() {
        let mut checkpoint = Checkpoint::new(ENDPOINT.into(), Some(time("03:00:00.9")));
        assert_eq!(checkpoint.boundary_start, Some(time("03:00:00")));
        assert!(checkpoint.start_at(time("04:00:00")));
        assert_eq!(checkpoint.boundary_start, Some(time("03:00:00")));
        assert!(checkpoint.start_at(time("02:00:00")));
        assert_eq!(checkpoint.boundary_start, Some(time("02:00:00")));
        advance(&mut checkpoint, &[("a", "03:00:00")], None, "04:00:00");
        assert!(!checkpoint.start_at(time("01:00:00")));
    }
}
