use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::batch::StreamId;
use super::config::{Config, Environment};
use super::desk::Desk;
use super::failure::JournalError;
use super::generations::{self, Files, Generation};
use super::keeper::{Keeper, KeeperThread, gauge};
use super::nonces::{self, NonceFile};
use super::recover::{Recovered, Scan, Scanned, Visitor};
use super::segment::{self, Kind};
use super::storage::Storage;
use super::stream::Stream;
use super::writer::{Open, Writer};

/// The streams of all generations. Dropping it stops the thread that makes segments, so it outlives
/// the writers.
pub struct Journal {
    streams: Vec<Arc<Stream>>,
    _keeper: Keeping,
}

enum Keeping {
    Thread {
        _thread: KeeperThread,
    },
    #[cfg(test)]
    Inline(Arc<Keeper>),
}

/// A journal that was opened.
#[derive(Debug)]
pub struct Opened {
    /// Its streams.
    pub journal: Journal,
    /// One writer a shard, in order of shards.
    pub writers: Vec<Writer>,
    /// What was found on disk.
    pub recovered: Recovered,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("streams", &self.streams).finish_non_exhaustive()
    }
}

struct Found {
    stream: StreamId,
    dir: PathBuf,
    files: Files,
    is_former: bool,
}

impl Journal {
    /// Opens the journal and shows every retained record and nonce to the visitor. Nothing is
    /// appended before this returns. Whoever calls it holds the [`super::DirectoryLock`].
    ///
    /// # Errors
    /// [`JournalError`] if a bound is broken, the disk fails, or acknowledged records are damaged.
    pub fn open(
        config: &Config,
        environment: &Environment,
        visitor: &mut dyn Visitor,
    ) -> Result<Opened, JournalError> {
        config.check()?;
        let (keeper, writers, recovered) = read(config, environment, visitor)?;
        let streams = streams(&keeper);
        let thread = KeeperThread::start(keeper)
            .map_err(JournalError::io("start a thread for", &config.dir))?;
        let journal = Self { streams, _keeper: Keeping::Thread { _thread: thread } };
        Ok(Opened { journal, writers, recovered })
    }

    /// The streams: former generations first, oldest first, each in order of shards. A former
    /// stream of which nothing is retained is not among them.
    #[must_use]
    pub fn streams(&self) -> &[Arc<Stream>] {
        &self.streams
    }

    /// As [`Self::open`], for segments of any size and without a thread.
    #[cfg(test)]
    pub(crate) fn open_inline(
        config: &Config,
        environment: &Environment,
        visitor: &mut dyn Visitor,
    ) -> Result<Opened, JournalError> {
        let (keeper, writers, recovered) = read(config, environment, visitor)?;
        keeper.desk.work_inline(&keeper);
        let streams = streams(&keeper);
        let journal = Self { streams, _keeper: Keeping::Inline(keeper) };
        Ok(Opened { journal, writers, recovered })
    }

    /// What the keeper's thread does when its wait is over.
    #[cfg(test)]
    pub(crate) fn work(&self) {
        if let Keeping::Inline(keeper) = &self._keeper {
            keeper.work();
        }
    }
}

fn streams(keeper: &Keeper) -> Vec<Arc<Stream>> {
    keeper.former.iter().chain(&keeper.newest).map(Arc::clone).collect()
}

type Read = (Arc<Keeper>, Vec<Writer>, Recovered);

fn read(
    config: &Config,
    environment: &Environment,
    visitor: &mut dyn Visitor,
) -> Result<Read, JournalError> {
    let storage = &*environment.storage;
    let mut generations = generations::open(storage, &config.dir, config.shards)?;
    let found = find(storage, &generations)?;
    generations.pop();
    let nonce_files = read_nonces(environment, &found, visitor)?;
    let total_bytes = total_bytes(storage, &found)?;
    let mut scan = Scan { storage, visitor, recovered: Recovered::default(), total_bytes };
    let mut scanned = Vec::with_capacity(found.len());
    for Found { stream, dir, files, is_former } in found {
        if is_former && files.segments.is_empty() {
            continue;
        }
        let result = scan.stream(&dir, stream, &files.segments, is_former)?;
        scanned.push((stream, dir, is_former, result));
    }
    let recovered = scan.recovered;
    let (keeper, writers) = build(config, environment, generations, nonce_files, scanned);
    Ok((keeper, writers, recovered))
}

fn find(storage: &dyn Storage, generations: &[Generation]) -> Result<Vec<Found>, JournalError> {
    let mut found = Vec::new();
    for (at, generation) in generations.iter().enumerate() {
        let is_former = at + 1 < generations.len();
        for (stream, dir) in generation.streams() {
            let files = generations::files(storage, &dir)?;
            found.push(Found { stream, dir, files, is_former });
        }
    }
    Ok(found)
}

fn read_nonces(
    environment: &Environment,
    found: &[Found],
    visitor: &mut dyn Visitor,
) -> Result<Vec<NonceFile>, JournalError> {
    let now = environment.clock.unix();
    let mut files = Vec::new();
    for Found { dir, files: names, .. } in found {
        for &number in &names.nonces {
            let path = segment::file_path(dir, number, Kind::Nonces);
            let (file, marks) = nonces::load(&*environment.storage, &path)?;
            marks.iter().filter(|mark| mark.expires_at > now).for_each(|mark| visitor.nonce(*mark));
            files.push(file);
        }
    }
    Ok(files)
}

fn total_bytes(storage: &dyn Storage, found: &[Found]) -> Result<u64, JournalError> {
    let mut total = 0;
    for Found { dir, files, .. } in found {
        for &number in &files.segments {
            let path = segment::file_path(dir, number, Kind::Segment);
            let size = storage.open(&path).and_then(|file| file.size());
            total += size.map_err(JournalError::io("measure", &path))?;
        }
    }
    Ok(total)
}

fn build(
    config: &Config,
    environment: &Environment,
    former_generations: Vec<Generation>,
    nonce_files: Vec<NonceFile>,
    scanned: Vec<(StreamId, PathBuf, bool, Scanned)>,
) -> (Arc<Keeper>, Vec<Writer>) {
    let appended = scanned.iter().filter(|(_, _, is_former, _)| !is_former);
    let desk = Arc::new(Desk::new(appended.map(|(.., result)| result.next_number())));
    let (mut former, mut newest, mut writers) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for (id, dir, is_former, Scanned { entries, tail, last }) in scanned {
        bytes += entries.iter().map(|entry| entry.size).sum::<u64>();
        let newest_entry = entries.back().map(|entry| (entry.end, entry.size));
        let current = last.zip(newest_entry);
        let current = current.map(|(segment, (end, size))| Open { segment, end, size });
        let (environment, desk) = (environment.clone(), Arc::clone(&desk));
        let scanned = (entries, tail);
        let stream =
            Stream::new(id, dir, scanned, is_former, environment.clone(), Arc::clone(&desk));
        let stream = Arc::new(stream);
        if !is_former {
            newest.push(Arc::clone(&stream));
            let size = config.segment_bytes;
            writers.push(Writer::new(stream, desk, environment, size, current));
        } else if !stream.is_trimmed() {
            former.push(stream);
        }
    }
    environment.metrics.bytes.set(gauge(bytes));
    let keeper = Keeper {
        environment: environment.clone(),
        desk,
        newest,
        former,
        former_generations: Mutex::new(former_generations),
        nonce_files: Mutex::new(nonce_files),
        blocked: Mutex::new(BTreeSet::new()),
        segment_bytes: config.segment_bytes,
    };
    (Arc::new(keeper), writers)
}
