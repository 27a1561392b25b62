use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::{join_all, select_all};
use rmqtt::context::ServerContext;
use rmqtt::router::DefaultRouter;
use rmqtt::shared::{DefaultShared, Shared};
use rmqtt::types::{
    ClientId, DashMap, From, Id, Message as ToSession, NodeId, Publish, Reason,
    UserName as SignedInAs,
};

use super::backlog::Backlog;
use super::config::{Config, Instance, Limits};
use super::devices::has_device;
use super::publishes::{Publishes, weight_bytes};
use super::retained::RetainedMessages;
use super::sign_in::UserName;
use super::store::Store;
use super::stored::Sharing;
use super::subscriptions::{Recipient, Subscriptions};
use crate::clock::Clock;
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
    /// For what names no instance.
    nobody: Nobody,
}

/// rmqtt's own tables, always empty.
pub(super) struct Nobody {
    pub(super) sessions: DefaultShared,
    pub(super) router: DefaultRouter,
}

impl Tenants {
    pub(super) fn new(
        broker: &ServerContext,
        config: &Config,
        store: &Arc<Store>,
        clock: &Arc<dyn Clock>,
        metrics: &DeviceMetrics,
    ) -> Self {
        let tenants = config.instances.iter().map(|instance| {
            let (store, clock) = (Arc::clone(store), Arc::clone(clock));
            let tenant =
                Tenant::new(broker, instance, config.limits, store, clock, metrics.clone());
            (instance.id.to_string(), Arc::new(tenant))
        });
        let sessions = DefaultShared::new(Some(broker.clone()));
        let router = DefaultRouter::new(Some(broker.clone()));
        Self { by_instance: tenants.collect(), nobody: Nobody { sessions, router } }
    }

    pub(super) fn of_instance(&self, instance: &str) -> Option<&Arc<Tenant>> {
        self.by_instance.get(instance)
    }

    pub(super) fn of(&self, id: &Id) -> Option<&Arc<Tenant>> {
        let user_name = UserName::parse(id.username.as_deref()?)?;
        self.by_instance.get(user_name.instance())
    }

    pub(super) const fn nobody(&self) -> &Nobody {
        &self.nobody
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_instance.values()
    }
}

/// One instance's devices.
pub(super) struct Tenant {
    pub(super) instance: InstanceId,
    pub(super) sessions: DefaultShared,
    pub(super) subscriptions: Subscriptions,
    pub(super) publishes: Publishes,
    pub(super) retained: RetainedMessages,
    pub(super) backlogs: DashMap<ClientId, Arc<Backlog>>,
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) node: NodeId,
    limits: Limits,
    pub(super) metrics: DeviceMetrics,
    weir: From,
}

/// What became of a message offered to every session it is for.
pub(super) struct Forwarded {
    /// Sessions that took it.
    pub(super) reached: usize,
    /// Sessions that had no room.
    pub(super) held: Vec<Held>,
    /// Whether any copy was stored, and is to be on disk before it is acknowledged.
    pub(super) kept: bool,
}

/// What became of a message offered to a session.
pub(super) enum Offer {
    Taken,
    NoSession,
    Full(Held),
}

/// A message that found its session full.
pub(super) struct Held {
    client_id: ClientId,
    backlog: Arc<Backlog>,
    publish: Publish,
    /// The same message for the others of its group, who are full as well.
    others: Vec<Held>,
}

impl Tenant {
    fn new(
        broker: &ServerContext,
        instance: &Instance,
        limits: Limits,
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        metrics: DeviceMetrics,
    ) -> Self {
        let node = broker.node.id();
        let signed_in_as = SignedInAs::from(format!("Device|weir|{}", instance.id));
        let weir = Id::new(node, 0, None, None, "weir".into(), Some(signed_in_as));
        Self {
            instance: instance.id.clone(),
            sessions: DefaultShared::new(Some(broker.clone())),
            subscriptions: Subscriptions::default(),
            publishes: Publishes::new(&instance.topics, limits.device_qps, Arc::clone(&clock)),
            retained: RetainedMessages::new(limits.retained_messages_max),
            backlogs: DashMap::default(),
            store,
            clock,
            node,
            limits,
            metrics,
            weir: From::from_system(weir),
        }
    }

