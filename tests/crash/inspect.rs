//! `weir journal inspect` beside a weir that runs, one that is dead, and a damaged file.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::load::{Client, Outcome};
use crate::weir::{TOPIC, Weir, command, configure, segments};

fn inspect(config: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("--config").arg(config).args(["journal", "inspect"]).args(arguments);
    command.output().expect("it runs")
}

fn json(config: &Path, arguments: &[&str]) -> Value {
    let output = inspect(config, &[&["--format", "json"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

fn snapshot(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = segments(&folder.join("data/journal"));
    files.push(folder.join("data/delivery.cursors"));
    files.sort();
    files.into_iter().filter_map(|path| Some((path.clone(), fs::read(path).ok()?))).collect()
}

#[test]
fn an_inspection_finds_every_message_beside_a_running_and_a_dead_weir_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data_dir = folder.path().join("data");
    let config = configure(folder.path(), &data_dir, 1, "");
    let weir = Weir::start(command(&config, "")).unwrap_or_else(|(status, log)| {
        panic!("{status}\n{log}");
    });
    let mut client = Client::connect(weir.at.http).expect("it listens");
    let mut send = |payload: &[u8]| match client.call(&format!("{TOPIC}/a"), payload) {
        Outcome::Ok(msg_id) => msg_id,
        other => panic!("{other:?}"),
    };
    let (first, last) = (send(b"the first"), send(b"the last"));
    for look in ["running", "dead"] {
        let stream = &json(&config, &[])["streams"][0];
        assert_eq!((&stream["generation"], &stream["next"]), (&1.into(), &3.into()), "{look}");
        assert_eq!(stream["segments"][0]["last"], 2, "{look}: {stream}");
        assert!(stream["folded"].as_u64() <= Some(3), "{look}");
        let found = json(&config, &["--message", &last]);
        assert_eq!((&found["sequence"], &found["payload"]), (&2.into(), &Value::Null), "{look}");
        let found = json(&config, &["--message", &first, "--payload"]);
        assert_eq!(found["payload"], STANDARD.encode("the first"), "{look}");
        let table = inspect(&config, &[]);
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        assert!(text.contains("generation 1 shard 0: next 3"), "{look}: {text}");
        assert!(text.contains("1-2") && text.contains("dead letters: 0"), "{look}: {text}");
        if look == "running" {
            strike(&weir);
        }
    }
    weir.kill();
    let before = snapshot(folder.path());
    json(&config, &[]);
    assert!(before == snapshot(folder.path()), "an inspection changed a file");
    damage(&config, &data_dir);
}

/// A kill that leaves the handle: the loop above looks once more.
fn strike(weir: &Weir) {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = i32::try_from(weir.pid()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it runs");
}

/// The exit code is 1, and the file and the offset are named.
fn damage(config: &Path, data_dir: &Path) {
    let files = segments(&data_dir.join("journal"));
    let used = files.iter().find(|file| file.ends_with("0000000001.seg")).expect("the first");
    let file = fs::OpenOptions::new().read(true).write(true).open(used).expect("it opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).expect("it is long enough");
    file.write_all_at(&[byte[0] ^ 1], 100).expect("it can be written");
    let output = inspect(config, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("damaged at byte 40"), "{text}");
    let nobody = inspect(config, &["--message", &"0".repeat(32)]);
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nobody.stderr);
    assert!(said.contains("never acknowledged"), "{said}");
}
