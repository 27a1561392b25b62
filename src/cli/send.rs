use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use indicatif::ProgressBar;
use parking_lot::Mutex;

use crate::admission::Algorithm;
use crate::clock::{Clock, SystemClock};
use crate::tls::Identity;

use super::client::{Answer, Connection, Endpoint, Signer};
use super::{Failure, client, demo, progress, say};

/// Connections a run of many messages is spread over.
const CONNECTIONS_MAX: u64 = 16;

pub(super) const LONG_ABOUT: &str = "\
Send a message, or many, as an SDK would: signed V3, as a form body. One message prints its MsgId;
many, with --count, a summary by outcome.

Who sends is said by ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, together with
--instance and --topic; without them by the demo's file in weir-data/ of this folder.";

pub(super) const AFTER_HELP: &str = "\
Examples:
  weir send 'hello'                                    to the running demo
  weir send --topic TopicA/b --file picture.jpg
  weir send --count 1000 --rate 500 'hello'            a thousand, at 500/s
  date | weir send --endpoint http://10.0.0.7:8080 --instance post-cn-a --topic TopicA

Exit codes:
  0   every message was accepted: on disk, and billed
  1   failed: one was refused (its code and RequestId are said), or there is no answer
  2   usage: an unknown option, or a value that is none

Environment:
  ALIBABA_CLOUD_ACCESS_KEY_ID, ALIBABA_CLOUD_ACCESS_KEY_SECRET   who signs
  WEIR_ENDPOINT                                                  --endpoint

Files:
  weir-data/demo.toml   who signs, where those two are not set";

/// What `weir send` takes.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The payload as text; without it and without --file it is read from standard input
    payload: Option<String>,
    /// Read the payload from this file, any bytes up to 64 KiB
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    file: Option<PathBuf>,
    /// Where to send to, as http://host[:port] or https://host[:port]
    #[arg(long, env = "WEIR_ENDPOINT", default_value = "http://127.0.0.1:8080")]
    endpoint: String,
    /// Over https, trust the certificates of this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Over https, show the certificate chain of this PEM file
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of --cert, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The instance to send to; the demo's without it
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// The topic to send to; the demo's without it
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// How to sign
    #[arg(long, value_enum, default_value = "sha256")]
    sign: Sign,
    /// Send the payload as it is, for an instance with payload = "verbatim"
    #[arg(long)]
    verbatim: bool,
    /// Send this many messages, with a progress bar and a summary
    #[arg(long, value_name = "N")]
    count: Option<NonZeroU64>,
    /// Send this many a second; without it as fast as answers come
    #[arg(long, value_name = "R", requires = "count")]
    rate: Option<NonZeroU32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sign {
    /// ACS3-HMAC-SHA256
    Sha256,
    /// ACS3-HMAC-SM3
    Sm3,
}

/// Sends one message and prints its MsgId, or many and prints a summary.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (signer, instance, topic) = identity(arguments)?;
    let payload = payload(arguments)?;
    let form = client::form(&instance, &topic, &payload);
    let identity = match (&arguments.cert, &arguments.key) {
        (Some(cert), Some(key)) => Some(Identity { cert, key }),
        _ => None,
    };
    let endpoint = Endpoint::parse(&arguments.endpoint, arguments.ca_file.as_deref(), identity)
        .map_err(Failure::Failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("runtime", error))?;
    runtime.block_on(async {
        match arguments.count {
            None => one(&endpoint, &signer, &form).await,
            Some(count) => many(&endpoint, &signer, &form, count.get(), arguments.rate).await,
        }
    })
}

/// Who signs: the ecosystem's variables, else the demo's file.
fn identity(arguments: &Arguments) -> Result<(Signer, String, String), Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let algorithm = match arguments.sign {
        Sign::Sha256 => Algorithm::Sha256,
        Sign::Sm3 => Algorithm::Sm3,
    };
    let given =
        (variable("ALIBABA_CLOUD_ACCESS_KEY_ID"), variable("ALIBABA_CLOUD_ACCESS_KEY_SECRET"));
    if let (Some(access_key_id), Some(secret)) = given {
        let need = |value: &Option<String>, option: &str| {
            value.clone().ok_or_else(|| Failure::Failed(format!("{option} is needed")))
        };
        let (instance, topic) =
            (need(&arguments.instance, "--instance")?, need(&arguments.topic, "--topic")?);
        return Ok((Signer { access_key_id, secret, algorithm }, instance, topic));
    }
    let demo = demo::open().map_err(|failure| {
        Failure::Failed(format!(
            "{failure}; set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or \
             run where the demo runs"
        ))
    })?;
    let instance = arguments.instance.clone().unwrap_or(demo.instance);
    let topic = arguments.topic.clone().unwrap_or(demo.topic);
    let (access_key_id, secret) = (demo.access_key_id, demo.secret);
    Ok((Signer { access_key_id, secret, algorithm }, instance, topic))
}

