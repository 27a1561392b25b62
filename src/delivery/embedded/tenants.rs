use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use rmqtt::context::ServerContext;
use rmqtt::router::{DefaultRouter, Router};
use rmqtt::shared::{DefaultShared, Shared};
use rmqtt::types::{
    ClientId, DashMap, From, Id, Message as ToSession, NodeId, Publish, Reason, SubRelations,
    SubscriptionOptions, Tx, UserName as SignedInAs,
};

use super::backlog::Backlog;
use super::config::{Config, Limits, MESSAGE_OVERHEAD_BYTES};
use super::sign_in::UserName;
use crate::message::InstanceId;
use crate::metering::{DeviceMetrics, DropReason};

/// One broker's sessions and subscriptions, an instance each.
///
/// rmqtt keys its tables by the bare client id and topic. Rather than write the tenant into every
/// id, topic, filter and will, each instance has tables of its own: what is in another's table
/// cannot be named. Which table a connection uses follows from its user name, which sign-in checks
/// before anything is entered there.
pub(super) struct Tenants {
    by_instance: HashMap<String, Arc<Tenant>>,
    /// For what names no instance: always empty.
    nobody: Tables,
}

/// What rmqtt knows about sessions and their subscriptions.
pub(super) struct Tables {
    pub(super) sessions: DefaultShared,
    pub(super) subscriptions: DefaultRouter,
}

impl Tables {
    fn new(broker: &ServerContext) -> Self {
        Self {
            sessions: DefaultShared::new(Some(broker.clone())),
            subscriptions: DefaultRouter::new(Some(broker.clone())),
        }
    }
}

impl Tenants {
    pub(super) fn new(broker: &ServerContext, config: &Config, metrics: &DeviceMetrics) -> Self {
        let tenants = config.instances.iter().map(|instance| {
            let tenant = Tenant::new(broker, instance.id.clone(), config.limits, metrics.clone());
            (instance.id.to_string(), Arc::new(tenant))
        });
        Self { by_instance: tenants.collect(), nobody: Tables::new(broker) }
    }

    pub(super) fn of_instance(&self, instance: &InstanceId) -> Option<&Arc<Tenant>> {
        self.by_instance.get(instance.as_str())
    }

    pub(super) fn of(&self, id: &Id) -> Option<&Arc<Tenant>> {
        let user_name = UserName::parse(id.username.as_deref()?)?;
        self.by_instance.get(user_name.instance())
    }

    pub(super) fn tables(&self, id: &Id) -> &Tables {
        self.of(id).map_or(&self.nobody, |tenant| &tenant.tables)
    }

    pub(super) const fn nobody(&self) -> &Tables {
        &self.nobody
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_instance.values()
    }
}

/// One instance's devices.
pub(super) struct Tenant {
    instance: InstanceId,
    pub(super) tables: Tables,
    backlogs: DashMap<ClientId, Arc<Backlog>>,
    limits: Limits,
    metrics: DeviceMetrics,
    node: NodeId,
    weir: From,
}

/// What became of a message offered to a session.
enum Offer {
    Taken,
    NoSession,
    Full(Held),
}

/// A message that found its session full.
pub(super) struct Held {
    client_id: ClientId,
    backlog: Arc<Backlog>,
    publish: Publish,
}

impl Tenant {
    fn new(
        broker: &ServerContext,
        instance: InstanceId,
        limits: Limits,
        metrics: DeviceMetrics,
    ) -> Self {
        let node = broker.node.id();
        let signed_in_as = SignedInAs::from(format!("Device|weir|{instance}"));
        let weir = Id::new(node, 0, None, None, "weir".into(), Some(signed_in_as));
        Self {
            instance,
            tables: Tables::new(broker),
            backlogs: DashMap::default(),
            limits,
            metrics,
            node,
            weir: From::from_system(weir),
        }
    }

    /// Who sends what weir sends to this instance.
    pub(super) const fn weir(&self) -> &From {
        &self.weir
    }

