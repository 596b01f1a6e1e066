//! `--metrics`: the figures of a run as a file that Prometheus reads, by the textfile collector of
//! its node exporter. The form is <https://prometheus.io/docs/instrumenting/exposition_formats/>.
//!
//! What holds, and why:
//!
//! - **Whole or not at all.** The file is replaced by a rename, since it may be read at any moment.
//! - **Counters grow.** A run is short, so that its own numbers would jump up and down. They are
//!   added to those that the file holds. Where there is none they start at 0, which Prometheus takes
//!   for what it is. Of two runs that end in the same milliseconds, and share a file although they
//!   share no lock, one is not counted: a lock of its own, a file more, would cost more than that.
//! - **A failed run takes nothing back.** The last success, the newest event and the events that
//!   wait are those of an earlier run where this one learned nothing about them.
//! - **One file for each checkpoint.** Every metric has the file's name as its label `file`, because
//!   the collector does not tell apart what stands in two files.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use ::time::OffsetDateTime;

use crate::error::Exit;
use crate::fs;
use crate::report::Report;
use crate::time;

/// How our files begin: one that begins otherwise is not written over.
const START: &str = "# HELP tfc_audit_";
/// Larger than any file of ours.
const MOST_READ: u64 = 64 * 1024;

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Its exit code.
    pub exit: Exit,
    /// When, by the local clock.
    pub at: OffsetDateTime,
    /// How long it took.
    pub took: Duration,
}

/// Adds the figures of a run to a file, or makes it: readable by everybody, as far as the umask
/// allows.
///
/// # Errors
/// If it cannot be written, or holds something else. It is what it was before then.
pub fn write(path: &Path, report: &Report, ending: &Ending) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A name of this process's own, for runs that end at the same time, and none that ends in
    // `.prom`, which the collector would read.
    let temporary = fs::with_suffix(path, &format!(".{}.tmp", std::process::id()));
    read(path)
        .map(|before| render(&name, &before, report, ending))
        .and_then(|text| fs::replace(path, &temporary, 0o644, text.as_bytes()))
        .map_err(|error| format!("--metrics: cannot write {}: {error}", path.display()))
}

/// What a file holds, which is nothing if there is none.
///
/// # Errors
/// If it cannot be read, or is none of ours.
pub fn read(path: &Path) -> io::Result<String> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        // A rename would put a file in the place of a link or a device.
        Ok(there) if !there.is_file() => return Err(io::Error::other("it is no regular file")),
        there => there?,
    };
    let mut text = String::new();
    File::open(path)?
        .take(MOST_READ)
        .read_to_string(&mut text)
        .ok()
        .filter(|_| text.is_empty() || text.starts_with(START))
        .ok_or_else(|| io::Error::other("it holds something else; name a file of its own"))?;
    Ok(text)
}

/// The content of a file of this name, after one that held `before`.
fn render(name: &str, before: &str, report: &Report, ending: &Ending) -> String {
    let name = name
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n");
    let mut text = String::new();
    let mut put = |kind: &str, metric: &str, help: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# HELP {metric} {help}\n# TYPE {metric} {kind}\n{metric}{{file=\"{name}\"}} {value}\n"
        );
    };
    for (metric, help, value) in gauges(before, report, ending) {
        if let Some(value) = value {
            put("gauge", metric, help, &value);
        }
    }
    for (metric, help, value) in counters(report) {
        let so_far = value_in(before, metric).unwrap_or(0_u64);
        put("counter", metric, help, &so_far.saturating_add(value));
    }
    text
}

type Metric<T> = (&'static str, &'static str, T);

/// The gauges, with what they are for. What is not known has no value.
fn gauges(before: &str, report: &Report, ending: &Ending) -> [Metric<Option<String>>; 6] {
    const SUCCESS: &str = "tfc_audit_last_success_timestamp_seconds";
    const NEWEST: &str = "tfc_audit_newest_event_timestamp_seconds";
    const WAITING: &str = "tfc_audit_events_waiting";
    let now = seconds(time::floor_second(ending.at));
    let success = (ending.exit == Exit::Success).then_some(now);
    let newest = [report.newest.map(seconds), value_in(before, NEWEST)];
    let waiting = report.waiting().or_else(|| value_in(before, WAITING));
    let in_text = |value: Option<f64>| value.map(|value| value.to_string());
    [
        (
            "tfc_audit_last_run_timestamp_seconds",
            "When the last run ended.",
            in_text(Some(now)),
        ),
        (
            SUCCESS,
            "When the last run ended that had exit code 0.",
            in_text(success.or_else(|| value_in(before, SUCCESS))),
        ),
        (
            "tfc_audit_last_run_exit_code",
            "The exit code of the last run.",
            Some((ending.exit as u8).to_string()),
        ),
        (
            "tfc_audit_last_run_duration_seconds",
            "How long the last run took.",
            Some(format!("{:.3}", ending.took.as_secs_f64())),
        ),
        (
            NEWEST,
            "The timestamp of the newest event that was delivered.",
            in_text(newest.into_iter().flatten().reduce(f64::max)),
        ),
        (
            WAITING,
            "Events that were known to wait for delivery when the last run ended that knew.",
            waiting.map(|waiting: u64| waiting.to_string()),
        ),
    ]
}

