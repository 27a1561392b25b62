use std::time::Duration;

use crate::clock::UnixMillis;
use crate::message::{InstanceId, PayloadTooLarge, TopicError};

use super::bucket::Quota;

/// Why a call was not admitted. Carries numbers and names; wire turns it into an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another action, or another version of the API.
    ApiNotSupported,
    /// A common parameter is missing or empty; for V3 the header that carries it.
    MissingCommon {
        /// The RPC name, as in `Missing{Name}`.
        parameter: &'static str,
        /// The name the caller would look for.
        named: &'static str,
    },
    /// A common parameter's value is unusable, as in `Invalid{Name}`.
    InvalidCommon {
        /// The RPC name.
        parameter: &'static str,
    },
    /// `Format` is neither JSON nor XML.
    InvalidFormat,
    /// An algorithm or a kind of credential this product does not take.
    InvalidSignatureMethod,
    /// The `Authorization` header is malformed, or leaves out a header that must be signed.
    IncompleteSignature {
        /// What is wrong with it.
        because: Incomplete,
    },
    /// No such access key.
    AccessKeyNotFound,
    /// A temporary access key without its token.
    MissingSecurityToken,
    /// The security token does not resolve to an account.
    SecurityTokenUnresolved,
    /// The signature is not the one the secret gives.
    SignatureMismatch {
        /// What the server signed.
        server: ServerText,
    },
    /// The timestamp is not `YYYY-MM-DDThh:mm:ssZ`.
    TimestampMalformed,
    /// The timestamp is more than 15 minutes off.
    TimestampExpired {
        /// What the request says.
        request: UnixMillis,
        /// The server's time.
        server: UnixMillis,
    },
    /// The nonce was used within its window.
    NonceUsed,
    /// As many nonces are remembered for this access key as may be.
    NoncesFull,
    /// The instance is not the caller's account's.
    InstanceNotOwned,
    /// A parameter of the action is missing.
    ParameterMissing {
        /// Its name.
        parameter: &'static str,
    },
    /// The instance id is malformed.
    InstanceMalformed,
    /// The topic is malformed.
    TopicMalformed(TopicError),
    /// The parent topic is not the instance's.
    TopicUnknown,
    /// The payload is not Base64.
    PayloadNotBase64 {
        /// Byte offset in the parameter's value.
        offset: usize,
    },
    /// The payload is larger than allowed.
    PayloadTooLarge(PayloadTooLarge),
    /// The instance's token bucket is empty.
    Throttled {
        /// When a token is back.
        retry_after: Duration,
    },
}

/// What is wrong with a V3 `Authorization` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// Not `ALGORITHM Credential=…,SignedHeaders=…,Signature=…`.
    Malformed,
    /// `SignedHeaders` is not lower-case names in ascending order.
    Disordered,
    /// A header that must be signed is not in `SignedHeaders`.
    Unsigned {
        /// Its name.
        header: String,
    },
    /// `SignedHeaders` names a header the request does not carry, or carries as no text.
    Absent {
        /// Its name.
        header: String,
    },
}

/// What the server computed, for a caller to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerText {
    /// V1: the string to sign.
    StringToSign(String),
    /// V3: the canonical request.
    CanonicalRequest(String),
    /// V3: the hash of the body, which `x-acs-content-sha256` contradicts.
    BodyHash(String),
}

/// A refusal, with the instance and its quota once it is known to be the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The instance.
    pub instance: Option<InstanceId>,
    /// The instance's quota, for the answer's `RateLimit` headers.
    pub quota: Option<Quota>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, instance: None, quota: None }
    }
}
