//! The checkpoint: how far earlier runs got, and the rules by which it changes.
//!
//! It guarantees the following. The tests in parentheses are modules of `tests/it`; its model tries
//! all guarantees except the first two.
//!
//! - **One run at a time.** A run locks a file beside the checkpoint. A lock on the checkpoint
//!   itself, which each commit replaces, could have two owners. (`checkpoint`)
//! - **The old or the new checkpoint, never a mixture.** A commit writes a temporary file, syncs it,
//!   renames it over the checkpoint and syncs the directory. (`crash` kills a run at each system
//!   call, `faults` fails each call.)
//! - **No premature commit.** [`Checkpoint::advance`] takes the proof of a delivery, which only
//!   [`crate::delivery::Delivery`] makes. (`crash`)
//! - **No repetition.** An event is new if its ID is not in the boundary and its timestamp is not
//!   before `boundary_start`. The boundary has the IDs of *all* delivered events from
//!   `boundary_start` on, so that both together know every delivered event. (`defects`)
//! - **No loss.** `boundary_start` stays behind every event that may still appear: by the overlap
//!   behind the newest delivered event and behind the service's clock, and never past an event that
//!   is waiting for delivery. (`checkpoint`)

pub mod file;

use std::collections::BTreeMap;
use std::time::Duration;

use ::time::UtcDateTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::url::Url;
use crate::delivery::Acknowledged;
use crate::event::{Event, EventId};
use crate::json::{self, Object};
use crate::text::excerpt;
use crate::time;
use crate::walk::identities::IdentitySet;

/// The version of the file's format.
const VERSION: u64 = 1;

/// What to do about a file that nothing can be made of.
const RESTORE: &str = "Restore it, name another with --checkpoint, or remove it and run once with --since and the time of the newest event that arrived (without --since, everything retained is delivered again)";

/// What earlier runs delivered, with the names that it has in its file. A missing field is an error,
/// unlike `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    version: u64,
    /// The address of the service, as [`Url`] spells it.
    pub endpoint: String,
    /// The organization of the delivered events; `None` until an event names it.
    #[serde(deserialize_with = "Option::deserialize")]
    pub organization_id: Option<String>,
    /// Where the events went, as [`crate::config::Destination`] names it; `None` in older files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The largest timestamp of a delivered event; `None` before the first one.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub last_timestamp: Option<UtcDateTime>,
    /// Everything before this time, a whole second, is settled. `None`: nothing is settled.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub boundary_start: Option<UtcDateTime>,
    /// The IDs of all delivered events at or after `boundary_start`.
    #[serde(rename = "boundary_ids")]
    #[serde(serialize_with = "write_ids", deserialize_with = "read_ids")]
    pub boundary: Boundary,
    /// A run that `--max-time` ended had no time to read more than delivered events. The next one with
    /// `--max-time` reads from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub resume_at: Option<UtcDateTime>,
    /// When a run last delivered everything that the service listed.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub completed_at: Option<UtcDateTime>,
}

/// IDs of events under their timestamps.
pub type Boundary = BTreeMap<UtcDateTime, Vec<EventId>>;

impl Checkpoint {
    /// Returns the checkpoint of a first run, which starts with everything retained.
    pub fn new(endpoint: String) -> Self {
        Self {
            version: VERSION,
            endpoint,
            ..Self::default()
        }
    }

    /// Parses the content of a checkpoint's file, and checks all of it, for the service at
    /// `endpoint`.
    ///
    /// # Errors
    /// The fault, without the file's name, and what to do.
    pub fn parse(json: &[u8], endpoint: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        if let Some(Version { version }) = json::object(json)
            && version != VERSION
        {
            return Err(format!(
                "it has version {version}, and this program knows version {VERSION} only. Use the tfc-audit that wrote it, or a newer one"
            ));
        }
        let Object(mut checkpoint): Object<Self> =
            serde_json::from_slice(json).map_err(|error| {
                let fault = excerpt(error.to_string().as_bytes());
                format!("it is damaged ({fault}). {RESTORE}")
            })?;
        let theirs = Url::parse_endpoint(&checkpoint.endpoint).ok();
        let is_theirs = theirs.is_some_and(|theirs| theirs.to_string() == endpoint);
        // Before the first event the checkpoint holds nothing of a service. A wrong address in the
        // first run should not stop the next run.
        if !is_theirs && checkpoint.last_timestamp.is_some() {
            return Err(format!(
                "it belongs to {}, not to {endpoint}. Is --endpoint right? If it is, name another file with --checkpoint",
                excerpt(checkpoint.endpoint.as_bytes())
            ));
        }
        endpoint.clone_into(&mut checkpoint.endpoint);
        match checkpoint.contradiction() {
            Some(fault) => Err(format!("{fault}. {RESTORE}")),
            None => Ok(checkpoint),
        }
    }

