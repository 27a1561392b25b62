//! Words the journal's tests share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::cruel::CruelDisk;
use super::*;
use crate::admission::{Admitted, NonceMark};
use crate::clock::{ManualClock, UnixMillis};
use crate::message::{InstanceId, Message, MessageId, Payload, Topic};
use crate::metering::{JournalMetrics, Registry};

pub(super) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
pub(super) const NONCE_LIFE: Duration = Duration::from_secs(900);
pub(super) const SEGMENT_BYTES: u64 = 4096;

pub(super) fn message(id: u64, payload_bytes: usize) -> Message {
    let byte = u8::try_from(id % 251).unwrap();
    Message {
        id: MessageId::from_u128(u128::from(id)),
        instance: InstanceId::parse("post-cn-test").unwrap(),
        topic: Topic::parse("TopicA/sub").unwrap(),
        payload: Payload::new(Bytes::from(vec![byte; payload_bytes])).unwrap(),
        admitted_at: UnixMillis(NOW.0 + id),
    }
}

pub(super) fn mark(id: u64) -> NonceMark {
    NonceMark { access_key: 7, fingerprint: id, expires_at: NOW.plus(NONCE_LIFE) }
}

pub(super) fn admitted(ids: impl IntoIterator<Item = u64>, payload_bytes: usize) -> Vec<Admitted> {
    let admit = |id| Admitted::untested(message(id, payload_bytes), mark(id));
    ids.into_iter().map(admit).collect()
}

pub(super) fn ids(batch: &Batch) -> Vec<u64> {
    batch.journaled().iter().map(|one| id(one.message())).collect()
}

pub(super) fn id(message: &Message) -> u64 {
    u64::try_from(message.id.to_u128()).unwrap()
}

/// What was seen while the journal was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) records: BTreeMap<StreamId, Vec<(u64, u64)>>,
    pub(super) nonces: Vec<u64>,
    pub(super) progress: (u64, u64),
    /// Where a reader stands in every stream.
    pub(super) reader: Option<Sequence>,
}

impl Seen {
    pub(super) fn ids(&self, stream: StreamId) -> Vec<u64> {
        self.records.get(&stream).into_iter().flatten().map(|(_, id)| *id).collect()
    }
}

impl Visitor for Seen {
    fn record(&mut self, stream: StreamId, at: Sequence, message: &Message, nonce: NonceMark) {
        assert_eq!(nonce.fingerprint, id(message));
        self.records.entry(stream).or_default().push((at.0, id(message)));
    }

    fn nonce(&mut self, mark: NonceMark) {
        self.nonces.push(mark.fingerprint);
    }

    fn positions(&mut self, _: StreamId) -> Vec<Position> {
        let give_up = |_, next| format!("set it to {next}");
        let at = |next| Position { file: "data/reader".into(), next, give_up };
        self.reader.map(at).into_iter().collect()
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        assert!(done_bytes >= self.progress.0 && done_bytes <= total_bytes);
        self.progress = (done_bytes, total_bytes);
    }
}

pub(super) const fn stream(generation: u32, shard: u16) -> StreamId {
    StreamId { generation, shard }
}

/// A journal on a cruel disk, opened as often as a test likes.
pub(super) struct Rig {
    pub(super) disk: CruelDisk,
    pub(super) clock: ManualClock,
    pub(super) config: Config,
    pub(super) metrics: JournalMetrics,
    pub(super) salt: Arc<AtomicU64>,
}

impl Rig {
    pub(super) fn new(seed: u64, shards: u16) -> Self {
        Self {
            disk: CruelDisk::new(seed),
            clock: ManualClock::at(NOW),
            config: Config {
                dir: PathBuf::from("data/journal"),
                shards,
                segment_bytes: SEGMENT_BYTES,
            },
            metrics: JournalMetrics::new(&Registry::new()).unwrap(),
            salt: Arc::new(AtomicU64::new(seed << 20)),
        }
    }

    pub(super) fn environment(&self) -> Environment {
        let salt = Arc::clone(&self.salt);
        let salts: Salts = Arc::new(move || {
            let number = salt.fetch_add(1, Ordering::SeqCst) + 1;
            Ok(number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes())
        });
        Environment {
            storage: Arc::new(self.disk.clone()),
            clock: Arc::new(self.clock.clone()),
            metrics: self.metrics.clone(),
            salts,
        }
    }

    pub(super) fn try_open(&self) -> Result<(Opened, Seen), JournalError> {
        self.open_for(None)
    }

    /// As [`Self::try_open`], with a reader that stands somewhere.
    pub(super) fn open_for(
        &self,
        reader: Option<Sequence>,
    ) -> Result<(Opened, Seen), JournalError> {
        let mut seen = Seen { reader, ..Seen::default() };
        let opened = Journal::open_inline(&self.config, &self.environment(), &mut seen)?;
        Ok((opened, seen))
    }

    pub(super) fn open(&self) -> (Opened, Seen) {
        self.try_open().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Power goes: what was not synced may or may not be there.
    pub(super) fn crash(&mut self) {
        self.disk = self.disk.crash();
    }
}
