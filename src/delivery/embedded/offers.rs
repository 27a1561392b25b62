//! What the CONNACK of MQTT 5 tells a device that this broker has. The work is done elsewhere, by
//! tenant: [`super::retained`] and [`super::subscriptions`].

use std::time::Duration;

use async_trait::async_trait;
use rmqtt::retain::RetainStorage;
use rmqtt::subscribe::SharedSubscription;
use rmqtt::types::{Retain, TopicFilter, TopicName};

/// Retained messages are available.
pub(super) struct RetainedOffered;

#[async_trait]
impl RetainStorage for RetainedOffered {
    fn enable(&self) -> bool {
        true
    }

    fn need_sync(&self) -> bool {
        false
    }

    async fn set(&self, _: &TopicName, _: Retain, _: Option<Duration>) -> rmqtt::Result<()> {
        Ok(())
    }

    async fn get(&self, _: &TopicFilter) -> rmqtt::Result<Vec<(TopicName, Retain)>> {
        Ok(Vec::new())
    }

    async fn count(&self) -> isize {
        0
    }

    async fn max(&self) -> isize {
        0
    }
}

/// Shared subscriptions are available.
pub(super) struct SharingOffered;

#[async_trait]
impl SharedSubscription for SharingOffered {
    fn is_supported(&self) -> bool {
        true
    }
}
