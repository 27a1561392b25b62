//! Sessions back from disk, as if their devices had just gone away.

use std::collections::HashSet;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use rmqtt::codec::types::{Protocol, Publish as Packet};
use rmqtt::codec::v3::Connect as ConnectV3;
use rmqtt::codec::v5::{Connect as ConnectV5, PublishProperties};
use rmqtt::context::ServerContext;
use rmqtt::session::{Session, SessionState};
use rmqtt::shared::{Entry, Shared};
use rmqtt::types::{
    ConnectInfo, DisconnectInfo, Id, ListenerConfig, Message as ToSession, Publish, SessionSubMap,
    SessionSubs, TimestampMillis, Tx, UserName,
};

use super::backlog::{Backlog, Stored};
use super::publishes::weight_bytes;
use super::store::{Body, Copy, Kept, SessionKey, SessionRow, tag_of};
use super::tenants::Tenant;
use crate::clock::UnixMillis;
use crate::metering::DropReason;

/// MQTT 3.1.1.
const PROTOCOL: Protocol = Protocol(4);

impl Tenant {
    /// Puts a stored session in its place, with what waits for it in order.
    pub(super) async fn restore(
        &self,
        broker: &ServerContext,
        listener: &ListenerConfig,
        kept: Kept,
    ) -> rmqtt::Result<()> {
        let id = self.id_of(&kept.row);
        let (session, tx) = self.revive(broker, listener, &id, kept).await?;
        self.sessions.entry(id).set(session, tx).await
    }

    /// Gives a session that lost its task a new one.
    pub(super) async fn heal(&self, lost: &Id) -> rmqtt::Result<()> {
        // Taken while its device comes back: that does the same.
        let Ok(mut entry) = self.sessions.entry(lost.clone()).try_lock().await else {
            return Ok(());
        };
        let has_lost_it = entry.tx().is_some_and(|tx| tx.is_closed());
        match entry.session().filter(|session| has_lost_it && session.id == *lost) {
            Some(session) => self.take_from_disk(&mut *entry, &session).await,
            None => Ok(()),
        }
    }

    /// Puts what is on disk in the place of a session whose task does not hand it over; one that is
    /// not stored has ended.
    pub(super) async fn take_from_disk(
        &self,
        entry: &mut dyn Entry,
        former: &Session,
    ) -> rmqtt::Result<()> {
        let client_id = &former.id.client_id;
        let backlog = self.backlog(client_id);
        let Some(key) = self.key(client_id) else {
            backlog.count_anew();
            return entry.remove_with(&former.id).await.map(|_| ());
        };
        self.hold_for_arrival(client_id);
        let taken = self.read_again(key).await;
        let Ok(Some(kept)) = taken else {
            // It stays as it is. If it has no task, what was held is on disk, and the next sweep
            // tries again.
            if let Some(tx) = entry.tx() {
                self.arrived(client_id, &tx, false);
            }
            return taken.map(|_| ());
        };
        // The former task may hold what it has not read for as long as a write may take.
        backlog.count_anew();
        let known: HashSet<u32> = kept.copies.iter().map(|(place, ..)| tag_of(*place)).collect();
        let id = self.id_of(&kept.row);
        let (session, tx) = self.revive(former.context(), former.listen_cfg(), &id, kept).await?;
        entry.set(session, tx.clone()).await?;
        for (from, publish) in backlog.arriving().take().unwrap_or_default() {
            if publish.delay_interval.is_none_or(|tag| !known.contains(&tag)) {
                // Its task was begun just now.
                let _ = tx.unbounded_send(ToSession::Forward(from, publish));
            }
        }
        Ok(())
    }

    async fn read_again(&self, key: SessionKey) -> rmqtt::Result<Option<Kept>> {
        self.store.sync().await?;
        let store = Arc::clone(&self.store);
        let mut kept = tokio::task::spawn_blocking(move || store.read(key)).await??;
        if let Some(kept) = &mut kept {
            kept.row.away.get_or_insert(self.clock.unix());
        }
        Ok(kept)
    }

    /// Whoever comes back brings a user name of its own; this one names the tenant.
    fn id_of(&self, row: &SessionRow) -> Id {
        let user_name = UserName::from(format!("Device||{}", self.instance));
        Id::new(self.node, 0, None, None, row.client.as_str().into(), Some(user_name))
    }