    /// Hands a message to every matching session that has room; returns how many that were, and
    /// the sessions that had none.
    pub(super) async fn forward(&self, from: &From, publish: &Publish) -> (usize, Vec<Held>) {
        let mut reached = 0;
        let mut held = Vec::new();
        for (_, client_id, options, subscription_ids, _) in self.matches(from, publish).await {
            let mut copy = publish.clone();
            copy.dup = false;
            copy.retain = false;
            copy.packet_id = None;
            copy.qos = copy.qos.less_value(options.qos());
            if let (Some(ids), Some(properties)) = (subscription_ids, &mut copy.properties) {
                properties.subscription_ids = ids;
            }
            match self.offer(from, client_id, copy) {
                Offer::Taken => reached += 1,
                Offer::NoSession => self.dropped(DropReason::NoSession, 1),
                Offer::Full(full) => held.push(full),
            }
        }
        (reached, held)
    }

    fn offer(&self, from: &From, client_id: ClientId, mut publish: Publish) -> Offer {
        let backlog = self.backlog(&client_id);
        // Held until the message is on its way: a takeover must not begin in between.
        let mut arriving = backlog.arriving();
        if backlog.is_full() || backlog.is_cut_off() {
            drop(arriving);
            return Offer::Full(Held { client_id, backlog, publish });
        }
        let bytes = publish.payload.len() + publish.topic.len() + MESSAGE_OVERHEAD_BYTES;
        if let Some(waiting) = arriving.as_mut() {
            publish.payload = backlog.hold(publish.payload.clone(), bytes);
            waiting.push((from.clone(), publish));
            return Offer::Taken;
        }
        let Some((session, _)) = self.tables.sessions.tx(&client_id) else {
            return Offer::NoSession;
        };
        publish.payload = backlog.hold(publish.payload.clone(), bytes);
        let sent = session.unbounded_send(ToSession::Forward(from.clone(), publish));
        sent.map_or(Offer::NoSession, |()| Offer::Taken)
    }

    async fn matches(&self, from: &From, publish: &Publish) -> SubRelations {
        if let Some(target) = &publish.target_clientid {
            let mut options = SubscriptionOptions::default();
            options.set_qos(publish.qos);
            return vec![(publish.topic.clone(), target.clone(), options, None, None)];
        }
        let matches = self.tables.subscriptions.matches(from.id.clone(), &publish.topic).await;
        matches.ok().and_then(|mut by_node| by_node.remove(&self.node)).unwrap_or_default()
    }

    /// Waits for full sessions to make room, all at once; cuts off those that do not.
    pub(super) async fn settle(&self, from: &From, held: Vec<Held>) {
        join_all(held.into_iter().map(|held| self.settle_one(from, held))).await;
    }

    async fn settle_one(&self, from: &From, mut held: Held) {
        while !held.backlog.is_cut_off() {
            if !self.is_connected(&held.client_id).await {
                return self.dropped(DropReason::SessionFull, 1);
            }
            if !held.backlog.drained(self.limits.stalled_after).await {
                held.backlog.set_cut_off(true);
                self.close(&held.client_id, Reason::from_static("the device stopped reading"));
                break;
            }
            match self.offer(from, held.client_id, held.publish) {
                Offer::Taken => return,
                Offer::NoSession => return self.dropped(DropReason::NoSession, 1),
                Offer::Full(again) => held = again,
            }
        }
        self.dropped(DropReason::StalledReader, 1);
    }

    /// Keeps back what is published to a client id until its new connection is in place.
    pub(super) fn hold_for_arrival(&self, client_id: &ClientId) {
        *self.backlog(client_id).arriving() = Some(Vec::new());
    }

