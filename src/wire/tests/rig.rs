use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admission::{
    AccessKeyConfig, Admission, FingerprintKey, InstanceConfig, NONCES_MAX, PayloadCoding, Rate,
    Sources,
};
use crate::clock::{Clock, ManualClock, UnixMillis};
use crate::message::{InstanceId, Message, MessageId};
use crate::metering::{AdmissionMetrics, QueueMetrics, Registry, WireMetrics};
use crate::queue::{self, Durable, Intake, Pending, Queue, Unstored};
use crate::wire::request::BodySpace;
use crate::wire::{BODIES_BYTES_MAX, CODES, Config, Front};

pub(super) const KEY: &str = "LTAItestAccessKeyId00";
pub(super) const SECRET: &str = "testAccessKeySecret0123456789";
pub(super) const INSTANCE: &str = "post-cn-0pp12gl0001";
pub(super) const DATE: &str = "2026-11-22T20:44:24Z";
pub(super) const BURST: u32 = 100;
/// Long enough for any machine; nothing is ever asserted to be faster.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the back end does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stored,
    Unstored(Unstored),
    /// Kept waiting until the fate is another.
    Held,
}

pub(super) struct Rig {
    pub(super) address: std::net::SocketAddr,
    pub(super) clock: ManualClock,
    pub(super) queue: Queue,
    pub(super) metrics: WireMetrics,
    pub(super) stored: Arc<Mutex<Vec<Message>>>,
    /// Messages the back end has in its hands, or had.
    pub(super) taken: Arc<AtomicU64>,
    pub(super) space: BodySpace,
    pub(super) shutdown: watch::Sender<bool>,
    pub(super) serving: JoinHandle<()>,
    fate: Arc<Mutex<Fate>>,
}

/// How a rig differs from the usual one.
pub(super) struct Options {
    pub(super) config: Config,
    pub(super) admission_clock: Option<Arc<dyn Clock>>,
    pub(super) wire_clock: Option<Arc<dyn Clock>>,
    pub(super) nonces_max: usize,
    pub(super) slots: usize,
    pub(super) host_aliases: Vec<String>,
    pub(super) bodies_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: Config::default(),
            admission_clock: None,
            wire_clock: None,
            nonces_max: NONCES_MAX,
            slots: 64,
            host_aliases: vec!["10.0.0.9:8080".into(), "onsmqtt.internal".into()],
            bodies_bytes_max: BODIES_BYTES_MAX,
        }
    }
}

struct OnTestDisk(MessageId);

impl Durable for OnTestDisk {
    fn message_id(&self) -> MessageId {
        self.0
    }
}

pub(super) fn now() -> UnixMillis {
    let at: jiff::Timestamp = DATE.parse().unwrap();
    UnixMillis(u64::try_from(at.as_millisecond()).unwrap())
}

