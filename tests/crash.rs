//! The real binary on the real disk, with real clients, killed again and again. What clients were
//! told, what is billed and what a device was given must fit however it died.
//!
//! `WEIR_CRASH_CYCLES` sets how often it is killed, `WEIR_CRASH_SEED` repeats the random choices.
//! With `--features failpoints`, as `make test` has it, it also dies at chosen points.
#![expect(clippy::expect_used, reason = "a test that cannot go on has to fail")]
#![expect(clippy::print_stdout, reason = "a seed and what came of it are for people to read")]

#[path = "crash/away.rs"]
mod away;
#[path = "crash/disk_full.rs"]
mod disk_full;
#[path = "crash/inspect.rs"]
mod inspect;
#[path = "crash/load.rs"]
mod load;
#[path = "crash/points.rs"]
mod points;
#[path = "crash/subscriber.rs"]
mod subscriber;
#[path = "crash/verdict.rs"]
mod verdict;
#[path = "crash/weir.rs"]
mod weir;

use std::time::{Duration, Instant};

use load::{Load, Sent};
use subscriber::{Given, Session, Subscriber};
use tempfile::TempDir;
use verdict::{Evidence, Tally};
use weir::{Archive, INSTANCE, Weir, get};

/// How long a test waits for anything: far longer than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Kills in a run of the tests; `make soak` asks for more.
const CYCLES: u64 = 25;
const CLIENTS: usize = 8;
/// Bytes behind each payload's number: enough that segments of 8 MiB roll now and then.
const PAD: usize = 600;

#[expect(clippy::disallowed_methods, reason = "a deadline for processes outside this one")]
fn now() -> Instant {
    Instant::now()
}

/// Asks until there is an answer; a test that gets none in time fails with what it waited for.
fn eventually<T>(awaited: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(now() < deadline, "not within {PATIENCE:?}: {awaited}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable} is {text}: {error}")))
}

/// Repeatable randomness (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % bound
    }
}

/// One data directory through many lives.
struct Lives {
    folder: TempDir,
    archive: Option<Archive>,
    place: String,
    sent: Vec<Sent>,
    given: Vec<Given>,
    kept: Vec<Given>,
    said: Vec<String>,
    counter: u64,
}

/// How a life ends.
enum Death {
    /// SIGKILL, this long after it was ready.
    After(Duration),
    /// By itself, at a fail point; SIGKILL if it never gets there.
    #[cfg(feature = "failpoints")]
    AtPoint(String),
}

impl Lives {
    fn new(place: String) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archive = Archive::start(&folder.path().join("data"), folder.path().join("archive"));
        let archive = Some(archive);
        let (sent, given, kept, said) = (vec![], vec![], vec![], vec![]);
        Self { folder, archive, place, sent, given, kept, said, counter: 0 }
    }

    fn start(&self, shards: u16, points: &str) -> Weir {
        let data_dir = self.folder.path().join("data");
        let config = weir::configure(self.folder.path(), &data_dir, shards, "");
        Weir::start(weir::command(&config, points))
            .unwrap_or_else(|(status, log)| panic!("{}: {status}\n{log}", self.place))
    }

    /// I5: the counter goes on where it stood.
    fn look(&mut self, weir: &Weir) {
        if let Some(shown) = weir.billed() {
            assert!(shown >= self.counter, "{}: I5: {shown} after {}", self.place, self.counter);
            self.counter = shown;
        }
    }

    /// Serves under load until it dies; true if it died by itself.
    fn live(&mut self, shards: u16, pad: usize, death: &Death) -> bool {
        let (points, patience) = match death {
            Death::After(patience) => ("", *patience),
            #[cfg(feature = "failpoints")]
            Death::AtPoint(points) => (points.as_str(), PATIENCE),
        };
        let mut weir = self.start(shards, points);
        self.look(&weir);
        let keeper = Subscriber::start(weir.at.devices, Session::Stored);
        let subscriber = Subscriber::start(weir.at.devices, Session::Clean);
        let load = Load::start(weir.at.http, CLIENTS, pad);
        let deadline = now() + patience;
        while now() < deadline && weir.is_alive() {
            self.look(&weir);
            std::thread::sleep(Duration::from_millis(10));
        }
        let by_itself = !weir.is_alive();
        self.said.extend(weir.warnings());
        weir.kill();
        self.sent.extend(load.finish());
        self.given.push(subscriber.finish());
        self.kept.push(keeper.finish());
        by_itself
    }

    /// The last life: everything is delivered and folded, then the sets are compared.
    fn judge(mut self, shards: u16) -> Tally {
        let weir = self.start(shards, "");
        // Its session has to be as old as the first message.
        let had_session = !self.kept.is_empty();
        let keeper = had_session.then(|| Subscriber::come_back(weir.at.devices));
        let subscriber = Subscriber::start(weir.at.devices, Session::Clean);
        eventually("nothing waits any more", || {
            let left = weir.metric("weir_delivery_backlog_messages")?
                + weir.metric("weir_ledger_lag_messages")?;
            (left == 0).then_some(())
        });
        self.look(&weir);
        eventually("nothing waits for a device any more", || {
            let (_, text) = get(weir.at.ops, &format!("/devices?instance={INSTANCE}"))?;
            let page: serde_json::Value = serde_json::from_str(&text).ok()?;
            let waits = |device: &serde_json::Value| device["queued"] != 0;
            (!page["devices"].as_array()?.iter().any(waits)).then_some(())
        });
        // The last messages may be on their way to the devices.
        let mut given = usize::MAX;
        eventually("nothing comes any more", || {
            std::thread::sleep(Duration::from_millis(300));
            let now = keeper.as_ref().map_or(0, Subscriber::count);
            (std::mem::replace(&mut given, now) == now).then_some(())
        });
        self.said.extend(weir.warnings());
        self.given.push(subscriber.finish());
        self.kept.extend(keeper.map(Subscriber::finish));
        assert_eq!(weir.terminate(), Some(0), "{}: a drain", self.place);
        let journal = self.archive.take().expect("it is taken once").finish();
        let evidence = Evidence {
            journal: &journal,
            data_dir: &self.folder.path().join("data"),
            sent: &self.sent,
            given: &self.given,
            kept: &self.kept,
            said: &self.said,
            counter: self.counter,
            place: &self.place,
        };
        let tally = evidence.judge();
        println!("{}: {tally:?}", self.place);
        tally
    }
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged_and_bills_nothing_twice() {
    let cycles = number("WEIR_CRASH_CYCLES").unwrap_or(CYCLES);
    let seed = number("WEIR_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("WEIR_CRASH_SEED={seed} WEIR_CRASH_CYCLES={cycles}");
    let mut dice = Dice(seed);
    let mut lives = Lives::new(format!("WEIR_CRASH_SEED={seed}"));
    let mut shards = 2;
    for _ in 0..cycles {
        if dice.below(5) == 0 {
            shards = 1 + u16::try_from(dice.below(3)).expect("a small number");
        }
        // One life in four is long enough for cursors to be saved and segments to be trimmed.
        let millis = if dice.below(4) == 0 { 1_100 } else { 50 };
        let patience = Duration::from_millis(millis + dice.below(700));
        lives.live(shards, PAD, &Death::After(patience));
    }
    let tally = lives.judge(shards);
    assert!(tally.acknowledged > cycles * 10, "too little load to show anything: {tally:?}");
    assert!(tally.delivered > 0, "the device saw nothing: {tally:?}");
}
