use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rmqtt::types::{From, Id, Publish};
use tokio::sync::Notify;

use super::config::Limits;
use super::publishes::weight_bytes;
use super::store::SessionKey;

/// What waits for one session. The broker's own channel to a session has no bound; this is it.
///
/// A message is counted for as long as its payload lives: in the channel, in the session's queue
/// and in flight, until its PUBACK or the session's end frees it.
pub(super) struct Backlog {
    messages_max: usize,
    bytes_max: usize,
    counts: Mutex<Arc<Counts>>,
    cut_off: AtomicBool,
    drained: Notify,
    /// Whether somebody was told that it is full.
    overflowed: AtomicBool,
    arriving: Mutex<Option<Vec<(From, Publish)>>>,
    stored: Mutex<Option<Stored>>,
}

#[derive(Default)]
struct Counts {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// A session that is kept on disk, and whose connection speaks for it.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) key: SessionKey,
    pub(super) id: Id,
    /// Copies before this place may have been sent by a process that was killed.
    pub(super) sent_before: u64,
}

impl Backlog {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            messages_max: limits.session_messages_max,
            bytes_max: limits.session_bytes_max,
            counts: Mutex::default(),
            cut_off: AtomicBool::new(false),
            drained: Notify::new(),
            overflowed: AtomicBool::new(false),
            arriving: Mutex::new(None),
            stored: Mutex::new(None),
        }
    }

    /// The payload, counted here until its last clone is gone.
    pub(super) fn hold(self: &Arc<Self>, payload: Bytes, bytes: usize) -> Bytes {
        let counts = self.counts();
        counts.messages.fetch_add(1, Ordering::AcqRel);
        counts.bytes.fetch_add(bytes, Ordering::AcqRel);
        Bytes::from_owner(Held { payload, bytes, backlog: Arc::clone(self), counts })
    }

    /// Counts from 0 again: what is held so far is a former connection's, and waits for it only.
    /// What is kept back waits for the next one, and is counted.
    pub(super) fn count_anew(self: &Arc<Self>) {
        let mut arriving = self.arriving();
        *self.counts.lock() = Arc::default();
        for (_, publish) in arriving.iter_mut().flatten() {
            publish.payload = self.hold(publish.payload.clone(), weight_bytes(publish));
        }
        drop(arriving);
        self.overflowed.store(false, Ordering::Release);
        self.drained.notify_waiters();
    }

    fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts.lock())
    }

    pub(super) fn messages(&self) -> usize {
        self.counts().messages.load(Ordering::Acquire)
    }

    fn bytes(&self) -> usize {
        self.counts().bytes.load(Ordering::Acquire)
    }

    /// False once nothing waits here and nothing is about to.
    pub(super) fn is_in_use(&self) -> bool {
        self.messages() > 0 || self.arriving.lock().is_some()
    }

    pub(super) fn is_full(&self) -> bool {
        self.messages() >= self.messages_max || self.bytes() >= self.bytes_max
    }

    /// Waits until half the bound is free; false if that takes too long.
    ///
    /// Half, so that a device that reads a message a second cannot hold every publish up.
    pub(super) async fn drained(&self, within: Duration) -> bool {
        let half = async {
            loop {
                let drained = self.drained.notified();
                if self.is_half_free() {
                    return;
                }
                drained.await;
            }
        };
        tokio::time::timeout(within, half).await.is_ok()
    }

    fn is_half_free(&self) -> bool {
        self.messages() <= self.messages_max / 2 && self.bytes() <= self.bytes_max / 2
    }

    /// While a new connection takes the session over: what is kept back for it.
    pub(super) fn arriving(&self) -> MutexGuard<'_, Option<Vec<(From, Publish)>>> {
        self.arriving.lock()
    }

    /// The session on disk that messages are kept for, if there is one.
    pub(super) fn stored(&self) -> MutexGuard<'_, Option<Stored>> {
        self.stored.lock()
    }

    /// True the first time a message is dropped since the session last had half its bound free.
    pub(super) fn overflows_anew(&self) -> bool {
        !self.overflowed.swap(true, Ordering::AcqRel)
    }

    /// True from the decision to close the connection until it is closed.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Acquire)
    }

    pub(super) fn set_cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::Release);
    }
}

struct Held {
    payload: Bytes,
    bytes: usize,
    backlog: Arc<Backlog>,
    counts: Arc<Counts>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.counts.messages.fetch_sub(1, Ordering::AcqRel);
        self.counts.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        if self.backlog.is_half_free() {
            self.backlog.overflowed.store(false, Ordering::Release);
            self.backlog.drained.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog() -> Arc<Backlog> {
        let limits =
            Limits { session_messages_max: 4, session_bytes_max: 100, ..Limits::default() };
        Arc::new(Backlog::new(&limits))
    }

    #[test]
    fn a_message_counts_until_its_last_clone_is_gone() {
        let backlog = backlog();
        let held = backlog.hold(Bytes::from_static(b"payload"), 7);
        let clone = held.clone();
        drop(held);
        assert_eq!((backlog.messages(), &clone[..]), (1, &b"payload"[..]));
        drop(clone);
        assert_eq!(backlog.messages(), 0);
    }

    #[test]
    fn an_empty_payload_counts_too() {
        let backlog = backlog();
        let held = backlog.hold(Bytes::new(), 0);
        assert_eq!(backlog.messages(), 1);
        drop(held);
        assert_eq!(backlog.messages(), 0);
    }

    #[test]
    fn either_bound_makes_it_full() {
        let backlog = backlog();
        let _one = backlog.hold(Bytes::new(), 99);
        assert!(!backlog.is_full());
        let second = backlog.hold(Bytes::new(), 1);
        assert!(backlog.is_full());
        drop(second);
        let _more = [(); 3].map(|()| backlog.hold(Bytes::new(), 0));
        assert!(backlog.is_full());
    }

    #[test]
    fn what_a_former_connection_holds_counts_no_more_and_is_not_counted_off() {
        let backlog = backlog();
        let former = [(); 4].map(|()| backlog.hold(Bytes::new(), 25));
        backlog.count_anew();
        assert!(!backlog.is_full());
        let _own = backlog.hold(Bytes::new(), 99);
        drop(former);
        assert_eq!((backlog.messages(), backlog.bytes()), (1, 99));
    }

    #[tokio::test]
    async fn a_waiter_goes_on_when_half_is_free_and_not_before() {
        let backlog = backlog();
        let mut held: Vec<_> = (0..4).map(|_| backlog.hold(Bytes::new(), 1)).collect();
        held.pop();
        assert!(!backlog.drained(Duration::from_millis(20)).await);
        let waiter = backlog.drained(Duration::from_secs(5));
        let free = async {
            tokio::task::yield_now().await;
            held.pop();
        };
        assert!(tokio::join!(waiter, free).0);
    }
}
