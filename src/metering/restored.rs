use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// A family that a scrape does not see before it stands where the last process left it.
pub(super) struct Restored<C> {
    family: C,
    shown: Shown,
}

impl<C> Restored<C> {
    pub(super) const fn new(family: C, shown: Shown) -> Self {
        Self { family, shown }
    }
}

impl<C: Collector> Collector for Restored<C> {
    fn desc(&self) -> Vec<&Desc> {
        self.family.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if self.shown.0.load(Ordering::Acquire) { self.family.collect() } else { vec![] }
    }
}
