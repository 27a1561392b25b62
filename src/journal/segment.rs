//! Names of generations, shards and segments, and the head of a segment file. A segment is made in
//! full, zeros behind this head, before its first turn: a turn then overwrites and never grows it.
//! Numbers are little-endian.
//!
//! ```text
//! offset size
//!      0    8  magic "weirsegm"
//!      8    2  format version, 2
//!     10    2  shard
//!     12    4  generation
//!     16    8  segment number, from 1
//!     24    8  salt of its turns, random, never all zeros
//!     32    4  bytes of the file as it was made
//!     36    4  CRC-32C of bytes 0..36
//!     40       turns, each at a multiple of 8; zeros behind the last
//! ```

use std::path::{Path, PathBuf};

use super::StreamId;
use super::turn::{Salt, TURN_ALIGN};

const MAGIC: [u8; 8] = *b"weirsegm";
const VERSION: u16 = 2;

pub(super) const SEGMENT_HEADER_BYTES: usize = 40;
const _: () = assert!(SEGMENT_HEADER_BYTES.is_multiple_of(TURN_ALIGN));

/// The head of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) stream: StreamId,
    pub(super) number: u64,
    pub(super) salt: Salt,
    /// Bytes of the whole file: a shorter one has lost its end.
    pub(super) size: u32,
}

/// Why a segment's head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Magic,
    Version { found: u16 },
    Checksum,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.stream.shard.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.stream.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt);
        bytes[32..36].copy_from_slice(&self.size.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, HeaderError> {
        let field = |from: usize, size: usize| {
            let bytes = &bytes[from..from + size];
            bytes.iter().rev().fold(0_u64, |number, &byte| number << 8 | u64::from(byte))
        };
        if bytes[0..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        #[expect(clippy::cast_possible_truncation, reason = "two bytes were read")]
        let (version, shard) = (field(8, 2) as u16, field(10, 2) as u16);
        if version != VERSION {
            return Err(HeaderError::Version { found: version });
        }
        let salt = field(24, 8).to_le_bytes();
        let sealed = field(36, 4) == u64::from(crc32c::crc32c(&bytes[..36]));
        if !sealed || salt == [0; 8] {
            return Err(HeaderError::Checksum);
        }
        #[expect(clippy::cast_possible_truncation, reason = "four bytes were read")]
        let (generation, size) = (field(12, 4) as u32, field(32, 4) as u32);
        Ok(Self { stream: StreamId { generation, shard }, number: field(16, 8), salt, size })
    }
}

/// `g000001-002`: generation 1, of 2 shards.
pub(super) fn generation_dir(dir: &Path, generation: u32, shards: u16) -> PathBuf {
    dir.join(format!("g{generation:06}-{shards:03}"))
}

pub(super) fn parse_generation(name: &str) -> Option<(u32, u16)> {
    let (generation, shards) = name.strip_prefix('g')?.split_once('-')?;
    Some((digits(generation, 6)?, digits(shards, 3)?))
}

pub(super) fn shard_dir(generation: &Path, shard: u16) -> PathBuf {
    generation.join(format!("shard-{shard:03}"))
}

/// What a file in a shard's folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Segment,
    Nonces,
    /// Written to be renamed, and left over if it is found at a start.
    Unfinished,
}

impl Kind {
    const fn extension(self) -> &'static str {
        match self {
            Self::Segment => "seg",
            Self::Nonces => "nonces",
            Self::Unfinished => "new",
        }
    }
}

pub(super) fn file_path(dir: &Path, number: u64, kind: Kind) -> PathBuf {
    dir.join(format!("{number:010}.{}", kind.extension()))
}

pub(super) fn parse_file(name: &str) -> Option<(u64, Kind)> {
    let (number, extension) = name.split_once('.')?;
    let kind = [Kind::Segment, Kind::Nonces, Kind::Unfinished]
        .into_iter()
        .find(|kind| kind.extension() == extension)?;
    Some((digits(number, 10)?, kind))
}

fn digits<T: std::str::FromStr>(text: &str, at_least: usize) -> Option<T> {
    let plain = text.len() >= at_least && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        stream: StreamId { generation: 3, shard: 2 },
        number: 0x0102_0304,
        salt: *b"saltsalt",
        size: 0x80_0000,
    };

    #[test]
    fn a_segment_head_has_exactly_these_bytes() {
        let expected = concat!(
            "776569727365676d",
            "0200",
            "0200",
            "03000000",
            "0403020100000000",
            "73616c7473616c74",
            "00008000",
            "9eb15da1",
        );
        assert_eq!(hex::encode(HEADER.encode()), expected);
    }

    #[test]
    fn an_unknown_magic_or_version_is_told_from_damage() {
        let mut bytes = HEADER.encode();
        bytes[8] = 1;
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Version { found: 1 }));
        bytes[0] = b'W';
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Magic));
    }

    #[test]
    fn every_single_bit_flip_in_the_head_is_seen() {
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut bytes = HEADER.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn names_sort_as_they_count_and_parse_back() {
        let dir = generation_dir(Path::new("j"), 7, 12);
        assert_eq!(dir, Path::new("j/g000007-012"));
        assert_eq!(parse_generation("g000007-012"), Some((7, 12)));
        assert_eq!(shard_dir(&dir, 3), Path::new("j/g000007-012/shard-003"));
        assert_eq!(parse_file("0000000042.seg"), Some((42, Kind::Segment)));
        assert_eq!(parse_file("0000000042.nonces"), Some((42, Kind::Nonces)));
        for not_ours in ["42.seg", "0000000042.txt", "+000000042.seg", "lost+found"] {
            assert_eq!(parse_file(not_ours), None, "{not_ours}");
        }
    }

    proptest! {
        #[test]
        fn a_head_is_read_back(
            generation: u32, shard: u16, number: u64, size: u32, salt in 1_u64..
        ) {
            let stream = StreamId { generation, shard };
            let salt = salt.to_le_bytes();
            let header = SegmentHeader { stream, number, salt, size };
            prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn garbage_is_no_head_and_no_name(bytes: [u8; SEGMENT_HEADER_BYTES], name: String) {
            prop_assert!(SegmentHeader::decode(&bytes).is_err());
            let _ = parse_file(&name);
            let _ = parse_generation(&name);
        }
    }
}
