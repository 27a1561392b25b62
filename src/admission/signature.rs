use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use sm3::Sm3;
use subtle::ConstantTimeEq;

use super::call::{Parameter, SendMessage, Verb};
use super::canonical::{self, Authorization};
use super::refusal::{Refusal, ServerText};

/// A caller's own text comes back in a mismatch up to this many bytes.
const ECHO_BYTES_MAX: usize = 16 * 1024;

/// The secret of an access key, keyed once for each algorithm it may sign with.
#[derive(Clone)]
pub(super) struct SigningKey {
    rpc: Hmac<Sha1>,
    sha256: Hmac<Sha256>,
    sm3: Hmac<Sm3>,
}

/// A V3 algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `ACS3-HMAC-SHA256`, the default of the SDKs.
    Sha256,
    /// `ACS3-HMAC-SM3`.
    Sm3,
}

impl Algorithm {
    /// The algorithm as an `Authorization` header names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "ACS3-HMAC-SHA256",
            Self::Sm3 => "ACS3-HMAC-SM3",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sm3].into_iter().find(|known| known.name() == name)
    }

    /// Lower-case hex of the hash of `bytes`.
    #[must_use]
    pub fn hash(self, bytes: &[u8]) -> String {
        match self {
            Self::Sha256 => hex::encode(Sha256::digest(bytes)),
            Self::Sm3 => hex::encode(Sm3::digest(bytes)),
        }
    }
}

impl SigningKey {
    pub(super) fn new(secret: &str) -> Self {
        Self {
            rpc: keyed(format!("{secret}&").as_bytes()),
            sha256: keyed(secret.as_bytes()),
            sm3: keyed(secret.as_bytes()),
        }
    }

    fn acs3(&self, algorithm: Algorithm, canonical_request: &str) -> [u8; 32] {
        let hash = algorithm.hash(canonical_request.as_bytes());
        match algorithm {
            Algorithm::Sha256 => mac(&self.sha256, &[algorithm.name(), "\n", &hash]).into(),
            Algorithm::Sm3 => mac(&self.sm3, &[algorithm.name(), "\n", &hash]).into(),
        }
    }

    fn rpc(&self, string_to_sign: &str) -> [u8; 20] {
        mac(&self.rpc, &[string_to_sign]).into()
    }
}

fn keyed<M: KeyInit>(key: &[u8]) -> M {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104)")]
    M::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn mac<M: Mac + Clone>(key: &M, parts: &[&str]) -> hmac::digest::Output<M> {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part.as_bytes());
    }
    mac.finalize().into_bytes()
}

