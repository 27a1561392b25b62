//! A weir process that is meant to die, and what it leaves behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::{PATIENCE, eventually, now};

pub(crate) const KEY_ID: &str = "LTAI5tCrashTest00000001";
pub(crate) const SECRET: &str = "crashTestSecret0000000000000001";
pub(crate) const INSTANCE: &str = "post-cn-crash000001";
pub(crate) const TOPIC: &str = "TopicA";
pub(crate) const DEVICE_PASSWORD: &str = "dark";

/// Where a process listens.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) devices: SocketAddr,
    pub(crate) ops: SocketAddr,
}

/// A running weir; it is killed when the test lets go of it.
pub(crate) struct Weir {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub(crate) at: Addresses,
}

/// Writes the configuration for a data directory; `more` is TOML behind it.
pub(crate) fn configure(folder: &Path, data_dir: &Path, shards: u16, more: &str) -> PathBuf {
    let text = format!(
        "data_dir = \"{}\"\n\
         http = {{ listen = \"127.0.0.1:0\", drain_notice = \"0s\" }}\n\
         ops = {{ listen = \"127.0.0.1:0\" }}\n\
         limits = {{ instance_qps = 1000000, burst = 1000000 }}\n\
         shard = {{ count = {shards} }}\n\
         journal = {{ segment_bytes = \"8 MiB\" }}\n\
         delivery = {{ reconnect_grace = \"300ms\", embedded = {{ listen = \"127.0.0.1:0\" }} }}\n\
         {more}\n\
         [[accounts]]\nid = \"1\"\n\
         access_keys = [{{ id = \"{KEY_ID}\", secret = \"{SECRET}\" }}]\n\
         [[instances]]\nid = \"{INSTANCE}\"\naccount = \"1\"\ntopics = [\"{TOPIC}\"]\n\
         devices = [{{ name = \"lamp\", password = \"{DEVICE_PASSWORD}\" }}]\n",
        data_dir.display()
    );
    let path = folder.join("weir.toml");
    fs::write(&path, text).expect("the configuration is written");
    path
}

/// The command that serves this configuration, with these fail points.
pub(crate) fn command(config: &Path, points: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("--config").arg(config);
    command.env_remove("RUST_LOG").env("FAILPOINTS", points);
    command
}

impl Weir {
    /// Starts the command and waits until it is ready.
    ///
    /// # Errors
    /// Its exit status and log, if it ends before.
    pub(crate) fn start(mut command: Command) -> Result<Self, (ExitStatus, String)> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the process starts");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let pipe = process.stderr.take().expect("it is piped");
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.lock().expect("nobody panics with it").push(line);
            }
        });
        let ready = eventually("weir is ready", || {
            if let Some(status) = process.try_wait().expect("a child of ours") {
                return Some(Err(status));
            }
            log.lock()
                .expect("nobody panics with it")
                .iter()
                .find_map(|line| addresses(line))
                .map(Ok)
        });
        match ready {
            Ok(at) => Ok(Self { process, log, at }),
            Err(status) => {
                // The reader may still be at the last lines.
                std::thread::sleep(Duration::from_millis(50));
                Err((status, log.lock().expect("nobody panics with it").join("\n")))
            }
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("nobody panics with it").join("\n")
    }

    /// Where it is ready, and everything worse than news.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let log = self.log.lock().expect("nobody panics with it");
        let news =
            |line: &&String| line.contains("\"level\":\"INFO\"") && addresses(line).is_none();
        log.iter().filter(|line| !news(line)).cloned().collect()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL: no destructor runs.
    pub(crate) fn kill(mut self) {
        // Fails only if it is dead already.
        let _ = self.process.kill();
        self.ended();
    }

    /// SIGTERM; the drain's exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).expect("it runs");
        self.ended().code()
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        eventually("weir ends", || self.process.try_wait().expect("a child of ours"))
    }

    /// Whether it is still there.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.try_wait().expect("a child of ours").is_none()
    }

    /// One value of `/metrics`; `None` if the process is gone.
    pub(crate) fn metric(&self, series: &str) -> Option<u64> {
        let (_, text) = get(self.at.ops, "/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a whole number"))
    }

    /// What the instance is billed for, by the counter.
    pub(crate) fn billed(&self) -> Option<u64> {
        self.metric(&format!("weir_billable_messages_total{{instance_id=\"{INSTANCE}\"}}"))
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn addresses(line: &str) -> Option<Addresses> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    (event["message"] == "ready").then(|| serde_json::from_value(event).expect("it has addresses"))
}

/// Status and body of a plain GET, if anybody answers.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Hard links to every segment there ever was, so that a trimmed one can still be read.
pub(crate) struct Archive {
    folder: PathBuf,
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Archive {
    /// How often it looks: far more often than a segment could be made, filled and trimmed.
    const LOOK_EVERY: Duration = Duration::from_millis(20);

    pub(crate) fn start(data_dir: &Path, folder: PathBuf) -> Self {
        let stop = Arc::<std::sync::atomic::AtomicBool>::default();
        let (stopped, journal, into) =
            (Arc::clone(&stop), data_dir.join("journal"), folder.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                link(&journal, &into);
                std::thread::sleep(Self::LOOK_EVERY);
            }
            link(&journal, &into);
        });
        Self { folder, stop, thread: Some(thread) }
    }

    /// The folder, laid out like a journal's.
    pub(crate) fn finish(mut self) -> PathBuf {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.take().map(std::thread::JoinHandle::join);
        self.folder.clone()
    }
}

/// A number may be used again if the segment held no record: the newest file counts.
fn link(from: &Path, to: &Path) {
    for path in segments(from) {
        let target = to.join(path.strip_prefix(from).expect("it lies in there"));
        let same = |file: &fs::Metadata| {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(&path).is_ok_and(|found| found.ino() == file.ino())
        };
        if fs::metadata(&target).is_ok_and(|file| same(&file)) {
            continue;
        }
        // Races with trims: what is gone before it was linked had been linked under an older look.
        let _ = fs::create_dir_all(target.parent().expect("it has a folder"));
        let fresh = target.with_extension("fresh");
        let _ = fs::remove_file(&fresh);
        if fs::hard_link(&path, &fresh).is_ok() {
            let _ = fs::rename(&fresh, &target);
        }
    }
}

/// Every segment below a journal's folder.
pub(crate) fn segments(journal: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let shards = list(journal).into_iter().flat_map(|generation| list(&generation));
    let files = shards.flat_map(|shard| list(&shard));
    files.filter(|file| file.extension().is_some_and(|ending| ending == "seg")).collect()
}

/// Waits until a deadline for the condition; true if it came.
pub(crate) fn within(patience: Duration, mut look: impl FnMut() -> bool) -> bool {
    let deadline = now() + patience;
    loop {
        if look() {
            return true;
        }
        if now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
