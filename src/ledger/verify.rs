use std::fmt;
use std::path::Path;

use rusqlite::{Connection, Params, Row};
use sha2::{Digest as _, Sha256};

use super::period::moment;
use super::seal::{self, Content, Digest, HourDigest, NO_CHUNK};
use super::store::{closed, watermarks};
use super::tables::LedgerError;

/// What was found to be as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Instances.
    pub instances: u64,
    /// Closed hours.
    pub chunks: u64,
    /// Minute rows and adjustments.
    pub rows: u64,
    /// Messages billed.
    pub messages: u64,
    /// SHA-256 over every instance and the hash of its last chunk, in hexadecimal. Noted down
    /// elsewhere, it shows that nobody wrote all chains anew.
    pub heads: String,
}

/// The first thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    place: String,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Why a ledger is not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not as it was written.
    #[error("{0}")]
    Fault(Fault),
    /// It cannot be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// A failed step of the verification.
enum Step {
    Fault(Fault),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Step {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

fn fault<T>(place: &str, what: &str) -> Result<T, Step> {
    Err(Step::Fault(Fault { place: place.to_owned(), what: what.to_owned() }))
}

/// Recomputes everything.
pub(super) fn verify(connection: &Connection, path: &Path) -> Result<Verified, VerifyError> {
    let closed = closed(connection, path)?;
    watermarks(connection, path)?;
    let mut walk = Walk { connection, closed, at: String::new(), found: Verified::nothing() };
    match walk.all() {
        Ok(()) => Ok(walk.found),
        Err(Step::Fault(fault)) => Err(VerifyError::Fault(fault)),
        Err(Step::Database(error)) => Err(VerifyError::Fault(Fault {
            place: if walk.at.is_empty() { "the list of instances".to_owned() } else { walk.at },
            what: format!("it cannot be read: {error}"),
        })),
    }
}

impl Verified {
    const fn nothing() -> Self {
        Self { instances: 0, chunks: 0, rows: 0, messages: 0, heads: String::new() }
    }
}

struct Walk<'c> {
    connection: &'c Connection,
    closed: u64,
    /// What is being looked at.
    at: String,
    found: Verified,
}

struct Total {
    instance: String,
    count: u64,
    chunks: u64,
    head: Digest,
    sum: u32,
}

struct Chunk {
    hour: u64,
    content: Content,
    previous: Digest,
    hash: Digest,
    kept: i64,
}

/// A minute row, or an adjustment that is billed in `hour`.
struct Entry {
    hour: u64,
    minute: u64,
    count: u64,
    peak: u64,
    sum: u32,
}

impl Walk<'_> {
    fn all(&mut self) -> Result<(), Step> {
        let totals = self.read("SELECT * FROM total ORDER BY instance", [], |row| {
            Ok(Total {
                instance: row.get(0)?,
                count: row.get(1)?,
                chunks: row.get(2)?,
                head: row.get(3)?,
                sum: row.get(4)?,
            })
        })?;
        let mut heads = Sha256::new();
        for total in &totals {
            self.instance(total)?;
            heads.update(&total.instance);
            heads.update(total.head);
        }
        self.found.heads = hex::encode(heads.finalize());
        self.found.instances = totals.len() as u64;
        self.strays()?;
        self.seconds()?;
        self.file()
    }

