use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use uuid::Uuid;

/// An odd number spreads consecutive counts over all bits and loses none of them (2^64 / phi).
pub(super) const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Makes the RequestIds of one process.
#[derive(Debug)]
pub(super) struct RequestIds {
    seed: u128,
    made: AtomicU64,
}

/// The id of one request: a UUID in upper case, of version 5 as the newer gateway's are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RequestId([u8; 36]);

impl RequestIds {
    /// `seed` is random, so that no two processes make the same ids.
    pub(super) const fn new(seed: u128) -> Self {
        Self { seed, made: AtomicU64::new(0) }
    }

    /// The next id. The count is in the 62 low bits, which the version and variant leave alone, so
    /// that ids repeat after 2^62 of them.
    pub(super) fn next(&self) -> RequestId {
        const VERSION_AND_VARIANT: u128 = 0xF << 76 | 0b11 << 62;
        const FIVE_AND_RFC: u128 = 0x5 << 76 | 0b10 << 62;
        let count = self.made.fetch_add(1, Ordering::Relaxed).wrapping_mul(SPREAD);
        let bits = self.seed ^ u128::from(count);
        let uuid = Uuid::from_u128(bits & !VERSION_AND_VARIANT | FIVE_AND_RFC);
        let mut text = [0; 36];
        uuid.hyphenated().encode_upper(&mut text);
        RequestId(text)
    }
}

impl RequestId {
    /// The id as text.
    pub(super) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The id as a header carries it.
    pub(super) fn to_header(self) -> HeaderValue {
        // Hex digits and hyphens are always a header value.
        HeaderValue::from_bytes(&self.0).unwrap_or(HeaderValue::from_static(""))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.0).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_id_is_an_upper_case_uuid_of_version_five() {
        let id = RequestIds::new(0xABCD_EF01_2345_6789_ABCD_EF01_2345_6789).next().to_string();
        assert_eq!(id, "ABCDEF01-2345-5789-ABCD-EF0123456789");
        assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 5);
    }

    #[test]
    fn no_id_comes_twice() {
        let ids = RequestIds::new(7);
        let made: HashSet<_> = (0..100_000).map(|_| ids.next()).collect();
        assert_eq!(made.len(), 100_000);
    }
}
