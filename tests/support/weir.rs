//! A weir process on ports and in a folder of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use toml::{Table, Value};

use super::{INSTANCE, KEY_ID, Lines, Owned, PATIENCE, SECRET, TOPIC, eventually};

/// A running weir. It is killed, by its pid, when the test lets go of it.
pub(crate) struct Weir {
    folder: TempDir,
    running: Running,
}

struct Running {
    process: Owned,
    log: Lines,
    at: Addresses,
}

#[derive(Deserialize)]
struct Addresses {
    http: SocketAddr,
    devices: Option<SocketAddr>,
    devices_tls: Option<SocketAddr>,
    devices_websocket: Option<SocketAddr>,
    devices_tls_websocket: Option<SocketAddr>,
    ops: SocketAddr,
}

/// Where devices connect over TLS and WebSocket, of a weir that was told to listen on all.
#[derive(Clone, Copy)]
pub(crate) struct Links {
    pub(crate) tls: SocketAddr,
    pub(crate) websocket: SocketAddr,
    pub(crate) tls_websocket: SocketAddr,
}

impl Weir {
    /// Starts with one account, one key, one instance and one topic: the constants beside.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// The same with `settings` laid over it: TOML, whose tables merge and whose arrays append.
    pub(crate) fn start_with(settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = config(folder.path(), settings);
        std::fs::write(folder.path().join("weir.toml"), file).expect("the file is written");
        let running = Running::start(&folder.path().join("weir.toml"));
        Self { folder, running }
    }

    /// The same with these variables in its environment.
    pub(crate) fn start_with_env(settings: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = config(folder.path(), settings);
        std::fs::write(folder.path().join("weir.toml"), file).expect("the file is written");
        let running = Running::start_in(&folder.path().join("weir.toml"), variables);
        Self { folder, running }
    }

    /// Where calls go.
    pub(crate) const fn http(&self) -> SocketAddr {
        self.running.at.http
    }

    /// Where devices connect.
    pub(crate) fn devices(&self) -> SocketAddr {
        self.running.at.devices.expect("weir has a broker of its own")
    }

    /// Where devices connect over WebSocket, of a weir that was told to listen there.
    pub(crate) fn websocket(&self) -> SocketAddr {
        self.running.at.devices_websocket.expect("it listens with WebSocket")
    }

    /// Where devices connect besides.
    pub(crate) fn links(&self) -> Links {
        let at = &self.running.at;
        Links {
            tls: at.devices_tls.expect("it listens with TLS"),
            websocket: self.websocket(),
            tls_websocket: at.devices_tls_websocket.expect("it listens with both"),
        }
    }

