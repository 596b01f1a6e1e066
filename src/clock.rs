//! Time and chance: the only place that reads the clock, sleeps or draws a random number.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use time::UtcDateTime;

/// Time and chance as a run sees them. Tests implement their own.
pub trait Clock {
    /// Returns the time of the wall clock, in UTC.
    fn now(&self) -> UtcDateTime;
    /// Returns the time since the program started, by a clock that only moves forward.
    fn elapsed(&self) -> Duration;
    /// Waits for `span`.
    fn sleep(&self, span: Duration);
    /// Returns a random number from 0 to 1, for jitter.
    fn chance(&self) -> f64;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts the clock that [`Clock::elapsed`] reads.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UtcDateTime {
        UtcDateTime::now()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, span: Duration) {
        thread::sleep(span);
    }

    fn chance(&self) -> f64 {
        // The standard library seeds its hash maps at random, which is random enough for jitter.
        let draw = RandomState::new().hash_one(());
        f64::from(u32::try_from(draw >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }
}

/// Does work that nothing can interrupt. Returns its result, or `None` if it takes longer than
/// `limit`: its thread is then left behind until the process ends. [`Duration::MAX`] is no limit and
/// needs no thread.
///
/// # Errors
/// If no thread can be started.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    if limit == Duration::MAX {
        return Ok(Some(work()));
    }
    let (sender, receiver) = mpsc::channel();
    // Nobody receives a result that comes too late.
    thread::Builder::new().spawn(move || sender.send(work()))?;
    Ok(receiver.recv_timeout(limit).ok())
}

/// Returns 128 random bits, for names that no other run uses.
pub fn random() -> u128 {
    let [high, low] = [(), ()].map(|()| u128::from(RandomState::new().hash_one(())));
    high << 64 | low
}
