use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::clock::UnixMillis;
use crate::journal::{Sequence, StreamId};
use crate::message::InstanceId;

use super::booking::{self, Booked};
use super::closing::{self, Purged};
use super::fold::Fold;
use super::seal;
use super::tables::{self, LedgerError};

/// The rows and the watermark they cover, committed together.
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    /// Every hour before this one is closed.
    closed: u64,
    /// Until which hour there was nothing to close at the last look.
    looked: u64,
    /// Until which hour there was nothing to purge at the last look.
    purged: u64,
}

impl Ledger {
    /// Opens the ledger, or makes an empty one.
    ///
    /// # Errors
    /// [`LedgerError`] if the file is not a ledger of this format, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let connection = tables::open(path, seal::closed_sum(0))?;
        let closed = closed(&connection, path)?;
        Ok(Self { connection, path: path.to_path_buf(), closed, looked: 0, purged: 0 })
    }

    /// Opens an existing ledger and changes nothing, while weir runs or is stopped.
    ///
    /// # Errors
    /// [`LedgerError`] if there is none, or it cannot be read.
    pub fn open_to_read(path: &Path) -> Result<Self, LedgerError> {
        let connection = tables::open_to_read(path)?;
        Ok(Self { connection, path: path.to_path_buf(), closed: 0, looked: 0, purged: 0 })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The statement that sets a watermark by hand, its checksum included.
    #[must_use]
    pub fn watermark_by_hand(stream: StreamId, next: Sequence) -> String {
        let StreamId { generation, shard } = stream;
        let (next, sum) = (next.0, seal::watermark_sum(stream, next));
        format!("INSERT OR REPLACE INTO watermark VALUES ({generation}, {shard}, {next}, {sum})")
    }

    /// The first sequence number of a stream that is not folded yet.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read, or the row is not as it was written.
    pub fn watermark(&self, stream: StreamId) -> Result<Sequence, LedgerError> {
        let watermarks = watermarks(&self.connection, &self.path)?;
        Ok(watermarks.get(&stream).copied().unwrap_or(Sequence::FIRST))
    }

    /// Every instance ever billed, with its messages.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn totals(&self) -> Result<Vec<(InstanceId, u64)>, LedgerError> {
        let read = || {
            let mut statement = self.connection.prepare("SELECT instance, count FROM total")?;
            let rows = statement
                .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(LedgerError::database(&self.path))?;
        let known = rows.into_iter().filter_map(|(id, n)| Some((InstanceId::parse(&id).ok()?, n)));
        Ok(known.collect())
    }

    /// Messages billed to an instance, ever.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn total(&self, instance: &InstanceId) -> Result<u64, LedgerError> {
        let read = || {
            self.connection
                .prepare_cached("SELECT count FROM total WHERE instance = ?")?
                .query_row([instance.as_str()], |row| row.get(0))
                .optional()
        };
        Ok(read().map_err(LedgerError::database(&self.path))?.unwrap_or(0))
    }

    /// Commits what was folded: rows, totals and watermarks in one transaction. What was admitted
    /// in a closed hour is booked in the hour of `now`, or in the first open one if `now` is
    /// closed as well.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing of the fold was committed then.
    pub fn commit(&mut self, fold: &Fold, now: UnixMillis) -> Result<Booked, LedgerError> {
        let (closed, open) = (self.closed, self.closed.max(hour_of(now)));
        self.transact(|transaction| booking::book(transaction, fold, closed, open))
    }

    /// Closes the oldest open hour that ended by `until`, if there is one; true if there was.
    ///
    /// # Errors
    /// [`LedgerError`]; the hour is still open then.
    pub fn close_one(&mut self, until: UnixMillis) -> Result<bool, LedgerError> {
        let until = hour_of(until);
        if until <= self.looked {
            return Ok(false);
        }
        let closed = self.closed;
        match self.transact(|transaction| closing::close_oldest(transaction, closed, until))? {
            Some(next) => {
                self.closed = next;
                Ok(true)
            }
            None => {
                self.looked = until;
                Ok(false)
            }
        }
    }

    /// Removes the minute rows of a few closed hours before `before`; their chunks stay.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing was removed then.
    pub fn purge_some(&mut self, before: UnixMillis) -> Result<Purged, LedgerError> {
        // A clock that runs ahead removes nothing: only time that was billed passes here.
        let before = hour_of(before).min(self.closed);
        if before <= self.purged {
            return Ok(Purged::default());
        }
        let purged = self.transact(|transaction| closing::purge(transaction, before))?;
        if purged.hours == 0 {
            self.purged = before;
        }
        Ok(purged)
    }

    fn transact<T>(
        &mut self,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let written = self.connection.transaction().and_then(|transaction| {
            let written = write(&transaction)?;
            fail::fail_point!("ledger-before-commit", |_| std::process::abort());
            transaction.commit()?;
            Ok(written)
        });
        fail::fail_point!("ledger-after-commit", |_| std::process::abort());
        written.map_err(LedgerError::database(&self.path))
    }
}

/// Whole hours since 1970, UTC.
pub(super) const fn hour_of(at: UnixMillis) -> u64 {
    at.minutes() / 60
}

/// The first hour that is not closed.
pub(super) fn closed(connection: &Connection, path: &Path) -> Result<u64, LedgerError> {
    let row = connection
        .query_row("SELECT before, sum FROM closed", [], |row| {
            Ok((row.get(0)?, row.get::<_, u32>(1)?))
        })
        .optional()
        .map_err(LedgerError::database(path))?;
    match row {
        Some((before, sum)) if seal::closed_sum(before) == sum => Ok(before),
        _ => Err(damaged(path, "the number of closed hours")),
    }
}

/// The first record of each stream that is not in the ledger.
pub(super) fn watermarks(
    connection: &Connection,
    path: &Path,
) -> Result<BTreeMap<StreamId, Sequence>, LedgerError> {
    let read = || {
        let mut statement =
            connection.prepare_cached("SELECT generation, shard, next, sum FROM watermark")?;
        let rows = statement.query_map([], |row| {
            let stream = StreamId { generation: row.get(0)?, shard: row.get(1)? };
            Ok((stream, Sequence(row.get(2)?), row.get::<_, u32>(3)?))
        })?;
        rows.collect::<Result<Vec<_>, _>>()
    };
    let rows = read().map_err(LedgerError::database(path))?;
    if let Some((stream, ..)) =
        rows.iter().find(|(stream, next, sum)| seal::watermark_sum(*stream, *next) != *sum)
    {
        return Err(damaged(path, &format!("the watermark of {stream}")));
    }
    Ok(rows.into_iter().map(|(stream, next, _)| (stream, next)).collect())
}

fn damaged(path: &Path, place: &str) -> LedgerError {
    LedgerError::Damaged { path: path.display().to_string(), place: place.to_owned() }
}
