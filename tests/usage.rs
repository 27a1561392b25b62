//! Usage through the real binary: beside a running weir, on its ops port, and after it was killed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has to fail")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// The ledger follows within a quarter of a second on an idle machine.
const LOOKS_MAX: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(50);
const INSTANCE: &str = "post-cn-usage00001";

struct Rig {
    folder: TempDir,
}

/// A weir that is killed, not stopped, when it is dropped.
struct Weir {
    child: Child,
    http: String,
    ops: String,
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("weir-data");
        let text = format!(
            "data_dir = {data_dir:?}\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
             [delivery.embedded]\nlisten = \"127.0.0.1:0\"\n[shard]\ncount = 2\n\
             [journal]\nsegment_bytes = \"8 MiB\"\n\
             [[accounts]]\nid = \"1\"\n[[accounts.access_keys]]\nid = \"LTAIusage\"\n\
             secret_env = \"WEIR_TEST_SECRET\"\n\
             [[instances]]\nid = \"{INSTANCE}\"\naccount = \"1\"\ntopics = [\"TopicA\"]\n"
        );
        fs::write(folder.path().join("weir.toml"), text).unwrap();
        Self { folder }
    }

    fn ledger(&self) -> PathBuf {
        self.folder.path().join("weir-data/ledger.sqlite")
    }

    fn weir(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("--config").arg(self.folder.path().join("weir.toml"));
        command.stdin(Stdio::null());
        command
    }

    fn start(&self) -> Weir {
        let mut command = self.weir();
        command.env("WEIR_TEST_SECRET", "hush").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines
            .by_ref()
            .map(|line| line.unwrap())
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .find(|line| line["http"].is_string())
            .unwrap();
        // Whoever does not read a pipe stops its writer.
        std::thread::spawn(move || lines.for_each(drop));
        let address = |name: &str| ready[name].as_str().unwrap().to_owned();
        Weir { http: address("http"), ops: address("ops"), child }
    }

    fn send(&self, weir: &Weir, count: u64) {
        let mut command = self.weir();
        command.args(["send", "hello", "--count", &count.to_string(), "--topic", "TopicA"]);
        command.args(["--instance", INSTANCE, "--rate", "500"]);
        command.env("WEIR_ENDPOINT", format!("http://{}", weir.http));
        command.env("ALIBABA_CLOUD_ACCESS_KEY_ID", "LTAIusage");
        command.env("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "hush");
        let sent = command.output().unwrap();
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    }

    fn usage(&self, arguments: &[&str]) -> Output {
        self.weir().arg("usage").args(arguments).output().unwrap()
    }

    /// What `weir usage --format json` adds up to.
    fn counted(&self) -> u64 {
        let said = self.usage(&["--format", "json", "--by", "minute"]);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        total(&said.stdout)
    }
}

fn total(json: &[u8]) -> u64 {
    let rows: Vec<Value> = serde_json::from_slice(json).unwrap();
    let of_us = |row: &Value| row["instance_id"] == INSTANCE && row["peak_1s"].as_u64() > Some(0);
    assert!(rows.iter().all(of_us), "{rows:?}");
    rows.iter().map(|row| row["count"].as_u64().unwrap()).sum()
}

