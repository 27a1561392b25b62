use std::sync::Arc;

use async_trait::async_trait;

use crate::delivery::Outlet;
use crate::ops::{DeviceQuery, Devices};

/// The devices of the embedded broker, as the ops port shows them; none if it is elsewhere.
pub(super) struct Listed(pub(super) Arc<Outlet>);

#[async_trait]
impl Devices for Listed {
    async fn page(&self, query: &DeviceQuery) -> Option<String> {
        let DeviceQuery { instance, after, devices_max } = query;
        let Outlet::Embedded(broker) = &*self.0 else { return None };
        let page = broker.devices(instance, after.as_deref(), *devices_max).await?;
        serde_json::to_string(&page).ok()
    }
}
