use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::delivery::embedded::links::DESCRIPTORS_A_DEVICE;

/// Descriptors kept for weir's own files: segments, ledger, listeners, metrics, and some to spare.
const OWN_FILES: usize = 256;

/// Asks for as many descriptors as the system grants, and lets in no more connections than leave
/// weir's own files theirs: a journal that cannot open a file could not go on.
pub(super) fn fit(config: &mut Config) {
    lessen(config, raise());
}

fn lessen(config: &mut Config, granted: usize) {
    // With a broker elsewhere no device connects here.
    let has_devices = config.mqtt.is_none();
    let a_device = if config.device_links.is_any() { DESCRIPTORS_A_DEVICE } else { 1 };
    let devices = if has_devices { config.broker.connections_max } else { 0 };
    let asked = config.wire.connections_max.saturating_add(devices.saturating_mul(a_device));
    let Some(room) = granted.checked_sub(OWN_FILES).filter(|room| *room < asked) else { return };
    let share = if has_devices { room / 2 } else { room };
    config.wire.connections_max = share.clamp(1, config.wire.connections_max);
    let devices = (share / a_device).clamp(1, config.broker.connections_max);
    config.broker.connections_max = devices;
    tracing::warn!(
        descriptors = granted,
        http_connections_max = config.wire.connections_max,
        devices_connections_max = has_devices.then_some(devices),
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

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "data_dir = \"x\"\n[[accounts]]\nid = \"1\"\n[[instances]]\n\
        id = \"post-cn-1\"\naccount = \"1\"\ntopics = [\"TopicA\"]\n[http]\n\
        connections_max = 1000\n[delivery]\n";

    /// Connections of calls and of devices that are let in with so many descriptors.
    fn left(delivery: &str, granted: usize) -> (usize, usize) {
        let mut config = Config::parse("weir.toml", &format!("{TENANT}{delivery}")).unwrap();
        lessen(&mut config, granted);
        (config.wire.connections_max, config.broker.connections_max)
    }

    #[test]
    fn both_kinds_of_connections_make_way_for_weirs_own_files_and_none_becomes_more() {
        let devices = "embedded.connections_max = 3000";
        assert_eq!(left(devices, OWN_FILES + 4_000), (1_000, 3_000));
        assert_eq!(left(devices, OWN_FILES + 3_000), (1_000, 1_500));
        assert_eq!(left(devices, OWN_FILES + 100), (50, 50));
        assert_eq!(left(devices, OWN_FILES), (1, 1));
    }

    #[test]
    fn with_a_broker_elsewhere_its_devices_take_no_descriptors() {
        let elsewhere = "kind = \"mqtt\"\nmqtt.url = \"mqtt://127.0.0.1\"";
        assert_eq!(left(elsewhere, OWN_FILES + 1_000).0, 1_000);
        assert_eq!(left(elsewhere, OWN_FILES + 100).0, 100);
    }
}
