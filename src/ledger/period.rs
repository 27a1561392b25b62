//! Which usage is asked for: a span of minutes, cut into minutes, hours, days or months of UTC.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::clock::UnixMillis;
use crate::message::InstanceId;

/// The minute after the last one that can be asked for; no clock of a machine goes as far.
const END_MINUTE: u64 = 253_402_300_800 / 60;
const MINUTES_A_DAY: u64 = 24 * 60;
const MILLIS_A_MINUTE: u64 = 60_000;

/// The length of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day of UTC.
    Day,
    /// A month of UTC.
    Month,
}

/// Minutes since 1970, UTC: the first, and the first that is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    from: u64,
    to: u64,
}

/// A question to the ledger.
#[derive(Clone, Debug)]
pub struct Query {
    /// Of which time.
    pub span: Span,
    /// Cut into what.
    pub by: By,
    /// Of one instance only.
    pub instance: Option<InstanceId>,
}

/// Why a question is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not a moment.
    #[error(
        "{name} is \"{text}\": write a date like 2026-11-23 or a moment like 2026-11-23T14:05:00Z"
    )]
    Moment {
        /// Which bound.
        name: &'static str,
        /// What was given.
        text: String,
    },
    /// A moment within a minute.
    #[error("{name} is \"{text}\": usage is kept by the minute, so write :00 seconds")]
    Seconds {
        /// Which bound.
        name: &'static str,
        /// What was given.
        text: String,
    },
    /// The span holds nothing.
    #[error("from is not before to; to itself is not part of the span")]
    Empty,
    /// Not a length.
    #[error("by is \"{text}\": it is minute, hour, day or month")]
    By {
        /// What was given.
        text: String,
    },
    /// Not an instance id.
    #[error("instance is \"{text}\": an instance id is letters, digits and hyphens")]
    Instance {
        /// What was given.
        text: String,
    },
}

impl Span {
    /// From two bounds as people write them; one that is left out is open. `to` is no part of it. A
    /// bound of digits only is milliseconds since 1970, as Grafana writes a dashboard's range: the
    /// span is then widened to whole minutes.
    ///
    /// # Errors
    /// [`QueryError`] if a bound is no minute of UTC, or `from` is not before `to`.
    pub fn parse(from: Option<&str>, to: Option<&str>) -> Result<Self, QueryError> {
        let from = from.map_or(Ok(0), |text| bound("from", text, |ms| ms / MILLIS_A_MINUTE))?;
        let to =
            to.map_or(Ok(END_MINUTE), |text| bound("to", text, |ms| ms.div_ceil(MILLIS_A_MINUTE)))?;
        if from >= to {
            return Err(QueryError::Empty);
        }
        Ok(Self { from, to })
    }

    /// The minute, hour, day or month of UTC that is under way.
    #[must_use]
    pub fn current(by: By, now: UnixMillis) -> Self {
        let (from, to) = by.bounds(now.minutes());
        Self { from, to }
    }

    /// The first minute.
    #[must_use]
    pub const fn from(self) -> u64 {
        self.from
    }

    /// The minute behind the last.
    #[must_use]
    pub const fn to(self) -> u64 {
        self.to
    }

    pub(super) const fn holds(self, minute: u64) -> bool {
        self.from <= minute && minute < self.to
    }
}

impl Query {
    /// From the words of a command line or an URL.
    ///
    /// # Errors
    /// [`QueryError`] names what is wrong, and how it is written.
    pub fn parse(
        from: Option<&str>,
        to: Option<&str>,
        by: Option<&str>,
        instance: Option<&str>,
    ) -> Result<Self, QueryError> {
        let by = by.map_or(Ok(By::Day), By::parse)?;
        let instance = instance.map(|text| {
            InstanceId::parse(text).map_err(|_| QueryError::Instance { text: text.to_owned() })
        });
        Ok(Self { span: Span::parse(from, to)?, by, instance: instance.transpose()? })
    }
}

