use std::fmt;

use crate::admission::NonceMark;
use crate::message::Message;

/// One log: what one shard of one generation wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Counts the changes of the number of shards, from 1. Older ones are delivered first.
    pub generation: u32,
    /// The shard, from 0.
    pub shard: u16,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} shard {}", self.generation, self.shard)
    }
}

/// The place of a record in its stream: from 1, without gaps, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The first of every stream.
    pub const FIRST: Self = Self(1);

    /// The sequence `records` further on.
    #[must_use]
    pub const fn plus(self, records: u64) -> Self {
        Self(self.0.saturating_add(records))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Proof that a message and its bill are on disk under one completed sync.
#[derive(Debug, PartialEq, Eq)]
pub struct Journaled {
    message: Message,
    nonce: NonceMark,
    sequence: Sequence,
}

impl Journaled {
    pub(super) const fn new(message: Message, nonce: NonceMark, sequence: Sequence) -> Self {
        Self { message, nonce, sequence }
    }

    /// The message.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Its place in its stream.
    #[must_use]
    pub const fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The nonce its request used up.
    #[must_use]
    pub const fn nonce(&self) -> NonceMark {
        self.nonce
    }
}

/// Where the bytes behind a turn begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// What one sync made durable, in order; read from disk it may begin inside a turn.
#[derive(Debug)]
pub struct Batch {
    stream: StreamId,
    first: Sequence,
    journaled: Vec<Journaled>,
    bytes: usize,
    behind: Place,
}

impl Batch {
    pub(super) const fn new(
        stream: StreamId,
        first: Sequence,
        journaled: Vec<Journaled>,
        bytes: usize,
        behind: Place,
    ) -> Self {
        Self { stream, first, journaled, bytes, behind }
    }

    /// The stream it belongs to.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// Its messages, in order.
    #[must_use]
    pub fn journaled(&self) -> &[Journaled] {
        &self.journaled
    }

    /// The sequence of its first message.
    #[must_use]
    pub const fn first(&self) -> Sequence {
        self.first
    }

    /// The sequence after its last message.
    #[must_use]
    pub const fn next(&self) -> Sequence {
        self.first.plus(self.journaled.len() as u64)
    }

    /// Bytes it took on disk, about what it takes in memory.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn behind(&self) -> Place {
        self.behind
    }
}