    /// Who sends what weir sends to this instance.
    pub(super) const fn weir(&self) -> &From {
        &self.weir
    }

    /// Hands a message to every matching session that has room.
    pub(super) async fn forward(&self, from: &From, publish: &Publish) -> Forwarded {
        let mut reached = 0;
        let mut held = Vec::new();
        let mut sharing = Sharing::default();
        for recipient in self.recipients(from, publish).await {
            let (client_id, copy) = (recipient.client_id.clone(), recipient.copy_of(publish));
            match self.offer(from, client_id, copy, &mut sharing) {
                Offer::Taken => reached += 1,
                Offer::NoSession => self.dropped(DropReason::NoSession, 1),
                Offer::Full(full) => held.push(self.with_its_group(full, &recipient, publish)),
            }
        }
        Forwarded { reached, held, kept: sharing.is_kept() }
    }

    fn with_its_group(&self, full: Held, recipient: &Recipient, publish: &Publish) -> Held {
        let others = recipient.instead.iter().map(|other| Held {
            client_id: other.client_id.clone(),
            backlog: self.backlog(&other.client_id),
            publish: other.copy_of(publish),
            others: Vec::new(),
        });
        Held { others: others.collect(), ..full }
    }

    pub(super) fn offer(
        &self,
        from: &From,
        client_id: ClientId,
        mut publish: Publish,
        sharing: &mut Sharing,
    ) -> Offer {
        let backlog = self.backlog(&client_id);
        // Held until the message is on its way: a takeover must not begin in between.
        let mut arriving = backlog.arriving();
        if backlog.is_full() || backlog.is_cut_off() {
            drop(arriving);
            return Offer::Full(Held { client_id, backlog, publish, others: Vec::new() });
        }
        let bytes = weight_bytes(&publish);
        if let Some(waiting) = arriving.as_mut() {
            self.keep(&backlog, &mut publish, sharing);
            publish.payload = backlog.hold(publish.payload.clone(), bytes);
            waiting.push((from.clone(), publish));
            return Offer::Taken;
        }
        let Some((session, _)) = self.sessions.tx(&client_id) else {
            return Offer::NoSession;
        };
        self.keep(&backlog, &mut publish, sharing);
        publish.payload = backlog.hold(publish.payload.clone(), bytes);
        let is_kept = publish.delay_interval.is_some();
        let sent = session.unbounded_send(ToSession::Forward(from.clone(), publish));
        // A stored session without a task is healed by the next sweep, and finds it on disk.
        if sent.is_ok() || is_kept { Offer::Taken } else { Offer::NoSession }
    }

    /// Waits for full sessions to make room, all at once; cuts off those that do not.
    pub(super) async fn settle(&self, from: &From, held: Vec<Held>) {
        join_all(held.into_iter().map(|held| self.settle_one(from, held))).await;
    }

    /// A message for a group goes to whoever of it makes room first.
    async fn settle_one(&self, from: &From, mut held: Held) {
        let mut waiting = std::mem::take(&mut held.others);
        waiting.insert(0, held);
        loop {
            if waiting.iter().all(|held| held.backlog.is_cut_off()) {
                return self.dropped(DropReason::StalledReader, 1);
            }
            waiting = self.still_connected(waiting).await;
            if waiting.is_empty() {
                return;
            }
            let Some(place) = self.first_drained(&waiting).await else {
                for held in &waiting {
                    self.cut_off(held).await;
                }
                continue;
            };
            let held = waiting.remove(place);
            match self.offer(from, held.client_id, held.publish, &mut Sharing::default()) {
                Offer::Taken => return,
                Offer::NoSession if waiting.is_empty() => {
                    return self.dropped(DropReason::NoSession, 1);
                }
                Offer::NoSession => {}
                Offer::Full(again) => waiting.push(again),
            }
        }
    }

