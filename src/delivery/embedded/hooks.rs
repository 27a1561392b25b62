use std::sync::Arc;

use async_trait::async_trait;
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::context::ServerContext;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType, Type};
use rmqtt::inflight::{MomentStatus, OutInflightMessage};
use rmqtt::net::MqttError;
use rmqtt::session::Session;
use rmqtt::shared::Shared;
use rmqtt::types::{
    AuthResult, ConnectInfo, From, Id, Publish, PublishAclResult, PublishResult, QoS, Reason,
    SharedGroup, Subscribe, SubscribeAclResult, TopicFilter,
};

use super::filters::{Filter, FilterRefused, p2p_target};
use super::links::Peers;
use super::oversized::is_too_large;
use super::publishes::PublishRefused;
use super::sign_in::{Directory, Refused};
use super::stored;
use super::tenants::{Tenant, Tenants};
use crate::metering::DropReason;

/// What weir decides in the life of a connection.
#[derive(Clone)]
pub(super) struct Hooks {
    pub(super) directory: Arc<Directory>,
    pub(super) tenants: Arc<Tenants>,
    pub(super) peers: Arc<Peers>,
}

impl Hooks {
    pub(super) async fn register(self, broker: &ServerContext) {
        let register = broker.extends.hook_mgr().register();
        for place in [
            Type::ClientAuthenticate,
            Type::ClientSubscribe,
            Type::ClientSubscribeCheckAcl,
            Type::ClientUnsubscribe,
            Type::MessagePublish,
            Type::MessagePublishCheckAcl,
            Type::MessageExpiryCheck,
            Type::MessageDelivered,
            Type::MessageAcked,
            Type::MessageDropped,
            Type::ClientDisconnected,
            Type::SessionTerminated,
        ] {
            register.add(place, Box::new(self.clone())).await;
        }
        register.start().await;
    }

    fn sign_in(&self, connect: &ConnectInfo) -> AuthResult {
        // Whoever finds the listener behind the links does not come in by it.
        if self.peers.of(connect.id()).is_none() {
            return AuthResult::NotAuthorized;
        }
        let user_name = connect.username().map_or("", |name| name.as_ref());
        let password = connect.password().map_or(&[][..], |password| password);
        match self.directory.check(connect.client_id(), user_name, password) {
            Ok(()) => AuthResult::Allow(false, None),
            Err(Refused::BadUserNameOrPassword) => AuthResult::BadUsernameOrPassword,
            Err(Refused::NotAuthorized) => AuthResult::NotAuthorized,
        }
    }

    /// A device may not subscribe to what is addressed to another.
    fn refuse_filter(
        &self,
        session: &Session,
        subscribe: &Subscribe,
    ) -> Option<SubscribeAckReason> {
        let filter = Filter::of(&subscribe.topic_filter);
        if filter.group.is_some() && subscribe.opts.no_local().unwrap_or(false) {
            // A Protocol Error (MQTT 5.0, 3.8.3.1), which ends the connection.
            if let Some(tenant) = self.tenants.of(&session.id) {
                let reason = Reason::ProtocolError("a shared subscription with No Local".into());
                tenant.close(&session.id.client_id, reason);
            }
            return Some(SubscribeAckReason::UnspecifiedError);
        }
        filter.check(&session.id.client_id).err().map(|refused| match refused {
            FilterRefused::Invalid => SubscribeAckReason::TopicFilterInvalid,
            FilterRefused::NotAuthorized => SubscribeAckReason::NotAuthorized,
        })
    }

    /// MQTT 5 has a reason code for a refused message. MQTT 3.1.1 can only acknowledge it all the
    /// same or close the connection (3.3.5), and the former would be a lie. QoS 0 promises nothing,
    /// so a message is dropped and counted.
    async fn check_publish(&self, session: &Session, publish: &Publish) -> PublishAclResult {
        let checked = match self.tenants.of(&session.id) {
            Some(tenant) => tenant.check_publish(&session.id.client_id, publish),
            None => Err(PublishRefused::NotAuthorized),
        };
        let Err(refused) = checked else {
            return PublishAclResult::allow();
        };
        let is_v5 = matches!(session.connect_info().await.as_deref(), Ok(ConnectInfo::V5(..)));
        let closes = !is_v5 && publish.qos != QoS::AtMostOnce;
        PublishAclResult(PublishResult::reason_code(refused.reason_code(), None, closes))
    }

    async fn disconnected(&self, session: &Session, reason: &Reason) {
        let Some(tenant) = self.tenants.of(&session.id) else {
            return;
        };
        let stalled = is_write_timeout(reason);
        let disconnect = session.disconnect().await.ok().flatten();
        let expiry = stored::expiry(session, disconnect.as_ref()).await;
        tenant.disconnected(&session.id, stalled, expiry.is_none());
        if let Some(expiry) = expiry {
            tenant.away(session, expiry).await;
        }
    }
}

