use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;

use super::Deadlines;
use super::crossing::Crossing;
use super::entrance::{LAST_REQUEST, too_late};
use super::service::{Caller, Service};
use super::socket::Socket;

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Largest head hyper buffers, in bytes: a target of 65,534 and headers with a token of some KB.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// Largest header list of an HTTP/2 request, in bytes: the same, without the buffer's slack.
const HEADER_LIST_BYTES_MAX: u32 = 96 * 1024;
/// Calls of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 32;
/// Bytes of one HTTP/2 call in flight; the protocol's 64 KiB would make a payload wait.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of one HTTP/2 connection in flight.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Streams a client may open and reset before anybody looked at them (CVE-2023-44487).
const RESET_STREAMS_MAX: usize = 32;

/// How connections of both protocols are served.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    deadlines: Deadlines,
    service: Arc<Service>,
}

impl Protocols {
    pub(super) fn new(deadlines: Deadlines, service: Arc<Service>) -> Self {
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_local_error_reset_streams(RESET_STREAMS_MAX)
            .keep_alive_interval(deadlines.idle)
            .keep_alive_timeout(deadlines.header);
        Self { http1: http1_builder(), http2, deadlines, service }
    }

    /// Serves a connection until it ends, or `shutdown` turns true and its calls are answered.
    pub(super) async fn serve<S>(
        &self,
        mut stream: S,
        client: IpAddr,
        mut shutdown: watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut opening = [0; PREFACE.len()];
        let open = open(&mut stream, &mut opening);
        let opened = tokio::select! {
            opened = tokio::time::timeout(self.deadlines.first_byte, open) => opened.ok().flatten(),
            () = too_late(&mut shutdown) => None,
        };
        let Some(bytes) = opened else { return };
        let opening = &opening[..bytes];
        let caller = Caller { client, shutdown: shutdown.clone() };
        if opening == PREFACE {
            let io = TokioIo::new(Socket::http2(stream, opening, &self.deadlines));
            self.serve_http2(io, caller, shutdown).await;
        } else {
            let crossing = Arc::new(Crossing::default());
            let (socket_side, space) = (Arc::clone(&crossing), self.service.body_space.clone());
            let socket = Socket::http1(stream, opening, socket_side, &self.deadlines, space);
            self.serve_http1(TokioIo::new(socket), crossing, caller, shutdown).await;
        }
    }

    async fn serve_http2<S>(
        &self,
        io: TokioIo<Socket<S>>,
        caller: Caller,
        shutdown: watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let calls = Arc::new(Calls::default());
        let counted = Arc::clone(&calls);
        let service = Arc::clone(&self.service);
        let call = service_fn(move |request| {
            let open = Open::new(&counted);
            let answer = Arc::clone(&service).http2(request, caller.client);
            async move {
                let _open = open;
                answer.await
            }
        });
        let connection = self.http2.serve_connection(io, call);
        let quiet = calls.quiet(self.deadlines.idle);
        let shut_down = http2::Connection::graceful_shutdown;
        // GOAWAY tells the client which of its calls are served; none has to be waited for.
        let last_call = Duration::ZERO;
        drive(connection, shut_down, last_call, shutdown, quiet, self.deadlines.write).await;
    }

    async fn serve_http1<S>(
        &self,
        io: TokioIo<Socket<S>>,
        crossing: Arc<Crossing>,
        caller: Caller,
        shutdown: watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = Arc::clone(&self.service);
        let call = service_fn(move |request| {
            Arc::clone(&service).http1(request, Arc::clone(&crossing), caller.clone())
        });
        let connection = self.http1.serve_connection(io, call);
        let shut_down = http1::Connection::graceful_shutdown;
        // The socket itself knows when an HTTP/1 connection has been idle for too long.
        let quiet = std::future::pending();
        drive(connection, shut_down, LAST_REQUEST, shutdown, quiet, self.deadlines.write).await;
    }
}

/// hyper's side of an HTTP/1 connection. The socket keeps the deadlines, and half-close off is what
/// its boundaries rest on.
pub(super) fn http1_builder() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(None);
    http1.half_close(false).max_buf_size(HEAD_BYTES_MAX);
    http1
}

/// Reads until it is clear which protocol is spoken. `None` if the client has gone.
async fn open<S: AsyncRead + Unpin>(
    stream: &mut S,
    opening: &mut [u8; PREFACE.len()],
) -> Option<usize> {
    let mut bytes = 0;
    while bytes < PREFACE.len() && opening[..bytes] == PREFACE[..bytes] {
        match stream.read(&mut opening[bytes..]).await {
            Ok(0) | Err(_) => return None,
            Ok(more) => bytes += more,
        }
    }
    Some(bytes)
}

/// The calls of one HTTP/2 connection. Its pings keep a connection alive that nobody uses, and an
/// answer whose client opens no window waits for ever: neither is a call in progress.
#[derive(Default)]
struct Calls {
    begun: AtomicU64,
    open: AtomicUsize,
}

/// One call in progress.
struct Open(Arc<Calls>);

impl Open {
    fn new(calls: &Arc<Calls>) -> Self {
        calls.begun.fetch_add(1, Ordering::Relaxed);
        calls.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(calls))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Calls {
    /// Ready once no call was begun or in progress for `idle`, and at most twice that.
    async fn quiet(&self, idle: Duration) {
        let mut seen = None;
        loop {
            tokio::time::sleep(idle).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if self.open.load(Ordering::Relaxed) == 0 && seen.replace(begun) == Some(begun) {
                return;
            }
        }
    }
}

/// Runs a connection; what it ends with concerns its client alone. Once weir drains it is served on
/// for `last_call`, then asked to end. Once it is quiet it is asked to end, and cut if it has not
/// after `patience`.
async fn drive<C, E>(
    connection: C,
    shut_down: fn(Pin<&mut C>),
    last_call: Duration,
    mut shutdown: watch::Receiver<bool>,
    quiet: impl Future<Output = ()>,
    patience: Duration,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = draining(&mut shutdown) => {
            match tokio::time::timeout(last_call, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => {
                    shut_down(connection.as_mut());
                    connection.await
                }
            }
        }
        () = quiet => {
            shut_down(connection.as_mut());
            tokio::time::timeout(patience, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection closed");
    }
}

/// Ready once weir drains, or nobody is left who could say so.
pub(super) async fn draining(shutdown: &mut watch::Receiver<bool>) {
    let _: Result<_, _> = shutdown.wait_for(|draining| *draining).await;
}
