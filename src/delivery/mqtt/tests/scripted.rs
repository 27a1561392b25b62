use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::within;

/// A broker that does what a test says, packet by packet.
pub(super) struct Scripted {
    listener: TcpListener,
    pub(super) port: u16,
}

pub(super) struct Connection {
    stream: TcpStream,
    inbound: BytesMut,
    is_v5: bool,
    pub(super) client_id: String,
}

#[derive(Clone, Copy)]
pub(super) enum Answer {
    Taken,
    Reason(u8),
}

/// A CONNACK of MQTT 5 with these properties.
pub(super) fn v5(properties: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).unwrap();
    [&[0x20, length + 3, 0, 0, length], properties].concat()
}

impl Scripted {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    /// Takes the next connection and its CONNECT, and answers it.
    pub(super) async fn accept(&mut self, connack: &[u8]) -> Connection {
        let (mut connection, version) = self.connect().await;
        assert_eq!(version, 5);
        connection.stream.write_all(connack).await.unwrap();
        connection
    }

    /// As a broker of 3.1.1: it hangs up on MQTT 5.
    pub(super) async fn accept_v3(&mut self) -> Connection {
        self.refuse(&[]).await;
        self.accept_v3_now().await
    }

    pub(super) async fn accept_v3_now(&mut self) -> Connection {
        let (mut connection, version) = self.connect().await;
        assert_eq!(version, 4);
        connection.is_v5 = false;
        connection.stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        connection
    }

    /// Answers MQTT 5 with these bytes and hangs up.
    pub(super) async fn refuse(&mut self, answer: &[u8]) {
        let (mut connection, version) = self.connect().await;
        assert_eq!(version, 5);
        connection.stream.write_all(answer).await.unwrap();
    }

    async fn connect(&mut self) -> (Connection, u8) {
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        let inbound = BytesMut::new();
        let mut connection = Connection { stream, inbound, is_v5: true, client_id: String::new() };
        let (kind, mut body) = connection.packet().await;
        assert_eq!(kind, 0x10);
        assert_eq!(body.split_to(6)[..], *b"\0\x04MQTT");
        let version = body.get_u8();
        assert_eq!(body.get_u8() & 0b10, 0b10, "a clean session");
        body.advance(2);
        if version == 5 {
            let properties = usize::from(body.get_u8());
            body.advance(properties);
        }
        let length = usize::from(body.get_u16());
        connection.client_id = String::from_utf8(body.split_to(length).to_vec()).unwrap();
        (connection, version)
    }
}

impl Connection {
    /// The next packet: its first byte and what follows the length.
    async fn packet(&mut self) -> (u8, BytesMut) {
        loop {
            if let Some((head, length)) = length(&self.inbound)
                && self.inbound.len() >= head + length
            {
                let mut packet = self.inbound.split_to(head + length);
                let kind = packet[0];
                packet.advance(head);
                return (kind, packet);
            }
            let read = within(self.stream.read_buf(&mut self.inbound)).await.unwrap();
            assert!(read > 0, "weir has closed the connection");
        }
    }

    /// The next PUBLISH: its packet id and its payload; pings are answered on the way.
    pub(super) async fn publish(&mut self) -> (u16, String) {
        // Pings go on while nothing else comes.
        within(self.next_publish()).await
    }

    async fn next_publish(&mut self) -> (u16, String) {
        loop {
            let (kind, mut body) = self.packet().await;
            if kind == 0xC0 {
                self.stream.write_all(&[0xD0, 0]).await.unwrap();
                continue;
            }
            assert_eq!(kind, 0x32, "QoS 1, no DUP, no retain");
            let topic = usize::from(body.get_u16());
            assert_eq!(body.split_to(topic)[..], *b"post-cn-a/TopicA");
            let id = body.get_u16();
            if self.is_v5 {
                let properties = usize::from(body.get_u8());
                body.advance(properties);
            }
            return (id, String::from_utf8(body.to_vec()).unwrap());
        }
    }

    pub(super) async fn puback(&mut self, id: u16, answer: Answer) {
        let [high, low] = id.to_be_bytes();
        let packet = match answer {
            Answer::Taken => vec![0x40, 2, high, low],
            Answer::Reason(code) => vec![0x40, 3, high, low, code],
        };
        self.stream.write_all(&packet).await.unwrap();
    }

    /// Waits for a ping and answers it.
    pub(super) async fn ping(&mut self) {
        let (kind, _) = self.packet().await;
        assert_eq!(kind, 0xC0);
        self.alive().await;
    }

    /// Says that it lives, asked or not.
    pub(super) async fn alive(&mut self) {
        self.stream.write_all(&[0xD0, 0]).await.unwrap();
    }

    /// Whether nothing comes for a while.
    pub(super) async fn is_silent(&mut self) -> bool {
        let more = self.stream.read_buf(&mut self.inbound);
        tokio::time::timeout(Duration::from_millis(200), more).await.is_err()
            && self.inbound.is_empty()
    }

    /// Everything up to the end of the connection.
    pub(super) async fn rest(mut self) -> Vec<u8> {
        let mut rest = self.inbound.to_vec();
        within(self.stream.read_to_end(&mut rest)).await.unwrap();
        rest
    }
}

/// Bytes before the body, and of the body, if the length is all there.
fn length(packet: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (at, byte) in packet.get(1..)?.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((at + 2, length));
        }
    }
    None
}
