//! Times and spans in their written forms: RFC 3339, HTTP dates, and `10m`.
//!
//! Times are compared as instants, never as text: `…00Z` and `…00.000Z` are the same instant.

use std::time::Duration;

use ::time::format_description::well_known::{Rfc2822, Rfc3339};
use ::time::{Date, OffsetDateTime, Time, UtcDateTime};

/// Parses a time in any RFC 3339 form, or with an offset that is ` UTC` or lacks its colon. Returns it
/// in UTC, or `None` if the text is not a time. A time whose year in UTC is before 0 could not be
/// formatted, and is none.
pub fn parse(text: &str) -> Option<UtcDateTime> {
    let parse = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    let time = parse(text).or_else(|| parse(&with_usual_offset(text)?))?;
    time.checked_to_utc().filter(|time| time.year() >= 0)
}

fn with_usual_offset(text: &str) -> Option<String> {
    if let Some(time) = text.strip_suffix(" UTC") {
        return Some(format!("{time}Z"));
    }
    let (time, minutes) = text.split_at_checked(text.len().checked_sub(2)?)?;
    Some(format!("{time}:{minutes}"))
}

/// Formats a time in UTC as the service does: `2026-01-02T03:04:05.000Z`. A time finer than
/// milliseconds keeps its digits.
pub fn format(time: UtcDateTime) -> String {
    let nanoseconds = format!("{:09}", time.nanosecond());
    let (milliseconds, finer) = nanoseconds.split_at(3);
    let whole = floor_second(time).format(&Rfc3339);
    let whole = whole.unwrap_or_default();
    let finer = finer.trim_end_matches('0');
    format!("{}.{milliseconds}{finer}Z", whole.trim_end_matches('Z'))
}

/// Cuts a time to its whole second.
pub fn floor_second(time: UtcDateTime) -> UtcDateTime {
    time.truncate_to_second()
}

/// Returns the time `span` before `time`, or the start of the year 0 if that is later: RFC 3339 has
/// no earlier times.
pub fn before(time: UtcDateTime, span: Duration) -> UtcDateTime {
    let start = Date::MIN.replace_year(0).unwrap_or(Date::MIN);
    let span = span.try_into().unwrap_or(::time::Duration::MAX);
    time.saturating_sub(span)
        .max(UtcDateTime::new(start, Time::MIDNIGHT))
}

/// Parses an HTTP `Date` such as `Sun, 06 Nov 1994 08:49:37 GMT`, and returns it in UTC. The two
/// obsolete forms of RFC 9110, section 5.6.7, are not supported.
pub fn parse_http_date(text: &str) -> Option<UtcDateTime> {
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    date.checked_to_utc()
}

/// The units of a span, in seconds.
const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 60 * 60), ('d', 24 * 60 * 60)];

/// Parses a span such as `90s`, `10m`, `36h` or `7d`.
///
/// # Errors
/// A message with examples of spans.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let span = UNITS.iter().find_map(|&(unit, seconds)| {
        let number = text.strip_suffix(unit)?;
        // Rust also reads `+5`.
        let number: u64 = number.parse().ok().filter(|_| !number.starts_with('+'))?;
        number.checked_mul(seconds).map(Duration::from_secs)
    });
    span.ok_or_else(|| format!("{text:?} is not a span of time such as 90s, 10m, 36h or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_rfc_3339_is_the_same_instant() {
        let forms = [
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.000Z",
            "2026-01-02T03:04:05.000000000Z",
            "2026-01-02T05:04:05+02:00",
            "2026-01-01T21:34:05.0-05:30",
            "2026-01-02 03:04:05Z",
            "2026-01-02 03:04:05.000 UTC",
            "2026-01-02T03:04:05 UTC",
            "2026-01-02T05:04:05+0200",
            "2026-01-01 21:34:05-0530",
        ];
        for form in forms {
            let time = parse(form).unwrap();
            assert_eq!(format(time), "2026-01-02T03:04:05.000Z", "{form}");
        }
    }

    #[test]
    fn digits_finer_than_milliseconds_are_kept() {
        for text in ["2026-01-02T03:04:05.123Z", "2026-01-02T03:04:05.123456Z"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }

    #[test]
    fn other_text_is_not_a_time() {
        for text in [
            "",
            "yesterday",
            "2026-01-02",
            "2026-13-02T03:04:05Z",
            "2026-01-02T03:04:05",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        // In UTC this is before the year 0.
        assert!(parse("0000-01-01T00:00:00+23:00").is_none());
    }

    #[test]
    fn looking_back_stops_at_the_year_0() {
        let time = parse("0000-01-01T00:00:05Z").unwrap();
        assert_eq!(
            format(before(time, Duration::from_secs(600))),
            "0000-01-01T00:00:00.000Z"
        );
        let time = parse("2026-01-02T03:04:05Z").unwrap();
        assert_eq!(
            format(before(time, Duration::MAX)),
            "0000-01-01T00:00:00.000Z"
        );
        assert_eq!(
            format(before(time, Duration::from_secs(5))),
            "2026-01-02T03:04:00.000Z"
        );
    }

    #[test]
    fn a_span_is_a_number_with_a_unit() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("36h", 129_600),
            ("7d", 604_800),
            ("0s", 0),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "",
            "s",
            "10",
            "10 m",
            "-1s",
            "+1s",
            "1.5h",
            "1w",
            "99999999999999999d",
            "1é",
        ] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_http_date_is_parsed_in_utc() {
        let time = parse_http_date("Fri, 02 Jan 2026 03:04:05 GMT").unwrap();
        assert_eq!(format(time), "2026-01-02T03:04:05.000Z");
        assert_eq!(parse_http_date("soon"), None);
    }
}
