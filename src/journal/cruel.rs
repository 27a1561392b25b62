//! A disk in memory that is never kinder than a disk: it keeps what was synced and, of the rest,
//! whatever its seed likes. Closing a file syncs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::dice::Dice;
use super::storage::{Storage, StorageFile};

const SECTOR_BYTES: usize = 512;

/// What a fault can hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Call {
    Create,
    Open,
    List,
    Remove,
    Rename,
    SyncDir,
    MakeDir,
    RemoveDir,
    Write,
    Read,
    Sync,
}

/// A fault that waits for its turn.
#[derive(Clone, Debug)]
struct Fault {
    call: Option<Call>,
    after: usize,
    kind: io::ErrorKind,
    forever: bool,
}

#[derive(Debug, Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

type Names = BTreeMap<PathBuf, usize>;

#[derive(Debug)]
struct State {
    dice: Dice,
    files: Vec<Content>,
    names: Names,
    durable_names: Names,
    dirs: BTreeSet<PathBuf>,
    durable_dirs: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    trace: u64,
    calls: u64,
}

/// The disk; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct CruelDisk(Arc<Mutex<State>>);

impl CruelDisk {
    pub(crate) fn new(seed: u64) -> Self {
        println!("CruelDisk seed {seed}");
        Self(Arc::new(Mutex::new(State {
            dice: Dice::new(seed),
            files: Vec::new(),
            names: Names::new(),
            durable_names: Names::new(),
            dirs: BTreeSet::new(),
            durable_dirs: BTreeSet::new(),
            faults: Vec::new(),
            trace: 0,
            calls: 0,
        })))
    }

    /// The disk that is there after power went. Handles of this one no longer reach it.
    pub(crate) fn crash(&self) -> Self {
        let mut state = self.0.lock();
        let mut dice = Dice::new(state.dice.roll());
        let mut files: Vec<_> = state.files.iter().map(|file| file.after(&mut dice)).collect();
        let mut dirs = BTreeSet::new();
        for dir in state.dirs.union(&state.durable_dirs) {
            let synced = state.durable_dirs.contains(dir);
            let same = synced == state.dirs.contains(dir);
            let parent = dir
                .parent()
                .is_none_or(|parent| parent.as_os_str().is_empty() || dirs.contains(parent));
            if parent && if same { synced } else { dice.one_in(2) } {
                dirs.insert(dir.clone());
            }
        }
        let mut names = Names::new();
        let all: BTreeSet<_> = state.names.keys().chain(state.durable_names.keys()).collect();
        for name in all {
            let (now, synced) = (state.names.get(name), state.durable_names.get(name));
            let kept = if now == synced || dice.one_in(2) { synced } else { now };
            if let (Some(&file), Some(true)) = (kept, name.parent().map(|dir| dirs.contains(dir))) {
                names.insert(name.clone(), file);
            }
        }
        for file in &mut files {
            file.durable.clone_from(&file.cached);
        }
        let (durable_names, durable_dirs) = (names.clone(), dirs.clone());
        let (trace, calls) = (state.trace, state.calls);
        let faults = Vec::new();
        let state =
            State { dice, files, names, durable_names, dirs, durable_dirs, faults, trace, calls };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Lets the call that comes after `after` others of its kind fail once.
    pub(crate) fn fail(&self, call: Option<Call>, after: usize, kind: io::ErrorKind) {
        self.0.lock().faults.push(Fault { call, after, kind, forever: false });
    }

    /// Lets every further call of a kind fail.
    pub(crate) fn fail_all(&self, call: Call, kind: io::ErrorKind) {
        self.0.lock().faults.push(Fault { call: Some(call), after: 0, kind, forever: true });
    }

    pub(crate) fn heal(&self) {
        self.0.lock().faults.clear();
    }

    pub(crate) fn flip(&self, path: &Path, bit: usize) {
        let mut state = self.0.lock();
        let file = state.names[path];
        let file = &mut state.files[file];
        file.cached[bit / 8] ^= 1 << (bit % 8);
        if let Some(byte) = file.durable.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// Cuts a file behind the journal's back, durably.
    pub(crate) fn truncate(&self, path: &Path, bytes: usize) {
        let mut state = self.0.lock();
        let file = state.names[path];
        let file = &mut state.files[file];
        file.cached.truncate(bytes);
        file.durable.truncate(bytes);
    }

    /// Overwrites bytes behind the journal's back, durably.
    pub(crate) fn overwrite(&self, path: &Path, at: usize, bytes: &[u8]) {
        let mut state = self.0.lock();
        let file = state.names[path];
        let file = &mut state.files[file];
        place(&mut file.cached, at, bytes);
        place(&mut file.durable, at, bytes);
    }

    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.0.lock();
        state.files[state.names[path]].cached.clone()
    }

    /// An independent disk with the same content, all of it durable.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new(0);
        let state = self.0.lock();
        let mut to = copy.0.lock();
        for (name, file) in &state.names {
            let cached = state.files[*file].cached.clone();
            to.files.push(Content { durable: cached.clone(), cached, unsynced: Vec::new() });
            let at = to.files.len() - 1;
            to.names.insert(name.clone(), at);
        }
        to.durable_names = to.names.clone();
        to.dirs = state.dirs.clone();
        to.durable_dirs = state.dirs.clone();
        drop(to);
        copy
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }

    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        self.0.lock().dirs.iter().cloned().collect()
    }

    /// A fingerprint of every call so far, and their number.
    pub(crate) fn trace(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.trace, state.calls)
    }

    fn call(&self, call: Call, path: &Path, detail: usize) -> io::Result<()> {
        self.0.lock().call(call, path, detail)
    }
}

