use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::admission::{Admission, NonceMark};
use crate::delivery::Cursors;
use crate::journal::{
    Config, Environment, Journal, JournalError, Opened, Position, Sequence, StreamId, Visitor,
};
use crate::ledger::{Ledger, LedgerError};
use crate::message::{InstanceId, Message};
use crate::metering::Billing;

use super::StartError;

/// Who is told how far the recovery is.
pub trait Report: Send + Sync + 'static {
    /// Bytes of journal read, of all there are.
    fn progress(&self, done_bytes: u64, total_bytes: u64);
}

/// What the other stages start from.
pub(super) type Recovered = (Opened, Ledger, Cursors);

/// Reads what a former process left: nonces, bills, and the tail that is to be delivered.
pub(super) struct Recovery {
    pub(super) config: Config,
    pub(super) environment: Environment,
    pub(super) admission: Arc<Admission>,
    pub(super) billing: Billing,
    pub(super) report: Arc<dyn Report>,
    pub(super) cursors: Cursors,
}

impl Recovery {
    /// Opens the journal off the runtime and sets the billing counters to ledger + journal tail.
    pub(super) async fn run(self, ledger: Ledger) -> Result<Recovered, StartError> {
        let read = move || self.read(ledger, Journal::open);
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| StartError::Threads(error.to_string()))?
    }

    /// The same on this thread; `open` is [`Journal::open`].
    pub(super) fn read(
        self,
        ledger: Ledger,
        open: impl FnOnce(&Config, &Environment, &mut dyn Visitor) -> Result<Opened, JournalError>,
    ) -> Result<Recovered, StartError> {
        let environment = &self.environment;
        let began = environment.clock.now();
        let mut tail = Tail {
            admission: &self.admission,
            report: &*self.report,
            ledger: &ledger,
            cursors: &self.cursors,
            watermarks: HashMap::new(),
            unfolded: HashMap::new(),
            failed: None,
        };
        let opened = open(&self.config, environment, &mut tail)?;
        let Tail { unfolded, failed, .. } = tail;
        if let Some(error) = failed {
            return Err(error.into());
        }
        for (instance, messages) in ledger.totals()?.into_iter().chain(unfolded) {
            self.billing.add(&instance, messages);
        }
        self.billing.restored();
        for torn in &opened.recovered.torn {
            tracing::warn!(
                file = %torn.file.display(), offset = torn.offset, bytes = torn.bytes,
                "a torn tail was cut: none of it had been acknowledged"
            );
        }
        tracing::info!(
            records = opened.recovered.records,
            bytes = opened.recovered.bytes,
            seconds = environment.clock.now().duration_since(began).as_secs_f64(),
            "journal recovered"
        );
        Ok((opened, ledger, self.cursors))
    }
}

/// Watches the journal being read.
struct Tail<'r> {
    admission: &'r Admission,
    report: &'r dyn Report,
    ledger: &'r Ledger,
    cursors: &'r Cursors,
    watermarks: HashMap<StreamId, Sequence>,
    /// Messages that the ledger does not cover, by instance.
    unfolded: HashMap<InstanceId, u64>,
    failed: Option<LedgerError>,
}

impl Tail<'_> {
    fn watermark(&mut self, stream: StreamId) -> Sequence {
        if let Some(known) = self.watermarks.get(&stream) {
            return *known;
        }
        let read = self.ledger.watermark(stream).unwrap_or_else(|error| {
            self.failed = Some(error);
            Sequence::FIRST
        });
        *self.watermarks.entry(stream).or_insert(read)
    }
}

impl Visitor for Tail<'_> {
    fn record(&mut self, stream: StreamId, at: Sequence, message: &Message, nonce: NonceMark) {
        self.admission.restore(nonce);
        if at >= self.watermark(stream) {
            match self.unfolded.get_mut(&message.instance) {
                Some(messages) => *messages += 1,
                None => {
                    self.unfolded.insert(message.instance.clone(), 1);
                }
            }
        }
    }

    fn nonce(&mut self, mark: NonceMark) {
        self.admission.restore(mark);
    }

    fn positions(&mut self, stream: StreamId) -> Vec<Position> {
        let ledger = Position {
            file: self.ledger.path().into(),
            next: self.watermark(stream),
            give_up: |stream, next| {
                format!("run in the ledger: {}", Ledger::watermark_by_hand(stream, next))
            },
        };
        let delivery = self.cursors.get(stream).map(|next| Position {
            file: self.cursors.path().to_path_buf(),
            next,
            give_up: |_, _| "remove that file: everything retained is delivered again".to_owned(),
        });
        [Some(ledger), delivery].into_iter().flatten().collect()
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        self.report.progress(done_bytes, total_bytes);
    }
}

/// Writes a file only its owner may read, and makes it last.
pub(super) fn write_secret(path: &Path, secret: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(secret)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
