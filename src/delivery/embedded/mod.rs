//! The embedded broker: rmqtt in this process, each instance apart from every other.
//!
//! Retained messages, shared subscriptions and wills are there, each within its instance. Topics
//! that begin with `$` are not: nobody may publish to one, so `$SYS/#` shows nothing.

mod arrival;
mod backlog;
mod config;
mod devices;
mod filters;
mod hooks;
mod inbound;
pub mod links;
mod listener;
mod offers;
mod oversized;
mod publishes;
mod recipients;
mod restore;
mod retained;
mod sign_in;
mod silent;
mod start_error;
mod store;
mod stored;
mod subscriptions;
mod tables;
mod tenants;
#[cfg(test)]
mod tests;

pub use config::{
    AccessKey, Config, Device, Instance, Limits, MESSAGE_OVERHEAD_BYTES, RETAINED_BYTES_MAX,
    RETAINED_MESSAGES_MAX, Secret,
};
pub use devices::{Device as ListedDevice, DevicePage};
pub use sign_in::device_password;
pub use start_error::StartError;
pub use store::{FILE, StoreError};

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rmqtt::codec::types::Publish as Packet;
use rmqtt::codec::v5::PublishProperties;
use rmqtt::context::ServerContext;
use rmqtt::server::MqttServer;
use rmqtt::types::{ListenerConfig, Publish, QoS};
use rmqtt::utils::timestamp_millis;
use tokio::task::JoinHandle;

use self::hooks::Hooks;
use self::links::{Links, Peers};
use self::listener::listener;
use self::offers::{RetainedOffered, SharingOffered};
use self::sign_in::Directory;
use self::store::{Loaded, Store};
use self::tables::{Filters, Sessions};
use self::tenants::Tenants;
use super::broker::{Broker, PublishError, RefusedBy, Unsettled};
use crate::clock::Clock;
use crate::message::Message;
use crate::metering::{DeviceMetrics, DropReason};
use crate::tls::{self, Server};

/// How often sessions are counted.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Sweeps between two notes in the store that weir was here: a device that is connected when weir
/// is killed counts as away from the last of them.
const SWEEPS_A_SIGHT: u32 = 60;
/// How often a stopping broker looks whether its sessions are done.
const FLUSH_POLL: Duration = Duration::from_millis(10);

/// The broker in this process.
pub struct EmbeddedBroker {
    local_addr: SocketAddr,
    broker: ServerContext,
    tenants: Arc<Tenants>,
    store: Arc<Store>,
    peers: Arc<Peers>,
    behind_links: OnceLock<BehindLinks>,
    stopping: AtomicBool,
    accepting: JoinHandle<()>,
    sweeping: JoinHandle<((), ())>,
}

