use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::{Batch, Place, Sequence};
use super::failure::{Damage, JournalError};
use super::mailbox::{Mailbox, Step};
use super::segment::{self, Kind, SEGMENT_HEADER_BYTES};
use super::stream::{Entry, Stream};
use super::turns::SegmentFile;

/// Reads a stream in order, every durable record exactly once: from memory while it keeps up, from
/// disk when it fell behind.
pub struct Follower {
    stream: Arc<Stream>,
    mailbox: Arc<Mailbox>,
    position: Sequence,
    read: VecDeque<Arc<Batch>>,
    place: Option<Place>,
    segment: Option<SegmentFile>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stream = &self.stream.id();
        f.debug_struct("Follower")
            .field("stream", stream)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Follower {
    pub(super) const fn new(
        stream: Arc<Stream>,
        mailbox: Arc<Mailbox>,
        position: Sequence,
    ) -> Self {
        Self { stream, mailbox, position, read: VecDeque::new(), place: None, segment: None }
    }

    /// The sequence of the next record it will give.
    #[must_use]
    pub const fn position(&self) -> Sequence {
        self.position
    }

    /// The stream it reads.
    #[must_use]
    pub const fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// True if it has given everything that was handed on so far.
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.position >= self.mailbox.handed()
    }

    /// The next records, in order; `None` once the stream is closed and everything was given.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`JournalError`] if the disk fails or is damaged; the position stays.
    pub async fn next(&mut self) -> Result<Option<Arc<Batch>>, JournalError> {
        loop {
            if let Some(batch) = self.read.pop_front() {
                return Ok(Some(self.give(batch)));
            }
            match self.mailbox.step_or_wait(self.position).await {
                Step::Give(batch) => return Ok(Some(self.give(batch))),
                Step::Read { until } => self.read_on_a_thread(until).await?,
                Step::Wait => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// As [`Self::next`], for a thread that may block.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn next_blocking(&mut self) -> Result<Option<Arc<Batch>>, JournalError> {
        loop {
            if let Some(batch) = self.read.pop_front() {
                return Ok(Some(self.give(batch)));
            }
            match self.mailbox.step_or_block(self.position) {
                Step::Give(batch) => return Ok(Some(self.give(batch))),
                Step::Read { until } => {
                    let mut reader = self.reader(until);
                    self.read = reader.read()?;
                    self.segment = reader.segment;
                }
                Step::Wait => {}
                Step::End => return Ok(None),
            }
        }
    }

    fn give(&mut self, batch: Arc<Batch>) -> Arc<Batch> {
        self.position = batch.next();
        self.place = Some(batch.behind());
        batch
    }

    async fn read_on_a_thread(&mut self, until: Sequence) -> Result<(), JournalError> {
        let mut reader = self.reader(until);
        let read = tokio::task::spawn_blocking(move || (reader.read(), reader.segment)).await;
        let (read, segment) = read.map_err(|error| {
            let stopped = std::io::Error::other(error);
            JournalError::io("read", self.stream.dir())(stopped)
        })?;
        self.segment = segment;
        self.read = read?;
        Ok(())
    }

    fn reader(&mut self, until: Sequence) -> Reader {
        Reader {
            stream: Arc::clone(&self.stream),
            segment: self.segment.take(),
            position: self.position,
            place: self.place,
            until,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stream.forget(&self.mailbox);
    }
}

/// One read from disk.
struct Reader {
    stream: Arc<Stream>,
    segment: Option<SegmentFile>,
    position: Sequence,
    place: Option<Place>,
    until: Sequence,
}

impl Reader {
    /// The batches that one chunk of the segment holds from the position on, at least one.
    fn read(&mut self) -> Result<VecDeque<Arc<Batch>>, JournalError> {
        let entry = self.stream.locate(self.position).ok_or_else(|| JournalError::Trimmed {
            stream: self.stream.id(),
            position: self.position,
            first: self.stream.first(),
        })?;
        let segment = self.open(entry.number)?;
        let read = self.read_segment(&entry, &segment);
        self.segment = Some(segment);
        read
    }

    fn open(&mut self, number: u64) -> Result<SegmentFile, JournalError> {
        let held = self.segment.take().filter(|segment| segment.header.number == number);
        held.map_or_else(
            || {
                let path = segment::file_path(self.stream.dir(), number, Kind::Segment);
                SegmentFile::open(self.stream.storage(), &path, self.stream.id(), number)
            },
            Ok,
        )
    }

    fn read_segment(
        &self,
        entry: &Entry,
        segment: &SegmentFile,
    ) -> Result<VecDeque<Arc<Batch>>, JournalError> {
        let start = self.place.filter(|place| place.segment == entry.number);
        let start = start.map_or(SEGMENT_HEADER_BYTES as u64, |place| place.offset);
        let mut turns = segment.turns(start, entry.end);
        let mut expected = None;
        let mut batches = VecDeque::new();
        while batches.is_empty() || turns.is_in_memory() {
            let offset = turns.offset();
            let Some(turn) = turns.next()? else {
                return Err(JournalError::damaged(&segment.path, offset, Damage::Lost));
            };
            let found = Sequence(turn.header.first);
            let right = expected.map_or(found <= self.position, |expected| found == expected);
            if !right {
                let expected = expected.unwrap_or(self.position);
                let damage = Damage::Order { expected, found };
                return Err(JournalError::damaged(&segment.path, offset, damage));
            }
            let next = Sequence(turn.header.next());
            expected = Some(next);
            if next > self.position {
                batches.push_back(Arc::new(turn.batch(segment, self.position)?));
            }
            if next >= self.until {
                break;
            }
        }
        Ok(batches)
    }
}
