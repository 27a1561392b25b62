use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use rumqttc::v5::mqttbytes::v5;

use super::super::tests::message;
use super::*;

const GRANTED: Granted =
    Granted { in_flight_messages_max: 9, packet_bytes_max: PACKET_BYTES_MAX, keep_alive: None };

fn written(version: Version, granted: &Granted) -> Result<BytesMut, usize> {
    let mut out = BytesMut::new();
    let topic = Bytes::from_static(b"post-cn-a/TopicA/x");
    publish(version, 7, &topic, &message("TopicA/x", b"hello"), granted, &mut out)?;
    Ok(out)
}

fn read_all(version: Version, bytes: &[u8]) -> Result<Vec<Received>, Malformed> {
    let mut bytes = BytesMut::from(bytes);
    std::iter::from_fn(|| read(version, &mut bytes).transpose()).collect()
}

#[test]
fn a_publish_asks_for_qos_1_and_says_in_mqtt_5_whose_message_it_is() {
    let mut bytes = written(Version::V5, &GRANTED).unwrap();
    let v5::Packet::Publish(sent) = v5::Packet::read(&mut bytes, None).unwrap() else { panic!() };
    assert_eq!((sent.qos, sent.dup, sent.retain, sent.pkid), (QoS5::AtLeastOnce, false, false, 7));
    assert_eq!((&sent.topic[..], &sent.payload[..]), (&b"post-cn-a/TopicA/x"[..], &b"hello"[..]));
    let properties = sent.properties.unwrap();
    assert_eq!(properties.message_expiry_interval, None);
    assert_eq!(
        properties.user_properties,
        [
            ("msg_id".to_owned(), "0000000000000000000000000000000A".to_owned()),
            ("instance_id".to_owned(), "post-cn-a".to_owned()),
        ]
    );
    let mut bytes = written(Version::V3, &GRANTED).unwrap();
    let v4::Packet::Publish(sent) = v4::Packet::read(&mut bytes, 999).unwrap() else { panic!() };
    assert_eq!((sent.qos, sent.dup, sent.retain, sent.pkid), (QoS::AtLeastOnce, false, false, 7));
    assert_eq!((&sent.topic[..], &sent.payload[..]), ("post-cn-a/TopicA/x", &b"hello"[..]));
}

#[test]
fn a_publish_larger_than_the_broker_takes_is_not_written() {
    for version in [Version::V5, Version::V3] {
        let bytes = written(version, &GRANTED).unwrap().len();
        assert!(written(version, &Granted { packet_bytes_max: bytes, ..GRANTED }).is_ok());
        let smaller = Granted { packet_bytes_max: bytes - 1, ..GRANTED };
        assert_eq!(written(version, &smaller).unwrap_err(), bytes);
    }
}

#[test]
fn the_largest_message_fits_in_both_versions() {
    let (name, topic) = ("i".repeat(64), "日".repeat(64));
    let largest = Message {
        instance: crate::message::InstanceId::parse(&name).unwrap(),
        payload: crate::message::Payload::new(vec![0; PAYLOAD_BYTES_MAX].into()).unwrap(),
        ..message(&format!("{topic}/p2p/{topic}"), b"")
    };
    let template = "{topic}".repeat(73);
    let topic = super::super::Template::parse(&template).unwrap().topic(&largest);
    for version in [Version::V5, Version::V3] {
        let mut out = BytesMut::new();
        let topic = Bytes::from(topic.clone());
        assert_eq!(publish(version, 1, &topic, &largest, &GRANTED, &mut out), Ok(()));
        assert!(out.len() > PAYLOAD_BYTES_MAX && out.len() <= PACKET_BYTES_MAX);
    }
}

#[test]
fn a_puback_is_taken_postponed_or_refused_by_its_reason() {
    let cases = [
        (0x00, Verdict::Taken),
        (0x10, Verdict::Taken),
        (0x80, Verdict::Never(0x80)),
        (0x83, Verdict::Never(0x83)),
        (0x87, Verdict::Never(0x87)),
        (0x90, Verdict::Never(0x90)),
        (0x91, Verdict::Later(0x91)),
        (0x97, Verdict::Later(0x97)),
        (0x99, Verdict::Never(0x99)),
    ];
    for (code, verdict) in cases {
        let received = read_all(Version::V5, &[0x40, 3, 0, 5, code]).unwrap();
        assert_eq!(received, [Received::Answered(5, verdict)]);
    }
    let short = [Received::Answered(5, Verdict::Taken)];
    assert_eq!(read_all(Version::V5, &[0x40, 2, 0, 5]).unwrap(), short);
    assert_eq!(read_all(Version::V3, &[0x40, 2, 0, 5]).unwrap(), short);
    assert!(read_all(Version::V5, &[0x40, 3, 0, 5, 0x77]).is_err(), "a code MQTT does not have");
}

