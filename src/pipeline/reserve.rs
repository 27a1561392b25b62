use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::journal::{Disk, RESERVE_BYTES, Storage};

const NAME: &str = "reserve";
/// With less than this free, the reserve is given up.
const LOW_BYTES: u64 = RESERVE_BYTES / 4;
/// With more than this free, it is taken again; far above what giving it up leaves.
const HIGH_BYTES: u64 = 3 * RESERVE_BYTES;
const CHUNK_BYTES: usize = 1024 * 1024;

/// A file of zeros that is removed when somebody fills the disk, so that the ledger, the cursors
/// and a drain still have room. The journal takes none of it: see [`RESERVE_BYTES`].
pub(super) struct Reserve {
    data_dir: PathBuf,
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// Takes the reserve if there is room for it.
    pub(super) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(NAME);
        let whole = |file: fs::Metadata| file.len() == RESERVE_BYTES;
        let held = fs::metadata(&path).is_ok_and(whole);
        let mut reserve = Self { data_dir: data_dir.to_path_buf(), path, held };
        reserve.keep();
        reserve
    }

    /// Gives the reserve up or takes it again, as the disk fills and empties; returns what is free.
    pub(super) fn keep(&mut self) -> Option<u64> {
        let free = Disk.free_bytes(&self.data_dir).ok()?;
        if self.held && free < LOW_BYTES {
            match fs::remove_file(&self.path) {
                Ok(()) => tracing::warn!(free, "the disk is full: the reserve is given up"),
                Err(error) => tracing::error!(%error, "the reserve cannot be given up"),
            }
            self.held = false;
        } else if !self.held && free > HIGH_BYTES {
            match self.make() {
                Ok(()) => self.held = true,
                Err(error) => {
                    tracing::warn!(%error, "no reserve for a full disk");
                    // Best effort: half a reserve is no use, and the next look tries again.
                    let _ = fs::remove_file(&self.path);
                }
            }
        }
        Some(free)
    }

    fn make(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        let zeros = vec![0; CHUNK_BYTES];
        for _ in 0..RESERVE_BYTES / CHUNK_BYTES as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_taken_whole_and_kept_by_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(folder.path());
        assert!(reserve.held, "the temporary folder has room for 24 MiB");
        let size = || fs::metadata(folder.path().join(NAME)).map(|file| file.len());
        assert_eq!(size().unwrap(), RESERVE_BYTES);
        fs::write(&reserve.path, b"half").unwrap();
        assert!(Reserve::open(folder.path()).held);
        assert_eq!(size().unwrap(), RESERVE_BYTES, "half a reserve is made whole");
    }
}
