//! MQTT over WebSocket (MQTT 5.0, section 6): binary frames that are read as one stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::super::listener::PACKET_BYTES_MAX;

/// Longest frame, and longest message of several: some MQTT packets.
const MESSAGE_BYTES_MAX: usize = 2 * PACKET_BYTES_MAX as usize;
/// Read at once; held by each connection.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Bytes that may wait to be written; one frame of the pump and answers to pings.
const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// What MQTT calls itself: MQTT 3.1.1 and 5, and an older name that clients still give.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
const BAD_REQUEST: u16 = 400;

/// Answers the upgrade. Any path will do; the subprotocol has to be `mqtt`.
pub(super) async fn accept<S>(stream: S) -> io::Result<Framed<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let stream = accept_hdr_async_with_config(stream, choose, Some(limits)).await;
    Ok(Framed { frames: stream.map_err(broken)?, read: Bytes::new() })
}

#[expect(clippy::result_large_err, reason = "tungstenite's own signature")]
fn choose(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> = offered
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    match PROTOCOLS.into_iter().find(|protocol| offered.contains(protocol)) {
        Some(protocol) => {
            let protocol = HeaderValue::from_static(protocol);
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
            Ok(response)
        }
        None => {
            let said = "offer the subprotocol: Sec-WebSocket-Protocol: mqtt\n".to_owned();
            let mut refusal = ErrorResponse::new(Some(said));
            *refusal.status_mut() = BAD_REQUEST.try_into().unwrap_or_default();
            Err(refusal)
        }
    }
}

/// The bytes within binary frames. Pings are answered while it is read.
pub(super) struct Framed<S> {
    frames: WebSocketStream<S>,
    read: Bytes,
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::ConnectionAborted.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.read.is_empty() {
                let bytes = self.read.len().min(into.remaining());
                into.put_slice(&self.read[..bytes]);
                self.read.advance(bytes);
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.frames).poll_next(task)) {
                // MQTT-6.0.0-2: frames and packets need not begin together.
                Some(Ok(Message::Binary(bytes))) => self.read = bytes,
                // MQTT-6.0.0-1: any other data frame ends the connection.
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(task)).map_err(broken)?;
        let frame = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.frames).start_send(frame).map_err(broken)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(task).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.frames).poll_close(task)) {
            Err(Error::ConnectionClosed | Error::AlreadyClosed) | Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    use super::*;

    type Client = WebSocketStream<DuplexStream>;

    /// A client that offers these subprotocols, and what it is answered with.
    async fn offer(
        protocols: Option<&str>,
    ) -> (Result<(Client, Option<String>), Error>, io::Result<Framed<DuplexStream>>) {
        let (near, far) = tokio::io::duplex(MESSAGE_BYTES_MAX * 4);
        let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
        if let Some(protocols) = protocols {
            let protocols = HeaderValue::from_str(protocols).unwrap();
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocols);
        }
        let (client, server) =
            tokio::join!(tokio_tungstenite::client_async(request, near), accept(far));
        let client = client.map(|(client, response)| {
            let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
            (client, chosen.map(|chosen| chosen.to_str().unwrap().to_owned()))
        });
        (client, server)
    }

    async fn connected() -> (Client, Framed<DuplexStream>) {
        let (client, server) = offer(Some("mqtt")).await;
        (client.unwrap().0, server.unwrap())
    }

    fn binary(bytes: &'static [u8]) -> Message {
        Message::Binary(Bytes::from_static(bytes))
    }

    #[tokio::test]
    async fn a_client_that_offers_mqtt_among_others_is_answered_with_it() {
        for (offered, chosen) in [
            ("mqtt", "mqtt"),
            ("mqttv3.1", "mqttv3.1"),
            ("mqttv3.1, mqtt", "mqtt"),
            ("x,mqtt", "mqtt"),
        ] {
            let (client, server) = offer(Some(offered)).await;
            assert_eq!(client.unwrap().1.as_deref(), Some(chosen), "{offered}");
            server.unwrap();
        }
        for offered in [None, Some("graphql-ws"), Some("MQTT")] {
            let (client, server) = offer(offered).await;
            let Err(Error::Http(refusal)) = client else { panic!("let in with {offered:?}") };
            assert_eq!(refusal.status(), 400);
            assert!(server.is_err());
        }
    }

    #[tokio::test]
    async fn frames_are_one_stream_and_pings_and_empty_frames_are_not_its_end() {
        let (mut client, mut server) = connected().await;
        let send = async {
            client.send(binary(b"CON")).await.unwrap();
            client.send(Message::Ping(Bytes::from_static(b"ping"))).await.unwrap();
            client.send(binary(b"")).await.unwrap();
            client.send(binary(b"NECTPUB")).await.unwrap();
        };
        let mut stream = [0; 10];
        let (_, read) = tokio::join!(send, server.read_exact(&mut stream));
        read.unwrap();
        assert_eq!(&stream, b"CONNECTPUB");
        server.write_all(b"CONNACK").await.unwrap();
        server.flush().await.unwrap();
        let answers =
            [client.next().await.unwrap().unwrap(), client.next().await.unwrap().unwrap()];
        assert!(answers.contains(&binary(b"CONNACK")), "{answers:?}");
        assert!(answers.contains(&Message::Pong(Bytes::from_static(b"ping"))), "{answers:?}");
        let mut rest = vec![];
        let (closed, read) = tokio::join!(client.close(None), server.read_to_end(&mut rest));
        closed.unwrap();
        assert_eq!((read.unwrap(), rest), (0, vec![]), "a close is the end");
    }

    #[tokio::test]
    async fn text_and_a_message_beyond_the_bound_end_the_connection() {
        let too_long = Message::Binary(vec![0; MESSAGE_BYTES_MAX + 1].into());
        for message in [Message::Text("CONNECT".into()), too_long] {
            let (mut client, mut server) = connected().await;
            client.send(message).await.unwrap();
            let mut byte = [0];
            assert!(server.read(&mut byte).await.is_err());
        }
    }
}
