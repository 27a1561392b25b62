//! Every stage built and started, the ops port first and the data port last.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::admission::{self, Admission, FingerprintKey, Sources};
use crate::clock::Clock;
use crate::config::Config;
use crate::delivery::embedded::{EmbeddedBroker, links};
use crate::delivery::mqtt::MqttBroker;
use crate::delivery::{
    Broker, Courier, Cursors, DEAD_LETTERS, DeadLetters, Outlet, Post, Progress, mqtt,
};
use crate::journal::{
    DirectoryLock, Disk, Environment, Journal, JournalError, Writer, system_salts,
};
use crate::ledger::{self, Clerk, FollowError, Ledger};
use crate::message::InstanceId;
use crate::metering::{
    AdmissionMetrics, Billing, DeliveryMetrics, DeviceMetrics, JournalMetrics, LedgerMetrics,
    MeteringError, ProcessMetrics, QueueMetrics, Registry, TlsMetrics, WireMetrics,
};
use crate::ops::{Readiness, State};
use crate::queue::{Intake, Queue};
use crate::shard::Shard;
use crate::wire::{self, Front};

use super::devices;
use super::ports::{self, Ports};
use super::recovery::{self, Recovery, Report};
use super::requeued::Requeued;
use super::reserve::Reserve;
use super::upkeep::{OldLetters, Saver, Settled, Upkeep, Watch};
use super::{Addresses, Running, StartError};

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
    tls: TlsMetrics,
}

impl Meters {
    fn new(config: &Config) -> Result<Self, MeteringError> {
        let registry = Registry::new();
        let instances: Vec<InstanceId> =
            config.admission.instances.iter().map(|instance| instance.id.clone()).collect();
        let billing = Billing::new(&registry, &instances)?;
        let delivery = DeliveryMetrics::new(&registry)?;
        let backlog_bytes_max = i64::try_from(config.backlog_bytes_max).unwrap_or(i64::MAX);
        delivery.backlog_bytes_max.set(backlog_bytes_max);
        Ok(Self {
            wire: WireMetrics::new(&registry, &wire::CODES)?,
            admission: AdmissionMetrics::new(&registry, &instances)?,
            queue: QueueMetrics::new(&registry, config.queue.shards)?,
            journal: JournalMetrics::new(&registry)?,
            delivery,
            devices: DeviceMetrics::new(&registry, &instances)?,
            ledger: LedgerMetrics::new(&registry, &billing)?,
            billing,
            process: ProcessMetrics::new(
                &registry,
                env!("CARGO_PKG_VERSION"),
                env!("WEIR_COMMIT"),
            )?,
            tls: TlsMetrics::new(&registry)?,
            registry,
        })
    }
}

/// Starts every stage.
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
    let mut ports = Ports::open(&config, &meters.tls, &meters.wire, &clock)?;
    let ops = ports.serve_ops(&config, &readiness, &meters.registry, &clock).await?;
    let lock = DirectoryLock::acquire(&config.data_dir)?;
    let reserve = Reserve::open(&config.data_dir);
    let admission = admission(&config, &clock, &meters)?;
    let recovery = recovery(&config, &clock, &meters, &admission, report)?;
    let (opened, ledger, cursors) = recovery.run(ledger(&config)?).await?;
    let clerk = clerk(ledger, &opened.journal, config.ledger, &clock, &meters)?;
    let delivery = Delivery::start(&config, &clock, &meters, &opened.journal, cursors).await?;
    ops.devices.show(Arc::new(devices::Listed(Arc::clone(&delivery.broker))));
    let (queue, intakes) = Queue::new(config.queue, &meters.queue);
    let shards = shards(config.shard, intakes, opened.writers, &meters.billing)?;
    let (poison, poisoned) = watch::channel(false);
    let covered = clerk.covered();
    let clerk = clerk.start().map_err(|error| StartError::Threads(error.to_string()))?;
    let saver = Saver {
        admission: Arc::clone(&admission),
        old_letters: old_letters(&config, &clock, &meters),
        cursors: delivery.cursors,
        settled: settled(&delivery.broker),
        reserve,
        progress: delivery.progress.clone(),
        covered: covered.clone(),
        disk_free: meters.process.disk_free,
    };
    let watch = Watch::begun(Watch {
        clock: Arc::clone(&clock),
        backlog_gate: queue.backlog_gate(),
        backlog_bytes_max: config.backlog_bytes_max,
        progress: delivery.progress,
        covered,
        ledger_ended: clerk.ended(),
        delivery: meters.delivery,
        ledger: meters.ledger,
        readiness: Arc::clone(&readiness),
        stalled: BTreeSet::new(),
        poison,
    });
    let certificates = ports.keep_fresh(&clock);
    let front = Front::new(config.wire, admission, queue.clone(), meters.wire, clock, random()?);
    let front = ports.serve_front(&config, front).await?;
    readiness.advance(State::Ready);
    Ok(Running {
        addresses: addresses(front.address, &delivery.broker, delivery.links, ops.address),
        readiness,
        drain_notice: config.drain_notice,
        stop_front: front.stop,
        front: front.task,
        queue,
        shards,
        couriers: delivery.couriers,
        requeued: delivery.requeued,
        clerk,
        upkeep: Upkeep { watch, saver },
        broker: delivery.broker,
        ops: ops.task,
        certificates,
        access: ports.writer,
        poisoned,
        _journal: opened.journal,
        _lock: lock,
    })
}

