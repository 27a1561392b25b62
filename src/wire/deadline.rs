use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

/// What a connection waits for its client to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// To begin another request.
    Request,
    /// To end the head it has begun.
    Head,
}

/// The one timer a connection reads under. It is armed when it is missing and looked at when it has
/// run out, never reset for a request: a request costs it nothing, and an idle connection lives
/// between once and twice its deadline. A head's deadline is exact.
#[derive(Debug)]
pub(super) struct ReadDeadline {
    head: Duration,
    idle: Duration,
    armed: Option<Armed>,
}

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    wait: Wait,
    calls: u32,
}

impl ReadDeadline {
    pub(super) const fn new(head: Duration, idle: Duration) -> Self {
        Self { head, idle, armed: None }
    }

    /// Ready once the client has let the deadline pass. `calls` tells one wait from the next.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, wait: Wait, calls: u32) -> Poll<()> {
        let patience = if wait == Wait::Head { self.head } else { self.idle };
        let armed = self.armed.get_or_insert_with(|| Armed {
            sleep: Box::pin(tokio::time::sleep(patience)),
            wait,
            calls,
        });
        let is_this = |armed: &Armed| armed.wait == wait && armed.calls == calls;
        let mut stale = wait == Wait::Head && !is_this(armed);
        loop {
            if stale {
                armed.sleep.set(tokio::time::sleep(patience));
                (armed.wait, armed.calls) = (wait, calls);
            }
            ready!(armed.sleep.as_mut().poll(cx));
            if is_this(armed) {
                return Poll::Ready(());
            }
            stale = true;
        }
    }
}
