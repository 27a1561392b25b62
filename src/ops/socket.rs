use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::deadline::WriteDeadline;

/// A client's socket, which fails once the client takes nothing of an answer for too long.
pub(super) struct Socket<S> {
    inner: S,
    writing: WriteDeadline,
}

impl<S> Socket<S> {
    pub(super) const fn new(inner: S, patience: Duration) -> Self {
        Self { inner, writing: WriteDeadline::new(patience) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.writing.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.writing.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.writing.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.writing.watch(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use prometheus::IntGauge;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::time::timeout;

    use super::super::{CONNECTIONS_MAX, Ops, Readiness};
    use super::*;
    use crate::clock::{ManualClock, UnixMillis};
    use crate::ledger::Reader;
    use crate::metering::Registry;

    /// More than the kernel holds for a client that does not read.
    const PAGE_BYTES: usize = 16 * 1024 * 1024;
    const SHORT: Duration = Duration::from_millis(150);
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn ask(at: SocketAddr, page: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let mut stream = socket.connect(at).await.unwrap();
        let request = format!("GET {page} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn clients_that_read_nothing_lose_their_places_to_one_that_does() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(UnixMillis(0)));
        let readiness = Arc::new(Readiness::new(IntGauge::new("ready", "ready").unwrap()));
        let (usage, page) = (Reader::new(folder.path()), vec![b' '; PAGE_BYTES]);
        let ops = Ops::new(readiness, Registry::new(), usage, clock, page);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = tokio::spawn(Ops { write_timeout: SHORT, ..ops }.serve(listener));
        let mut stalled = vec![];
        for _ in 0..CONNECTIONS_MAX {
            stalled.push(ask(at, "/openapi.json").await);
        }
        let mut reader = ask(at, "/healthz").await;
        let mut answer = [0; 15];
        let answered = timeout(PATIENCE, reader.read_exact(&mut answer)).await;
        answered.expect("a place is free in time").unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        serving.abort();
    }
}
