use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::call::Call;
use super::rig::{Fate, Options, PATIENCE, Rig};
use crate::admission::Algorithm;
use crate::wire::{Config, Deadlines};

/// One deadline is short, the others are longer than the test waits.
async fn rig(set: impl FnOnce(&mut Deadlines)) -> Rig {
    let long = PATIENCE * 10;
    let mut deadlines =
        Deadlines { first_byte: long, header: long, body: long, idle: long, write: long };
    set(&mut deadlines);
    Rig::with(Options { config: Config { deadlines, ..Config::default() }, ..Options::default() })
        .await
}

const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    let rig = rig(|deadlines| deadlines.first_byte = SHORT).await;
    assert!(rig.connect().await.ended().await);
}

#[tokio::test]
async fn half_a_preface_is_under_the_deadline_of_the_first_bytes() {
    let rig = rig(|deadlines| deadlines.first_byte = SHORT).await;
    let mut client = rig.connect().await;
    client.write(b"PRI * HTTP/2.0\r\n").await;
    assert!(client.ended().await);
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off_however_it_trickles() {
    let rig = rig(|deadlines| deadlines.header = SHORT).await;
    for begun in ["P", "POST /?a=", "POST / HTTP/1.1\r\nhost:"] {
        let mut client = rig.connect().await;
        let (mut reader, mut writer) = client.0.split();
        writer.write_all(begun.as_bytes()).await.unwrap();
        let trickle = async {
            loop {
                tokio::time::sleep(SHORT / 6).await;
                if writer.write_all(b"x").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut byte = [0];
        let ended = tokio::select! {
            read = reader.read(&mut byte) => !matches!(read, Ok(1..)),
            () = trickle => false,
            () = tokio::time::sleep(PATIENCE) => false,
        };
        assert!(ended, "{begun}");
    }
}

#[tokio::test]
async fn a_second_head_has_a_deadline_of_its_own() {
    let rig = rig(|deadlines| deadlines.header = SHORT).await;
    let mut client = rig.connect().await;
    client.write(&Call::new().v3(Algorithm::Sha256)).await;
    assert_eq!(client.reply().await.status, 200);
    tokio::time::sleep(SHORT * 3).await;
    client.write(&Call::new().v3(Algorithm::Sha256)).await;
    assert_eq!(client.reply().await.status, 200, "idleness is not a slow head");
    client.write(b"POST / HTTP/1.1\r\n").await;
    assert!(client.ended().await);
}

#[tokio::test]
async fn a_head_begun_while_weir_was_at_work_is_under_its_deadline_too() {
    let rig = rig(|deadlines| deadlines.header = SHORT).await;
    rig.set_fate(Fate::Held);
    let mut client = rig.connect().await;
    client.write(&Call::new().v3(Algorithm::Sha256)).await;
    client.write(b"POST /?Payload=").await;
    tokio::time::sleep(SHORT).await;
    rig.set_fate(Fate::Stored);
    assert_eq!(client.reply().await.status, 200);
    assert!(client.ended().await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let rig = rig(|deadlines| deadlines.idle = SHORT).await;
    let mut client = rig.connect().await;
    for _ in 0..3 {
        client.write(&Call::new().v3(Algorithm::Sha256)).await;
        assert_eq!(client.reply().await.status, 200);
    }
    assert!(client.ended().await);
}

#[tokio::test]
async fn no_deadline_of_the_client_runs_while_weir_is_at_work() {
    let rig = rig(|deadlines| {
        (deadlines.idle, deadlines.header, deadlines.body) = (SHORT, SHORT, SHORT);
    })
    .await;
    rig.set_fate(Fate::Held);
    let mut client = rig.connect().await;
    client.write(&Call::new().in_form().v3(Algorithm::Sha256)).await;
    tokio::time::sleep(SHORT * 4).await;
    rig.set_fate(Fate::Stored);
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_408_and_charges_nothing() {
    let rig = rig(|deadlines| deadlines.body = SHORT).await;
    let call = Call::new().in_form();
    let request = call.v3(Algorithm::Sha256);
    let mut client = rig.connect().await;
    client.write(&request[..request.len() - 1]).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.member("Code").as_str()), (408, "RequestTimeout"));
    assert_eq!(reply.header("connection"), "close");
    client.0.shutdown().await.unwrap();
    assert!(client.ended().await);
    assert_eq!(rig.send(&request).await.status, 200);
}

#[tokio::test]
async fn a_client_that_reads_no_answer_is_cut_off() {
    let rig = rig(|deadlines| deadlines.write = SHORT).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(rig.address).await.unwrap();
    // Each is answered with the string to sign, some 300 KB, and none is read.
    let call = Call { secret: "wrong".into(), ..Call::new() };
    let request = call.with("MqttTopic", &"/".repeat(15_000)).v1_form();
    let cut = async { while stream.write_all(&request).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, cut).await.expect("the connection is cut");
    rig.until(|rig| rig.metrics.connections.get() == 0).await;
}
