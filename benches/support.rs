//! Words the benches share: one instance, one key, and signed calls to it.

use std::num::NonZeroU32;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use weir::admission::{
    Admission, Admitted, Algorithm, Config, Examined, FingerprintKey, InstanceConfig, Parameter,
    Parameters, PayloadCoding, Rate, SendMessage, Sources, TOKENS_MAX, Verb, format_timestamp,
    sign_v1, sign_v3,
};
use weir::clock::{Clock, SystemClock};
use weir::message::InstanceId;
use weir::metering::{AdmissionMetrics, Registry};

pub(crate) const KEY: &str = "LTAI5tBenchmark0000000001";
pub(crate) const SECRET: &str = "benchmarkSecret0123456789abcde";
pub(crate) const INSTANCE: &str = "post-cn-bench000001";
/// 120 bytes in Base64: with the other fields a record of about 200 bytes.
pub(crate) const PAYLOAD: &str = concat!(
    "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw",
    "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAx",
);

pub(crate) fn admission() -> Admission {
    let id = InstanceId::parse(INSTANCE).unwrap();
    let tokens = NonZeroU32::new(TOKENS_MAX).unwrap();
    let config = Config {
        access_keys: vec![weir::admission::AccessKeyConfig {
            id: KEY.into(),
            secret: SECRET.into(),
            account: "1".into(),
        }],
        instances: vec![InstanceConfig {
            id: id.clone(),
            account: "1".into(),
            topics: vec!["TopicA".into()],
            rate: Rate { qps: tokens, burst: tokens },
            payload: PayloadCoding::Base64,
        }],
        replicas: NonZeroU32::MIN,
        nonces_max: usize::MAX,
        host_aliases: vec![],
    };
    let sources =
        Sources { clock: Arc::new(SystemClock), fingerprints: FingerprintKey([3; 16]), process: 1 };
    Admission::new(config, sources, &AdmissionMetrics::new(&Registry::new(), &[id]).unwrap())
}

pub(crate) fn fields() -> Vec<Parameter<'static>> {
    vec![
        ("InstanceId".into(), INSTANCE.into()),
        ("MqttTopic".into(), "TopicA/bench".into()),
        ("Payload".into(), PAYLOAD.into()),
    ]
}

/// A V1 call's parameters, signed.
pub(crate) fn v1(nonce: u64) -> Vec<Parameter<'static>> {
    let mut query = fields();
    let common: [(&str, String); 7] = [
        ("Action", "SendMessage".into()),
        ("Version", "2020-04-20".into()),
        ("AccessKeyId", KEY.into()),
        ("SignatureMethod", "HMAC-SHA1".into()),
        ("SignatureVersion", "1.0".into()),
        ("SignatureNonce", format!("{nonce:032x}")),
        ("Timestamp", format_timestamp(SystemClock.unix())),
    ];
    query.extend(common.map(|(name, value)| (name.into(), value.into())));
    let signature = sign_v1(SECRET, Verb::Post, &query);
    query.push(("Signature".into(), signature.into()));
    query
}

/// A V3 call's headers, signed; its parameters are [`fields`] in the query.
pub(crate) fn v3(nonce: u64, host: &str) -> HeaderMap {
    let algorithm = Algorithm::Sha256;
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        headers.insert(name, HeaderValue::from_str(value).unwrap());
    };
    add("host", host);
    add("accept", "application/json");
    add("x-acs-action", "SendMessage");
    add("x-acs-version", "2020-04-20");
    add("x-acs-date", &format_timestamp(SystemClock.unix()));
    add("x-acs-signature-nonce", &format!("{nonce:032x}"));
    add("x-acs-content-sha256", &algorithm.hash(b""));
    let authorization = {
        let call = call(fields(), &headers);
        sign_v3(algorithm, KEY, SECRET, &call).unwrap()
    };
    headers.insert("authorization", HeaderValue::from_str(&authorization).unwrap());
    headers
}

pub(crate) fn call<'r>(query: Vec<Parameter<'r>>, headers: &'r HeaderMap) -> SendMessage<'r> {
    let parameters = Parameters::new(query, vec![]).unwrap();
    SendMessage { verb: Verb::Post, parameters, headers, body: b"" }
}

pub(crate) fn examined(admission: &Admission, nonce: u64) -> Examined {
    let headers = HeaderMap::new();
    admission.examine(&call(v1(nonce), &headers)).unwrap()
}

pub(crate) fn admitted(admission: &Admission, nonce: u64) -> Admitted {
    admission.charge(examined(admission, nonce)).unwrap().0
}
