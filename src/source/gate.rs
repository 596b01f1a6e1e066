//! The gate that every request for a page passes: pauses and the pace, for all connections together.
//!
//! The service allows a number of requests a second to a token, and says it with each answer
//! (`x-ratelimit-limit`, as the vendor's own client reads it). A run takes nine tenths of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// The share of the allowed requests that a run makes, in tenths.
const SHARE: u32 = 9;
/// The pace after a first 429 of a service that names no limit: nine tenths of the documented 30
/// requests a second
/// (<https://developer.hashicorp.com/terraform/cloud-docs/api-docs#rate-limiting>).
const TAUGHT: Duration = Duration::from_millis(37);
/// The slowest pace that further ones teach. Each of them names a wait of its own.
const SLOWEST: Duration = Duration::from_millis(150);

/// Lets requests pass one after the other, by [`Clock::elapsed`].
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The time between two requests; zero until an answer tells it.
    interval: Duration,
    /// When the next request is due by the pace.
    next: Duration,
    /// Until when the service has asked for a pause.
    shut_until: Duration,
    /// The limit comes from the service.
    is_told: bool,
}

impl Gate {
    /// Waits until a request may be made, or the deadline is reached.
    pub fn pass(&self, clock: &dyn Clock, deadline: Option<Duration>) {
        loop {
            let wait = self.with(|state| {
                let now = clock.elapsed();
                // One request may come early, so that a late one is made up for.
                let due = state
                    .next
                    .saturating_sub(state.interval)
                    .max(state.shut_until);
                let due = deadline.map_or(due, |deadline| due.min(deadline));
                let wait = due.saturating_sub(now);
                if wait.is_zero() {
                    state.next = state.next.max(now) + state.interval;
                }
                wait
            });
            if wait.is_zero() {
                return;
            }
            clock.sleep(wait);
        }
    }

    /// Notes how many requests a second the service allows.
    pub fn allow(&self, requests: u32) {
        self.with(|state| {
            state.interval = Duration::from_secs(10) / (requests.max(1) * SHARE);
            state.is_told = true;
        });
    }

    /// Lets nothing pass for this span.
    pub fn shut(&self, clock: &dyn Clock, pause: Duration) {
        let until = clock.elapsed() + pause;
        self.with(|state| state.shut_until = state.shut_until.max(until));
    }

    /// Notes that the service refused a request for its number. Where it has not told its limit,
    /// the pace becomes slower.
    pub fn slow_down(&self) {
        self.with(|state| {
            if !state.is_told {
                state.interval = (state.interval * 2).clamp(TAUGHT, SLOWEST);
            }
        });
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
