//! Prometheus handles and their exposition. Every family is registered here and is present from
//! the start, at 0; name, help and unit of a family stand in the one file of its stage. Only the
//! counters of billed messages wait until a start has restored them: at 0 they would be a reset,
//! and Prometheus would count everything once more.
//!
//! Never: a global registry, a label looked up on the hot path, a label a caller can choose.

mod admission;
mod delivery;
mod journal;
mod ledger;
mod process;
mod queue;
mod restored;
mod tls;
mod wire;

pub use admission::AdmissionMetrics;
pub use delivery::{DeliveryMetrics, DeviceMetrics, DropReason};
pub use journal::JournalMetrics;
pub use ledger::{Billing, LedgerMetrics};
pub use process::ProcessMetrics;
pub use queue::QueueMetrics;
pub use tls::TlsMetrics;
pub use wire::WireMetrics;

use restored::{Restored, Shown};

use prometheus::core::Collector;
use prometheus::{Encoder, HistogramOpts, IntCounterVec, Opts, TextEncoder};

/// The content type of [`Registry::expose`].
pub const EXPOSITION_TYPE: &str = prometheus::TEXT_FORMAT;

/// Two metric families with one name, or a malformed name: a bug found at start.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MeteringError(#[from] prometheus::Error);

/// The families of one weir process.
#[derive(Clone, Debug, Default)]
pub struct Registry(prometheus::Registry);

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every family in Prometheus' text format.
    ///
    /// # Errors
    /// [`MeteringError`] if a family cannot be encoded.
    pub fn expose(&self) -> Result<Vec<u8>, MeteringError> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.0.gather(), &mut text)?;
        Ok(text)
    }

    /// Registers two families, each shown once what is returned beside it says so, and the first
    /// read before the second.
    fn add_restored(
        &self,
        first: Result<IntCounterVec, prometheus::Error>,
        second: Result<IntCounterVec, prometheus::Error>,
    ) -> Result<[(IntCounterVec, Shown); 2], MeteringError> {
        let families = [(first?, Shown::default()), (second?, Shown::default())];
        self.0.register(Box::new(Restored::new(families.clone())))?;
        Ok(families)
    }

    fn add<C: Collector + Clone + 'static>(
        &self,
        built: Result<C, prometheus::Error>,
    ) -> Result<C, MeteringError> {
        let collector = built?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help)
}

fn seconds_opts(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(buckets.to_vec())
}