fn payload(arguments: &Arguments) -> Result<String, Failure> {
    let bytes = match (&arguments.payload, &arguments.file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => std::fs::read(path)
            .map_err(|error| Failure::because(&path.display().to_string(), error))?,
        (None, None) => {
            if std::io::stdin().is_terminal() {
                return Err(Failure::Failed("give a payload, --file, or standard input".into()));
            }
            let mut bytes = vec![];
            std::io::stdin()
                .read_to_end(&mut bytes)
                .map_err(|error| Failure::because("standard input", error))?;
            bytes
        }
    };
    if arguments.verbatim {
        String::from_utf8(bytes).map_err(|_| Failure::Failed("--verbatim takes UTF-8 only".into()))
    } else {
        Ok(STANDARD.encode(bytes))
    }
}

async fn one(endpoint: &Endpoint, signer: &Signer, form: &Bytes) -> Result<(), Failure> {
    let mut connection = endpoint.connect().await.map_err(Failure::Failed)?;
    let answer = connection.call(signer, form).await.map_err(Failure::Failed)?;
    match answer.msg_id {
        Some(msg_id) => {
            say(&format!("{msg_id}\n"));
            Ok(())
        }
        None => Err(Failure::Failed(refusal(&answer))),
    }
}

fn refusal(answer: &Answer) -> String {
    let part = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".to_owned());
    let (code, message) = (part(&answer.code), part(&answer.message));
    format!("{code}: {message} (RequestId {})", part(&answer.request_id))
}

/// What a run of many messages shares between its connections.
struct Run {
    endpoint: Endpoint,
    signer: Signer,
    form: Bytes,
    count: u64,
    rate: Option<NonZeroU32>,
    next: AtomicU64,
    bar: ProgressBar,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    accepted: u64,
    refused: BTreeMap<String, (u64, String)>,
}

async fn many(
    endpoint: &Endpoint,
    signer: &Signer,
    form: &Bytes,
    count: u64,
    rate: Option<NonZeroU32>,
) -> Result<(), Failure> {
    let run = Arc::new(Run {
        endpoint: endpoint.clone(),
        signer: signer.clone(),
        form: form.clone(),
        count,
        rate,
        next: AtomicU64::new(0),
        bar: progress::messages(count),
        tally: Mutex::default(),
    });
    let clock = SystemClock;
    let started = clock.now();
    let workers: Vec<_> = (0..count.min(CONNECTIONS_MAX))
        .map(|_| tokio::spawn(Arc::clone(&run).work(started)))
        .collect();
    for worker in workers {
        let ended = worker.await.map_err(|error| Failure::because("sender", error))?;
        ended.map_err(Failure::Failed)?;
    }
    run.bar.finish_and_clear();
    let elapsed = clock.now() - started;
    let tally = run.tally.lock();
    say(&tally.summary(elapsed));
    let refused: u64 = tally.refused.values().map(|(times, _)| times).sum();
    match tally.refused.values().next() {
        None => Ok(()),
        Some((_, example)) => {
            Err(Failure::Failed(format!("{refused} of {count} refused, such as {example}")))
        }
    }
}

impl Run {
    async fn work(self: Arc<Self>, started: std::time::Instant) -> Result<(), String> {
        let mut connection: Option<Connection> = None;
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                return Ok(());
            }
            if let Some(rate) = self.rate {
                let due = Duration::from_nanos(index * 1_000_000_000 / u64::from(rate.get()));
                tokio::time::sleep_until((started + due).into()).await;
            }
            let mut open = match connection.take().filter(Connection::is_open) {
                Some(open) => open,
                None => self.endpoint.connect().await?,
            };
            let answer = open.call(&self.signer, &self.form).await?;
            connection = Some(open);
            self.count_answer(&answer);
        }
    }

    fn count_answer(&self, answer: &Answer) {
        let mut tally = self.tally.lock();
        if answer.msg_id.is_some() {
            tally.accepted += 1;
        } else {
            let code = answer.code.clone().unwrap_or_else(|| "?".to_owned());
            let entry = tally.refused.entry(code).or_insert_with(|| (0, refusal(answer)));
            entry.0 += 1;
        }
        let refused: u64 = tally.refused.values().map(|(times, _)| times).sum();
        self.bar.inc(1);
        self.bar.set_message(format!("{refused} refused"));
    }
}

impl Tally {
    fn summary(&self, elapsed: Duration) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a rate for a person to read")]
        let rate = self.accepted as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
        let mut text =
            format!("{} accepted in {:.2} s, {rate:.0}/s\n", self.accepted, elapsed.as_secs_f64());
        for (code, (times, _)) in &self.refused {
            text += &format!("{times} refused: {code}\n");
        }
        text
    }
}
