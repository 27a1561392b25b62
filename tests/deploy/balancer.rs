//! haproxy and nginx with the configuration of `deploy/`; only addresses are given to them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::replica::{Replica, free_address};
use crate::support::{Lines, PATIENCE, eventually, now, start_tool};

/// A balancer before some replicas.
pub(crate) struct Balancer {
    address: SocketAddr,
    logs: [Lines; 2],
    state: State,
    processes: Vec<Child>,
}

/// Where it can be seen which replicas get calls.
enum State {
    Page(SocketAddr),
    Folder(TempDir),
}

impl Balancer {
    pub(crate) fn haproxy(replicas: &[Replica]) -> Self {
        let (address, page) = (free_address(), free_address());
        let mut command = Command::new(tool("haproxy"));
        command.arg("-db").arg("-f").arg(shipped("haproxy/haproxy.cfg"));
        command.env("WEIR_BIND", address.to_string()).env("WEIR_STATS", page.to_string());
        for (number, replica) in (1..).zip(replicas) {
            let (http, ops) = (replica.weir.http(), replica.weir.ops());
            command.env(format!("WEIR_{number}"), format!("{http} port {}", ops.port()));
        }
        let mut child = start_tool(&mut command);
        let logs = logs("haproxy", &mut child);
        let haproxy = Self { address, logs, state: State::Page(page), processes: vec![child] };
        haproxy.wait_until_it_listens();
        haproxy
    }

    pub(crate) fn nginx(replicas: &[Replica]) -> Self {
        let address = free_address();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path();
        fs::create_dir(at.join("weir")).expect("a folder");
        let write = |name: &str, text: &str| fs::write(at.join(name), text).expect("a file");
        write("weir/listen.conf", &format!("listen {address};\n"));
        let servers: Vec<_> =
            replicas.iter().map(|replica| format!("server {};\n", replica.weir.http())).collect();
        write("weir/replicas.conf", &servers.concat());
        fs::copy(shipped("nginx/weir.conf"), at.join("weir.conf")).expect("it is shipped");
        write("nginx.conf", &distribution(at));
        let nginx = |more: &[&str]| {
            let mut command = Command::new(tool("nginx"));
            command.arg("-c").arg(at.join("nginx.conf")).args(["-e", "stderr"]).args(more);
            command
        };
        let mut child = start_tool(&mut nginx(&[]));
        let logs = logs("nginx", &mut child);
        let readiness = start_readiness(at, &nginx(&["-s", "reload"]), replicas);
        let state = State::Folder(folder);
        let nginx = Self { address, logs, state, processes: vec![readiness, child] };
        nginx.wait_until_it_listens();
        nginx
    }

    /// Where callers connect.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it said, for a failure.
    pub(crate) fn log(&self) -> String {
        self.logs.each_ref().map(Lines::text).concat()
    }

    /// Waits until this many replicas get calls.
    pub(crate) fn wait_until_up(&self, count: usize) {
        let awaited = format!("{count} replicas that get calls");
        eventually(&awaited, || (self.up() == count).then_some(()));
    }

    fn up(&self) -> usize {
        match &self.state {
            State::Page(address) => {
                let page = get(*address, "/;csv").unwrap_or_default();
                let servers = page.lines().filter(|line| line.starts_with("weir,weir"));
                servers.filter(|line| line.contains(",UP,")).count()
            }
            State::Folder(folder) => {
                let file = folder.path().join("weir/replicas.conf");
                let text = fs::read_to_string(file).unwrap_or_default();
                text.lines().filter(|line| !line.contains("down")).count()
            }
        }
    }

    fn wait_until_it_listens(&self) {
        let deadline = now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            assert!(now() < deadline, "the balancer does not listen\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Balancer {
    /// By SIGTERM: a killed nginx would leave its workers behind.
    fn drop(&mut self) {
        for process in &mut self.processes {
            // Both fail only if it has ended already.
            let _ = kill_process(Pid::from_child(process), Signal::TERM);
            let _ = process.wait();
        }
    }
}

fn logs(name: &'static str, child: &mut Child) -> [Lines; 2] {
    let output = Lines::of(name, child.stdout.take().expect("it is piped"));
    [output, Lines::of(name, child.stderr.take().expect("it is piped"))]
}

/// What Debian's nginx.conf says, in a folder of the test's own.
fn distribution(folder: &Path) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    format!(
        "daemon off;\nworker_processes 1;\npid {}/nginx.pid;\n\
         events {{ worker_connections 768; }}\nhttp {{\n{temporary}include weir.conf;\n}}\n",
        folder.display()
    )
}

/// The shipped watch over `/readyz`, which reloads nginx.
fn start_readiness(folder: &Path, reload: &Command, replicas: &[Replica]) -> Child {
    let mut words = vec![reload.get_program()];
    words.extend(reload.get_args());
    let reload: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let mut command = Command::new(shipped("nginx/weir-readiness"));
    command.arg(folder.join("weir/replicas.conf")).arg(reload.join(" "));
    for replica in replicas {
        command.arg(format!("{}/{}", replica.weir.http(), replica.weir.ops().port()));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a shell runs it")
}

/// A file of `deploy/`.
pub(crate) fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// What `make tools` brought.
pub(crate) fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name)
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
