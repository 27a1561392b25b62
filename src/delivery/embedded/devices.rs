use jiff::Timestamp;
use rmqtt::session::Session;
use rmqtt::shared::Shared;
use rmqtt::types::Id;
use serde::Serialize;

use super::EmbeddedBroker;
use super::links::Peers;
use super::tenants::Tenant;
use crate::message::InstanceId;

/// Sessions of one instance, by client id.
#[derive(Debug, Serialize)]
pub struct DevicePage {
    /// The instance.
    pub instance_id: String,
    /// Devices of the instance that are connected, of all pages.
    pub connected: usize,
    /// Sessions of the instance whose device is away, of all pages.
    pub stored: usize,
    /// The sessions of this page.
    pub devices: Vec<Device>,
    /// What the next page begins behind; none on the last page.
    pub next: Option<String>,
}

/// A session.
#[derive(Debug, Serialize)]
pub struct Device {
    /// Its client id.
    pub client_id: String,
    /// `connected`, or `stored` while its device is away.
    pub state: &'static str,
    /// Since when it is connected or away: RFC 3339, UTC. None if that is not known.
    pub since: Option<String>,
    /// Messages that wait for it: to be sent, or to be acknowledged.
    pub queued: usize,
    /// `3.1`, `3.1.1` or `5`.
    pub protocol: &'static str,
    /// How it is connected: `tcp`, `tls`, `ws` or `wss`. None while its device is away.
    pub link: Option<&'static str>,
    /// From where. None while its device is away.
    pub address: Option<String>,
}

impl EmbeddedBroker {
    /// Up to `devices_max` sessions of an instance, connected or stored, in the order of their
    /// client ids and behind `after`. None if there is no such instance.
    ///
    /// A page is a look at one moment: who comes or goes between two pages is on one, both or none.
    pub async fn devices(
        &self,
        instance: &InstanceId,
        after: Option<&str>,
        devices_max: usize,
    ) -> Option<DevicePage> {
        let tenant = self.tenants.of_instance(instance.as_str())?;
        let mut ids = tenant.session_ids();
        ids.sort_by(|one, other| one.client_id.cmp(&other.client_id));
        let mut page = DevicePage {
            instance_id: instance.to_string(),
            connected: 0,
            stored: 0,
            devices: vec![],
            next: None,
        };
        let mut more = false;
        for id in ids {
            let is_behind = after.is_none_or(|after| &*id.client_id > after);
            let Some((session, connected)) = look(tenant, id).await else { continue };
            *(if connected { &mut page.connected } else { &mut page.stored }) += 1;
            if is_behind && page.devices.len() < devices_max {
                page.devices.push(describe(tenant, &self.peers, &session, connected).await);
            } else {
                more |= is_behind;
            }
        }
        if more {
            page.next = page.devices.last().map(|last| last.client_id.clone());
        }
        Some(page)
    }
}

/// A session that is there still, and whether its device is.
async fn look(tenant: &Tenant, id: Id) -> Option<(Session, bool)> {
    let entry = tenant.sessions.entry(id);
    let session = entry.session()?;
    entry.tx().filter(|tx| !tx.is_closed())?;
    let connected = has_device(Some(session.clone())).await;
    Some((session, connected))
}

async fn describe(tenant: &Tenant, peers: &Peers, session: &Session, connected: bool) -> Device {
    let client_id = &session.id.client_id;
    let since =
        if connected { session.connected_at().await } else { session.disconnected_at().await };
    let since = since.ok().filter(|millis| *millis > 0);
    let since = since.and_then(|millis| Timestamp::from_millisecond(millis).ok());
    let at = connected.then(|| peers.of(&session.id)).flatten();
    Device {
        client_id: client_id.to_string(),
        state: if connected { "connected" } else { "stored" },
        since: since.map(|at| at.to_string()),
        queued: tenant.queued(client_id),
        protocol: match session.protocol().await {
            Ok(3) => "3.1",
            Ok(4) => "3.1.1",
            _ => "5",
        },
        link: at.map(|(link, _)| link.name()),
        address: at.map(|(_, address)| address.to_string()),
    }
}

/// Whether a session's device is connected.
///
/// rmqtt's own answer waits with a part of its table locked. A task that asks for thousands has to
/// yield somewhere (tokio gives it 128 such waits), and if that is there, it may lie behind a task
/// that blocks its thread on the same lock: then nobody signs in any more. A session is asked here
/// after the table is let go of.
pub(super) async fn has_device(session: Option<Session>) -> bool {
    match session {
        Some(session) => session.connected().await.unwrap_or_default(),
        None => false,
    }
}
