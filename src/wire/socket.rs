use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Deadlines;
use super::crossing::{Aside, Crossing, Phase};
use super::deadline::{ReadDeadline, Wait};
use super::long_target::{self, Line};
use super::request::{BodySpace, Room};
use crate::deadline::WriteDeadline;

/// How much of a line that is too long is read to its end, and of a body nobody wants, so that the
/// client reads its answer instead of a reset.
const UNWANTED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A head for hyper where the caller's own cannot be used; the service answers to the [`Aside`].
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// The client's socket as hyper sees it: under deadlines, and with no target longer than it takes.
///
/// Where a message begins is never parsed, only learnt from hyper. Once a call's body was read to
/// its end and until its answer is ready, hyper reads only to notice a client that has gone, and
/// only if it holds no unread byte itself (`mid_message_detect_eof`, with half-close off). So a
/// read in [`Phase::Answering`] begins a message, as the connection's first one does. Bytes given
/// to hyper end the boundary.
pub(super) struct Socket<S> {
    inner: S,
    /// `None` for HTTP/2, whose targets are left alone.
    crossing: Option<Arc<Crossing>>,
    place: Place,
    /// Bytes of a line that is not decided yet, of which the first `looked` hold no line's end.
    held: BytesMut,
    looked: usize,
    /// Bytes that are decided and that hyper has not taken yet.
    replay: Bytes,
    reading: ReadDeadline,
    writing: WriteDeadline,
    unwanted: usize,
    space: BodySpace,
    /// What the line being read takes of it, once it is a long one.
    room: Option<Room>,
    /// Whether it could not have it.
    refused: bool,
}

/// Where in the client's bytes the next read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A message begins here.
    Boundary,
    /// Somewhere else, or nobody knows.
    Within,
    /// In a line that is too long.
    TooLong,
    /// Behind the last byte anybody will read.
    Over,
}

impl<S> Socket<S> {
    /// An HTTP/1 connection that has sent `opening` so far. Its long lines take room in `space`.
    pub(super) fn http1(
        inner: S,
        opening: &[u8],
        crossing: Arc<Crossing>,
        deadlines: &Deadlines,
        space: BodySpace,
    ) -> Self {
        let held = BytesMut::from(opening);
        Self { held, ..Self::new(inner, Some(crossing), Place::Boundary, deadlines, space) }
    }

    /// An HTTP/2 connection that has sent `opening` so far.
    pub(super) fn http2(inner: S, opening: &[u8], deadlines: &Deadlines) -> Self {
        let replay = Bytes::copy_from_slice(opening);
        let space = BodySpace::new(0);
        Self { replay, ..Self::new(inner, None, Place::Within, deadlines, space) }
    }

    fn new(
        inner: S,
        crossing: Option<Arc<Crossing>>,
        place: Place,
        deadlines: &Deadlines,
        space: BodySpace,
    ) -> Self {
        Self {
            inner,
            crossing,
            place,
            held: BytesMut::new(),
            looked: 0,
            replay: Bytes::new(),
            reading: ReadDeadline::new(deadlines.header, deadlines.idle),
            writing: WriteDeadline::new(deadlines.write),
            unwanted: 0,
            space,
            room: None,
            refused: false,
        }
    }

    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let bytes = self.replay.len().min(buf.remaining());
        buf.put_slice(&self.replay[..bytes]);
        self.replay.advance(bytes);
    }

    fn hand_over_held(&mut self, buf: &mut ReadBuf<'_>) {
        self.place = Place::Within;
        self.looked = 0;
        // Of a line that is hyper's after all.
        self.room = None;
        self.replay = std::mem::take(&mut self.held).freeze();
        self.hand_over(buf);
    }

    /// Leaves the query to the next call and gives hyper the rest of what came.
    fn take_aside(&mut self, query: std::ops::Range<usize>, crossing: &Crossing) {
        let rest = self.held.split_off(query.end);
        let taken = self.held.split_off(query.start).freeze();
        // What stays is the method and "/?".
        self.held.truncate(query.start - 1);
        self.held.unsplit(BytesMut::from(&rest[..]));
        crossing.set_aside(Aside::Query(taken, self.room.take()));
    }

    /// Whether a line may go on as it has begun: a long one needs room up to its bound.
    fn has_room(&mut self) -> bool {
        if self.held.len() > long_target::TARGET_BYTES_LEFT && self.room.is_none() {
            self.room = self.space.take(long_target::LINE_BYTES_MAX).ok();
            self.refused = self.room.is_none();
        }
        !self.refused
    }
}

