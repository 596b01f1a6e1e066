//! A run's figures, told to a person and to Prometheus.

pub mod metrics;
pub mod progress;
pub mod summary;

use ::time::OffsetDateTime;

use crate::{delivery, walk};

/// A run's figures so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Committed events: the receiver accepted them, or they are dead letters.
    pub delivered: u64,
    /// The figures of reading.
    pub walk: walk::Figures,
    /// The figures of delivery.
    pub delivery: delivery::Figures,
    /// The timestamp of the newest event that this or an earlier run delivered.
    pub newest: Option<OffsetDateTime>,
}

impl Report {
    /// Returns how many events the receiver accepted: the committed ones without dead letters.
    pub fn accepted(&self) -> u64 {
        self.delivered.saturating_sub(self.delivery.dead_letters)
    }

    /// Returns how many events this run has to deliver in all, by the service's counts.
    ///
    /// `None` if the service sends no counts.
    pub fn expected(&self) -> Option<u64> {
        self.walk.ahead.map(|ahead| self.walk.found + ahead)
    }

    /// Returns how many events are known to wait for their delivery.
    pub fn waiting(&self) -> Option<u64> {
        let expected = self.expected()?;
        Some(expected.saturating_sub(self.delivered))
    }
}