/// Status, head and body of a GET.
fn get(address: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

fn counter(weir: &Weir) -> u64 {
    let (_, _, metrics) = get(&weir.ops, "/metrics");
    let name = format!("weir_billable_messages_total{{instance_id=\"{INSTANCE}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
    line.parse().unwrap()
}

fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn what_was_answered_is_shown_running_on_the_ops_port_and_after_a_kill() {
    let rig = Rig::new();
    let mut weir = rig.start();
    let mut sent = 0;
    for count in [1, 60, 139] {
        rig.send(&weir, count);
        sent += count;
        // At once: what the ledger does not hold yet is read from the journal.
        assert_eq!(rig.counted(), sent);
        let (status, head, body) = get(&weir.ops, "/usage?by=hour");
        assert_eq!((status, total(body.as_bytes())), (200, sent));
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(head.contains("x-weir-ledger-lag-messages: "), "{head}");
        assert_eq!(counter(&weir), sent);
    }
    let (status, _, body) = get(&weir.ops, "/usage?by=week");
    assert_eq!(
        (status, body.as_str()),
        (400, "by is \"week\": it is minute, hour, day or month\n")
    );
    assert_eq!(said(&rig.usage(&["verify"])).0, 0);

    rig.send(&weir, 50);
    weir.child.kill().unwrap();
    weir.child.wait().unwrap();
    sent += 50;
    assert_eq!(rig.counted(), sent);
    let (code, table) = said(&rig.usage(&["--by", "month"]));
    assert_eq!(code, 0);
    let total = table.lines().find(|line| line.starts_with("total")).unwrap();
    assert_eq!(total.split_whitespace().nth(1), Some(sent.to_string().as_str()), "{table}");

    let weir = rig.start();
    assert_eq!((rig.counted(), counter(&weir)), (sent, sent));
    assert_eq!(said(&rig.usage(&["verify"])).0, 0);
    // The hour is open: there is nothing to export yet.
    let (code, _) = said(&rig.usage(&["export"]));
    assert_eq!(code, 0);
}

#[test]
fn a_flipped_byte_of_the_ledger_fails_its_verification() {
    let rig = Rig::new();
    let weir = rig.start();
    rig.send(&weir, 20);
    let level = || get(&weir.ops, "/usage").1.contains("x-weir-ledger-lag-messages: 0");
    let looks = (0..LOOKS_MAX).take_while(|_| !level());
    assert!(looks.inspect(|_| std::thread::sleep(LOOK_EVERY)).count() < LOOKS_MAX);
    drop(weir);
    // What the write-ahead log holds goes to the file, and rows with it.
    let ledger = rusqlite::Connection::open(rig.ledger()).unwrap();
    ledger.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
    drop(ledger);
    let (code, text) = said(&rig.usage(&["verify"]));
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("good: 20 messages of 1 instances"), "{text}");
    let good = fs::read(rig.ledger()).unwrap();
    let places: Vec<usize> = (0..good.len() - INSTANCE.len())
        .filter(|at| good[*at..].starts_with(INSTANCE.as_bytes()))
        .collect();
    assert!(places.len() >= 3, "{places:?}");
    for place in places {
        // A letter of the instance, and the number behind it.
        for at in [place + 3, place + INSTANCE.len() + 4] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(rig.ledger(), bad).unwrap();
            let (code, text) = said(&rig.usage(&["verify"]));
            assert_eq!(code, 1, "byte {at}: {text}");
            assert!(text.starts_with("weir: "), "{text}");
        }
    }
    fs::write(rig.ledger(), good).unwrap();
    assert_eq!(said(&rig.usage(&["verify"])).0, 0);
}

#[test]
fn a_question_that_is_none_exits_with_2_and_a_ledger_that_is_not_there_with_1() {
    let rig = Rig::new();
    let (code, text) = said(&rig.usage(&["--from", "yesterday"]));
    assert_eq!(code, 2);
    assert!(text.starts_with("weir: --from is \"yesterday\": write a date like"), "{text}");
    assert_eq!(said(&rig.usage(&["--by", "week"])).0, 2);
    assert_eq!(said(&rig.usage(&["--from", "2026-11-02", "--to", "2026-11-01"])).0, 2);
    assert_eq!(said(&rig.usage(&["export", "--instance", "a/b"])).0, 2);
    let (code, text) = said(&rig.usage(&[]));
    assert_eq!(code, 1);
    assert!(text.contains("there is none; has weir run with this data_dir?"), "{text}");
    fs::write(rig.folder.path().join("weir.toml"), "data_dirs = 1\n").unwrap();
    assert_eq!(said(&rig.usage(&[])).0, 78);
}
