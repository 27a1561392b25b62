use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::{Config, Protocol};
use super::packet::{self, Granted, Received, Version};

/// How long a connection may take from its first packet to the CONNACK.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, encrypted or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection the broker has accepted.
pub(super) struct Opened {
    pub(super) io: Box<dyn Io>,
    /// What came behind the CONNACK.
    pub(super) inbound: BytesMut,
    pub(super) granted: Granted,
    pub(super) version: Version,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("it does not answer within {DIAL_TIMEOUT:?}")]
    Silent,
    #[error("it refuses: {0}")]
    Refused(String),
    /// A broker of another version answers in a form of its own, or hangs up.
    #[error("it does not speak {0:?}: {1}")]
    OtherVersion(Version, String),
}

/// Connects, in MQTT 5 first. Which version a broker spoke last is not remembered: the one that
/// comes back may be a newer one, and one that hung up may have been on its way out.
pub(super) async fn dial(config: &Config, client_id: &str) -> Result<Opened, DialError> {
    let first = match config.protocol {
        Protocol::V3 => Version::V3,
        Protocol::V5 | Protocol::Auto => Version::V5,
    };
    match within(config, client_id, first).await {
        Err(DialError::OtherVersion(..)) if config.protocol == Protocol::Auto => {
            within(config, client_id, Version::V3).await
        }
        outcome => outcome,
    }
}

async fn within(config: &Config, client_id: &str, version: Version) -> Result<Opened, DialError> {
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, attempt(config, client_id, version)).await;
    dialled.unwrap_or(Err(DialError::Silent))
}

async fn attempt(config: &Config, client_id: &str, version: Version) -> Result<Opened, DialError> {
    let mut io = open(config).await?;
    let other = |why: &dyn std::fmt::Display| DialError::OtherVersion(version, why.to_string());
    let connect = packet::connect(version, config, client_id);
    io.write_all(&connect).await.map_err(|error| other(&error))?;
    io.flush().await.map_err(|error| other(&error))?;
    let mut inbound = BytesMut::new();
    loop {
        let received = packet::read(version, &mut inbound).map_err(|error| other(&error))?;
        match received {
            Some(Received::Opened(granted)) => {
                return Ok(Opened { io, inbound, granted, version });
            }
            Some(Received::OtherVersion) => return Err(other(&"it says so")),
            Some(Received::Refused(why)) => return Err(DialError::Refused(why)),
            Some(_) => return Err(other(&"it answers CONNECT with another packet")),
            None => {}
        }
        match io.read_buf(&mut inbound).await {
            Ok(0) => return Err(other(&"it closes the connection")),
            Ok(_) => {}
            Err(error) => return Err(other(&error)),
        }
    }
}

async fn open(config: &Config) -> Result<Box<dyn Io>, DialError> {
    let address = (config.address.host.as_str(), config.address.port);
    let tcp = TcpStream::connect(address).await.map_err(DialError::Unreachable)?;
    tcp.set_nodelay(true).map_err(DialError::Unreachable)?;
    let Some(tls) = &config.tls else { return Ok(Box::new(tcp)) };
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    let connected = connector.connect(tls.server.clone(), tcp).await.map_err(DialError::Tls)?;
    Ok(Box::new(connected))
}
