use std::collections::HashMap;

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::restored::Shown;
use super::{MeteringError, Registry, opts};
use crate::message::InstanceId;

/// The billing counters: one success is one billable TPS.
///
/// They start from the ledger and the journal's tail and are moved only by journaled messages, so
/// they never go backwards. A scrape sees them from [`Self::restored`] on.
#[derive(Clone, Debug)]
pub struct Billing {
    by_instance: HashMap<InstanceId, IntCounter>,
    shown: Shown,
    totals: Totals,
}

/// What the ledger has of each instance, beside the billing counters: a message is in those before
/// the ledger can have it, and a scrape never sees it the other way round.
#[derive(Clone, Debug)]
struct Totals {
    by_instance: HashMap<InstanceId, IntCounter>,
    shown: Shown,
}

impl Billing {
    /// Registers the family for the configured instances, and the ledger's beside it.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry, instances: &[InstanceId]) -> Result<Self, MeteringError> {
        let totals = IntCounterVec::new(
            opts("weir_ledger_messages_total", "Messages billed, as the ledger's rows have it."),
            &["instance_id"],
        );
        let billable = IntCounterVec::new(
            opts("weir_billable_messages_total", "Messages billed: SendMessage calls journaled."),
            &["instance_id"],
        );
        let [(totals, totals_shown), (billable, shown)] =
            registry.add_restored(totals, billable)?;
        let by_instance = handles(&billable, instances);
        let totals = Totals { by_instance: handles(&totals, instances), shown: totals_shown };
        Ok(Self { by_instance, shown, totals })
    }

    /// Says that every counter stands where the last process left it.
    pub fn restored(&self) {
        self.shown.show();
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

/// A counter an instance, of a family with that one label.
fn handles(family: &IntCounterVec, instances: &[InstanceId]) -> HashMap<InstanceId, IntCounter> {
    let handle = |id: &InstanceId| (id.clone(), family.with_label_values(&[id.as_str()]));
    instances.iter().map(handle).collect()
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
    totals: Totals,
}

impl LedgerMetrics {
    /// Registers the families; the ledger's totals came with the billing counters.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry, billing: &Billing) -> Result<Self, MeteringError> {
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
            totals: billing.totals.clone(),
        })
    }

    /// Shows what the ledger has of an instance in all; less than before changes nothing.
    pub fn total(&self, instance: &InstanceId, messages: u64) {
        if let Some(counter) = self.totals.by_instance.get(instance) {
            counter.inc_by(messages.saturating_sub(counter.get()));
        }
    }

    /// Says that every total was read from the ledger. A scrape sees them from here on.
    pub fn restored(&self) {
        self.totals.shown.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(registry: &Registry, family: &str) -> Option<u64> {
        let text = String::from_utf8(registry.expose().unwrap()).unwrap();
        let series = format!("{family}{{instance_id=\"post-cn-a\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
    }

    #[test]
    fn a_billing_counter_is_not_seen_at_0_while_a_start_restores_it() {
        let registry = Registry::new();
        let instances = [InstanceId::parse("post-cn-a").unwrap()];
        let billing = Billing::new(&registry, &instances).unwrap();
        let ledger = LedgerMetrics::new(&registry, &billing).unwrap();
        let seen = || {
            let families = ["weir_billable_messages_total", "weir_ledger_messages_total"];
            families.map(|family| sample(&registry, family))
        };
        assert_eq!(seen(), [None, None]);
        billing.add(&instances[0], 7);
        billing.restored();
        assert_eq!(seen(), [Some(7), None]);
        ledger.restored();
        assert_eq!(seen(), [Some(7), Some(0)]);
    }

    #[test]
    fn the_ledgers_total_never_goes_backwards_and_knows_no_other_instance() {
        let registry = Registry::new();
        let [a, b] = ["post-cn-a", "post-cn-b"].map(|id| InstanceId::parse(id).unwrap());
        let billing = Billing::new(&registry, std::slice::from_ref(&a)).unwrap();
        let ledger = LedgerMetrics::new(&registry, &billing).unwrap();
        ledger.restored();
        for (instance, total, seen) in [(&a, 5, 5), (&a, 9, 9), (&a, 3, 9), (&b, 50, 9)] {
            ledger.total(instance, total);
            assert_eq!(sample(&registry, "weir_ledger_messages_total"), Some(seen));
        }
    }

    #[test]
    fn no_scrape_sees_a_message_in_the_ledger_before_it_is_billed() {
        const MESSAGES: u64 = 200_000;
        let registry = Registry::new();
        let instances = [InstanceId::parse("post-cn-a").unwrap()];
        let billing = Billing::new(&registry, &instances).unwrap();
        let ledger = LedgerMetrics::new(&registry, &billing).unwrap();
        billing.restored();
        ledger.restored();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for message in 1..=MESSAGES {
                    billing.add(&instances[0], 1);
                    ledger.total(&instances[0], message);
                }
            });
            loop {
                let is_last = writer.is_finished();
                let text = String::from_utf8(registry.expose().unwrap()).unwrap();
                let value = |family: &str| -> u64 {
                    let line = text.lines().find(|line| line.starts_with(&format!("{family}{{")));
                    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
                };
                let in_ledger = value("weir_ledger_messages_total");
                assert!(in_ledger <= value("weir_billable_messages_total"), "{text}");
                if is_last {
                    break;
                }
            }
        });
    }
}
