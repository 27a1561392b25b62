//! The journal looked at while nothing of it is touched: no lock, no cut, nothing made or removed.
//! It may be at work meanwhile, so the last turn may be half written and a segment may just go.

use std::path::{Path, PathBuf};

use super::batch::{Sequence, StreamId};
use super::failure::{Damage, JournalError};
use super::generations::{self, Generation};
use super::record::RecordError;
use super::recover::torn_until;
use super::segment::{self, Kind, SEGMENT_HEADER_BYTES};
use super::storage::Storage;
use super::turns::{SegmentFile, Turn};
use crate::message::Message;

/// One segment.
#[derive(Debug)]
pub struct Inspected {
    /// The file.
    pub file: PathBuf,
    /// Bytes it was made with.
    pub size: u64,
    /// Its first and its last record, if it holds any.
    pub records: Option<(Sequence, Sequence)>,
    /// Where its last turn ends.
    pub end: u64,
    /// What lies behind that.
    pub rest: Rest,
}

/// What lies behind the last turn of a segment.
#[derive(Debug)]
pub enum Rest {
    /// Zeros, as it was made.
    Free,
    /// Bytes that are no turn: one that is being written, or a torn tail that a start would cut.
    Torn {
        /// How many.
        bytes: u64,
    },
    /// Acknowledged records cannot be read: what a start would say.
    Damaged(JournalError),
}

/// One stream.
#[derive(Debug)]
pub struct InspectedStream {
    /// Which.
    pub id: StreamId,
    /// Its segments in order; spare ones are the last.
    pub segments: Vec<Inspected>,
}

/// Where a record lies, and what it says.
pub type Found<'a> = (StreamId, Sequence, &'a Path, u64, &'a Message);

/// Walks over every segment and shows every record.
///
/// # Errors
/// [`JournalError`] if a folder cannot be listed or a file cannot be read; damage is no error here.
pub fn inspect(
    storage: &dyn Storage,
    dir: &Path,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<Vec<InspectedStream>, JournalError> {
    let mut streams = Vec::new();
    for generation in generations::list(storage, dir)? {
        for (id, dir) in Generation::streams(&generation) {
            let segments = stream(storage, id, &dir, visit)?;
            streams.push(InspectedStream { id, segments });
        }
    }
    Ok(streams)
}

fn stream(
    storage: &dyn Storage,
    id: StreamId,
    dir: &Path,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<Vec<Inspected>, JournalError> {
    let mut seen: Vec<Inspected> = Vec::new();
    let mut before: Option<(u64, Option<Sequence>)> = None;
    for number in generations::segments(storage, dir)? {
        let path = segment::file_path(dir, number, Kind::Segment);
        let file = match SegmentFile::open(storage, &path, id, number) {
            Err(JournalError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                continue;
            }
            Err(error @ JournalError::Io { .. }) => return Err(error),
            opened => opened,
        };
        let mut one = Inspected { file: path, size: 0, records: None, end: 0, rest: Rest::Free };
        let gap = before.filter(|(last, _)| last + 1 != number).map(|(last, _)| {
            let missing = segment::file_path(dir, last + 1, Kind::Segment);
            JournalError::damaged(&missing, 0, Damage::Missing)
        });
        let expected = before.and_then(|(_, expected)| expected);
        let walked = file.and_then(|file| one.walk(&file, expected, visit));
        if let Err(error) = gap.map_or(walked, Err) {
            one.rest = Rest::Damaged(error);
        }
        before = Some((number, one.records.map(|(_, last)| last.plus(1)).or(expected)));
        seen.push(one);
    }
    Ok(seen)
}

impl Inspected {
    fn walk(
        &mut self,
        segment: &SegmentFile,
        expected: Option<Sequence>,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), JournalError> {
        self.end = SEGMENT_HEADER_BYTES as u64;
        self.size = segment.size()?;
        loop {
            let before = self.end;
            self.read(segment, expected, visit)?;
            match torn_until(segment, self.end, self.size) {
                // Turns may have been written between the two looks.
                Err(JournalError::Damaged { .. }) if self.end > before => {}
                until => {
                    let bytes = until? - self.end;
                    if bytes > 0 {
                        self.rest = Rest::Torn { bytes };
                    }
                    return Ok(());
                }
            }
        }
    }

    fn read(
        &mut self,
        segment: &SegmentFile,
        before: Option<Sequence>,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), JournalError> {
        let mut expected = self.records.map_or(before, |(_, last)| Some(last.plus(1)));
        let mut turns = segment.turns(self.end, self.size);
        while let Some(turn) = turns.next()? {
            let found = Sequence(turn.header.first);
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                let damage = Damage::Order { expected, found };
                return Err(JournalError::damaged(&segment.path, turn.offset, damage));
            }
            show(segment, &turn, visit)?;
            let next = Sequence(turn.header.next());
            let first = self.records.map_or(found, |(first, _)| first);
            self.records = Some((first, Sequence(next.0 - 1)));
            self.end = turns.offset();
            expected = Some(next);
        }
        Ok(())
    }
}

fn show(
    segment: &SegmentFile,
    turn: &Turn,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<(), JournalError> {
    turn.visit(|sequence, view| {
        let message = view.message(turn.body())?;
        visit((segment.header.stream, sequence, &segment.path, turn.offset, &message));
        Ok(())
    })
    .map_err(|error: RecordError| turn.impossible(segment, error))
}
