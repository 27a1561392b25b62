use prometheus::{IntGauge, IntGaugeVec};

use super::{MeteringError, Registry, opts};

/// When the certificate of each listener expires, as Unix time in seconds; 0 without TLS.
#[derive(Clone, Debug)]
pub struct TlsMetrics {
    /// The data port's.
    pub http: IntGauge,
    /// The ops port's.
    pub ops: IntGauge,
    /// The devices'.
    pub devices: IntGauge,
}

impl TlsMetrics {
    /// Registers the family.
    ///
    /// # Errors
    /// [`MeteringError`] if the name is taken.
    pub fn new(registry: &Registry) -> Result<Self, MeteringError> {
        let expiry = registry.add(IntGaugeVec::new(
            opts(
                "weir_tls_certificate_expiry_seconds",
                "Unix time at which the certificate chain of a listener expires; 0 without TLS.",
            ),
            &["listener"],
        ))?;
        let of = |listener| expiry.with_label_values(&[listener]);
        Ok(Self { http: of("http"), ops: of("ops"), devices: of("devices") })
    }
}
