//! `--metrics`: the figures of a run as a file for the textfile collector of Prometheus's node
//! exporter, as <https://prometheus.io/docs/instrumenting/exposition_formats/> has it.
//!
//! - **Whole or not at all.** The collector may read the file at any moment, so a rename replaces it.
//! - **Gauges only.** Each run writes its own figures. Counters would have to add to the file, and
//!   two runs that end at the same moment would lose one of them.
//! - **A failed run takes nothing back.** The last success, the newest event and the events that
//!   wait are copied from the file if this run knows nothing newer. Should two runs that end at the
//!   same moment write an older one over a newer, the next run writes it anew.
//! - **One file for each checkpoint.** Every metric has the file's name as its label `file`, since
//!   the collector does not tell its files apart.

use std::io;
use std::path::Path;

use ::time::UtcDateTime;

use crate::error::Exit;
use crate::fs;
use crate::report::{Ending, Report};
use crate::time;

/// The beginning of every file of ours. A file with another one is not replaced.
const START: &str = "# HELP tfc_audit_";
/// The metrics in their order, each with its help.
const METRICS: &str = "\
tfc_audit_last_run_timestamp_seconds The time at which the last run ended.
tfc_audit_last_run_duration_seconds The time that the last run took.
tfc_audit_last_run_exit_code The exit code of the last run.
tfc_audit_last_run_events_delivered Events that the receiver accepted, without dead letters.
tfc_audit_last_run_dead_letters Events that the receiver refused and that were put aside.
tfc_audit_last_run_service_pages Pages that the last run read from the service.
tfc_audit_last_run_service_retries Requests to the service that the last run repeated.
tfc_audit_last_run_service_bytes Bytes of the pages that the last run read, decompressed.
tfc_audit_last_run_receiver_requests Requests, runs of the program or writes of the last run.
tfc_audit_last_run_receiver_retries Requests to the receiver that the last run repeated.
tfc_audit_last_run_receiver_bytes Bytes handed to the receiver, before compression.
tfc_audit_last_success_timestamp_seconds The time at which the last run with exit code 0 ended.
tfc_audit_newest_event_timestamp_seconds The timestamp of the newest event that was delivered.
tfc_audit_events_waiting Events that were known to wait for delivery.";

/// Larger than any file of ours, in bytes.
const MOST_READ: u64 = 64 * 1024;

/// Replaces the file with the figures of this run. Everybody can read it, unless the umask says
/// otherwise.
///
/// # Errors
/// If the file cannot be written or is not a metrics file. It stays as it was then.
pub fn write(path: &Path, report: &Report, ending: &Ending) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Runs that end at the same moment each need their own temporary file. The collector reads no
    // file with this suffix.
    let temporary = fs::with_suffix(path, &format!(".{}.tmp", std::process::id()));
    read(path)
        .map(|before| render(&name, &before, report, ending))
        .and_then(|text| fs::replace(path, &temporary, 0o644, text.as_bytes()))
        .map_err(|error| format!("--metrics: cannot write {}: {error}", path.display()))
}

/// Reads the metrics of earlier runs; empty if there is no file.
///
/// # Errors
/// If the file cannot be read or is not a metrics file.
pub fn read(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path, MOST_READ)?.unwrap_or_default();
    String::from_utf8(bytes)
        .ok()
        .filter(|text| text.is_empty() || text.starts_with(START))
        .ok_or_else(|| io::Error::other("it holds something else; name a file of its own"))
}

/// Returns the content of a file of this name that held `before`.
fn render(name: &str, before: &str, report: &Report, ending: &Ending) -> String {
    let name = name
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n");
    let known = METRICS.lines().filter_map(|line| {
        let (metric, help) = line.split_once(' ')?;
        let value = value(metric, before, report, ending)?;
        Some(format!(
            "# HELP {metric} {help}\n# TYPE {metric} gauge\n{metric}{{file=\"{name}\"}} {value}\n"
        ))
    });
    known.collect()
}

