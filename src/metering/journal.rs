use prometheus::{Histogram, IntCounter, IntGauge};

use super::{MeteringError, Registry, opts, seconds_opts};

const SYNC_BUCKETS: [f64; 14] = [
    0.000_062_5,
    0.000_125,
    0.000_25,
    0.000_5,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.128,
    0.512,
    2.048,
    10.0,
];
const BATCH_BUCKETS: [f64; 11] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// What the journals count, all shards together.
#[derive(Clone, Debug)]
pub struct JournalMetrics {
    /// Duration of one fdatasync, in seconds.
    pub sync: Histogram,
    /// Messages in one turn.
    pub batch: Histogram,
    /// Bytes of journal segments on disk.
    pub bytes: IntGauge,
    /// Turns refused because the disk was full.
    pub no_space: IntCounter,
}

impl JournalMetrics {
    /// Registers the families.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, MeteringError> {
        Ok(Self {
            sync: registry.add(Histogram::with_opts(seconds_opts(
                "weir_journal_sync_seconds",
                "Duration of one journal sync.",
                &SYNC_BUCKETS,
            )))?,
            batch: registry.add(Histogram::with_opts(seconds_opts(
                "weir_journal_batch_messages",
                "Messages covered by one journal sync.",
                &BATCH_BUCKETS,
            )))?,
            bytes: registry.add(IntGauge::with_opts(opts(
                "weir_journal_bytes",
                "Bytes of journal segments on disk.",
            )))?,
            no_space: registry.add(IntCounter::with_opts(opts(
                "weir_journal_no_space_total",
                "Turns refused because the disk was full.",
            )))?,
        })
    }
}
