use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};
use crate::pipeline::{self, Ended, Report, Stop};

use super::{Failure, VERSION, files, load, logging, notify, progress, say};

pub(super) const LONG_ABOUT: &str = "\
Serve until SIGTERM or ctrl-C; the default command. The ops port is bound first and the data port
last; then /readyz answers 200, and one line of the log says so with every address.

SIGTERM drains: /readyz answers 503 at once while weir serves on for http.drain_notice, then open
calls are finished, what was taken is synced, and devices get what is journaled for up to 10 s. What
is left is delivered after the next start. Ctrl-C or a second SIGTERM skips the notice.

The log goes to standard error, a JSON object a line.";

pub(super) const AFTER_HELP: &str = "\
Examples:
  weir serve                               the demo, with what to paste
  weir --config weir.toml serve
  RUST_LOG=weir=debug weir serve

Exit codes:
  0   drained after SIGTERM or ctrl-C
  1   failed: a port in use, a damaged file, a data directory in use, a disk that lost a sync
  78  bad configuration; the one line on stderr names the key and the fix

Environment:
  RUST_LOG   what is logged: error, warn, info (the default), debug, or weir=debug

Files, below data_dir:
  lock                held while weir runs: one process a data directory
  journal/            messages until they are delivered and in the ledger
  ledger.sqlite       what was billed
  devices.sqlite      sessions of devices and retained messages
  delivery.cursors    up to where each stream is delivered
  dead-letters/       what could not be delivered, a file a day
  nonce.key           keys the fingerprints of nonces, mode 0600
  reserve             8 MiB to end by on a full disk";

/// A recovery that takes longer than this is shown.
const QUIET: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or ctrl-C, then drains.
pub(super) fn run(config: Option<&Path>) -> Result<(), Failure> {
    let (mut config, demo) = load(config)?;
    logging::start();
    files::fit(&mut config);
    #[cfg(feature = "failpoints")]
    let _points = fail::FailScenario::setup();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("runtime", error))?;
    let ended = runtime.block_on(async {
        let mut stop = signals().map_err(|error| Failure::because("signals", error))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let report = Arc::new(RecoveryBar {
            began: clock.now(),
            bar: Mutex::default(),
            starting: notify::Starting::default(),
        });
        let running = tokio::select! {
            started = pipeline::start(config, clock, Arc::clone(&report) as Arc<dyn Report>) => {
                started.map_err(|error| Failure::Failed(error.to_string()))?
            }
            _ = stop.wait_for(|stop| *stop > Stop::Run) => return Ok::<_, Failure>(Ended::Drained),
        };
        report.finish();
        let at = running.addresses;
        let shown = |link: Option<SocketAddr>| link.map(|at| at.to_string());
        tracing::info!(
            version = VERSION,
            http = %at.http,
            devices = shown(at.devices),
            devices_tls = shown(at.links.tls),
            devices_websocket = shown(at.links.websocket),
            devices_tls_websocket = shown(at.links.tls_websocket),
            ops = %at.ops,
            "ready"
        );
        if let Some(demo) = demo {
            say(&demo.greeting(at)?);
        }
        let attending = notify::start(running.readiness());
        let ended = running.until(stop).await;
        attending.inspect(tokio::task::JoinHandle::abort);
        Ok(ended)
    })?;
    match ended {
        Ended::Drained => Ok(()),
        Ended::Poisoned => Err(Failure::Failed(
            "a journal is poisoned: what was not acknowledged is unknown; check the disk, then \
             start again to recover"
                .into(),
        )),
    }
}

/// SIGTERM asks to stop with notice; ctrl-C, or a second SIGTERM, to stop now.
fn signals() -> std::io::Result<watch::Receiver<Stop>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(Stop::Run);
    tokio::spawn(async move {
        loop {
            let asked = *sender.borrow();
            let next = tokio::select! {
                _ = terminate.recv() => if asked == Stop::Run { Stop::Notice } else { Stop::Now },
                _ = interrupt.recv() => Stop::Now,
            };
            sender.send_replace(next);
        }
    });
    Ok(receiver)
}

/// Shows a slow recovery: a bar on a terminal, a log line otherwise.
struct RecoveryBar {
    began: Instant,
    bar: Mutex<Option<ProgressBar>>,
    starting: notify::Starting,
}

impl RecoveryBar {
    fn finish(&self) {
        if let Some(bar) = self.bar.lock().take() {
            bar.finish_and_clear();
        }
    }
}

impl Report for RecoveryBar {
    fn progress(&self, done_bytes: u64, total_bytes: u64) {
        self.starting.progress(done_bytes, total_bytes);
        if SystemClock.now() - self.began < QUIET {
            return;
        }
        let mut bar = self.bar.lock();
        let bar = bar.get_or_insert_with(|| {
            tracing::info!(total_bytes, "recovering the journal");
            progress::bytes(total_bytes)
        });
        bar.set_position(done_bytes);
    }
}
