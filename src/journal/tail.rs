//! A look at what lies behind a position in every stream, in a journal that another process may be
//! writing: nothing is locked, made, cut or removed.

use std::io;
use std::path::Path;

use super::batch::{Sequence, StreamId};
use super::failure::JournalError;
use super::generations;
use super::record::RecordError;
use super::segment::{self, Kind, SEGMENT_HEADER_BYTES};
use super::storage::Storage;
use super::turns::{SegmentFile, Turn, Turns};
use crate::message::Message;

/// Why the tail was not read.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The journal was written or trimmed meanwhile: begin again, from newer positions.
    #[error("{stream}: record {wanted} is looked for, and the next one found is {found}")]
    Moved {
        /// The stream.
        stream: StreamId,
        /// The record that comes next.
        wanted: Sequence,
        /// The record that was found instead.
        found: Sequence,
    },
    /// A segment went away meanwhile: begin again, from newer positions.
    #[error("{stream}: a segment was trimmed while it was read")]
    Trimmed {
        /// The stream.
        stream: StreamId,
    },
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Shows every record from `from(stream)` on, in order. A turn that is being written ends its
/// stream. A journal that does not exist yet is empty.
///
/// # Errors
/// [`TailError`]; what was shown until then is to be forgotten.
pub fn read_tail(
    storage: &dyn Storage,
    dir: &Path,
    from: &dyn Fn(StreamId) -> Sequence,
    visit: &mut dyn FnMut(StreamId, &Message),
) -> Result<(), TailError> {
    let generations = match generations::list(storage, dir) {
        Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(());
        }
        generations => generations?,
    };
    for generation in generations {
        for (id, dir) in generation.streams() {
            let numbers = generations::names(storage, &dir)?.segments;
            let segments = holding(storage, &dir, id, &numbers, from(id))?;
            show(id, segments, from(id), visit)?;
        }
    }
    Ok(())
}

/// The segments that hold records from `from` on, oldest first.
fn holding(
    storage: &dyn Storage,
    dir: &Path,
    stream: StreamId,
    numbers: &[u64],
    from: Sequence,
) -> Result<Vec<SegmentFile>, TailError> {
    let mut holding = vec![];
    for &number in numbers.iter().rev() {
        let path = segment::file_path(dir, number, Kind::Segment);
        let segment = match SegmentFile::open_to_read(storage, &path, stream, number) {
            Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(TailError::Trimmed { stream });
            }
            segment => segment?,
        };
        // A segment without a turn is a spare one.
        let Some(first) = turns(&segment)?.next()? else { continue };
        holding.push(segment);
        if first.header.first <= from.0 {
            break;
        }
    }
    holding.reverse();
    Ok(holding)
}

fn show(
    stream: StreamId,
    segments: Vec<SegmentFile>,
    from: Sequence,
    visit: &mut dyn FnMut(StreamId, &Message),
) -> Result<(), TailError> {
    let mut wanted = from;
    for segment in segments {
        let mut turns = turns(&segment)?;
        while let Some(turn) = turns.next()? {
            let found = Sequence(turn.header.first);
            if found > wanted {
                return Err(TailError::Moved { stream, wanted, found });
            }
            let next = Sequence(turn.header.next());
            if next > wanted {
                show_turn(stream, &turn, wanted, visit)
                    .map_err(|error| turn.impossible(&segment, error))?;
                wanted = next;
            }
        }
    }
    Ok(())
}

fn show_turn(
    stream: StreamId,
    turn: &Turn,
    from: Sequence,
    visit: &mut dyn FnMut(StreamId, &Message),
) -> Result<(), RecordError> {
    turn.visit(|sequence, view| {
        if sequence >= from {
            visit(stream, &view.message(turn.body())?);
        }
        Ok(())
    })
}

fn turns(segment: &SegmentFile) -> Result<Turns<'_>, JournalError> {
    let size = segment.file.size().map_err(JournalError::io("measure", &segment.path))?;
    Ok(segment.turns(SEGMENT_HEADER_BYTES as u64, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::testing::{Rig, admitted, id, stream};
    use crate::journal::{Opened, Sequence};

    fn append(opened: &mut Opened, shard: usize, ids: std::ops::Range<u64>) {
        opened.writers[shard].append(admitted(ids, 200)).unwrap();
    }

    fn tail(rig: &Rig, from: u64) -> Result<Vec<(u16, u64)>, TailError> {
        let mut seen = vec![];
        let mut visit =
            |stream: StreamId, message: &Message| seen.push((stream.shard, id(message)));
        read_tail(&rig.disk, &rig.config.dir, &|_| Sequence(from), &mut visit)?;
        Ok(seen)
    }

    #[test]
    fn the_tail_of_an_open_journal_is_every_record_from_the_position_on() {
        let rig = Rig::new(1, 2);
        assert_eq!(tail(&rig, 1).unwrap(), [], "there is no journal yet");
        let (mut opened, _) = rig.open();
        assert_eq!(tail(&rig, 1).unwrap(), []);
        // Enough for several segments of one stream.
        for at in 0..40 {
            append(&mut opened, 0, at * 2..at * 2 + 2);
        }
        append(&mut opened, 1, 100..103);
        for from in [1, 2, 3, 40, 79, 80, 81, 200] {
            let mut expected: Vec<_> = (from - 1..80).map(|id| (0, id)).collect();
            expected.extend((100 + from - 1..103).map(|id| (1, id)));
            assert_eq!(tail(&rig, from).unwrap(), expected, "from {from}");
        }
    }

    #[test]
    fn a_look_changes_nothing_on_the_disk_not_even_a_torn_tail() {
        let rig = Rig::new(2, 1);
        let (mut opened, _) = rig.open();
        append(&mut opened, 0, 0..3);
        append(&mut opened, 0, 3..4);
        drop(opened);
        let path = Path::new("data/journal/g000001-001/shard-000/0000000001.seg");
        let bytes = rig.disk.content(path);
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        rig.disk.flip(path, last * 8);
        let before = rig.disk.content(path);
        assert_eq!(tail(&rig, 1).unwrap(), [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(rig.disk.content(path), before);
    }

    #[test]
    fn a_position_that_was_trimmed_is_told_and_not_jumped_over() {
        let rig = Rig::new(3, 1);
        let (mut opened, _) = rig.open();
        for at in 0..40 {
            append(&mut opened, 0, at * 2..at * 2 + 2);
        }
        let watched = std::sync::Arc::clone(&opened.journal.streams()[0]);
        watched.trim(Sequence(60));
        opened.journal.work();
        let first = watched.first();
        assert!(first > Sequence(1) && first <= Sequence(60));
        match tail(&rig, 1).unwrap_err() {
            TailError::Moved { stream: at, wanted, found } => {
                assert_eq!((at, wanted, found), (stream(1, 0), Sequence(1), first));
            }
            other => panic!("{other}"),
        }
        assert_eq!(tail(&rig, 60).unwrap().len(), 21);
    }
}
