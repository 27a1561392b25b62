//! The only folder that names every stage: build, start, drain in flow order.
//!
//! Never: decide anything about a message.

mod recovery;
mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admission::{Admission, FingerprintKey, Sources};
use crate::clock::Clock;
use crate::config::Config;
use crate::delivery::embedded::EmbeddedBroker;
use crate::delivery::{Courier, Cursors, CursorsError, DeadLetters, Post, Progress, embedded};
use crate::journal::{DirectoryLock, Journal, JournalError, LockError, Sequence, Writer};
use crate::ledger::{Clerk, ClerkHandle, FollowError, Ledger, LedgerError};
use crate::message::InstanceId;
use crate::metering::{
    AdmissionMetrics, Billing, DeliveryMetrics, DeviceMetrics, JournalMetrics, LedgerMetrics,
    MeteringError, ProcessMetrics, QueueMetrics, Registry, WireMetrics,
};
use crate::ops::{Ops, Readiness, State};
use crate::queue::{Intake, Queue};
use crate::shard::Shard;
use crate::wire::{self, Front};

use recovery::Recovery;
use upkeep::Upkeep;

pub use recovery::Report;

/// How long a drain waits for couriers and devices to take what is journaled. What they do not take
/// is delivered after the next start.
const DELIVERY_GRACE: Duration = Duration::from_secs(10);
/// How long a drain waits for connected devices to acknowledge.
const DEVICE_GRACE: Duration = Duration::from_secs(2);

