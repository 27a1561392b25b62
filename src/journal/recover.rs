use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use memchr::memmem;

use super::batch::{Sequence, StreamId};
use super::failure::{Damage, JournalError};
use super::record::RecordError;
use super::segment::{self, Kind, SEGMENT_HEADER_BYTES};
use super::storage::Storage;
use super::stream::Entry;
use super::turn::{self, TURN_ALIGN, TURN_HEADER_BYTES};
use super::turns::{CHUNK_BYTES, SegmentFile, Turn};
use crate::admission::NonceMark;
use crate::clock::UnixMillis;
use crate::message::Message;

const FIRST_NUMBER: u64 = 1;

/// Who watches the journal being opened.
pub trait Visitor {
    /// A retained record; older generations come first, and within a stream they come in order.
    fn record(&mut self, stream: StreamId, at: Sequence, message: &Message, nonce: NonceMark);
    /// A still valid nonce of a record that is no longer retained.
    fn nonce(&mut self, mark: NonceMark);
    /// Where the readers of a stream stand, before anything of it is cut or removed.
    fn positions(&mut self, stream: StreamId) -> Vec<Position>;
    /// How far the scan is, in bytes; called at least once a mebibyte.
    fn progress(&mut self, done_bytes: u64, total_bytes: u64);
}

/// Where a reader of a stream stood when the process ended.
#[derive(Clone, Debug)]
pub struct Position {
    /// The file that says so.
    pub file: PathBuf,
    /// The next record it wants.
    pub next: Sequence,
    /// How to make it stand somewhere else.
    pub give_up: fn(StreamId, Sequence) -> String,
}

/// What was found while the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records retained.
    pub records: u64,
    /// Bytes scanned.
    pub bytes: u64,
    /// Turns that were being written when the process or the machine stopped; none of them had
    /// been acknowledged, and they are gone now.
    pub torn: Vec<TornTail>,
}

/// The cut end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the cut is, in bytes from the file's start.
    pub offset: u64,
    /// Bytes cut off.
    pub bytes: u64,
}

/// The state of one stream after its scan.
pub(super) struct Scanned {
    pub(super) entries: VecDeque<Entry>,
    pub(super) tail: Sequence,
    /// The segment that holds the last record.
    pub(super) last: Option<SegmentFile>,
}

/// A scan of all streams, one after the other.
pub(super) struct Scan<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) visitor: &'a mut dyn Visitor,
    pub(super) recovered: Recovered,
    pub(super) total_bytes: u64,
}

struct Segment {
    segment: SegmentFile,
    entry: Entry,
    last: Option<Turn>,
}

