//! What a person sees of a run: at a terminal one line that is drawn again and again while a backlog
//! drains, and that is gone at the end and before any other line; with `-v` a summary.
//!
//! A thread of its own draws the line, at most four times a second, so that it lives on while the
//! run reads a stride of ten pages or waits to try again, and that a run which ends at once draws
//! nothing. Where standard error is no terminal, or one that cannot clear a line, there is neither
//! line nor thread.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Destination};
use crate::report::Report;
use crate::text::{one_line, span};

/// How long a drawn line stays.
const INTERVAL: Duration = Duration::from_millis(250);
/// Clears from the cursor to the end of the line: with a carriage return all that a terminal is
/// asked to do.
const CLEAR: &str = "\x1b[K";

/// Standard error: lines that stay, and one that does not.
#[derive(Debug, Default)]
pub struct Progress {
    state: Arc<Mutex<State>>,
    /// The thread, and what ends it when it is dropped.
    drawing: Option<(Sender<()>, JoinHandle<()>)>,
}

#[derive(Debug, Default)]
struct State {
    /// The last report, and when it came that so much was delivered.
    last: Option<(Report, Duration)>,
    /// The line as it is there.
    drawn: String,
}

impl Progress {
    /// Begins to draw if somebody will see it, and nothing else is written to the terminal that it
    /// would get into the way of: events, or what a program says.
    #[must_use]
    pub fn start(config: &Config, clock: SystemClock) -> Self {
        let prints = config.dry_run || config.destination == Destination::Stdout;
        let is_alone = if prints {
            !io::stdout().is_terminal()
        } else {
            !matches!(config.destination, Destination::Exec(_))
        };
        let state = Arc::default();
        let (end, ended) = mpsc::channel();
        let theirs = Arc::clone(&state);
        let is_seen = is_alone && config.clears_lines && io::stderr().is_terminal();
        let drawing = is_seen
            .then(|| thread::Builder::new().spawn(move || draw(&theirs, &ended, &clock)))
            // Without a thread to be had there is no line.
            .and_then(Result::ok)
            .map(|thread| (end, thread));
        Self { state, drawing }
    }

    /// Takes in how far the run has got, by the time that has passed since it began.
    pub fn watch(&self, report: &Report, elapsed: Duration) {
        let mut state = lock(&self.state);
        let at = match state.last {
            Some((last, at)) if last.delivered == report.delivered => at,
            _ => elapsed,
        };
        state.last = Some((*report, at));
    }

    /// Writes a line that stays. If even that is not possible, the exit code has to do.
    pub fn say(&self, message: &str) {
        let mut state = lock(&self.state);
        state.clear();
        // In one piece, since runs that overlap may write into the same file.
        let line = format!("tfc-audit: {}\n", one_line(message));
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Ends the drawing; the line is gone.
    pub fn end(&mut self) {
        if let Some((end, thread)) = self.drawing.take() {
            drop(end);
            let _ = thread.join();
        }
        lock(&self.state).clear();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws the line until the other end of `ended` is dropped.
fn draw(state: &Mutex<State>, ended: &Receiver<()>, clock: &SystemClock) {
    while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let mut state = lock(state);
        if let Some((report, at)) = state.last
            && let Some(line) = line(&report, at, clock.elapsed())
            && line != state.drawn
        {
            // Over the old one, so that there is no moment without any.
            let _ = write!(io::stderr(), "\rtfc-audit: {line}{CLEAR}");
            state.drawn = line;
        }
    }
}

impl State {
    fn clear(&mut self) {
        if !std::mem::take(&mut self.drawn).is_empty() {
            let _ = write!(io::stderr(), "\r{CLEAR}");
        }
    }
}

/// A run in a line: what it delivered and how far behind that leaves us, and what it took.
#[must_use]
pub fn summary(report: &Report, is_dry: bool, now: OffsetDateTime, took: Duration) -> String {
    let Report { walk, delivery, .. } = report;
    let delivered = if is_dry {
        format!("dry run: {} events to deliver", report.delivered)
    } else {
        let waiting = report.waiting().map(|waiting| waiting.to_string());
        format!(
            "events delivered: {} (dead letters: {}), waiting: {}",
            report.delivered,
            delivery.dead_letters,
            waiting.as_deref().unwrap_or("unknown")
        )
    };
    let newest = report
        .newest
        .map_or("no event delivered yet".to_owned(), |newest| {
            let age = Duration::try_from(now - newest).unwrap_or_default();
            format!("the newest {} old", span(age))
        });
    format!(
        "{delivered}, {newest}; {} seen again; pages read: {}, tried again: {}; deliveries: {}, tried again: {}; {:.1} s",
        walk.duplicates,
        walk.pages,
        walk.retries,
        delivery.requests,
        delivery.retries,
        took.as_secs_f64(),
    )
}

/// The line for a report that came `at` this time of the run, as it is to be shown `now`: events,
/// their share of all, how many a second, and how long the rest will take at that speed. It fits
/// into 80 columns, for a longer one could not be cleared. `None` before the source has said how
/// much there is.
fn line(report: &Report, at: Duration, now: Duration) -> Option<String> {
    let (done, all) = (report.delivered, report.expected()?);
    let line = format!("{done} of {all} events");
    if done == 0 || all == 0 {
        return Some(format!("{line}, {}", span(now)));
    }
    let percent = done.saturating_mul(100) / all;
    let milliseconds = u64::try_from(at.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / milliseconds;
    let left = Duration::from_millis(
        milliseconds
            .saturating_mul(all.saturating_sub(done))
            .div_ceil(done),
    );
    let left = left.saturating_sub(now.saturating_sub(at));
    Some(format!(
        "{line} ({percent} %), {rate}/s, {} left",
        span(left)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let mut report = Report::default();
        let seconds = Duration::from_secs;
        assert_eq!(line(&report, seconds(1), seconds(2)), None);
        report.walk.ahead = Some(200_000);
        let before = line(&report, seconds(1), seconds(4)).unwrap();
        assert_eq!(before, "0 of 200000 events, 4s");
        (report.walk.found, report.walk.ahead) = (50_000, Some(150_000));
        report.delivered = 40_000;
        let first = line(&report, seconds(20), seconds(20)).unwrap();
        assert_eq!(first, "40000 of 200000 events (20 %), 2000/s, 1m20s left");
        let later = line(&report, seconds(20), seconds(25)).unwrap();
        assert_eq!(later, "40000 of 200000 events (20 %), 2000/s, 1m15s left");
        let stuck = line(&report, seconds(20), seconds(2500)).unwrap();
        assert_eq!(stuck, "40000 of 200000 events (20 %), 2000/s, 0s left");
    }

    #[test]
    fn no_line_is_longer_than_a_terminal_is_wide() {
        let mut report = Report {
            delivered: 20_000_000,
            ..Report::default()
        };
        (report.walk.found, report.walk.ahead) = (20_000_000, Some(99_000_000));
        let line = line(&report, Duration::from_secs(1), Duration::from_secs(2)).unwrap();
        assert!("tfc-audit: ".len() + line.len() < 80, "{line}");
    }
}
