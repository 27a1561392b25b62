use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::{MeteringError, Registry, opts, seconds_opts};

/// 0.25 ms to 4 s by doubling: a healthy call is one sync, a sick one is a stalled disk.
const DURATION_BUCKETS: [f64; 15] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
    2.048, 4.096,
];

/// What the HTTP front-end counts.
#[derive(Clone, Debug)]
pub struct WireMetrics {
    requests: Vec<IntCounter>,
    /// From the parsed head to the answer handed to the connection, in seconds.
    pub duration: Histogram,
    /// Open connections of the data port.
    pub connections: IntGauge,
    /// Panics caught at the service boundary.
    pub panics: IntCounter,
    /// TLS handshakes of the data port that failed, or took too long.
    pub handshakes_failed: IntCounter,
    /// Lines of the access log that were not written.
    pub access_lines_dropped: IntCounter,
}

impl WireMetrics {
    /// Registers the families; `codes` are the values of `weir_requests_total{code}`.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry, codes: &[&str]) -> Result<Self, MeteringError> {
        let by_code = registry.add(IntCounterVec::new(
            opts("weir_requests_total", "Answered calls by code; OK is a 200."),
            &["code"],
        ))?;
        Ok(Self {
            requests: codes.iter().map(|code| by_code.with_label_values(&[code])).collect(),
            duration: registry.add(Histogram::with_opts(seconds_opts(
                "weir_request_duration_seconds",
                "Time from a parsed request head to its answer.",
                &DURATION_BUCKETS,
            )))?,
            connections: registry.add(IntGauge::with_opts(opts(
                "weir_connections",
                "Open connections of the data port.",
            )))?,
            panics: registry.add(IntCounter::with_opts(opts(
                "weir_panics_total",
                "Panics caught at the service boundary.",
            )))?,
            handshakes_failed: registry.add(IntCounter::with_opts(opts(
                "weir_tls_handshakes_failed_total",
                "TLS handshakes of the data port that failed, or took too long.",
            )))?,
            access_lines_dropped: registry.add(IntCounter::with_opts(opts(
                "weir_access_log_lines_dropped_total",
                "Lines of the access log that were not written: its disk or reader is too slow.",
            )))?,
        })
    }

    /// The counter of the code at `index` of the list the families were registered with.
    pub fn answered(&self, index: usize) {
        if let Some(counter) = self.requests.get(index) {
            counter.inc();
        }
    }
}
