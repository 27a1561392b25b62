//! Three sets compared: what clients were told, what the journal holds, what a device was given.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use weir::journal::{ReadOnly, Rest, inspect};

use super::load::{Outcome, Sent, is_for_the_keeper};
use super::subscriber::Given;
use super::weir::INSTANCE;

/// One journaled message.
struct Record {
    msg_id: String,
    topic: String,
    /// Its place among all records, as the journal orders them within a stream.
    stream: (u32, u16),
    sequence: u64,
}

/// Everything that is known once weir has stopped.
pub(crate) struct Evidence<'e> {
    /// The archive of every segment there ever was.
    pub(crate) journal: &'e Path,
    /// The data directory.
    pub(crate) data_dir: &'e Path,
    /// What clients were told.
    pub(crate) sent: &'e [Sent],
    /// What a device was given, a list a connection.
    pub(crate) given: &'e [Given],
    /// What a device with a stored session was given; nothing if there was none.
    pub(crate) kept: &'e [Given],
    /// What the billing counter showed last.
    pub(crate) counter: u64,
    /// What weir had to say in all its lives.
    pub(crate) said: &'e [String],
    /// How to see it again.
    pub(crate) place: &'e str,
}

/// How many there were of each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) billed: u64,
    pub(crate) delivered: u64,
    pub(crate) kept: u64,
}

impl Evidence<'_> {
    /// Checks I1, I2, I3, I4 and I6 of the promise; for a stored session I4 is: every message.
    pub(crate) fn judge(&self) -> Tally {
        let place = self.place;
        let records = self.records();
        let mut tally = Tally { billed: records.len() as u64, ..Tally::default() };
        for Sent { payload, outcome } in self.sent {
            let record = records.get(payload.as_str());
            match outcome {
                Outcome::Ok(msg_id) => {
                    tally.acknowledged += 1;
                    let found = record.map(|record| &record.msg_id);
                    assert_eq!(found, Some(msg_id), "{place}: I1: {payload} was acknowledged");
                }
                Outcome::Fail(code) => {
                    tally.refused += 1;
                    assert!(record.is_none(), "{place}: I3: {payload} got {code} and is journaled");
                }
                Outcome::Unknown => tally.unknown += 1,
            }
        }
        let (least, most) = (tally.acknowledged, tally.acknowledged + tally.unknown);
        assert!((least..=most).contains(&tally.billed), "{place}: I2: {tally:?}");
        assert_eq!(ledger_total(self.data_dir), tally.billed, "{place}: I2: the ledger's total");
        assert_eq!(self.counter, tally.billed, "{place}: I2: the billing counter");
        tally.delivered = self.delivered(&records);
        tally.kept = self.kept(&records);
        tally
    }

    /// Everything acknowledged and not in bulk has come to a stored session, and first came in the
    /// order of its topic, however often it came again after a crash.
    fn kept(&self, records: &HashMap<String, Record>) -> u64 {
        let place = self.place;
        let mut seen = HashSet::new();
        let mut last: HashMap<&str, (u32, u16, u64)> = HashMap::new();
        for (topic, payload) in self.kept.iter().flatten() {
            if !seen.insert(payload.as_str()) {
                continue;
            }
            let record = records.get(payload.as_str()).unwrap_or_else(|| {
                panic!("{place}: I3: {payload} was kept for a device and is not billed")
            });
            let at = (record.stream.0, record.stream.1, record.sequence);
            let before = last.insert(topic, at);
            assert!(before.is_none_or(|before| before < at), "{place}: I6: {payload} at {at:?}");
        }
        let acknowledged = |sent: &&Sent| matches!(sent.outcome, Outcome::Ok(_));
        let owed = self.sent.iter().filter(|_| !self.kept.is_empty()).filter(acknowledged);
        let lost = owed.filter(|sent| !seen.contains(sent.payload.as_str())).filter_map(|sent| {
            let Record { topic, stream, sequence, .. } = &records[sent.payload.as_str()];
            let lost = format!("{:.10} of {topic} at {stream:?} {sequence}", sent.payload);
            is_for_the_keeper(topic).then_some(lost)
        });
        let lost: Vec<_> = lost.collect();
        assert!(
            lost.is_empty(),
            "{place}: I4: {} of {} never came to a stored session: {:?} ...\n{}",
            lost.len(),
            self.sent.len(),
            &lost[..lost.len().min(10)],
            self.said.join("\n")
        );
        seen.len() as u64
    }

    /// Every record there ever was, by payload; each stream must be without a gap.
    fn records(&self) -> HashMap<String, Record> {
        let place = self.place;
        let mut records = HashMap::new();
        let mut next: HashMap<(u32, u16), u64> = HashMap::new();
        let streams =
            inspect(&ReadOnly, self.journal, &mut |(stream, sequence, file, _, message)| {
                let stream = (stream.generation, stream.shard);
                let expected = next.entry(stream).or_insert(1);
                assert_eq!(sequence.0, *expected, "{place}: {} has a gap", file.display());
                *expected += 1;
                let payload = String::from_utf8_lossy(message.payload.bytes()).into_owned();
                let (msg_id, topic) = (message.id.to_string(), message.topic.as_str().to_owned());
                let twice =
                    records.insert(payload, Record { msg_id, topic, stream, sequence: sequence.0 });
                assert!(twice.is_none(), "{place}: I2: record {sequence} is there twice");
            });
        for segment in streams.expect("the journal can be read").iter().flat_map(|s| &s.segments) {
            assert!(!matches!(segment.rest, Rest::Damaged(_)), "{place}: {segment:?}");
        }
        records
    }

    /// Only what is billed is delivered, in the journal's order within a connection and a topic.
    fn delivered(&self, records: &HashMap<String, Record>) -> u64 {
        let place = self.place;
        let mut seen = HashSet::new();
        for given in self.given {
            let mut last: HashMap<&str, (u32, u16, u64)> = HashMap::new();
            for (topic, payload) in given {
                let record = records.get(payload.as_str()).unwrap_or_else(|| {
                    panic!("{place}: I3: {payload} was delivered and is not billed")
                });
                assert_eq!(*topic, record.topic, "{place}: {payload}");
                let at = (record.stream.0, record.stream.1, record.sequence);
                let before = last.insert(topic, at);
                assert!(
                    before.is_none_or(|before| before < at),
                    "{place}: I6: {payload} at {at:?}"
                );
                seen.insert(payload);
            }
        }
        seen.len() as u64
    }
}

/// What a ledger says was ever billed.
pub(crate) fn ledger_total(data_dir: &Path) -> u64 {
    let ledger = rusqlite::Connection::open(data_dir.join("ledger.sqlite")).expect("it opens");
    let total = ledger.query_row(
        "SELECT coalesce(sum(count), 0) FROM total WHERE instance = ?",
        [INSTANCE],
        |row| row.get(0),
    );
    total.expect("the ledger has totals")
}