impl Scan<'_> {
    /// Reads a stream, cuts its torn tail and makes sure that what was read is on disk.
    pub(super) fn stream(
        &mut self,
        dir: &Path,
        stream: StreamId,
        numbers: &[u64],
        is_former: bool,
    ) -> Result<Scanned, JournalError> {
        let mut segments: Vec<Segment> = Vec::with_capacity(numbers.len());
        let mut expected = (numbers.first() == Some(&FIRST_NUMBER)).then_some(Sequence::FIRST);
        for &number in numbers {
            let path = segment::file_path(dir, number, Kind::Segment);
            if let Some(before) = segments.last()
                && before.entry.number + 1 != number
            {
                let missing = segment::file_path(dir, before.entry.number + 1, Kind::Segment);
                return Err(JournalError::damaged(&missing, 0, Damage::Missing));
            }
            let segment = SegmentFile::open(self.storage, &path, stream, number)?;
            let read = self.segment(segment, segments.last(), &mut expected)?;
            segments.push(read);
        }
        let unused = segments.iter().rev().take_while(|segment| segment.last.is_none()).count();
        let unused = segments.split_off(segments.len() - unused);
        if let (true, Some(first)) = (segments.is_empty() && !is_former, unused.first())
            && first.entry.number != FIRST_NUMBER
        {
            return Err(lost(first));
        }
        let tail = expected.unwrap_or(Sequence::FIRST);
        self.check_positions(dir, stream, (&segments, &unused), tail)?;
        for segment in &unused {
            self.remove_unused(segment)?;
        }
        let last = segments.pop();
        let mut entries: VecDeque<_> = segments.into_iter().map(|read| read.entry).collect();
        let last = last.map(|last| self.settle(last)).transpose()?.map(|(segment, entry)| {
            entries.push_back(entry);
            segment
        });
        // A name may be in the folder without being durable, if only the process was killed.
        self.storage.sync_dir(dir).map_err(JournalError::io("sync", dir))?;
        Ok(Scanned { entries, tail, last })
    }

    /// What a reader has passed was acknowledged, so it is no torn tail that may be cut.
    fn check_positions(
        &mut self,
        dir: &Path,
        stream: StreamId,
        (segments, unused): (&[Segment], &[Segment]),
        tail: Sequence,
    ) -> Result<(), JournalError> {
        let path = |read: Option<&Segment>| {
            read.map_or_else(|| dir.to_path_buf(), |read| read.segment.path.clone())
        };
        let first = segments.first().map_or(tail, |read| read.entry.first);
        for Position { file: reader, next, give_up } in self.visitor.positions(stream) {
            if next > tail {
                let last = last_touched(segments, unused)?;
                let offset = last.map_or(0, |read| read.entry.end);
                let (file, give_up) = (path(last), give_up(stream, tail));
                return Err(JournalError::Overtaken { file, offset, reader, next, tail, give_up });
            }
            if next < first {
                let (file, give_up) = (path(segments.first()), give_up(stream, first));
                return Err(JournalError::Gap { file, first, reader, next, give_up });
            }
        }
        Ok(())
    }

    fn segment(
        &mut self,
        segment: SegmentFile,
        before: Option<&Segment>,
        expected: &mut Option<Sequence>,
    ) -> Result<Segment, JournalError> {
        let size = segment.size()?;
        let mut turns = segment.turns(SEGMENT_HEADER_BYTES as u64, size);
        let mut first = None;
        let mut last = None;
        let mut expires_max = UnixMillis(0);
        let mut reported = 0;
        while let Some(turn) = turns.next()? {
            let found = Sequence(turn.header.first);
            if let (None, Some(before)) = (first, before)
                && (before.last.is_none() || expected.is_some_and(|expected| found > expected))
            {
                return Err(lost(before));
            }
            if let Some(expected) = *expected
                && expected != found
            {
                let damage = Damage::Order { expected, found };
                return Err(JournalError::damaged(&segment.path, turn.offset, damage));
            }
            expires_max = expires_max.max(self.show(&segment, &turn)?);
            *expected = Some(Sequence(turn.header.next()));
            first = first.or(Some(found));
            last = Some(turn);
            if turns.offset() - reported >= CHUNK_BYTES as u64 {
                reported = turns.offset();
                self.visitor.progress(self.recovered.bytes + reported, self.total_bytes);
            }
        }
        self.recovered.bytes += size;
        self.visitor.progress(self.recovered.bytes, self.total_bytes);
        let entry = Entry {
            number: segment.header.number,
            first: first.unwrap_or(Sequence::FIRST),
            end: turns.offset(),
            size,
            expires_max,
        };
        Ok(Segment { segment, entry, last })
    }

    fn show(&mut self, segment: &SegmentFile, turn: &Turn) -> Result<UnixMillis, JournalError> {
        let mut expires_max = UnixMillis(0);
        turn.visit(|sequence, view| {
            let message = view.message(turn.body())?;
            self.visitor.record(segment.header.stream, sequence, &message, view.nonce);
            expires_max = expires_max.max(view.nonce.expires_at);
            self.recovered.records += 1;
            Ok(())
        })
        .map_err(|error: RecordError| turn.impossible(segment, error))?;
        Ok(expires_max)
    }

    /// Cuts what follows the last turn, and writes that turn once more: if it was written but its
    /// sync failed, the page cache may show it clean although the disk never got it.
    fn settle(&mut self, last: Segment) -> Result<(SegmentFile, Entry), JournalError> {
        let Segment { segment, entry, last } = last;
        self.cut(&segment, &entry)?;
        if let Some(turn) = last {
            let wrote = segment.file.write_at(turn.whole(), turn.offset);
            wrote.map_err(JournalError::io("write", &segment.path))?;
        }
        segment.file.sync_data().map_err(JournalError::io("sync", &segment.path))?;
        Ok((segment, entry))
    }

    fn cut(&mut self, segment: &SegmentFile, entry: &Entry) -> Result<(), JournalError> {
        let until = self.search(segment, entry)?;
        let zeros = vec![0; CHUNK_BYTES];
        let mut at = entry.end;
        while at < until {
            let some = usize::try_from(until - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let wrote = segment.file.write_at(&zeros[..some], at);
            wrote.map_err(JournalError::io("cut", &segment.path))?;
            at += some as u64;
        }
        Ok(())
    }

    /// A segment without a turn is made anew, so that nothing unknown lies where turns will go.
    fn remove_unused(&mut self, unused: &Segment) -> Result<(), JournalError> {
        self.search(&unused.segment, &unused.entry)?;
        let path = &unused.segment.path;
        self.storage.remove(path).map_err(JournalError::io("remove", path))
    }

    /// Reports a torn tail behind the last turn of a segment. Returns where that tail ends.
    fn search(&mut self, segment: &SegmentFile, entry: &Entry) -> Result<u64, JournalError> {
        let until = torn_until(segment, entry.end, entry.size)?;
        if until > entry.end {
            let bytes = until - entry.end;
            let torn = TornTail { file: segment.path.clone(), offset: entry.end, bytes };
            tracing::warn!(
                file = %torn.file.display(), offset = torn.offset, bytes,
                "cut a torn tail: a turn that was never acknowledged"
            );
            self.recovered.torn.push(torn);
        }
        Ok(until)
    }
}

