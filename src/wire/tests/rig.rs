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
    AccessKeyConfig, Admission, Algorithm, FingerprintKey, InstanceConfig, NONCES_MAX, Parameter,
    Parameters, PayloadCoding, Rate, SendMessage, Sources, Verb, sign_v1, sign_v3,
};
use crate::clock::{Clock, ManualClock, UnixMillis};
use crate::message::{InstanceId, Message, MessageId};
use crate::metering::{AdmissionMetrics, QueueMetrics, Registry, WireMetrics};
use crate::queue::{self, Durable, Intake, Pending, Queue, Unstored};
use crate::wire::{CODES, Config, Front};

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
            nonces_max: options.nonces_max,
            host_aliases: options.host_aliases,
        };
        let admission = Arc::new(Admission::new(admission_config, sources, &admission_metrics));
        let queue_metrics = QueueMetrics::new(&registry, 1).unwrap();
        let slots = queue::Config { slots: options.slots, shards: 1 };
        let (queue, intakes) = Queue::new(slots, &queue_metrics);
        let (stored, fate) = (Arc::default(), Arc::new(Mutex::new(Fate::Stored)));
        for intake in intakes {
            back_end(intake, Arc::clone(&stored), Arc::clone(&fate));
        }
        let front = Front::new(
            options.config,
            admission,
            queue.clone(),
            metrics.clone(),
            options.wire_clock.unwrap_or(ours),
            0x1234,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, watched) = watch::channel(false);
        let serving = tokio::spawn(front.serve(listener, watched));
        Self { address, clock, queue, metrics, stored, shutdown, serving, fate }
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

    /// Waits until something is so that another task makes so.
    pub(super) async fn until(&self, what: impl Fn(&Self) -> bool) {
        let deadline = crate::clock::SystemClock.now() + PATIENCE;
        while !what(self) {
            assert!(crate::clock::SystemClock.now() < deadline, "waited in vain");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn back_end(intake: Intake, stored: Arc<Mutex<Vec<Message>>>, fate: Arc<Mutex<Fate>>) {
    std::thread::spawn(move || {
        let mut waiting: Vec<Pending> = Vec::new();
        while let Ok(taken) = intake.wait(Duration::from_millis(2)) {
            waiting.extend(taken);
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

/// A request in the making.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) host: String,
    pub(super) date: String,
    pub(super) nonce: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) secret: String,
    pub(super) key: String,
}

/// What a `SendMessage` needs.
pub(super) fn parameters() -> Vec<(String, String)> {
    pairs(&[("InstanceId", INSTANCE), ("MqttTopic", "TopicA/x y*~"), ("Payload", "aGVsbG8+/w==")])
}

pub(super) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn nonce() -> String {
    static MADE: AtomicU64 = AtomicU64::new(0);
    format!("nonce-{}", MADE.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn form(pairs: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

impl Call {
    pub(super) fn new() -> Self {
        Self {
            verb: Verb::Post,
            host: "127.0.0.1:8080".into(),
            date: DATE.into(),
            nonce: nonce(),
            query: parameters(),
            headers: Vec::new(),
            body: Vec::new(),
            secret: SECRET.into(),
            key: KEY.into(),
        }
    }

    /// Replaces a parameter of the query.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.query.retain(|(known, _)| known != name);
        self.query.push((name.into(), value.into()));
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.query.retain(|(known, _)| known != name);
        self
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Moves all parameters of the query into a form body.
    pub(super) fn in_form(mut self) -> Self {
        self.body = form(&std::mem::take(&mut self.query)).into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    /// The headers of the V3 call, signed, and the request as bytes.
    pub(super) fn v3(&self, algorithm: Algorithm) -> Vec<u8> {
        self.raw(&form(&self.query), &self.v3_headers(algorithm))
    }

    pub(super) fn v3_headers(&self, algorithm: Algorithm) -> Vec<(String, String)> {
        let hash = algorithm.hash(&self.body);
        let mut all = pairs(&[
            ("host", &self.host),
            ("x-acs-action", "SendMessage"),
            ("x-acs-version", "2020-04-20"),
            ("x-acs-date", &self.date),
            ("x-acs-signature-nonce", &self.nonce),
            ("x-acs-content-sha256", &hash),
        ]);
        for (name, value) in &self.headers {
            all.retain(|(known, _)| known != name);
            all.push((name.clone(), value.clone()));
        }
        all.retain(|(_, value)| !value.is_empty());
        let mut map = HeaderMap::new();
        for (name, value) in &all {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let query: Vec<Parameter<'_>> = borrowed(&self.query);
        let parameters = Parameters::new(query, vec![]).unwrap();
        let call = SendMessage { verb: self.verb, parameters, headers: &map, body: &self.body };
        let authorization = sign_v3(algorithm, &self.key, &self.secret, &call).unwrap();
        all.push(("authorization".into(), authorization));
        all
    }

    /// The parameters of the V1 call, signed, in addition to the query's.
    pub(super) fn v1_parameters(&self) -> Vec<(String, String)> {
        let mut all = pairs(&[
            ("Action", "SendMessage"),
            ("Version", "2020-04-20"),
            ("AccessKeyId", &self.key),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureVersion", "1.0"),
            ("SignatureNonce", &self.nonce),
            ("Timestamp", &self.date),
        ]);
        all.retain(|(name, _)| !self.query.iter().any(|(known, _)| known == name));
        all.extend(self.query.iter().cloned());
        let signature = sign_v1(&self.secret, self.verb, &borrowed(&all));
        if !all.iter().any(|(name, _)| name == "Signature") {
            all.push(("Signature".into(), signature));
        }
        all
    }

    pub(super) fn v1(&self) -> Vec<u8> {
        let mut headers = self.headers.clone();
        headers.push(("host".into(), self.host.clone()));
        self.raw(&form(&self.v1_parameters()), &headers)
    }

    pub(super) fn v1_form(&self) -> Vec<u8> {
        let form_type = "application/x-www-form-urlencoded";
        let headers = pairs(&[("host", &self.host), ("content-type", form_type)]);
        let body = form(&self.v1_parameters()).into_bytes();
        Self { body, ..self.clone() }.raw("", &headers)
    }

    pub(super) fn raw(&self, query: &str, headers: &[(String, String)]) -> Vec<u8> {
        let mark = if query.is_empty() { "" } else { "?" };
        let mut text = format!("{} /{mark}{query} HTTP/1.1\r\n", self.verb.as_str());
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn borrowed(pairs: &[(String, String)]) -> Vec<Parameter<'_>> {
    pairs.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
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
