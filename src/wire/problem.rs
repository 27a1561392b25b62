use std::borrow::Cow;

use super::long_target::LINE_BYTES_MAX;
use super::request::BODY_BYTES_MAX;
use super::response::Code;
use crate::admission::{
    ACTION, Incomplete, ParametersError, Refusal, ServerText, VERSION, WINDOW, format_timestamp,
};
use crate::clock::UnixMillis;
use crate::message::InstanceIdError;
use crate::queue::{Full, Unstored};

/// How much of a name the caller made up comes back to it, in characters.
const ECHO_CHARS_MAX: usize = 64;

/// Why a call is not stored, whoever found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// Admission refused it.
    Refusal(Refusal),
    /// There is no slot for it.
    Full(Full),
    /// It was pushed and no proof came back.
    Unstored(Unstored),
    /// Its parameters are not a set.
    Parameters(ParametersError),
    /// A name or value of the query or the form is not UTF-8.
    NotText,
    /// The JSON body is not an object of strings.
    NotJson,
    /// The body ended early, or is not framed as the head says.
    BodyBroken,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body is larger than [`BODY_BYTES_MAX`].
    BodyTooLarge,
    /// As many bytes of unfinished requests are in memory as may be.
    BodiesFull,
    /// The request line is longer than [`LINE_BYTES_MAX`].
    TargetTooLong,
    /// Another path than `/`.
    PathUnknown,
    /// Another method than GET and POST.
    MethodUnknown,
    /// A bug, caught before anything was pushed.
    Panicked,
}

impl Problem {
    /// Its row of the error table.
    pub(super) const fn code(&self) -> Code {
        match self {
            Self::Refusal(refusal) => code_of(refusal),
            Self::Full(_) | Self::BodiesFull => Code::SystemOverFlow,
            Self::Unstored(_) => Code::SendMessageFailed,
            Self::Parameters(_) | Self::NotText | Self::NotJson | Self::BodyBroken => {
                Code::ParameterCheckFailed
            }
            Self::BodyTimeout => Code::RequestTimeout,
            Self::BodyTooLarge => Code::BodyTooLarge,
            Self::TargetTooLong => Code::TargetTooLong,
            Self::PathUnknown => Code::PathNotFound,
            Self::MethodUnknown => Code::UnsupportedMethod,
            Self::Panicked => Code::InternalError,
        }
    }

    /// Whether a part of the request may still be on its way when the answer is written.
    pub(super) const fn leaves_request_unread(&self) -> bool {
        matches!(
            self,
            Self::BodyBroken
                | Self::BodyTimeout
                | Self::BodyTooLarge
                | Self::BodiesFull
                | Self::TargetTooLong
                | Self::Panicked
        )
    }

    /// Code and message as sent: the table's, with names filled in and weir's own detail behind.
    pub(super) fn fill(
        &self,
        code: &'static str,
        message: &'static str,
    ) -> (Cow<'static, str>, Cow<'static, str>) {
        const NAME: &str = "{Name}";
        match self {
            Self::Refusal(Refusal::MissingCommon { parameter, named }) => {
                (code.replace(NAME, parameter).into(), message.replace(NAME, named).into())
            }
            Self::Refusal(Refusal::InvalidCommon { parameter }) => {
                (code.replace(NAME, parameter).into(), message.replace(NAME, parameter).into())
            }
            _ => match self.detail() {
                Some(detail) => (code.into(), format!("{message} {detail}").into()),
                None => (code.into(), message.into()),
            },
        }
    }

    fn detail(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Refusal(refusal) => return detail_of(refusal),
            Self::Full(Full::Slots) => "Every slot of the topic's queue is taken.".into(),
            Self::Full(Full::Closed) => "The server is draining.".into(),
            Self::Full(Full::Backlog) => "The backlog of undelivered messages is full.".into(),
            Self::BodiesFull => "Too many requests are being read.".into(),
            Self::Unstored(Unstored::NoSpace) => {
                "The disk is full. The message was not stored and is not billed.".into()
            }
            Self::Unstored(Unstored::Poisoned) => {
                "The journal is closed. The message was not stored and is not billed.".into()
            }
            Self::Unstored(Unstored::Unknown) => {
                "The outcome is unknown: the message may have been stored, and is then billed and \
                 delivered."
                    .into()
            }
            Self::Parameters(ParametersError::Repeated { name }) => {
                format!("The parameter {} is given twice.", shortened(name)).into()
            }
            Self::Parameters(error @ ParametersError::TooMany) => sentence(error),
            Self::NotText => "A parameter is not UTF-8.".into(),
            Self::NotJson => "The body is not a JSON object of strings.".into(),
            Self::BodyBroken => "The body is not framed as its head says.".into(),
            Self::BodyTooLarge => format!("{BODY_BYTES_MAX} bytes are allowed.").into(),
            Self::TargetTooLong => {
                format!("A request line of {LINE_BYTES_MAX} bytes is allowed.").into()
            }
            Self::PathUnknown => "The path is /.".into(),
            Self::MethodUnknown => "Use GET or POST.".into(),
            Self::BodyTimeout | Self::Panicked => return None,
        })
    }
}

const fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::ApiNotSupported => Code::ApiNotSupport,
        Refusal::MissingCommon { .. } => Code::Missing,
        Refusal::InvalidCommon { .. } => Code::Invalid,
        Refusal::InvalidFormat => Code::InvalidFormat,
        Refusal::InvalidSignatureMethod => Code::InvalidSignatureMethod,
        Refusal::IncompleteSignature { .. } => Code::IncompleteSignature,
        Refusal::AccessKeyNotFound => Code::AccessKeyNotFound,
        Refusal::MissingSecurityToken => Code::MissingSecurityToken,
        Refusal::SecurityTokenUnresolved => Code::CheckAccountInfoFailed,
        Refusal::SignatureMismatch { .. } => Code::SignatureDoesNotMatch,
        Refusal::TimestampMalformed => Code::TimestampFormat,
        Refusal::TimestampExpired { .. } => Code::TimestampExpired,
        Refusal::NonceUsed => Code::NonceUsed,
        Refusal::NoncesFull => Code::SystemOverFlow,
        Refusal::InstanceNotOwned => Code::InstancePermissionCheckFailed,
        Refusal::ParameterMissing { .. }
        | Refusal::InstanceMalformed
        | Refusal::TopicMalformed(_) => Code::ParameterCheckFailed,
        Refusal::TopicUnknown => Code::PermissionCheckFailed,
        Refusal::PayloadNotBase64 { .. } | Refusal::PayloadTooLarge(_) => Code::InvalidPayload,
        Refusal::Throttled { .. } => Code::Throttled,
    }
}

fn detail_of(refusal: &Refusal) -> Option<Cow<'static, str>> {
    Some(match refusal {
        Refusal::ApiNotSupported => {
            format!("This server takes {ACTION} of version {VERSION}.").into()
        }
        Refusal::InvalidFormat => "Format is JSON or XML.".into(),
        Refusal::InvalidSignatureMethod => {
            "This server takes HMAC-SHA1, ACS3-HMAC-SHA256 and ACS3-HMAC-SM3.".into()
        }
        Refusal::IncompleteSignature { because } => match because {
            Incomplete::Malformed => "Authorization is not well formed.".into(),
            Incomplete::Disordered => {
                "SignedHeaders is not lower-case names in ascending order.".into()
            }
            Incomplete::Unsigned { header } => {
                format!("The header {} is not signed.", shortened(header)).into()
            }
            Incomplete::Absent { header } => {
                format!("The signed header {} is not in the request.", shortened(header)).into()
            }
        },
        Refusal::SignatureMismatch { server } => match server {
            // The older SDKs compare what follows the colon with their own text, to its end.
            ServerText::StringToSign(text) => format!("server string to sign is:{text}").into(),
            ServerText::CanonicalRequest(text) => {
                format!("server canonical request is:{text}").into()
            }
            ServerText::BodyHash(hash) => format!("server hash of the body is:{hash}").into(),
        },
        Refusal::TimestampMalformed => "It is written YYYY-MM-DDThh:mm:ssZ, in UTC.".into(),
        Refusal::TimestampExpired { request, server } => skew(*request, *server).into(),
        Refusal::NoncesFull => "Too many nonces of this access key are remembered.".into(),
        Refusal::ParameterMissing { parameter } => format!("{parameter} is missing.").into(),
        Refusal::InstanceMalformed => sentence(&InstanceIdError),
        Refusal::TopicMalformed(error) => sentence(error),
        Refusal::TopicUnknown => "The parent topic is not one of the instance's.".into(),
        Refusal::PayloadNotBase64 { offset } => {
            format!("Payload is not Base64 at byte {offset}.").into()
        }
        Refusal::PayloadTooLarge(error) => sentence(error),
        Refusal::MissingCommon { .. }
        | Refusal::InvalidCommon { .. }
        | Refusal::AccessKeyNotFound
        | Refusal::MissingSecurityToken
        | Refusal::SecurityTokenUnresolved
        | Refusal::NonceUsed
        | Refusal::InstanceNotOwned
        | Refusal::Throttled { .. } => return None,
    })
}

fn skew(request: UnixMillis, server: UnixMillis) -> String {
    let (behind, ahead) = (server.since(request), request.since(server));
    let (seconds, side) = if behind > ahead { (behind, "behind") } else { (ahead, "ahead") };
    format!(
        "The request says {}, the server's time is {}: the request is {} s {side}, and {} s are \
         allowed.",
        format_timestamp(request),
        format_timestamp(server),
        seconds.as_secs(),
        WINDOW.as_secs(),
    )
}

/// An error's own words, as a sentence.
fn sentence(error: &impl std::error::Error) -> Cow<'static, str> {
    let text = error.to_string();
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), characters.as_str()).into()
}

fn shortened(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(ECHO_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]).into(),
        None => name.into(),
    }
}

macro_rules! from {
    ($($name:ident($kind:ty)),*) => {
        $(impl From<$kind> for Problem {
            fn from(why: $kind) -> Self {
                Self::$name(why)
            }
        })*
    };
}
from!(Refusal(Refusal), Full(Full), Unstored(Unstored), Parameters(ParametersError));