    async fn revive(
        &self,
        broker: &ServerContext,
        listener: &ListenerConfig,
        id: &Id,
        kept: Kept,
    ) -> rmqtt::Result<(Session, Tx)> {
        let away = kept.row.away.unwrap_or_else(|| self.clock.unix());
        let left = kept.row.expiry.saturating_sub(self.clock.unix().since(away));
        let connect = Arc::new(connect(id, &kept.row));
        let (listener, created) = (Arc::clone(listener), millis(kept.row.created));
        let fitter = broker.extends.fitter_mgr().await;
        let fitter = fitter.create(Arc::clone(&connect), id.clone(), Arc::clone(&listener));
        let filters: SessionSubMap = kept
            .subscriptions
            .into_iter()
            .map(|(filter, subscription)| (filter.into(), subscription.0))
            .collect();
        for (filter, options) in &filters {
            self.subscriptions.add(filter, id.clone(), options.clone());
        }
        let (queue_max, in_flight_max) = (fitter.max_mqueue_len(), fitter.max_inflight());
        let session = Session::new(
            id.clone(),
            broker.clone(),
            queue_max,
            listener,
            fitter,
            None,
            in_flight_max,
            created,
            connect,
            false,
            false,
            false,
            created,
            SessionSubs::from(filters),
            Some(DisconnectInfo::new(millis(away))),
            None,
        )
        .await?;
        let backlog = self.backlog(&id.client_id);
        let (key, sent_before) = (kept.key, kept.row.sent_before);
        *backlog.stored() = Some(Stored { key, id: id.clone(), sent_before });
        // What was worked out at the load lasts: the next crash may be sooner than its connection.
        self.store.update(key, kept.row);
        for (place, _, body, copy) in kept.copies {
            let may_be_sent = copy.packet > 0 || place < sent_before;
            let publish = publish(&backlog, tag_of(place), &body, copy, may_be_sent);
            if let Err((_, publish)) = session.deliver_queue().push((self.weir().clone(), publish))
            {
                // The bound was lowered between two starts.
                self.done(id, &publish);
                self.dropped(DropReason::SessionFull, 1);
            }
        }
        // Not at once: it has to be in its place before it can end.
        let tx = SessionState::offline_restart(session.clone(), left.max(Duration::from_secs(1)));
        Ok((session, tx.await?))
    }
}

fn millis(at: UnixMillis) -> TimestampMillis {
    at.0.try_into().unwrap_or(TimestampMillis::MAX)
}

/// The CONNECT of such a session. Its will, if it had one, is not kept: MQTT leaves it to a server
/// that failed whether it publishes wills after its restart.
fn connect(id: &Id, row: &SessionRow) -> ConnectInfo {
    let (client_id, username) = (id.client_id.clone(), id.username.clone());
    if row.is_v5 {
        let seconds = row.expiry.as_secs();
        let connect = ConnectV5 {
            session_expiry_interval_secs: seconds.try_into().unwrap_or(u32::MAX),
            client_id,
            username,
            ..ConnectV5::default()
        };
        return ConnectInfo::V5(id.clone(), Box::new(connect));
    }
    let connect = ConnectV3 {
        protocol: PROTOCOL,
        clean_session: false,
        client_id,
        username,
        ..ConnectV3::default()
    };
    ConnectInfo::V3(id.clone(), Box::new(connect))
}

/// A copy as it goes to its device. It is marked as sent before where it may have been, and keeps
/// its packet id where that is known (MQTT 3.1.1, 4.4; MQTT 5.0, 3.3.1.1).
fn publish(
    backlog: &Arc<Backlog>,
    tag: u32,
    body: &Body,
    copy: Copy,
    may_be_sent: bool,
) -> Publish {
    let properties =
        PublishProperties { subscription_ids: copy.subscription_ids, ..body.properties.clone() };
    let packet = Packet {
        dup: may_be_sent,
        retain: copy.retain,
        qos: copy.qos,
        topic: body.topic.clone(),
        packet_id: NonZeroU16::new(copy.packet),
        payload: body.payload.clone(),
        properties: Some(properties),
    };
    let mut publish = Publish::new(Box::new(packet), None, Some(tag), Some(body.created));
    publish.payload = backlog.hold(body.payload.clone(), weight_bytes(&publish));
    publish
}
