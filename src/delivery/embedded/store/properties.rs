//! The MQTT 5 properties of a stored message, as JSON: absent ones are left out.
//!
//! ```json
//! {"user":[["msg_id","…"]],"type":"…","response":"…","correlation":"<Base64>","expiry":60,
//!  "utf8":true}
//! ```

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rmqtt::codec::v5::PublishProperties;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    user: Vec<(String, String)>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: Option<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    utf8: bool,
}

pub(super) fn write(properties: &PublishProperties) -> String {
    let text = |text: &dyn ToString| text.to_string();
    let user = properties.user_properties.iter().map(|(name, value)| (text(name), text(value)));
    let written = Written {
        user: user.collect(),
        content_type: properties.content_type.as_ref().map(|it| it.to_string()),
        response: properties.response_topic.as_ref().map(|it| it.to_string()),
        correlation: properties.correlation_data.as_ref().map(|bytes| STANDARD.encode(bytes)),
        expiry: properties.message_expiry_interval,
        utf8: properties.is_utf8_payload,
    };
    // Strings, numbers and a bool: there is nothing that could fail.
    serde_json::to_string(&written).unwrap_or_default()
}

/// `None` if it is not what [`write`] gives.
pub(super) fn read(text: &str) -> Option<PublishProperties> {
    let written: Written = serde_json::from_str(text).ok()?;
    let correlation = written.correlation.map(|text| STANDARD.decode(text)).transpose().ok()?;
    let user = written.user.into_iter().map(|(name, value)| (name.into(), value.into()));
    Some(PublishProperties {
        user_properties: user.collect(),
        content_type: written.content_type.map(Into::into),
        response_topic: written.response.map(Into::into),
        correlation_data: correlation.map(Into::into),
        message_expiry_interval: written.expiry,
        is_utf8_payload: written.utf8,
        ..PublishProperties::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_of_properties_never_changes() {
        assert_eq!(write(&PublishProperties::default()), "{}");
        let properties = PublishProperties {
            user_properties: vec![("a".into(), "\"".into())],
            content_type: Some("t".into()),
            response_topic: Some("r".into()),
            correlation_data: Some(b"\0\xFF".as_slice().into()),
            message_expiry_interval: NonZeroU32::new(7),
            is_utf8_payload: true,
            ..PublishProperties::default()
        };
        let golden = concat!(
            r#"{"user":[["a","\""]],"type":"t","response":"r","correlation":"AP8=","#,
            r#""expiry":7,"utf8":true}"#
        );
        assert_eq!(write(&properties), golden);
        assert_eq!(read(golden), Some(properties));
    }

    #[test]
    fn what_was_not_written_here_is_not_read() {
        for text in ["", "7", "{\"more\":1}", "{\"correlation\":\"*\"}", "{\"expiry\":0}"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn properties_survive_their_coding(
            user in prop::collection::vec((".*", ".*"), 0..3),
            content in prop::option::of(".*"),
            correlation in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
            expiry in any::<u32>(),
        ) {
            let user_properties = user.into_iter().map(|(a, b)| (a.into(), b.into())).collect();
            let properties = PublishProperties {
                user_properties,
                content_type: content.map(Into::into),
                correlation_data: correlation.map(Into::into),
                message_expiry_interval: NonZeroU32::new(expiry),
                ..PublishProperties::default()
            };
            prop_assert_eq!(read(&write(&properties)), Some(properties));
        }
    }
}
