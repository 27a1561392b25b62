//! A disk that is really full: a small tmpfs, mounted in a namespace of its own, so that no root is
//! needed and nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::PATIENCE;
use crate::load::{Client, Load, Outcome, Sent};
use crate::subscriber::{Session, Subscriber};
use crate::verdict::ledger_total;
use crate::weir::{TOPIC, Weir, configure, within};

const DISK: &str = "96m";
/// A weir that runs has about this much in memory; what it may gain while the disk is full.
const GROWTH_KIB_MAX: u64 = 48 * 1024;
/// From space coming back to the first acknowledgement.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);

/// Starts weir with its data directory on a tmpfs, and copies that out when it ends.
fn start(folder: &Path) -> Weir {
    let (disk, copy) = (folder.join("disk"), folder.join("copy"));
    fs::create_dir(&disk).expect("a folder");
    let config = configure(folder, &disk.join("data"), 1, "");
    let script = "mount -t tmpfs -o size=$1 tmpfs \"$2\" && \"$3\" --config \"$4\"; code=$?; \
                  cp -r \"$2/data\" \"$5\"; exit $code";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", DISK]);
    command.args([&disk, Path::new(env!("CARGO_BIN_EXE_weir")), &config, &copy]);
    command.env_remove("RUST_LOG").env_remove("FAILPOINTS");
    Weir::start(command).unwrap_or_else(|(status, log)| {
        panic!(
            "{status} (signal {:?}): `unshare --user --map-root-user --mount` has to be allowed to \
             mount a tmpfs (sysctl kernel.unprivileged_userns_clone=1, or run the tests as root)\n\
             {log}",
            status.signal()
        )
    })
}

/// The shell's child is the weir.
fn weir_pid(shell: &Weir) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", shell.pid());
    let text = fs::read_to_string(children).expect("the shell has children");
    text.split_whitespace().next().expect("weir is one").parse().expect("a pid")
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("weir runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Free space that is too little for a segment and what weir leaves free beside it.
const TOO_LITTLE_BYTES: u64 = 12 * 1024 * 1024;
/// Calls of 60 kB: several segments of them.
const PROBES: usize = 400;

/// Takes space until no more than this is free.
fn fill(ballast: &Path, leave_bytes: u64) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(ballast).expect("a file");
    let chunk = [1; 64 * 1024];
    let free = || {
        let disk = rustix::fs::statvfs(ballast).expect("the ballast is there");
        disk.f_bavail * disk.f_frsize
    };
    while free() > leave_bytes && file.write_all(&chunk).is_ok() {}
}

#[test]
fn a_full_disk_loses_nothing_keeps_memory_flat_and_serves_again_within_5_seconds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weir = start(folder.path());
    let pid = weir_pid(&weir);
    let disk = PathBuf::from(format!("/proc/{pid}/root"))
        .join(folder.path().join("disk").strip_prefix("/").expect("it is absolute"));
    let subscriber = Subscriber::start(weir.at.devices, Session::Clean);
    let load = Load::start(weir.at.http, 4, 8_000);
    let refused = |outcome: &Outcome| *outcome == Outcome::Fail("SendMessageFailed".into());
    let ok = |outcome: &Outcome| matches!(outcome, Outcome::Ok(_));
    assert!(within(PATIENCE, || load.count(ok) > 100), "it serves\n{}", weir.log());
    fill(&disk.join("ballast"), 0);
    let full = within(PATIENCE, || load.count(refused) > 0);
    assert!(full, "SendMessageFailed once its segments are used up\n{}", weir.log());
    let (before, at_first) = (resident_kib(pid), load.count(refused));
    std::thread::sleep(Duration::from_secs(3));
    let answered = within(PATIENCE, || load.count(refused) > at_first + 100);
    assert!(answered, "calls are answered while the disk is full\n{}", weir.log());
    let grown = resident_kib(pid).saturating_sub(before);
    assert!(grown < GROWTH_KIB_MAX, "memory grew by {grown} KiB");
    let lag = within(PATIENCE, || weir.metric("weir_ledger_lag_messages") == Some(0));
    assert!(lag, "the reserve lets the ledger finish\n{}", weir.log());
    fs::remove_file(disk.join("ballast")).expect("it is there");
    let served = load.count(ok);
    let resumed = within(RESUMES_WITHIN, || load.count(ok) > served);
    assert!(resumed, "acknowledges again\n{}", weir.log());
    let mut sent = load.finish();
    send_while_space_is_short(&weir, &disk.join("ballast"), &mut sent);
    let settled = within(PATIENCE, || {
        weir.metric("weir_delivery_backlog_messages") == Some(0)
            && weir.metric("weir_ledger_lag_messages") == Some(0)
    });
    assert!(settled, "delivery and ledger finish on a full disk\n{}", weir.log());
    std::thread::sleep(Duration::from_millis(200));
    judge(folder.path(), weir, pid, subscriber, &sent);
}

/// Sends with too little space for one more segment. A trim may make room for the next one at once,
/// so that a call is refused or served as the disk turns out; what it was told has to hold.
fn send_while_space_is_short(weir: &Weir, ballast: &Path, sent: &mut Vec<Sent>) {
    let mut client = Client::connect(weir.at.http).expect("it listens");
    for number in 0..PROBES {
        fill(ballast, TOO_LITTLE_BYTES);
        let payload = format!("probe {number} {:.<60000}", "");
        let outcome = client.call(&format!("{TOPIC}/probe"), payload.as_bytes());
        assert_ne!(outcome, Outcome::Unknown, "probe {number}\n{}", weir.log());
        sent.push(Sent { payload, outcome });
    }
    fill(ballast, TOO_LITTLE_BYTES);
}

/// The drain finishes on the full disk; then everything is compared. Trimmed segments are gone, but
/// the device was there all the time.
fn judge(folder: &Path, mut weir: Weir, pid: u32, subscriber: Subscriber, sent: &[Sent]) {
    let counter = weir.billed().expect("it serves");
    let given: BTreeSet<_> = subscriber.finish().into_iter().map(|(_, payload)| payload).collect();
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(weir.ended().code(), Some(0), "a drain on a full disk\n{}", weir.log());
    let acknowledged = sent.iter().filter(|sent| matches!(sent.outcome, Outcome::Ok(_)));
    let acknowledged: BTreeSet<_> = acknowledged.map(|sent| sent.payload.clone()).collect();
    assert_eq!(given.len(), acknowledged.len(), "delivered and acknowledged");
    assert!(given == acknowledged, "what was acknowledged is delivered, and nothing else");
    assert_eq!(counter, acknowledged.len() as u64, "the billing counter");
    assert_eq!(ledger_total(&folder.join("copy")), counter, "the ledger's total");
}
