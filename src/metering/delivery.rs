use std::collections::HashMap;

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{MeteringError, Registry, opts, seconds_opts};
use crate::message::InstanceId;

const ACK_BUCKETS: [f64; 12] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.032, 0.128, 0.512, 2.048, 10.0];

/// What delivery counts.
#[derive(Clone, Debug)]
pub struct DeliveryMetrics {
    /// Journaled messages not delivered yet.
    pub backlog: IntGauge,
    /// Bytes of journal that wait for delivery.
    pub backlog_bytes: IntGauge,
    /// Bytes of journal that may; beyond, calls are refused.
    pub backlog_bytes_max: IntGauge,
    /// Messages the broker has taken over.
    pub delivered: IntCounter,
    /// Messages published again after a restart or a reconnect.
    pub duplicates_possible: IntCounter,
    /// Messages given up: older than the retention, or refused by the broker for good.
    pub dead_letters: IntCounter,
    /// Dead letters removed by age.
    pub dead_letters_purged: IntCounter,
    /// Requeued dead letters the broker has taken over.
    pub requeued_delivered: IntCounter,
    /// Requeued dead letters that were given up again.
    pub requeued_dead: IntCounter,
    /// Age of the oldest undelivered message, in seconds.
    pub oldest: Gauge,
    /// From the publish to the broker taking over, in seconds.
    pub ack: Histogram,
    /// Open connections to an external broker.
    pub connections: IntGauge,
    /// Connections to an external broker that were lost.
    pub disconnects: IntCounter,
}

impl DeliveryMetrics {
    /// Registers the families.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, MeteringError> {
        let gauge = |name, help| registry.add(IntGauge::with_opts(opts(name, help)));
        let counter = |name, help| registry.add(IntCounter::with_opts(opts(name, help)));
        let requeued = registry.add(IntCounterVec::new(
            opts(
                "weir_dead_letters_requeued_total",
                "Requeued dead letters by what became of them.",
            ),
            &["outcome"],
        ))?;
        Ok(Self {
            backlog: gauge(
                "weir_delivery_backlog_messages",
                "Journaled messages the broker has not taken over yet.",
            )?,
            backlog_bytes: gauge(
                "weir_delivery_backlog_bytes",
                "Bytes of journal the broker has not taken over yet.",
            )?,
            backlog_bytes_max: gauge(
                "weir_delivery_backlog_max_bytes",
                "Bytes of undelivered journal at which calls are refused.",
            )?,
            delivered: counter("weir_delivered_total", "Messages the broker has taken over.")?,
            duplicates_possible: counter(
                "weir_delivery_duplicates_possible_total",
                "Messages published again after a restart or a reconnect.",
            )?,
            dead_letters: counter(
                "weir_dead_letters_total",
                "Messages given up: too old, or refused by the broker for good.",
            )?,
            dead_letters_purged: counter(
                "weir_dead_letters_purged_total",
                "Dead letters removed by age.",
            )?,
            requeued_delivered: requeued.with_label_values(&["delivered"]),
            requeued_dead: requeued.with_label_values(&["dead"]),
            oldest: registry.add(Gauge::with_opts(opts(
                "weir_delivery_oldest_seconds",
                "Age of the oldest message that waits for the broker.",
            )))?,
            ack: registry.add(Histogram::with_opts(seconds_opts(
                "weir_delivery_ack_seconds",
                "Time from a publish to the broker taking it over.",
                &ACK_BUCKETS,
            )))?,
            connections: gauge(
                "weir_delivery_broker_connections",
                "Open connections to the external broker; 0 with the embedded one.",
            )?,
            disconnects: counter(
                "weir_delivery_broker_disconnects_total",
                "Connections to the external broker that were lost.",
            )?,
        })
    }
}