#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, place: &Parameter, so_far: Option<HookResult>) -> ReturnType {
        match place {
            Parameter::ClientAuthenticate(connect) => {
                (false, Some(HookResult::AuthResult(self.sign_in(connect))))
            }
            Parameter::ClientSubscribe(_, subscribe) => {
                let filter = whole(subscribe.opts.shared_group(), &subscribe.topic_filter);
                (false, Some(HookResult::TopicFilter(filter)))
            }
            Parameter::ClientUnsubscribe(_, unsubscribe) => {
                let filter = whole(unsubscribe.shared_group.as_ref(), &unsubscribe.topic_filter);
                (false, Some(HookResult::TopicFilter(filter)))
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                let refused = self.refuse_filter(session, subscribe);
                let refused = refused.map(SubscribeAclResult::new_failure);
                (false, refused.map(HookResult::SubscribeAclResult).or(so_far))
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                let answer = self.check_publish(session, publish).await;
                (false, Some(HookResult::PublishAclResult(answer)))
            }
            Parameter::MessagePublish(_, _, publish) => {
                (false, addressed(publish).map(HookResult::Publish).or(so_far))
            }
            Parameter::MessageExpiryCheck(session, _, publish) => {
                // rmqtt asks here, and nowhere else, whether a message is still to be sent; of a
                // PUBREL that is owed as well, so a takeover leaves that nothing to be too large.
                let drops = is_too_large(session, publish).await;
                (!drops, drops.then_some(HookResult::MessageExpiry).or(so_far))
            }
            // Without a tag it is nothing that is stored.
            Parameter::MessageDelivered(session, from, publish)
                if publish.delay_interval.is_some() =>
            {
                keep_in_flight(session, from, publish).await;
                if let Some(tenant) = self.tenants.of(&session.id) {
                    tenant.sent(&session.id, publish);
                }
                (true, so_far)
            }
            Parameter::MessageAcked(session, _, publish) if publish.delay_interval.is_some() => {
                if let Some(tenant) = self.tenants.of(&session.id) {
                    tenant.done(&session.id, publish);
                }
                (true, so_far)
            }
            Parameter::MessageDropped(Some(to), _, publish, reason) => {
                if let Some(tenant) = self.tenants.of(to)
                    && tenant.done(to, publish)
                    && let Some(reason) = drop_reason(tenant, to, publish, reason).await
                {
                    tenant.dropped(reason, 1);
                }
                (true, so_far)
            }
            Parameter::SessionTerminated(session, _) => {
                if let Some(tenant) = self.tenants.of(&session.id) {
                    tenant.terminated(session);
                }
                (true, so_far)
            }
            Parameter::ClientDisconnected(session, reason) => {
                self.disconnected(session, reason).await;
                (true, so_far)
            }
            _ => (true, so_far),
        }
    }
}

/// Enters a stored message as in flight before it is written. rmqtt does so after, and so loses the
/// one message whose write fails; its own entry replaces this one.
async fn keep_in_flight(session: &Session, from: &From, publish: &Publish) {
    let status = match publish.qos {
        QoS::ExactlyOnce => MomentStatus::UnReceived,
        QoS::AtLeastOnce | QoS::AtMostOnce => MomentStatus::UnAck,
    };
    let message = OutInflightMessage::new(status, from.clone(), publish.clone());
    session.out_inflight().write().await.push_back(message);
}

/// The filter as the device wrote it. rmqtt takes the group out, and would take a client's shared
/// and plain subscription to one filter for the same.
fn whole(group: Option<&SharedGroup>, topics: &str) -> Option<TopicFilter> {
    group.map(|group| Filter::named(group, topics).into())
}

/// A P2P publish bypasses subscriptions, so that no filter ever sees it.
fn addressed(publish: &Publish) -> Option<Publish> {
    let target = p2p_target(&publish.topic)?;
    Some(publish.clone().target_clientid(target.into()))
}

/// Only what no other place counts.
async fn drop_reason(
    tenant: &Tenant,
    to: &Id,
    publish: &Publish,
    reason: &Reason,
) -> Option<DropReason> {
    match reason {
        Reason::MessageExpiration => {
            let session = tenant.sessions.entry(to.clone()).session();
            let too_large = match &session {
                Some(session) => is_too_large(session, publish).await,
                None => false,
            };
            Some(if too_large { DropReason::TooLarge } else { DropReason::Expired })
        }
        Reason::SessionExpiration => Some(DropReason::Expired),
        Reason::MessageQueueFull => Some(DropReason::SessionFull),
        _ => None,
    }
}

fn is_write_timeout(reason: &Reason) -> bool {
    match reason {
        Reason::MqttError(MqttError::WriteTimeout | MqttError::FlushTimeout) => true,
        Reason::Reasons(reasons) => reasons.iter().any(is_write_timeout),
        _ => false,
    }
}
