//! A device that comes back to its stored session.
//!
//! Left to itself rmqtt loses what is published between the old connection's last look at its
//! channel and the new one's entry in the table, and sends what was in flight again in reverse and
//! behind newer messages. Here the session's backlog is held while one connection takes over from
//! the other; then the new one gets everything in order: in flight, waiting, published meanwhile.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rmqtt::inflight::MomentStatus;
use rmqtt::session::{OfflineInfo, Session};
use rmqtt::shared::Entry;
use rmqtt::types::{
    ClientId, From, Id, IsAdmin, Message as ToSession, OfflineSession, Publish, Reason,
    SubsSearchResult, Subscribe, SubscribeReturn, Subscriptions, TopicName, Tx, Unsubscribe,
};
use tokio::sync::oneshot;

use super::devices::has_device;
use super::store::Subscription;
use super::stored;
use super::tenants::Tenant;
use crate::metering::DropReason;

/// How long the former connection's task may take to hand its session over; as long as rmqtt's own.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(5);

/// rmqtt's handle to one client id's session, with its backlog held during a takeover.
pub(super) struct Arrival {
    entry: Box<dyn Entry>,
    tenant: Option<Arc<Tenant>>,
    takeover: Option<Takeover>,
}

#[derive(Default)]
struct Takeover {
    clean_start: bool,
    subscriptions: Subscriptions,
    handed_on: Vec<(From, Publish)>,
    last_packet_id: u16,
}

impl Takeover {
    /// Takes the messages out, but for a QoS 2 exchange whose PUBREL is owed: rmqtt repeats that.
    fn take(&mut self, session: &mut OfflineInfo) {
        self.subscriptions.clone_from(&session.subscriptions);
        for mut message in std::mem::take(&mut session.inflight_messages) {
            self.reserve(&message.publish);
            if message.status == MomentStatus::UnComplete {
                // A PUBREL has none of these. With them rmqtt would ask whether the message has
                // expired or is too large, and then not send it.
                message.publish.payload = Bytes::new();
                message.publish.topic = TopicName::default();
                message.publish.properties = None;
                session.inflight_messages.push(message);
            } else {
                message.publish.dup = true;
                self.handed_on.push((message.from, message.publish));
            }
        }
        // One that was in flight when weir ended has its packet id still.
        session.offline_messages.iter().for_each(|(_, publish)| self.reserve(publish));
        self.handed_on.extend(session.offline_messages.drain(..));
    }

    fn reserve(&mut self, publish: &Publish) {
        let packet_id = publish.packet_id.map_or(0, |id| id.get());
        self.last_packet_id = self.last_packet_id.max(packet_id);
    }
}

impl Arrival {
    pub(super) fn new(entry: Box<dyn Entry>, tenant: Option<Arc<Tenant>>) -> Self {
        Self { entry, tenant, takeover: None }
    }

    /// Whether what rmqtt still knows of the client ends with its connection: then there is nothing
    /// to come back to, however quickly the device does (MQTT 3.1.1, 3.1.2.4; MQTT 5.0, 3.1.2.11).
    async fn former_is_over(&self) -> bool {
        let Some(former) = self.entry.session() else { return false };
        let disconnect = former.disconnect().await.ok().flatten();
        stored::expiry(&former, disconnect.as_ref()).await.is_none()
    }

    /// Asks the task of the former connection for its session. rmqtt takes it unanswered as well,
    /// and with it none of what the task has not read: it is gone, or waits for the disk or for its
    /// device. Then the session is what the disk says.
    async fn take_from_former(
        &mut self,
        clean_start: bool,
        is_admin: IsAdmin,
    ) -> rmqtt::Result<()> {
        let (Some(former), Some(tx)) = (self.entry.session(), self.entry.tx()) else {
            return Ok(());
        };
        let (answer, mut answered) = oneshot::channel();
        // Without its task it is not read, and answered by that.
        let _ = tx.unbounded_send(ToSession::Kick(answer, self.id(), clean_start, is_admin));
        let answer = tokio::time::timeout(HAND_OVER_WITHIN, &mut answered).await;
        let is_handed_over = matches!(answer, Ok(Ok(())));
        if clean_start {
            // Nothing of it is wanted, and rmqtt need not ask again.
            self.entry.remove().await?;
            if let Some(tenant) = self.tenant.as_ref().filter(|_| !is_handed_over) {
                tenant.backlog(&former.id.client_id).count_anew();
            }
        } else if let Some(tenant) = self.tenant.as_ref().filter(|_| !is_handed_over) {
            tenant.take_from_disk(&mut *self.entry, &former).await?;
            tenant.hold_for_arrival(&former.id.client_id);
        }
        if answer.is_err() {
            // The task ends once it reads that somebody waits for it.
            tokio::spawn(answered);
        }
        Ok(())
    }

    async fn subscribed(&self, filter: &str) -> Option<Subscription> {
        let subscriptions = self.entry.session()?.subscriptions().await.ok()?;
        let options = subscriptions.read().await.get(filter).cloned();
        options.map(Subscription)
    }
}

impl Tenant {
    /// Keeps back what is published to a client id until its new connection is in place. What the
    /// former one was cut off for is not held against it.
    pub(super) fn hold_for_arrival(&self, client_id: &ClientId) {
        let backlog = self.backlog(client_id);
        backlog.arriving().get_or_insert_default();
        backlog.set_cut_off(false);
    }