    /// The new connection is in place: it gets what was kept back. A clean start gets only what
    /// was addressed to it; the rest was for subscriptions that are gone.
    pub(super) fn arrived(&self, client_id: &ClientId, session: &Tx, clean_start: bool) {
        let backlog = self.backlog(client_id);
        let mut arriving = backlog.arriving();
        for (from, publish) in arriving.take().unwrap_or_default() {
            if !clean_start || publish.target_clientid.is_some() {
                // A session that has ended meanwhile waits for nothing.
                let _ = session.unbounded_send(ToSession::Forward(from, publish));
            }
        }
    }

    /// The new connection failed after the old one was gone, and the session with it.
    pub(super) fn arrival_failed(&self, client_id: &ClientId, handed_on: usize) {
        let kept_back = self.backlog(client_id).arriving().take().unwrap_or_default();
        self.dropped(DropReason::NoSession, (kept_back.len() + handed_on) as u64);
    }

    /// A device's connection is gone: what waited for it is lost if its session ends with it.
    pub(super) fn disconnected(&self, client_id: &ClientId, stalled: bool, session_ends: bool) {
        let Some(backlog) = self.backlogs.get(client_id).map(|found| Arc::clone(&found)) else {
            return;
        };
        if stalled || backlog.is_cut_off() {
            let instance = &self.instance;
            tracing::warn!(%instance, %client_id, "cut off a device that stopped reading");
            if session_ends {
                self.dropped(DropReason::StalledReader, backlog.messages() as u64);
            }
        }
        backlog.set_cut_off(false);
    }

    pub(super) fn dropped(&self, reason: DropReason, messages: u64) {
        self.metrics.dropped(&self.instance, reason, messages);
    }

    /// Counts sessions, and forgets the backlogs of those that are gone.
    pub(super) async fn sweep(&self) {
        let (mut connected, mut stored) = (0, 0);
        for id in self.session_ids() {
            let session = self.tables.sessions.entry(id);
            match session.is_connected().await {
                _ if session.tx().is_none_or(|tx| tx.is_closed()) => {}
                true => connected += 1,
                false => stored += 1,
            }
        }
        self.metrics.connected(&self.instance, connected);
        self.metrics.stored(&self.instance, stored);
        self.backlogs.retain(|client_id, backlog| {
            backlog.is_in_use() || self.tables.sessions.exist(client_id)
        });
    }

    /// True once nothing waits for a connected device.
    pub(super) async fn is_flushed(&self) -> bool {
        let waiting = self.backlogs.iter().filter(|backlog| backlog.messages() > 0);
        let waiting: Vec<_> = waiting.map(|backlog| backlog.key().clone()).collect();
        for client_id in waiting {
            if self.is_connected(&client_id).await {
                return false;
            }
        }
        true
    }

    /// Asks every session to close its connection.
    pub(super) fn close_all(&self) {
        for id in self.session_ids() {
            self.close(&id.client_id, Reason::from_static("the broker is stopping"));
        }
    }

    fn close(&self, client_id: &ClientId, reason: Reason) {
        if let Some((session, _)) = self.tables.sessions.tx(client_id) {
            // A session that has ended already needs no closing.
            let _ = session.unbounded_send(ToSession::Closed(reason));
        }
    }

    async fn is_connected(&self, client_id: &ClientId) -> bool {
        let id = Id::from(self.node, client_id.clone());
        self.tables.sessions.entry(id).is_connected().await
    }

    /// Copied out: an entry must not be asked anything while the table is iterated.
    pub(super) fn session_ids(&self) -> Vec<Id> {
        self.tables.sessions.iter().map(|session| session.id()).collect()
    }

    /// Messages that wait for a session, to be sent or to be acknowledged.
    pub(super) fn queued(&self, client_id: &ClientId) -> usize {
        self.backlogs.get(client_id).map_or(0, |backlog| backlog.messages())
    }

    fn backlog(&self, client_id: &ClientId) -> Arc<Backlog> {
        if let Some(backlog) = self.backlogs.get(client_id) {
            return Arc::clone(&backlog);
        }
        let entry = self.backlogs.entry(client_id.clone());
        Arc::clone(&entry.or_insert_with(|| Arc::new(Backlog::new(&self.limits))))
    }
}
