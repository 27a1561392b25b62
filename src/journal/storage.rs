//! What the journal asks of a disk, small enough that a cruel one can stand in for it.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

/// A folder tree. Nothing is durable before a sync of the file and of the folder that names it.
pub trait Storage: Send + Sync + 'static {
    /// Makes a file that must not exist yet, to be read and written.
    ///
    /// # Errors
    /// As the operating system gives them; so for every call of this trait.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens an existing file, to be read and written.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens an existing file, only to be read: by who may not write, or must not.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.open(path)
    }
    /// Names in a folder, in no order; names that are not UTF-8 are left out.
    ///
    /// # Errors
    /// `NotFound` if there is no such folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Unlinks a file.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Renames within one folder; an existing target is replaced.
    ///
    /// # Errors
    /// `NotFound` if there is nothing to rename.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// After one, nothing is known about the names that were not yet durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes a folder and the missing ones above it.
    ///
    /// # Errors
    /// None if it is already there.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that may still be written to the disk of a folder.
    ///
    /// # Errors
    /// `NotFound` if there is no such folder.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Removes an empty folder.
    ///
    /// # Errors
    /// `DirectoryNotEmpty` if it is not empty.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait StorageFile: Send + Sync {
    /// Writes all bytes at an offset, or fails with any part of them written.
    ///
    /// # Errors
    /// As the operating system gives them.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills the buffer from an offset.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    ///
    /// # Errors
    /// After one, nothing is known about what was written since the last sync.
    fn sync_data(&self) -> io::Result<()>;
    /// Bytes in the file.
    ///
    /// # Errors
    /// As the operating system gives them.
    fn size(&self) -> io::Result<u64>;
}

/// The disk of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Storage for Disk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(fs::OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(fs::File::open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(dir)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }
}

/// The disk of the machine, for whoever may only look: everything that would change it is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOnly;

impl Storage for ReadOnly {
    fn create(&self, _: &Path) -> io::Result<Arc<dyn StorageFile>> {
        refused()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(fs::File::open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk.list(dir)
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        Disk.free_bytes(dir)
    }

    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        refused()
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl StorageFile for fs::File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Whether a file could not be made for want of something that comes back: space, file
/// descriptors, memory. Nothing is unknown then, and a later attempt may succeed.
pub(super) fn is_scarce(error: &io::Error) -> bool {
    const SCARCE: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
    is_no_space(error) || Errno::from_io_error(error).is_some_and(|errno| SCARCE.contains(&errno))
}

/// True if the disk, or the quota on it, is full.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_descriptors_passes_and_a_broken_disk_does_not() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::NOSPC] {
            assert!(is_scarce(&errno.into()), "{errno}");
        }
        for errno in [Errno::IO, Errno::ROFS, Errno::ACCESS] {
            assert!(!is_scarce(&errno.into()), "{errno}");
        }
    }
}
