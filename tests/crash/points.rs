//! Death at chosen points, and a disk that fails at them.

/// `make test` is what runs this file's other tests, so it has to turn the fail points on.
#[test]
fn make_test_runs_with_the_fail_points() {
    let makefile = include_str!("../../Makefile");
    assert!(
        makefile.contains("\n\tcargo test --features failpoints --no-fail-fast\n"),
        "see `test:`"
    );
}

#[cfg(feature = "failpoints")]
mod enabled {
    use std::time::Duration;

    use crate::load::{Client, Load, Outcome};
    use crate::weir::{TOPIC, Weir, get, within};
    use crate::{Death, Dice, Lives, PAD, PATIENCE, eventually, number};

    /// A point, how often it is passed before it kills, and the bytes behind each payload.
    const POINTS: [(&str, u64, usize); 13] = [
        ("journal-before-write", 300, PAD),
        ("journal-after-write", 300, PAD),
        ("journal-after-sync", 300, PAD),
        ("shard-after-reply", 300, PAD),
        ("journal-roll", 2, 60_000),
        ("journal-spare", 3, 60_000),
        ("journal-before-trim", 0, 60_000),
        ("journal-trim", 1, 60_000),
        ("ledger-before-commit", 3, PAD),
        ("ledger-after-commit", 2, PAD),
        ("delivery-cursors", 0, PAD),
        ("devices-before-commit", 1, PAD),
        ("devices-after-commit", 1, PAD),
    ];

    #[test]
    fn death_at_every_fail_point_loses_nothing_acknowledged_and_bills_nothing_twice() {
        let seed = number("WEIR_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
        println!("WEIR_CRASH_SEED={seed}");
        let mut dice = Dice(seed);
        let mut lives = Lives::new(format!("fail points, WEIR_CRASH_SEED={seed}"));
        for (point, passes, pad) in POINTS {
            let passes = passes + dice.below(passes + 1);
            let points = format!("{point}={passes}*off->return");
            let died = lives.live(2, pad, &Death::AtPoint(points));
            assert!(died, "weir never came to {point}");
        }
        let tally = lives.judge(2);
        assert!(tally.unknown > 0, "nobody was waiting when it died: {tally:?}");
    }

    #[test]
    fn a_failed_sync_poisons_the_process_ends_with_1_and_a_restart_recovers() {
        let mut lives = Lives::new("failed sync".into());
        let mut weir = lives.start(1, "journal-sync=200*off->return");
        let load = Load::start(weir.at.http, 4, 10);
        assert_eq!(weir.ended().code(), Some(1), "{}", weir.log());
        assert!(weir.log().contains("a sync failed"), "{}", weir.log());
        let told = load.count(|outcome| *outcome == Outcome::Unknown);
        assert!(told > 0, "whoever waited for that sync is told that the outcome is unknown");
        lives.sent.extend(load.finish());
        let tally = lives.judge(1);
        assert!(tally.acknowledged > 0, "{tally:?}");
    }

    #[test]
    fn a_sync_that_hangs_turns_readyz_off_until_it_returns_and_is_logged_with_the_shard() {
        let mut lives = Lives::new("hung sync".into());
        let weir = lives.start(1, "journal-sync=1*off->1*sleep(20000)->off");
        let mut client = Client::connect(weir.at.http).expect("it listens");
        assert!(matches!(client.call(&format!("{TOPIC}/a"), b"first"), Outcome::Ok(_)));
        let at = weir.at;
        let waiting = std::thread::spawn(move || client.call(&format!("{TOPIC}/a"), b"second"));
        let status = |weir: &Weir| get(weir.at.ops, "/readyz");
        assert_eq!(status(&weir).map(|(status, _)| status), Some(200));
        let off = within(Duration::from_secs(19), || {
            status(&weir).is_some_and(|(status, text)| status == 503 && text.contains("stalled"))
        });
        assert!(off, "{:?}\n{}", status(&weir), weir.log());
        eventually("the log names the shard and the 10 s", || {
            let log = weir.log();
            (log.contains("generation 1 shard 0") && log.contains("10 s")).then_some(())
        });
        let outcome = waiting.join().expect("the client does not panic");
        assert!(matches!(outcome, Outcome::Ok(_)), "late, and true: {outcome:?}");
        let on =
            within(PATIENCE, || get(at.ops, "/readyz").is_some_and(|(status, _)| status == 200));
        assert!(on, "readiness comes back with the sync: {:?}", status(&weir));
        lives.counter = weir.billed().expect("it serves");
        assert_eq!(lives.counter, 2);
        assert_eq!(weir.terminate(), Some(0));
    }

    #[test]
    fn a_panicking_shard_is_a_poisoned_journal() {
        let mut lives = Lives::new("panic".into());
        let mut weir = lives.start(1, "journal-before-write=100*off->1*panic->off");
        let load = Load::start(weir.at.http, 4, 10);
        assert_eq!(weir.ended().code(), Some(1), "{}", weir.log());
        lives.sent.extend(load.finish());
        lives.judge(1);
    }

    #[test]
    fn a_panic_of_the_journals_keeper_poisons_instead_of_leaving_shards_to_wait() {
        let mut lives = Lives::new("keeper".into());
        let mut weir = lives.start(1, "journal-spare=3*off->1*panic->off");
        let load = Load::start(weir.at.http, 4, 60_000);
        assert_eq!(weir.ended().code(), Some(1), "{}", weir.log());
        assert!(weir.log().contains("keeper panicked"), "{}", weir.log());
        lives.sent.extend(load.finish());
        let tally = lives.judge(1);
        assert!(tally.acknowledged > 0, "{tally:?}");
    }
}