/// Why weir did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or not ours to bind.
    #[error("{key} {address}: {source}; free it or choose another")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The data directory is in use, or cannot be.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file of the data directory.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger and the journal do not fit.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The delivery cursors cannot be read.
    #[error(transparent)]
    Cursors(#[from] CursorsError),
    /// The embedded broker did not start.
    #[error(transparent)]
    Broker(#[from] embedded::StartError),
    /// Metric names clash: a bug.
    #[error(transparent)]
    Metering(#[from] MeteringError),
    /// No thread or task to be had.
    #[error("threads: {0}")]
    Threads(String),
}

/// What every stage counts, built once.
struct Meters {
    registry: Registry,
    wire: WireMetrics,
    admission: AdmissionMetrics,
    queue: QueueMetrics,
    journal: JournalMetrics,
    delivery: DeliveryMetrics,
    devices: DeviceMetrics,
    billing: Billing,
    ledger: LedgerMetrics,
    process: ProcessMetrics,
}

impl Meters {
    fn new(config: &Config) -> Result<Self, MeteringError> {
        let registry = Registry::new();
        let instances: Vec<InstanceId> =
            config.admission.instances.iter().map(|instance| instance.id.clone()).collect();
        Ok(Self {
            wire: WireMetrics::new(&registry, &wire::CODES)?,
            admission: AdmissionMetrics::new(&registry, &instances)?,
            queue: QueueMetrics::new(&registry, config.queue.shards)?,
            journal: JournalMetrics::new(&registry)?,
            delivery: DeliveryMetrics::new(&registry)?,
            devices: DeviceMetrics::new(&registry, &instances)?,
            billing: Billing::new(&registry, &instances)?,
            ledger: LedgerMetrics::new(&registry)?,
            process: ProcessMetrics::new(
                &registry,
                env!("CARGO_PKG_VERSION"),
                env!("WEIR_COMMIT"),
            )?,
            registry,
        })
    }
}

/// Where weir listens, ports of 0 filled in.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Calls.
    pub http: SocketAddr,
    /// Devices.
    pub devices: SocketAddr,
    /// Health and metrics.
    pub ops: SocketAddr,
}

/// A weir that takes calls.
pub struct Running {
    /// Where.
    pub addresses: Addresses,
    readiness: Arc<Readiness>,
    drain_notice: Duration,
    stop_front: watch::Sender<bool>,
    front: JoinHandle<()>,
    queue: Queue,
    shards: Vec<std::thread::JoinHandle<()>>,
    couriers: JoinHandle<()>,
    clerk: ClerkHandle,
    upkeep: Upkeep,
    broker: Arc<EmbeddedBroker>,
    ops: JoinHandle<()>,
    poisoned: watch::Receiver<bool>,
    // Dropped last, in this order: segments are made until the writers are gone.
    _journal: Journal,
    _lock: DirectoryLock,
}

/// Starts every stage, the ops port first and the data port last.
///
/// # Errors
/// [`StartError`]; what was started is stopped again.
pub async fn start(
    config: Config,
    clock: Arc<dyn Clock>,
    report: Arc<dyn Report>,
) -> Result<Running, StartError> {
    let meters = Meters::new(&config)?;
    let readiness = Arc::new(Readiness::new(meters.process.ready.clone()));
    let (ops_listener, ops_address) = bind("ops.listen", config.ops_listen).await?;
    let ops = Ops::new(Arc::clone(&readiness), meters.registry.clone());
    let ops = tokio::spawn(ops.serve(ops_listener));

    let lock = DirectoryLock::acquire(&config.data_dir)?;
    let data_dir = config.data_dir.clone();
    let admission = Arc::new(Admission::new(
        config.admission,
        Sources {
            clock: Arc::clone(&clock),
            fingerprints: fingerprint_key(&data_dir)?,
            process: random()?,
        },
        &meters.admission,
    ));
    let ledger = Ledger::open(&data_dir.join("ledger.sqlite"))?;
    let recovery = Recovery {
        config: config.journal,
        clock: Arc::clone(&clock),
        admission: Arc::clone(&admission),
        billing: meters.billing.clone(),
        metrics: meters.journal.clone(),
        report,
    };
    let (opened, ledger) = recovery.run(ledger).await?;
    let clerk = Clerk::new(ledger, opened.journal.streams())?;

    let broker = Arc::new(EmbeddedBroker::start(&config.broker, &meters.devices).await?);
    let post = Arc::new(Post {
        broker: Arc::clone(&broker),
        dead_letters: Mutex::new(in_dir(&data_dir, "dead-letters.ndjson", DeadLetters::open)?),
        retention: config.retention,
        clock: Arc::clone(&clock),
        metrics: meters.delivery.clone(),
    });
    let cursors = Cursors::open(data_dir.join("delivery.cursors"))?;
    let (couriers, progress) = couriers(&post, &opened.journal, &cursors)?;

    let (queue, intakes) = Queue::new(config.queue, &meters.queue);
    let shards = shards(config.shard, intakes, opened.writers, &meters.billing)?;
    let (poison, poisoned) = watch::channel(false);
    let upkeep = Upkeep {
        data_dir,
        clock: Arc::clone(&clock),
        admission: Arc::clone(&admission),
        backlog_gate: queue.backlog_gate(),
        backlog_bytes_max: config.backlog_bytes_max,
        cursors,
        progress,
        covered: clerk.covered(),
        delivery: meters.delivery,
        ledger: meters.ledger,
        process: meters.process,
        readiness: Arc::clone(&readiness),
        poison,
    };
    let clerk = clerk.start().map_err(|error| StartError::Threads(error.to_string()))?;

    let front = Front::new(config.wire, admission, queue.clone(), meters.wire, clock, random()?);
    let (listener, http) = bind("http.listen", config.http_listen).await?;
    let (stop_front, stopped) = watch::channel(false);
    let front = tokio::spawn(front.serve(listener, stopped));
    readiness.advance(State::Ready);
    Ok(Running {
        addresses: Addresses { http, devices: broker.local_addr(), ops: ops_address },
        readiness,
        drain_notice: config.drain_notice,
        stop_front,
        front,
        queue,
        shards,
        couriers,
        clerk,
        upkeep,
        broker,
        ops,
        poisoned,
        _journal: opened.journal,
        _lock: lock,
    })
}

/// What a running weir is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Go on.
    Run,
    /// Show `/readyz` at 503, serve on for the drain notice, then drain.
    Notice,
    /// Drain at once.
    Now,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was accepted is on disk and billed.
    Drained,
    /// A journal was poisoned: some callers were told that their outcome is unknown.
    Poisoned,
}

