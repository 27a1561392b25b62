//! A drain as clients, a balancer's probe and systemd see it.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, unused_imports, reason = "a shared harness: other tests use the rest")]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use support::caller::Caller;
use support::{PATIENCE, TOPIC, Weir, eventually};

fn ready(weir: &Weir) -> String {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(weir.ops())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().expect("the ops port answers")
}

#[test]
fn during_the_notice_calls_are_served_as_ever_and_the_probe_says_no() {
    let mut weir = Weir::start_with("http = { drain_notice = \"2s\" }");
    let mut kept = Caller::connect(weir.http());
    assert_eq!(kept.send(TOPIC, b"before").status, 200);
    weir.ask_to_stop();
    eventually("/readyz at 503", || ready(&weir).starts_with("HTTP/1.1 503").then_some(()));
    let served = kept.send(TOPIC, b"during");
    assert_eq!((served.status, served.headers.get("connection")), (200, None), "{served:?}");
    assert_eq!(Caller::connect(weir.http()).send(TOPIC, b"new").status, 200);
    // The last answer of a connection says so, and no call goes without one.
    let last = eventually("an answer that ends the connection", || {
        let answer = kept.send(TOPIC, b"on and on");
        answer.headers.contains_key("connection").then_some(answer)
    });
    assert_eq!((last.status, last.headers["connection"].as_str()), (200, "close"), "{last:?}");
    assert_eq!(weir.exit_code(), Some(0), "{}", weir.log());
    assert!(TcpStream::connect(weir.http()).is_err());
}

#[test]
fn who_waits_in_the_backlog_when_weir_drains_is_served() {
    let mut weir = Weir::start_with("http = { connections_max = 1 }");
    let mut first = Caller::connect(weir.http());
    assert_eq!(first.send(TOPIC, b"first").status, 200);
    // The place is taken: these are connected as far as the kernel knows, and have sent.
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let mut caller = Caller::connect(weir.http());
            let request = caller.sign(TOPIC, b"waiting");
            caller.begin(&request).expect("it is sent");
            caller
        })
        .collect();
    weir.ask_to_stop();
    for mut caller in waiting {
        let answer = caller.finish().expect("an answer, not a reset");
        assert_eq!((answer.status, answer.headers["connection"].as_str()), (200, "close"));
    }
    assert_eq!(weir.exit_code(), Some(0), "{}", weir.log());
    weir.restart();
    assert!((weir.billed() - 6.0).abs() < 0.5, "{} billed", weir.billed());
}

/// Everything systemd has been told so far, a line each.
struct Systemd {
    socket: UnixDatagram,
    heard: Vec<String>,
    _folder: tempfile::TempDir,
    path: String,
}

impl Systemd {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let path = path.to_str().expect("text").to_owned();
        Self { socket, heard: vec![], _folder: folder, path }
    }

    fn count(&mut self, line: &str) -> usize {
        let mut datagram = [0; 4096];
        while let Ok(bytes) = self.socket.recv(&mut datagram) {
            let text = str::from_utf8(&datagram[..bytes]).expect("text");
            self.heard.extend(text.lines().map(str::to_owned));
        }
        self.heard.iter().filter(|heard| *heard == line).count()
    }

    fn wait_for(&mut self, line: &str, times: usize) {
        eventually(line, || (self.count(line) >= times).then_some(()));
    }
}

#[test]
fn systemd_hears_when_weir_is_ready_well_and_stopping() {
    let mut systemd = Systemd::new();
    let path = systemd.path.clone();
    let variables = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "1000000")];
    let mut weir = Weir::start_with_env("http = { drain_notice = \"1s\" }", &variables);
    systemd.wait_for("READY=1", 1);
    systemd.wait_for("STATUS=ready", 1);
    systemd.wait_for("WATCHDOG=1", 3);
    assert_eq!(systemd.count("STOPPING=1"), 0);
    weir.ask_to_stop();
    systemd.wait_for("STOPPING=1", 1);
    systemd.wait_for("STATUS=draining", 1);
    assert_eq!(weir.exit_code(), Some(0), "{}", weir.log());
    assert_eq!((systemd.count("READY=1"), systemd.count("STOPPING=1")), (1, 1));
}

/// Systemd restarts what is no longer fed: a weir whose disk hangs would not end by itself.
#[cfg(feature = "failpoints")]
#[test]
fn the_watchdog_of_a_weir_whose_disk_hangs_goes_hungry() {
    let mut systemd = Systemd::new();
    let path = systemd.path.clone();
    let variables = [
        ("NOTIFY_SOCKET", path.as_str()),
        ("WATCHDOG_USEC", "400000"),
        ("FAILPOINTS", "journal-sync=1*sleep(16000)->off"),
    ];
    let weir = Weir::start_with_env("shard = { count = 1 }", &variables);
    systemd.wait_for("WATCHDOG=1", 2);
    let mut caller = Caller::connect(weir.http());
    let request = caller.sign(TOPIC, b"it hangs");
    caller.begin(&request).expect("it is sent");
    systemd.wait_for("STATUS=stalled: a journal waits for its disk", 1);
    assert_eq!(caller.finish().expect("late, and true").status, 200);
    systemd.wait_for("STATUS=ready", 2);
    systemd.wait_for("WATCHDOG=1", 1);
    let from = systemd.heard.iter().position(|line| line.starts_with("STATUS=stalled"));
    let hung: Vec<_> = systemd.heard[from.expect("it was heard")..]
        .iter()
        .take_while(|line| *line != "STATUS=ready")
        .collect();
    assert_eq!(hung, ["STATUS=stalled: a journal waits for its disk"], "{:?}", systemd.heard);
}

#[test]
fn no_watchdog_is_fed_that_nobody_keeps() {
    let mut systemd = Systemd::new();
    let path = systemd.path.clone();
    let mut weir = Weir::start_with_env("", &[("NOTIFY_SOCKET", path.as_str())]);
    systemd.wait_for("READY=1", 1);
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
    assert_eq!(systemd.count("WATCHDOG=1"), 0);
}
