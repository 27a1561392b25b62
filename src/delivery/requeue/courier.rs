use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use tokio::sync::watch;

use super::super::broker::{Broker, PublishError};
use super::super::courier::{BACKOFF_MAX, BACKOFF_MIN};
use super::super::dead_letters::{DEAD_LETTERS, Reason};
use super::super::post::Post;
use super::settled::{self, Outcome, Settled};
use super::shelf::Place;
use super::spool::{self, Spooled};
use crate::clock::UnixMillis;
use crate::message::Message;

/// Letters that are noted as settled together, once the broker can answer for them: what a kill
/// makes go again.
const NOTES_MAX: usize = 64;
/// How often the folder is looked into while it is empty.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Publishes requeued letters, in the order in which they were requeued, one at a time.
///
/// Never: let go of a letter before it is noted as settled, or stand in the way of a courier.
pub struct Resender<B> {
    post: Arc<Post<B>>,
    dir: PathBuf,
    stop: watch::Receiver<bool>,
}

/// A letter that is to be published.
struct Waiting {
    from: Place,
    message: Message,
    requeued_at: UnixMillis,
}

/// One file of the folder, as it was read.
struct Batch {
    path: PathBuf,
    /// Those on which its letters died, settled ones too.
    days: Vec<Date>,
    letters: Vec<Waiting>,
    damaged: u64,
}

impl<B: Broker> Resender<B> {
    /// One that works in this data directory until `stop` is true.
    #[must_use]
    pub fn new(post: Arc<Post<B>>, data_dir: &Path, stop: watch::Receiver<bool>) -> Self {
        Self { post, dir: data_dir.join(DEAD_LETTERS), stop }
    }

    /// Delivers what is requeued, and what will be. As with what a former process has left in the
    /// journal, devices get a while to come back first.
    pub async fn run(mut self) {
        self.wait(self.post.reconnect_grace).await;
        while !*self.stop.borrow() {
            match self.step().await {
                Ok(true) => {}
                Ok(false) => self.wait(LOOK_EVERY).await,
                Err(error) => {
                    tracing::error!(%error, "requeued letters wait");
                    self.wait(BACKOFF_MAX).await;
                }
            }
        }
    }

    async fn wait(&mut self, most: Duration) {
        // An error says that nobody can stop it any more; then it is dropped with the runtime.
        let _ = tokio::time::timeout(most, self.stop.wait_for(|stop| *stop)).await;
    }

    /// Delivers the letters of the first file; false if there is none.
    pub(super) async fn step(&mut self) -> io::Result<bool> {
        let dir = self.dir.clone();
        let Some(batch) = blocking(move || first(&dir)).await? else { return Ok(false) };
        let mut notes = Settled::new(&self.dir);
        for waiting in batch.letters {
            let Some(outcome) = self.settle(&waiting).await else {
                self.note(notes).await?;
                return Ok(true);
            };
            notes.push(waiting.from, waiting.message.id.to_string(), outcome);
            if notes.waiting() >= NOTES_MAX {
                let Some(noted) = self.note(notes).await? else { return Ok(true) };
                notes = noted;
            }
        }
        let Some(mut notes) = self.note(notes).await? else { return Ok(true) };
        let Batch { path, days, damaged, .. } = batch;
        if damaged > 0 {
            tracing::error!(
                file = %path.display(), lines = damaged,
                "requeued letters are damaged: the file is set aside as .damaged"
            );
        }
        blocking(move || {
            notes.sync(&days)?;
            spool::remove(&path, damaged > 0)
        })
        .await?;
        Ok(true)
    }

    /// Writes down what is settled, once it survives a crash of this process. It tries until that
    /// works, since what is not written down is published again; none if it is to stop before that.
    async fn note(&mut self, mut notes: Settled) -> io::Result<Option<Settled>> {
        let mut backoff = BACKOFF_MIN;
        while notes.waiting() > 0 {
            let written = match self.post.broker.settled().await {
                Ok(()) => {
                    let now = self.post.clock.unix();
                    let write = move || {
                        let written = notes.write(now);
                        Ok((notes, written))
                    };
                    let written;
                    (notes, written) = blocking(write).await?;
                    written
                }
                Err(unsettled) => Err(io::Error::other(unsettled)),
            };
            let Err(error) = written else { break };
            let letters = notes.waiting();
            tracing::error!(letters, %error, "requeued letters are settled, and not noted yet");
            self.wait(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
            if *self.stop.borrow() {
                return Ok(None);
            }
        }
        Ok(Some(notes))
    }

    /// Tries until the broker takes the letter, or it is a dead letter again; none if it is to stop
    /// before that.
    async fn settle(&mut self, waiting: &Waiting) -> Option<Outcome> {
        let message = &waiting.message;
        let mut backoff = BACKOFF_MIN;
        let reason = loop {
            if *self.stop.borrow() {
                return None;
            }
            if self.post.clock.unix().since(waiting.requeued_at) > self.post.retention {
                break Reason::Expired;
            }
            match self.post.broker.publish(message).await {
                Ok(()) => {
                    self.post.metrics.delivered.inc();
                    self.post.metrics.requeued_delivered.inc();
                    tracing::info!(msg_id = %message.id, "a requeued letter is delivered");
                    return Some(Outcome::Delivered);
                }
                Err(PublishError::Refused(by)) => break Reason::Refused(by),
                Err(PublishError::Unavailable) => {
                    self.wait(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        };
        self.bury(message, reason).await
    }

    /// Keeps it as a dead letter again.
    async fn bury(&mut self, message: &Message, reason: Reason) -> Option<Outcome> {
        let letters = [(message.clone(), reason)].into();
        while !self.post.bury(&letters).await {
            self.wait(BACKOFF_MAX).await;
            if *self.stop.borrow() {
                return None;
            }
        }
        self.post.metrics.requeued_dead.inc();
        Some(Outcome::DeadAgain)
    }
}

/// The first file, without the letters that a former process has settled.
fn first(dir: &Path) -> io::Result<Option<Batch>> {
    let Some(path) = spool::finished(dir)?.into_iter().next() else { return Ok(None) };
    let mut spooled = vec![];
    let mut damaged = spool::read(&path, &mut |letter| spooled.push(letter))?;
    let mut days: Vec<_> = spooled.iter().map(|spooled: &Spooled| spooled.from.day).collect();
    days.sort();
    days.dedup();
    let mut done = std::collections::HashMap::new();
    for &day in &days {
        done.insert(day, settled::of_day(dir, day)?);
    }
    let mut letters = vec![];
    for Spooled { from, requeued_at_ms, letter } in spooled {
        let place = (from.offset, letter.msg_id.clone());
        if done.get(&from.day).is_some_and(|done| done.contains(&place)) {
            continue;
        }
        match letter.message() {
            Some(message) => {
                letters.push(Waiting { from, message, requeued_at: UnixMillis(requeued_at_ms) });
            }
            None => damaged += 1,
        }
    }
    Ok(Some(Batch { path, days, letters, damaged }))
}

/// Does what may wait for the disk on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