fn instance(id: &str, account: &str, burst: u32) -> InstanceConfig {
    InstanceConfig {
        id: InstanceId::parse(id).unwrap(),
        account: account.into(),
        topics: vec!["TopicA".into()],
        rate: Rate { qps: NonZeroU32::new(1_000).unwrap(), burst: NonZeroU32::new(burst).unwrap() },
        payload: PayloadCoding::Base64,
    }
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(super) async fn with(options: Options) -> Self {
        let clock = ManualClock::at(now());
        let instances = vec![
            instance(INSTANCE, "1", BURST),
            instance("post-cn-1", "1", BURST),
            instance("post-cn-narrow", "1", 1),
            instance("post-cn-foreign", "2", BURST),
        ];
        let registry = Registry::new();
        let ids: Vec<_> = instances.iter().map(|instance| instance.id.clone()).collect();
        let admission_metrics = AdmissionMetrics::new(&registry, &ids).unwrap();
        let metrics = WireMetrics::new(&registry, &CODES).unwrap();
        let access_keys =
            vec![AccessKeyConfig { id: KEY.into(), secret: SECRET.into(), account: "1".into() }];
        let ours: Arc<dyn Clock> = Arc::new(clock.clone());
        let sources = Sources {
            clock: options.admission_clock.unwrap_or_else(|| Arc::clone(&ours)),
            fingerprints: FingerprintKey([7; 16]),
            process: 1,
        };
        let admission_config = crate::admission::Config {
            access_keys,
            instances,
            replicas: NonZeroU32::MIN,
            nonces_max: options.nonces_max,
            host_aliases: options.host_aliases,
        };
        let admission = Arc::new(Admission::new(admission_config, sources, &admission_metrics));
        let queue_metrics = QueueMetrics::new(&registry, 1).unwrap();
        let slots = queue::Config { slots: options.slots, shards: 1 };
        let (queue, intakes) = Queue::new(slots, &queue_metrics);
        let (stored, taken) = (Arc::default(), Arc::default());
        let fate = Arc::new(Mutex::new(Fate::Stored));
        for intake in intakes {
            back_end(intake, Arc::clone(&stored), Arc::clone(&fate), Arc::clone(&taken));
        }
        let front = Front::new(
            options.config,
            admission,
            queue.clone(),
            metrics.clone(),
            options.wire_clock.unwrap_or(ours),
            0x1234,
        );
        let space = BodySpace::new(options.bodies_bytes_max);
        let front = front.with_body_space(space.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, watched) = watch::channel(false);
        let serving = tokio::spawn(front.serve(listener, watched));
        Self { address, clock, queue, metrics, stored, taken, space, shutdown, serving, fate }
    }

    pub(super) fn set_fate(&self, fate: Fate) {
        *self.fate.lock() = fate;
    }

    pub(super) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends a request on a connection of its own.
    pub(super) async fn send(&self, request: &[u8]) -> Reply {
        let mut client = self.connect().await;
        client.write(request).await;
        client.reply().await
    }

    /// Waits until the back end has taken so many messages.
    pub(super) async fn until_taken(&self, messages: u64) {
        self.until(|rig| rig.taken.load(Ordering::Relaxed) == messages).await;
    }

    /// Waits until something is so that another task makes so.
    pub(super) async fn until(&self, what: impl Fn(&Self) -> bool) {
        let deadline = crate::clock::SystemClock.now() + PATIENCE;
        while !what(self) {
            assert!(crate::clock::SystemClock.now() < deadline, "waited in vain");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn back_end(
    intake: Intake,
    stored: Arc<Mutex<Vec<Message>>>,
    fate: Arc<Mutex<Fate>>,
    taken: Arc<AtomicU64>,
) {
    std::thread::spawn(move || {
        let mut waiting: Vec<Pending> = Vec::new();
        while let Ok(pending) = intake.wait(Duration::from_millis(2)) {
            taken.fetch_add(pending.is_some().into(), Ordering::Relaxed);
            waiting.extend(pending);
            let fate = *fate.lock();
            if fate == Fate::Held {
                continue;
            }
            for Pending { admitted, ticket } in waiting.drain(..) {
                match fate {
                    Fate::Unstored(why) => {
                        if why == Unstored::Unknown {
                            let _ = admitted.keep();
                        }
                        ticket.fail(why);
                    }
                    _ => {
                        let message = admitted.keep();
                        let proof = OnTestDisk(message.id);
                        stored.lock().push(message);
                        ticket.settle(&proof);
                    }
                }
            }
        }
    });
}

pub(super) struct Client(pub(super) TcpStream);

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(super) fn member(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_default().to_owned()
    }

    /// Tokens left, of the `RateLimit` header.
    pub(super) fn remaining(&self) -> u32 {
        let value = self.header("ratelimit");
        let at = value.find("r=").unwrap_or_else(|| panic!("no RateLimit: {self:?}")) + 2;
        value[at..].split(';').next().unwrap().parse().unwrap()
    }
}

impl Client {
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    pub(super) async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("an answer")
    }

    /// One answer, or `None` if the connection ended without one.
    pub(super) async fn try_reply(&mut self) -> Option<Reply> {
        tokio::time::timeout(PATIENCE, self.read_reply()).await.expect("an answer in time")
    }

    /// Whether the connection ends, with no further byte.
    pub(super) async fn ended(&mut self) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(PATIENCE, self.0.read(&mut byte)).await;
        !matches!(read.expect("an end in time"), Ok(1..))
    }

    async fn read_reply(&mut self) -> Option<Reply> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = HeaderMap::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        if status == 100 {
            return Box::pin(self.read_reply()).await;
        }
        let length = headers.get("content-length").map_or("0", |value| value.to_str().unwrap());
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).await.ok()?;
        Some(Reply { status, headers, body: String::from_utf8(body).unwrap() })
    }
}

/// A clock that panics once it was asked as often as it may be.
pub(super) struct Fragile {
    pub(super) inner: ManualClock,
    pub(super) good: AtomicU64,
}

impl Clock for Fragile {
    fn now(&self) -> Instant {
        self.ask();
        self.inner.now()
    }

    fn unix(&self) -> UnixMillis {
        self.ask();
        self.inner.unix()
    }
}

impl Fragile {
    pub(super) fn good_for(times: u64) -> Arc<Self> {
        Arc::new(Self { inner: ManualClock::at(now()), good: AtomicU64::new(times) })
    }

    fn ask(&self) {
        let taken = self
            .good
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(taken.is_ok(), "a clock that was asked too often");
    }
}
