use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes moved at once. They lie on the stack of whoever polls, so an idle pump holds none.
const CHUNK_BYTES: usize = 16 * 1024;

/// Moves bytes both ways between a device and the broker.
pub(super) struct Pump<D, I> {
    device: D,
    inner: I,
    up: Flow,
    down: Flow,
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// What was read and could not be written yet; at most [`CHUNK_BYTES`].
    held: Vec<u8>,
    written: usize,
    moved: bool,
    unflushed: bool,
    read_ended: bool,
    ended: bool,
}

impl<D, I> Pump<D, I>
where
    D: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(device: D, inner: I) -> Self {
        Self { device, inner, up: Flow::default(), down: Flow::default() }
    }

    /// Moves bytes until the broker has answered something, or an end is reached.
    pub(super) async fn until_answered(&mut self) -> io::Result<()> {
        self.until(|up, down| down.moved || up.ended || down.ended).await
    }

    /// Moves bytes until one direction has come to its end.
    pub(super) async fn until_one_ends(&mut self) -> io::Result<()> {
        self.until(|up, down| up.ended || down.ended).await
    }

    /// Moves bytes until both have.
    pub(super) async fn until_both_end(&mut self) -> io::Result<()> {
        self.until(|up, down| up.ended && down.ended).await
    }

    async fn until(&mut self, is_enough: impl Fn(&Flow, &Flow) -> bool) -> io::Result<()> {
        let Self { device, inner, up, down } = self;
        poll_fn(|task| {
            if let Poll::Ready(Err(error)) = up.poll(device, inner, task) {
                return Poll::Ready(Err(error));
            }
            if let Poll::Ready(Err(error)) = down.poll(inner, device, task) {
                return Poll::Ready(Err(error));
            }
            if is_enough(up, down) { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

impl Flow {
    fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        task: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.written < self.held.len() {
                let wrote = Pin::new(&mut *to).poll_write(task, &self.held[self.written..]);
                match ready!(wrote)? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    bytes => self.written += bytes,
                }
                self.unflushed = true;
            }
            // An idle connection keeps no buffer.
            self.held = Vec::new();
            self.written = 0;
            if self.read_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(task))?;
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [const { MaybeUninit::uninit() }; CHUNK_BYTES];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            match Pin::new(&mut *from).poll_read(task, &mut chunk)? {
                Poll::Ready(()) => {
                    let chunk = chunk.filled();
                    self.read_ended = chunk.is_empty();
                    self.moved |= !chunk.is_empty();
                    self.pass(chunk, to, task)?;
                }
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(task))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes as much as goes at once, and holds the rest.
    fn pass(
        &mut self,
        chunk: &[u8],
        to: &mut (impl AsyncWrite + Unpin),
        task: &mut Context<'_>,
    ) -> io::Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let wrote = match Pin::new(to).poll_write(task, chunk)? {
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(bytes) => {
                self.unflushed = true;
                bytes
            }
            Poll::Pending => 0,
        };
        self.held = chunk[wrote..].to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A device, a broker, and a pump between them over pipes of few bytes.
    fn pumped(bytes: usize) -> (DuplexStream, DuplexStream, Pump<DuplexStream, DuplexStream>) {
        let (device, outer) = duplex(bytes);
        let (inner, broker) = duplex(bytes);
        (device, broker, Pump::new(outer, inner))
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..=255).cycle().take(count).collect()
    }

    #[tokio::test]
    async fn every_byte_arrives_both_ways_however_narrow_the_pipes_are() {
        for narrow in [1, 7, 4_096, 100_000] {
            let (device, broker, mut pump) = pumped(narrow);
            let sent = bytes(50_000);
            let exchange = |mut end: DuplexStream| {
                let sent = sent.clone();
                async move {
                    let (mut read, mut write) = tokio::io::split(&mut end);
                    let mut received = vec![0; sent.len()];
                    let all = async { write.write_all(&sent).await };
                    let (wrote, read) = tokio::join!(all, read.read_exact(&mut received));
                    wrote.unwrap();
                    read.unwrap();
                    received
                }
            };
            let (up, down) = (exchange(device), exchange(broker));
            let (up, down, ended) = tokio::join!(up, down, pump.until_both_end());
            assert!(up == sent && down == sent, "pipes of {narrow}");
            ended.unwrap();
        }
    }

    #[tokio::test]
    async fn the_end_of_one_side_is_passed_on_behind_its_last_byte() {
        let (mut device, mut broker, mut pump) = pumped(8);
        let all = bytes(100);
        let (wrote, received, ended) = tokio::join!(
            async {
                device.write_all(&all).await.unwrap();
                device.shutdown().await
            },
            async {
                let mut received = vec![];
                broker.read_to_end(&mut received).await.unwrap();
                received
            },
            pump.until_one_ends(),
        );
        wrote.unwrap();
        ended.unwrap();
        assert_eq!(received, all);
    }

    #[tokio::test]
    async fn it_says_when_the_broker_has_answered() {
        let (mut device, mut broker, mut pump) = pumped(64);
        device.write_all(b"CONNECT").await.unwrap();
        let soon = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, pump.until_answered()).await.is_err());
        let mut asked = [0; 7];
        broker.read_exact(&mut asked).await.unwrap();
        broker.write_all(b"CONNACK").await.unwrap();
        pump.until_answered().await.unwrap();
        let mut answer = [0; 7];
        let (read, _) = tokio::join!(
            device.read_exact(&mut answer),
            tokio::time::timeout(soon, pump.until_both_end())
        );
        read.unwrap();
        assert_eq!((&asked, &answer), (b"CONNECT", b"CONNACK"));
    }
}