impl Running {
    /// Serves until it is asked to stop or a journal is poisoned, then drains in flow order.
    pub async fn until(mut self, mut stop: watch::Receiver<Stop>) -> Ended {
        let upkeep = self.upkeep.start();
        let was_poisoned = tokio::select! {
            _ = stop.wait_for(|stop| *stop > Stop::Run) => false,
            _ = self.poisoned.wait_for(|poisoned| *poisoned) => true,
        };
        self.readiness.advance(if was_poisoned { State::Poisoned } else { State::Draining });
        if !was_poisoned {
            tracing::info!(notice = ?self.drain_notice, "draining");
            tokio::select! {
                () = tokio::time::sleep(self.drain_notice) => {}
                _ = stop.wait_for(|stop| *stop == Stop::Now) => {}
                _ = self.poisoned.wait_for(|poisoned| *poisoned) => {}
            }
        }
        let _ = self.stop_front.send(true);
        join("front", self.front.await);
        self.queue.close();
        drop(self.queue);
        let shards = self.shards;
        let clerk = self.clerk;
        let joined = tokio::task::spawn_blocking(move || {
            for shard in shards {
                if shard.join().is_err() {
                    tracing::error!("a shard thread panicked");
                }
            }
            clerk.finish();
        });
        join("shards", joined.await);
        if tokio::time::timeout(DELIVERY_GRACE, self.couriers).await.is_err() {
            tracing::warn!("stopping with a backlog: it is delivered after the next start");
        }
        self.broker.shutdown(DEVICE_GRACE).await;
        let poisoned = upkeep.finish().await;
        self.ops.abort();
        if was_poisoned || poisoned { Ended::Poisoned } else { Ended::Drained }
    }
}

fn join<T>(what: &str, ended: Result<T, tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "{what} ended badly");
    }
}

async fn bind(
    key: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Bind { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

type Couriers = (JoinHandle<()>, Vec<Arc<Progress>>);

/// Couriers of former generations end before the next generation's begin, so that a topic's order
/// holds across a change of the shard count.
fn couriers(
    post: &Arc<Post<EmbeddedBroker>>,
    journal: &Journal,
    cursors: &Cursors,
) -> Result<Couriers, JournalError> {
    let mut generations: Vec<(u32, Vec<Courier<EmbeddedBroker>>)> = vec![];
    let mut progress = vec![];
    for stream in journal.streams() {
        let from = cursors.get(stream.id()).unwrap_or(Sequence::FIRST);
        let (courier, shown) = Courier::new(Arc::clone(post), stream, from)?;
        progress.push(shown);
        match generations.last_mut().filter(|(number, _)| *number == stream.id().generation) {
            Some((_, couriers)) => couriers.push(courier),
            None => generations.push((stream.id().generation, vec![courier])),
        }
    }
    let run = async move {
        for (_, couriers) in generations {
            let running: Vec<_> =
                couriers.into_iter().map(|courier| tokio::spawn(courier.run())).collect();
            for courier in running {
                join("a courier", courier.await);
            }
        }
    };
    Ok((tokio::spawn(run), progress))
}

fn shards(
    config: crate::shard::Config,
    intakes: Vec<Intake>,
    writers: Vec<Writer>,
    billing: &Billing,
) -> Result<Vec<std::thread::JoinHandle<()>>, StartError> {
    let start = |(number, (intake, writer)): (usize, (Intake, Writer))| {
        let shard = Shard::new(config, intake, writer, billing.clone());
        std::thread::Builder::new()
            .name(format!("weir-shard-{number}"))
            .spawn(move || shard.run())
            .map_err(|error| StartError::Threads(error.to_string()))
    };
    intakes.into_iter().zip(writers).enumerate().map(start).collect()
}

/// The key of all nonce fingerprints, made at the first start and kept.
fn fingerprint_key(data_dir: &Path) -> Result<FingerprintKey, StartError> {
    in_dir(data_dir, "nonce.key", |path| {
        if !path.exists() {
            let mut key = [0; 16];
            getrandom::fill(&mut key).map_err(io::Error::other)?;
            recovery::write_secret(path, &key)?;
        }
        let key = std::fs::read(path)?;
        let key = key.try_into().map_err(|_| io::Error::other("it is not 16 bytes long"))?;
        Ok(FingerprintKey(key))
    })
}

fn in_dir<T>(
    data_dir: &Path,
    name: &str,
    open: impl FnOnce(&Path) -> io::Result<T>,
) -> Result<T, StartError> {
    let path = data_dir.join(name);
    open(&path).map_err(|source| StartError::File { path: path.display().to_string(), source })
}

fn random() -> Result<u128, StartError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| StartError::Threads(format!("no random source: {error}")))?;
    Ok(u128::from_le_bytes(bytes))
}