impl<S: AsyncRead + Unpin> Socket<S> {
    /// Reads where a message begins, until its first line is known to be hyper's or was made so.
    fn poll_line(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        crossing: &Crossing,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.looked < self.held.len() {
                let line = long_target::look(&self.held, self.looked);
                let plain = line == Line::Plain;
                match line {
                    _ if !plain && !self.has_room() => {
                        self.place = Place::TooLong;
                        return self.poll_too_long(cx, buf, crossing);
                    }
                    Line::Partial => self.looked = self.held.len(),
                    Line::Plain => break,
                    Line::Long(query) => {
                        self.take_aside(query, crossing);
                        break;
                    }
                    Line::TooLong => {
                        self.place = Place::TooLong;
                        return self.poll_too_long(cx, buf, crossing);
                    }
                }
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            let fresh = &buf.filled()[before..];
            if fresh.is_empty() {
                break;
            }
            if self.held.is_empty() && long_target::look(fresh, 0) == Line::Plain {
                self.place = Place::Within;
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(fresh);
            buf.set_filled(before);
        }
        self.hand_over_held(buf);
        Poll::Ready(Ok(()))
    }

    /// Reads a line that is too long to its end, then has hyper ask for the answer to that.
    fn poll_too_long(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        crossing: &Crossing,
    ) -> Poll<io::Result<()>> {
        while memchr::memchr(b'\n', &self.held).is_none() && self.unwanted < UNWANTED_BYTES_MAX {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            let fresh = &buf.filled()[before..];
            if fresh.is_empty() {
                break;
            }
            self.held.clear();
            self.held.extend_from_slice(fresh);
            self.unwanted += fresh.len();
            buf.set_filled(before);
        }
        self.held = BytesMut::new();
        self.place = Place::Over;
        self.room = None;
        crossing.set_aside(if self.refused { Aside::NoRoom } else { Aside::TooLong });
        self.replay = Bytes::from_static(STAND_IN);
        self.hand_over(buf);
        Poll::Ready(Ok(()))
    }

    fn poll_http1(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        crossing: &Crossing,
    ) -> Poll<io::Result<()>> {
        if crossing.phase() == Phase::Answering {
            crossing.prove();
            if self.place == Place::Within {
                self.place = Place::Boundary;
            }
        }
        let read = match self.place {
            Place::Boundary => self.poll_line(cx, buf, crossing),
            Place::Within => Pin::new(&mut self.inner).poll_read(cx, buf),
            Place::TooLong => self.poll_too_long(cx, buf, crossing),
            Place::Over => Poll::Pending,
        };
        if read.is_ready() {
            return read;
        }
        ready!(self.poll_deadline(cx, crossing));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ready once the client was waited for too long; while a call is served it is not waited for.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, crossing: &Crossing) -> Poll<()> {
        if crossing.phase() != Phase::Head {
            return Poll::Pending;
        }
        let wait = match self.place {
            Place::Boundary if self.held.is_empty() => Wait::Request,
            _ => Wait::Head,
        };
        self.reading.poll(cx, wait, crossing.calls())
    }

    /// Reads what nobody wants, so that the answer is not lost to a reset.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [std::mem::MaybeUninit::uninit(); 4_096];
        while self.unwanted < UNWANTED_BYTES_MAX {
            let mut buf = ReadBuf::uninit(&mut scratch);
            let read = Pin::new(&mut self.inner).poll_read(cx, &mut buf);
            if read.is_pending() {
                return self.reading.poll(cx, Wait::Head, u32::MAX);
            }
            if !matches!(read, Poll::Ready(Ok(()))) || buf.filled().is_empty() {
                break;
            }
            self.unwanted += buf.filled().len();
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.replay.is_empty() {
            this.hand_over(buf);
            return Poll::Ready(Ok(()));
        }
        match this.crossing.clone() {
            Some(crossing) => this.poll_http1(cx, buf, &crossing),
            None => Pin::new(&mut this.inner).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
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

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        if this.place != Place::Within
            && let Some(crossing) = this.crossing.clone()
            && this.poll_deadline(cx, &crossing).is_ready()
        {
            // hyper read while it answered and will not read again before bytes come or it is
            // woken, so this is where the next request's deadline begins.
            cx.waker().wake_by_ref();
        }
        this.writing.watch(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
        ready!(this.writing.watch(cx, shut))?;
        if this.crossing.as_ref().is_some_and(|crossing| crossing.left_unread()) {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