/// Returns a metric's value, if it is known. `before` is the content of the file so far.
fn value(metric: &str, before: &str, report: &Report, ending: &Ending) -> Option<String> {
    let Report { walk, delivery, .. } = report;
    let now = seconds(time::floor_second(ending.at)).to_string();
    let before = value_in(before, metric);
    let count = |number: u64| Some(number.to_string());
    let value = match metric.strip_prefix("tfc_audit_")? {
        "last_run_timestamp_seconds" => Some(now),
        "last_run_duration_seconds" => Some(format!("{:.3}", ending.took.as_secs_f64())),
        "last_run_exit_code" => count(ending.exit as u64),
        "last_run_events_delivered" => count(report.accepted()),
        "last_run_dead_letters" => count(delivery.dead_letters),
        "last_run_service_pages" => count(walk.pages),
        "last_run_service_retries" => count(walk.retries),
        "last_run_service_bytes" => count(walk.bytes),
        "last_run_receiver_requests" => count(delivery.requests),
        "last_run_receiver_retries" => count(delivery.retries),
        "last_run_receiver_bytes" => count(delivery.bytes),
        "last_success_timestamp_seconds" => Some(now).filter(|_| ending.exit == Exit::Success),
        "newest_event_timestamp_seconds" => {
            let newest = report.newest.map(seconds).into_iter().chain(before);
            newest.reduce(f64::max).map(|time| time.to_string())
        }
        "events_waiting" => report.waiting().and_then(count),
        _ => None,
    };
    value.or_else(|| before.map(|value| value.to_string()))
}

/// Seconds since 1970.
fn seconds(time: UtcDateTime) -> f64 {
    (time - UtcDateTime::UNIX_EPOCH).as_seconds_f64()
}

/// Returns a metric's value in a file of ours, if it is a number as we write it.
fn value_in(before: &str, metric: &str) -> Option<f64> {
    before.lines().find_map(|line| {
        let (label, value) = line.strip_prefix(metric)?.rsplit_once(' ')?;
        let is_number = value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'));
        (label.starts_with('{') && is_number).then(|| value.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ending(exit: Exit, at: &str) -> Ending {
        Ending {
            exit,
            at: time::parse(at).unwrap(),
            took: Duration::from_micros(1_234_567),
        }
    }

    #[track_caller]
    fn has(text: &str, metric: &str, value: &str) {
        let line = format!("tfc_audit_{metric}{{file=\"a.prom\"}} {value}");
        assert!(text.lines().any(|it| it == line), "{line} in {text}");
    }

    #[test]
    fn a_failed_run_takes_nothing_back() {
        let mut report = Report {
            delivered: 5,
            newest: time::parse("2026-01-02T03:04:05.678Z"),
            ..Report::default()
        };
        (report.walk.found, report.walk.to_come) = (7, Some(1));
        report.delivery.dead_letters = 2;
        let ended = ending(Exit::Success, "2026-01-02T03:04:06Z");
        let first = render("a.prom", "", &report, &ended);
        has(&first, "last_run_events_delivered", "3");
        has(&first, "last_run_dead_letters", "2");
        has(&first, "last_run_duration_seconds", "1.235");
        has(&first, "last_run_exit_code", "0");
        assert_eq!(first.lines().count(), 3 * METRICS.lines().count());

        let ended = ending(Exit::SourceFailed, "2026-01-02T04:00:00Z");
        let second = render("a.prom", &first, &Report::default(), &ended);
        has(&second, "last_run_events_delivered", "0");
        has(&second, "last_run_dead_letters", "0");
        has(&second, "last_run_exit_code", "5");
        for text in [first, second] {
            has(&text, "last_success_timestamp_seconds", "1767323046");
            has(&text, "newest_event_timestamp_seconds", "1767323045.678");
            has(&text, "events_waiting", "3");
        }
    }

    #[test]
    fn an_unknown_figure_is_left_out() {
        let ended = ending(Exit::Usage, "2026-01-02T03:04:06Z");
        let damaged = "# HELP tfc_audit_x\ntfc_audit_events_waiting{file=\"x\"} -3\ntfc_audit_last_success_timestamp_seconds{file=\"x\"} NaN\n";
        for before in ["", damaged] {
            let text = render("a.prom", before, &Report::default(), &ended);
            for metric in ["last_success_timestamp", "newest_event", "events_waiting"] {
                assert!(!text.contains(metric), "{text}");
            }
            has(&text, "last_run_events_delivered", "0");
        }
    }

    #[test]
    fn a_name_is_escaped_and_read_back() {
        let ended = ending(Exit::Success, "2026-01-02T03:04:06Z");
        let text = render("a\"\\\n {} b", "", &Report::default(), &ended);
        assert!(text.contains(r#"{file="a\"\\\n {} b"} 0"#), "{text}");
        let ended = ending(Exit::Usage, "2026-01-02T04:00:00Z");
        let again = render("a.prom", &text, &Report::default(), &ended);
        has(&again, "last_success_timestamp_seconds", "1767323046");
    }
}
