//! What must be true of a weir, however it died: a list a stream and a few sets.

use std::collections::{BTreeMap, BTreeSet};

use crate::journal::{Sequence, StreamId};

/// What is known of one stream.
#[derive(Debug, Default)]
struct Log {
    /// Ids of its records, in order; the first has sequence 1.
    journaled: Vec<u64>,
    /// A turn whose sync failed: wholly there or not at all.
    unknown: Vec<u64>,
    /// Records before this one may be gone.
    released: u64,
}

/// The model.
#[derive(Debug, Default)]
pub(super) struct Reference {
    streams: BTreeMap<StreamId, Log>,
    refused: BTreeSet<u64>,
    delivered: BTreeSet<u64>,
    /// Messages acknowledged, and turns found after a start though nobody was told.
    pub(super) acknowledged: u64,
    pub(super) adopted: u64,
    /// Streams that were found without their first records.
    pub(super) trimmed: u64,
}

impl Reference {
    /// Their callers got a 200.
    pub(super) fn acknowledge(&mut self, stream: StreamId, ids: &[u64]) {
        self.streams.entry(stream).or_default().journaled.extend(ids);
        self.acknowledged += ids.len() as u64;
    }

    /// Their callers were told that they are not stored.
    pub(super) fn refuse(&mut self, ids: &[u64]) {
        self.refused.extend(ids);
    }

    /// Their callers were told that nobody knows.
    pub(super) fn leave_open(&mut self, stream: StreamId, ids: &[u64]) {
        self.streams.entry(stream).or_default().unknown.extend(ids);
    }

    /// The broker took it over, or it was kept as a dead letter.
    pub(super) fn deliver(&mut self, id: u64) {
        assert!(!self.refused.contains(&id), "I3: {id} was refused and is delivered");
        self.delivered.insert(id);
    }

    /// Cursor and ledger are durably past what lies before this.
    pub(super) fn release(&mut self, stream: StreamId, before: Sequence) {
        let log = self.streams.entry(stream).or_default();
        log.released = log.released.max(before.0);
    }

    /// I1, I2, I3: what a start finds is what was acknowledged, and perhaps the open turn.
    pub(super) fn compare(&mut self, found: &BTreeMap<StreamId, (Sequence, Vec<u64>)>) {
        for (stream, (first, ids)) in found {
            let log = self.streams.entry(*stream).or_default();
            assert!(first.0 <= log.released.max(1), "I1: {stream} begins at {first}: {log:?}");
            self.trimmed += u64::from(first.0 > 1);
            let from = usize::try_from(first.0 - 1).unwrap();
            let known = log.journaled.get(from..).unwrap_or_default();
            assert!(ids.starts_with(known), "I1: {stream} {ids:?} lacks some of {known:?}");
            let more = &ids[known.len()..];
            assert!(more.is_empty() || more == log.unknown, "I2: {stream} has {more:?} as well");
            self.adopted += more.len() as u64;
            log.journaled.extend(more);
            assert!(!ids.iter().any(|id| self.refused.contains(id)), "I3: {stream} {ids:?}");
        }
        for (stream, log) in &mut self.streams {
            let all = log.journaled.len() as u64 + 1;
            let is_there = found.contains_key(stream) || log.released.max(1) >= all;
            assert!(is_there, "I1: {stream} is gone: {log:?}");
            log.unknown.clear();
        }
    }

    /// I4: what a cursor has passed was delivered.
    pub(super) fn check_cursor(&self, stream: StreamId, next: Sequence) {
        let passed = usize::try_from(next.0 - 1).unwrap();
        let journaled = self.streams.get(&stream).map_or(&[][..], |log| &log.journaled);
        assert!(passed <= journaled.len(), "I4: the cursor of {stream} is past its tail");
        let lost = journaled[..passed].iter().find(|id| !self.delivered.contains(id));
        assert_eq!(lost, None, "I4: {stream}: the cursor {next} has passed an undelivered message");
    }

    /// I2: what must be billed, of the instance that these ids belong to.
    pub(super) fn billed(&self, is_its: impl Fn(u64) -> bool) -> u64 {
        let all = self.streams.values().flat_map(|log| &log.journaled);
        all.filter(|id| is_its(**id)).count() as u64
    }

    /// I4 at the end: everything billed is delivered, and nothing else.
    pub(super) fn check_all_delivered(&self) {
        let all: BTreeSet<_> = self.streams.values().flat_map(|log| &log.journaled).collect();
        assert_eq!(all, self.delivered.iter().collect(), "I4: billed and delivered differ");
    }
}
