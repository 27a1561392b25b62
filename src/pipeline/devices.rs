use std::sync::Arc;

use async_trait::async_trait;

use crate::delivery::embedded::EmbeddedBroker;
use crate::ops::{DeviceQuery, Devices};

/// The devices of the embedded broker, as the ops port shows them.
pub(super) struct Embedded(pub(super) Arc<EmbeddedBroker>);

#[async_trait]
impl Devices for Embedded {
    async fn page(&self, query: &DeviceQuery) -> Option<String> {
        let DeviceQuery { instance, after, devices_max } = query;
        let page = self.0.devices(instance, after.as_deref(), *devices_max).await?;
        serde_json::to_string(&page).ok()
    }
}
