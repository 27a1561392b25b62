//! Recent batches on their way to one follower, and how far the stream has been handed on. Both
//! stand under one lock, so a follower that finds nothing to do cannot miss what follows.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::batch::{Batch, Sequence};
use super::turn::TURN_BYTES_MAX;

/// Batches that wait in memory for one follower; those beyond are read from disk.
pub(super) const MAILBOX_BATCHES_MAX: usize = 64;
/// Bytes of such batches.
pub(super) const MAILBOX_BYTES_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(TURN_BYTES_MAX <= MAILBOX_BYTES_MAX);

#[derive(Debug)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    wake_task: Notify,
    wake_thread: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Arc<Batch>>,
    bytes: usize,
    handed: Sequence,
    closed: bool,
}

/// What a follower that stands at some sequence should do.
#[derive(Debug)]
pub(super) enum Step {
    /// Exactly the batch it needs next.
    Give(Arc<Batch>),
    /// Everything before `until` is on disk, and memory does not have what comes next.
    Read { until: Sequence },
    /// Nothing new yet.
    Wait,
    /// Nothing will ever come.
    End,
}

impl Mailbox {
    pub(super) fn new(handed: Sequence, closed: bool) -> Self {
        let state = State { waiting: VecDeque::new(), bytes: 0, handed, closed };
        Self { state: Mutex::new(state), wake_task: Notify::new(), wake_thread: Condvar::new() }
    }

    pub(super) fn put(&self, batch: &Arc<Batch>) {
        let mut state = self.state.lock();
        state.handed = batch.next();
        let fits = state.bytes + batch.bytes() <= MAILBOX_BYTES_MAX;
        if fits && state.waiting.len() < MAILBOX_BATCHES_MAX {
            state.bytes += batch.bytes();
            state.waiting.push_back(Arc::clone(batch));
        }
        drop(state);
        self.wake();
    }

    pub(super) fn close(&self, tail: Sequence) {
        let mut state = self.state.lock();
        state.handed = tail;
        state.closed = true;
        drop(state);
        self.wake();
    }

    fn wake(&self) {
        self.wake_task.notify_one();
        self.wake_thread.notify_one();
    }

    pub(super) fn handed(&self) -> Sequence {
        self.state.lock().handed
    }

    pub(super) fn step(&self, position: Sequence) -> Step {
        self.state.lock().step(position)
    }

    /// As [`Self::step`], but waits until there is something to do.
    pub(super) async fn step_or_wait(&self, position: Sequence) -> Step {
        loop {
            // A wake between the look and the wait leaves a permit, so it is not lost.
            match self.step(position) {
                Step::Wait => self.wake_task.notified().await,
                step => return step,
            }
        }
    }

    /// As [`Self::step_or_wait`], for a thread.
    pub(super) fn step_or_block(&self, position: Sequence) -> Step {
        let mut state = self.state.lock();
        loop {
            match state.step(position) {
                Step::Wait => self.wake_thread.wait(&mut state),
                step => return step,
            }
        }
    }
}

impl State {
    fn step(&mut self, position: Sequence) -> Step {
        while let Some(front) = self.waiting.front() {
            if front.first() > position {
                return Step::Read { until: front.first() };
            }
            let first = front.first();
            let Some(batch) = self.waiting.pop_front() else { break };
            self.bytes -= batch.bytes();
            if first == position {
                return Step::Give(batch);
            }
        }
        if position < self.handed {
            Step::Read { until: self.handed }
        } else if self.closed {
            Step::End
        } else {
            Step::Wait
        }
    }
}