    /// The ports its process listens on, over IPv4.
    pub(crate) fn listening(&self) -> Vec<u16> {
        let process = format!("/proc/{}", self.running.process.0.id());
        let sockets: Vec<String> = std::fs::read_dir(format!("{process}/fd"))
            .expect("a running process")
            .filter_map(|file| {
                let target = std::fs::read_link(file.ok()?.path()).ok()?;
                let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                Some(inode.to_owned())
            })
            .collect();
        let table = std::fs::read_to_string(format!("{process}/net/tcp")).expect("a table");
        let listening = table.lines().filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            // proc(5): local address, state (0A listens), inode.
            let ours = columns[3] == "0A" && sockets.iter().any(|inode| inode == columns[9]);
            let (_, port) = columns[1].split_once(':').filter(|_| ours)?;
            u16::from_str_radix(port, 16).ok()
        });
        listening.collect()
    }

    /// Where metrics and health are.
    pub(crate) const fn ops(&self) -> SocketAddr {
        self.running.at.ops
    }

    /// Whether `/readyz` says 200.
    pub(crate) fn is_ready(&self) -> bool {
        try_get(self.ops(), "/readyz").is_ok()
    }

    /// Memory it has in use, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let file = format!("/proc/{}/status", self.running.process.0.id());
        let status = std::fs::read_to_string(file).expect("it runs");
        let shown = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = shown.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
        kib.expect("Linux shows it")
    }

    /// The configuration file it runs from.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("weir.toml")
    }

    /// A page of the ops port, as text.
    pub(crate) fn ops_page(&self, path: &str) -> String {
        get(self.ops(), path)
    }

    /// The value of one series, named as `/metrics` writes it.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = get(self.ops(), "/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("/metrics has no {series}:\n{text}"));
        value.parse().unwrap_or_else(|error| panic!("{series} is {value}: {error}"))
    }

    /// What the instance has been billed for.
    pub(crate) fn billed(&self) -> f64 {
        self.metric(&format!("weir_billable_messages_total{{instance_id=\"{INSTANCE}\"}}"))
    }

    /// Its log so far, for a failure.
    pub(crate) fn log(&self) -> String {
        self.running.log.text()
    }

    /// Sends SIGTERM and waits for the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.ask_to_stop();
        self.exit_code()
    }

    /// Sends SIGTERM.
    pub(crate) fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.wait("weir to drain after SIGTERM").code()
    }

    /// Sends SIGTERM and does not wait.
    pub(crate) fn begin_drain(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGKILL: a crash.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait("weir to die of SIGKILL");
    }

    /// Starts it again, after [`Self::terminate`] or [`Self::kill`], on what it left behind.
    pub(crate) fn restart(&mut self) {
        self.running = Running::start(&self.config_file());
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.running.process.0);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{signal:?}: {error}"));
    }

    fn wait(&mut self, awaited: &str) -> ExitStatus {
        let log = self.running.log.clone();
        let deadline = super::now() + PATIENCE;
        eventually(awaited, || {
            let ended = self.running.process.0.try_wait().expect("a child of ours");
            assert!(ended.is_some() || super::now() < deadline, "{awaited}: no\n{}", log.text());
            ended
        })
    }
}

impl Running {
    fn start(config: &Path) -> Self {
        Self::start_in(config, &[])
    }

    fn start_in(config: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("--config").arg(config).env_remove("RUST_LOG");
        command.envs(variables.iter().copied());
        let piped = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Owned(piped.spawn().expect("weir starts"));
        let log = Lines::of("weir's log", process.0.stderr.take().expect("it is piped"));
        let at = log.wait_for("the line that it is ready", |lines| {
            lines.iter().find_map(|line| ready(line))
        });
        Self { process, log, at: at.unwrap_or_else(|why| panic!("{why}")) }
    }
}

fn ready(line: &str) -> Option<Addresses> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    (event["message"] == "ready").then(|| serde_json::from_value(event).expect("has addresses"))
}

fn config(folder: &Path, settings: &str) -> String {
    let base = format!(
        r#"
        data_dir = "{folder}/data"
        http = {{ listen = "127.0.0.1:0", drain_notice = "0s" }}
        ops = {{ listen = "127.0.0.1:0" }}
        delivery = {{ embedded = {{ listen = "127.0.0.1:0" }} }}
        [[accounts]]
        id = "1000000000000001"
        access_keys = [{{ id = "{KEY_ID}", secret = "{SECRET}" }}]
        [[instances]]
        id = "{INSTANCE}"
        account = "1000000000000001"
        topics = ["{TOPIC}"]
        "#,
        folder = folder.display(),
    );
    let mut file: Table = base.parse().expect("the base is TOML");
    let settings: Table = settings.parse().expect("the test's settings are TOML");
    if settings.get("delivery").is_some_and(|delivery| delivery.get("kind").is_some()) {
        // With a broker elsewhere weir refuses a listener for devices.
        file.remove("delivery");
    }
    merge(&mut file, settings);
    file.to_string()
}

fn merge(file: &mut Table, settings: Table) {
    for (key, value) in settings {
        match (file.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(more)) => merge(inner, more),
            (Some(Value::Array(inner)), Value::Array(more)) => inner.extend(more),
            (_, value) => {
                file.insert(key, value);
            }
        }
    }
}

/// The body of a plain GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    try_get(address, path).unwrap_or_else(|answer| panic!("GET {path} of {address}: {answer}"))
}

/// The body of a plain GET that is answered with 200, or what came instead.
fn try_get(address: SocketAddr, path: &str) -> Result<String, String> {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}
