use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use crate::journal::{Disk, JournalError, Sequence, StreamId, TailError, read_tail};
use crate::message::InstanceId;

use super::export;
use super::period::{By, Query, Span};
use super::store::{closed, watermarks};
use super::tables::{self, LedgerError};
use super::usage::{Adder, Row, Usage};
use super::verify::{self, Verified, VerifyError};

/// How often a look begins again because weir wrote or trimmed meanwhile.
const TRIES_MAX: usize = 10;

/// Reads ledger and journal, with weir running or stopped; writes neither.
#[derive(Clone, Debug)]
pub struct Reader {
    ledger: PathBuf,
    journal: PathBuf,
}

/// Why the usage is not known.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal does not go on where the ledger ends.
    #[error("the ledger and the journal do not fit: {0}")]
    Apart(TailError),
    /// What was asked for cannot be written where it should go.
    #[error(transparent)]
    Write(#[from] io::Error),
}

impl Reader {
    /// Reads below a data directory.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { ledger: data_dir.join(super::FILE), journal: data_dir.join("journal") }
    }

    /// The usage that was asked for: what the ledger holds, and what is only in the journal yet.
    ///
    /// # Errors
    /// [`ReadError`] if ledger or journal cannot be read.
    pub fn usage(&self, query: &Query) -> Result<Usage, ReadError> {
        let mut tries = 1;
        loop {
            let snapshot = Snapshot::open(&self.ledger)?;
            match snapshot.tail(&self.journal, query) {
                Ok((adder, behind)) => {
                    let rows = snapshot.add(query, adder)?;
                    return Ok(Usage { rows, by: query.by, behind });
                }
                Err(TailError::Journal(error)) => return Err(error.into()),
                Err(error) if tries == TRIES_MAX => return Err(ReadError::Apart(error)),
                Err(_) => tries += 1,
            }
        }
    }

    /// Writes the closed hours of the span, a `CloudEvents` 1.0 event each, an event a line.
    ///
    /// # Errors
    /// [`ReadError`] if the ledger cannot be read, or the writer fails.
    pub fn export(
        &self,
        span: Span,
        instance: Option<&InstanceId>,
        source: &str,
        out: &mut impl Write,
    ) -> Result<(), ReadError> {
        let snapshot = Snapshot::open(&self.ledger)?;
        for instance in snapshot.instances(instance)? {
            for (hour, count, peak) in snapshot.chunks(&instance, hours(span))? {
                export::write(out, source, &instance, hour, count, peak)?;
            }
        }
        Ok(())
    }

    /// Recomputes every checksum, every link of every chain and every total.
    ///
    /// # Errors
    /// [`VerifyError`] names the first chunk or row that does not fit.
    pub fn verify(&self) -> Result<Verified, VerifyError> {
        let snapshot = Snapshot::open(&self.ledger)?;
        verify::verify(&snapshot.connection, &self.ledger)
    }
}

/// The hours that begin in a span.
const fn hours(span: Span) -> (u64, u64) {
    (span.from().div_ceil(60), span.to().div_ceil(60))
}

/// The ledger as one commit left it.
struct Snapshot {
    connection: Connection,
    path: PathBuf,
    closed: u64,
    watermarks: BTreeMap<StreamId, Sequence>,
}

impl Snapshot {
    fn open(path: &Path) -> Result<Self, LedgerError> {
        let connection = tables::open_to_read(path)?;
        // The first read below fixes what all others see.
        connection.execute_batch("BEGIN").map_err(LedgerError::database(path))?;
        let closed = closed(&connection, path)?;
        let watermarks = watermarks(&connection, path)?;
        Ok(Self { connection, path: path.to_path_buf(), closed, watermarks })
    }

    /// Counts what is in the journal and not in the ledger; how many there are of all instances.
    fn tail(&self, journal: &Path, query: &Query) -> Result<(Adder, u64), TailError> {
        let mut adder = Adder::new(query.by);
        let mut seconds: BTreeMap<(InstanceId, u64), u64> = BTreeMap::new();
        let mut behind = 0;
        let from =
            |stream: StreamId| self.watermarks.get(&stream).copied().unwrap_or(Sequence::FIRST);
        read_tail(&Disk, journal, &from, &mut |_, message| {
            behind += 1;
            if query.instance.as_ref().is_none_or(|asked| *asked == message.instance) {
                let second = (message.instance.clone(), message.admitted_at.seconds());
                *seconds.entry(second).or_default() += 1;
            }
        })?;
        for ((instance, second), count) in seconds {
            let before = self.second(&instance, second).unwrap_or_default();
            // A closed hour does not change: what is late goes to an open one.
            let minute = (second / 60).max(self.closed * 60);
            if query.span.holds(minute) {
                adder.add(&instance, minute, count, before + count);
            }
        }
        Ok((adder, behind))
    }

