//! TLS and WebSocket for devices, ended here and carried on to rmqtt over a connection of this
//! process to itself.
//!
//! rmqtt 0.24 has listeners for both, and takes no stream from outside. Its listeners read a
//! certificate once; wait without end for the first byte of a device that has shaken hands; buffer
//! 64 MiB of a WebSocket message before anybody has signed in; and take a WebSocket ping, or an
//! empty frame, for the end of the connection. Here a certificate is read again when it changes,
//! and what comes before the CONNACK has one deadline and small bounds.
//!
//! Never: look into a packet, or let anybody else use rmqtt's listener behind it.

mod pump;
mod websocket;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rmqtt::types::{Id, ListenerId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use self::pump::Pump;
use crate::tls::{self, Server};

/// How long a device may take over its handshakes, TLS and WebSocket together, and then once more
/// over its CONNECT up to the first byte of the answer.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one direction may outlive the other.
const LINGER: Duration = Duration::from_secs(5);
/// After an accept that failed for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Kernel buffers of the inner connection, each way: a device that stops reading fills them too.
const INNER_BUFFER_BYTES: u32 = 64 * 1024;
/// What rmqtt calls its listener behind the links; no port has this number.
pub(super) const INNER: ListenerId = 0;
/// Descriptors a device takes here: its own connection, and both ends of the inner one.
pub const DESCRIPTORS_A_DEVICE: usize = 3;

/// Where devices connect, besides plain TCP.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// MQTT over WebSocket, without TLS. Default none.
    pub websocket_listen: Option<SocketAddr>,
    /// Both over TLS. Default none.
    pub tls: Option<TlsConfig>,
}

/// The TLS listeners of devices; they show one certificate.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// MQTT over TLS. Default none.
    pub listen: Option<SocketAddr>,
    /// MQTT over WebSocket over TLS. Default none.
    pub websocket_listen: Option<SocketAddr>,
    /// What they show, and whom they trust.
    pub files: tls::Config,
}

impl Config {
    /// Whether there is any such listener.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.websocket_listen.is_some() || self.tls.is_some()
    }
}

/// Where they listen, ports of 0 filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// MQTT over TLS.
    pub tls: Option<SocketAddr>,
    /// MQTT over WebSocket.
    pub websocket: Option<SocketAddr>,
    /// MQTT over WebSocket over TLS.
    pub tls_websocket: Option<SocketAddr>,
}

/// How a device is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Tcp,
    Tls,
    Websocket,
    TlsWebsocket,
}

impl Link {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Websocket => "ws",
            Self::TlsWebsocket => "wss",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Tcp => "delivery.embedded.listen",
            Self::Tls => "delivery.embedded.tls.listen",
            Self::Websocket => "delivery.embedded.websocket_listen",
            Self::TlsWebsocket => "delivery.embedded.tls.websocket_listen",
        }
    }
}

/// Who is behind each inner connection, by its own end of it.
#[derive(Default)]
pub(super) struct Peers(Mutex<HashMap<SocketAddr, (Link, SocketAddr)>>);

impl Peers {
    /// How and from where a device is connected.
    pub(super) fn of(&self, id: &Id) -> Option<(Link, SocketAddr)> {
        let from = id.remote_addr?;
        if id.lid == INNER { self.0.lock().get(&from).copied() } else { Some((Link::Tcp, from)) }
    }
}

/// An entry of [`Peers`], for as long as its connection lives.
struct Entered {
    peers: Arc<Peers>,
    inner: SocketAddr,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.peers.0.lock().remove(&self.inner);
    }
}

/// A listener of these that could not be opened.
#[derive(Debug)]
pub(super) struct Unbound {
    pub(super) key: &'static str,
    pub(super) listen: SocketAddr,
    pub(super) reason: io::Error,
}

