use std::sync::Arc;

use bytes::Bytes;

use super::clerk::FOLD_MESSAGES_MAX;
use super::*;
use crate::admission::{Admitted, NonceMark};
use crate::clock::ManualClock;
use crate::journal::{Config as JournalConfig, Disk, Environment, Journal, Opened, system_salts};
use crate::message::{Message, MessageId, Payload, Topic};
use crate::metering::{Billing, JournalMetrics, LedgerMetrics, Registry};

const START: u64 = 1_795_392_000_000; // 2026-11-23T00:00:00Z

#[test]
fn every_length_of_a_row_adds_up_to_the_same_messages_and_peak() {
    let mut rig = Rig::new();
    let days = |days: u64| days * 24 * HOUR;
    // The ends of a month, and of a leap February.
    let moments = [0, days(31) - 1, days(31), days(59) - 1, days(59), days(789), days(790)];
    let entries: Vec<_> = moments.iter().flat_map(|at| [("a", *at), ("b", *at)]).collect();
    rig.commit(0, &entries);
    for closed in [false, true] {
        if closed {
            rig.close(days(800));
            rig.reader().verify().unwrap();
        }
        for by in ["minute", "hour", "day", "month"] {
            let rows = rig.by(by);
            assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), 14, "{by}");
            assert_eq!(rows.iter().map(|row| row.3).max(), Some(1), "{by}");
        }
        let months: Vec<_> = rig.by("month").iter().map(|row| (row.1 / 1_440, row.2)).collect();
        let of_one = [(0, 2), (31, 2), (59, 1), (789 - 28, 1), (790, 1)];
        assert_eq!(months, [of_one, of_one].concat());
    }
}

#[test]
fn a_span_cuts_closed_hours_by_the_minute() {
    let mut rig = Rig::new();
    let entries: Vec<_> = (0..240).map(|minute| ("a", minute * MINUTE)).collect();
    rig.commit(0, &entries);
    rig.close(3 * HOUR);
    let from = Some("1970-01-01T00:50:00Z");
    let to = Some("1970-01-01T03:10:00Z");
    let hours: Vec<_> = rig.usage(from, to, "hour").iter().map(|row| (row.1, row.2)).collect();
    assert_eq!(hours, [(0, 10), (60, 60), (120, 60), (180, 10)]);
    let within = rig.usage(from, Some("1970-01-01T00:55:00Z"), "hour");
    assert_eq!(within, [("a".into(), 0, 5, 1)]);
    assert_eq!(rig.usage(from, to, "minute").len(), 140);
    let query = Query::parse(None, None, None, Some("nobody")).unwrap();
    assert_eq!(rig.reader().usage(&query).unwrap().rows, []);
}

struct Journaled {
    folder: TempDir,
    clock: ManualClock,
    opened: Opened,
    nonce: u64,
}

impl Journaled {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(UnixMillis(START));
        let environment = Environment {
            storage: Arc::new(Disk),
            clock: Arc::new(clock.clone()),
            metrics: JournalMetrics::new(&Registry::new()).unwrap(),
            salts: system_salts(),
        };
        let config = JournalConfig {
            segment_bytes: 8 << 20,
            ..JournalConfig::new(folder.path().join("journal"), 2)
        };
        let opened = Journal::open(&config, &environment, &mut Nobody).unwrap();
        Self { folder, clock, opened, nonce: 0 }
    }

    fn append(&mut self, shard: usize, id: &str, at: &[u64]) {
        let batch = at.iter().map(|at| {
            self.nonce += 1;
            let message = Message {
                id: MessageId::from_u128(u128::from(self.nonce)),
                instance: instance(id),
                topic: Topic::parse("TopicA").unwrap(),
                payload: Payload::new(Bytes::from_static(b"hello")).unwrap(),
                admitted_at: UnixMillis(*at),
            };
            let expires_at = UnixMillis(u64::MAX);
            let mark = NonceMark { access_key: 1, fingerprint: self.nonce, expires_at };
            Admitted::untested(message, mark)
        });
        let batch = batch.collect();
        let batch = self.opened.writers[shard].append(batch).unwrap();
        self.opened.writers[shard].hand_on(&batch);
    }

    fn clerk(&self) -> Clerk {
        self.clerk_showing(&Registry::new())
    }

    fn clerk_showing(&self, registry: &Registry) -> Clerk {
        let ledger = Ledger::open(&self.folder.path().join(FILE)).unwrap();
        let billing = Billing::new(registry, &[instance("a"), instance("b")]).unwrap();
        let metrics = LedgerMetrics::new(registry, &billing).unwrap();
        let config = Config { minutes_kept: MINUTES_KEPT };
        let streams = self.opened.journal.streams();
        Clerk::new(ledger, streams, config, Arc::new(self.clock.clone()), metrics).unwrap()
    }

    fn usage(&self, by: &str) -> (Vec<(u64, u64, u64)>, u64) {
        let query = Query::parse(None, None, Some(by), None).unwrap();
        let usage = Reader::new(self.folder.path()).usage(&query).unwrap();
        let rows = usage.rows.iter().map(|row| (row.start, row.count, row.peak)).collect();
        (rows, usage.behind)
    }
}

