//! How long a client may leave a connection waiting that is written to.
//!
//! Never: close a connection; whoever writes does, by the error.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

/// How long a client may leave what is written to it unread.
#[derive(Debug)]
pub(crate) struct WriteDeadline {
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl WriteDeadline {
    pub(crate) const fn new(patience: Duration) -> Self {
        Self { patience, stalled: None }
    }

    /// Passes a write's outcome on, or an error once it has been pending for too long.
    pub(crate) fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()))
    }
}