/// The listeners with TLS or WebSocket, and rmqtt's own behind them.
struct BehindLinks {
    links: Links,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for BehindLinks {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl EmbeddedBroker {
    /// Binds the listener, takes stored sessions up where the former process in `folder` left
    /// them, and accepts devices from then on.
    ///
    /// # Errors
    /// [`StartError`] if the address cannot be bound, or what is stored cannot be read.
    pub async fn start(
        config: &Config,
        folder: &Path,
        clock: Arc<dyn Clock>,
        metrics: &DeviceMetrics,
    ) -> Result<Self, StartError> {
        let bind = |reason| StartError::Bind { listen: config.listen, reason };
        let listener = listener(config, config.listen).map_err(bind)?;
        let local_addr = listener.local_addr().map_err(bind)?;
        // Its busy check refuses devices by the machine's CPU load, which is not the broker's own.
        let broker = ServerContext::new().busy_check_enable(false).build().await;
        let (store, loaded) = open(folder, &clock, metrics).await?;
        let tenants = Arc::new(Tenants::new(&broker, config, &store, &clock, metrics));
        *broker.extends.shared_mut().await = Box::new(Sessions(Arc::clone(&tenants)));
        *broker.extends.router_mut().await = Box::new(Filters(Arc::clone(&tenants)));
        *broker.extends.retain_mut().await = Box::new(RetainedOffered);
        *broker.extends.shared_subscription_mut().await = Box::new(SharingOffered);
        let directory = Arc::new(Directory::new(config));
        let peers = Arc::new(Peers::default());
        let hooks = Hooks { directory, tenants: Arc::clone(&tenants), peers: Arc::clone(&peers) };
        hooks.register(&broker).await;
        let listener_config = Arc::clone(&listener.cfg);
        restore(&broker, &listener_config, &tenants, &store, loaded).await?;
        let server = MqttServer::new(broker.clone()).listener_by_id(listener, local_addr.port());
        let accepting = tokio::spawn(accept(server.build()));
        let sweeping = sweep(Arc::clone(&tenants), store.clone());
        let within = config.limits.sign_in_within;
        let silent = silent::watch(Arc::clone(&tenants), local_addr.port(), within, clock);
        let sweeping = tokio::spawn(async { tokio::join!(sweeping, silent) });
        let stopping = AtomicBool::new(false);
        let behind_links = OnceLock::new();
        Ok(Self {
            local_addr,
            broker,
            tenants,
            store,
            peers,
            behind_links,
            stopping,
            accepting,
            sweeping,
        })
    }

    /// Opens the listeners with TLS or WebSocket as well. `server` is the TLS side of those that
    /// need it; it is kept fresh from then on.
    ///
    /// # Errors
    /// [`StartError`] if an address cannot be bound.
    pub async fn open_links(
        &self,
        config: &Config,
        links: &links::Config,
        server: Option<Arc<Server>>,
        clock: Arc<dyn Clock>,
    ) -> Result<links::Addresses, StartError> {
        let listen = links::inner_listen();
        let bind = |reason| StartError::Bind { listen, reason };
        let inner = listener(config, listen).map_err(bind)?;
        let at = inner.local_addr().map_err(bind)?;
        let most = config.connections_max;
        let links = Links::open(links, server.as_ref(), at, &self.peers, most).await;
        let links = links.map_err(|unbound| StartError::Link {
            key: unbound.key,
            listen: unbound.listen,
            reason: unbound.reason.to_string(),
        })?;
        let addresses = links.addresses;
        let broker = MqttServer::new(self.broker.clone()).listener_by_id(inner, links::INNER);
        let accepting = tokio::spawn(accept(broker.build()));
        let fresh = tokio::spawn(tls::keep_fresh(server.into_iter().collect(), clock));
        let _ = self.behind_links.set(BehindLinks { links, tasks: [accepting, fresh] });
        Ok(addresses)
    }

    /// Where devices connect; the port is real even if 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Takes no more messages and no more devices, waits up to `flush_max` until connected devices
    /// have acknowledged what waits for them, then closes every connection.
    pub async fn shutdown(&self, flush_max: Duration) {
        self.stopping.store(true, Ordering::Release);
        self.accepting.abort();
        if let Some(behind) = self.behind_links.get() {
            behind.links.close();
        }
        let flushed = async {
            for tenant in self.tenants.iter() {
                while !tenant.is_flushed().await {
                    tokio::time::sleep(FLUSH_POLL).await;
                }
            }
        };
        if tokio::time::timeout(flush_max, flushed).await.is_err() {
            tracing::warn!("stopping while devices have yet to acknowledge messages");
        }
        self.tenants.iter().for_each(|tenant| tenant.close_all());
        let closed = async {
            while self.broker.connections.count() > 0 {
                tokio::time::sleep(FLUSH_POLL).await;
            }
        };
        // A connection that does not close in time ends with the process.
        let _ = tokio::time::timeout(SWEEP_EVERY, closed).await;
        self.sweeping.abort();
        self.store.close().await;
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.accepting.abort();
        self.sweeping.abort();
    }
}

impl Broker for EmbeddedBroker {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(PublishError::Unavailable);
        }
        let tenant = self.tenants.of_instance(message.instance.as_str());
        let tenant = tenant.ok_or(RefusedBy::UnknownInstance)?;
        self.store.room().await.map_err(|_| PublishError::Unavailable)?;
        let forwarded = tenant.forward(tenant.weir(), &packet(message)).await;
        if !forwarded.held.is_empty() {
            tenant.settle(tenant.weir(), forwarded.held).await;
        }
        Ok(())
    }