    /// The new connection is in place: it gets what was kept back. A clean start gets only what
    /// was addressed to it; the rest was for subscriptions that are gone.
    pub(super) fn arrived(&self, client_id: &ClientId, session: &Tx, clean_start: bool) {
        let backlog = self.backlog(client_id);
        let mut arriving = backlog.arriving();
        // It has yet to show whether it reads.
        backlog.set_cut_off(false);
        for (from, mut publish) in arriving.take().unwrap_or_default() {
            if !clean_start || publish.target_clientid.is_some() {
                self.keep_handed_on(&backlog, &mut publish);
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
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let (Some(takeover), Some(tenant)) = (self.takeover.take(), &self.tenant) else { return };
        let client_id = &self.entry.id().client_id;
        match self.entry.tx() {
            // The former session is still in its place.
            Some(former) => tenant.arrived(client_id, &former, false),
            None => tenant.arrival_failed(client_id, takeover.handed_on.len()),
        }
    }
}

#[async_trait]
impl Entry for Arrival {
    async fn try_lock(&self) -> rmqtt::Result<Box<dyn Entry>> {
        let locked = self.entry.try_lock().await?;
        Ok(Box::new(Self::new(locked, self.tenant.clone())))
    }

    async fn kick(
        &mut self,
        clean_start: bool,
        clear_subscriptions: bool,
        is_admin: IsAdmin,
    ) -> rmqtt::Result<OfflineSession> {
        let is_over = self.former_is_over().await;
        let (clean_start, clear_subscriptions) =
            (clean_start || is_over, clear_subscriptions || is_over);
        self.takeover = Some(Takeover { clean_start, ..Takeover::default() });
        if let Some(tenant) = &self.tenant {
            tenant.hold_for_arrival(&self.entry.id().client_id);
        }
        self.take_from_former(clean_start, is_admin).await?;
        let kicked = self.entry.kick(clean_start, clear_subscriptions, is_admin).await;
        let mut former = match kicked {
            // Asked again it just ended: without its task it is taken out.
            Err(_) if self.entry.tx().is_none_or(|former| former.is_closed()) => {
                self.entry.kick(clean_start, clear_subscriptions, is_admin).await?
            }
            kicked => kicked?,
        };
        if let (Some(takeover), OfflineSession::Exist(Some(session))) =
            (&mut self.takeover, &mut former)
        {
            takeover.take(session);
        }
        Ok(former)
    }

    async fn set(&mut self, session: Session, tx: Tx) -> rmqtt::Result<()> {
        let packet_ids = session.out_inflight().clone();
        if let Some(tenant) = &self.tenant {
            let nothing = Takeover::default();
            let takeover = self.takeover.as_ref().unwrap_or(&nothing);
            let Takeover { clean_start, subscriptions, .. } = takeover;
            tenant.store_arrival(&session, *clean_start, subscriptions).await?;
        }
        self.entry.set(session, tx.clone()).await?;
        if let (Some(takeover), Some(tenant)) = (self.takeover.take(), &self.tenant) {
            packet_ids.read().await.advance_next_id(takeover.last_packet_id);
            let client_id = self.entry.id().client_id.clone();
            let backlog = tenant.backlog(&client_id);
            for (from, mut publish) in takeover.handed_on {
                tenant.keep_handed_on(&backlog, &mut publish);
                // Whether this connection lives shows when it is served; its session goes with it.
                let _ = tx.unbounded_send(ToSession::Forward(from, publish));
            }
            tenant.arrived(&client_id, &tx, takeover.clean_start);
        }
        Ok(())
    }

    fn id(&self) -> Id {
        self.entry.id()
    }

    fn id_same(&self) -> Option<bool> {
        self.entry.id_same()
    }

    async fn remove(&mut self) -> rmqtt::Result<Option<(Session, Tx)>> {
        self.entry.remove().await
    }

    async fn remove_with(&mut self, id: &Id) -> rmqtt::Result<Option<(Session, Tx)>> {
        self.entry.remove_with(id).await
    }

    async fn online(&self) -> bool {
        self.is_connected().await
    }

    async fn is_connected(&self) -> bool {
        has_device(self.entry.session()).await
    }

    fn session(&self) -> Option<Session> {
        self.entry.session()
    }

    fn exist(&self) -> bool {
        self.entry.exist()
    }

    fn tx(&self) -> Option<Tx> {
        self.entry.tx()
    }

    /// The SUBACK comes after the disk.
    async fn subscribe(&self, subscribe: &Subscribe) -> rmqtt::Result<SubscribeReturn> {
        let Some(tenant) = &self.tenant else { return self.entry.subscribe(subscribe).await };
        let (client_id, filter) = (self.entry.id().client_id.clone(), &subscribe.topic_filter);
        let before = self.subscribed(filter).await;
        let wanted = Some(Subscription(subscribe.opts.clone()));
        tenant.store_subscription(&client_id, filter, wanted, before.clone()).await?;
        let outcome = self.entry.subscribe(subscribe).await;
        let was_subscribed = before.is_some();
        tenant.unstore_subscription(&client_id, filter, &outcome, before);
        if outcome.as_ref().is_ok_and(|outcome| !outcome.failure()) {
            tenant.hand_retained(&client_id, subscribe, was_subscribed);
        }
        outcome
    }

    /// The UNSUBACK as well.
    async fn unsubscribe(&self, unsubscribe: &Unsubscribe) -> rmqtt::Result<bool> {
        if let Some(tenant) = &self.tenant {
            let (client_id, filter) = (&self.entry.id().client_id, &unsubscribe.topic_filter);
            let before = self.subscribed(filter).await;
            tenant.store_subscription(client_id, filter, None, before).await?;
        }
        self.entry.unsubscribe(unsubscribe).await
    }

    async fn publish(&self, from: From, publish: Publish) -> Result<(), (From, Publish, Reason)> {
        self.entry.publish(from, publish).await
    }

    async fn subscriptions(&self) -> Option<Vec<SubsSearchResult>> {
        self.entry.subscriptions().await
    }
}
