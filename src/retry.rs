//! Retries after temporary failures, in the same way for the service and for a receiver.
//!
//! Waits grow exponentially with full jitter: each is random, between zero and a bound that doubles.
//! So machines that failed together do not come back together. A wait that the other side names is
//! honoured, and everything ends before `--max-time`.

use std::time::Duration;

use ::time::UtcDateTime;

use crate::clock::Clock;
use crate::error::Error;
use crate::time;

/// The bound of the first wait; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The largest bound.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The longest wait that the other side may name. A run that waits longer only holds the lock: it
/// ends, and the next run retries.
pub(crate) const LONGEST_NAMED_WAIT: Duration = Duration::from_secs(15 * 60);

/// From here on, seconds are a time since 1970 (2001), and no span.
const FIRST_TIME: Duration = Duration::from_secs(1_000_000_000);

/// The time and the retries that one side is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// `--timeout`: for one request, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// `--retries`: the most retries of one request.
    pub retries: u32,
    /// `--max-time`, by [`Clock::elapsed`]: when the run has to be over.
    pub deadline: Option<Duration>,
}

impl Patience {
    /// The time that is left until the deadline; [`Duration::MAX`] if there is no deadline.
    pub fn left(&self, clock: &dyn Clock) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| {
            deadline.saturating_sub(clock.elapsed())
        })
    }
}

/// One attempt that failed.
#[derive(Debug)]
pub struct Failure {
    /// What failed.
    pub error: Error,
    /// Whether a retry may succeed.
    pub retryable: bool,
    /// The wait that the other side asks for.
    pub wait: Option<Duration>,
}

impl Failure {
    /// A failure that a retry would meet again.
    pub fn permanent(error: Error) -> Self {
        Self {
            error,
            retryable: false,
            wait: None,
        }
    }

    /// A failure that is worth a retry.
    pub fn temporary(error: Error) -> Self {
        Self {
            retryable: true,
            ..Self::permanent(error)
        }
    }
}

/// Calls `attempt` until it succeeds or there is a reason to give up. `attempt` gets its time limit,
/// within which it has to return. `retried` counts the attempts after the first.
///
/// # Errors
/// [`Error::OutOfTime`] if there is no time for an attempt, [`Error::Stuck`] if the last one failed at
/// the deadline, or else its error with the reason why there was no further one.
pub fn retry<T>(
    clock: &dyn Clock,
    patience: &Patience,
    retried: &mut u64,
    mut attempt: impl FnMut(Duration) -> Result<T, Failure>,
) -> Result<T, Error> {
    let mut attempts = 0;
    loop {
        let left = patience.left(clock);
        if left.is_zero() {
            return Err(Error::OutOfTime);
        }
        attempts += 1;
        let failure = match attempt(left.min(patience.timeout)) {
            Ok(success) => return Ok(success),
            Err(failure) => failure,
        };
        if !failure.retryable {
            return Err(failure.error);
        }
        let left = patience.left(clock);
        if left.is_zero() {
            return Err(match failure.error {
                Error::Source(what) | Error::Receiver(what) => Error::Stuck(what),
                other => other,
            });
        }
        // Never less than our own wait: some answers name one of 0 seconds.
        let own = backoff(attempts).mul_f64(clock.chance());
        let wait = failure.wait.map_or(own, |named| named.max(own));
        let why = if attempts > patience.retries {
            let plural = if attempts == 1 { "" } else { "s" };
            format!("after {attempts} attempt{plural}")
        } else if wait > LONGEST_NAMED_WAIT {
            let seconds = wait.as_secs();
            format!("because the answer asks to wait {seconds} s")
        } else if left <= wait {
            "because --max-time leaves no time for a retry".to_owned()
        } else {
            clock.sleep(wait);
            *retried += 1;
            continue;
        };
        return Err(with_reason(failure.error, &why));
    }
}

/// Says in an error of the service or the receiver why there was no further attempt.
fn with_reason(mut error: Error, why: &str) -> Error {
    if let Error::Source(message) | Error::Receiver(message) = &mut error {
        *message = format!("{message}; gave up {why}");
    }
    error
}

/// The bound of the wait after this many attempts.
fn backoff(attempts: u32) -> Duration {
    let doublings = (attempts - 1).min(16);
    (FIRST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT)
}

/// Whether an answer of this status is worth a retry: 408, 425, 429, and 5xx except 501 (RFC 9110,
/// section 15; RFC 6585, section 4; RFC 8470, section 5.2).
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 425 | 429) || (500..=599).contains(&status) && status != 501
}