    async fn settled(&self) -> Result<(), Unsettled> {
        self.store.sync().await.map_err(|error| Unsettled(error.to_string()))
    }
}

async fn open(
    folder: &Path,
    clock: &Arc<dyn Clock>,
    metrics: &DeviceMetrics,
) -> Result<(Arc<Store>, Loaded), StartError> {
    let (folder, clock, errors) = (folder.to_path_buf(), Arc::clone(clock), metrics.store_errors());
    let open = move || Store::open(&folder, clock, errors);
    let opened = tokio::task::spawn_blocking(open).await;
    let (store, loaded) = opened.map_err(|error| StartError::Threads(error.to_string()))??;
    Ok((Arc::new(store), loaded))
}

/// Every stored session in its place, before a device connects and a message is published.
async fn restore(
    broker: &ServerContext,
    listener: &ListenerConfig,
    tenants: &Tenants,
    store: &Store,
    loaded: Loaded,
) -> Result<(), StartError> {
    for (instance, messages) in loaded.expired {
        tracing::info!(%instance, messages, "sessions have expired while weir was away");
        if let Some(tenant) = tenants.of_instance(&instance) {
            tenant.dropped(DropReason::Expired, messages);
        }
    }
    let (mut sessions, mut messages) = (0, 0);
    for kept in loaded.sessions {
        let client_id = kept.row.client.clone();
        let Some(tenant) = tenants.of_instance(&kept.row.instance) else {
            let messages = store.end(kept.key);
            let instance = kept.row.instance;
            tracing::warn!(
                %instance, %client_id, messages,
                "a stored session is dropped: its instance is not configured"
            );
            continue;
        };
        sessions += 1;
        messages += kept.copies.len();
        let restored = tenant.restore(broker, listener, kept).await;
        restored.map_err(|reason| StartError::Restore { client_id, reason })?;
    }
    for (instance, topic, message) in loaded.retained {
        let kept = tenants.of_instance(&instance).map(|tenant| tenant.restore_retained(&message));
        if kept != Some(true) {
            store.retain(&instance, &topic, None);
        }
    }
    if sessions > 0 {
        tracing::info!(sessions, messages, "stored sessions restored");
    }
    Ok(())
}

fn packet(message: &Message) -> Publish {
    let user_properties = vec![
        ("msg_id".into(), message.id.to_string().into()),
        ("instance_id".into(), message.instance.as_str().into()),
    ];
    let packet = Packet {
        dup: false,
        retain: false,
        qos: QoS::AtLeastOnce,
        topic: message.topic.as_str().into(),
        packet_id: None,
        payload: message.payload.bytes().clone(),
        properties: Some(PublishProperties { user_properties, ..PublishProperties::default() }),
    };
    let target = message.topic.p2p_target().map(Into::into);
    Publish::new(Box::new(packet), target, None, Some(timestamp_millis()))
}

async fn accept(server: MqttServer) {
    if let Err(error) = server.run().await {
        tracing::error!(%error, "the embedded broker stopped accepting devices");
    }
}

async fn sweep(tenants: Arc<Tenants>, store: Arc<Store>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    for sweeps in 0_u32.. {
        ticks.tick().await;
        if sweeps.is_multiple_of(SWEEPS_A_SIGHT) {
            store.see();
        }
        for tenant in tenants.iter() {
            for lost in tenant.sweep().await {
                if let Err(error) = tenant.heal(&lost).await {
                    tracing::error!(%error, client_id = %lost.client_id, "a session is not healed");
                }
            }
        }
    }
}
