//! The gate as wire uses it, on a manual clock.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::*;
use crate::clock::ManualClock;
use crate::message::TopicError;
use crate::metering::Registry;

const NOW: UnixMillis = UnixMillis(1_781_078_950_000);

struct Gate {
    admission: Admission,
    clock: ManualClock,
    metrics: AdmissionMetrics,
}

fn gate(burst: u32, nonces_max: usize) -> Gate {
    let instance = |id: &str, account: &str| InstanceConfig {
        id: InstanceId::parse(id).unwrap(),
        account: account.into(),
        topics: vec!["TopicA".into()],
        rate: Rate { qps: NonZeroU32::new(1_000).unwrap(), burst: NonZeroU32::new(burst).unwrap() },
        payload: PayloadCoding::Base64,
    };
    let instances = vec![instance("post-cn-1", "1"), instance("post-cn-2", "2")];
    let ids: Vec<_> = instances.iter().map(|instance| instance.id.clone()).collect();
    let metrics = AdmissionMetrics::new(&Registry::new(), &ids).unwrap();
    let clock = ManualClock::at(NOW);
    let config = Config {
        access_keys: vec![AccessKeyConfig {
            id: "LTAI1".into(),
            secret: "secret".into(),
            account: "1".into(),
        }],
        instances,
        replicas: NonZeroU32::MIN,
        nonces_max,
        host_aliases: vec![],
    };
    let sources = Sources {
        clock: Arc::new(clock.clone()),
        fingerprints: FingerprintKey([7; 16]),
        process: 5,
    };
    Gate { admission: Admission::new(config, sources, &metrics), clock, metrics }
}

/// A parameter to change or add, or (`None`) to leave out.
type Change<'c> = (&'static str, Option<&'c str>);

