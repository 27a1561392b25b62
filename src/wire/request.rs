//! Bytes -> `SendMessage`: the parameters of query and body, decoded strictly.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use percent_encoding::percent_decode;
use serde::de::{Deserializer, MapAccess, Visitor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::Format;
use super::problem::Problem;
use crate::admission::{
    PARAMETERS_MAX, Parameter, Parameters, ParametersError, Refusal, Scheme, SendMessage, Verb,
};

/// Largest request body, in bytes: a 64 KiB payload whose Base64 is percent-encoded throughout
/// takes 262,152, and a call's other parameters come on top.
pub(super) const BODY_BYTES_MAX: usize = 300 * 1024;

/// A head of HTTP/2 of up to so many bytes takes no room: every call has one.
const HEAD_BYTES_FREE: usize = 8 * 1024;
/// What a header takes beside its text, about.
const HEADER_OVERHEAD_BYTES: usize = 96;

/// A request whose body has arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) method: Method,
    pub(super) path_is_root: bool,
    pub(super) query: Bytes,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// What its long line or its large head takes, if it has one.
    pub(super) _room: Option<Room>,
}

/// Space of a [`BodySpace`]; it is free again when this is dropped.
pub(super) type Room = OwnedSemaphorePermit;

/// Memory for the bodies, long request lines and large HTTP/2 heads of all unfinished requests, so
/// that no number of callers, whoever they are, can take more.
#[derive(Clone)]
pub(super) struct BodySpace(Arc<Semaphore>);

impl BodySpace {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes_max)))
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0.available_permits()
    }

    pub(super) fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let bytes = u32::try_from(bytes).map_err(|_| Problem::BodyTooLarge)?;
        Arc::clone(&self.0).try_acquire_many_owned(bytes).map_err(|_| Problem::BodiesFull)
    }
}

/// A body in memory; its space is free again when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    _space: Option<OwnedSemaphorePermit>,
}

/// Takes room for the head of an HTTP/2 call, if it is large. Many of them are open at a time, and
/// HPACK makes each of a few bytes.
pub(super) fn room_for_head(
    headers: &HeaderMap,
    space: &BodySpace,
) -> Result<Option<Room>, Problem> {
    let bytes = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES
    };
    let bytes: usize = headers.iter().map(bytes).sum();
    if bytes <= HEAD_BYTES_FREE { Ok(None) } else { space.take(bytes).map(Some) }
}

/// Reads a body to its end, so that framing never depends on what is thought of its request.
pub(super) async fn read(
    body: Incoming,
    patience: Duration,
    space: &BodySpace,
) -> Result<Body, Problem> {
    if body.is_end_stream() {
        return Ok(Body::default());
    }
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(Problem::BodyTooLarge);
    }
    let read = tokio::time::timeout(patience, collect(body, space)).await;
    read.unwrap_or(Err(Problem::BodyTimeout))
}

async fn collect(mut body: Incoming, space: &BodySpace) -> Result<Body, Problem> {
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    let mut taken: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(|_| Problem::BodyBroken)?.into_data() else { continue };
        if whole.len() + parts.len() + part.len() > BODY_BYTES_MAX {
            return Err(Problem::BodyTooLarge);
        }
        let more = space.take(part.len())?;
        match &mut taken {
            Some(taken) => taken.merge(more),
            None => taken = Some(more),
        }
        if whole.is_empty() && parts.is_empty() {
            // Nearly every body comes in one piece, which is then not copied.
            whole = part;
        } else {
            parts.extend_from_slice(&std::mem::take(&mut whole));
            parts.extend_from_slice(&part);
        }
        if body.is_end_stream() {
            break;
        }
    }
    let bytes = if parts.is_empty() { whole } else { parts.freeze() };
    Ok(Body { bytes, _space: taken })
}

/// Reads the call a request makes.
pub(super) fn parse(request: &Arrived) -> Result<SendMessage<'_>, Problem> {
    if !request.path_is_root {
        return Err(Problem::PathUnknown);
    }
    let verb = match request.method {
        Method::GET => Verb::Get,
        Method::POST => Verb::Post,
        _ => return Err(Problem::MethodUnknown),
    };
    let query = form(&request.query)?;
    let body = match body_kind(&request.headers) {
        _ if request.body.bytes.is_empty() => Vec::new(),
        BodyKind::Form => form(&request.body.bytes)?,
        BodyKind::Json => json(&request.body.bytes)?,
        BodyKind::Opaque => Vec::new(),
    };
    let parameters = Parameters::new(query, body)?;
    Ok(SendMessage { verb, parameters, headers: &request.headers, body: &request.body.bytes })
}

