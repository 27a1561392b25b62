use std::num::NonZeroU32;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const LIMITS: Limits = Limits {
    device_qps: NonZeroU32::new(1_000_000).unwrap(),
    retained_messages_max: 1_000,
    sign_in_within: Duration::from_millis(300),
    session_messages_max: 100,
    session_bytes_max: 1 << 20,
    stalled_after: Duration::from_millis(300),
    write_timeout: Duration::from_millis(500),
};

/// A device that subscribes to TopicA and from then on reads nothing.
pub(super) async fn stalled(broken: &Broken, clean_session: bool) -> TcpStream {
    let (user_name, password) = credentials("post-cn-a", CLIENT);
    let text = |packet: &mut Vec<u8>, text: &str| {
        packet.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        packet.extend(text.as_bytes());
    };
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    body.extend([4, 0xC0 | u8::from(clean_session) << 1, 0, 60]);
    for field in [CLIENT, &user_name, &password] {
        text(&mut body, field);
    }
    let mut connect = vec![0x10, u8::try_from(body.len()).unwrap()];
    connect.extend(body);
    let mut socket = TcpStream::connect(broken.broker.local_addr()).await.unwrap();
    socket.write_all(&connect).await.unwrap();
    let mut ack = [0; 4];
    socket.read_exact(&mut ack).await.unwrap();
    assert_eq!(ack, [0x20, 2, 0, 0]);
    socket.write_all(b"\x82\x0B\0\x01\0\x06TopicA\x01").await.unwrap();
    let mut ack = [0; 5];
    socket.read_exact(&mut ack).await.unwrap();
    assert_eq!(ack, [0x90, 3, 0, 1, 1]);
    socket
}

async fn read_to_end(mut socket: TcpStream) -> usize {
    let mut read = Vec::new();
    // A reset ends it as well.
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut read)).await.expect("an end");
    read.len()
}

#[tokio::test]
async fn a_device_that_stops_reading_is_cut_off_and_disturbs_nobody() {
    let broken = start_with(LIMITS).await;
    let socket = stalled(&broken, true).await;
    let mut healthy = broken.device("post-cn-a", "GID_Test@@@healthy").await;
    assert!(healthy.subscribe("TopicA").await);
    let payload = vec![7; 32 * 1024];
    let publish = async {
        for _ in 0..500 {
            broken.send("post-cn-a", "TopicA", &payload).await;
        }
    };
    let receive = async {
        for _ in 0..500 {
            assert_eq!(healthy.receive().await.1.len(), payload.len());
        }
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(publish, receive) }).await.unwrap();
    assert!(broken.dropped("stalled_reader") > 0);
    assert_eq!(broken.dropped("session_full"), 0);
    let read = read_to_end(socket).await;
    assert!(read < 400 * payload.len(), "{read} bytes were waiting in the socket");
}

#[tokio::test]
async fn a_device_that_reads_but_never_acknowledges_is_cut_off_too() {
    let broken = start_with(LIMITS).await;
    let socket = stalled(&broken, true).await;
    let reader = tokio::spawn(read_to_end(socket));
    for _ in 0..150 {
        broken.send("post-cn-a", "TopicA", b"small").await;
    }
    assert!(reader.await.unwrap() > 0);
    assert!(broken.dropped("stalled_reader") >= 100);
}

#[tokio::test]
async fn a_device_that_leaves_while_its_full_session_is_waited_for_is_not_cut_off() {
    let limits = Limits { stalled_after: Duration::from_secs(2), ..LIMITS };
    let broken = start_with(limits).await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    broken.count(0..100).await;
    let leave = async {
        tokio::time::sleep(SILENCE).await;
        device.disconnect().await;
    };
    tokio::join!(broken.count(100..101), leave);
    let mut device = broken.stored(CLIENT).await;
    device.gets(0..100).await;
    device.flush().await;
    broken.count(101..104).await;
    device.gets(101..104).await;
    assert_eq!((broken.dropped("session_full"), broken.dropped("stalled_reader")), (1, 0));
}

#[tokio::test]
async fn a_stored_session_holds_no_more_than_its_bound_while_its_device_is_away() {
    let broken = start_with(LIMITS).await;
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_clean_session(false);
    let mut device = TestDevice::connect(options.clone()).await.unwrap();
    assert!(device.subscribe("TopicA").await);
    device.disconnect().await;
    tokio::time::sleep(SILENCE).await;
    for number in 0..150_u8 {
        broken.send("post-cn-a", "TopicA", &[number]).await;
    }
    assert_eq!(broken.dropped("session_full"), 50);
    let mut device = TestDevice::connect(options).await.unwrap();
    for number in 0..100_u8 {
        assert_eq!(device.receive().await.1, [number][..]);
    }
}

#[tokio::test]
async fn a_device_that_publishes_to_itself_without_reading_holds_nobody_up() {
    let broken = start_with(LIMITS).await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    for _ in 0..300 {
        device.publish("TopicA", b"echo").await;
    }
    assert_eq!(broken.dropped("stalled_reader"), 0);
}

#[tokio::test]
async fn a_connection_that_does_not_sign_in_is_closed_and_a_device_is_not() {
    let broken = start_with(LIMITS).await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    let connect = || TcpStream::connect(broken.broker.local_addr());
    let mute = connect().await.unwrap();
    let mut begun = connect().await.unwrap();
    begun.write_all(b"\x10\x40\0").await.unwrap();
    assert_eq!(read_to_end(mute).await, 0);
    assert_eq!(read_to_end(begun).await, 0);
    device.publish("TopicA", b"alive").await;
}
