use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::delivery::{Broker, Post, Resender};

use super::join;

/// The delivery of requeued dead letters, at work.
pub(super) struct Requeued {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Requeued {
    pub(super) fn start<B: Broker>(post: &Arc<Post<B>>, data_dir: &Path) -> Self {
        let (stop, stopped) = watch::channel(false);
        let resender = Resender::new(Arc::clone(post), data_dir, stopped);
        Self { stop, task: tokio::spawn(resender.run()) }
    }

    /// Ends behind the letter in hand; what is left stays requeued.
    pub(super) async fn finish(self, within: Duration) {
        self.stop.send_replace(true);
        match tokio::time::timeout(within, self.task).await {
            Ok(ended) => join("the delivery of requeued letters", ended),
            Err(_) => tracing::warn!("stopping with a requeued letter in hand: it goes again"),
        }
    }
}