/// A V1 call with these parameters changed, added, or (`None`) left out.
fn parameters(changes: &[Change<'_>]) -> Vec<Parameter<'static>> {
    let mut all = vec![
        ("Action", "SendMessage"),
        ("Version", "2020-04-20"),
        ("AccessKeyId", "LTAI1"),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureVersion", "1.0"),
        ("SignatureNonce", "n1"),
        ("Timestamp", "2026-06-10T08:09:10Z"),
        ("InstanceId", "post-cn-1"),
        ("MqttTopic", "TopicA/x"),
        ("Payload", "aGVsbG8="),
    ];
    all.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    let kept = all.into_iter().map(|(name, value)| (name.into(), value.into()));
    let changed = changes.iter().filter_map(|(name, value)| {
        value.map(|value| (Cow::from(*name), Cow::from(value.to_owned())))
    });
    kept.chain(changed).collect()
}

impl Gate {
    fn examine(&self, changes: &[Change<'_>]) -> Result<Examined, Refused> {
        let mut query = parameters(changes);
        let signature = sign_v1("secret", Verb::Post, &query);
        query.push(("Signature".into(), signature.into()));
        self.examine_signed(query)
    }

    fn examine_signed(&self, query: Vec<Parameter<'_>>) -> Result<Examined, Refused> {
        let headers = HeaderMap::new();
        let parameters = Parameters::new(query, vec![]).unwrap();
        let call = SendMessage { verb: Verb::Post, parameters, headers: &headers, body: b"" };
        self.admission.examine(&call)
    }

    fn refusal(&self, changes: &[Change<'_>]) -> Refusal {
        self.examine(changes).unwrap_err().refusal
    }
}

#[test]
fn a_signed_call_is_admitted_with_its_payload_decoded() {
    let gate = gate(100, 10);
    let examined = gate.examine(&[]).unwrap();
    let (admitted, quota) = gate.admission.charge(examined).unwrap();
    let message = admitted.message();
    assert_eq!(message.payload.bytes().as_ref(), b"hello");
    assert_eq!((message.topic.as_str(), message.admitted_at), ("TopicA/x", NOW));
    assert_eq!(quota.remaining, 99);
    assert_eq!(admitted.nonce().expires_at, NOW.plus(WINDOW));
}

#[test]
fn each_refusal_names_what_is_wrong_and_takes_nothing() {
    let gate = gate(100, 10);
    let missing = |parameter| Refusal::MissingCommon { parameter, named: parameter };
    let cases: Vec<(&[Change<'_>], Refusal)> = vec![
        (&[("Action", Some("ListGroupId"))], Refusal::ApiNotSupported),
        (&[("Version", Some("2019-12-11"))], Refusal::ApiNotSupported),
        (&[("Action", None)], missing("Action")),
        (&[("Timestamp", None)], missing("Timestamp")),
        (&[("SignatureNonce", Some(""))], missing("SignatureNonce")),
        (&[("AccessKeyId", None)], missing("AccessKeyId")),
        (&[("AccessKeyId", Some("nobody"))], Refusal::AccessKeyNotFound),
        (&[("AccessKeyId", Some("STS.x"))], Refusal::MissingSecurityToken),
        (&[("SecurityToken", Some("CAIS"))], Refusal::SecurityTokenUnresolved),
        (&[("SignatureMethod", Some("SHA256withRSA"))], Refusal::InvalidSignatureMethod),
        (&[("SignatureType", Some("BEARERTOKEN"))], Refusal::InvalidSignatureMethod),
        (
            &[("SignatureVersion", Some("2.0"))],
            Refusal::InvalidCommon { parameter: "SignatureVersion" },
        ),
        (&[("Timestamp", Some("yesterday"))], Refusal::TimestampMalformed),
        (
            &[("Timestamp", Some("2026-06-10T07:54:09Z"))],
            Refusal::TimestampExpired { request: UnixMillis(NOW.0 - 901_000), server: NOW },
        ),
        (&[("InstanceId", None)], Refusal::ParameterMissing { parameter: "InstanceId" }),
        (&[("InstanceId", Some("a/b"))], Refusal::InstanceMalformed),
        (&[("InstanceId", Some("post-cn-2"))], Refusal::InstanceNotOwned),
        (&[("InstanceId", Some("post-cn-3"))], Refusal::InstanceNotOwned),
        (&[("MqttTopic", None)], Refusal::ParameterMissing { parameter: "MqttTopic" }),
        (&[("MqttTopic", Some("TopicA/#"))], Refusal::TopicMalformed(TopicError::Wildcard)),
        (&[("MqttTopic", Some("TopicB"))], Refusal::TopicUnknown),
        (&[("Payload", None)], Refusal::ParameterMissing { parameter: "Payload" }),
        (&[("Payload", Some("aGVs bG8="))], Refusal::PayloadNotBase64 { offset: 4 }),
    ];
    for (changes, refusal) in cases {
        assert_eq!(gate.refusal(changes), refusal);
    }
    let mut forged = parameters(&[]);
    forged.push(("Signature".into(), "AAAA".into()));
    let refused = gate.examine_signed(forged).unwrap_err();
    assert!(matches!(refused.refusal, Refusal::SignatureMismatch { .. }));
    assert_eq!(refused.quota, None, "nobody learns a quota before they have signed");
    let (_, quota) = gate.admission.charge(gate.examine(&[]).unwrap()).unwrap();
    assert_eq!(quota.remaining, 99, "no refusal took a token, or kept the nonce");
    assert_eq!(gate.metrics.nonces.get(), 0, "the dropped message gave its nonce back");
}

#[test]
fn sixty_four_kibibytes_pass_and_one_byte_more_does_not() {
    use base64::Engine;
    let gate = gate(100, 10);
    let encoded =
        |bytes: usize| base64::engine::general_purpose::STANDARD.encode(vec![0xff; bytes]);
    assert!(gate.examine(&[("Payload", Some(&encoded(65_536)))]).is_ok());
    for bytes in [65_537, 65_538, 65_539, 65_540, 200_000] {
        let refusal = gate.refusal(&[("Payload", Some(&encoded(bytes)))]);
        assert!(matches!(refusal, Refusal::PayloadTooLarge(_)), "{bytes}: {refusal:?}");
    }
}

#[test]
fn a_nonce_is_good_once_and_good_again_after_a_throttled_call() {
    let gate = gate(1, 10);
    let examined = gate.examine(&[]).unwrap();
    let raced = gate.examine(&[]).unwrap();
    let _kept = gate.admission.charge(examined).unwrap().0.keep();
    assert_eq!(gate.refusal(&[]), Refusal::NonceUsed);
    assert_eq!(gate.admission.charge(raced).unwrap_err().refusal, Refusal::NonceUsed);

    let second = [("SignatureNonce", Some("n2"))];
    let throttled = gate.admission.charge(gate.examine(&second).unwrap()).unwrap_err();
    assert_eq!(throttled.refusal, Refusal::Throttled { retry_after: Duration::from_millis(1) });
    assert_eq!(throttled.quota.unwrap().remaining, 0);
    gate.clock.advance(Duration::from_millis(1));
    assert!(gate.admission.charge(gate.examine(&second).unwrap()).is_ok());
}

#[test]
fn a_full_nonce_set_refuses_and_charges_nothing() {
    let gate = gate(100, 1);
    let _kept = gate.admission.charge(gate.examine(&[]).unwrap()).unwrap().0.keep();
    let second = gate.examine(&[("SignatureNonce", Some("n2"))]).unwrap();
    let refused = gate.admission.charge(second).unwrap_err();
    assert_eq!(refused.refusal, Refusal::NoncesFull);
    assert_eq!(refused.quota.unwrap().remaining, 99);
}

#[test]
fn a_restored_nonce_is_used_and_an_expired_one_is_not() {
    let before = gate(100, 10);
    let (admitted, _) = before.admission.charge(before.examine(&[]).unwrap()).unwrap();
    let mark = admitted.nonce();
    let after = gate(100, 10);
    after.admission.restore(NonceMark { expires_at: UnixMillis(NOW.0 - 1), ..mark });
    assert!(after.examine(&[]).is_ok());
    after.admission.restore(mark);
    assert_eq!(after.refusal(&[]), Refusal::NonceUsed);
    after.clock.advance(WINDOW + Duration::from_secs(2));
    after.admission.sweep();
    assert_eq!(after.metrics.nonces.get(), 0);
}

#[test]
fn ids_are_unique_and_in_order_of_admission() {
    let gate = gate(1_000, 1_000);
    let mut ids = vec![];
    for n in 0..500 {
        let nonce = format!("n{n}");
        let examined = gate.examine(&[("SignatureNonce", Some(&nonce))]).unwrap();
        ids.push(gate.admission.charge(examined).unwrap().0.keep().id);
    }
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
}
