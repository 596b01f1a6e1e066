//! The line that `--verbose` adds at the end of a run.

use crate::error::Exit;
use crate::report::{Ending, Report};
use crate::text::age;

/// Sums up a run with this ending. `is_dry` is for `--dry-run`.
///
/// Returns `None` if no page was read, or if the token or the checkpoint was refused: the error says
/// all there is to say then.
pub fn summary(report: &Report, is_dry: bool, ending: &Ending) -> Option<String> {
    let Report { walk, delivery, .. } = report;
    let is_refused = matches!(ending.exit, Exit::TokenRefused | Exit::CheckpointUnusable);
    if walk.pages == 0 || is_refused && report.delivered == 0 {
        return None;
    }
    let waiting = report.waiting().unwrap_or_default();
    let accepted = counted(report.accepted(), "event", "events");
    let mut parts = vec![match (is_dry, report.delivered) {
        (_, 0) if waiting == 0 => "found nothing new".to_owned(),
        (true, _) => format!("dry run: {accepted} to deliver"),
        (false, _) => format!("delivered {accepted}"),
    }];
    if delivery.dead_letters > 0 {
        let count = counted(delivery.dead_letters, "dead letter", "dead letters");
        parts.push(format!("put {count} aside"));
    }
    if !is_dry {
        if waiting > 0 {
            let count = counted(waiting, "event is", "events are");
            parts.push(format!("{count} left"));
        }
        let age = report.newest.map(|newest| age(newest, ending.at));
        let newest = age.map(|age| format!("the newest event delivered is {age} old"));
        parts.push(newest.unwrap_or_else(|| "no event was delivered yet".to_owned()));
    }
    let pages = counted(walk.pages, "page", "pages");
    let mut work = format!("read {pages}{}", retries(walk.retries));
    if delivery.requests > 0 && !is_dry {
        let batches = delivery.requests.saturating_sub(delivery.retries);
        let batches = counted(batches, "batch", "batches");
        work = format!("{work} and sent {batches}{}", retries(delivery.retries));
    }
    parts.push(format!("{work} in {:.1} s", ending.took.as_secs_f64()));
    Some(parts.join("; "))
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Names retries behind the requests that they belong to, if there were any.
fn retries(count: u64) -> String {
    match count {
        0 => String::new(),
        _ => format!(" ({})", counted(count, "retry", "retries")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time;

    /// The summary of a run that ends an hour after its newest event and took 1.25 s.
    fn of(report: &Report, is_dry: bool) -> String {
        let ending = Ending {
            exit: Exit::Success,
            at: time::parse("2026-01-02T04:04:05Z").unwrap(),
            took: Duration::from_millis(1250),
        };
        summary(report, is_dry, &ending).unwrap_or_default()
    }

    fn report() -> Report {
        let mut report = Report {
            newest: time::parse("2026-01-02T03:04:05Z"),
            ..Report::default()
        };
        (report.walk.pages, report.walk.to_come) = (1, Some(0));
        report
    }

    #[test]
    fn a_quiet_run_says_that_nothing_is_new() {
        let mut report = report();
        let quiet =
            "found nothing new; the newest event delivered is 1h00m old; read 1 page in 1.2 s";
        assert_eq!(of(&report, false), quiet);
        report.newest = None;
        let empty = "found nothing new; no event was delivered yet; read 1 page in 1.2 s";
        assert_eq!(of(&report, false), empty);
        assert_eq!(of(&report, true), "found nothing new; read 1 page in 1.2 s");
    }

    #[test]
    fn a_summary_is_a_sentence_without_figures_that_are_zero() {
        let mut report = report();
        (report.delivered, report.walk.found, report.walk.pages) = (2500, 2500, 3);
        report.delivery.requests = 1;
        let delivered = "delivered 2500 events; the newest event delivered is 1h00m old; read 3 pages and sent 1 batch in 1.2 s";
        assert_eq!(of(&report, false), delivered);
        let dry = "dry run: 2500 events to deliver; read 3 pages in 1.2 s";
        assert_eq!(of(&report, true), dry);
        (report.delivered, report.walk.retries) = (1, 2);
        (report.delivery.requests, report.delivery.retries) = (3, 1);
        let failed = "delivered 1 event; 2499 events are left; the newest event delivered is 1h00m old; read 3 pages (2 retries) and sent 2 batches (1 retry) in 1.2 s";
        assert_eq!(of(&report, false), failed);
    }

    #[test]
    fn dead_letters_do_not_count_as_delivered() {
        let mut report = report();
        (report.delivered, report.walk.found) = (30, 30);
        (report.delivery.requests, report.delivery.dead_letters) = (9, 1);
        let text = of(&report, false);
        let start = "delivered 29 events; put 1 dead letter aside; the newest";
        assert!(text.starts_with(start), "{text}");
    }

    #[test]
    fn a_run_that_read_nothing_has_no_summary() {
        assert_eq!(of(&Report::default(), false), "");
    }
}