    /// The message is dropped if no session is left that could take it.
    async fn still_connected(&self, waiting: Vec<Held>) -> Vec<Held> {
        let (mut connected, mut away) = (Vec::new(), None);
        for held in waiting {
            if held.backlog.is_cut_off() {
                continue;
            }
            match self.is_connected(&held.client_id).await {
                true => connected.push(held),
                false => away = Some(held),
            }
        }
        if let Some(away) = away.filter(|_| connected.is_empty()) {
            self.overflowed(&away);
        }
        connected
    }

    /// Whose session has half its bound free first, if any has in time.
    async fn first_drained(&self, waiting: &[Held]) -> Option<usize> {
        let each = waiting.iter().map(|held| held.backlog.drained(self.limits.stalled_after));
        let (has_drained, place, _) = select_all(each.map(Box::pin)).await;
        has_drained.then_some(place)
    }

    /// Closes the connection of a device that makes no room, unless it has left meanwhile.
    async fn cut_off(&self, held: &Held) {
        held.backlog.set_cut_off(true);
        // Asked only now: a device that leaves from here on finds the mark and takes it away.
        if self.is_connected(&held.client_id).await {
            self.close(&held.client_id, Reason::from_static("the device stopped reading"));
        } else {
            held.backlog.set_cut_off(false);
        }
    }

    /// Counts a message for which its session has no room; says so once until there is some.
    pub(super) fn overflowed(&self, held: &Held) {
        self.dropped(DropReason::SessionFull, 1);
        if held.backlog.overflows_anew() {
            let (instance, client_id) = (&self.instance, &held.client_id);
            tracing::warn!(
                %instance, %client_id, messages = held.backlog.messages(),
                "a session is full: what it cannot hold is dropped and counted"
            );
        }
    }

    /// A device's connection is gone: what waited for it is lost if its session ends with it. One
    /// that was taken over has nothing left: what waits is for the connection in its place.
    pub(super) fn disconnected(&self, id: &Id, stalled: bool, session_ends: bool) {
        let client_id = &id.client_id;
        let Some(backlog) = self.backlogs.get(client_id).map(|found| Arc::clone(&found)) else {
            return;
        };
        if self.sessions.entry(id.clone()).id_same() == Some(false) {
            return;
        }
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

    /// Counts sessions, and forgets what is kept about clients that are gone. Returns the sessions
    /// that lost their task: a device that leaves before its CONNACK takes rmqtt's with it.
    pub(super) async fn sweep(&self) -> Vec<Id> {
        self.publishes.sweep();
        let (mut connected, mut stored) = (0, 0);
        let mut lost = Vec::new();
        for id in self.session_ids() {
            let session = self.sessions.entry(id.clone());
            match has_device(session.session()).await {
                _ if session.tx().is_none_or(|tx| tx.is_closed()) => lost.push(id),
                true => connected += 1,
                false => stored += 1,
            }
        }
        self.metrics.connected(&self.instance, connected);
        self.metrics.stored(&self.instance, stored);
        self.backlogs
            .retain(|client_id, backlog| backlog.is_in_use() || self.sessions.exist(client_id));
        lost
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

    pub(super) fn close(&self, client_id: &ClientId, reason: Reason) {
        if let Some((session, _)) = self.sessions.tx(client_id) {
            // A session that has ended already needs no closing.
            let _ = session.unbounded_send(ToSession::Closed(reason));
        }
    }

    pub(super) async fn is_connected(&self, client_id: &ClientId) -> bool {
        let id = Id::from(self.node, client_id.clone());
        has_device(self.sessions.entry(id).session()).await
    }

    /// Copied out: an entry must not be asked anything while the table is iterated.
    pub(super) fn session_ids(&self) -> Vec<Id> {
        self.sessions.iter().map(|session| session.id()).collect()
    }

    /// Messages that wait for a session, to be sent or to be acknowledged.
    pub(super) fn queued(&self, client_id: &ClientId) -> usize {
        self.backlogs.get(client_id).map_or(0, |backlog| backlog.messages())
    }

    pub(super) fn backlog(&self, client_id: &ClientId) -> Arc<Backlog> {
        if let Some(backlog) = self.backlogs.get(client_id) {
            return Arc::clone(&backlog);
        }
        let entry = self.backlogs.entry(client_id.clone());
        Arc::clone(&entry.or_insert_with(|| Arc::new(Backlog::new(&self.limits))))
    }
}