/// Why a message did not reach a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A P2P message whose target has no session.
    NoSession,
    /// The session's queue is full.
    SessionFull,
    /// The device stopped reading and was cut off.
    StalledReader,
    /// The device itself published faster than it may.
    RateLimited,
    /// It waited for its device longer than it may.
    Expired,
    /// The device itself published to a topic it may not use, or more than a message may hold.
    Refused,
    /// Delivered, but not kept as the device asked: there is no room for more retained messages.
    RetainedFull,
    /// Its packet is larger than its device takes (MQTT 5.0, 3.1.2.11.4).
    TooLarge,
}

impl DropReason {
    const ALL: [Self; 8] = [
        Self::NoSession,
        Self::SessionFull,
        Self::StalledReader,
        Self::RateLimited,
        Self::Expired,
        Self::Refused,
        Self::RetainedFull,
        Self::TooLarge,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::NoSession => "no_session",
            Self::SessionFull => "session_full",
            Self::StalledReader => "stalled_reader",
            Self::RateLimited => "rate_limited",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::RetainedFull => "retained_full",
            Self::TooLarge => "too_large",
        }
    }
}

/// What the embedded broker counts, by instance.
#[derive(Clone, Debug)]
pub struct DeviceMetrics {
    by_instance: HashMap<InstanceId, DeviceHandles>,
    store_errors: IntCounter,
}

#[derive(Clone, Debug)]
struct DeviceHandles {
    connected: IntGauge,
    stored: IntGauge,
    published: IntCounter,
    dropped: [IntCounter; DropReason::ALL.len()],
}

impl DeviceMetrics {
    /// Registers the families for the configured instances.
    ///
    /// # Errors
    /// [`MeteringError`] if a name is taken.
    pub fn new(registry: &Registry, instances: &[InstanceId]) -> Result<Self, MeteringError> {
        let devices = registry.add(IntGaugeVec::new(
            opts("weir_devices", "Devices of the embedded broker by state."),
            &["instance_id", "state"],
        ))?;
        let published = registry.add(IntCounterVec::new(
            opts(
                "weir_device_messages_published_total",
                "Messages taken from devices, wills included; they are never billed.",
            ),
            &["instance_id"],
        ))?;
        let dropped = registry.add(IntCounterVec::new(
            opts(
                "weir_device_messages_dropped_total",
                "Messages the embedded broker dropped on the way to or from a device.",
            ),
            &["instance_id", "reason"],
        ))?;
        let handles = |id: &InstanceId| DeviceHandles {
            connected: devices.with_label_values(&[id.as_str(), "connected"]),
            stored: devices.with_label_values(&[id.as_str(), "stored"]),
            published: published.with_label_values(&[id.as_str()]),
            dropped: DropReason::ALL
                .map(|reason| dropped.with_label_values(&[id.as_str(), reason.label()])),
        };
        let store_errors = registry.add(IntCounter::with_opts(opts(
            "weir_device_store_errors_total",
            "Attempts to write stored sessions that failed; they are repeated.",
        )))?;
        let by_instance = instances.iter().map(|id| (id.clone(), handles(id))).collect();
        Ok(Self { by_instance, store_errors })
    }

    /// Counts attempts to write stored sessions that failed.
    #[must_use]
    pub fn store_errors(&self) -> IntCounter {
        self.store_errors.clone()
    }

    /// Sets how many devices of an instance are connected.
    pub fn connected(&self, instance: &InstanceId, devices: i64) {
        if let Some(handles) = self.by_instance.get(instance) {
            handles.connected.set(devices);
        }
    }

    /// Sets how many sessions of an instance wait for their device.
    pub fn stored(&self, instance: &InstanceId, sessions: i64) {
        if let Some(handles) = self.by_instance.get(instance) {
            handles.stored.set(sessions);
        }
    }

    /// Counts a message that was taken from a device.
    pub fn published(&self, instance: &InstanceId) {
        if let Some(handles) = self.by_instance.get(instance) {
            handles.published.inc();
        }
    }

    /// Counts `messages` that were dropped.
    pub fn dropped(&self, instance: &InstanceId, reason: DropReason, messages: u64) {
        if let Some(handles) = self.by_instance.get(instance) {
            handles.dropped[reason as usize].inc_by(messages);
        }
    }
}
