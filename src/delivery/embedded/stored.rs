//! What a tenant keeps of its sessions on disk.
//!
//! rmqtt has no place for a number of ours in a message, but one it does not use itself: the delay
//! of a delayed publish, a feature weir is built without. A copy's tag travels there, from the
//! offer to the acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use rmqtt::session::Session;
use rmqtt::types::{
    ClientId, ConnectInfo, Disconnect, Id, Publish, QoS, SubscribeReturn, Subscriptions,
};

use super::backlog::{Backlog, Stored};
use super::store::{Body, Copy, SessionKey, SessionRow, Subscription, Unsynced};
use super::tenants::Tenant;
use crate::clock::UnixMillis;

/// How long a device's publish waits before it asks a failing disk again.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// One message on its way to many sessions: its body is stored once.
#[derive(Default)]
pub(super) struct Sharing {
    body: Option<Arc<Body>>,
    number: Option<u64>,
}

impl Sharing {
    /// Whether any session's copy was stored.
    pub(super) const fn is_kept(&self) -> bool {
        self.number.is_some()
    }
}

/// How long a session outlives its connection; `None` if it does not.
pub(super) async fn expiry(session: &Session, disconnect: Option<&Disconnect>) -> Option<Duration> {
    let connect = session.connect_info().await.ok()?;
    if matches!(&*connect, ConnectInfo::V3(_, connect) if connect.clean_session) {
        return None;
    }
    let expiry = session.fitter.session_expiry_interval(disconnect);
    (!expiry.is_zero()).then_some(expiry)
}

impl Tenant {
    /// Stores a session's copy, if the session is stored and the message asks for it.
    pub(super) fn keep(&self, backlog: &Backlog, publish: &mut Publish, sharing: &mut Sharing) {
        publish.delay_interval = None;
        if publish.qos == QoS::AtMostOnce {
            return;
        }
        // Held, so that the session cannot end or change hands in between.
        let stored = backlog.stored();
        if let Some(Stored { key, .. }) = &*stored {
            let body = sharing.body.get_or_insert_with(|| Arc::new(Body::of(publish)));
            let tag = self.store.keep(*key, &mut sharing.number, body, Copy::of(publish));
            publish.delay_interval = tag;
        }
    }

    /// Stores what a session takes over from one that was not stored.
    pub(super) fn keep_handed_on(&self, backlog: &Backlog, publish: &mut Publish) {
        let key = backlog.stored().as_ref().map(|stored| stored.key);
        let is_kept =
            |key: SessionKey| publish.delay_interval.is_some_and(|tag| self.store.holds(key, tag));
        if key.is_some_and(|key| !is_kept(key)) {
            self.keep(backlog, publish, &mut Sharing::default());
        }
    }

    pub(super) fn key(&self, client_id: &ClientId) -> Option<SessionKey> {
        let backlog = self.backlogs.get(client_id)?;
        backlog.stored().as_ref().map(|stored| stored.key)
    }

    /// A device has acknowledged a message, or its connection has dropped it. False if it is kept:
    /// a newer connection has taken the session over.
    pub(super) fn done(&self, connection: &Id, publish: &Publish) -> bool {
        let Some(tag) = publish.delay_interval else { return true };
        let Some(backlog) = self.backlogs.get(&connection.client_id) else { return true };
        let stored = backlog.stored();
        let is_its_own = stored.as_ref().is_none_or(|stored| stored.id == *connection);
        if let Some(stored) = stored.as_ref().filter(|_| is_its_own) {
            self.store.done(stored.key, tag);
        }
        is_its_own
    }

    /// A message is being written to its device.
    pub(super) fn sent(&self, connection: &Id, publish: &Publish) {
        if let (Some(tag), Some(packet)) = (publish.delay_interval, publish.packet_id)
            && let Some(backlog) = self.backlogs.get(&connection.client_id)
            && let Some(stored) = backlog.stored().as_ref().filter(|of| of.id == *connection)
        {
            self.store.sent(stored.key, tag, packet.get());
        }
    }

    async fn row(&self, session: &Session, expiry: Duration) -> SessionRow {
        let connect = session.connect_info().await;
        let created = session.created_at().await.unwrap_or_default();
        SessionRow {
            instance: self.instance.to_string(),
            client: session.id.client_id.to_string(),
            is_v5: matches!(connect.as_deref(), Ok(ConnectInfo::V5(..))),
            expiry,
            created: UnixMillis(created.try_into().unwrap_or_default()),
            away: None,
            sent_before: 0,
        }
    }