/// How the caller wants its answer written.
///
/// # Errors
/// [`Refusal::InvalidFormat`] if a V1 call asks for something else than JSON or XML.
pub(super) fn format(call: &SendMessage<'_>) -> Result<Format, Refusal> {
    if call.scheme() != Scheme::Rpc {
        return Ok(Format::Json);
    }
    match call.parameters.filled("Format") {
        // An older Python SDK writes out that it has none.
        None | Some("None") => Ok(Format::Xml),
        Some(text) if text.eq_ignore_ascii_case("xml") => Ok(Format::Xml),
        Some(text) if text.eq_ignore_ascii_case("json") => Ok(Format::Json),
        Some(_) => Err(Refusal::InvalidFormat),
    }
}

enum BodyKind {
    Form,
    Json,
    Opaque,
}

fn body_kind(headers: &HeaderMap) -> BodyKind {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        BodyKind::Form
    } else if media_type.eq_ignore_ascii_case("application/json") && is_acs3(headers) {
        BodyKind::Json
    } else {
        BodyKind::Opaque
    }
}

/// Only V3 signs a JSON body, by its hash.
fn is_acs3(headers: &HeaderMap) -> bool {
    let authorization = headers.get(http::header::AUTHORIZATION);
    authorization.is_some_and(|value| value.as_bytes().starts_with(b"ACS3-"))
}

/// `application/x-www-form-urlencoded`, as a query has it too. Unlike the usual parsers it refuses
/// what is not UTF-8: a replaced character would be another message than the one that was signed.
fn form(text: &[u8]) -> Result<Vec<Parameter<'_>>, Problem> {
    let pairs = text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    let mut parameters = Vec::with_capacity(16);
    for pair in pairs {
        let (name, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &[][..]),
        };
        if parameters.len() == PARAMETERS_MAX {
            return Err(ParametersError::TooMany.into());
        }
        parameters.push((decode(name)?, decode(value)?));
    }
    Ok(parameters)
}

fn decode(part: &[u8]) -> Result<Cow<'_, str>, Problem> {
    let Some(first) = memchr::memchr2(b'+', b'%', part) else {
        return str::from_utf8(part).map(Cow::Borrowed).map_err(|_| Problem::NotText);
    };
    let mut spaced = part.to_vec();
    for byte in &mut spaced[first..] {
        if *byte == b'+' {
            *byte = b' ';
        }
    }
    let decoded: Vec<u8> = percent_decode(&spaced).collect();
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| Problem::NotText)
}

fn json(text: &[u8]) -> Result<Vec<Parameter<'_>>, Problem> {
    struct Members;
    impl<'r> Visitor<'r> for Members {
        type Value = Vec<Parameter<'r>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'r>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, String>()? {
                members.push((name.into(), value.into()));
            }
            Ok(members)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let members = json.deserialize_map(Members).map_err(|_| Problem::NotJson)?;
    json.end().map_err(|_| Problem::NotJson)?;
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bodies_take_no_more_space_than_there_is_and_give_it_back() {
        let space = BodySpace::new(10);
        let held = space.take(8).unwrap();
        assert_eq!(space.take(3).unwrap_err(), Problem::BodiesFull);
        assert!(space.take(2).is_ok());
        drop(held);
        assert!(space.take(10).is_ok());
    }

    #[test]
    fn a_form_is_decoded_with_plus_as_space_and_empty_values_kept() {
        let parsed = form(b"a=b+c&&d=&e&f%20g=%E6%97%A5*'()!~&h=i=j%").unwrap();
        let expected = [("a", "b c"), ("d", ""), ("e", ""), ("f g", "日*'()!~"), ("h", "i=j%")];
        let expected: Vec<Parameter<'_>> =
            expected.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        assert_eq!(parsed, expected);
        assert_eq!(form(b"a=%FF"), Err(Problem::NotText));
        assert_eq!(form(b"a=\xff"), Err(Problem::NotText));
    }

    #[test]
    fn a_json_body_is_one_object_of_strings() {
        let parsed = json(br#"{"Payload":"aGk=","MqttTopic":"T\u00e9"}"#).unwrap();
        assert_eq!(parsed[1], ("MqttTopic".into(), "Té".into()));
        for bad in [&br#"{"a":1}"#[..], b"[]", b"{}x", b"{", b"\"a\"", b"{\"a\":null}"] {
            assert_eq!(json(bad), Err(Problem::NotJson));
        }
    }

    proptest! {
        #[test]
        fn a_form_says_what_the_usual_parser_says(text in "([a-z+%=&é]|%[0-7][0-9a-f]){0,60}") {
            let usual: Vec<_> = form_urlencoded::parse(text.as_bytes()).collect();
            if let Ok(ours) = form(text.as_bytes()) {
                prop_assert_eq!(ours, usual);
            }
        }

        #[test]
        fn no_garbage_in_a_body_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (form(&text), json(&text));
        }
    }
}
