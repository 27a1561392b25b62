use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::delivery::embedded::links::DESCRIPTORS_A_DEVICE;

/// Descriptors kept for weir's own files: segments, ledger, listeners, metrics, and some to spare.
const OWN_FILES: usize = 256;

/// Asks for as many descriptors as the system grants, and lets in no more connections than leave
/// weir's own files theirs: a journal that cannot open a file could not go on.
pub(super) fn fit(config: &mut Config) {
    let granted = raise();
    let a_device = if config.device_links.is_any() { DESCRIPTORS_A_DEVICE } else { 1 };
    let devices = config.broker.connections_max.saturating_mul(a_device);
    let asked = config.wire.connections_max.saturating_add(devices);
    let Some(room) = granted.checked_sub(OWN_FILES).filter(|room| *room < asked) else { return };
    config.wire.connections_max = (room / 2).max(1);
    config.broker.connections_max = (room / 2 / a_device).max(1);
    tracing::warn!(
        descriptors = granted,
        http_connections_max = config.wire.connections_max,
        devices_connections_max = config.broker.connections_max,
        "fewer file descriptors than connections configured: raise the hard limit (ulimit -Hn, \
         LimitNOFILE) to serve them all"
    );
}

fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let granted = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    granted.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}
