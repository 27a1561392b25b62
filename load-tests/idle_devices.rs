//! What an idle device costs: starts a weir for each kind of link, connects devices that subscribe
//! and then say nothing, and prints the memory of the process before and after.
//!
//! `make idle` builds weir in release and runs this with it. Arguments: the weir to run, and how
//! many devices (5,000 without). Devices over TLS take three file descriptors of weir's each.

#![expect(clippy::print_stdout, reason = "a program that prints what it has measured")]
#![expect(clippy::expect_used, reason = "a measurement that cannot go on has to fail")]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use weir::delivery::embedded::{Secret, device_password};

const KEY_ID: &str = "LTAI5tIdleDevices0000001";
const SECRET: &str = "idleDevicesSecret0000000000001";
const INSTANCE: &str = "post-cn-idle0000001";
const DEVICES: usize = 5_000;
/// Devices that connect at the same time.
const CONNECTING_MAX: usize = 16;
/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Longest a device may be kept waiting.
const PATIENCE: Duration = Duration::from_secs(60);

/// How devices connect.
#[derive(Clone, Copy)]
enum Link {
    Tcp,
    Tls,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A weir of this program's own.
struct Weir {
    process: Child,
    tcp: SocketAddr,
    tls: SocketAddr,
}

impl Drop for Weir {
    fn drop(&mut self) {
        // It fails only if weir has ended already.
        let _ = kill_process(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}

impl Weir {
    fn start(program: &str, folder: &Path, devices: usize) -> Self {
        let config = format!(
            r#"
            data_dir = "{folder}/data"
            http = {{ listen = "127.0.0.1:0", connections_max = 100 }}
            ops = {{ listen = "127.0.0.1:0" }}
            [delivery.embedded]
            listen = "127.0.0.1:0"
            connections_max = {devices}
            tls = {{ listen = "127.0.0.1:0", cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}
            [[accounts]]
            id = "1"
            access_keys = [{{ id = "{KEY_ID}", secret = "{SECRET}" }}]
            [[instances]]
            id = "{INSTANCE}"
            account = "1"
            topics = ["TopicA"]
            "#,
            folder = folder.display(),
        );
        let file = folder.join("weir.toml");
        std::fs::write(&file, config).expect("the configuration is written");
        let mut process = Command::new(program)
            .arg("--config")
            .arg(file)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("weir starts");
        let mut log = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let ready = log
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let event: serde_json::Value = serde_json::from_str(&line).ok()?;
                (event["message"] == "ready").then_some(event)
            })
            .expect("weir is ready");
        // Whoever does not read a pipe stops its writer.
        std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
        let at = |name: &str| ready[name].as_str().and_then(|at| at.parse().ok()).expect("a port");
        Self { tcp: at("devices"), tls: at("devices_tls"), process }
    }

    /// Resident memory in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("weir runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.expect("proc(5)") * 1024
    }
}

/// A certificate authority's certificate, and what it certifies for `localhost`.
fn certify(folder: &Path) -> TlsConnector {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let cert = params.signed_by(&key, &issuer).expect("a certificate").pem();
    std::fs::write(folder.join("cert.pem"), cert).expect("it is written");
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("it is written");
    let mut roots = RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_slice(ca.as_bytes());
    roots.add(ca.expect("a certificate")).expect("a root");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// CONNECT with a clean session, SUBSCRIBE, and their answers (MQTT 3.1.1, sections 3.1 to 3.9).
async fn sign_in(stream: &mut dyn Stream, number: usize) -> std::io::Result<()> {
    let text = |text: &str| {
        let mut field = u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        field.extend_from_slice(text.as_bytes());
        field
    };
    let packet = |kind: u8, body: &[u8]| {
        let [low, high] = [body.len() % 128, body.len() / 128];
        let low = u8::try_from(low).unwrap_or_default() | if high > 0 { 0x80 } else { 0 };
        let mut packet = vec![kind, low];
        packet.extend((high > 0).then(|| u8::try_from(high).unwrap_or_default()));
        packet.extend_from_slice(body);
        packet
    };
    let client_id = format!("GID_idle@@@{number:05}");
    let password = device_password(&client_id, &Secret::new(SECRET.to_owned()));
    let user = format!("Signature|{KEY_ID}|{INSTANCE}");
    // User name, password and clean session; a keep-alive of 1,200 s.
    let mut connect = [&text("MQTT")[..], &[4, 0xC2, 0x04, 0xB0]].concat();
    for field in [&client_id, &user, &password] {
        connect.extend(text(field));
    }
    stream.write_all(&packet(0x10, &connect)).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    if connack != [0x20, 2, 0, 0] {
        return Err(std::io::Error::other(format!("CONNACK {connack:?}")));
    }
    let mut subscribe = vec![0, 1];
    subscribe.extend(text(&format!("TopicA/idle/{number}")));
    subscribe.push(1);
    stream.write_all(&packet(0x82, &subscribe)).await?;
    stream.read_exact(&mut [0; 5]).await.map(|_| ())
}

async fn connect(
    at: SocketAddr,
    tls: Option<TlsConnector>,
    number: usize,
) -> std::io::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect(at).await?;
    let mut stream: Box<dyn Stream> = match tls {
        None => Box::new(tcp),
        Some(tls) => {
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            Box::new(tls.connect(name, tcp).await?)
        }
    };
    sign_in(&mut *stream, number).await?;
    Ok(stream)
}

async fn measure(program: &str, link: Link, devices: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tls = certify(folder.path());
    let weir = Weir::start(program, folder.path(), devices);
    let (name, at, tls) = match link {
        Link::Tcp => ("tcp", weir.tcp, None),
        Link::Tls => ("tls", weir.tls, Some(tls)),
    };
    tokio::time::sleep(SETTLE).await;
    let before = weir.memory();
    let mut connected = vec![];
    let mut connecting = JoinSet::new();
    for number in 0..devices {
        let one = connect(at, tls.clone(), number);
        connecting.spawn(async move { tokio::time::timeout(PATIENCE, one).await });
        if connecting.len() >= CONNECTING_MAX {
            connected.push(joined(connecting.join_next().await));
        }
    }
    while !connecting.is_empty() {
        connected.push(joined(connecting.join_next().await));
    }
    tokio::time::sleep(SETTLE).await;
    let after = weir.memory();
    let each = after.saturating_sub(before) / connected.len().max(1) as u64;
    println!(
        "{name:4}  {:>7}  {:>12}  {:>12}  {each:>18}",
        connected.len(),
        before / 1024,
        after / 1024
    );
}

type Joined<T> = Option<Result<T, tokio::task::JoinError>>;
type InTime = Result<std::io::Result<Box<dyn Stream>>, tokio::time::error::Elapsed>;

fn joined(one: Joined<InTime>) -> Box<dyn Stream> {
    let in_time = one.expect("a device").expect("no panic");
    in_time.expect("an answer in time").expect("a connection")
}

#[tokio::main]
async fn main() {
    weir::tls::install_provider();
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().unwrap_or_else(|| "target/release/weir".to_owned());
    let devices = arguments.next().map_or(DEVICES, |text| text.parse().expect("a number"));
    let files = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files }).expect("our own limit");
    println!("link  devices  RSS KiB idle  RSS KiB with  bytes a connection");
    for link in [Link::Tcp, Link::Tls] {
        measure(&program, link, devices).await;
    }
    std::io::stdout().flush().expect("standard output");
}
