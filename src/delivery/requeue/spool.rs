use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::dead_letters::DEAD_LETTERS;
use super::super::letter::Letter;
use super::FOLDER;
use super::lines::{Line, Lines};
use super::shelf::{Place, named};
use crate::clock::UnixMillis;

/// Letters and bytes of one file, which is read and removed as a whole.
const FILE_LETTERS_MAX: u64 = 1_000;
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const EXTENSION: &str = "ndjson";
const UNFINISHED: &str = "new";
const DAMAGED: &str = "damaged";

/// A letter on its way.
#[derive(Serialize, Deserialize)]
pub(super) struct Spooled {
    pub(super) from: Place,
    pub(super) requeued_at_ms: u64,
    pub(super) letter: Letter,
}

/// Why letters are not requeued.
#[derive(Debug, thiserror::Error)]
pub enum RequeueError {
    /// Another command is at it.
    #[error("{0}: another requeue runs; wait for it")]
    Busy(String),
    /// The operating system's words.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes letters back for delivery, one such at a time in a data directory.
pub struct Requeue {
    dir: PathBuf,
    _lock: File,
    next: u64,
    open: Option<Open>,
}

struct Open {
    file: BufWriter<File>,
    path: PathBuf,
    letters: u64,
    bytes: u64,
}

impl Requeue {
    /// Begins in this data directory.
    ///
    /// # Errors
    /// [`RequeueError::Busy`] if another one is at work there.
    pub fn begin(data_dir: &Path) -> Result<Self, RequeueError> {
        let dir = data_dir.join(DEAD_LETTERS).join(FOLDER);
        let failed = |error| named(&dir, error);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&path).map_err(|error| named(&path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(RequeueError::Busy(path.display().to_string()));
            }
            Err(fs::TryLockError::Error(error)) => return Err(named(&path, error).into()),
        }
        let mut next = 1;
        for (number, path) in numbered(&dir)? {
            next = next.max(number + 1);
            if path.extension().is_some_and(|ending| ending == UNFINISHED) {
                fs::remove_file(&path).map_err(|error| named(&path, error))?;
            }
        }
        Ok(Self { dir, _lock: lock, next, open: None })
    }

    /// Takes one letter back, behind those before it. It is so once [`Self::finish`] returns, and
    /// may be before.
    ///
    /// # Errors
    /// The operating system's; letters of finished files stay requeued, all others dead.
    pub fn push(&mut self, from: Place, letter: Letter, now: UnixMillis) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Spooled { from, requeued_at_ms: now.0, letter })?;
        line.push(b'\n');
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.create()?,
        };
        open.file.write_all(&line).map_err(|error| named(&open.path, error))?;
        open.letters += 1;
        open.bytes += line.len() as u64;
        if open.letters >= FILE_LETTERS_MAX || open.bytes >= FILE_BYTES_MAX {
            return self.complete(open);
        }
        self.open = Some(open);
        Ok(())
    }

    /// Everything that was pushed is on disk and will be delivered.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> io::Result<()> {
        self.open.take().map_or(Ok(()), |open| self.complete(open))
    }

    fn create(&mut self) -> io::Result<Open> {
        let path = self.dir.join(format!("{:010}.{UNFINISHED}", self.next));
        self.next += 1;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| named(&path, error))?;
        Ok(Open { file: BufWriter::new(file), path, letters: 0, bytes: 0 })
    }

    fn complete(&self, open: Open) -> io::Result<()> {
        let Open { file, path, .. } = open;
        let failed = |error| named(&path, error);
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        fs::rename(&path, path.with_extension(EXTENSION)).map_err(failed)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

/// Everything in the folder whose name is a number, in order.
fn numbered(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        opened => opened.map_err(|error| named(dir, error))?,
    };
    let mut files = vec![];
    for entry in entries {
        let path = entry.map_err(|error| named(dir, error))?.path();
        let number = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
        files.extend(number.map(|number| (number, path)));
    }
    files.sort();
    Ok(files)
}

/// The finished files, in the order in which they are delivered.
pub(super) fn finished(dead_letters: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = numbered(&dead_letters.join(FOLDER))?;
    files.retain(|(_, path)| path.extension().is_some_and(|ending| ending == EXTENSION));
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Shows every letter on its way.
pub(super) fn visit(dead_letters: &Path, see: &mut dyn FnMut(Spooled)) -> io::Result<()> {
    for path in finished(dead_letters)? {
        read(&path, see)?;
    }
    Ok(())
}

/// Shows the letters of one file, and returns how many lines of it are none. A file that is gone
/// by now has none.
pub(super) fn read(path: &Path, see: &mut dyn FnMut(Spooled)) -> io::Result<u64> {
    let mut damaged = 0;
    let Some(mut lines) = Lines::open(path).map_err(|error| named(path, error))? else {
        return Ok(0);
    };
    while let Some(line) = lines.next().map_err(|error| named(path, error))? {
        let spooled = match line {
            Line::Whole(_, line) => serde_json::from_slice(line).ok(),
            Line::TooLong => None,
        };
        match spooled {
            Some(spooled) => see(spooled),
            None => damaged += 1,
        }
    }
    Ok(damaged)
}

/// Lets go of a file whose letters are settled; one with damage is set aside instead.
pub(super) fn remove(path: &Path, damaged: bool) -> io::Result<()> {
    if damaged { fs::rename(path, path.with_extension(DAMAGED)) } else { fs::remove_file(path) }
        .map_err(|error| named(path, error))
}
