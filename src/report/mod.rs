//! What a run tells: a person, and Prometheus.

pub mod metrics;
pub mod progress;

use ::time::OffsetDateTime;

use crate::{delivery, walk};

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// How many events were delivered and committed.
    pub delivered: u64,
    /// What reading took.
    pub walk: walk::Figures,
    /// What delivery took.
    pub delivery: delivery::Figures,
    /// The timestamp of the newest event that this or an earlier run delivered.
    pub newest: Option<OffsetDateTime>,
}

impl Report {
    /// How many new events this run has to deliver in all, as far as the source's counts tell.
    #[must_use]
    pub fn expected(&self) -> Option<u64> {
        self.walk.ahead.map(|ahead| self.walk.found + ahead)
    }

    /// How many events are known to wait for their delivery.
    #[must_use]
    pub fn waiting(&self) -> Option<u64> {
        let delivered = self.delivered;
        self.expected()
            .map(|expected| expected.saturating_sub(delivered))
    }
}
