//! The ledger's file, and folds into it.

use std::path::Path;

use super::*;
use crate::clock::UnixMillis;
use crate::journal::{Sequence, StreamId};
use crate::message::InstanceId;

const STREAM: StreamId = StreamId { generation: 1, shard: 0 };
const OTHER: StreamId = StreamId { generation: 1, shard: 1 };

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

fn rows(path: &Path) -> Vec<(String, u64, u64, u64)> {
    let connection = rusqlite::Connection::open(path).unwrap();
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
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let mut ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.watermark(STREAM).unwrap(), Sequence::FIRST);
    ledger.commit(&fold(STREAM, 1, &[("a", 0), ("a", 999), ("a", 1_000), ("b", 61_000)])).unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.watermark(STREAM).unwrap(), Sequence(5));
    assert_eq!(ledger.watermark(OTHER).unwrap(), Sequence::FIRST);
    let mut totals = ledger.totals().unwrap();
    totals.sort();
    assert_eq!(totals, [(instance("a"), 3), (instance("b"), 1)]);
    assert_eq!(rows(&path), [("a".into(), 0, 3, 2), ("b".into(), 1, 1, 1)]);
}

#[test]
fn the_peak_of_a_second_adds_up_over_shards_and_commits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let mut ledger = Ledger::open(&path).unwrap();
    ledger.commit(&fold(STREAM, 1, &[("a", 5_000), ("a", 5_100)])).unwrap();
    ledger.commit(&fold(OTHER, 1, &[("a", 5_200), ("a", 5_300), ("a", 6_000)])).unwrap();
    assert_eq!(rows(&path), [("a".into(), 0, 5, 4)]);
}

#[test]
fn a_file_that_is_no_ledger_or_of_another_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.sqlite");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA application_id = 1; CREATE TABLE x (y)").unwrap();
    let refused = Ledger::open(&path).err().unwrap().to_string();
    assert!(refused.contains("other.sqlite") && refused.contains("not a weir ledger"), "{refused}");

    let path = folder.path().join("newer.sqlite");
    drop(Ledger::open(&path).unwrap());
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.execute_batch("PRAGMA user_version = 99").unwrap();
    let refused = Ledger::open(&path).err().unwrap().to_string();
    assert!(refused.contains("it has format 99"), "{refused}");
}
