use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use crate::message::{PAYLOAD_BYTES_MAX, Payload, PayloadTooLarge, Topic};

use super::call::{Scheme, SendMessage};
use super::canonical::Authorization;
use super::directory::{Instance, PayloadCoding};
use super::refusal::{Incomplete, Refusal};

/// The action weir serves.
pub const ACTION: &str = "SendMessage";
/// The version of the OnsMqtt API weir serves.
pub const VERSION: &str = "2020-04-20";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Who a call says it is from, with every common parameter present.
pub(super) struct Identity<'c> {
    pub(super) access_key_id: &'c str,
    pub(super) timestamp: &'c str,
    pub(super) nonce: &'c str,
    /// The V3 header; `None` for V1.
    pub(super) authorization: Option<Authorization<'c>>,
}

/// Reads who a call is from, once action and version are known to be ours.
pub(super) fn identify<'c>(call: &'c SendMessage<'_>) -> Result<Identity<'c>, Refusal> {
    let scheme = call.scheme();
    let action = common(call, scheme, "Action", "x-acs-action")?;
    let version = common(call, scheme, "Version", "x-acs-version")?;
    if action != ACTION || version != VERSION {
        return Err(Refusal::ApiNotSupported);
    }
    let identity = match scheme {
        Scheme::Acs3(value) => acs3(call, scheme, value)?,
        Scheme::Rpc => rpc(call)?,
        Scheme::Bearer => return Err(Refusal::InvalidSignatureMethod),
        Scheme::Unsigned => return Err(missing("AccessKeyId", "AccessKeyId")),
    };
    if call.common(scheme, "SecurityToken", "x-acs-security-token").is_some() {
        return Err(Refusal::SecurityTokenUnresolved);
    }
    if identity.access_key_id.starts_with("STS.") {
        return Err(Refusal::MissingSecurityToken);
    }
    Ok(identity)
}

fn acs3<'c>(
    call: &'c SendMessage<'_>,
    scheme: Scheme<'_>,
    value: &'c str,
) -> Result<Identity<'c>, Refusal> {
    let authorization = Authorization::parse(value)
        .ok_or(Refusal::IncompleteSignature { because: Incomplete::Malformed })?;
    Ok(Identity {
        access_key_id: authorization.access_key_id,
        timestamp: common(call, scheme, "Timestamp", "x-acs-date")?,
        nonce: common(call, scheme, "SignatureNonce", "x-acs-signature-nonce")?,
        authorization: Some(authorization),
    })
}

fn rpc<'c>(call: &'c SendMessage<'_>) -> Result<Identity<'c>, Refusal> {
    let parameter = |name| common(call, Scheme::Rpc, name, name);
    let access_key_id = parameter("AccessKeyId")?;
    parameter("Signature")?;
    if parameter("SignatureMethod")? != "HMAC-SHA1" {
        return Err(Refusal::InvalidSignatureMethod);
    }
    if parameter("SignatureVersion")? != "1.0" {
        return Err(Refusal::InvalidCommon { parameter: "SignatureVersion" });
    }
    // Empty, as the older Python SDK sends it, is HMAC like absent; PRIVATEKEY is not taken.
    if call.parameters.filled("SignatureType").is_some() {
        return Err(Refusal::InvalidSignatureMethod);
    }
    Ok(Identity {
        access_key_id,
        timestamp: parameter("Timestamp")?,
        nonce: parameter("SignatureNonce")?,
        authorization: None,
    })
}

fn common<'c>(
    call: &'c SendMessage<'_>,
    scheme: Scheme<'_>,
    parameter: &'static str,
    header: &'static str,
) -> Result<&'c str, Refusal> {
    let named = if matches!(scheme, Scheme::Acs3(_)) { header } else { parameter };
    call.common(scheme, parameter, header).ok_or(missing(parameter, named))
}

const fn missing(parameter: &'static str, named: &'static str) -> Refusal {
    Refusal::MissingCommon { parameter, named }
}

/// A parameter of the action itself; present even if empty.
pub(super) fn required<'c>(
    call: &'c SendMessage<'_>,
    parameter: &'static str,
) -> Result<&'c str, Refusal> {
    call.parameters.get(parameter).ok_or(Refusal::ParameterMissing { parameter })
}

/// The topic of a call, if it is one of the instance's.
pub(super) fn topic(call: &SendMessage<'_>, instance: &Instance) -> Result<Topic, Refusal> {
    let topic = Topic::parse(required(call, "MqttTopic")?).map_err(Refusal::TopicMalformed)?;
    if instance.topics.contains(topic.parent()) { Ok(topic) } else { Err(Refusal::TopicUnknown) }
}

/// The payload of a call, decoded as the instance says. An empty one is a message of no bytes.
pub(super) fn payload(call: &SendMessage<'_>, coding: PayloadCoding) -> Result<Payload, Refusal> {
    let text = required(call, "Payload")?;
    let bytes = match coding {
        PayloadCoding::Verbatim => Bytes::copy_from_slice(text.as_bytes()),
        PayloadCoding::Base64 => {
            let bytes = text.len() / 4 * 3;
            if bytes > PAYLOAD_BYTES_MAX + 3 {
                return Err(Refusal::PayloadTooLarge(PayloadTooLarge { bytes }));
            }
            Bytes::from(BASE64.decode(text).map_err(|error| not_base64(text, &error))?)
        }
    };
    Payload::new(bytes).map_err(Refusal::PayloadTooLarge)
}

fn not_base64(text: &str, error: &base64::DecodeError) -> Refusal {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    let offset = match error {
        InvalidByte(offset, _) | InvalidLastSymbol { offset, .. } => *offset,
        InvalidLength(_) | InvalidPadding => text.len(),
    };
    Refusal::PayloadNotBase64 { offset }
}
