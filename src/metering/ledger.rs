use std::collections::HashMap;

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::{MeteringError, Registry, opts};
use crate::message::InstanceId;

/// The billing counters: one success is one billable TPS.
///
/// They start from the ledger and the journal's tail and are moved only by journaled messages, so
/// they never go backwards.
#[derive(Clone, Debug)]
pub struct Billing {
    by_instance: HashMap<InstanceId, IntCounter>,
}

impl Billing {
    /// Registers the family for the configured instances.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry, instances: &[InstanceId]) -> Result<Self, MeteringError> {
        let billable = registry.add(IntCounterVec::new(
            opts("weir_billable_messages_total", "Messages billed: SendMessage calls journaled."),
            &["instance_id"],
        ))?;
        let by_instance = instances
            .iter()
            .map(|id| (id.clone(), billable.with_label_values(&[id.as_str()])))
            .collect();
        Ok(Self { by_instance })
    }

    /// Adds what an instance has sent.
    pub fn add(&self, instance: &InstanceId, messages: u64) {
        if let Some(counter) = self.by_instance.get(instance) {
            counter.inc_by(messages);
        }
    }

    /// What the counter of an instance shows.
    #[must_use]
    pub fn shown(&self, instance: &InstanceId) -> u64 {
        self.by_instance.get(instance).map_or(0, IntCounter::get)
    }
}

/// What the ledger counts.
#[derive(Clone, Debug)]
pub struct LedgerMetrics {
    /// Journaled messages the ledger does not cover yet.
    pub lag: IntGauge,
    /// Messages admitted in a closed hour, and booked as adjustments of the open one.
    pub late: IntCounter,
    /// Minute rows and adjustments purged; their hours stay.
    pub purged: IntCounter,
}

impl LedgerMetrics {
    /// Registers the families.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, MeteringError> {
        let lag = IntGauge::with_opts(opts(
            "weir_ledger_lag_messages",
            "Journaled messages the ledger does not cover yet.",
        ));
        let late = IntCounter::with_opts(opts(
            "weir_ledger_late_messages_total",
            "Messages admitted in a closed hour, booked as adjustments of the open one.",
        ));
        let purged = IntCounter::with_opts(opts(
            "weir_ledger_purged_rows_total",
            "Minute rows and adjustments of the ledger purged by age.",
        ));
        Ok(Self {
            lag: registry.add(lag)?,
            late: registry.add(late)?,
            purged: registry.add(purged)?,
        })
    }
}