    /// What the ledger has of a second already.
    fn second(&self, instance: &InstanceId, second: u64) -> rusqlite::Result<u64> {
        self.connection
            .prepare_cached("SELECT count FROM second WHERE second = ? AND instance = ?")?
            .query_row(params![second, instance.as_str()], |row| row.get(0))
    }

    fn add(&self, query: &Query, mut adder: Adder) -> Result<Vec<Row>, LedgerError> {
        let (from, to) = (query.span.from(), query.span.to());
        // Whole closed hours are read as such, unless minutes are asked for.
        let first = from.div_ceil(60);
        let last = if query.by == By::Minute { first } else { (to / 60).min(self.closed) };
        for instance in self.instances(query.instance.as_ref())? {
            if first >= last {
                self.add_minutes(&instance, (from, to), &mut adder)?;
                continue;
            }
            self.add_minutes(&instance, (from, first * 60), &mut adder)?;
            for (hour, count, peak) in self.chunks(&instance, (first, last))? {
                adder.add(&instance, hour * 60, count, peak);
            }
            self.add_minutes(&instance, (last * 60, to), &mut adder)?;
        }
        Ok(adder.finish())
    }

    /// The instances ever billed, or the one of them that is asked for.
    fn instances(&self, asked: Option<&InstanceId>) -> Result<Vec<InstanceId>, LedgerError> {
        let asked = asked.map_or("", InstanceId::as_str);
        let rows: Vec<String> = self.read(
            "SELECT instance FROM total WHERE ?1 = '' OR instance = ?1 ORDER BY instance",
            params![asked],
            |row| row.get(0),
        )?;
        Ok(rows.iter().filter_map(|id| InstanceId::parse(id).ok()).collect())
    }

    /// Hour, count and peak of the closed hours in a range.
    fn chunks(
        &self,
        instance: &InstanceId,
        (from, to): (u64, u64),
    ) -> Result<Vec<(u64, u64, u64)>, LedgerError> {
        self.read(
            "SELECT hour, count, peak FROM chunk
             WHERE instance = ? AND hour >= ? AND hour < ? ORDER BY hour",
            params![instance.as_str(), from, to],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
    }

    /// Adds a range of minutes. Adjustments, and hours whose minutes were purged, stand at the
    /// first minute of their hour.
    fn add_minutes(
        &self,
        instance: &InstanceId,
        (from, to): (u64, u64),
        adder: &mut Adder,
    ) -> Result<(), LedgerError> {
        if from >= to {
            return Ok(());
        }
        self.each(
            "SELECT minute, count, peak FROM usage
             WHERE instance = ? AND minute >= ? AND minute < ? ORDER BY minute",
            params![instance.as_str(), from, to],
            |row| {
                adder.add(instance, row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(())
            },
        )?;
        let hours = (from.div_ceil(60), to.div_ceil(60));
        for rows in [
            "SELECT hour * 60, count, peak FROM adjustment
             WHERE instance = ? AND hour >= ? AND hour < ?",
            "SELECT hour * 60, count, peak FROM chunk
             WHERE instance = ? AND hour >= ? AND hour < ? AND kept = 0",
        ] {
            self.each(rows, params![instance.as_str(), hours.0, hours.1], |row| {
                adder.add(instance, row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn read<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, LedgerError> {
        let mut row = row;
        let mut rows = vec![];
        self.each(sql, parameters, |found| {
            rows.push(row(found)?);
            Ok(())
        })?;
        Ok(rows)
    }

    fn each(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        mut row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), LedgerError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(parameters)?;
            while let Some(found) = rows.next()? {
                row(found)?;
            }
            Ok(())
        };
        read().map_err(LedgerError::database(&self.path))
    }
}
