//! What stands around the two HTTP ports: certificates, proxies, who may look, the access log.

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::Reader;
use crate::metering::{Registry, TlsMetrics, WireMetrics};
use crate::ops::{self, DeviceBoard, Ops, Readiness};
use crate::tls::{self, Server};
use crate::wire::{self, AccessLog, AccessWriter, Destination, Front};

use super::StartError;
use super::openapi::openapi;

/// Certificates that were read, and an access log that was opened.
pub(super) struct Ports {
    http: Option<Arc<Server>>,
    ops: Option<Arc<Server>>,
    log: Option<AccessLog>,
    /// To be waited for once nobody writes to the log any more.
    pub(super) writer: Option<AccessWriter>,
}

/// The ops port at work.
pub(super) struct Looking {
    pub(super) address: SocketAddr,
    pub(super) devices: DeviceBoard,
    pub(super) task: JoinHandle<()>,
}

/// The data port at work.
pub(super) struct Serving {
    pub(super) address: SocketAddr,
    pub(super) stop: watch::Sender<bool>,
    pub(super) task: JoinHandle<()>,
}

impl Ports {
    pub(super) fn open(
        config: &Config,
        expiry: &TlsMetrics,
        wire: &WireMetrics,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        tls::install_provider();
        let ports = &config.ports;
        let (log, writer) = match &ports.access {
            None => (None, None),
            Some(access) => {
                let (log, writer) = access_log(access, &wire.access_lines_dropped, clock)?;
                (Some(log), Some(writer))
            }
        };
        Ok(Self {
            http: certificate("http", ports.http_tls.as_ref(), &wire::ALPN, &expiry.http, clock)?,
            ops: certificate("ops", ports.ops_tls.as_ref(), &ops::ALPN, &expiry.ops, clock)?,
            log,
            writer,
        })
    }

    /// Binds the ops port and serves it until the task is aborted.
    pub(super) async fn serve_ops(
        &self,
        config: &Config,
        readiness: &Arc<Readiness>,
        registry: &Registry,
        clock: &Arc<dyn Clock>,
    ) -> Result<Looking, StartError> {
        let (listener, address) = bind("ops.listen", config.ops_listen).await?;
        let usage = Reader::new(&config.data_dir);
        let (readiness, clock) = (Arc::clone(readiness), Arc::clone(clock));
        let ops = Ops::new(readiness, registry.clone(), usage, clock, openapi())
            .with_token(config.ports.ops_token.clone())
            .with_tls(self.ops.clone());
        let devices = ops.devices();
        Ok(Looking { address, devices, task: tokio::spawn(ops.serve(listener)) })
    }

    /// Binds the data port and serves it until it is stopped.
    pub(super) async fn serve_front(
        &mut self,
        config: &Config,
        front: Front,
    ) -> Result<Serving, StartError> {
        let front = front.with_proxies(config.ports.proxies.clone());
        let front = front.with_tls(self.http.clone()).with_access_log(self.log.take());
        let (listener, address) = bind("http.listen", config.http_listen).await?;
        let (stop, stopped) = watch::channel(false);
        Ok(Serving { address, stop, task: tokio::spawn(front.serve(listener, stopped)) })
    }

    /// Looks for new certificates until it is aborted.
    pub(super) fn keep_fresh(&self, clock: &Arc<dyn Clock>) -> JoinHandle<()> {
        let servers = self.http.iter().chain(&self.ops).cloned().collect();
        tokio::spawn(tls::keep_fresh(servers, Arc::clone(clock)))
    }
}

pub(super) fn certificate(
    listener: &'static str,
    config: Option<&tls::Config>,
    protocols: &[&[u8]],
    expiry: &IntGauge,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<Server>>, StartError> {
    let Some(config) = config else { return Ok(None) };
    let opened = Server::open(listener, config.clone(), protocols, expiry.clone(), &**clock);
    opened
        .map(|server| Some(Arc::new(server)))
        .map_err(|source| StartError::Tls { listener, source })
}

fn access_log(
    config: &wire::AccessConfig,
    lines_dropped: &IntCounter,
    clock: &Arc<dyn Clock>,
) -> Result<(AccessLog, AccessWriter), StartError> {
    let path = match &config.to {
        Destination::Stdout => "log.access".to_owned(),
        Destination::File(path) => path.display().to_string(),
    };
    AccessLog::start(config, lines_dropped.clone(), Arc::clone(clock))
        .map_err(|source| StartError::File { path, source })
}

async fn bind(
    key: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Bind { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
