//! Callers that send on and on while replicas come and go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use weir::admission::{ACTION, Parameter, VERSION, Verb, format_timestamp, sign_v1};
use weir::clock::{Clock, SystemClock};

use crate::support::caller::Caller;
use crate::support::{INSTANCE, KEY_ID, SECRET, TOPIC, eventually};

/// Calls in flight at a time, at most.
pub(crate) const CALLERS: usize = 8;
/// Of a V1 call: 128 KB once encoded, so that its nonce comes long after its head.
const PAYLOAD_BYTES: usize = 32 * 1024;
const PAUSE: Duration = Duration::from_millis(15);

/// Whether a caller keeps its connection, as weir's own sender does, or makes one a call, as the
/// Python SDK does.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Keep {
    Open,
    No,
}

/// Callers at work.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

/// What became of all calls.
pub(crate) struct Sent {
    pub(crate) accepted: usize,
    pub(crate) failures: Vec<String>,
}

impl Traffic {
    pub(crate) fn start(to: SocketAddr, keep: Keep) -> Self {
        let shared = Arc::<Shared>::default();
        let call = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.call(to, keep))
        };
        let callers = (0..CALLERS).map(call).collect();
        Self { shared, callers }
    }

    /// Waits for this many more calls to be accepted.
    pub(crate) fn answered(&self, count: usize) {
        let so_far = self.shared.accepted.load(Ordering::Relaxed);
        eventually("calls to be accepted", || {
            (self.shared.accepted.load(Ordering::Relaxed) >= so_far + count).then_some(())
        });
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().expect("no caller panics").clone()
    }

    pub(crate) fn stop(self) -> Sent {
        self.shared.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.join().expect("a caller ends by itself");
        }
        let failures = self.shared.failures.lock().expect("no caller panics").clone();
        Sent { accepted: self.shared.accepted.load(Ordering::Relaxed), failures }
    }
}

impl Shared {
    fn call(&self, to: SocketAddr, keep: Keep) {
        let mut open: Option<Caller> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let mut caller = open.take().unwrap_or_else(|| Caller::connect(to));
            match caller.try_send(TOPIC, b"through the balancer") {
                Ok(answer) if answer.status == 200 => {
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    let goes_on = answer.headers.get("connection").is_none_or(|it| it != "close");
                    open = (keep == Keep::Open && goes_on).then_some(caller);
                }
                Ok(answer) => self.failed(format!("{answer:?}")),
                Err(error) => self.failed(error.to_string()),
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn failed(&self, why: String) {
        self.failures.lock().expect("no caller panics").push(why);
    }
}

/// A call signed V3, its nonce in a header.
pub(crate) fn v3(to: SocketAddr) -> Vec<u8> {
    Caller::connect(to).sign(TOPIC, b"once")
}

/// A call signed V1, its nonce in the query of a GET.
pub(crate) fn v1_query(to: SocketAddr) -> Vec<u8> {
    let query = signed_v1(Verb::Get);
    format!("GET /?{query} HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes()
}

/// A call signed V1, its nonce in the form of a POST.
pub(crate) fn v1_form(to: SocketAddr) -> Vec<u8> {
    let form = signed_v1(Verb::Post);
    format!(
        "POST / HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    )
    .into_bytes()
}

fn signed_v1(verb: Verb) -> String {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).expect("random bytes");
    let mut pairs: Vec<Parameter<'_>> = vec![
        ("Payload".into(), STANDARD.encode(vec![0xff; PAYLOAD_BYTES]).into()),
        ("Action".into(), ACTION.into()),
        ("Version".into(), VERSION.into()),
        ("Format".into(), "JSON".into()),
        ("AccessKeyId".into(), KEY_ID.into()),
        ("SignatureMethod".into(), "HMAC-SHA1".into()),
        ("SignatureVersion".into(), "1.0".into()),
        ("SignatureNonce".into(), hex::encode(nonce).into()),
        ("Timestamp".into(), format_timestamp(SystemClock.unix()).into()),
        ("InstanceId".into(), INSTANCE.into()),
        ("MqttTopic".into(), TOPIC.into()),
    ];
    let signature = sign_v1(SECRET, verb, &pairs);
    pairs.push(("Signature".into(), signature.into()));
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
