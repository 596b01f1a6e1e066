//! Times and spans as they are written: RFC 3339, HTTP dates, and `10m`.
//!
//! Times are compared as instants, never as strings: `…00Z` and `…00.000Z` are the same moment.

use std::time::Duration;

use time::format_description::well_known::{Rfc2822, Rfc3339};
use time::{OffsetDateTime, Time, UtcOffset};

/// Reads a time in any RFC 3339 form and gives it in UTC, or `None` if it is not one.
#[must_use]
pub fn parse(text: &str) -> Option<OffsetDateTime> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    time.checked_to_offset(UtcOffset::UTC)
        .filter(|time| time.year() >= 0)
}

/// Writes a time in UTC the way the API does, `2026-01-02T03:04:05.000Z`: milliseconds, or as
/// many more digits as the time has.
#[must_use]
pub fn format(time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    let nanoseconds = format!("{:09}", time.nanosecond());
    let (milliseconds, finer) = nanoseconds.split_at(3);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{milliseconds}{}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        finer.trim_end_matches('0'),
    )
}

/// Cuts a time to its whole second.
#[must_use]
pub fn floor_second(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(0).unwrap_or(time)
}

/// The time `span` before `time`; never before the year 0, which RFC 3339 cannot write.
#[must_use]
pub fn before(time: OffsetDateTime, span: Duration) -> OffsetDateTime {
    let start = time::Date::MIN.replace_year(0).unwrap_or(time::Date::MIN);
    let earliest = OffsetDateTime::new_utc(start, Time::MIDNIGHT);
    time::Duration::try_from(span)
        .ok()
        .and_then(|span| time.checked_sub(span))
        .map_or(earliest, |time| time.max(earliest))
}

/// Reads an HTTP `Date`, such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7; the two
/// obsolete forms are not read), and gives it in UTC.
#[must_use]
pub fn parse_http_date(text: &str) -> Option<OffsetDateTime> {
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    date.checked_to_offset(UtcOffset::UTC)
}

/// Reads a span such as `90s`, `10m`, `36h` or `7d`.
///
/// # Errors
/// Says what a span looks like.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a span of time such as 90s, 10m, 36h or 7d");
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let seconds_each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(seconds_each)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
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
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-01-02",
            "2026-13-02T03:04:05Z",
            "2026-01-02T03:04:05",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        // In UTC this lies before the first year that can be written.
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
    fn spans() {
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
    fn http_dates() {
        let time = parse_http_date("Fri, 02 Jan 2026 03:04:05 GMT").unwrap();
        assert_eq!(format(time), "2026-01-02T03:04:05.000Z");
        assert_eq!(parse_http_date("soon"), None);
    }
}
