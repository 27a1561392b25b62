use std::path::{Path, PathBuf};

use super::batch::StreamId;
use super::failure::JournalError;
use super::segment::{self, Kind};
use super::storage::Storage;

/// The folder of one generation.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) shards: u16,
    pub(super) dir: PathBuf,
}

/// The files of one stream; segments and nonces in ascending order.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) segments: Vec<u64>,
    pub(super) nonces: Vec<u64>,
    pub(super) unfinished: Vec<u64>,
}

impl Generation {
    fn new(dir: &Path, number: u32, shards: u16) -> Self {
        Self { number, shards, dir: segment::generation_dir(dir, number, shards) }
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = (StreamId, PathBuf)> + '_ {
        (0..self.shards).map(|shard| {
            let stream = StreamId { generation: self.number, shard };
            (stream, segment::shard_dir(&self.dir, shard))
        })
    }

    /// Makes the folders of the streams, durably.
    fn make(&self, storage: &dyn Storage, dir: &Path) -> Result<(), JournalError> {
        for (_, shard) in self.streams() {
            storage.create_dir_all(&shard).map_err(JournalError::io("make", &shard))?;
        }
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
        for dir in [self.dir.as_path(), dir, above.unwrap_or(Path::new("."))] {
            storage.sync_dir(dir).map_err(JournalError::io("sync", dir))?;
        }
        Ok(())
    }

    /// Removes the folders of a generation that holds nothing any more.
    pub(super) fn remove(&self, storage: &dyn Storage) -> Result<(), JournalError> {
        for (_, shard) in self.streams() {
            match storage.remove_dir(&shard) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(JournalError::io("remove", &shard))?,
            }
        }
        storage.remove_dir(&self.dir).map_err(JournalError::io("remove", &self.dir))
    }
}

/// The generations on disk, oldest first; the last is the one that `shards` streams append to, and
/// is made if it is missing.
pub(super) fn open(
    storage: &dyn Storage,
    dir: &Path,
    shards: u16,
) -> Result<Vec<Generation>, JournalError> {
    storage.create_dir_all(dir).map_err(JournalError::io("make", dir))?;
    let mut found = list(storage, dir)?;
    if found.last().is_none_or(|newest| newest.shards != shards) {
        let number = found.last().map_or(1, |newest| newest.number.saturating_add(1));
        found.push(Generation::new(dir, number, shards));
    }
    if let Some(newest) = found.last() {
        newest.make(storage, dir)?;
    }
    Ok(found)
}

/// The generations on disk, oldest first; nothing is made.
pub(super) fn list(storage: &dyn Storage, dir: &Path) -> Result<Vec<Generation>, JournalError> {
    let names = storage.list(dir).map_err(JournalError::io("list", dir))?;
    let mut found: Vec<_> = names
        .iter()
        .filter_map(|name| segment::parse_generation(name))
        .map(|(number, shards)| Generation::new(dir, number, shards))
        .collect();
    found.sort_by_key(|generation| generation.number);
    if let Some(twice) = found.windows(2).find(|pair| pair[0].number == pair[1].number) {
        return Err(JournalError::Twice { dir: dir.to_path_buf(), generation: twice[0].number });
    }
    Ok(found)
}

/// The files of a stream; what was never finished is removed.
pub(super) fn files(storage: &dyn Storage, dir: &Path) -> Result<Files, JournalError> {
    let files = names(storage, dir)?;
    for &number in &files.unfinished {
        let path = segment::file_path(dir, number, Kind::Unfinished);
        storage.remove(&path).map_err(JournalError::io("remove", &path))?;
    }
    Ok(files)
}

/// The files of a stream; nothing is removed.
pub(super) fn names(storage: &dyn Storage, dir: &Path) -> Result<Files, JournalError> {
    let names = match storage.list(dir) {
        // A crash while a former generation was removed may have left some of its folders.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Files::default()),
        names => names.map_err(JournalError::io("list", dir))?,
    };
    let mut files = Files::default();
    for (number, kind) in names.iter().filter_map(|name| segment::parse_file(name)) {
        match kind {
            Kind::Segment => files.segments.push(number),
            Kind::Nonces => files.nonces.push(number),
            Kind::Unfinished => files.unfinished.push(number),
        }
    }
    files.segments.sort_unstable();
    files.nonces.sort_unstable();
    Ok(files)
}

/// The segments of a stream in ascending order; a folder that is missing holds none.
pub(super) fn segments(storage: &dyn Storage, dir: &Path) -> Result<Vec<u64>, JournalError> {
    Ok(names(storage, dir)?.segments)
}
