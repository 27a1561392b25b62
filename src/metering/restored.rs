use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::IntCounterVec;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

/// Whether a family is shown yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown(Arc<AtomicBool>);

impl Shown {
    /// From now on it is.
    pub(super) fn show(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Two families that a scrape does not see before they stand where the last process left them.
///
/// The first is read before the second: what is counted in the second before it is in the first is
/// never seen in the first alone.
pub(super) struct Restored {
    families: [(IntCounterVec, Shown); 2],
}

impl Restored {
    pub(super) const fn new(families: [(IntCounterVec, Shown); 2]) -> Self {
        Self { families }
    }
}

impl Collector for Restored {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().flat_map(|(family, _)| family.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shown = self.families.iter().filter(|(_, shown)| shown.0.load(Ordering::Acquire));
        shown.flat_map(|(family, _)| family.collect()).collect()
    }
}
