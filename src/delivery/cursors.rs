//! How far each stream was delivered, in one small file that is replaced as a whole.
//!
//! ```text
//! offset  bytes  content (little-endian)
//!      0      8  magic "WEIRCURS"
//!      8      4  format version, 1
//!     12      4  number of entries
//!     16     14  per entry: generation u32, shard u16, first undelivered sequence number u64
//!    end      4  CRC-32C of everything before it
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::journal::{Sequence, Storage, StreamId};

const MAGIC: &[u8; 8] = b"WEIRCURS";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
const ENTRY_BYTES: usize = 14;
const CRC_BYTES: usize = 4;

/// The cursor file.
pub struct Cursors {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    saved: BTreeMap<StreamId, Sequence>,
}

/// Why the cursor file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorsError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// It is damaged, or of another version.
    #[error("{path}: {what}; remove it to deliver everything that is retained once more")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl Cursors {
    /// Reads the file; none yet means that nothing was delivered.
    ///
    /// # Errors
    /// [`CursorsError`] if it cannot be read, is damaged, or is of another version.
    pub fn open(storage: Arc<dyn Storage>, path: PathBuf) -> Result<Self, CursorsError> {
        let saved = match read(&*storage, &path) {
            Ok(bytes) => decode(&bytes)
                .map_err(|what| CursorsError::Unusable { path: path.clone(), what })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(CursorsError::Io { path, source }),
        };
        Ok(Self { storage, path, saved })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a stream's delivery goes on.
    #[must_use]
    pub fn get(&self, stream: StreamId) -> Option<Sequence> {
        self.saved.get(&stream).copied()
    }

    /// Makes these positions last, if they differ from what is saved.
    ///
    /// # Errors
    /// [`CursorsError::Io`]; what was saved before is still there.
    pub fn save(&mut self, positions: BTreeMap<StreamId, Sequence>) -> Result<(), CursorsError> {
        if positions == self.saved {
            return Ok(());
        }
        let failed = |source| CursorsError::Io { path: self.path.clone(), source };
        replace(&*self.storage, &self.path, &encode(&positions)).map_err(failed)?;
        self.saved = positions;
        Ok(())
    }
}

/// A crash leaves the old file or the new one, never half of one.
fn replace(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // Left by a crash, or by a save that failed.
    match storage.remove(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&fresh)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    storage.rename(&fresh, path)?;
    fail::fail_point!("delivery-cursors", |_| std::process::abort());
    storage.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn read(storage: &dyn Storage, path: &Path) -> io::Result<Vec<u8>> {
    let file = storage.open(path)?;
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn encode(positions: &BTreeMap<StreamId, Sequence>) -> Vec<u8> {
    let entries = u32::try_from(positions.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEAD_BYTES + positions.len() * ENTRY_BYTES + CRC_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&entries.to_le_bytes());
    for (stream, next) in positions {
        bytes.extend_from_slice(&stream.generation.to_le_bytes());
        bytes.extend_from_slice(&stream.shard.to_le_bytes());
        bytes.extend_from_slice(&next.0.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<StreamId, Sequence>, String> {
    let (covered, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or("it is too short")?;
    let (magic, rest) = covered.split_first_chunk::<8>().ok_or("it is too short")?;
    if magic != MAGIC {
        return Err("it is not a cursor file".into());
    }
    let (version, rest) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("it has format version {version}, this weir reads {VERSION}"));
    }
    if crc32c::crc32c(covered) != u32::from_le_bytes(*crc) {
        return Err("its checksum is wrong".into());
    }
    let (entries, rest) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    let (chunks, left) = rest.as_chunks::<ENTRY_BYTES>();
    if chunks.len() != u32::from_le_bytes(*entries) as usize || !left.is_empty() {
        return Err("its length is wrong".into());
    }
    Ok(chunks.iter().map(entry).collect())
}

fn entry(bytes: &[u8; ENTRY_BYTES]) -> (StreamId, Sequence) {
    let [g0, g1, g2, g3, s0, s1, next @ ..] = *bytes;
    let generation = u32::from_le_bytes([g0, g1, g2, g3]);
    let shard = u16::from_le_bytes([s0, s1]);
    (StreamId { generation, shard }, Sequence(u64::from_le_bytes(next)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Disk;
    use proptest::prelude::*;

    fn position(generation: u32, shard: u16, next: u64) -> (StreamId, Sequence) {
        (StreamId { generation, shard }, Sequence(next))
    }

    #[test]
    fn the_bytes_of_a_cursor_file_never_change() {
        let bytes = encode(&BTreeMap::from([position(2, 1, 0x0102)]));
        let golden = "574549524355525301000000010000000200000001000201000000000000";
        assert_eq!(hex::encode(&bytes[..30]), golden);
        assert_eq!(bytes.len(), 34);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(&BTreeMap::from([position(1, 0, 5), position(1, 1, 9)]));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn saved_positions_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursors");
        let positions = BTreeMap::from([position(1, 0, 5), position(2, 3, 9)]);
        Cursors::open(Arc::new(Disk), path.clone()).unwrap().save(positions).unwrap();
        let opened = Cursors::open(Arc::new(Disk), path).unwrap();
        assert_eq!(opened.get(StreamId { generation: 2, shard: 3 }), Some(Sequence(9)));
        assert_eq!(opened.get(StreamId { generation: 3, shard: 0 }), None);
    }

    proptest! {
        #[test]
        fn positions_survive_their_coding(entries in prop::collection::btree_map(
            (any::<u32>(), any::<u16>()), any::<u64>(), 0..40,
        )) {
            let positions: BTreeMap<_, _> =
                entries.into_iter().map(|((g, s), n)| position(g, s, n)).collect();
            prop_assert_eq!(decode(&encode(&positions)), Ok(positions));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
