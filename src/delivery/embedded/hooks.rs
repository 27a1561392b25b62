use std::sync::Arc;

use async_trait::async_trait;
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::context::ServerContext;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType, Type};
use rmqtt::inflight::{MomentStatus, OutInflightMessage};
use rmqtt::net::MqttError;
use rmqtt::session::Session;
use rmqtt::types::{AuthResult, ConnectInfo, From, Publish, QoS, Reason, SubscribeAclResult};

use super::links::Peers;
use super::sign_in::{Directory, Refused};
use super::tenants::Tenants;
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
            Type::ClientSubscribeCheckAcl,
            Type::MessagePublish,
            Type::MessageDelivered,
            Type::MessageDropped,
            Type::ClientDisconnected,
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

    async fn disconnected(&self, session: &Session, reason: &Reason) {
        let Some(tenant) = self.tenants.of(&session.id) else {
            return;
        };
        let stalled = is_write_timeout(reason);
        tenant.disconnected(&session.id.client_id, stalled, !is_stored(session).await);
    }
}

#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, place: &Parameter, so_far: Option<HookResult>) -> ReturnType {
        match place {
            Parameter::ClientAuthenticate(connect) => {
                (false, Some(HookResult::AuthResult(self.sign_in(connect))))
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                let refused = refuse_filter(&subscribe.topic_filter, &session.id.client_id);
                let refused = refused.map(SubscribeAclResult::new_failure);
                (false, refused.map(HookResult::SubscribeAclResult).or(so_far))
            }
            Parameter::MessagePublish(_, _, publish) => {
                (false, addressed(publish).map(HookResult::Publish).or(so_far))
            }
            Parameter::MessageDelivered(session, from, publish) => {
                if is_stored(session).await {
                    keep_in_flight(session, from, publish).await;
                }
                (true, so_far)
            }
            Parameter::MessageDropped(Some(to), _, _, reason) => {
                if let (Some(tenant), Some(reason)) = (self.tenants.of(to), drop_reason(reason)) {
                    tenant.dropped(reason, 1);
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

/// Whether a session outlives its connection.
async fn is_stored(session: &Session) -> bool {
    match session.connect_info().await.as_deref() {
        Ok(ConnectInfo::V3(_, connect)) => !connect.clean_session,
        Ok(ConnectInfo::V5(..)) => !session.fitter.session_expiry_interval(None).is_zero(),
        Err(_) => false,
    }
}

/// Enters a message as in flight before it is written. rmqtt does so after, and so loses the one
/// message whose write fails; its own entry replaces this one.
async fn keep_in_flight(session: &Session, from: &From, publish: &Publish) {
    let status = match publish.qos {
        QoS::AtMostOnce => return,
        QoS::AtLeastOnce => MomentStatus::UnAck,
        QoS::ExactlyOnce => MomentStatus::UnReceived,
    };
    let message = OutInflightMessage::new(status, from.clone(), publish.clone());
    session.out_inflight().write().await.push_back(message);
}

/// A device may not subscribe to what is addressed to another, and no shared subscriptions.
fn refuse_filter(filter: &str, client_id: &str) -> Option<SubscribeAckReason> {
    if filter.starts_with("$share/") {
        return Some(SubscribeAckReason::SharedSubscriptionNotSupported);
    }
    let target = p2p_target(filter)?;
    (target != client_id).then_some(SubscribeAckReason::NotAuthorized)
}

/// A P2P publish bypasses subscriptions, so that no filter ever sees it.
fn addressed(publish: &Publish) -> Option<Publish> {
    let target = p2p_target(&publish.topic)?;
    Some(publish.clone().target_clientid(target.into()))
}

/// The client id of `{parent}/p2p/{client id}`.
fn p2p_target(topic: &str) -> Option<&str> {
    let (parent, client_id) = topic.split_once("/p2p/")?;
    (!parent.contains('/')).then_some(client_id)
}

/// Only what no other place counts.
const fn drop_reason(reason: &Reason) -> Option<DropReason> {
    match reason {
        Reason::MessageExpiration | Reason::SessionExpiration => Some(DropReason::Expired),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_subscribes_to_its_own_p2p_topic_and_to_no_other() {
        assert_eq!(refuse_filter("TopicA/p2p/me", "me"), None);
        assert_eq!(refuse_filter("TopicA/x/p2p/you", "me"), None);
        for filter in ["TopicA/p2p/you", "+/p2p/#", "TopicA/p2p/+", "TopicA/p2p/me/#"] {
            let refused = refuse_filter(filter, "me");
            assert_eq!(refused, Some(SubscribeAckReason::NotAuthorized), "{filter}");
        }
    }
}