impl State {
    fn call(&mut self, call: Call, path: &Path, detail: usize) -> io::Result<()> {
        let seen = format!("{call:?} {} {detail} {}", path.display(), self.trace);
        self.trace = u64::from(crc32c::crc32c(seen.as_bytes()));
        self.calls += 1;
        let mut failed = None;
        self.faults.retain_mut(|fault| {
            if failed.is_some() || fault.call.is_some_and(|kind| kind != call) {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            failed = Some(fault.kind);
            fault.forever
        });
        failed.map_or(Ok(()), |kind| Err(io::Error::new(kind, "the cruel disk says no")))
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Content {
    /// Of the unsynced writes any subset, each whole, torn at a byte, or sector by sector.
    fn after(&self, dice: &mut Dice) -> Self {
        let mut cached = self.durable.clone();
        for (at, bytes) in &self.unsynced {
            match dice.below(4) {
                0 => {}
                1 => place(&mut cached, *at, bytes),
                2 => place(&mut cached, *at, &bytes[..dice.below(bytes.len() + 1)]),
                _ => {
                    for (sector, bytes) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        if dice.one_in(2) {
                            place(&mut cached, at + sector * SECTOR_BYTES, bytes);
                        }
                    }
                }
            }
        }
        Self { cached, durable: Vec::new(), unsynced: Vec::new() }
    }
}

fn place(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

struct CruelFile {
    disk: CruelDisk,
    path: PathBuf,
    file: usize,
}

impl Storage for CruelDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.call(Call::Create, path, 0)?;
        let mut state = self.0.lock();
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.files.push(Content::default());
        let file = state.files.len() - 1;
        state.names.insert(path.to_path_buf(), file);
        Ok(Arc::new(CruelFile { disk: self.clone(), path: path.to_path_buf(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.call(Call::Open, path, 0)?;
        let file = self.0.lock().find(path)?;
        Ok(Arc::new(CruelFile { disk: self.clone(), path: path.to_path_buf(), file }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.call(Call::List, dir, 0)?;
        let state = self.0.lock();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files = state.names.keys();
        let inside = files.chain(&state.dirs).filter(|path| path.parent() == Some(dir));
        Ok(inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Remove, path, 0)?;
        let mut state = self.0.lock();
        state.find(path)?;
        state.names.remove(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Rename, from, 0)?;
        let mut state = self.0.lock();
        let file = state.find(from)?;
        state.names.remove(from);
        state.names.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Call::SyncDir, dir, 0)?;
        let mut state = self.0.lock();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.durable_names.retain(|name, _| name.parent() != Some(dir));
        state.durable_dirs.retain(|inner| inner.parent() != Some(dir));
        let State { names, dirs, durable_names, durable_dirs, .. } = &mut *state;
        let files = names.iter().filter(|(name, _)| name.parent() == Some(dir));
        durable_names.extend(files.map(|(name, file)| (name.clone(), *file)));
        durable_dirs.extend(dirs.iter().filter(|inner| inner.parent() == Some(dir)).cloned());
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.call(Call::MakeDir, dir, 0)?;
        let mut state = self.0.lock();
        for dir in dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            state.dirs.insert(dir.to_path_buf());
            // The data directory itself is made durable by its lock.
            if dir.parent().is_some_and(|parent| parent.as_os_str().is_empty()) {
                state.durable_dirs.insert(dir.to_path_buf());
            }
        }
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Call::RemoveDir, dir, 0)?;
        let mut state = self.0.lock();
        let mut paths = state.names.keys().chain(&state.dirs);
        if paths.any(|path| path.parent() == Some(dir)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if state.dirs.remove(dir) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

impl StorageFile for CruelFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let at = usize::try_from(offset).unwrap();
        let called = state.call(Call::Write, &self.path, at ^ bytes.len() << 32);
        // A write that fails may have written any part of it.
        let whole = called.is_ok() || state.dice.one_in(3);
        let part = if whole { bytes.len() } else { state.dice.below(bytes.len() + 1) };
        let file = &mut state.files[self.file];
        place(&mut file.cached, at, &bytes[..part]);
        file.unsynced.push((at, bytes[..part].to_vec()));
        called
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let at = usize::try_from(offset).unwrap();
        state.call(Call::Read, &self.path, at)?;
        let content = &state.files[self.file].cached;
        let held = content.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(held);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let called = state.call(Call::Sync, &self.path, 0);
        let mut dice = state.dice.clone();
        let file = &mut state.files[self.file];
        if called.is_ok() {
            for (at, bytes) in &file.unsynced {
                place(&mut file.durable, *at, bytes);
            }
        } else {
            // As Linux does it: the pages are clean from now on, whether or not the disk has them,
            // and a later sync leaves them out.
            file.durable = file.after(&mut dice).cached;
        }
        file.unsynced.clear();
        called
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.file].cached.len() as u64)
    }
}
