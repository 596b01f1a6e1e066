//! Times and spans in their written forms: RFC 3339, HTTP dates, and `10m`.
//!
//! Times are compared as instants, never as text: `…00Z` and `…00.000Z` are the same instant.

use std::time::Duration;

use ::time::format_description::well_known::{Rfc2822, Rfc3339};
use ::time::{Date, Month, OffsetDateTime, Time, UtcOffset};

/// Parses a time in any RFC 3339 form. Returns it in UTC, or `None` if the text is not a time.
#[must_use]
pub fn parse(text: &str) -> Option<OffsetDateTime> {
    parse_usual(text).or_else(|| parse_any(text))
}

/// Parses `2026-01-02T03:04:05.000Z`, the form of the service's timestamps, with up to nine digits
/// after the point or without a fraction. This is several times as fast as [`parse_any`].
fn parse_usual(text: &str) -> Option<OffsetDateTime> {
    let (whole, fraction) = text
        .as_bytes()
        .strip_suffix(b"Z")?
        .split_first_chunk::<19>()?;
    let separators = [4, 7, 10, 13, 16].map(|place| whole[place]);
    (separators == *b"--T::").then_some(())?;
    let two = |place| small(number(&whole[place..place + 2])?);
    let year = number(&whole[..4])?.cast_signed();
    let date = Date::from_calendar_date(year, Month::try_from(two(5)?).ok()?, two(8)?).ok()?;
    let nanosecond = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) => {
            number(digits)? * 10_u32.pow(9 - u32::from(small(digits.len())?))
        }
        _ => return None,
    };
    let time = Time::from_hms_nano(two(11)?, two(14)?, two(17)?, nanosecond).ok()?;
    Some(OffsetDateTime::new_utc(date, time))
}

/// Parses at most nine digits.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| {
        let is_digit = digit.is_ascii_digit();
        is_digit.then(|| number * 10 + u32::from(digit - b'0'))
    })
}

fn small(number: impl TryInto<u8>) -> Option<u8> {
    number.try_into().ok()
}

/// Parses any RFC 3339 form and its common variants: a space for the `T`, an offset without a colon,
/// and ` UTC` for the `Z`. A time whose year in UTC is before 0 could not be formatted, and is none.
fn parse_any(text: &str) -> Option<OffsetDateTime> {
    let mut usual = match text.strip_suffix(" UTC") {
        Some(time) => format!("{time}Z"),
        None => text.to_owned(),
    };
    if usual.as_bytes().get(10) == Some(&b' ') {
        usual.replace_range(10..11, "T");
    }
    let digits = usual.bytes().rev().take_while(u8::is_ascii_digit).count();
    let sign = usual
        .len()
        .checked_sub(5)
        .map(|place| usual.as_bytes()[place]);
    if digits == 4 && matches!(sign, Some(b'+' | b'-')) {
        usual.insert(usual.len() - 2, ':');
    }
    let time = OffsetDateTime::parse(&usual, &Rfc3339).ok()?;
    time.checked_to_offset(UtcOffset::UTC)
        .filter(|time| time.year() >= 0)
}

/// Formats a time in UTC as the service does: `2026-01-02T03:04:05.000Z`. A time finer than
/// milliseconds keeps its digits.
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

/// Returns the time `span` before `time`, or the start of the year 0 if that is later: RFC 3339 has
/// no earlier times.
#[must_use]
pub fn before(time: OffsetDateTime, span: Duration) -> OffsetDateTime {
    let start = Date::MIN.replace_year(0).unwrap_or(Date::MIN);
    let earliest = OffsetDateTime::new_utc(start, Time::MIDNIGHT);
    ::time::Duration::try_from(span)
        .ok()
        .and_then(|span| time.checked_sub(span))
        .map_or(earliest, |time| time.max(earliest))
}

/// Parses an HTTP `Date` such as `Sun, 06 Nov 1994 08:49:37 GMT`, and returns it in UTC. The two
/// obsolete forms of RFC 9110, section 5.6.7, are not supported.
#[must_use]
pub fn parse_http_date(text: &str) -> Option<OffsetDateTime> {
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    date.checked_to_offset(UtcOffset::UTC)
}

/// Parses a span such as `90s`, `10m`, `36h` or `7d`.
///
/// # Errors
/// A message with examples of spans.
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_fast_parser_agrees_with_the_general_one(
            numbers in (0..10_000_u32, 0..14_u32, 0..33_u32, 0..25_u32, 0..61_u32, 0..62_u32),
            fraction in prop_oneof![Just(String::new()), "\\.[0-9]{0,11}"],
            place in 0..40_usize,
            change in prop::option::of(any::<char>()),
        ) {
            let (year, month, day, hour, minute, second) = numbers;
            let mut text = format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
            );
            if let (Some(change), true) = (change, place < text.len()) {
                text.replace_range(place..=place, &change.to_string());
            }
            let (usual, any) = (parse_usual(&text), parse_any(&text));
            prop_assert!(usual.is_none() || usual == any, "{text}: {usual:?}, {any:?}");
            // The usual form has no leap second.
            if change.is_none() && second < 60 && fraction.len() <= 10 {
                prop_assert_eq!(usual, any, "{}", text);
            }
        }
    }

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
