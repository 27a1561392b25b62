use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{Batch, Journaled, Place, Sequence, StreamId};
use super::failure::{Damage, JournalError};
use super::record::{self, FIXED_BYTES, RecordError, RecordView};
use super::segment::{HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::storage::{Storage, StorageFile};
use super::turn::{self, TURN_HEADER_BYTES, TurnHeader};

/// Bytes read at once from a segment, unless one turn is larger.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// A segment open for reading; its head is known to be right.
pub(super) struct SegmentFile {
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) path: PathBuf,
    pub(super) header: SegmentHeader,
}

impl SegmentFile {
    pub(super) fn open(
        storage: &dyn Storage,
        path: &Path,
        stream: StreamId,
        number: u64,
    ) -> Result<Self, JournalError> {
        let file = storage.open(path).map_err(JournalError::io("open", path))?;
        Self::check(file, path, stream, number)
    }

    /// As [`Self::open`], for who only looks.
    pub(super) fn open_to_read(
        storage: &dyn Storage,
        path: &Path,
        stream: StreamId,
        number: u64,
    ) -> Result<Self, JournalError> {
        let file = storage.open_to_read(path).map_err(JournalError::io("open", path))?;
        Self::check(file, path, stream, number)
    }

    fn check(
        file: Arc<dyn StorageFile>,
        path: &Path,
        stream: StreamId,
        number: u64,
    ) -> Result<Self, JournalError> {
        let mut head = [0; SEGMENT_HEADER_BYTES];
        let damaged = || JournalError::damaged(path, 0, Damage::Header);
        match file.read_at(&mut head, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged()),
            read => read.map_err(JournalError::io("read", path))?,
        }
        let header = SegmentHeader::decode(&head).map_err(|error| match error {
            HeaderError::Magic => JournalError::Foreign { file: path.to_path_buf() },
            HeaderError::Version { found } => {
                JournalError::Version { file: path.to_path_buf(), found }
            }
            HeaderError::Checksum => damaged(),
        })?;
        if header.stream != stream || header.number != number {
            return Err(damaged());
        }
        Ok(Self { file, path: path.to_path_buf(), header })
    }

    /// Bytes it was made with, all of them there.
    pub(super) fn size(&self) -> Result<u64, JournalError> {
        let size = self.file.size().map_err(JournalError::io("measure", &self.path))?;
        let made = u64::from(self.header.size);
        if size < made {
            return Err(JournalError::damaged(&self.path, size, Damage::Short { made }));
        }
        Ok(made)
    }

    /// The turns from `offset` on, as long as they are valid and end at or before `limit`.
    pub(super) const fn turns(&self, offset: u64, limit: u64) -> Turns<'_> {
        Turns { segment: self, offset, limit, chunk: Bytes::new(), chunk_at: 0 }
    }
}

/// A walk over the turns of one segment.
pub(super) struct Turns<'a> {
    segment: &'a SegmentFile,
    offset: u64,
    limit: u64,
    chunk: Bytes,
    chunk_at: u64,
}

/// One valid turn.
pub(super) struct Turn {
    pub(super) offset: u64,
    pub(super) header: TurnHeader,
    whole: Bytes,
    body: Bytes,
}

impl Turns<'_> {
    /// Where the next turn would begin.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next turn, or `None` where no valid one begins.
    pub(super) fn next(&mut self) -> Result<Option<Turn>, JournalError> {
        let Some(head) = self.bytes(TURN_HEADER_BYTES)? else { return Ok(None) };
        let Some(header) = turn::decode_header(&head, self.segment.header.salt) else {
            return Ok(None);
        };
        let Some(whole) = self.bytes(header.turn_bytes())? else { return Ok(None) };
        if !turn::is_whole(&whole) {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += header.turn_bytes() as u64;
        let body = whole.slice(TURN_HEADER_BYTES..TURN_HEADER_BYTES + header.body_bytes);
        Ok(Some(Turn { offset, header, whole, body }))
    }

    /// True if the next turn needs no further read.
    pub(super) fn is_in_memory(&self) -> bool {
        let at = self.offset.checked_sub(self.chunk_at).and_then(|at| usize::try_from(at).ok());
        let rest = at.and_then(|at| self.chunk.get(at..)).unwrap_or_default();
        turn::decode_header(rest, self.segment.header.salt)
            .is_some_and(|header| header.turn_bytes() <= rest.len())
    }

    fn bytes(&mut self, size: usize) -> Result<Option<Bytes>, JournalError> {
        let left = self.limit.saturating_sub(self.offset);
        if left < size as u64 {
            return Ok(None);
        }
        let held = usize::try_from(self.offset - self.chunk_at).unwrap_or(usize::MAX);
        if held.saturating_add(size) > self.chunk.len() {
            let read = usize::try_from(left).unwrap_or(usize::MAX).min(size.max(CHUNK_BYTES));
            let mut chunk = vec![0; read];
            let SegmentFile { file, path, .. } = self.segment;
            file.read_at(&mut chunk, self.offset).map_err(JournalError::io("read", path))?;
            self.chunk = chunk.into();
            self.chunk_at = self.offset;
            return Ok(Some(self.chunk.slice(..size)));
        }
        Ok(Some(self.chunk.slice(held..held + size)))
    }
}

impl Turn {
    /// Its bytes as they are on disk.
    pub(super) const fn whole(&self) -> &Bytes {
        &self.whole
    }

    pub(super) const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Shows every record in order. A turn with a right checksum and a wrong record is an error.
    pub(super) fn visit<E: From<RecordError>>(
        &self,
        mut visit: impl FnMut(Sequence, &RecordView<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest: &[u8] = &self.body;
        for sequence in self.header.first..self.header.next() {
            let (view, after) = record::decode(rest)?;
            visit(Sequence(sequence), &view)?;
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(RecordError::Count.into()) }
    }

    /// The batch of its records from `from` on.
    pub(super) fn batch(
        &self,
        segment: &SegmentFile,
        from: Sequence,
    ) -> Result<Batch, JournalError> {
        let first = from.max(Sequence(self.header.first));
        // Grown from nothing, a turn of one record, as a slow stream has them, would take four
        // times the memory.
        let records = self.header.next().saturating_sub(first.0);
        let records = usize::try_from(records).unwrap_or(usize::MAX);
        let mut journaled = Vec::with_capacity(records.min(self.body.len() / FIXED_BYTES));
        self.visit(|sequence, view| {
            if sequence >= from {
                journaled.push(Journaled::new(view.message(&self.body)?, view.nonce, sequence));
            }
            Ok(())
        })
        .map_err(|error: RecordError| self.impossible(segment, error))?;
        let SegmentHeader { stream, number, .. } = segment.header;
        let offset = self.offset + self.whole.len() as u64;
        let behind = Place { segment: number, offset };
        Ok(Batch::new(stream, first, journaled, self.whole.len(), behind))
    }

    pub(super) fn impossible(&self, segment: &SegmentFile, error: RecordError) -> JournalError {
        JournalError::damaged(&segment.path, self.offset, Damage::Record(error))
    }
}