/// Looks at everything from the end of a segment's last turn on. A later turn means that this
/// place is damaged; anything else that is not zero is a torn tail. Returns where that ends.
pub(super) fn torn_until(segment: &SegmentFile, end: u64, size: u64) -> Result<u64, JournalError> {
    let zeros = vec![0; CHUNK_BYTES + TURN_HEADER_BYTES];
    let mut chunk = zeros.clone();
    let mut until = end;
    let mut at = end;
    while at < size {
        let left = usize::try_from(size - at).unwrap_or(usize::MAX);
        // The overlap lets a header that crosses two chunks be seen whole.
        let chunk = &mut chunk[..left.min(zeros.len())];
        let read = segment.file.read_at(chunk, at);
        read.map_err(JournalError::io("read", &segment.path))?;
        if *chunk != zeros[..chunk.len()] {
            let behind = if at == end { TURN_ALIGN } else { 0 };
            if holds_turn(chunk, behind, segment.header.salt) {
                return Err(JournalError::damaged(&segment.path, end, Damage::Lost));
            }
            let last = chunk.iter().rposition(|&byte| byte != 0).unwrap_or_default();
            until = at + last as u64 + 1;
        }
        at += CHUNK_BYTES as u64;
    }
    Ok(until)
}

/// Where a stream ends: a segment without a valid turn counts if something else is in it.
fn last_touched<'s>(
    segments: &'s [Segment],
    unused: &'s [Segment],
) -> Result<Option<&'s Segment>, JournalError> {
    for read in unused {
        if torn_until(&read.segment, read.entry.end, read.entry.size)? > read.entry.end {
            return Ok(Some(read));
        }
    }
    Ok(segments.last().or(unused.first()))
}

fn lost(before: &Segment) -> JournalError {
    JournalError::damaged(&before.segment.path, before.entry.end, Damage::Lost)
}

fn holds_turn(chunk: &[u8], from: usize, salt: turn::Salt) -> bool {
    memmem::find_iter(chunk, &salt)
        .filter(|at| *at >= from && at.is_multiple_of(TURN_ALIGN))
        .any(|at| turn::decode_header(&chunk[at..], salt).is_some())
}
