use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::call::{Call, form};
use super::rig::{BURST, Fate, Fragile, Options, PATIENCE, Rig};
use crate::admission::Algorithm;
use crate::wire::Config;

const V3: Algorithm = Algorithm::Sha256;

#[tokio::test]
async fn a_panic_before_the_push_is_answered_and_takes_nothing() {
    let clock = Fragile::good_for(100);
    let options = Options { admission_clock: Some(clock.clone()), ..Options::default() };
    let rig = Rig::with(options).await;
    let call = Call::new();
    clock.good.store(0, std::sync::atomic::Ordering::Relaxed);
    let mut client = rig.connect().await;
    client.write(&call.v3(V3)).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.member("Code").as_str()), (500, "InternalError"));
    assert_eq!(reply.member("RequestId"), reply.header("x-acs-request-id"));
    assert!(client.ended().await, "a connection that saw a bug is not used again");
    assert_eq!((rig.metrics.panics.get(), rig.stored.lock().len()), (1, 0));
    clock.good.store(100, std::sync::atomic::Ordering::Relaxed);
    let good = rig.send(&call.v3(V3)).await;
    assert_eq!((good.status, good.remaining()), (200, BURST - 1));
}

#[tokio::test]
async fn a_panic_after_the_push_closes_the_connection_without_an_answer() {
    // Asked at the start of the call, and no more.
    let wire_clock = Fragile::good_for(1);
    let rig = Rig::with(Options { wire_clock: Some(wire_clock), ..Options::default() }).await;
    let mut client = rig.connect().await;
    client.write(&Call::new().v3(V3)).await;
    assert!(client.try_reply().await.is_none());
    assert_eq!((rig.metrics.panics.get(), rig.stored.lock().len()), (1, 1));
}

#[tokio::test]
async fn at_the_cap_a_connection_waits_for_another_to_end() {
    let config = Config { connections_max: 1, ..Config::default() };
    let rig = Rig::with(Options { config, ..Options::default() }).await;
    let mut first = rig.connect().await;
    first.write(&Call::new().v3(V3)).await;
    assert_eq!(first.reply().await.status, 200);
    let mut second = rig.connect().await;
    second.write(&Call::new().v3(V3)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.stored.lock().len(), 1, "the second is not served yet");
    assert_eq!(rig.metrics.connections.get(), 1);
    drop(first);
    assert_eq!(second.reply().await.status, 200);
}

#[tokio::test]
async fn a_shutdown_finishes_open_calls_and_closes_idle_connections() {
    let rig = Rig::start().await;
    let mut idle = rig.connect().await;
    idle.write(&Call::new().v3(V3)).await;
    assert_eq!(idle.reply().await.status, 200);
    let mut silent = rig.connect().await;
    rig.set_fate(Fate::Held);
    let mut busy = rig.connect().await;
    busy.write(&Call::new().v3(V3)).await;
    rig.until(|rig| rig.metrics.connections.get() == 3).await;
    rig.until_taken(2).await;
    rig.shutdown.send(true).unwrap();
    assert!(idle.ended().await && silent.ended().await);
    rig.set_fate(Fate::Stored);
    let reply = busy.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    assert!(busy.ended().await);
    tokio::time::timeout(PATIENCE, rig.serving).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err());
}