/// The counters, with what they are for and what this run adds.
fn counters(report: &Report) -> [Metric<u64>; 9] {
    let Report { walk, delivery, .. } = report;
    [
        (
            "tfc_audit_events_delivered_total",
            "Events delivered, dead letters included.",
            report.delivered,
        ),
        (
            "tfc_audit_events_duplicate_total",
            "Events dropped because they were delivered or seen before.",
            walk.duplicates,
        ),
        (
            "tfc_audit_dead_letters_total",
            "Events that the receiver refused and that were put aside.",
            delivery.dead_letters,
        ),
        (
            "tfc_audit_source_pages_total",
            "Pages read from the service.",
            walk.pages,
        ),
        (
            "tfc_audit_source_retries_total",
            "Requests to the service that were tried again.",
            walk.retries,
        ),
        (
            "tfc_audit_source_bytes_total",
            "Bytes of the pages read, decompressed.",
            walk.bytes,
        ),
        (
            "tfc_audit_target_requests_total",
            "Requests to the receiver, runs of the program, or writes to standard output.",
            delivery.requests,
        ),
        (
            "tfc_audit_target_retries_total",
            "Requests to the receiver that were tried again.",
            delivery.retries,
        ),
        (
            "tfc_audit_target_bytes_total",
            "Bytes handed to the receiver, the program or standard output, before compression.",
            delivery.bytes,
        ),
    ]
}

/// Seconds since 1970.
fn seconds(time: OffsetDateTime) -> f64 {
    (time - OffsetDateTime::UNIX_EPOCH).as_seconds_f64()
}

/// The value that a metric has in a file of ours, if that is a number such as we write.
fn value_in<T: FromStr>(before: &str, metric: &str) -> Option<T> {
    before.lines().find_map(|line| {
        let (label, value) = line.strip_prefix(metric)?.rsplit_once(' ')?;
        let is_number = value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'));
        (label.starts_with('{') && is_number).then(|| value.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(exit: Exit, at: &str) -> Ending {
        Ending {
            exit,
            at: time::parse(at).unwrap(),
            took: Duration::from_micros(1_234_567),
        }
    }

    #[test]
    fn counters_go_on_and_a_failed_run_takes_nothing_back() {
        let mut report = Report {
            delivered: 5,
            newest: time::parse("2026-01-02T03:04:05.678Z"),
            ..Report::default()
        };
        report.walk.found = 7;
        report.walk.ahead = Some(1);
        let first = render(
            "a.prom",
            "",
            &report,
            &ending(Exit::Success, "2026-01-02T03:04:06Z"),
        );
        let has = |text: &str, line: &str| assert!(text.lines().any(|it| it == line), "{text}");
        has(
            &first,
            r#"tfc_audit_events_delivered_total{file="a.prom"} 5"#,
        );
        has(&first, r#"tfc_audit_events_waiting{file="a.prom"} 3"#);
        has(
            &first,
            r#"tfc_audit_newest_event_timestamp_seconds{file="a.prom"} 1767323045.678"#,
        );
        has(
            &first,
            r#"tfc_audit_last_run_duration_seconds{file="a.prom"} 1.235"#,
        );

        let nothing = Report::default();
        let ended = ending(Exit::SourceFailed, "2026-01-02T04:00:00Z");
        let second = render("b.prom", &first, &nothing, &ended);
        let third = render("b.prom", &second, &report, &ended);
        for (text, delivered) in [(second, 5), (third, 10)] {
            has(
                &text,
                &format!(r#"tfc_audit_events_delivered_total{{file="b.prom"}} {delivered}"#),
            );
            has(&text, r#"tfc_audit_events_waiting{file="b.prom"} 3"#);
            has(
                &text,
                r#"tfc_audit_last_success_timestamp_seconds{file="b.prom"} 1767323046"#,
            );
            has(
                &text,
                r#"tfc_audit_newest_event_timestamp_seconds{file="b.prom"} 1767323045.678"#,
            );
            has(&text, r#"tfc_audit_last_run_exit_code{file="b.prom"} 5"#);
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let ended = ending(Exit::Usage, "2026-01-02T03:04:06Z");
        // What a damaged file says is no number.
        let before = "# HELP tfc_audit_x\ntfc_audit_events_delivered_total{file=\"x\"} -3\ntfc_audit_last_success_timestamp_seconds{file=\"x\"} NaN\n";
        for before in ["", before] {
            let text = render("x", before, &Report::default(), &ended);
            for metric in [
                "last_success_timestamp_seconds",
                "newest_event",
                "events_waiting",
            ] {
                assert!(!text.contains(metric), "{text}");
            }
            assert!(text.contains("events_delivered_total{file=\"x\"} 0\n"));
        }
    }

    #[test]
    fn a_name_is_escaped() {
        let ended = ending(Exit::Success, "2026-01-02T03:04:06Z");
        let text = render("a\"\\\n {} b", "", &Report::default(), &ended);
        assert!(text.contains(r#"{file="a\"\\\n {} b"} 0"#), "{text}");
        let again = render(
            "x",
            &text,
            &Report {
                delivered: 1,
                ..Report::default()
            },
            &ended,
        );
        assert!(
            again.contains("events_delivered_total{file=\"x\"} 1\n"),
            "{again}"
        );
    }
}
