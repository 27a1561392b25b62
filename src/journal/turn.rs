//! One append: a frame that is wholly there or not there at all. Numbers are little-endian.
//!
//! ```text
//! offset size
//!      0    8  salt of the segment
//!      8    8  sequence of the first record
//!     16    4  bytes of the body (b)
//!     20    4  records in the body, at least 1
//!     24    4  CRC-32C of bytes 0..24
//!     28    4  CRC-32C of bytes 0..28, the body and its padding
//!     32    b  records
//!   32+b       zeros up to a multiple of 8
//! ```
//!
//! The salt never leaves the disk, so no payload can hold something that scans as a turn. The
//! header has a checksum of its own, so that a search for turns costs one look a position however
//! payloads were crafted.

use super::record::RECORD_BYTES_MAX;

pub(super) const TURN_HEADER_BYTES: usize = 32;
pub(super) const TURN_ALIGN: usize = 8;
const TURN_CRC: std::ops::Range<usize> = 28..32;

/// Bytes of records ([`super::record_bytes`]) a shard may have gathered when it takes one more.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest turn, in bytes.
pub const TURN_BYTES_MAX: usize =
    TURN_HEADER_BYTES + (BATCH_BYTES_MAX + RECORD_BYTES_MAX).next_multiple_of(TURN_ALIGN);

const _: () = assert!(TURN_BYTES_MAX <= u32::MAX as usize);

/// The secret of one segment that marks its turns.
pub(super) type Salt = [u8; 8];

/// What a turn says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TurnHeader {
    pub(super) first: u64,
    pub(super) body_bytes: usize,
    pub(super) records: u32,
}

impl TurnHeader {
    /// Bytes of the whole turn, padding included.
    pub(super) const fn turn_bytes(&self) -> usize {
        TURN_HEADER_BYTES + self.body_bytes.next_multiple_of(TURN_ALIGN)
    }

    /// The sequence after the turn's last record.
    pub(super) fn next(&self) -> u64 {
        self.first.saturating_add(u64::from(self.records))
    }
}

/// Empties `turn` and leaves room for the header; records are then appended behind it.
pub(super) fn begin(turn: &mut Vec<u8>) {
    turn.clear();
    turn.resize(TURN_HEADER_BYTES, 0);
}

/// Bytes the turn begun in `turn` will have once sealed.
pub(super) const fn sealed_bytes(turn: &[u8]) -> usize {
    turn.len().next_multiple_of(TURN_ALIGN)
}

/// Pads the turn and writes its header. The caller keeps it within [`TURN_BYTES_MAX`].
#[expect(clippy::cast_possible_truncation, reason = "TURN_BYTES_MAX is asserted to fit above")]
pub(super) fn seal(turn: &mut Vec<u8>, salt: Salt, first: u64, records: u32) {
    let body_bytes = (turn.len() - TURN_HEADER_BYTES) as u32;
    turn.resize(sealed_bytes(turn), 0);
    turn[0..8].copy_from_slice(&salt);
    turn[8..16].copy_from_slice(&first.to_le_bytes());
    turn[16..20].copy_from_slice(&body_bytes.to_le_bytes());
    turn[20..24].copy_from_slice(&records.to_le_bytes());
    let header_crc = crc32c::crc32c(&turn[..24]);
    turn[24..28].copy_from_slice(&header_crc.to_le_bytes());
    let crc = turn_crc(turn);
    turn[TURN_CRC].copy_from_slice(&crc.to_le_bytes());
}

fn turn_crc(turn: &[u8]) -> u32 {
    let header = crc32c::crc32c(&turn[..TURN_CRC.start]);
    crc32c::crc32c_append(header, &turn[TURN_HEADER_BYTES..])
}

/// Reads the header at the front of `bytes`, if a turn of this segment starts there.
pub(super) fn decode_header(bytes: &[u8], salt: Salt) -> Option<TurnHeader> {
    let header: &[u8; TURN_HEADER_BYTES] = bytes.first_chunk()?;
    if header[0..8] != salt || crc32c::crc32c(&header[..24]) != number(&header[24..28]) {
        return None;
    }
    let (_, first) = header[..16].split_last_chunk()?;
    let found = TurnHeader {
        first: u64::from_le_bytes(*first),
        body_bytes: number(&header[16..20]) as usize,
        records: number(&header[20..24]),
    };
    let fits = found.turn_bytes() <= TURN_BYTES_MAX && found.records > 0 && found.first > 0;
    fits.then_some(found)
}

/// True if these are all bytes of one undamaged turn whose header has been read.
pub(super) fn is_whole(turn: &[u8]) -> bool {
    turn.len() >= TURN_HEADER_BYTES && number(&turn[TURN_CRC]) == turn_crc(turn)
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: Salt = *b"\x01salty\x02\x03";

    fn sealed(body: &[u8], first: u64, records: u32) -> Vec<u8> {
        let mut turn = Vec::new();
        begin(&mut turn);
        turn.extend_from_slice(body);
        seal(&mut turn, SALT, first, records);
        turn
    }

    #[test]
    fn a_turn_has_exactly_these_bytes() {
        let expected = concat!(
            "0173616c74790203",
            "0700000000000000",
            "03000000",
            "02000000",
            "a9966cf2",
            "3a3dfa5d",
            "6162630000000000",
        );
        assert_eq!(hex::encode(sealed(b"abc", 7, 2)), expected);
    }

    #[test]
    fn a_turn_of_another_segment_is_no_turn() {
        let turn = sealed(b"abc", 7, 2);
        assert!(decode_header(&turn, SALT).is_some());
        assert_eq!(decode_header(&turn, *b"\x01salty\x02\x04"), None);
    }

    #[test]
    fn every_single_bit_flip_is_seen() {
        let turn = sealed(b"some body of an odd length", 7, 2);
        for bit in 0..turn.len() * 8 {
            let mut flipped = turn.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let seen = decode_header(&flipped, SALT).is_none() || !is_whole(&flipped);
            assert!(seen, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_read_back(
            body in prop::collection::vec(any::<u8>(), 0..500),
            first in 1_u64..,
            records in 1_u32..,
        ) {
            let turn = sealed(&body, first, records);
            let header = decode_header(&turn, SALT).unwrap();
            prop_assert_eq!(header, TurnHeader { first, body_bytes: body.len(), records });
            prop_assert_eq!(header.turn_bytes(), turn.len());
            prop_assert!(is_whole(&turn));
        }

        #[test]
        fn garbage_is_no_turn_and_never_panics(bytes: Vec<u8>) {
            prop_assert_eq!(decode_header(&bytes, SALT), None);
            let mut salted = SALT.to_vec();
            salted.extend_from_slice(&bytes);
            let _ = decode_header(&salted, SALT);
            let _ = is_whole(&salted);
        }
    }
}
