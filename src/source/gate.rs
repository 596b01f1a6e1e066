//! The gate that every request for a page passes: pauses and the pace, for all connections together.
//!
//! The service allows a number of requests a second to a token, and says it with each answer
//! (`x-ratelimit-limit`, as the vendor's own client reads it). A run takes nine tenths of it steadily, and
//! the last tenth at once after a pause: in no second does it take more than the limit.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// The share of the allowed requests that a run makes, in tenths.
const SHARE: u32 = 9;
/// A request that is up to this late is made up for. At nine tenths of the limit, this is the time in which
/// the last tenth is due.
const LATE: Duration = Duration::from_nanos(1_000_000_000 / SHARE as u64);
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
    /// Waits until a request may be made, or the deadline is reached. Requests pass in the order of
    /// their calls.
    pub fn pass(&self, clock: &dyn Clock, deadline: Option<Duration>) {
        loop {
            let (now, slot) = self.with(|state| {
                let now = clock.elapsed();
                let early = LATE.saturating_sub(state.interval);
                let due = state.next.saturating_sub(early);
                let slot = due.max(state.shut_until).max(now);
                state.next = state.next.max(slot) + state.interval;
                (now, slot)
            });
            let end = deadline.map_or(slot, |deadline| slot.min(deadline));
            let wait = end.saturating_sub(now);
            if !wait.is_zero() {
                clock.sleep(wait);
            }
            // Meanwhile the service may have asked for a pause.
            if end < slot || self.with(|state| state.shut_until <= slot) {
                return;
            }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ::time::UtcDateTime;

    use super::*;

    /// A clock that only sleeping moves.
    #[derive(Default)]
    struct TestClock(Cell<Duration>);

    impl Clock for TestClock {
        fn now(&self) -> UtcDateTime {
            UtcDateTime::UNIX_EPOCH
        }
        fn elapsed(&self) -> Duration {
            self.0.get()
        }
        fn sleep(&self, span: Duration) {
            self.0.set(self.0.get() + span);
        }
        fn chance(&self) -> f64 {
            1.0
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// The times, in milliseconds, at which as many requests pass.
    fn passes(gate: &Gate, clock: &TestClock, count: usize) -> Vec<u128> {
        let pass = |_| {
            gate.pass(clock, None);
            clock.elapsed().as_millis()
        };
        (0..count).map(pass).collect()
    }

    #[test]
    fn nothing_waits_until_an_answer_tells_a_limit() {
        let (gate, clock) = (Gate::default(), TestClock::default());
        assert_eq!(passes(&gate, &clock, 3), [0, 0, 0]);
    }

    #[test]
    fn requests_take_nine_tenths_of_the_limit_and_the_last_tenth_at_once() {
        let (gate, clock) = (Gate::default(), TestClock::default());
        gate.allow(30);
        assert_eq!(passes(&gate, &clock, 6), [0, 0, 0, 37, 74, 111]);
        // A pause does not save up more.
        clock.sleep(10 * SECOND);
        let passed = passes(&gate, &clock, 300);
        assert_eq!(passed[..5], [10_111, 10_111, 10_111, 10_148, 10_185]);
        assert_eq!((passed[299] - passed[29]) / 1000, 10);
    }

    #[test]
    fn no_second_has_more_requests_than_the_limit() {
        for limit in [1, 2, 5, 9, 10, 11, 19, 30, 100, 1000] {
            let (gate, clock) = (Gate::default(), TestClock::default());
            gate.allow(limit);
            let count = limit as usize;
            let passed = passes(&gate, &clock, 4 * count + 1);
            let is_too_many = |pair: &[u128]| pair[count] - pair[0] < 1000;
            assert!(
                !passed.windows(count + 1).any(is_too_many),
                "{limit}: {passed:?}"
            );
        }
    }

    #[test]
    fn a_pause_holds_for_all_requests_and_the_longest_counts() {
        let (gate, clock) = (Gate::default(), TestClock::default());
        gate.shut(&clock, 5 * SECOND);
        gate.shut(&clock, SECOND);
        assert_eq!(passes(&gate, &clock, 3), [5000, 5000, 5000]);
        gate.allow(30);
        gate.shut(&clock, SECOND);
        assert_eq!(passes(&gate, &clock, 4), [6000, 6000, 6000, 6037]);
    }

    #[test]
    fn a_wait_ends_with_the_deadline() {
        let (gate, clock) = (Gate::default(), TestClock::default());
        gate.shut(&clock, 5 * SECOND);
        gate.pass(&clock, Some(2 * SECOND));
        assert_eq!(clock.elapsed(), 2 * SECOND);
    }

    #[test]
    fn each_429_without_a_told_limit_teaches_a_slower_pace() {
        let (gate, clock) = (Gate::default(), TestClock::default());
        let interval = || {
            gate.slow_down();
            clock.sleep(SECOND);
            let passed = passes(&gate, &clock, 5);
            passed[4] - passed[3]
        };
        assert_eq!([(); 5].map(|()| interval()), [37, 74, 148, 150, 150]);
    }

    #[test]
    fn a_429_does_not_change_the_pace_of_a_told_limit() {
        let (gate, clock) = (Gate::default(), TestClock::default());
        gate.slow_down();
        gate.allow(100);
        gate.slow_down();
        assert_eq!(passes(&gate, &clock, 12)[9..], [0, 11, 22]);
    }
}
