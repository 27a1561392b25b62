use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, IntGaugeVec};

use super::{MeteringError, Registry, opts};

/// What is said of the process as a whole.
#[derive(Clone, Debug)]
pub struct ProcessMetrics {
    /// 1 while `/readyz` answers 200.
    pub ready: IntGauge,
    /// Bytes free on the file system of the data directory.
    pub disk_free: IntGauge,
}

impl ProcessMetrics {
    /// Registers the families, the process' own among them.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry, version: &str, commit: &str) -> Result<Self, MeteringError> {
        registry.0.register(Box::new(ProcessCollector::for_self()))?;
        let build = registry.add(IntGaugeVec::new(
            opts("weir_build_info", "Always 1; the labels say what runs."),
            &["version", "commit"],
        ))?;
        build.with_label_values(&[version, commit]).set(1);
        Ok(Self {
            ready: registry.add(IntGauge::with_opts(opts(
                "weir_ready",
                "1 while /readyz answers 200, else 0.",
            )))?,
            disk_free: registry.add(IntGauge::with_opts(opts(
                "weir_disk_free_bytes",
                "Bytes free on the file system of the data directory.",
            )))?,
        })
    }
}
