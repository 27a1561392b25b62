use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const LOCK_NAME: &str = "lock";

/// One process's right to a data directory; it ends with the process or with the value.
#[derive(Debug)]
pub struct DirectoryLock {
    _held: File,
}

/// Why a data directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another weir has it.
    #[error("{} is in use by another weir; stop it, or set another data_dir", dir.display())]
    AlreadyOpen {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory or its lock file cannot be made.
    #[error("data_dir {} cannot be used: {source}", dir.display())]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl DirectoryLock {
    /// Makes the directory if it is missing, durably, and takes its lock.
    ///
    /// # Errors
    /// [`LockError::AlreadyOpen`] at once, without waiting, if another process or value holds it.
    pub fn acquire(data_dir: &Path) -> Result<Self, LockError> {
        let dir = || data_dir.to_path_buf();
        let file = open(data_dir).map_err(|source| LockError::Io { dir: dir(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _held: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::AlreadyOpen { dir: dir() }),
            Err(TryLockError::Error(source)) => Err(LockError::Io { dir: dir(), source }),
        }
    }
}

fn open(data_dir: &Path) -> io::Result<File> {
    if !data_dir.is_dir() {
        // Messages of tenants lie here: nobody else on the machine has to read them.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
        if let Some(parent) = fs::canonicalize(data_dir)?.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    fs::OpenOptions::new().create(true).truncate(false).write(true).open(data_dir.join(LOCK_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_turned_away_by_the_name_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("weir-data");
        let held = DirectoryLock::acquire(&data_dir).unwrap();
        let refused = DirectoryLock::acquire(&data_dir).unwrap_err();
        assert!(matches!(refused, LockError::AlreadyOpen { .. }));
        assert!(refused.to_string().contains("weir-data"));
        drop(held);
        DirectoryLock::acquire(&data_dir).unwrap();
    }
}
