//! A run's figures, told to a person and to Prometheus.

pub mod metrics;
pub mod progress;
pub mod summary;

use std::time::Duration;

use ::time::UtcDateTime;

use crate::error::Exit;
use crate::source::Missing;
use crate::{delivery, walk};

/// The end of a run.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Its exit code.
    pub exit: Exit,
    /// Its time, by the local clock.
    pub at: UtcDateTime,
    /// The time that the run took.
    pub took: Duration,
}

/// A run's figures so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Acknowledged events: the receiver accepted them, or they are dead letters.
    pub delivered: u64,
    /// The figures of reading.
    pub walk: walk::Figures,
    /// The figures of delivery.
    pub delivery: delivery::Figures,
    /// The timestamp of the newest event that this or an earlier run delivered.
    pub newest: Option<UtcDateTime>,
    /// The events that are missing so far by the service's counts.
    pub missing: Option<Missing>,
    /// Those that a warning has told of.
    pub told: Option<Missing>,
}

impl Report {
    /// Returns how many events the receiver accepted: the acknowledged ones without dead letters.
    pub fn accepted(&self) -> u64 {
        self.delivered.saturating_sub(self.delivery.dead_letters)
    }

    /// Returns how many events this run has to deliver in all, by the service's counts.
    ///
    /// `None` if the service sends no counts.
    pub fn expected(&self) -> Option<u64> {
        self.walk.to_come.map(|to_come| self.walk.found + to_come)
    }

    /// Returns how many events are known to wait for their delivery.
    pub fn waiting(&self) -> Option<u64> {
        Some(self.expected()?.saturating_sub(self.delivered))
    }
}
