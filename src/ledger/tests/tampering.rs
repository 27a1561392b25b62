use rusqlite::types::Value;

use super::*;

fn fault(rig: &Rig) -> String {
    match rig.reader().verify() {
        Ok(found) => panic!("good: {found:?}"),
        Err(error) => error.to_string(),
    }
}

/// Every value that differs from this one in one byte.
fn flipped(value: &Value) -> Vec<Value> {
    match value {
        Value::Integer(number) => {
            (0..8).map(|byte| Value::Integer(number ^ (0x11 << (byte * 8)))).collect()
        }
        Value::Text(text) => (0..text.len())
            .map(|at| {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                Value::Text(String::from_utf8(bytes).unwrap())
            })
            .collect(),
        Value::Blob(bytes) => (0..bytes.len())
            .map(|at| {
                let mut bytes = bytes.clone();
                bytes[at] ^= 0x40;
                Value::Blob(bytes)
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn texts(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// Every row of a table, as its values.
fn values(connection: &Connection, table: &str, columns: usize) -> Vec<Vec<Value>> {
    let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|at| row.get(at)).collect();
    statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn every_byte_of_every_value_of_every_row_is_watched() {
    let rig = used();
    rig.reader().verify().unwrap();
    let connection = Connection::open(rig.path()).unwrap();
    let mut tried = 0;
    let tables = texts(&connection, "SELECT name FROM sqlite_schema WHERE type = 'table'");
    assert_eq!(tables.len(), 7);
    for table in tables {
        let columns = texts(&connection, &format!("SELECT name FROM pragma_table_info('{table}')"));
        let same: Vec<_> = columns.iter().map(|column| format!("{column} = ?")).collect();
        let same = same.join(" AND ");
        let rows = values(&connection, &table, columns.len());
        assert!(!rows.is_empty(), "{table}");
        for row in rows {
            for (at, column) in columns.iter().enumerate() {
                for wrong in flipped(&row[at]) {
                    let change = format!("UPDATE {table} SET {column} = ? WHERE {same}");
                    let with = |value: &Value, row: &[Value]| {
                        let all: Vec<_> = std::iter::once(value).chain(row).cloned().collect();
                        connection.execute(&change, rusqlite::params_from_iter(all)).unwrap()
                    };
                    assert_eq!(with(&wrong, &row), 1);
                    assert!(rig.reader().verify().is_err(), "{table}.{column}: {wrong:?}");
                    let mut changed = row.clone();
                    changed[at] = wrong;
                    assert_eq!(with(&row[at], &changed), 1);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 1_000, "{tried}");
    rig.reader().verify().unwrap();
}

#[test]
fn the_first_chunk_that_does_not_fit_is_named() {
    let cases = [
        ("UPDATE chunk SET count = 9 WHERE hour = 1 AND instance = 'a'", "chunk a 1970-01-01T01"),
        ("UPDATE usage SET count = 9 WHERE instance = 'b' AND minute = 0", "chunk b 1970-01-01T00"),
        ("UPDATE adjustment SET peak = 9 WHERE hour = 1", "chunk a 1970-01-01T01"),
        ("DELETE FROM chunk WHERE hour = 0 AND instance = 'b'", "chunk b 1970-01-01T00"),
        ("DELETE FROM usage WHERE minute = 1", "chunk a 1970-01-01T00"),
        ("UPDATE usage SET count = 9 WHERE minute = 120", "minute 1970-01-01T02:00:00Z of a"),
        ("DELETE FROM usage WHERE minute = 121", "the total of a"),
        ("UPDATE total SET count = 1 WHERE instance = 'b'", "the total of b"),
        ("UPDATE second SET count = 9 WHERE second = 7200 AND instance = 'b'", "a second of b"),
        ("DELETE FROM total WHERE instance = 'b'", "chunk b 1970-01-01T00"),
    ];
    for (change, named) in cases {
        let rig = used();
        assert!(Connection::open(rig.path()).unwrap().execute(change, []).unwrap() > 0);
        let said = fault(&rig);
        assert!(said.contains(named), "{change}: {said}");
    }
}

#[test]
fn a_chain_that_is_cut_short_is_seen_even_if_its_messages_are_gone_from_the_total() {
    let rig = used();
    let connection = Connection::open(rig.path()).unwrap();
    let (count, chunks, head): (u64, u64, seal::Digest) = connection
        .query_row("SELECT count, chunks, head FROM total WHERE instance = 'b'", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    connection.execute("DELETE FROM chunk WHERE instance = 'b' AND hour = 1", []).unwrap();
    connection.execute("DELETE FROM usage WHERE instance = 'b' AND minute = 61", []).unwrap();
    let sum = seal::total_sum("b", count - 1, chunks, &head);
    let update = "UPDATE total SET count = ?, sum = ? WHERE instance = 'b'";
    connection.execute(update, rusqlite::params![count - 1, sum]).unwrap();
    assert!(fault(&rig).contains("chunks are missing"));
}

#[test]
fn a_chunk_that_was_written_anew_with_a_right_hash_breaks_the_one_behind_it() {
    let mut rig = used();
    rig.purge(3 * HOUR);
    let connection = Connection::open(rig.path()).unwrap();
    let minutes: seal::Digest = connection
        .query_row("SELECT minutes FROM chunk WHERE instance = 'a' AND hour = 0", [], |row| {
            row.get(0)
        })
        .unwrap();
    let content = seal::Content { count: 2, peak: 1, adjusted: 0, minutes };
    let hash = seal::chunk_hash("a", 0, &content, &seal::NO_CHUNK);
    let update = "UPDATE chunk SET count = 2, peak = 1, hash = ? WHERE instance = 'a' AND hour = 0";
    assert_eq!(connection.execute(update, [&hash[..]]).unwrap(), 1);
    assert_eq!(fault(&rig), "chunk a 1970-01-01T01:00:00Z: it does not follow the chunk before it");
}

#[test]
fn a_changed_open_row_is_not_made_good_by_the_next_message_nor_by_its_close() {
    let mut rig = used();
    let connection = Connection::open(rig.path()).unwrap();
    connection.execute("UPDATE usage SET count = 9 WHERE minute = 121", []).unwrap();
    rig.commit(2 * HOUR, &[("a", 2 * HOUR + MINUTE + 5)]);
    assert!(fault(&rig).contains("minute 1970-01-01T02:01:00Z of a"));
    rig.close(3 * HOUR);
    assert!(fault(&rig).contains("chunk a 1970-01-01T02"));
    rig.purge(3 * HOUR);
    assert!(fault(&rig).contains("the total of a"));
}

/// Numbers that look random and are the same in every run.
fn dice(mut state: u64) -> impl FnMut(usize) -> usize {
    move |sides| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % sides
    }
}

#[test]
fn a_flipped_byte_of_the_file_is_named_or_changes_nothing_that_is_shown() {
    let rig = used();
    let whole = Connection::open(rig.path()).unwrap();
    whole.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let expected = (rig.by("hour"), rig.by("minute"), rig.reader().verify().unwrap());
    let bytes = std::fs::read(rig.path()).unwrap();
    let seed = 20_261_123;
    let mut roll = dice(seed);
    let mut named = 0;
    for _ in 0..400 {
        let (at, bit) = (roll(bytes.len()), roll(8));
        let folder = tempfile::tempdir().unwrap();
        let mut changed = bytes.clone();
        changed[at] ^= 1 << bit;
        std::fs::write(folder.path().join(FILE), changed).unwrap();
        let reader = Reader::new(folder.path());
        let Ok(found) = reader.verify() else {
            named += 1;
            continue;
        };
        assert_eq!(found, expected.2, "seed {seed}: byte {at} bit {bit}");
        let shown = |by| {
            let query = Query::parse(None, None, Some(by), None).unwrap();
            let rows = reader.usage(&query).unwrap().rows.into_iter();
            rows.map(|row| (row.instance.to_string(), row.start, row.count, row.peak)).collect()
        };
        let now: (Vec<_>, Vec<_>) = (shown("hour"), shown("minute"));
        assert_eq!(
            now,
            (expected.0.clone(), expected.1.clone()),
            "seed {seed}: byte {at} bit {bit}"
        );
    }
    assert!(named > 5, "seed {seed}: {named}");
}

#[test]
fn the_statement_an_operator_is_told_sets_a_watermark_that_the_ledger_believes() {
    let rig = used();
    let stream = StreamId { generation: 7, shard: 3 };
    let statement = Ledger::watermark_by_hand(stream, Sequence(1));
    Connection::open(rig.path()).unwrap().execute(&statement, []).unwrap();
    assert_eq!(Ledger::open(&rig.path()).unwrap().watermark(stream).unwrap(), Sequence(1));
    rig.reader().verify().unwrap();
}
