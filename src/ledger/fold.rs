use std::collections::{BTreeMap, HashMap};

use crate::clock::UnixMillis;
use crate::journal::{Sequence, StreamId};
use crate::message::InstanceId;

/// What the journal says since the last commit: messages by instance and second, and how far each
/// stream was read.
#[derive(Debug, Default)]
pub struct Fold {
    seconds: HashMap<(InstanceId, u64), u64>,
    watermarks: BTreeMap<StreamId, Sequence>,
    messages: u64,
}

impl Fold {
    /// Counts one journaled message.
    pub fn add(
        &mut self,
        stream: StreamId,
        sequence: Sequence,
        instance: &InstanceId,
        admitted_at: UnixMillis,
    ) {
        *self.seconds.entry((instance.clone(), admitted_at.seconds())).or_default() += 1;
        self.watermarks.insert(stream, Sequence(sequence.0 + 1));
        self.messages += 1;
    }

    /// Messages counted.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Messages by instance.
    #[must_use]
    pub fn by_instance(&self) -> HashMap<&InstanceId, u64> {
        let mut totals = HashMap::new();
        for ((instance, _), count) in &self.seconds {
            *totals.entry(instance).or_default() += count;
        }
        totals
    }

    pub(super) const fn seconds(&self) -> &HashMap<(InstanceId, u64), u64> {
        &self.seconds
    }

    /// The first sequence number of each stream that is not counted.
    #[must_use]
    pub const fn watermarks(&self) -> &BTreeMap<StreamId, Sequence> {
        &self.watermarks
    }
}