struct Nobody;

impl crate::journal::Visitor for Nobody {
    fn record(&mut self, _: StreamId, _: Sequence, _: &Message, _: NonceMark) {}
    fn nonce(&mut self, _: NonceMark) {}
    fn positions(&mut self, _: crate::journal::StreamId) -> Vec<crate::journal::Position> {
        Vec::new()
    }
    fn progress(&mut self, _: u64, _: u64) {}
}

#[test]
fn the_tail_of_the_journal_is_counted_and_said_to_be_behind() {
    let mut rig = Journaled::new();
    let mut clerk = rig.clerk();
    rig.append(0, "a", &[START, START + 10]);
    let minute = START / MINUTE;
    assert_eq!(rig.usage("minute"), (vec![(minute, 2, 2)], 2), "nothing is folded yet");
    clerk.step();
    assert_eq!(rig.usage("minute"), (vec![(minute, 2, 2)], 0));
    rig.append(1, "a", &[START + 20, START + MINUTE]);
    rig.append(0, "a", &[START + 30]);
    // Two are in the ledger, two more of that second are in the journals of both shards.
    assert_eq!(rig.usage("minute"), (vec![(minute, 4, 4), (minute + 1, 1, 1)], 3));
    clerk.step();
    assert_eq!(rig.usage("minute"), (vec![(minute, 4, 4), (minute + 1, 1, 1)], 0));
    assert_eq!(rig.usage("month").0[0].1, 5);
}

#[test]
fn the_total_a_scrape_sees_is_the_ledgers_own_and_outlives_a_restart() {
    let total = |registry: &Registry, id: &str| {
        let text = String::from_utf8(registry.expose().unwrap()).unwrap();
        let series = format!("weir_ledger_messages_total{{instance_id=\"{id}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok())
    };
    let mut rig = Journaled::new();
    let registry = Registry::new();
    let mut clerk = rig.clerk_showing(&registry);
    rig.append(0, "a", &[START, START + 1]);
    assert_eq!(total(&registry, "a"), Some(0), "nothing is folded yet");
    clerk.step();
    assert_eq!((total(&registry, "a"), total(&registry, "b")), (Some(2), Some(0)));
    let connection = rusqlite::Connection::open(rig.folder.path().join(FILE)).unwrap();
    connection.execute("UPDATE total SET count = count + 5 WHERE instance = 'a'", []).unwrap();
    rig.append(1, "a", &[START + 2]);
    clerk.step();
    assert_eq!(total(&registry, "a"), Some(8), "what was written into the ledger shows");
    drop(clerk);
    let registry = Registry::new();
    let _clerk = rig.clerk_showing(&registry);
    assert_eq!(total(&registry, "a"), Some(8));
}

#[test]
fn an_idle_hour_closes_five_minutes_after_its_end() {
    let mut rig = Journaled::new();
    let mut clerk = rig.clerk();
    let verified = |rig: &Journaled| Reader::new(rig.folder.path()).verify().unwrap().chunks;
    rig.append(0, "a", &[START]);
    clerk.step();
    rig.clock.advance(std::time::Duration::from_millis(HOUR + 5 * MINUTE - 1));
    clerk.step();
    assert_eq!(verified(&rig), 0);
    rig.clock.advance(std::time::Duration::from_millis(1));
    clerk.step();
    assert_eq!(verified(&rig), 1);
}

#[test]
fn no_hour_closes_while_a_stream_still_has_messages_of_it() {
    let batch = [START; 4_096];
    let mut rig = Journaled::new();
    let mut clerk = rig.clerk();
    for _ in 0..FOLD_MESSAGES_MAX / batch.len() as u64 {
        rig.append(0, "a", &batch);
    }
    rig.append(1, "a", &[START + 1]);
    rig.clock.advance(std::time::Duration::from_millis(24 * HOUR));
    let chunks = || Reader::new(rig.folder.path()).verify().unwrap().chunks;
    // The first step is full before it comes to the second stream.
    clerk.step();
    assert_eq!(rig.usage("hour").1, 1);
    assert_eq!(chunks(), 0);
    clerk.step();
    assert_eq!(chunks(), 1);
    let all = FOLD_MESSAGES_MAX + 1;
    assert_eq!(rig.usage("hour"), (vec![(START / MINUTE, all, all)], 0));
}
