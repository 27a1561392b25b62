//! What shows that a row of the ledger is as it was written: a checksum on each open row, and a
//! chain of chunks over the closed hours. Numbers are little-endian.
//!
//! ```text
//! sum of a row     CRC-32C of the table's number (u8), then of its columns in order:
//!                  a text as its length (u32) and its bytes, a number as u64, a digest as it is
//! minutes          SHA-256 of the hour's minute rows, then of its adjustments, by minute:
//!                  1 or 2 (u8), minute (u64), count (u64), peak (u64)
//! hash of a chunk  SHA-256 of "weir ledger chunk 1", then instance (length u32, bytes),
//!                  hour (u64), count (u64), peak (u64), adjusted (u64), minutes (32),
//!                  previous hash (32)
//! ```
//!
//! The previous hash is that of the instance's chunk before, and zeros for its first. Minute rows
//! can be purged: their digest stays in the chunk, and the chain holds without them.

use sha2::{Digest as _, Sha256};

use crate::journal::{Sequence, StreamId};

const CHUNK_DOMAIN: &[u8] = b"weir ledger chunk 1";

/// A SHA-256.
pub(super) type Digest = [u8; 32];

/// What the first chunk of an instance follows.
pub(super) const NO_CHUNK: Digest = [0; 32];

/// A table's number in the checksums of its rows; none is ever used twice.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Table {
    Usage = 1,
    Second = 2,
    Total = 3,
    Watermark = 4,
    Closed = 5,
    Adjustment = 6,
}

struct Sum(u32);

impl Sum {
    fn of(table: Table) -> Self {
        Self(crc32c::crc32c(&[table as u8]))
    }

    fn text(self, text: &str) -> Self {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        Self(crc32c::crc32c_append(self.0, &length.to_le_bytes())).bytes(text.as_bytes())
    }

    fn number(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }
}

pub(super) fn usage_sum(instance: &str, minute: u64, count: u64, peak: u64) -> u32 {
    Sum::of(Table::Usage).text(instance).number(minute).number(count).number(peak).0
}

pub(super) fn second_sum(second: u64, instance: &str, count: u64) -> u32 {
    Sum::of(Table::Second).number(second).text(instance).number(count).0
}

pub(super) fn total_sum(instance: &str, count: u64, chunks: u64, head: &Digest) -> u32 {
    Sum::of(Table::Total).text(instance).number(count).number(chunks).bytes(head).0
}

pub(super) fn watermark_sum(stream: StreamId, next: Sequence) -> u32 {
    let StreamId { generation, shard } = stream;
    Sum::of(Table::Watermark).number(generation.into()).number(shard.into()).number(next.0).0
}

pub(super) fn closed_sum(before: u64) -> u32 {
    Sum::of(Table::Closed).number(before).0
}

pub(super) fn adjustment_sum(hour: u64, instance: &str, minute: u64, count: u64, peak: u64) -> u32 {
    let sum = Sum::of(Table::Adjustment).number(hour).text(instance);
    sum.number(minute).number(count).number(peak).0
}

/// The checksum of a row that is written anew. If the old one did not fit, the new one does not
/// either: a changed row is not made good by the next message.
pub(super) const fn carried(stored: u32, before: u32, after: u32) -> u32 {
    stored ^ before ^ after
}

/// What an hour holds, as far as its chunk says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Messages billed in it, adjustments included.
    pub(super) count: u64,
    /// Most messages in one second.
    pub(super) peak: u64,
    /// Messages of it that were admitted in an hour closed before.
    pub(super) adjusted: u64,
    /// Digest of its minute rows and adjustments.
    pub(super) minutes: Digest,
}

/// Reads an hour, minute rows first.
#[derive(Default)]
pub(super) struct HourDigest {
    digest: Sha256,
    content: Content,
}

impl HourDigest {
    pub(super) fn minute(&mut self, minute: u64, count: u64, peak: u64) {
        self.row(1, minute, count, peak);
    }

    pub(super) fn adjustment(&mut self, minute: u64, count: u64, peak: u64) {
        self.row(2, minute, count, peak);
        self.content.adjusted = self.content.adjusted.saturating_add(count);
    }

    fn row(&mut self, kind: u8, minute: u64, count: u64, peak: u64) {
        self.digest.update([kind]);
        for number in [minute, count, peak] {
            self.digest.update(number.to_le_bytes());
        }
        // Wrong numbers are for the hash to tell.
        self.content.count = self.content.count.saturating_add(count);
        self.content.peak = self.content.peak.max(peak);
    }

    pub(super) fn finish(self) -> Content {
        Content { minutes: self.digest.finalize().into(), ..self.content }
    }
}

/// The hash of a chunk.
pub(super) fn chunk_hash(
    instance: &str,
    hour: u64,
    content: &Content,
    previous: &Digest,
) -> Digest {
    let length = u32::try_from(instance.len()).unwrap_or(u32::MAX);
    let mut hash = Sha256::new();
    hash.update(CHUNK_DOMAIN);
    hash.update(length.to_le_bytes());
    hash.update(instance);
    for number in [hour, content.count, content.peak, content.adjusted] {
        hash.update(number.to_le_bytes());
    }
    hash.update(content.minutes);
    hash.update(previous);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_and_hashes_are_exactly_these() {
        let stream = StreamId { generation: 1, shard: 2 };
        let sums = [
            usage_sum("post-cn-1", 29_000_000, 60, 9),
            second_sum(1_740_000_000, "post-cn-1", 9),
            total_sum("post-cn-1", 60, 1, &[7; 32]),
            watermark_sum(stream, Sequence(61)),
            closed_sum(483_334),
            adjustment_sum(483_334, "post-cn-1", 29_000_000, 2, 1),
        ];
        assert_eq!(sums.map(|sum| format!("{sum:08x}")), GOLDEN_SUMS);
        let mut hour = HourDigest::default();
        hour.minute(29_000_000, 60, 9);
        hour.adjustment(28_999_000, 2, 1);
        let content = hour.finish();
        assert_eq!((content.count, content.peak, content.adjusted), (62, 9, 2));
        assert_eq!(hex::encode(content.minutes), GOLDEN_MINUTES);
        let hash = chunk_hash("post-cn-1", 483_333, &content, &NO_CHUNK);
        assert_eq!(hex::encode(hash), GOLDEN_HASH);
    }

    const GOLDEN_SUMS: [&str; 6] =
        ["9947a6bd", "5ec76105", "e676cca7", "5db5a9ca", "e3d47c91", "cbece9bf"];
    const GOLDEN_MINUTES: &str = "3ae3987b8ac05581e2f4d34722f315706cd4adbb2431e0553141c78769347564";
    const GOLDEN_HASH: &str = "898360d450c6b6120836af75db206062bac104d434c502345881ad24ab422837";

    #[test]
    fn a_wrong_checksum_stays_wrong_when_its_row_is_written_again() {
        let (before, after) = (usage_sum("a", 1, 5, 5), usage_sum("a", 1, 6, 5));
        assert_eq!(carried(before, before, after), after);
        let tampered = usage_sum("a", 1, 4, 5);
        assert_ne!(carried(before, tampered, usage_sum("a", 1, 5, 5)), usage_sum("a", 1, 5, 5));
    }
}