    /// The chain of one instance, its rows, and its total.
    fn instance(&mut self, total: &Total) -> Result<(), Step> {
        let instance = total.instance.as_str();
        self.at = format!("the chain of {instance}");
        let chunks = self.read(
            "SELECT hour, count, peak, adjusted, minutes, previous, hash, kept FROM chunk
             WHERE instance = ? ORDER BY hour",
            [instance],
            chunk,
        )?;
        self.at = format!("the minute rows of {instance}");
        let minutes = self.read(
            "SELECT minute, count, peak, sum FROM usage WHERE instance = ? ORDER BY minute",
            [instance],
            |row| {
                let minute: u64 = row.get(0)?;
                let (count, peak, sum) = (row.get(1)?, row.get(2)?, row.get(3)?);
                Ok(Entry { hour: minute / 60, minute, count, peak, sum })
            },
        )?;
        self.at = format!("the adjustments of {instance}");
        let adjustments = self.read(
            "SELECT hour, minute, count, peak, sum FROM adjustment
             WHERE instance = ? ORDER BY hour, minute",
            [instance],
            |row| {
                let (hour, minute) = (row.get(0)?, row.get(1)?);
                let (count, peak, sum) = (row.get(2)?, row.get(3)?, row.get(4)?);
                Ok(Entry { hour, minute, count, peak, sum })
            },
        )?;
        self.found.chunks += chunks.len() as u64;
        self.found.rows += (minutes.len() + adjustments.len()) as u64;
        let (mut minutes, mut adjustments) = (minutes.as_slice(), adjustments.as_slice());
        let (mut billed, mut head) = (0, NO_CHUNK);
        for chunk in &chunks {
            let place = place(instance, chunk.hour);
            let rows = (
                taken(&mut minutes, instance, chunk.hour)?,
                taken(&mut adjustments, instance, chunk.hour)?,
            );
            self.chunk(instance, &place, chunk, head, rows)?;
            head = chunk.hash;
            billed = chunk.content.count.saturating_add(billed);
        }
        for entry in minutes.iter().chain(adjustments) {
            if entry.hour < self.closed {
                return fault(&place(instance, entry.hour), "rows of a closed hour have no chunk");
            }
            billed = entry.count.saturating_add(billed);
        }
        sums(instance, minutes, adjustments)?;
        let Total { count, chunks: number, head: last, sum, .. } = total;
        let place = format!("the total of {instance}");
        if seal::total_sum(instance, *count, *number, last) != *sum {
            return fault(&place, "its checksum does not fit");
        }
        if (*number, *last) != (chunks.len() as u64, head) {
            return fault(&place, "the chain does not end where it should: chunks are missing");
        }
        if billed != *count {
            return fault(&place, &format!("it is {count}, and its hours add up to {billed}"));
        }
        self.found.messages += count;
        Ok(())
    }

    fn chunk(
        &self,
        instance: &str,
        place: &str,
        chunk: &Chunk,
        head: Digest,
        (minutes, adjustments): (&[Entry], &[Entry]),
    ) -> Result<(), Step> {
        let Chunk { hour, content, previous, hash, kept } = chunk;
        if seal::chunk_hash(instance, *hour, content, previous) != *hash {
            return fault(place, "its hash does not fit its content");
        }
        if *previous != head {
            return fault(place, "it does not follow the chunk before it");
        }
        if *hour >= self.closed {
            return fault(place, "its hour is not closed");
        }
        match kept {
            0 if minutes.is_empty() && adjustments.is_empty() => return Ok(()),
            0 => return fault(place, "its minute rows were purged, and there are some"),
            1 => {}
            _ => return fault(place, "it does not say whether its minute rows were purged"),
        }
        let mut digest = HourDigest::default();
        for entry in minutes {
            digest.minute(entry.minute, entry.count, entry.peak);
        }
        for entry in adjustments {
            digest.adjustment(entry.minute, entry.count, entry.peak);
        }
        if digest.finish() != *content {
            return fault(place, "its minute rows are not those it was closed with");
        }
        match sums(instance, minutes, adjustments) {
            Err(Step::Fault(row)) => fault(place, &row.to_string()),
            fits => fits,
        }
    }

    /// Rows whose instance has no total.
    fn strays(&mut self) -> Result<(), Step> {
        self.at = "the rows of all instances".to_owned();
        // Counting is cheap; who a stray row belongs to is looked for only if there is one.
        let chunks = self.count("SELECT count(*) FROM chunk")?;
        let rows = self.count("SELECT count(*) FROM usage")?
            + self.count("SELECT count(*) FROM adjustment")?;
        if (chunks, rows) == (self.found.chunks, self.found.rows) {
            return Ok(());
        }
        fault(&self.stray()?, "it belongs to no instance that was billed")
    }