/// A moment, or milliseconds that `widen` takes to a minute.
fn bound(
    name: &'static str,
    text: &str,
    widen: impl FnOnce(u64) -> u64,
) -> Result<u64, QueryError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return minute(name, text);
    }
    let minute = text.parse().ok().map(widen).filter(|minute| *minute <= END_MINUTE);
    minute.ok_or_else(|| QueryError::Moment { name, text: text.to_owned() })
}

fn minute(name: &'static str, text: &str) -> Result<u64, QueryError> {
    let wrong = || QueryError::Moment { name, text: text.to_owned() };
    // A date parser takes moments as well, and drops their time.
    let at = if text.len() == "2026-11-23".len() {
        let date: Date = text.parse().map_err(|_| wrong())?;
        date.to_zoned(TimeZone::UTC).map_err(|_| wrong())?.timestamp()
    } else {
        text.parse().map_err(|_| wrong())?
    };
    let seconds = u64::try_from(at.as_second()).map_err(|_| wrong())?;
    if !seconds.is_multiple_of(60) || at.subsec_nanosecond() != 0 {
        return Err(QueryError::Seconds { name, text: text.to_owned() });
    }
    Ok(seconds / 60)
}

impl By {
    /// From its name.
    ///
    /// # Errors
    /// [`QueryError::By`] if there is no such length.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        match text {
            "minute" => Ok(Self::Minute),
            "hour" => Ok(Self::Hour),
            "day" => Ok(Self::Day),
            "month" => Ok(Self::Month),
            text => Err(QueryError::By { text: text.to_owned() }),
        }
    }

    /// First minute of the row that holds a minute, and first minute of the next row.
    #[must_use]
    pub fn bounds(self, minute: u64) -> (u64, u64) {
        let even = |length: u64| {
            let start = minute - minute % length;
            (start, start + length)
        };
        match self {
            Self::Minute => even(1),
            Self::Hour => even(60),
            Self::Day => even(MINUTES_A_DAY),
            Self::Month => month(minute).unwrap_or_else(|| even(MINUTES_A_DAY)),
        }
    }

    /// The start of a row as people read it.
    #[must_use]
    pub fn label(self, start: u64) -> String {
        let text = moment(start);
        match self {
            Self::Minute | Self::Hour => text[..text.len().min(16)].replace('T', " "),
            Self::Day => text[..text.len().min(10)].to_owned(),
            Self::Month => text[..text.len().min(7)].to_owned(),
        }
    }
}

fn month(minute: u64) -> Option<(u64, u64)> {
    let first = timestamp(minute)?.to_zoned(TimeZone::UTC).date().first_of_month();
    let next = first.checked_add(1.month()).ok()?;
    let minutes = |date: Date| {
        let at = date.to_zoned(TimeZone::UTC).ok()?.timestamp();
        u64::try_from(at.as_second()).ok().map(|seconds| seconds / 60)
    };
    Some((minutes(first)?, minutes(next)?))
}

fn timestamp(minute: u64) -> Option<Timestamp> {
    let seconds = i64::try_from(minute.checked_mul(60)?).ok()?;
    Timestamp::from_second(seconds).ok()
}

