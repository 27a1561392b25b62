//! The ledger's file: folds into it, hours closed in it, and what tampering with it does.

mod closing;
mod reading;
mod tampering;

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::clock::UnixMillis;
use crate::journal::{Sequence, StreamId};
use crate::message::InstanceId;

const STREAM: StreamId = StreamId { generation: 1, shard: 0 };
const OTHER: StreamId = StreamId { generation: 1, shard: 1 };
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

fn instance(id: &str) -> InstanceId {
    InstanceId::parse(id).unwrap()
}

fn fold(stream: StreamId, from: u64, entries: &[(&str, u64)]) -> Fold {
    let mut fold = Fold::default();
    for (sequence, (id, at)) in (from..).zip(entries) {
        fold.add(stream, Sequence(sequence), &instance(id), UnixMillis(*at));
    }
    fold
}

/// A ledger in a folder of its own.
struct Rig {
    folder: TempDir,
    ledger: Ledger,
    next: u64,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join(FILE)).unwrap();
        Self { folder, ledger, next: 1 }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    fn reader(&self) -> Reader {
        Reader::new(self.folder.path())
    }

    fn commit(&mut self, now: u64, entries: &[(&str, u64)]) -> Booked {
        let fold = fold(STREAM, self.next, entries);
        self.next += entries.len() as u64;
        self.ledger.commit(&fold, UnixMillis(now)).unwrap()
    }

    fn close(&mut self, until: u64) -> u64 {
        let mut hours = 0;
        while self.ledger.close_one(UnixMillis(until)).unwrap() {
            hours += 1;
        }
        hours
    }

    fn purge(&mut self, before: u64) -> Purged {
        let mut all = Purged::default();
        loop {
            let some = self.ledger.purge_some(UnixMillis(before)).unwrap();
            if some.hours == 0 {
                return all;
            }
            all.rows += some.rows;
            all.hours += some.hours;
        }
    }

    fn by(&self, by: &str) -> Vec<(String, u64, u64, u64)> {
        self.usage(None, None, by)
    }

    fn usage(
        &self,
        from: Option<&str>,
        to: Option<&str>,
        by: &str,
    ) -> Vec<(String, u64, u64, u64)> {
        let query = Query::parse(from, to, Some(by), None).unwrap();
        let usage = self.reader().usage(&query).unwrap();
        let plain = |row: Row| (row.instance.to_string(), row.start, row.count, row.peak);
        usage.rows.into_iter().map(plain).collect()
    }
}

fn rows(path: &Path) -> Vec<(String, u64, u64, u64)> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection
        .prepare("SELECT instance, minute, count, peak FROM usage ORDER BY 1, 2")
        .unwrap();
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn rows_totals_and_watermarks_are_there_after_a_reopen() {
    let mut rig = Rig::new();
    assert_eq!(rig.ledger.watermark(STREAM).unwrap(), Sequence::FIRST);
    rig.commit(0, &[("a", 0), ("a", 999), ("a", 1_000), ("b", 61_000)]);
    let ledger = Ledger::open(&rig.path()).unwrap();
    assert_eq!(ledger.watermark(STREAM).unwrap(), Sequence(5));
    assert_eq!(ledger.watermark(OTHER).unwrap(), Sequence::FIRST);
    let mut totals = ledger.totals().unwrap();
    totals.sort();
    assert_eq!(totals, [(instance("a"), 3), (instance("b"), 1)]);
    assert_eq!(rows(&rig.path()), [("a".into(), 0, 3, 2), ("b".into(), 1, 1, 1)]);
}

#[test]
fn the_peak_of_a_second_adds_up_over_shards_and_commits() {
    let mut rig = Rig::new();
    rig.commit(0, &[("a", 5_000), ("a", 5_100)]);
    let other = fold(OTHER, 1, &[("a", 5_200), ("a", 5_300), ("a", 6_000)]);
    rig.ledger.commit(&other, UnixMillis(0)).unwrap();
    assert_eq!(rows(&rig.path()), [("a".into(), 0, 5, 4)]);
}

#[test]
fn a_file_that_is_no_ledger_or_of_another_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.sqlite");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA application_id = 1; CREATE TABLE x (y)").unwrap();
    let refused = Ledger::open(&path).err().unwrap().to_string();
    assert!(refused.contains("other.sqlite") && refused.contains("not a weir ledger"), "{refused}");

    let path = folder.path().join("newer.sqlite");
    drop(Ledger::open(&path).unwrap());
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("PRAGMA user_version = 99").unwrap();
    let refused = Ledger::open(&path).err().unwrap().to_string();
    assert!(refused.contains("it has format 99"), "{refused}");

    let missing = Reader::new(&folder.path().join("nowhere")).verify().unwrap_err().to_string();
    assert!(missing.contains("there is none"), "{missing}");
}

#[test]
fn nothing_is_billed_on_a_watermark_that_is_not_as_it_was_written() {
    let mut rig = Rig::new();
    rig.commit(0, &[("a", 0)]);
    let connection = Connection::open(rig.path()).unwrap();
    connection.execute("UPDATE watermark SET next = 1", []).unwrap();
    let refused = rig.ledger.watermark(STREAM).unwrap_err().to_string();
    assert!(refused.contains("the watermark of generation 1 shard 0"), "{refused}");
    connection.execute("UPDATE closed SET before = 7", []).unwrap();
    assert!(matches!(Ledger::open(&rig.path()), Err(LedgerError::Damaged { .. })));
}

/// A ledger with closed hours of two instances, an adjustment in one of them, and open rows.
fn used() -> Rig {
    let mut rig = Rig::new();
    rig.commit(0, &[("a", 10), ("a", 20), ("a", MINUTE), ("b", 5), ("a", HOUR + 1)]);
    rig.close(HOUR);
    rig.commit(HOUR, &[("a", 30), ("b", HOUR + MINUTE)]);
    rig.close(2 * HOUR);
    let late = [("b", 7), ("a", 2 * HOUR), ("a", 2 * HOUR + MINUTE), ("b", 2 * HOUR)];
    assert_eq!(rig.commit(2 * HOUR, &late).late, 1);
    rig
}

#[test]
fn a_month_of_a_hundred_instances_is_read_from_its_closed_hours() {
    // 72,000 closed hours; the minute rows are left out, as no hour asks for them.
    let rig = Rig::new();
    let connection = Connection::open(rig.path()).unwrap();
    connection
        .execute_batch(
            "WITH RECURSIVE i(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM i WHERE i < 199),
                            h(h) AS (SELECT 0 UNION ALL SELECT h + 1 FROM h WHERE h < 719)
             INSERT INTO chunk SELECT 'post-cn-' || i, h, 60, 2, 0, zeroblob(32), zeroblob(32),
                                      zeroblob(32), 0 FROM i, h;
             INSERT INTO total SELECT DISTINCT instance, 43200, 720, zeroblob(32), 0 FROM chunk;",
        )
        .unwrap();
    connection.execute("UPDATE closed SET before = 720, sum = ?", [seal::closed_sum(720)]).unwrap();
    let days = rig.by("day");
    assert_eq!(days.len(), 100 * 30);
    assert_eq!(days.iter().map(|row| row.2).sum::<u64>(), 100 * 720 * 60);
    assert_eq!(rig.by("month").len(), 100);
}