/// The wait that an answer asks for in its headers.
///
/// That is `Retry-After` (RFC 9110, section 10.2.3), in seconds or as a date. A date is compared
/// with the `Date` of the answer, so that the clocks need not agree. Otherwise it is
/// `x-ratelimit-reset`, which HCP Terraform documents for its 429 as seconds with a fraction.
///
/// Other services send the seconds since 1970 in either header. A time that is more than a day away
/// is nonsense and ignored, as any other text is.
pub fn named_wait<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    let until = |time: UtcDateTime| {
        let wait = time - header("date").and_then(time::parse_http_date)?;
        (wait.abs() <= ::time::Duration::DAY).then(|| Duration::try_from(wait).unwrap_or_default())
    };
    let wait = |name| {
        let text = header(name)?.trim();
        let Ok(seconds) = text.parse() else {
            return until(time::parse_http_date(text)?);
        };
        let span = Duration::try_from_secs_f64(seconds).ok()?;
        if span < FIRST_TIME {
            return Some(span);
        }
        until(UtcDateTime::UNIX_EPOCH.checked_add(span.try_into().ok()?)?)
    };
    wait("retry-after").or_else(|| wait("x-ratelimit-reset"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::time::UtcDateTime;
    use std::cell::{Cell, RefCell};

    #[derive(Default)]
    struct TestClock {
        elapsed: Cell<Duration>,
        slept: RefCell<Vec<Duration>>,
    }

    impl Clock for TestClock {
        fn now(&self) -> UtcDateTime {
            UtcDateTime::UNIX_EPOCH
        }
        fn elapsed(&self) -> Duration {
            self.elapsed.get()
        }
        fn sleep(&self, span: Duration) {
            self.elapsed.set(self.elapsed.get() + span);
            self.slept.borrow_mut().push(span);
        }
        fn chance(&self) -> f64 {
            1.0
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn patience(retries: u32, deadline: Option<Duration>) -> Patience {
        Patience {
            timeout: 30 * SECOND,
            retries,
            deadline,
        }
    }

    fn always(failure: impl Fn() -> Failure, patience: Patience) -> (String, Vec<Duration>, u64) {
        let clock = TestClock::default();
        let mut retried = 0;
        let result: Result<(), _> = retry(&clock, &patience, &mut retried, |_| Err(failure()));
        let message = result.expect_err("it always fails").to_string();
        (message, clock.slept.into_inner(), retried)
    }

    #[test]
    fn the_bound_of_the_wait_doubles_up_to_its_limit() {
        let failed = || Failure::temporary(Error::Source("503".to_owned()));
        let (message, slept, retried) = always(failed, patience(8, None));
        assert_eq!(message, "503; gave up after 9 attempts");
        assert_eq!(
            slept.iter().map(Duration::as_millis).collect::<Vec<_>>(),
            [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
        );
        assert_eq!(retried, 8);
        assert_eq!(backoff(u32::MAX), LONGEST_WAIT);
    }

    #[test]
    fn a_permanent_failure_is_not_retried() {
        let refused = || Failure::permanent(Error::Receiver("400".to_owned()));
        let (message, slept, _) = always(refused, patience(5, None));
        assert_eq!(message, "400");
        assert!(slept.is_empty());
    }

    #[test]
    fn a_named_wait_is_honoured_up_to_15_minutes() {
        let named = |wait| {
            move || Failure {
                wait: Some(wait),
                ..Failure::temporary(Error::Source("429".to_owned()))
            }
        };
        assert_eq!(
            always(named(3 * SECOND), patience(2, None)).1,
            [3 * SECOND, 3 * SECOND]
        );
        let longest = always(named(900 * SECOND), patience(1, None)).1;
        assert_eq!(longest, [900 * SECOND]);
        let (message, slept, _) = always(named(86_400 * SECOND), patience(2, None));
        assert!(message.contains("86400 s"), "{message}");
        assert!(slept.is_empty());
        let (message, slept, _) = always(named(10 * SECOND), patience(2, Some(5 * SECOND)));
        assert!(message.contains("--max-time"), "{message}");
        assert!(slept.is_empty());
    }

    #[test]
    fn an_attempt_gets_no_more_than_the_time_that_is_left() {
        let clock = TestClock::default();
        clock.elapsed.set(8 * SECOND);
        let mut given = Vec::new();
        let patience = patience(5, Some(10 * SECOND));
        let result: Result<(), _> = retry(&clock, &patience, &mut 0, |time| {
            given.push(time);
            clock.sleep(time);
            Err(Failure::temporary(Error::Source("timeout".to_owned())))
        });
        assert!(matches!(result, Err(Error::Stuck(what)) if what == "timeout"));
        assert_eq!(given, [2 * SECOND]);
    }

    #[test]
    fn only_some_statuses_are_retryable() {
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(is_retryable(status), "{status}");
        }
        for status in [200, 302, 400, 401, 403, 404, 413, 422, 501] {
            assert!(!is_retryable(status), "{status}");
        }
    }

    #[test]
    fn waits_are_read_in_every_form() {
        let wait = |headers: &[(&str, &'static str)]| {
            named_wait(|name| {
                headers
                    .iter()
                    .find(|header| header.0 == name)
                    .map(|header| header.1)
            })
        };
        let date = ("date", "Fri, 02 Jan 2026 03:04:05 GMT");
        assert_eq!(wait(&[("retry-after", "7")]), Some(7 * SECOND));
        assert_eq!(
            wait(&[("retry-after", "Fri, 02 Jan 2026 03:04:15 GMT"), date]),
            Some(10 * SECOND)
        );
        assert_eq!(
            wait(&[("retry-after", "Fri, 02 Jan 2026 03:04:00 GMT"), date]),
            Some(Duration::ZERO)
        );
        assert_eq!(wait(&[("x-ratelimit-reset", "0.25")]), Some(SECOND / 4));
        assert_eq!(
            wait(&[("x-ratelimit-reset", "0.25"), ("retry-after", "2")]),
            Some(2 * SECOND)
        );
        // 03:04:05 is 1767323045.
        for time in ["1767323055", "1767323055.0"] {
            for name in ["retry-after", "x-ratelimit-reset"] {
                assert_eq!(wait(&[(name, time), date]), Some(10 * SECOND), "{time}");
            }
        }
        let past = ("x-ratelimit-reset", "1767323000");
        assert_eq!(wait(&[past, date]), Some(Duration::ZERO));
        for nonsense in [
            "soon",
            "-1",
            "NaN",
            "inf",
            "",
            "1e300",
            "1000000000",
            "99999999999",
        ] {
            for name in ["retry-after", "x-ratelimit-reset"] {
                assert_eq!(wait(&[(name, nonsense), date]), None, "{nonsense}");
            }
        }
    }
}