#[tokio::test]
async fn a_request_on_its_way_when_weir_drains_is_answered_and_told_that_it_is_the_last() {
    let rig = Rig::start().await;
    let mut kept = rig.connect().await;
    kept.write(&Call::new().v3(V3)).await;
    let before = kept.reply().await;
    assert_eq!((before.status, before.headers.get("connection")), (200, None));
    let mut fresh = rig.connect().await;
    rig.until(|rig| rig.metrics.connections.get() == 2).await;
    rig.shutdown.send(true).unwrap();
    for client in [&mut kept, &mut fresh] {
        client.write(&Call::new().v3(V3)).await;
        let last = client.reply().await;
        assert_eq!((last.status, last.header("connection")), (200, "close"));
        assert!(client.ended().await);
    }
    tokio::time::timeout(PATIENCE, rig.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_finishes_the_calls_of_http2_and_ends_its_connection() {
    let rig = Rig::start().await;
    rig.set_fate(Fate::Held);
    let stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let open = tokio::spawn(sender.send_request(http2(&Call::new())));
    rig.until_taken(1).await;
    rig.shutdown.send(true).unwrap();
    rig.set_fate(Fate::Stored);
    assert_eq!(open.await.unwrap().unwrap().status(), 200);
    // The client is told by GOAWAY, and so this end is no error.
    tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    assert!(sender.send_request(http2(&Call::new())).await.is_err());
    tokio::time::timeout(PATIENCE, rig.serving).await.unwrap().unwrap();
    assert_eq!(rig.stored.lock().len(), 1);
}

#[tokio::test]
async fn long_lines_of_all_connections_take_no_more_room_than_there_is() {
    let bodies_bytes_max = 400 * 1024;
    let rig = Rig::with(Options { bodies_bytes_max, ..Options::default() }).await;
    let long = format!("GET /?Payload={}", "A".repeat(100_000));
    let end = b" HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = rig.connect().await;
    first.write(long.as_bytes()).await;
    rig.until(|rig| rig.space.left() < bodies_bytes_max).await;
    let refused = rig.send(&[long.as_bytes(), end].concat()).await;
    assert_eq!(refused.member("Code"), "SystemOverFlow");
    assert_eq!((refused.header("retry-after"), refused.header("connection")), ("1", "close"));
    first.write(end).await;
    assert_eq!(first.reply().await.member("Code"), "MissingAction");
    let again = rig.send(&[long.as_bytes(), end].concat()).await;
    assert_eq!(again.member("Code"), "MissingAction", "its room is free again");
    assert_eq!(rig.space.left(), bodies_bytes_max);
}

#[tokio::test]
async fn a_large_head_of_http2_takes_room_too() {
    let rig = Rig::with(Options { bodies_bytes_max: 20 * 1024, ..Options::default() }).await;
    let stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    for (bytes, status) in [(10 * 1024, 200), (30 * 1024, 500), (1, 200)] {
        let mut request = http2(&Call::new());
        request.headers_mut().insert("x-large", "x".repeat(bytes).parse().unwrap());
        assert_eq!(sender.send_request(request).await.unwrap().status(), status, "{bytes}");
    }
}

fn http2(call: &Call) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::post(format!("http://{}/?{}", call.host, form(&call.query)));
    for (name, value) in call.v3_headers(V3).iter().filter(|(name, _)| name != "host") {
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::from(call.body.clone()))).unwrap()
}

#[tokio::test]
async fn a_drain_ends_when_its_grace_has_passed() {
    let config = Config { drain: Duration::from_millis(100), ..Config::default() };
    let rig = Rig::with(Options { config, ..Options::default() }).await;
    rig.set_fate(Fate::Held);
    let mut busy = rig.connect().await;
    busy.write(&Call::new().v3(V3)).await;
    rig.until_taken(1).await;
    rig.shutdown.send(true).unwrap();
    tokio::time::timeout(PATIENCE, rig.serving).await.unwrap().unwrap();
    assert!(busy.try_reply().await.is_none());
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_slot_to_the_next() {
    let rig = Rig::with(Options { slots: 1, ..Options::default() }).await;
    rig.set_fate(Fate::Held);
    let mut gone = rig.connect().await;
    gone.write(&Call::new().v3(V3)).await;
    rig.until_taken(1).await;
    drop(gone);
    rig.until(|rig| rig.metrics.connections.get() == 0).await;
    rig.set_fate(Fate::Stored);
    assert_eq!(rig.send(&Call::new().v3(V3)).await.status, 200);
    assert_eq!(rig.stored.lock().len(), 2, "what was pushed is stored");
}
