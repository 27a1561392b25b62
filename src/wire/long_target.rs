//! Request lines longer than hyper takes. The official SDKs send a 64 KB payload in the query, a
//! line of up to 262,216 bytes, while hyper and the `http` crate end at a target of 65,534.
//!
//! A line is looked at only where a message is known to begin, and only if it starts `GET /?` or
//! `POST /?`; everything else is hyper's, byte for byte.

use std::ops::Range;

/// Longest request line, in bytes.
pub(super) const LINE_BYTES_MAX: usize = 300 * 1024;

/// A target up to this long is left to hyper, whose own limit is 65,534.
pub(super) const TARGET_BYTES_LEFT: usize = 60_000;

/// Starts of the lines whose query may be taken aside.
const STARTS: [&[u8]; 2] = [b"GET /?", b"POST /?"];

/// What the start of a message shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It may become a long line.
    Partial,
    /// It is hyper's.
    Plain,
    /// Its query, without the `?`, is too long for hyper.
    Long(Range<usize>),
    /// It is longer than [`LINE_BYTES_MAX`].
    TooLong,
}

/// Looks at the bytes a message begins with, of which the first `looked` hold no line's end.
pub(super) fn look(bytes: &[u8], looked: usize) -> Line {
    let end = memchr::memchr(b'\n', &bytes[looked..]).map(|at| looked + at);
    match end {
        Some(end) if end <= TARGET_BYTES_LEFT => Line::Plain,
        _ => look_closer(bytes, end),
    }
}

#[cold]
fn look_closer(bytes: &[u8], end: Option<usize>) -> Line {
    let Some(start) = STARTS.iter().find(|start| {
        let both = start.len().min(bytes.len());
        start[..both] == bytes[..both]
    }) else {
        return Line::Plain;
    };
    match end {
        _ if end.unwrap_or(bytes.len()) > LINE_BYTES_MAX => Line::TooLong,
        None => Line::Partial,
        Some(end) => match query_end(&bytes[..end], start.len()) {
            Some(query_end) if query_end - start.len() > TARGET_BYTES_LEFT => {
                Line::Long(start.len()..query_end)
            }
            _ => Line::Plain,
        },
    }
}

/// Where the query ends: before the first space. `None` if it holds a byte that no query has
/// (WHATWG URL, query state) or the line ends with it; hyper then refuses the line as it would any.
fn query_end(line: &[u8], start: usize) -> Option<usize> {
    let end = start + memchr::memchr(b' ', &line[start..])?;
    let fits = |byte: &u8| matches!(byte, 0x21 | 0x24..=0x3B | 0x3D | 0x3F..=0x7E);
    line[start..end].iter().all(fits).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(start: &str, query: usize) -> Vec<u8> {
        format!("{start}{} HTTP/1.1\r\nhost: a\r\n\r\n", "q".repeat(query)).into_bytes()
    }

    #[test]
    fn only_a_long_query_of_the_root_is_taken_aside() {
        assert_eq!(look(&line("POST /?", 60_001), 0), Line::Long(7..60_008));
        assert_eq!(look(&line("GET /?", 60_001), 0), Line::Long(6..60_007));
        assert_eq!(look(&line("POST /?", 60_000), 0), Line::Plain);
        for start in ["POST /x?", "PUT /?", "get /?", "\r\nPOST /?", " POST /?", "POST  /?"] {
            assert_eq!(look(&line(start, 100_000), 0), Line::Plain, "{start}");
        }
    }

    #[test]
    fn a_line_past_the_cap_is_too_long_whether_its_end_is_there_or_not() {
        assert_eq!(look(&line("POST /?", LINE_BYTES_MAX), 0), Line::TooLong);
        assert_eq!(look(&line("POST /?", LINE_BYTES_MAX)[..LINE_BYTES_MAX + 1], 0), Line::TooLong);
        assert_eq!(look(&line("POST /?", LINE_BYTES_MAX)[..LINE_BYTES_MAX], 0), Line::Partial);
    }

    #[test]
    fn a_query_that_hyper_would_refuse_stays_hypers() {
        for bad in ["#", "\"", "\u{e9}", "\t", "<"] {
            let text = format!("GET /?{}{bad} HTTP/1.1\r\n", "q".repeat(70_000));
            assert_eq!(look(text.as_bytes(), 0), Line::Plain, "{bad:?}");
        }
        let unversioned = format!("GET /?{}\r\n", "q".repeat(70_000));
        assert_eq!(look(unversioned.as_bytes(), 0), Line::Plain);
    }

    proptest! {
        #[test]
        fn however_a_line_is_cut_it_is_found_to_be_the_same(
            start in prop::sample::select(vec!["GET /?", "POST /?", "GET /", "PUT /?"]),
            query in prop::sample::select(vec![0, 10, 60_000, 60_001, 70_000, LINE_BYTES_MAX]),
            cuts in prop::collection::vec(1_usize..9_000, 0..20),
        ) {
            let whole = line(start, query);
            let (mut seen, mut looked) = (0, 0);
            let mut cuts = cuts.into_iter().chain(std::iter::repeat(8_192));
            let found = loop {
                seen = (seen + cuts.next().unwrap()).min(whole.len());
                match look(&whole[..seen], looked) {
                    Line::Partial => looked = seen,
                    found => break found,
                }
            };
            prop_assert_eq!(found, look(&whole, 0));
        }
    }
}