    fn stray(&self) -> Result<String, Step> {
        let found = self.connection.query_row(
            "SELECT instance, hour FROM chunk WHERE instance NOT IN (SELECT instance FROM total)
             UNION ALL
             SELECT instance, minute / 60 FROM usage
             WHERE instance NOT IN (SELECT instance FROM total)
             UNION ALL
             SELECT instance, hour FROM adjustment
             WHERE instance NOT IN (SELECT instance FROM total)
             LIMIT 1",
            [],
            |row| Ok(place(&row.get::<_, String>(0)?, row.get(1)?)),
        );
        Ok(found?)
    }

    fn count(&self, sql: &str) -> rusqlite::Result<u64> {
        self.connection.query_row(sql, [], |row| row.get(0))
    }

    /// The counts of the last seconds, which peaks are made of.
    fn seconds(&mut self) -> Result<(), Step> {
        self.at = "the counts of the last seconds".to_owned();
        let seconds = self.read("SELECT second, instance, count, sum FROM second", [], |row| {
            let (second, instance): (u64, String) = (row.get(0)?, row.get(1)?);
            Ok((second, instance, row.get::<_, u64>(2)?, row.get::<_, u32>(3)?))
        })?;
        for (second, instance, count, sum) in seconds {
            if seal::second_sum(second, &instance, count) != sum {
                let place = format!("a second of {instance} at {}", moment(second / 60));
                return fault(&place, "its checksum does not fit");
            }
        }
        Ok(())
    }

    /// The file itself, where no row lies.
    fn file(&mut self) -> Result<(), Step> {
        self.at = "the file".to_owned();
        let said: String =
            self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if said == "ok" { Ok(()) } else { fault("the file", &said.replace('\n', " ")) }
    }

    fn read<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.connection.prepare_cached(sql)?.query_map(parameters, row)?.collect()
    }
}

fn chunk(row: &Row<'_>) -> rusqlite::Result<Chunk> {
    let content = Content {
        count: row.get(1)?,
        peak: row.get(2)?,
        adjusted: row.get(3)?,
        minutes: row.get(4)?,
    };
    let (previous, hash, kept) = (row.get(5)?, row.get(6)?, row.get(7)?);
    Ok(Chunk { hour: row.get(0)?, content, previous, hash, kept })
}

/// The rows of an hour, which is the first that has rows left.
fn taken<'e>(left: &mut &'e [Entry], instance: &str, hour: u64) -> Result<&'e [Entry], Step> {
    if let Some(before) = left.first().filter(|entry| entry.hour < hour) {
        return fault(&place(instance, before.hour), "rows of a closed hour have no chunk");
    }
    let (of_hour, behind) = left.split_at(left.partition_point(|entry| entry.hour <= hour));
    *left = behind;
    Ok(of_hour)
}

/// The checksums of rows.
fn sums(instance: &str, minutes: &[Entry], adjustments: &[Entry]) -> Result<(), Step> {
    for Entry { minute, count, peak, sum, .. } in minutes {
        if seal::usage_sum(instance, *minute, *count, *peak) != *sum {
            let place = format!("minute {} of {instance}", moment(*minute));
            return fault(&place, "its checksum does not fit");
        }
    }
    for Entry { hour, minute, count, peak, sum } in adjustments {
        if seal::adjustment_sum(*hour, instance, *minute, *count, *peak) != *sum {
            let place =
                format!("an adjustment of {instance} in {}", moment(hour.saturating_mul(60)));
            return fault(&place, "its checksum does not fit");
        }
    }
    Ok(())
}

fn place(instance: &str, hour: u64) -> String {
    format!("chunk {instance} {}", moment(hour.saturating_mul(60)))
}
