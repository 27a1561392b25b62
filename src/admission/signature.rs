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
const ECHO_BYTES_MAX: usize = 8 * 1024;

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
        Err(Refusal::SignatureMismatch { server: ServerText::StringToSign(text) })
    }
}

/// Checks a V3 signature and the body's hash in constant time. `hosts` are tried in turn for the
/// signed `Host`: `None` is the one received, the others are its aliases.
pub(super) fn verify_v3(
    key: &SigningKey,
    call: &SendMessage<'_>,
    authorization: Authorization<'_>,
    hosts: &[Option<&str>],
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
    for host in hosts {
        let text = canonical::canonical_request(call, authorization.signed_headers, *host, &actual)
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

fn shortened(mut text: String) -> String {
    if text.len() > ECHO_BYTES_MAX {
        // The head of a canonical request is the query; its tail is what usually differs.
        let cut = (text.len() - ECHO_BYTES_MAX..).find(|at| text.is_char_boundary(*at));
        text.replace_range(..cut.unwrap_or(0), "…");
    }
    text
}
