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

use ::time::OffsetDateTime;
use serde::{Deserialize, Serialize};

use crate::config::url::Url;
use crate::delivery::Acknowledged;
use crate::event::{Event, EventId};
use crate::json::{self, Object};
use crate::text::excerpt;
use crate::time;
use crate::walk::identities::IdentitySet;

/// The version of the file's format.
const VERSION: u64 = 1;

/// What earlier runs delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The address of the service, as [`Url`] spells it.
    pub endpoint: String,
    /// The organization of the delivered events; `None` until an event names it.
    pub organization_id: Option<String>,
    /// The largest timestamp of a delivered event; `None` before the first one.
    pub last_timestamp: Option<OffsetDateTime>,
    /// Everything before this time, a whole second, is settled. `None`: nothing is settled.
    pub boundary_start: Option<OffsetDateTime>,
    /// The IDs of all delivered events at or after `boundary_start`.
    pub boundary: BTreeMap<OffsetDateTime, Vec<EventId>>,
    /// Where the events went, as [`crate::config::Destination`] names it; `None` in older files.
    pub destination: Option<String>,
    /// When a run last delivered everything that the service listed.
    pub completed_at: Option<OffsetDateTime>,
}

/// The file's content. A missing field is an error, unlike `null`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u64,
    endpoint: String,
    #[serde(deserialize_with = "Option::deserialize")]
    organization_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    last_timestamp: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    boundary_start: Option<String>,
    boundary_ids: BTreeMap<String, Vec<EventId>>,
    #[serde(deserialize_with = "Option::deserialize")]
    completed_at: Option<String>,
}

impl Checkpoint {
    /// Returns the checkpoint of a first run, which starts with everything retained.
    pub fn new(endpoint: String) -> Self {
        Self {
            endpoint,
            ..Self::default()
        }
    }

    /// Parses the content of a checkpoint's file, and checks all of it, for the service at
    /// `endpoint`.
    ///
    /// # Errors
    /// The fault, without the file's name.
    pub fn parse(json: &[u8], endpoint: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        if let Some(Version { version }) = json::object(json)
            && version != VERSION
        {
            return Err(format!(
                "it has version {version}, and this program knows version {VERSION} only"
            ));
        }
        let Object(mut content): Object<Content> =
            serde_json::from_slice(json).map_err(|error| {
                let error = error.to_string();
                format!("it is damaged ({})", excerpt(error.as_bytes()))
            })?;
        let theirs = Url::parse_endpoint(&content.endpoint).ok();
        let is_theirs = theirs.is_some_and(|theirs| theirs.to_string() == endpoint);
        // Before the first event the checkpoint holds nothing of a service. A wrong address in the
        // first run should not stop the next run.
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
                let text = excerpt(text.as_bytes());
                return Err(format!(
                    "its boundary_ids at {text} lie outside of boundary_start to last_timestamp"
                ));
            }
            if ids.is_empty() || ids.contains(&EventId::new("")) {
                let text = excerpt(text.as_bytes());
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
            destination: content.destination,
            last_timestamp,
            boundary_start,
            boundary,
            completed_at,
        })
    }

    /// Returns the content of the checkpoint's file.
    pub fn to_json(&self) -> Vec<u8> {
        let ids =
            |(&time, ids): (&OffsetDateTime, &Vec<EventId>)| (time::format(time), ids.clone());
        let content = Content {
            version: VERSION,
            endpoint: self.endpoint.clone(),
            organization_id: self.organization_id.clone(),
            destination: self.destination.clone(),
            last_timestamp: self.last_timestamp.map(time::format),
            boundary_start: self.boundary_start.map(time::format),
            boundary_ids: self.boundary.iter().map(ids).collect(),
            completed_at: self.completed_at.map(time::format),
        };
        let mut json = serde_json::to_vec(&content).unwrap_or_default();
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
    pub fn start_at(&mut self, since: OffsetDateTime) -> bool {
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
    /// stays behind both by the overlap, unless more than `most` events would have to be remembered.
    pub fn advance(
        &mut self,
        delivered: &Acknowledged,
        rest: Option<OffsetDateTime>,
        settled_by: OffsetDateTime,
        overlap: Duration,
        most: usize,
    ) {
        let events = delivered.events();
        let newest = events.iter().map(|event| event.time).max();
        self.last_timestamp = self.last_timestamp.max(newest);
        if self.organization_id.is_none() {
            self.organization_id = events.iter().find_map(Event::organization);
        }
        let settled = self.move_boundary(rest, settled_by, overlap);
        for event in events
            .iter()
            .filter(|event| self.boundary_start.is_none_or(|start| event.time >= start))
        {
            let ids = self.boundary.entry(event.time).or_default();
            ids.push(event.id.clone());
        }
        if let Some(settled) = settled.filter(|_| most < usize::MAX) {
            self.forget(most, settled);
        }
    }

    /// Moves the boundary on until no more than `most` events are remembered, but not past `settled`.
    fn forget(&mut self, most: usize, settled: OffsetDateTime) {
        let mut count = 0;
        let mut newest_first = self.boundary.iter().rev();
        let is_too_much = |(_, ids): &(&OffsetDateTime, &Vec<EventId>)| {
            count += ids.len();
            count > most
        };
        if let Some((&time, _)) = newest_first.find(is_too_much) {
            let after = time::floor_second(time) + Duration::from_secs(1);
            self.start_boundary(after.min(time::floor_second(settled)));
        }
    }

    /// Notes that everything that the service listed is delivered. `server_time` becomes
    /// `completed_at`; the boundary goes by `settled_by`, as in [`Checkpoint::advance`].
    pub fn complete(
        &mut self,
        server_time: OffsetDateTime,
        settled_by: OffsetDateTime,
        overlap: Duration,
    ) {
        self.move_boundary(None, settled_by, overlap);
        self.completed_at = Some(time::floor_second(server_time));
    }

    /// Moves `boundary_start` forward, never back: the IDs before it are already dropped. Returns the
    /// time up to which everything is settled.
    fn move_boundary(
        &mut self,
        rest: Option<OffsetDateTime>,
        settled_by: OffsetDateTime,
        overlap: Duration,
    ) -> Option<OffsetDateTime> {
        let last = self.last_timestamp?;
        // An event stamped in the future must not hide the present.
        let settled = last.min(settled_by).min(rest.unwrap_or(last));
        self.start_boundary(time::floor_second(time::before(settled, overlap)));
        Some(settled)
    }

    fn start_boundary(&mut self, start: OffsetDateTime) {
        self.boundary_start = self.boundary_start.max(Some(start));
        if let Some(start) = self.boundary_start {
            self.boundary = self.boundary.split_off(&start);
        }
    }
}

#[cfg(test)]
mod tests;
