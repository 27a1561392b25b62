//! rmqtt's tables, chosen by the tenant of whoever asks.
//!
//! rmqtt asks with the [`Id`] of a connection, which carries the user name. A question that names
//! no connection (they come from clustering, from administration and from rmqtt's own retained
//! messages, and weir has none of them) is answered from tables that are always empty.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rmqtt::codec::v5::PublishProperties;
use rmqtt::router::Router;
use rmqtt::session::Session;
use rmqtt::shared::{Entry, RetainLoadCallback, Shared};
use rmqtt::types::{
    AllRelationsMap, ForwardedCount, ForwardedRecipients, From, FromType, HashMap, Id, MsgID,
    NodeId, Publish, Reason, Route, SessionStatus, SubRelations, SubRelationsMap, SubsSearchParams,
    SubsSearchResult, SubscriptionOptions, To, TopicFilter, TopicName,
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
        let sessions = tenant.as_ref().map_or(&self.0.nobody().sessions, |known| &known.sessions);
        Box::new(Arrival::new(sessions.entry(id), tenant))
    }

    /// What a device publishes, its will included. Stored copies are on disk before it is
    /// acknowledged. rmqtt asks nobody whether a will may be published, so that is asked here.
    async fn forwards(
        &self,
        _: Option<MsgID>,
        from: From,
        publish: Publish,
    ) -> Result<ForwardedCount, (ForwardedCount, Undelivered)> {
        let Some(tenant) = self.0.of(&from.id) else {
            return Ok(0);
        };
        let is_will = matches!(from.typ(), FromType::LastWill);
        if is_will && tenant.check_publish(&from.id.client_id, &publish).is_err() {
            return Ok(0);
        }
        Ok(tenant.take_from_device(&from, &unshared(publish)).await)
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
        self.0.nobody().router.query_subscriptions(query).await
    }

    async fn subscriptions_count(&self) -> usize {
        self.0.nobody().sessions.subscriptions_count().await
    }

    /// Retained messages are handed out where the subscriber is known: [`Arrival`].
    async fn retain_load_with(
        &self,
        _: &TopicFilter,
        _: Arc<dyn RetainLoadCallback>,
    ) -> rmqtt::Result<Vec<(NodeId, MsgID)>> {
        Ok(Vec::new())
    }
}

/// The message with memory of its own: as decoded, its smallest part keeps the whole buffer alive
/// that the device's packets were read into. What was meant for this broker only is left out.
fn unshared(mut publish: Publish) -> Publish {
    publish.payload = Bytes::copy_from_slice(&publish.payload);
    publish.topic = publish.topic.to_string().into();
    publish.properties = publish.properties.take().map(|properties| PublishProperties {
        topic_alias: None,
        subscription_ids: Vec::new(),
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

/// The subscriptions of every tenant, as rmqtt enters and removes them.
pub(super) struct Filters(pub(super) Arc<Tenants>);

#[async_trait]
impl Router for Filters {
    async fn add(&self, filter: &str, id: Id, options: SubscriptionOptions) -> rmqtt::Result<()> {
        if let Some(tenant) = self.0.of(&id) {
            tenant.subscriptions.add(filter, id, options);
        }
        Ok(())
    }

    async fn remove(&self, filter: &str, id: Id) -> rmqtt::Result<bool> {
        Ok(self.0.of(&id).is_some_and(|tenant| tenant.subscriptions.remove(filter, &id)))
    }

    async fn matches(&self, id: Id, topic: &TopicName) -> rmqtt::Result<SubRelationsMap> {
        self.0.nobody().router.matches(id, topic).await
    }

    async fn is_online(&self, node: NodeId, client_id: &str) -> bool {
        self.0.nobody().router.is_online(node, client_id).await
    }

    async fn gets(&self, limit: usize) -> Vec<Route> {
        self.0.nobody().router.gets(limit).await
    }

    async fn get(&self, topic: &str) -> rmqtt::Result<Vec<Route>> {
        self.0.nobody().router.get(topic).await
    }

    async fn query_subscriptions(&self, query: &SubsSearchParams) -> Vec<SubsSearchResult> {
        self.0.nobody().router.query_subscriptions(query).await
    }

    async fn topics_tree(&self) -> usize {
        self.0.nobody().router.topics_tree().await
    }

    fn topics(&self) -> Counter {
        self.0.nobody().router.topics()
    }

    fn routes(&self) -> Counter {
        self.0.nobody().router.routes()
    }

    fn merge_topics(&self, topics: &HashMap<NodeId, Counter>) -> Counter {
        self.0.nobody().router.merge_topics(topics)
    }

    fn merge_routes(&self, routes: &HashMap<NodeId, Counter>) -> Counter {
        self.0.nobody().router.merge_routes(routes)
    }

    async fn list_topics(&self, top: usize) -> Vec<String> {
        self.0.nobody().router.list_topics(top).await
    }

    async fn list_relations(&self, top: usize) -> Vec<serde_json::Value> {
        self.0.nobody().router.list_relations(top).await
    }

    fn relations(&self) -> &AllRelationsMap {
        self.0.nobody().router.relations()
    }
}