/// For the upkeep's saver, which works on a blocking thread.
fn settled<B: Broker>(broker: &Arc<B>) -> Settled {
    let (broker, runtime) = (Arc::clone(broker), Handle::current());
    Box::new(move || runtime.block_on(broker.settled()))
}

fn ledger(config: &Config) -> Result<Ledger, StartError> {
    Ok(Ledger::open(&config.data_dir.join(ledger::FILE))?)
}

fn addresses(
    http: SocketAddr,
    broker: &Outlet,
    links: links::Addresses,
    ops: SocketAddr,
) -> Addresses {
    Addresses { http, devices: broker.devices(), links, ops }
}

fn old_letters(config: &Config, clock: &Arc<dyn Clock>, meters: &Meters) -> OldLetters {
    OldLetters {
        dir: config.data_dir.join(DEAD_LETTERS),
        kept: config.dead_letters_kept,
        clock: Arc::clone(clock),
        purged: meters.delivery.dead_letters_purged.clone(),
    }
}

fn clerk(
    ledger: Ledger,
    journal: &Journal,
    config: ledger::Config,
    clock: &Arc<dyn Clock>,
    meters: &Meters,
) -> Result<Clerk, FollowError> {
    Clerk::new(ledger, journal.streams(), config, Arc::clone(clock), meters.ledger.clone())
}

fn recovery(
    config: &Config,
    clock: &Arc<dyn Clock>,
    meters: &Meters,
    admission: &Arc<Admission>,
    report: Arc<dyn Report>,
) -> Result<Recovery, StartError> {
    Ok(Recovery {
        config: config.journal.clone(),
        environment: Environment {
            storage: Arc::new(Disk),
            clock: Arc::clone(clock),
            metrics: meters.journal.clone(),
            salts: system_salts(),
        },
        admission: Arc::clone(admission),
        billing: meters.billing.clone(),
        report,
        cursors: Cursors::open(Arc::new(Disk), config.data_dir.join("delivery.cursors"))?,
    })
}

fn admission(
    config: &Config,
    clock: &Arc<dyn Clock>,
    meters: &Meters,
) -> Result<Arc<Admission>, StartError> {
    let sources = Sources {
        clock: Arc::clone(clock),
        fingerprints: fingerprint_key(&config.data_dir)?,
        process: random()?,
    };
    let known: admission::Config = config.admission.clone();
    Ok(Arc::new(Admission::new(known, sources, &meters.admission)))
}

/// The broker, and the couriers on their way to it.
struct Delivery {
    broker: Arc<Outlet>,
    links: links::Addresses,
    cursors: Cursors,
    couriers: JoinHandle<()>,
    requeued: Requeued,
    progress: Vec<Arc<Progress>>,
}