/// Signs a V1 call: the value of its `Signature` parameter.
#[must_use]
pub fn sign_v1(secret: &str, verb: Verb, parameters: &[Parameter<'_>]) -> String {
    let text = canonical::string_to_sign_v1(verb, parameters.iter());
    STANDARD.encode(SigningKey::new(secret).rpc(&text))
}

/// Signs a V3 call: the value of its `Authorization` header, every header of the call signed.
#[must_use]
pub fn sign_v3(
    algorithm: Algorithm,
    access_key_id: &str,
    secret: &str,
    call: &SendMessage<'_>,
) -> Option<String> {
    let mut names: Vec<_> = call.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let signed = names.join(";");
    let body_hash = algorithm.hash(call.body);
    let request = canonical::canonical_request(call, &signed, None, &body_hash).ok()?;
    let signature = hex::encode(SigningKey::new(secret).acs3(algorithm, &request));
    let name = algorithm.name();
    Some(format!("{name} Credential={access_key_id},SignedHeaders={signed},Signature={signature}"))
}

/// Checks a V1 signature in constant time.
pub(super) fn verify_v1(key: &SigningKey, call: &SendMessage<'_>) -> Result<(), Refusal> {
    let text = canonical::string_to_sign_v1(call.verb, call.parameters.all());
    let given = call.parameters.get("Signature").unwrap_or_default();
    let expected = STANDARD.encode(key.rpc(&text));
    if bool::from(expected.as_bytes().ct_eq(given.as_bytes())) {
        Ok(())
    } else {
        Err(Refusal::SignatureMismatch { server: ServerText::StringToSign(head_of(text)) })
    }
}

/// Checks a V3 signature and the body's hash in constant time. The caller may have signed one of
/// the aliases in place of the `Host` received.
pub(super) fn verify_v3(
    key: &SigningKey,
    call: &SendMessage<'_>,
    authorization: Authorization<'_>,
    host_aliases: &[String],
) -> Result<(), Refusal> {
    let algorithm =
        Algorithm::parse(authorization.algorithm).ok_or(Refusal::InvalidSignatureMethod)?;
    let incomplete = |because| Refusal::IncompleteSignature { because };
    canonical::require_signed(call, authorization.signed_headers).map_err(incomplete)?;
    let claimed = call.header("x-acs-content-sha256").filter(|hash| !hash.is_empty()).ok_or(
        Refusal::MissingCommon { parameter: "ContentSha256", named: "x-acs-content-sha256" },
    )?;
    let actual = algorithm.hash(call.body);
    if !bool::from(actual.as_bytes().ct_eq(claimed.as_bytes())) {
        return Err(Refusal::SignatureMismatch { server: ServerText::BodyHash(actual) });
    }
    let given = authorization.signature.as_bytes();
    let mut received = None;
    let aliases = host_aliases.iter().map(|alias| Some(alias.as_str()));
    for host in std::iter::once(None).chain(aliases) {
        let text = canonical::canonical_request(call, authorization.signed_headers, host, &actual)
            .map_err(incomplete)?;
        let expected = hex::encode(key.acs3(algorithm, &text));
        if bool::from(expected.as_bytes().ct_eq(given)) {
            return Ok(());
        }
        received.get_or_insert(text);
    }
    let server = ServerText::CanonicalRequest(shortened(received.unwrap_or_default()));
    Err(Refusal::SignatureMismatch { server })
}

/// The older SDKs compare this text with their own, which a caller of so long a one goes without.
fn head_of(mut text: String) -> String {
    text.truncate(ECHO_BYTES_MAX);
    text
}

fn shortened(mut text: String) -> String {
    if text.len() > ECHO_BYTES_MAX {
        // The head of a canonical request is the query; its tail is what usually differs.
        let cut = (text.len() - ECHO_BYTES_MAX..).find(|at| text.is_char_boundary(*at));
        text.replace_range(..cut.unwrap_or(0), "…");
    }
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::Value;

    use super::super::call::Parameters;
    use super::*;

    const VECTORS: &str = include_str!("../../tests/vectors.json");

    fn vectors(kind: &str) -> (Value, Vec<Value>) {
        let file: Value = serde_json::from_str(VECTORS).unwrap();
        let ours = |vector: &&Value| vector["name"].as_str().unwrap().starts_with(kind);
        let vectors: Vec<_> = file["vectors"].as_array().unwrap().iter().filter(ours).collect();
        let vectors: Vec<_> = vectors.into_iter().cloned().collect();
        assert!(vectors.len() >= 9, "{} vectors of {kind}", vectors.len());
        (file, vectors)
    }

    fn pairs(value: &Value) -> Vec<Parameter<'static>> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let object = value.as_object().into_iter().flatten();
        object.map(|(name, value)| (name.clone().into(), text(value).into())).collect()
    }

    fn headers(vector: &Value) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs(&vector["headers"]) {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    fn key(file: &Value, vector: &Value) -> SigningKey {
        let secret = vector["access_key_secret"].as_str();
        SigningKey::new(secret.unwrap_or_else(|| file["access_key_secret"].as_str().unwrap()))
    }

    fn verb(vector: &Value) -> Verb {
        if vector["method"] == "GET" { Verb::Get } else { Verb::Post }
    }

    #[test]
    fn every_v1_vector_is_accepted_and_none_with_a_changed_value() {
        let (file, vectors) = vectors("rpc_v1/");
        for vector in vectors {
            let headers = HeaderMap::new();
            let call = |change: &str| {
                let mut query = pairs(&vector["params"]);
                query[0].1 = format!("{}{change}", query[0].1).into();
                let signature = vector["signature"].as_str().unwrap().to_owned();
                query.push(("Signature".into(), signature.into()));
                let parameters = Parameters::new(query, vec![]).unwrap();
                SendMessage { verb: verb(&vector), parameters, headers: &headers, body: b"" }
            };
            assert_eq!(verify_v1(&key(&file, &vector), &call("")), Ok(()), "{}", vector["name"]);
            let refused = verify_v1(&key(&file, &vector), &call("x")).unwrap_err();
            assert!(matches!(refused, Refusal::SignatureMismatch { .. }));
            if let Some(text) = vector["string_to_sign"].as_str() {
                let signed =
                    canonical::string_to_sign_v1(verb(&vector), pairs(&vector["params"]).iter());
                assert_eq!(signed, text);
            }
        }
    }

    #[test]
    fn every_v3_vector_is_accepted_and_none_with_another_body_or_secret() {
        let (file, vectors) = vectors("v3/");
        for vector in vectors {
            let headers = headers(&vector);
            let authorization = vector["authorization"].as_str().unwrap();
            let authorization = Authorization::parse(authorization).unwrap();
            let call = |body| {
                let parameters = Parameters::new(pairs(&vector["query"]), vec![]).unwrap();
                SendMessage { verb: verb(&vector), parameters, headers: &headers, body }
            };
            let body = vector["body"].as_str().unwrap().as_bytes();
            let key = key(&file, &vector);
            let verified = verify_v3(&key, &call(body), authorization, &[]);
            assert_eq!(verified, Ok(()), "{}", vector["name"]);
            let other_body = verify_v3(&key, &call(b"other"), authorization, &[]);
            assert!(matches!(
                other_body,
                Err(Refusal::SignatureMismatch { server: ServerText::BodyHash(_) })
            ));
            let other_secret =
                verify_v3(&SigningKey::new("other"), &call(body), authorization, &[]);
            assert!(matches!(
                other_secret,
                Err(Refusal::SignatureMismatch { server: ServerText::CanonicalRequest(_) })
            ));
        }
    }

    #[test]
    fn a_signature_over_an_alias_of_the_host_is_accepted_only_if_it_is_configured() {
        let (file, vectors) = vectors("v3/");
        let vector = &vectors[0];
        let mut headers = headers(vector);
        let signed_host = headers["host"].to_str().unwrap().to_owned();
        headers.insert("host", "10.0.0.1:8080".parse().unwrap());
        let parameters = Parameters::new(pairs(&vector["query"]), vec![]).unwrap();
        let call = SendMessage { verb: Verb::Post, parameters, headers: &headers, body: b"" };
        let authorization = vector["authorization"].as_str().unwrap();
        let authorization = Authorization::parse(authorization).unwrap();
        let verify = |hosts: &[_]| verify_v3(&key(&file, vector), &call, authorization, hosts);
        assert!(verify(&[]).is_err());
        assert!(verify(&["mqtt.example.com".into()]).is_err());
        assert_eq!(verify(&["mqtt.example.com".into(), signed_host]), Ok(()));
    }

    #[test]
    fn a_header_that_must_be_signed_and_is_not_is_refused() {
        let (file, vectors) = vectors("v3/");
        let mut headers = headers(&vectors[0]);
        headers.insert("x-acs-extra", "1".parse().unwrap());
        let parameters = Parameters::new(pairs(&vectors[0]["query"]), vec![]).unwrap();
        let call = SendMessage { verb: Verb::Post, parameters, headers: &headers, body: b"" };
        let authorization = vectors[0]["authorization"].as_str().unwrap();
        let authorization = Authorization::parse(authorization).unwrap();
        let refused = verify_v3(&key(&file, &vectors[0]), &call, authorization, &[]);
        let header = "x-acs-extra".to_owned();
        let because = super::super::refusal::Incomplete::Unsigned { header };
        assert_eq!(refused, Err(Refusal::IncompleteSignature { because }));
    }

    #[test]
    fn signed_headers_out_of_order_or_given_twice_are_refused_before_anything_is_built() {
        let (file, vectors) = vectors("v3/");
        let headers = headers(&vectors[0]);
        let parameters = Parameters::new(pairs(&vectors[0]["query"]), vec![]).unwrap();
        let call = SendMessage { verb: Verb::Post, parameters, headers: &headers, body: b"" };
        let good = vectors[0]["authorization"].as_str().unwrap();
        let good = Authorization::parse(good).unwrap();
        let key = key(&file, &vectors[0]);
        for signed in ["host;accept", "accept;accept;host", "Accept;host", ";host", "host;", ""] {
            let authorization = Authorization { signed_headers: signed, ..good };
            let refused = verify_v3(&key, &call, authorization, &[]).unwrap_err();
            let because = super::super::refusal::Incomplete::Disordered;
            assert_eq!(refused, Refusal::IncompleteSignature { because }, "{signed}");
        }
    }

    #[test]
    fn what_we_sign_we_accept() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1:8080".parse().unwrap());
        for algorithm in [Algorithm::Sha256, Algorithm::Sm3] {
            headers.insert("x-acs-content-sha256", algorithm.hash(b"{}").parse().unwrap());
            let parameters =
                Parameters::new(vec![("Payload".into(), "a b*~日".into())], vec![]).unwrap();
            let call = SendMessage { verb: Verb::Post, parameters, headers: &headers, body: b"{}" };
            let header = sign_v3(algorithm, "ak", "secret", &call).unwrap();
            let authorization = Authorization::parse(&header).unwrap();
            let key = SigningKey::new("secret");
            assert_eq!(verify_v3(&key, &call, authorization, &[]), Ok(()));
        }
    }
}
