//! Clients that send as fast as they are answered, and write down what they were told.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use weir::admission::{
    ACTION, Algorithm, Parameters, SendMessage, VERSION, Verb, format_timestamp, sign_v3,
};
use weir::clock::{Clock, SystemClock};

use super::weir::{INSTANCE, KEY_ID, SECRET, TOPIC};
use super::{PAD, PATIENCE};

/// What a client knows of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 200, with this MsgId.
    Ok(String),
    /// One of our error bodies.
    Fail(String),
    /// No answer, or one that says so.
    Unknown,
}

/// One call, by its unique payload.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) payload: String,
    pub(crate) outcome: Outcome,
}

/// Numbers every payload of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Between the topic and the number of a client that sends in bulk: more than a stored session
/// holds (16 MiB), so a device that reads slowly on a busy machine would miss some of it by right.
const BULK: &str = "/bulk/";

/// Whether a stored session subscribes to this.
pub(crate) fn is_for_the_keeper(topic: &str) -> bool {
    !topic.contains(BULK)
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<Sent>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts clients, each on a subtopic of its own; `pad` bytes make a payload longer. All but
    /// the first send in bulk if they are to fill segments.
    pub(crate) fn start(address: SocketAddr, clients: usize, pad: usize) -> Self {
        let (stop, log) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Sent>>>::default());
        let client = |number| {
            let (stop, log) = (Arc::clone(&stop), Arc::clone(&log));
            let (topic, pad) = match pad > PAD && number > 0 {
                true => (format!("{TOPIC}{BULK}{number}"), pad),
                false => (format!("{TOPIC}/{number}"), pad.min(PAD)),
            };
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A refused connection has sent nothing.
                    let Ok(mut client) = Client::connect(address) else { return };
                    while !stop.load(Ordering::Relaxed) {
                        let payload = payload(pad);
                        let outcome = client.call(&topic, payload.as_bytes());
                        let goes_on = outcome != Outcome::Unknown;
                        log.lock().expect("nobody panics with it").push(Sent { payload, outcome });
                        if !goes_on {
                            break;
                        }
                    }
                }
            })
        };
        let threads = (0..clients).map(client).collect();
        Self { stop, log, threads }
    }

    /// How many calls were answered so far with this.
    pub(crate) fn count(&self, what: impl Fn(&Outcome) -> bool) -> usize {
        let log = self.log.lock().expect("nobody panics with it");
        log.iter().filter(|sent| what(&sent.outcome)).count()
    }

    /// Ends the clients and returns what they know.
    pub(crate) fn finish(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        std::mem::take(&mut self.log.lock().expect("nobody panics with it"))
    }
}

fn payload(pad: usize) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{number:010}{:.<pad$}", "")
}

/// One connection, kept open from call to call.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream), host: address.to_string() })
    }

    /// Sends one message, signed, and reads its answer.
    pub(crate) fn call(&mut self, topic: &str, payload: &[u8]) -> Outcome {
        let request = request(&self.host, topic, payload);
        let answered = self.stream.get_mut().write_all(&request).and_then(|()| self.answer());
        let Ok((status, body)) = answered else { return Outcome::Unknown };
        let body: serde_json::Value = serde_json::from_slice(&body).expect("answers are JSON");
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        match status {
            200 => Outcome::Ok(text("MsgId")),
            _ if text("Message").contains("outcome is unknown") => Outcome::Unknown,
            _ => Outcome::Fail(text("Code")),
        }
    }

    fn answer(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let mut status = 0;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, body))
    }
}

fn request(host: &str, topic: &str, payload: &[u8]) -> Vec<u8> {
    let payload = STANDARD.encode(payload);
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("InstanceId", INSTANCE), ("MqttTopic", topic), ("Payload", &payload)])
        .finish();
    let algorithm = Algorithm::Sha256;
    let nonce = NEXT.fetch_add(1, Ordering::Relaxed);
    let fields = [
        ("host", host.to_owned()),
        ("content-type", "application/x-www-form-urlencoded".to_owned()),
        ("x-acs-action", ACTION.to_owned()),
        ("x-acs-version", VERSION.to_owned()),
        ("x-acs-date", format_timestamp(SystemClock.unix())),
        ("x-acs-signature-nonce", format!("{}-{nonce}", std::process::id())),
        ("x-acs-content-sha256", algorithm.hash(body.as_bytes())),
    ];
    let mut headers = HeaderMap::new();
    let mut head = "POST / HTTP/1.1\r\n".to_owned();
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
        headers.insert(name, value.parse().expect("a header's value"));
    }
    let parameters = Parameters::default();
    let body_bytes = body.as_bytes();
    let call = SendMessage { verb: Verb::Post, parameters, headers: &headers, body: body_bytes };
    let signed = sign_v3(algorithm, KEY_ID, SECRET, &call).expect("it can be signed");
    head += &format!("authorization: {signed}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    head.into_bytes()
}