impl Delivery {
    async fn start(
        config: &Config,
        clock: &Arc<dyn Clock>,
        meters: &Meters,
        journal: &Journal,
        cursors: Cursors,
    ) -> Result<Self, StartError> {
        let (broker, links) = match &config.mqtt {
            Some(elsewhere) => {
                let broker = mqtt_broker(elsewhere, config, clock, meters, journal)?;
                (Outlet::Mqtt(broker), links::Addresses::default())
            }
            None => {
                let (settings, folder) = (&config.broker, &config.data_dir);
                let (ours, metrics) = (Arc::clone(clock), &meters.devices);
                let embedded = EmbeddedBroker::start(settings, folder, ours, metrics).await?;
                let links = open_links(&embedded, config, clock, meters).await?;
                (Outlet::Embedded(Box::new(embedded)), links)
            }
        };
        let broker = Arc::new(broker);
        let dead_letters = in_dir(&config.data_dir, DEAD_LETTERS, DeadLetters::open)?;
        let post = Arc::new(Post {
            broker: Arc::clone(&broker),
            dead_letters: Mutex::new(dead_letters),
            retention: config.retention,
            reconnect_grace: config.reconnect_grace,
            clock: Arc::clone(clock),
            metrics: meters.delivery.clone(),
        });
        let (couriers, progress) = couriers(&post, journal, &cursors)?;
        let requeued = Requeued::start(&post, &config.data_dir);
        Ok(Self { broker, links, cursors, couriers, requeued, progress })
    }
}

/// The devices' listeners with TLS or WebSocket, if there are any.
async fn open_links(
    broker: &EmbeddedBroker,
    config: &Config,
    clock: &Arc<dyn Clock>,
    meters: &Meters,
) -> Result<links::Addresses, StartError> {
    if !config.device_links.is_any() {
        return Ok(links::Addresses::default());
    }
    let files = config.device_links.tls.as_ref().map(|tls| &tls.files);
    let server = ports::certificate("devices", files, &[], &meters.tls.devices, clock)?;
    let (links, clock) = (&config.device_links, Arc::clone(clock));
    Ok(broker.open_links(&config.broker, links, server, clock).await?)
}

fn mqtt_broker(
    elsewhere: &mqtt::Config,
    config: &Config,
    clock: &Arc<dyn Clock>,
    meters: &Meters,
    journal: &Journal,
) -> Result<MqttBroker, StartError> {
    // A courier a stream, and one for what is requeued.
    let couriers = journal.streams().len() + 1;
    let (folder, metrics) = (&config.data_dir, &meters.delivery);
    Ok(MqttBroker::start(elsewhere.clone(), folder, couriers, clock, metrics)?)
}

type Couriers = (JoinHandle<()>, Vec<Arc<Progress>>);

/// Couriers of former generations end before the next generation's begin, so that a topic's order
/// holds across a change of the shard count.
fn couriers(
    post: &Arc<Post<Outlet>>,
    journal: &Journal,
    cursors: &Cursors,
) -> Result<Couriers, JournalError> {
    let mut generations: Vec<(u32, Vec<Courier<Outlet>>)> = vec![];
    let mut progress = vec![];
    for stream in journal.streams() {
        // What was trimmed had been delivered: a missing cursor stands at the first that is left.
        let from = cursors.get(stream.id()).unwrap_or_else(|| stream.first());
        let (courier, shown) = Courier::new(Arc::clone(post), stream, from)?;
        progress.push(shown);
        match generations.last_mut().filter(|(number, _)| *number == stream.id().generation) {
            Some((_, couriers)) => couriers.push(courier),
            None => generations.push((stream.id().generation, vec![courier])),
        }
    }
    let run = async move {
        for (_, couriers) in generations {
            if !all_end(couriers.into_iter().map(Courier::run).collect()).await {
                break;
            }
        }
    };
    Ok((tokio::spawn(run), progress))
}

/// Waits for all; false at once if one panics, for nobody would deliver its messages.
async fn all_end(mut couriers: JoinSet<()>) -> bool {
    while let Some(ended) = couriers.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a courier ended badly");
            return false;
        }
    }
    true
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn delivery_ends_by_itself_as_soon_as_one_courier_panics() {
        let mut couriers = JoinSet::new();
        couriers.spawn(std::future::pending());
        couriers.spawn(async { panic!("a bug") });
        let ended = tokio::time::timeout(Duration::from_secs(30), all_end(couriers)).await;
        assert_eq!(ended, Ok(false));
        assert!(all_end((0..3).map(|_| async {}).collect()).await);
    }
}