/// A minute in RFC 3339.
#[must_use]
pub(super) fn moment(minute: u64) -> String {
    timestamp(minute).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        minute("from", text).unwrap()
    }

    #[test]
    fn a_bound_is_a_date_or_a_moment_of_any_offset() {
        assert_eq!(at("1970-01-02"), MINUTES_A_DAY);
        assert_eq!(at("1970-01-01T00:01:00Z"), 1);
        assert_eq!(at("1970-01-01T09:00:00+08:00"), 60);
        assert_eq!(at("2026-11-23"), at("2026-11-23T00:00:00Z"));
    }

    #[test]
    fn milliseconds_are_widened_to_whole_minutes() {
        let span = |from, to| Span::parse(Some(from), Some(to)).map(|span| (span.from, span.to));
        assert_eq!(span("60000", "120000"), Ok((1, 2)));
        assert_eq!(span("119999", "120001"), Ok((1, 3)));
        assert_eq!(span("59999", "60000"), Ok((0, 1)));
        assert_eq!(span("60000", "60000"), Err(QueryError::Empty));
        for text in ["99999999999999999999", "253402300860000", "-60000", "60000.5"] {
            let error = Span::parse(Some(text), None).unwrap_err();
            assert_eq!(error, QueryError::Moment { name: "from", text: text.into() }, "{text}");
        }
    }

    #[test]
    fn the_current_month_is_the_whole_of_it() {
        let now = UnixMillis((at("2026-11-23T05:59:00Z") * 60 + 59) * 1_000);
        let current = |by| {
            let span = Span::current(by, now);
            (moment(span.from), moment(span.to))
        };
        let owned = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(current(By::Hour), owned("2026-11-23T05:00:00Z", "2026-11-23T06:00:00Z"));
        assert_eq!(current(By::Day), owned("2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"));
        assert_eq!(current(By::Month), owned("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"));
    }

    #[test]
    fn what_is_no_bound_is_refused_by_name() {
        for text in ["", "today", "2026-13-01", "2026-11-23T10:00:00", "2026-11", "1969-12-31"] {
            let error = Span::parse(Some(text), None).unwrap_err();
            assert_eq!(error, QueryError::Moment { name: "from", text: text.into() }, "{text}");
        }
        let error = Span::parse(None, Some("2026-11-23T10:00:30Z")).unwrap_err();
        assert!(matches!(error, QueryError::Seconds { name: "to", .. }));
        let same = Some("2026-11-23");
        assert_eq!(Span::parse(same, same), Err(QueryError::Empty));
        let error = Query::parse(None, None, Some("week"), None).unwrap_err();
        assert!(error.to_string().contains("minute, hour, day or month"));
        let error = Query::parse(None, None, None, Some("a/b")).unwrap_err();
        assert!(error.to_string().contains("\"a/b\""));
    }

    #[test]
    fn the_span_ends_before_its_second_bound() {
        let span = Span::parse(Some("2026-11-23"), Some("2026-11-24")).unwrap();
        assert!(span.holds(at("2026-11-23")) && span.holds(at("2026-11-23T23:59:00Z")));
        assert!(!span.holds(at("2026-11-24")) && !span.holds(at("2026-11-22T23:59:00Z")));
    }

    #[test]
    fn rows_begin_and_end_where_hours_days_and_months_of_utc_do() {
        let cases = [
            (By::Minute, "2026-11-23T10:59:00Z", "2026-11-23T10:59:00Z", "2026-11-23T11:00:00Z"),
            (By::Hour, "2026-11-23T23:59:00Z", "2026-11-23T23:00:00Z", "2026-11-24T00:00:00Z"),
            (By::Day, "2026-12-31T23:59:00Z", "2026-12-31", "2027-01-01"),
            (By::Month, "2026-12-31T23:59:00Z", "2026-12-01", "2027-01-01"),
            (By::Month, "2028-02-29T00:00:00Z", "2028-02-01", "2028-03-01"),
            (By::Month, "2027-02-28T23:59:00Z", "2027-02-01", "2027-03-01"),
            (By::Month, "2026-11-01", "2026-11-01", "2026-12-01"),
        ];
        for (by, minute, start, end) in cases {
            assert_eq!(by.bounds(at(minute)), (at(start), at(end)), "{by:?} {minute}");
        }
    }

    #[test]
    fn a_label_says_as_much_as_its_row_is_long() {
        let start = at("2026-11-01T00:00:00Z");
        let labels = [By::Minute, By::Hour, By::Day, By::Month].map(|by| by.label(start));
        assert_eq!(labels, ["2026-11-01 00:00", "2026-11-01 00:00", "2026-11-01", "2026-11"]);
        assert_eq!(moment(start), "2026-11-01T00:00:00Z");
    }
}
