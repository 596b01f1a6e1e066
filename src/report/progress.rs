//! Standard error: lines that stay, and at a terminal one line that shows how far a backlog is.
//!
//! The progress line is drawn where figures change, at most four times a second. It is gone at the end
//! and before any other line, after which it may be drawn at once. No thread draws it, so it stands
//! still while the run waits. A run that ends at once or has nothing to deliver draws nothing.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::config::{Config, Destination};
use crate::report::Report;
use crate::text::{one_line, span};

/// The shortest time between two drawings, and before the first.
const INTERVAL: Duration = Duration::from_millis(250);
/// Clears from the cursor to the end of the line. A terminal is asked for nothing else but a
/// carriage return.
const CLEAR: &str = "\x1b[K";

/// Writes to standard error.
#[derive(Debug, Default)]
pub struct Progress {
    /// When the progress line on the terminal was drawn, counted from the start of the program; zero
    /// if it is not there. `None` if nobody could see it well.
    drawn_at: Option<Cell<Duration>>,
}

impl Progress {
    /// Prepares the progress line if standard error is a terminal that can clear a line, and nothing
    /// else is written there: neither events nor the output of a program.
    pub fn new(config: &Config) -> Self {
        let is_alone = match config.destination {
            Destination::Post(_) if !config.dry_run => true,
            Destination::Exec(_) if !config.dry_run => false,
            _ => !io::stdout().is_terminal(),
        };
        let is_seen = is_alone && config.clears_lines && io::stderr().is_terminal();
        Self {
            drawn_at: is_seen.then(Cell::default),
        }
    }

    /// Draws the figures, unless the line was drawn just before. `elapsed` is the time since the
    /// program started.
    pub fn watch(&self, report: &Report, elapsed: Duration) {
        if let Some(line) = self.draw(report, elapsed) {
            write(&line);
        }
    }

    /// Returns the bytes that draw this report over the line; `None` if it is too early.
    fn draw(&self, report: &Report, elapsed: Duration) -> Option<String> {
        let drawn_at = self.drawn_at.as_ref()?;
        if elapsed.saturating_sub(drawn_at.get()) < INTERVAL {
            return None;
        }
        let text = text(report, elapsed)?;
        drawn_at.set(elapsed);
        Some(format!("\rtfc-audit: {text}{CLEAR}"))
    }

    /// Writes a line that stays. If even that is not possible, the exit code has to do.
    pub fn say(&self, message: &str) {
        self.end();
        // In one piece, since runs that overlap may write into the same file.
        write(&format!("tfc-audit: {}\n", one_line(message)));
    }

    /// Clears the progress line.
    pub fn end(&self) {
        if let Some(drawn_at) = &self.drawn_at
            && !drawn_at.take().is_zero()
        {
            write(&format!("\r{CLEAR}"));
        }
    }
}

/// Writes to standard error, if it can be written.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Returns the progress line of a run after this time: events, their share of all, events in a
/// second, and how long the rest will take at that speed.
///
/// The line fits into 80 columns, since a longer one could not be cleared. `None` if the service
/// lists nothing to deliver, or does not say how much.
fn text(report: &Report, elapsed: Duration) -> Option<String> {
    let done = report.delivered;
    let all = report.expected().filter(|&all| all > 0)?;
    let line = format!("{done} of {all} events");
    if done == 0 {
        return Some(format!("{line}, {}", span(elapsed)));
    }
    let percent = done.saturating_mul(100) / all;
    let milliseconds = u64::try_from(elapsed.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    let rate = done.saturating_mul(1000) / milliseconds;
    let left = milliseconds.saturating_mul(all.saturating_sub(done)) / done;
    let left = span(Duration::from_millis(left));
    Some(format!("{line} ({percent} %), {rate}/s, {left} left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that has delivered some of 200,000 events.
    fn report(delivered: u64) -> Report {
        let mut report = Report {
            delivered,
            ..Report::default()
        };
        (report.walk.found, report.walk.to_come) = (delivered, Some(200_000 - delivered));
        report
    }

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let seconds = Duration::from_secs;
        let mut nothing = Report::default();
        assert_eq!(text(&nothing, seconds(2)), None);
        nothing.walk.to_come = Some(0);
        assert_eq!(text(&nothing, seconds(2)), None);
        let before = text(&report(0), seconds(4)).unwrap();
        assert_eq!(before, "0 of 200000 events, 4s");
        let line = text(&report(40_000), seconds(20)).unwrap();
        assert_eq!(line, "40000 of 200000 events (20 %), 2000/s, 1m20s left");
        let end = text(&report(200_000), seconds(100)).unwrap();
        assert_eq!(end, "200000 of 200000 events (100 %), 2000/s, 0s left");
    }

    #[test]
    fn a_line_is_drawn_four_times_a_second_at_most() {
        let progress = Progress {
            drawn_at: Some(Cell::default()),
        };
        let draw = |at: &u64| progress.draw(&report(*at), Duration::from_millis(*at));
        let times = (0..=10_000).step_by(10).filter(|at| draw(at).is_some());
        let times: Vec<u64> = times.collect();
        assert_eq!((times[0], times.len()), (250, 40));
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 250));
    }

    #[test]
    fn no_line_is_longer_than_a_terminal_is_wide() {
        let mut report = report(0);
        report.delivered = 20_000_000;
        (report.walk.found, report.walk.to_come) = (20_000_000, Some(99_000_000));
        let line = text(&report, Duration::from_secs(1)).unwrap();
        assert!("tfc-audit: ".len() + line.len() < 80, "{line}");
    }
}