    /// Describes how fields contradict each other, if they do.
    fn contradiction(&self) -> Option<&'static str> {
        let (last, start) = (self.last_timestamp, self.boundary_start);
        let is_outside = |&time| Some(time) > last || Some(time) < start;
        let lacks_id = |ids: &Vec<EventId>| ids.is_empty() || ids.contains(&EventId::new(""));
        let lacks = |last| start.is_none() || !self.boundary.contains_key(&last);
        if start != start.map(time::floor_second) {
            Some("its boundary_start is not a whole second")
        } else if self.boundary.keys().any(is_outside) {
            Some("its boundary_ids lie outside of boundary_start to last_timestamp")
        } else if self.boundary.values().any(lacks_id) {
            Some("its boundary_ids hold no id or an empty one")
        } else if self.resume_at > last {
            Some("its resume_at lies after last_timestamp")
        } else if last.is_some_and(lacks) {
            Some("its boundary_ids lack the event of last_timestamp")
        } else {
            None
        }
    }

    /// Returns the content of the checkpoint's file.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Returns the identities of the boundary's events.
    pub fn known(&self) -> IdentitySet {
        self.boundary
            .values()
            .flatten()
            .map(EventId::identity)
            .collect()
    }

    /// Applies `--since`, cut to its second. Until a first event is delivered, the earliest `since` of
    /// all runs applies; after that, none does. Returns whether `since` can have an effect.
    pub fn start_at(&mut self, since: UtcDateTime) -> bool {
        if self.last_timestamp.is_some() {
            return false;
        }
        let since = time::floor_second(since);
        self.boundary_start = Some(self.boundary_start.map_or(since, |start| start.min(since)));
        true
    }

    /// Adds delivered events, and moves the boundary.
    ///
    /// `rest` is a lower bound on the timestamps that this run has yet to deliver; `None` if nothing
    /// is left. `settled_by` is the earlier of the service's clock and this machine's. The boundary
    /// stays behind both by the overlap.
    pub fn advance(
        &mut self,
        delivered: &Acknowledged,
        rest: Option<UtcDateTime>,
        settled_by: UtcDateTime,
        overlap: Duration,
    ) {
        let events = delivered.events();
        let newest = events.iter().map(|event| event.time).max();
        self.last_timestamp = self.last_timestamp.max(newest);
        if self.organization_id.is_none() {
            self.organization_id = events.iter().find_map(Event::organization);
        }
        self.move_boundary(rest, settled_by, overlap);
        let start = self.boundary_start;
        for ties in events.chunk_by(|event, next| event.time == next.time) {
            if Some(ties[0].time) >= start {
                let ids = self.boundary.entry(ties[0].time).or_default();
                ids.extend(ties.iter().map(|event| event.id.clone()));
            }
        }
    }

    /// The time of the oldest of the newest delivered events, `most` of them at most but for ties;
    /// `None` if there are no others.
    pub fn newest_known(&self, most: u64) -> Option<UtcDateTime> {
        let mut count = 0;
        let is_few = |(_, ids): &(_, &Vec<EventId>)| {
            count += ids.len() as u64;
            count <= most
        };
        let newest = self.boundary.keys().next_back()?;
        let few = self.boundary.iter().rev().take_while(is_few);
        let oldest = few.last().map_or(newest, |(time, _)| time);
        (self.boundary.keys().next() < Some(oldest)).then_some(*oldest)
    }

    /// How many delivered events of the boundary are older than this.
    pub fn known_before(&self, time: Option<UtcDateTime>) -> usize {
        let older = |time| self.boundary.range(..time).map(|(_, ids)| ids.len()).sum();
        time.map_or(0, older)
    }

    /// Notes that everything that the service listed is delivered. `server_time` becomes
    /// `completed_at`; the boundary goes by `settled_by`, as in [`Checkpoint::advance`].
    pub fn complete(
        &mut self,
        server_time: UtcDateTime,
        settled_by: UtcDateTime,
        overlap: Duration,
    ) {
        self.move_boundary(None, settled_by, overlap);
        self.completed_at = Some(time::floor_second(server_time));
    }

    /// Moves `boundary_start` forward, never back: the IDs before it are already dropped.
    fn move_boundary(
        &mut self,
        rest: Option<UtcDateTime>,
        settled_by: UtcDateTime,
        overlap: Duration,
    ) {
        let Some(last) = self.last_timestamp else {
            return;
        };
        // An event stamped in the future must not hide the present.
        let settled = last.min(settled_by).min(rest.unwrap_or(last));
        let start = time::floor_second(time::before(settled, overlap));
        let start = self.boundary_start.map_or(start, |old| old.max(start));
        self.boundary_start = Some(start);
        self.boundary = self.boundary.split_off(&start);
    }
}

#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn write_time<S: Serializer>(time: &Option<UtcDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(time::format).serialize(serializer)
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UtcDateTime>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_time(&text)).transpose()
}

fn write_ids<S: Serializer>(ids: &Boundary, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(ids.iter().map(|(&time, ids)| (time::format(time), ids)))
}

fn read_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Boundary, D::Error> {
    let mut boundary = Boundary::new();
    for (text, mut ids) in BTreeMap::<String, Vec<_>>::deserialize(deserializer)? {
        // The same time may be written in two ways.
        let same_time = boundary.entry(parse_time(&text)?).or_default();
        same_time.append(&mut ids);
    }
    Ok(boundary)
}

fn parse_time<E: de::Error>(text: &str) -> Result<UtcDateTime, E> {
    time::parse(text).ok_or_else(|| E::custom(format!("this is not a time: {text}")))
}

#[cfg(test)]
mod tests;
