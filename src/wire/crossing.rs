use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::request::Room;

/// What the two sides of hyper's HTTP/1 connection, the socket below and the service above, know of
/// each other. Both run in the connection's own task, so nothing here ever waits.
#[derive(Debug, Default)]
pub(super) struct Crossing {
    phase: AtomicU8,
    calls: AtomicU32,
    proven: AtomicBool,
    unread: AtomicBool,
    aside: Mutex<Option<Aside>>,
}

/// What the socket took out of a request line for the next call.
#[derive(Debug)]
pub(super) enum Aside {
    /// The query, without its `?`, and the room it takes.
    Query(Bytes, Option<Room>),
    /// The line was too long; the head hyper was given is not the caller's.
    TooLong,
    /// There was no room for the line; the head is not the caller's either.
    NoRoom,
}

/// How far the call of this connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No call is being served.
    Head,
    /// The service reads the call's body, or has given it up.
    Reading,
    /// The body was read to its end, and the answer is not ready.
    Answering,
}

impl Crossing {
    /// The service was called. Returns what was taken aside for this call.
    pub(super) fn begin(&self, has_body: bool) -> Option<Aside> {
        self.calls.store(self.calls().wrapping_add(1), Ordering::Relaxed);
        self.proven.store(false, Ordering::Relaxed);
        self.enter(if has_body { Phase::Reading } else { Phase::Answering });
        self.aside.lock().take()
    }

    /// The body was read to its end.
    pub(super) fn body_ended(&self) {
        self.enter(Phase::Answering);
    }

    /// The service has its answer; `unread` if a part of the request may still be on its way.
    pub(super) async fn answer_ready(&self, unread: bool) {
        if self.phase() == Phase::Answering && !self.proven.load(Ordering::Relaxed) {
            // hyper reads before it polls the answer again, and so finds the boundary, if it can.
            tokio::task::yield_now().await;
        }
        self.enter(Phase::Head);
        if unread {
            self.unread.store(true, Ordering::Relaxed);
        }
    }

    /// hyper read from the socket while the answer was not ready.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Leaves something for the next call.
    pub(super) fn set_aside(&self, aside: Aside) {
        *self.aside.lock() = Some(aside);
    }

    /// Whether the client may still be sending what nobody will read.
    pub(super) fn left_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// Calls begun.
    pub(super) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Head,
            1 => Phase::Reading,
            _ => Phase::Answering,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}
