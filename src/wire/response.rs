//! The one file that knows statuses: every code weir answers, with its status and message.

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::body::{self, Format};
use super::problem::Problem;
use super::request_id::RequestId;
use crate::admission::{Quota, Refusal};
use crate::message::MessageId;
use crate::queue::Stored;

use std::time::Duration;

/// An answer on its way to hyper.
pub(super) type Answer = Response<Full<bytes::Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json;charset=utf-8");
/// The Tea SDKs take an error for XML only if its type is spelled exactly so.
const XML: HeaderValue = HeaderValue::from_static("text/xml;charset=utf-8");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-acs-request-id");
/// draft-ietf-httpapi-ratelimit-headers-10.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const ACS_RETRY_AFTER: HeaderName = HeaderName::from_static("x-acs-retry-after");
const ACS_RATE_LIMITS: [HeaderName; 2] =
    [HeaderName::from_static("x-ratelimit-user-api"), HeaderName::from_static("x-ratelimit-user")];

/// The status of a throttled call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThrottleStatus {
    /// 429, what HTTP clients and proxies know. The default.
    #[default]
    TooManyRequests,
    /// 400, what ApsaraMQ answers.
    BadRequest,
}

/// What an answer says, as a row of [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Ok,
    CheckAccountInfoFailed,
    InstancePermissionCheckFailed,
    ParameterCheckFailed,
    PermissionCheckFailed,
    InvalidPayload,
    InternalError,
    SendMessageFailed,
    SystemOverFlow,
    ApiNotSupport,
    AccessKeyNotFound,
    SignatureDoesNotMatch,
    IncompleteSignature,
    TimestampFormat,
    TimestampExpired,
    NonceUsed,
    InvalidSignatureMethod,
    InvalidFormat,
    MissingSecurityToken,
    Missing,
    Invalid,
    Throttled,
    PathNotFound,
    UnsupportedMethod,
    RequestTimeout,
    BodyTooLarge,
    TargetTooLong,
}

struct Row {
    code: Code,
    status: StatusCode,
    text: &'static str,
    message: &'static str,
}

const fn row(code: Code, status: StatusCode, text: &'static str, message: &'static str) -> Row {
    Row { code, status, text, message }
}

const PARAMETER: &str = "An error occurred while validating the parameter. The parameter may be \
    missing or invalid.";

/// Every code, in the order of [`Code`]. `{Name}` stands for a parameter's name. The first ten are
/// `SendMessage`'s own (its API page), then come the gateway's common codes, then HTTP's.
const TABLE: [Row; ROWS] = [
    row(Code::Ok, StatusCode::OK, "OK", ""),
    row(
        Code::CheckAccountInfoFailed,
        StatusCode::BAD_REQUEST,
        "CheckAccountInfoFailed",
        "An error occurred while checking the account information by the STS token.",
    ),
    row(
        Code::InstancePermissionCheckFailed,
        StatusCode::BAD_REQUEST,
        "InstancePermissionCheckFailed",
        "An error occurred while validating the permissions of the instance. Please verify the \
         account that created the instance and its permissions settings.",
    ),
    row(
        Code::ParameterCheckFailed,
        StatusCode::BAD_REQUEST,
        "ParameterCheckFailed",
        "An error occurred while validating the parameters. The parameters may be missing or \
         invalid.",
    ),
    row(
        Code::PermissionCheckFailed,
        StatusCode::BAD_REQUEST,
        "PermissionCheckFailed",
        "An error occurred while validating the resource permissions. Please check the account \
         that created the instance, topic, and GroupId, and check their permission settings.",
    ),
    row(Code::InvalidPayload, StatusCode::BAD_REQUEST, "InvalidParameter.Payload", PARAMETER),
    row(
        Code::InternalError,
        StatusCode::INTERNAL_SERVER_ERROR,
        "InternalError",
        "An error occurred while processing your request. Try again later.",
    ),
    row(
        Code::SendMessageFailed,
        StatusCode::INTERNAL_SERVER_ERROR,
        "SendMessageFailed",
        "A storage exception occurred while sending the message. Please try again.",
    ),
    row(
        Code::SystemOverFlow,
        StatusCode::INTERNAL_SERVER_ERROR,
        "SystemOverFlow",
        "An error occurred while processing your request. Please try again.",
    ),
    row(
        Code::ApiNotSupport,
        StatusCode::NOT_FOUND,
        "ApiNotSupport",
        "The specified API is not supported.",
    ),
    row(
        Code::AccessKeyNotFound,
        StatusCode::NOT_FOUND,
        "InvalidAccessKeyId.NotFound",
        "Specified access key is not found.",
    ),
    row(
        Code::SignatureDoesNotMatch,
        StatusCode::BAD_REQUEST,
        "SignatureDoesNotMatch",
        "Specified signature is not matched with our calculation.",
    ),
    row(
        Code::IncompleteSignature,
        StatusCode::BAD_REQUEST,
        "IncompleteSignature",
        "The request signature does not conform to Aliyun standards.",
    ),
    row(
        Code::TimestampFormat,
        StatusCode::BAD_REQUEST,
        "InvalidTimeStamp.Format",
        "Specified time stamp or date value is not well formatted.",
    ),
    row(
        Code::TimestampExpired,
        StatusCode::BAD_REQUEST,
        "InvalidTimeStamp.Expired",
        "Specified time stamp or date value is expired.",
    ),
    row(
        Code::NonceUsed,
        StatusCode::BAD_REQUEST,
        "SignatureNonceUsed",
        "Specified signature nonce was used already.",
    ),
    row(
        Code::InvalidSignatureMethod,
        StatusCode::BAD_REQUEST,
        "InvalidSignatureMethod",
        "Specified signature method is not valid.",
    ),
    row(
        Code::InvalidFormat,
        StatusCode::BAD_REQUEST,
        "InvalidParameter.Format",
        "Specified parameter format is not valid.",
    ),
    row(
        Code::MissingSecurityToken,
        StatusCode::BAD_REQUEST,
        "MissingSecurityToken",
        "SecurityToken is mandatory for this action.",
    ),
    row(
        Code::Missing,
        StatusCode::BAD_REQUEST,
        "Missing{Name}",
        "{Name} is mandatory for this action.",
    ),
    row(
        Code::Invalid,
        StatusCode::BAD_REQUEST,
        "Invalid{Name}",
        "Specified parameter {Name} is not valid.",
    ),
    row(
        Code::Throttled,
        StatusCode::TOO_MANY_REQUESTS,
        "Throttling.User",
        "Request was denied due to user flow control.",
    ),
    row(
        Code::PathNotFound,
        StatusCode::NOT_FOUND,
        "InvalidAction.NotFound",
        "Specified api is not found, please check your url and method.",
    ),
    row(
        Code::UnsupportedMethod,
        StatusCode::METHOD_NOT_ALLOWED,
        "UnsupportedHTTPMethod",
        "This http method not supported.",
    ),
    row(
        Code::RequestTimeout,
        StatusCode::REQUEST_TIMEOUT,
        "RequestTimeout",
        "The request did not arrive in time.",
    ),
    row(
        Code::BodyTooLarge,
        StatusCode::PAYLOAD_TOO_LARGE,
        "RequestEntityTooLarge",
        "The request body is too large.",
    ),
    row(
        Code::TargetTooLong,
        StatusCode::URI_TOO_LONG,
        "RequestURITooLong",
        "The request target is too long.",
    ),
];

