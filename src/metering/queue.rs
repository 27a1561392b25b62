use prometheus::{IntGauge, IntGaugeVec};

use super::{MeteringError, Registry, opts};

/// What a queue counts.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    /// Slots taken, a gauge a shard.
    pub depth: Vec<IntGauge>,
    /// Slots there are, the same of every shard.
    pub slots: IntGauge,
}

impl QueueMetrics {
    /// Registers the families for `shards` queues.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry, shards: usize) -> Result<Self, MeteringError> {
        let depth = registry.add(IntGaugeVec::new(
            opts("weir_queue_depth", "Slots taken in a shard's queue."),
            &["shard"],
        ))?;
        let depth = (0..shards).map(|shard| depth.with_label_values(&[shard.to_string()]));
        let depth = depth.collect();
        let slots = opts("weir_queue_slots", "Slots of each shard's queue.");
        Ok(Self { depth, slots: registry.add(IntGauge::with_opts(slots))? })
    }
}
