//! The texts both signature versions sign, built from decoded values: on the wire one SDK writes a
//! space as `+`, another leaves `*'()!` bare, and both sign `%20` and `%2A%27%28%29%21`.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::call::{Parameter, SendMessage, Verb};
use super::refusal::Incomplete;

/// Everything but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The percent-encoding both signature versions prescribe.
pub(super) fn encode_into(out: &mut String, text: &str) {
    out.extend(utf8_percent_encode(text, RESERVED));
}

/// `k=v` pairs sorted by name, encoded and joined by `&`.
fn canonical_query<'p, 'r: 'p>(pairs: impl Iterator<Item = &'p Parameter<'r>>) -> String {
    let mut sorted: Vec<_> = pairs.collect();
    sorted.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut query =
        String::with_capacity(sorted.iter().map(|(k, v)| k.len() + v.len() * 3 / 2 + 2).sum());
    for (index, (name, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            query.push('&');
        }
        encode_into(&mut query, name);
        query.push('=');
        encode_into(&mut query, value);
    }
    query
}

/// The V1 string to sign: method, `/`, and every parameter but `Signature`, encoded once more.
pub(super) fn string_to_sign_v1<'p, 'r: 'p>(
    verb: Verb,
    parameters: impl Iterator<Item = &'p Parameter<'r>>,
) -> String {
    let query = canonical_query(parameters.filter(|(name, _)| name != "Signature"));
    let mut text = String::with_capacity(query.len() * 3 / 2 + 16);
    text.push_str(verb.as_str());
    text.push_str("&%2F&");
    encode_into(&mut text, &query);
    text
}

/// The parts of a V3 `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Authorization<'r> {
    pub(super) algorithm: &'r str,
    pub(super) access_key_id: &'r str,
    pub(super) signed_headers: &'r str,
    pub(super) signature: &'r str,
}

impl<'r> Authorization<'r> {
    /// Parses `ALGORITHM Credential=…,SignedHeaders=…,Signature=…`.
    pub(super) fn parse(value: &'r str) -> Option<Self> {
        let (algorithm, fields) = value.split_once(' ')?;
        let (mut access_key_id, mut signed_headers, mut signature) = (None, None, None);
        for field in fields.split(',') {
            let (name, text) = field.trim().split_once('=')?;
            let slot = match name {
                "Credential" => &mut access_key_id,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return None,
            };
            if slot.replace(text).is_some() || text.is_empty() {
                return None;
            }
        }
        Some(Self {
            algorithm,
            access_key_id: access_key_id?,
            signed_headers: signed_headers?,
            signature: signature?,
        })
    }
}

/// The V3 canonical request. `host` stands in for the `Host` header where the caller signed an
/// alias of it.
pub(super) fn canonical_request(
    call: &SendMessage<'_>,
    signed_headers: &str,
    host: Option<&str>,
    body_hash: &str,
) -> Result<String, Incomplete> {
    let mut text = String::with_capacity(1_024);
    text.push_str(call.verb.as_str());
    text.push_str("\n/\n");
    text.push_str(&canonical_query(call.parameters.query().iter()));
    text.push('\n');
    for name in signed_headers.split(';') {
        text.push_str(name);
        text.push(':');
        match host.filter(|_| name == "host") {
            Some(alias) => text.push_str(alias),
            None => push_header(&mut text, call, name)?,
        }
        text.push('\n');
    }
    // Writing to a String cannot fail.
    let _ = write!(text, "\n{signed_headers}\n{body_hash}");
    Ok(text)
}

/// A header's trimmed value; the values of a repeated name sorted and joined by `,`.
fn push_header(text: &mut String, call: &SendMessage<'_>, name: &str) -> Result<(), Incomplete> {
    let absent = || Incomplete::Absent { header: name.to_owned() };
    let mut values = call.headers.get_all(name).iter();
    let first = values.next().ok_or_else(absent)?;
    let first = str::from_utf8(first.as_bytes()).map_err(|_| absent())?.trim();
    let Some(second) = values.next() else {
        text.push_str(first);
        return Ok(());
    };
    let mut all = vec![first];
    for value in std::iter::once(second).chain(values) {
        all.push(str::from_utf8(value.as_bytes()).map_err(|_| absent())?.trim());
    }
    all.sort_unstable();
    text.push_str(&all.join(","));
    Ok(())
}

/// `SignedHeaders` is what every SDK writes: lower-case names in ascending order, none twice. And
/// `host` and every `x-acs-…` header must be among them, or they could be changed on the way.
pub(super) fn require_signed(
    call: &SendMessage<'_>,
    signed_headers: &str,
) -> Result<(), Incomplete> {
    let names = || signed_headers.split(';');
    let lower = |name: &str| !name.is_empty() && !name.bytes().any(|b| b.is_ascii_uppercase());
    let ascending = names().zip(names().skip(1)).all(|(name, next)| name < next);
    if !ascending || !names().all(lower) {
        return Err(Incomplete::Disordered);
    }
    let signed = |wanted: &str| signed_headers.split(';').any(|name| name == wanted);
    let must = call.headers.keys().map(http::HeaderName::as_str);
    let must = must.filter(|name| name.starts_with("x-acs-")).chain(std::iter::once("host"));
    match must.into_iter().find(|name| !signed(name)) {
        Some(name) => Err(Incomplete::Unsigned { header: name.to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_authorization_header_splits_into_its_four_parts() {
        let parsed = Authorization::parse(
            "ACS3-HMAC-SHA256 Credential=ak,SignedHeaders=host;x-acs-date,Signature=00ff",
        );
        let whole = Authorization {
            algorithm: "ACS3-HMAC-SHA256",
            access_key_id: "ak",
            signed_headers: "host;x-acs-date",
            signature: "00ff",
        };
        assert_eq!(parsed, Some(whole));
        for bad in [
            "ACS3-HMAC-SHA256",
            "ACS3-HMAC-SHA256 Credential=ak,Signature=00",
            "ACS3-HMAC-SHA256 Credential=ak,SignedHeaders=host,Signature=",
            "ACS3-HMAC-SHA256 Credential=a,Credential=b,SignedHeaders=host,Signature=0",
            "ACS3-HMAC-SHA256 Credential=ak,SignedHeaders=host,Signature=0,More=1",
        ] {
            assert_eq!(Authorization::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_unreserved_stays_and_all_else_is_encoded() {
        let mut out = String::new();
        encode_into(&mut out, "aZ09-_.~ *'()!/+日");
        assert_eq!(out, "aZ09-_.~%20%2A%27%28%29%21%2F%2B%E6%97%A5");
    }

    proptest! {
        #[test]
        fn an_encoded_text_decodes_to_itself(text in ".*") {
            let mut out = String::new();
            encode_into(&mut out, &text);
            let decoded = percent_encoding::percent_decode_str(&out).decode_utf8().unwrap();
            prop_assert_eq!(decoded, text);
        }

        #[test]
        fn no_garbage_in_an_authorization_header_panics(text in ".{0,200}") {
            let _ = Authorization::parse(&text);
        }
    }
}