#[test]
fn a_connack_says_what_the_broker_allows() {
    let all = [0x20, 14, 0, 0, 11, 0x21, 0, 20, 0x27, 0, 0, 4, 0, 0x13, 0, 9];
    let granted = Granted {
        in_flight_messages_max: 20,
        packet_bytes_max: 1_024,
        keep_alive: Some(Duration::from_secs(9)),
    };
    assert_eq!(read_all(Version::V5, &all).unwrap(), [Received::Opened(granted)]);
    let none = Granted { in_flight_messages_max: 65_535, ..GRANTED };
    assert_eq!(read_all(Version::V5, &[0x20, 3, 0, 0, 0]).unwrap(), [Received::Opened(none)]);
    assert_eq!(read_all(Version::V3, &[0x20, 2, 0, 0]).unwrap(), [Received::Opened(none)]);
}

#[test]
fn a_connack_of_another_version_is_told_from_a_refusal() {
    assert_eq!(read_all(Version::V5, &[0x20, 3, 0, 0x84, 0]).unwrap(), [Received::OtherVersion]);
    assert_eq!(read_all(Version::V3, &[0x20, 2, 0, 1]).unwrap(), [Received::OtherVersion]);
    // What a broker of 3.1.1 answers to MQTT 5: the dialler tries 3.1.1 for that as well.
    assert!(read_all(Version::V5, &[0x20, 2, 0, 1]).is_err());
    let refused = read_all(Version::V5, &[0x20, 3, 0, 0x87, 0]).unwrap();
    assert_eq!(refused, [Received::Refused("NotAuthorized".to_owned())]);
    let refused = read_all(Version::V3, &[0x20, 2, 0, 4]).unwrap();
    assert_eq!(refused, [Received::Refused("BadUserNamePassword".to_owned())]);
}

#[test]
fn a_connack_that_allows_qos_0_only_is_a_refusal_that_says_so() {
    let refused = read_all(Version::V5, &[0x20, 5, 0, 0, 2, 0x24, 0]).unwrap();
    let [Received::Refused(why)] = &refused[..] else { panic!("{refused:?}") };
    assert!(why.contains("maximum QoS is 0"), "{why}");
    let opened = read_all(Version::V5, &[0x20, 5, 0, 0, 2, 0x24, 1]).unwrap();
    assert!(matches!(opened[..], [Received::Opened(_)]), "{opened:?}");
}

#[test]
fn a_disconnect_says_why_and_whether_a_message_may_be_to_blame() {
    for (code, blamed) in [(0x95, true), (0x99, true), (0x8B, false), (0x8E, false), (0x98, false)]
    {
        let received = read_all(Version::V5, &[0xE0, 2, code, 0]).unwrap();
        let [Received::Closing(_, is_blamed)] = received[..] else { panic!("{received:?}") };
        assert_eq!(is_blamed, blamed, "{code:#x}");
    }
}

#[test]
fn ping_and_farewell_are_two_bytes() {
    let mut out = BytesMut::new();
    ping(&mut out);
    disconnect(&mut out);
    assert_eq!(&out[..], [0xC0, 0, 0xE0, 0]);
}

proptest! {
    #[test]
    fn a_broker_that_sends_anything_at_all_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        version in prop_oneof![Just(Version::V5), Just(Version::V3)],
    ) {
        drop(read_all(version, &bytes));
    }

    #[test]
    fn a_broken_packet_of_a_known_kind_never_panics(
        kind in prop::sample::select(vec![0x20_u8, 0x40, 0x30, 0x32, 0xE0, 0xD0, 0x90]),
        body in prop::collection::vec(any::<u8>(), 0..60),
        version in prop_oneof![Just(Version::V5), Just(Version::V3)],
    ) {
        let mut bytes = BytesMut::new();
        bytes.put_u8(kind);
        bytes.put_u8(u8::try_from(body.len()).unwrap());
        bytes.extend_from_slice(&body);
        drop(read_all(version, &bytes));
    }
}