const ROWS: usize = Code::TargetTooLong as usize + 1;

/// A code without the place of a parameter's name: what a caller leaves out makes no label.
const fn label(code: &'static str) -> &'static str {
    match code.as_bytes() {
        [.., b'{', b'N', b'a', b'm', b'e', b'}'] => code.split_at(code.len() - 6).0,
        _ => code,
    }
}

/// The values of `weir_requests_total{code}`, in the order of its counters.
pub const CODES: [&str; ROWS] = {
    let mut codes = [""; ROWS];
    let mut index = 0;
    while index < ROWS {
        assert!(TABLE[index].code as usize == index, "the table is in the order of its codes");
        codes[index] = label(TABLE[index].text);
        index += 1;
    }
    codes
};

/// Every row of the table: code, status, text and message.
pub(super) fn rows() -> impl Iterator<Item = (Code, u16, &'static str, &'static str)> {
    TABLE.iter().map(|row| (row.code, row.status.as_u16(), row.text, row.message))
}

/// What an answer tells of the call it answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'c> {
    pub(super) request_id: RequestId,
    /// The request's `Host`; empty if it has none.
    pub(super) host: &'c str,
    pub(super) format: Format,
    /// Known once the instance is found to be the caller's.
    pub(super) quota: Option<Quota>,
}

/// The only 200: what is stored has its MsgId told.
pub(super) fn stored(asked: &Asked<'_>, stored: Stored) -> Answer {
    let id: MessageId = stored.message_id();
    answer(StatusCode::OK, asked, body::success(asked.format, id, asked.request_id))
}

/// The answer to a call that was not stored.
pub(super) fn refused(asked: &Asked<'_>, problem: &Problem, throttled: ThrottleStatus) -> Answer {
    let row = &TABLE[problem.code() as usize];
    let status = match (row.code, throttled) {
        (Code::Throttled, ThrottleStatus::BadRequest) => StatusCode::BAD_REQUEST,
        _ => row.status,
    };
    let (code, message) = problem.fill(row.text, row.message);
    let mut answer = answer(status, asked, body::error(asked, &code, &message));
    let headers = answer.headers_mut();
    match problem {
        Problem::Refusal(Refusal::Throttled { retry_after }) => {
            throttle(headers, *retry_after, asked.quota);
        }
        Problem::MethodUnknown => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
        }
        _ if row.code as usize == Code::SystemOverFlow as usize => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    if problem.leaves_request_unread() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn answer(status: StatusCode, asked: &Asked<'_>, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, if asked.format == Format::Xml { XML } else { JSON });
    headers.insert(REQUEST_ID, asked.request_id.to_header());
    if let Some(quota) = asked.quota {
        let seconds = quota.reset.as_millis().div_ceil(1_000);
        insert(
            headers,
            RATE_LIMIT_POLICY,
            format!("\"instance\";q={};w={}", quota.limit, quota.window_s),
        );
        insert(headers, RATE_LIMIT, format!("\"instance\";r={};t={seconds}", quota.remaining));
    }
    answer
}

/// What each generation of SDKs reads to wait: seconds, milliseconds, and the gateway's list.
fn throttle(headers: &mut HeaderMap, retry_after: Duration, quota: Option<Quota>) {
    let millis = retry_after.as_nanos().div_ceil(1_000_000).max(1);
    insert(headers, RETRY_AFTER, millis.div_ceil(1_000).to_string());
    insert(headers, ACS_RETRY_AFTER, millis.to_string());
    let limit = quota.map_or(0, |quota| quota.limit);
    for name in ACS_RATE_LIMITS {
        let list = format!("Limit:{limit},Remain:0,TimeLeft:{millis},Reset:{millis}");
        insert(headers, name, list);
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    // Digits and punctuation are always a header value.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
