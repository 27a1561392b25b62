use std::collections::HashMap;

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge};

use super::{MeteringError, Registry, opts};
use crate::message::InstanceId;

/// What admission counts.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    throttled: HashMap<InstanceId, IntCounter>,
    quota: HashMap<InstanceId, Gauge>,
    /// Nonces remembered, of all access keys.
    pub nonces: IntGauge,
}

impl AdmissionMetrics {
    /// Registers the families for the configured instances.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry, instances: &[InstanceId]) -> Result<Self, MeteringError> {
        let throttled = registry.add(IntCounterVec::new(
            opts("weir_throttled_total", "Calls refused by the instance's token bucket."),
            &["instance_id"],
        ))?;
        let quota = registry.add(GaugeVec::new(
            opts(
                "weir_quota_messages_per_second",
                "Messages a second the instance's token bucket of this process refills.",
            ),
            &["instance_id"],
        ))?;
        Ok(Self {
            throttled: instances
                .iter()
                .map(|id| (id.clone(), throttled.with_label_values(&[id.as_str()])))
                .collect(),
            quota: instances
                .iter()
                .map(|id| (id.clone(), quota.with_label_values(&[id.as_str()])))
                .collect(),
            nonces: registry.add(IntGauge::with_opts(opts(
                "weir_nonces",
                "Signature nonces remembered, of all access keys.",
            )))?,
        })
    }

    /// Shows the rate of an instance's bucket.
    pub fn quota(&self, instance: &InstanceId, messages_per_second: f64) {
        if let Some(quota) = self.quota.get(instance) {
            quota.set(messages_per_second);
        }
    }

    /// The handle an instance keeps.
    #[must_use]
    pub fn throttled(&self, instance: &InstanceId) -> Option<IntCounter> {
        self.throttled.get(instance).cloned()
    }
}
