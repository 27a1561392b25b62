//! Health, readiness, metrics and usage on a port of their own, bound before anything else.
//!
//! Never: take a message, or wait for the stages it reports on.

mod devices;
mod page;
mod readiness;
mod socket;
mod token;
mod usage;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use devices::{DeviceBoard, DeviceQuery, Devices, PAGE_DEVICES_MAX};
pub use page::{paths, security};
pub use readiness::{Readiness, State};
pub use token::{Token, TokenError};

use crate::clock::Clock;
use crate::ledger::Reader;
use crate::metering::{EXPOSITION_TYPE, Registry};
use crate::tls;

use page::Page;
use socket::Socket;
use usage::Desk;

/// Connections served at once; a scraper, a balancer and a few people need far fewer.
const CONNECTIONS_MAX: usize = 64;
/// From an accepted connection, or the last answer, to the end of the next request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For a client to take any byte of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// After an accept that failed for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const BEARER: header::HeaderValue = header::HeaderValue::from_static("Bearer realm=\"weir ops\"");

/// What ALPN offers.
pub const ALPN: [&[u8]; 1] = [b"http/1.1"];

/// What the port shows.
#[derive(Clone)]
pub struct Ops {
    readiness: Arc<Readiness>,
    registry: Registry,
    usage: Desk,
    token: Option<Arc<Token>>,
    tls: Option<Arc<tls::Server>>,
    openapi: Bytes,
    devices: DeviceBoard,
    write_timeout: Duration,
}

impl Ops {
    /// Shows this readiness, these metrics, the usage this reader finds, and this description of
    /// both ports.
    #[must_use]
    pub fn new(
        readiness: Arc<Readiness>,
        registry: Registry,
        usage: Reader,
        clock: Arc<dyn Clock>,
        openapi: impl Into<Bytes>,
    ) -> Self {
        let usage = Desk::new(usage, clock);
        let devices = DeviceBoard::default();
        let openapi = openapi.into();
        let (token, tls, write_timeout) = (None, None, WRITE_TIMEOUT);
        Self { readiness, registry, usage, devices, openapi, token, tls, write_timeout }
    }

    /// Where the devices of a broker are to be shown.
    #[must_use]
    pub fn devices(&self) -> DeviceBoard {
        self.devices.clone()
    }

    /// Asks for this token, but for `/healthz` and `/readyz`: probes have none.
    #[must_use]
    pub fn with_token(self, token: Option<Token>) -> Self {
        Self { token: token.map(Arc::new), ..self }
    }

    /// Speaks TLS, with [`ALPN`], and nothing else.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<tls::Server>>) -> Self {
        Self { tls, ..self }
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let ops = self.clone();
                    tokio::spawn(async move {
                        ops.connection(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "ops: accept failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream) {
        let Some(tls) = &self.tls else { return self.serve_http(stream).await };
        match tokio::time::timeout(HEADER_TIMEOUT, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.serve_http(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "ops: TLS handshake failed"),
            Err(_) => tracing::debug!("ops: TLS handshake took too long"),
        }
    }

    async fn serve_http<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) {
        let write_timeout = self.write_timeout;
        let service = service_fn(move |request: Request<Incoming>| {
            let ops = self.clone();
            async move { Ok::<_, Infallible>(ops.answer(&request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(Socket::new(stream, write_timeout)), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "ops: connection ended");
        }
    }

    async fn answer<B: Sync>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let page = Page::at(request.uri().path());
        let probe = page.is_some_and(Page::is_probe);
        if !probe && self.token.as_ref().is_some_and(|token| !token.is_shown(request.headers())) {
            let mut refused = text(401, TEXT, "show ops.token: Authorization: Bearer …\n");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, BEARER);
            return refused;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut refused = text(405, TEXT, "use GET\n");
            let allow = header::HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(header::ALLOW, allow);
            return refused;
        }
        let Some(page) = page else {
            let pages = Page::ALL.map(Page::path).join(" ");
            return text(404, TEXT, format!("there are {pages}\n"));
        };
        match page {
            Page::Metrics => match self.registry.expose() {
                Ok(metrics) => text(200, EXPOSITION_TYPE, metrics),
                Err(error) => text(500, TEXT, format!("{error}\n")),
            },
            Page::Healthz => text(200, TEXT, "ok\n"),
            Page::Readyz => {
                let state = self.readiness.state();
                let status = if state == State::Ready { 200 } else { 503 };
                text(status, TEXT, format!("{state}\n"))
            }
            Page::Usage => self.usage.answer(request.uri().query()).await,
            Page::Devices => self.devices.answer(request.uri().query()).await,
            Page::Openapi => text(200, JSON, self.openapi.clone()),
        }
    }
}

fn text(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status.try_into().unwrap_or_default();
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
