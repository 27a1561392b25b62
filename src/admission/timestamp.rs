use std::time::Duration;

use jiff::Timestamp;

use crate::clock::UnixMillis;

/// How far a request's timestamp may be from the server's time, either way (Alibaba Cloud, "V3
/// request structure and signature").
pub const WINDOW: Duration = Duration::from_secs(15 * 60);

/// Parses `YYYY-MM-DDThh:mm:ssZ`, the only form the API takes.
pub(super) fn parse(text: &str) -> Option<UnixMillis> {
    let shape = b"0000-00-00T00:00:00Z";
    let fits = text.len() == shape.len()
        && text.bytes().zip(shape).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            other => byte == *other,
        });
    let parsed: Timestamp = fits.then(|| text.parse().ok())??;
    u64::try_from(parsed.as_millisecond()).ok().map(UnixMillis)
}

/// Writes a moment as the API does.
#[must_use]
pub fn format(at: UnixMillis) -> String {
    let seconds = i64::try_from(at.seconds()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// Whether a timestamp is within [`WINDOW`] of now.
pub(super) fn is_current(request: UnixMillis, now: UnixMillis) -> bool {
    now.since(request) <= WINDOW && request.since(now) <= WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_of_timestamp_is_taken_and_written() {
        let at = parse("2026-06-10T08:09:10Z").unwrap();
        assert_eq!(at, UnixMillis(1_781_078_950_000));
        assert_eq!(format(at), "2026-06-10T08:09:10Z");
        for bad in [
            "",
            "2026-06-10 08:09:10",
            "2026-06-10T08:09:10+00",
            "2026-06-10T08:09:10.0Z",
            "2026-13-10T08:09:10Z",
            "2026-06-10t08:09:10z",
            "1969-06-10T08:09:10Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn fifteen_minutes_either_way_are_current_and_a_millisecond_more_is_not() {
        let now = UnixMillis(10_000_000);
        let window = 15 * 60 * 1_000;
        for good in [now.0 - window, now.0, now.0 + window] {
            assert!(is_current(UnixMillis(good), now));
        }
        for bad in [now.0 - window - 1, now.0 + window + 1] {
            assert!(!is_current(UnixMillis(bad), now));
        }
    }
}
