//! What replay protection still needs of a trimmed segment. Numbers are little-endian.
//!
//! ```text
//! offset size
//!      0    8  magic "weirnonc"
//!      8    2  format version, 1
//!     10    2  zeros
//!     12    4  marks (n)
//!     16  24n  fingerprint of the access key, of the nonce, expires at (ms): 8 bytes each
//! 16+24n    4  CRC-32C of everything before it
//! ```

use std::path::{Path, PathBuf};

use super::failure::{Damage, JournalError};
use super::segment::{self, Kind};
use super::storage::Storage;
use crate::admission::NonceMark;
use crate::clock::UnixMillis;

const MAGIC: [u8; 8] = *b"weirnonc";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 16;
const MARK_BYTES: usize = 24;
const CRC_BYTES: usize = 4;

/// A nonce file on disk.
#[derive(Clone, Debug)]
pub(super) struct NonceFile {
    pub(super) path: PathBuf,
    pub(super) expires_max: UnixMillis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NonceFileError {
    Magic,
    Version { found: u16 },
    Checksum,
}

/// Saves the marks of a segment, durably, in place of what was saved of it before.
pub(super) fn save(
    storage: &dyn Storage,
    dir: &Path,
    number: u64,
    marks: &[NonceMark],
) -> Result<NonceFile, JournalError> {
    let path = segment::file_path(dir, number, Kind::Nonces);
    let unfinished = segment::file_path(dir, number, Kind::Unfinished);
    let write = || {
        let file = storage.create(&unfinished)?;
        file.write_at(&encode(marks), 0)?;
        file.sync_data()?;
        storage.rename(&unfinished, &path)?;
        storage.sync_dir(dir)
    };
    if let Err(error) = write() {
        // Best effort: what stays behind is removed at the next start.
        drop(storage.remove(&unfinished));
        return Err(JournalError::io("save", &path)(error));
    }
    Ok(NonceFile { path, expires_max: expires_max(marks) })
}

/// Reads a nonce file.
pub(super) fn load(
    storage: &dyn Storage,
    path: &Path,
) -> Result<(NonceFile, Vec<NonceMark>), JournalError> {
    let file = storage.open(path).map_err(JournalError::io("open", path))?;
    let size = file.size().map_err(JournalError::io("measure", path))?;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_at(&mut bytes, 0).map_err(JournalError::io("read", path))?;
    let marks = decode(&bytes).map_err(|error| match error {
        NonceFileError::Magic => JournalError::Foreign { file: path.to_path_buf() },
        NonceFileError::Version { found } => {
            JournalError::Version { file: path.to_path_buf(), found }
        }
        NonceFileError::Checksum => JournalError::damaged(path, 0, Damage::Header),
    })?;
    Ok((NonceFile { path: path.to_path_buf(), expires_max: expires_max(&marks) }, marks))
}

fn expires_max(marks: &[NonceMark]) -> UnixMillis {
    marks.iter().map(|mark| mark.expires_at).max().unwrap_or_default()
}

#[expect(clippy::cast_possible_truncation, reason = "a segment holds fewer than 2^32 records")]
fn encode(marks: &[NonceMark]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + marks.len() * MARK_BYTES + CRC_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&(marks.len() as u32).to_le_bytes());
    for mark in marks {
        bytes.extend_from_slice(&mark.access_key.to_le_bytes());
        bytes.extend_from_slice(&mark.fingerprint.to_le_bytes());
        bytes.extend_from_slice(&mark.expires_at.0.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Vec<NonceMark>, NonceFileError> {
    let (magic, _) = bytes.split_first_chunk::<8>().ok_or(NonceFileError::Magic)?;
    if *magic != MAGIC {
        return Err(NonceFileError::Magic);
    }
    let (&version, _) = bytes[8..].split_first_chunk().ok_or(NonceFileError::Checksum)?;
    let found = u16::from_le_bytes(version);
    if found != VERSION {
        return Err(NonceFileError::Version { found });
    }
    let (sealed, crc) = bytes.split_last_chunk().ok_or(NonceFileError::Checksum)?;
    let (header, marks) =
        sealed.split_first_chunk::<HEADER_BYTES>().ok_or(NonceFileError::Checksum)?;
    let count = header.last_chunk().map_or(0, |count| u32::from_le_bytes(*count));
    let counted = marks.len() as u64 == u64::from(count) * MARK_BYTES as u64;
    if !counted || u32::from_le_bytes(*crc) != crc32c::crc32c(sealed) {
        return Err(NonceFileError::Checksum);
    }
    let (numbers, _) = marks.as_chunks::<8>();
    let (marks, _) = numbers.as_chunks::<3>();
    let number = u64::from_le_bytes;
    let mark = |&[access_key, fingerprint, expires_at]: &[[u8; 8]; 3]| NonceMark {
        access_key: number(access_key),
        fingerprint: number(fingerprint),
        expires_at: UnixMillis(number(expires_at)),
    };
    Ok(marks.iter().map(mark).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(bits: (u64, u64, u64)) -> NonceMark {
        NonceMark { access_key: bits.0, fingerprint: bits.1, expires_at: UnixMillis(bits.2) }
    }

    #[test]
    fn a_nonce_file_has_exactly_these_bytes() {
        let expected = concat!(
            "776569726e6f6e63",
            "0100",
            "0000",
            "01000000",
            "0100000000000000",
            "0200000000000000",
            "0300000000000000",
            "5f14e0ce",
        );
        assert_eq!(hex::encode(encode(&[mark((1, 2, 3))])), expected);
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let mut bytes = encode(&[]);
        bytes[8] = 9;
        assert_eq!(decode(&bytes), Err(NonceFileError::Version { found: 9 }));
    }

    #[test]
    fn every_single_bit_flip_is_seen() {
        let good = encode(&[mark((1, 2, 3)), mark((4, 5, 6))]);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn marks_are_read_back(bits: Vec<(u64, u64, u64)>) {
            let marks: Vec<_> = bits.into_iter().map(mark).collect();
            prop_assert_eq!(decode(&encode(&marks)), Ok(marks));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let mut likely = MAGIC.to_vec();
            likely.extend_from_slice(&bytes);
            let _ = decode(&likely);
        }
    }
}