/// The listeners at work; they close when it is dropped, while connections go on.
pub(super) struct Links {
    pub(super) addresses: Addresses,
    accepting: Vec<JoinHandle<()>>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a link needs to let a device in.
struct Door {
    link: Link,
    server: Option<Arc<Server>>,
    /// rmqtt's listener behind the links.
    inner: SocketAddr,
    peers: Arc<Peers>,
    /// A place a device, of all links together.
    places: Arc<Semaphore>,
}

impl Links {
    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }

    /// Listens, and carries on to `inner`. `server` is for the TLS listeners.
    pub(super) async fn open(
        config: &Config,
        server: Option<&Arc<Server>>,
        inner: SocketAddr,
        peers: &Arc<Peers>,
        connections_max: usize,
    ) -> Result<Self, Unbound> {
        let places = Arc::new(Semaphore::new(connections_max));
        let tls = config.tls.as_ref();
        let mut links = Self { addresses: Addresses::default(), accepting: vec![] };
        for (link, listen) in [
            (Link::Tls, tls.and_then(|tls| tls.listen)),
            (Link::Websocket, config.websocket_listen),
            (Link::TlsWebsocket, tls.and_then(|tls| tls.websocket_listen)),
        ] {
            let Some(listen) = listen else { continue };
            let unbound = |reason| Unbound { key: link.key(), listen, reason };
            let listener = TcpListener::bind(listen).await.map_err(unbound)?;
            let bound = Some(listener.local_addr().map_err(unbound)?);
            match link {
                Link::Tls => links.addresses.tls = bound,
                Link::Websocket => links.addresses.websocket = bound,
                Link::TlsWebsocket => links.addresses.tls_websocket = bound,
                Link::Tcp => {}
            }
            let server = server.filter(|_| link != Link::Websocket).cloned();
            let (peers, places) = (Arc::clone(peers), Arc::clone(&places));
            let door = Arc::new(Door { link, server, inner, peers, places });
            links.accepting.push(tokio::spawn(door.accept(listener)));
        }
        Ok(links)
    }
}

/// A device's stream, whatever it is wrapped in.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Door {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let link = self.link.name();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                        tracing::debug!(link, %peer, "turned away: connections_max devices");
                        continue;
                    };
                    let door = Arc::clone(&self);
                    tokio::spawn(async move {
                        if let Err(error) = door.serve(stream, peer).await {
                            tracing::debug!(link, %peer, %error, "a device's link ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(link, %error, "accept failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let device = tokio::time::timeout(STEP_TIMEOUT, self.shake_hands(stream)).await??;
        let inner = self.connect().await?;
        // Before a byte of the device is passed on: its CONNECT asks for this entry.
        let entered = Entered { peers: Arc::clone(&self.peers), inner: inner.local_addr()? };
        self.peers.0.lock().insert(entered.inner, (self.link, peer));
        let mut pump = Pump::new(device, inner);
        tokio::time::timeout(STEP_TIMEOUT, pump.until_answered()).await??;
        pump.until_one_ends().await?;
        tokio::time::timeout(LINGER, pump.until_both_end()).await?
    }

    async fn shake_hands(&self, stream: TcpStream) -> io::Result<Box<dyn Stream>> {
        stream.set_nodelay(true)?;
        let is_websocket = matches!(self.link, Link::Websocket | Link::TlsWebsocket);
        Ok(match (&self.server, is_websocket) {
            (None, _) => Box::new(websocket::accept(stream).await?),
            (Some(server), false) => Box::new(server.acceptor().accept(stream).await?),
            (Some(server), true) => {
                let stream = server.acceptor().accept(stream).await?;
                Box::new(websocket::accept(stream).await?)
            }
        })
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(INNER_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(INNER_BUFFER_BYTES)?;
        let inner = socket.connect(self.inner).await?;
        inner.set_nodelay(true)?;
        Ok(inner)
    }
}

/// Where rmqtt listens behind the links: nowhere but on this machine.
pub(super) const fn inner_listen() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}