    /// A new connection is about to be let in: its session is on disk before the CONNACK, or gone
    /// from it if it is not to outlive the connection. With a clean start the former session ends;
    /// else `subscriptions` are its own.
    ///
    /// # Errors
    /// [`Unsynced`] if a session that is promised to last could not be written.
    pub(super) async fn store_arrival(
        &self,
        session: &Session,
        clean_start: bool,
        subscriptions: &Subscriptions,
    ) -> Result<(), Unsynced> {
        let backlog = self.backlog(&session.id.client_id);
        let expiry = expiry(session, None).await;
        let ended = (clean_start || expiry.is_none()) && self.end(&backlog);
        let Some(expiry) = expiry else {
            if ended {
                // If the disk refuses, a crash may bring the former session back; nothing else.
                let _ = self.store.sync().await;
            }
            return Ok(());
        };
        let row = self.row(session, expiry).await;
        let is_new = {
            let mut stored = backlog.stored();
            let resumed = stored.clone().filter(|Stored { key, sent_before, .. }| {
                self.store.update(*key, SessionRow { sent_before: *sent_before, ..row.clone() })
            });
            let is_new = resumed.is_none();
            let (key, sent_before) = match resumed {
                Some(stored) => (stored.key, stored.sent_before),
                None => (self.create(row, subscriptions), 0),
            };
            *stored = Some(Stored { key, id: session.id.clone(), sent_before });
            is_new
        };
        match self.store.sync().await {
            Err(error) if is_new => {
                self.end(&backlog);
                Err(error)
            }
            // What a session had before was promised before: a full disk does not take it away.
            _ => Ok(()),
        }
    }

    fn create(&self, row: SessionRow, subscriptions: &Subscriptions) -> SessionKey {
        let key = self.store.create(row);
        for (filter, options) in subscriptions {
            self.store.subscribe(key, filter, Some(Subscription(options.clone())));
        }
        key
    }

    /// Ends what is stored for a client; true if there was anything.
    fn end(&self, backlog: &Backlog) -> bool {
        let stored = backlog.stored().take();
        stored.map(|stored| self.store.end(stored.key)).is_some()
    }

    /// A session is over: expired, or its device had said so.
    pub(super) fn terminated(&self, session: &Session) {
        let Some(backlog) = self.backlogs.get(&session.id.client_id) else { return };
        // Unless a newer connection has taken it over meanwhile.
        if backlog.stored().as_ref().is_some_and(|stored| stored.id == session.id) {
            self.end(&backlog);
        }
    }

    /// A connection is gone and its session stays.
    pub(super) async fn away(&self, session: &Session, expiry: Duration) {
        let row = SessionRow { away: Some(self.clock.unix()), ..self.row(session, expiry).await };
        let Some(backlog) = self.backlogs.get(&session.id.client_id) else { return };
        let stored = backlog.stored();
        if let Some(stored) = stored.as_ref().filter(|stored| stored.id == session.id) {
            self.store.update(stored.key, SessionRow { sent_before: stored.sent_before, ..row });
        }
    }

    /// Sets or, with `None`, removes a subscription of a stored session, and waits for the disk.
    ///
    /// # Errors
    /// [`Unsynced`] if it could not be written: it is as it was before.
    pub(super) async fn store_subscription(
        &self,
        client_id: &ClientId,
        filter: &str,
        to: Option<Subscription>,
        before: Option<Subscription>,
    ) -> Result<(), Unsynced> {
        let Some(key) = self.key(client_id) else { return Ok(()) };
        self.store.subscribe(key, filter, to);
        let synced = self.store.sync().await;
        if synced.is_err() {
            self.store.subscribe(key, filter, before);
        }
        synced
    }

    /// Undoes a subscription that rmqtt did not take.
    pub(super) fn unstore_subscription(
        &self,
        client_id: &ClientId,
        filter: &str,
        outcome: &rmqtt::Result<SubscribeReturn>,
        before: Option<Subscription>,
    ) {
        let failed = outcome.as_ref().map_or(true, SubscribeReturn::failure);
        if let Some(key) = self.key(client_id).filter(|_| failed) {
            self.store.subscribe(key, filter, before);
        }
    }

    /// Waits until what a device publishes may be taken; not before there is room for it.
    pub(super) async fn room(&self) {
        self.insist(|| self.store.room()).await;
    }

    /// Waits until what a device has published is on disk: its PUBACK says so.
    pub(super) async fn settled(&self) {
        self.insist(|| self.store.sync()).await;
    }

    async fn insist<F: Future<Output = Result<(), Unsynced>>>(&self, ask: impl Fn() -> F) {
        loop {
            match ask().await {
                Ok(()) => return,
                Err(Unsynced::Failing) => tokio::time::sleep(RETRY_EVERY).await,
                // An acknowledgement would be a lie: the connection ends with the process.
                Err(Unsynced::Closed) => std::future::pending().await,
            }
        }
    }
}
