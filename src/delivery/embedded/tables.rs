//! rmqtt's tables, chosen by the tenant of whoever asks.
//!
//! rmqtt asks with the [`Id`] of a connection, which carries the user name. A question that names
//! no connection (they come from clustering and from administration, and weir has neither) is
//! answered from tables that are always empty.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rmqtt::codec::v5::PublishProperties;
use rmqtt::router::Router;
use rmqtt::session::Session;
use rmqtt::shared::{Entry, Shared};
use rmqtt::types::{
    AllRelationsMap, ForwardedCount, ForwardedRecipients, From, HashMap, Id, MsgID, NodeId,
    Publish, QoS, Reason, Route, SessionStatus, SubRelations, SubRelationsMap, SubsSearchParams,
    SubsSearchResult, SubscriptionOptions, To, TopicName,
};
use rmqtt::utils::Counter;

use super::arrival::Arrival;
use super::tenants::Tenants;

type Undelivered = Vec<(To, From, Publish, Reason)>;

/// The sessions of every tenant.
pub(super) struct Sessions(pub(super) Arc<Tenants>);

#[async_trait]
impl Shared for Sessions {
    fn entry(&self, id: Id) -> Box<dyn Entry> {
        let tenant = self.0.of(&id).cloned();
        Box::new(Arrival::new(self.0.tables(&id).sessions.entry(id), tenant))
    }

    /// What a device publishes, its will included. A full session does not hold it up: the
    /// session may be the publisher's own. Stored copies are on disk before it is acknowledged.
    async fn forwards(
        &self,
        _: Option<MsgID>,
        from: From,
        publish: Publish,
    ) -> Result<ForwardedCount, (ForwardedCount, Undelivered)> {
        let Some(tenant) = self.0.of(&from.id) else {
            return Ok(0);
        };
        let is_acknowledged = publish.qos != QoS::AtMostOnce;
        tenant.room().await;
        let forwarded = tenant.forward(&from, &unshared(publish)).await;
        forwarded.held.iter().for_each(|held| tenant.overflowed(held));
        if is_acknowledged && forwarded.kept {
            tenant.settled().await;
        }
        Ok(forwarded.reached)
    }

    async fn forwards_and_get_shareds(
        &self,
        from: From,
        publish: Publish,
    ) -> Result<(SubRelationsMap, ForwardedRecipients), (ForwardedRecipients, Undelivered)> {
        self.0.nobody().sessions.forwards_and_get_shareds(from, publish).await
    }

    async fn forwards_to(
        &self,
        from: From,
        publish: &Publish,
        relations: SubRelations,
        id: Option<MsgID>,
    ) -> Result<ForwardedRecipients, (ForwardedRecipients, Undelivered)> {
        self.0.nobody().sessions.forwards_to(from, publish, relations, id).await
    }

    fn exist(&self, client_id: &str) -> bool {
        self.0.nobody().sessions.exist(client_id)
    }

    fn iter(&self) -> Box<dyn Iterator<Item = Box<dyn Entry>> + Sync + Send + '_> {
        self.0.nobody().sessions.iter()
    }

    fn random_session(&self) -> Option<Session> {
        self.0.nobody().sessions.random_session()
    }

    async fn session_status(&self, client_id: &str) -> Option<SessionStatus> {
        self.0.nobody().sessions.session_status(client_id).await
    }

    async fn client_states_count(&self) -> usize {
        self.0.nobody().sessions.client_states_count().await
    }

    fn sessions_count(&self) -> usize {
        self.0.nobody().sessions.sessions_count()
    }

    async fn query_subscriptions(&self, query: &SubsSearchParams) -> Vec<SubsSearchResult> {
        self.0.nobody().subscriptions.query_subscriptions(query).await
    }

    async fn subscriptions_count(&self) -> usize {
        self.0.nobody().sessions.subscriptions_count().await
    }
}

/// The message with memory of its own: as decoded, its smallest part keeps the whole buffer alive
/// that the device's packets were read into.
fn unshared(mut publish: Publish) -> Publish {
    publish.payload = Bytes::copy_from_slice(&publish.payload);
    publish.topic = publish.topic.to_string().into();
    publish.properties = publish.properties.take().map(|properties| PublishProperties {
        correlation_data: properties.correlation_data.map(|data| Bytes::copy_from_slice(&data)),
        content_type: properties.content_type.map(|text| text.to_string().into()),
        response_topic: properties.response_topic.map(|text| text.to_string().into()),
        user_properties: properties
            .user_properties
            .into_iter()
            .map(|(name, value)| (name.to_string().into(), value.to_string().into()))
            .collect(),
        ..properties
    });
    publish
}

/// The subscriptions of every tenant.
pub(super) struct Subscriptions(pub(super) Arc<Tenants>);

#[async_trait]
impl Router for Subscriptions {
    async fn add(&self, filter: &str, id: Id, options: SubscriptionOptions) -> rmqtt::Result<()> {
        self.0.tables(&id).subscriptions.add(filter, id, options).await
    }

    async fn remove(&self, filter: &str, id: Id) -> rmqtt::Result<bool> {
        self.0.tables(&id).subscriptions.remove(filter, id).await
    }

    async fn matches(&self, id: Id, topic: &TopicName) -> rmqtt::Result<SubRelationsMap> {
        self.0.tables(&id).subscriptions.matches(id, topic).await
    }

    async fn is_online(&self, node: NodeId, client_id: &str) -> bool {
        self.0.nobody().subscriptions.is_online(node, client_id).await
    }

    async fn gets(&self, limit: usize) -> Vec<Route> {
        self.0.nobody().subscriptions.gets(limit).await
    }

    async fn get(&self, topic: &str) -> rmqtt::Result<Vec<Route>> {
        self.0.nobody().subscriptions.get(topic).await
    }

    async fn query_subscriptions(&self, query: &SubsSearchParams) -> Vec<SubsSearchResult> {
        self.0.nobody().subscriptions.query_subscriptions(query).await
    }

    async fn topics_tree(&self) -> usize {
        self.0.nobody().subscriptions.topics_tree().await
    }

    fn topics(&self) -> Counter {
        self.0.nobody().subscriptions.topics()
    }

    fn routes(&self) -> Counter {
        self.0.nobody().subscriptions.routes()
    }

    fn merge_topics(&self, topics: &HashMap<NodeId, Counter>) -> Counter {
        self.0.nobody().subscriptions.merge_topics(topics)
    }

    fn merge_routes(&self, routes: &HashMap<NodeId, Counter>) -> Counter {
        self.0.nobody().subscriptions.merge_routes(routes)
    }

    async fn list_topics(&self, top: usize) -> Vec<String> {
        self.0.nobody().subscriptions.list_topics(top).await
    }

    async fn list_relations(&self, top: usize) -> Vec<serde_json::Value> {
        self.0.nobody().subscriptions.list_relations(top).await
    }

    fn relations(&self) -> &AllRelationsMap {
        self.0.nobody().subscriptions.relations()
    }
}
