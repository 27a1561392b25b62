use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use crate::journal::{Sequence, StreamId};
use crate::message::InstanceId;

use super::fold::Fold;

/// `PRAGMA application_id` of a ledger: "weir" in ASCII.
const APPLICATION_ID: i32 = 0x7765_6972;
/// `PRAGMA user_version`: the format of the tables below. A number is never used twice.
const FORMAT: i32 = 1;
/// Seconds of which the ledger keeps single counts, to find a minute's peak however late the shards
/// of one second are folded. Two hours.
const SECONDS_KEPT: u64 = 2 * 60 * 60;
/// How long a reader may hold the database before a commit gives up and tries again later.
const BUSY: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE usage (
        instance TEXT NOT NULL,
        minute   INTEGER NOT NULL,  -- minutes since 1970, UTC
        count    INTEGER NOT NULL,  -- messages billed
        peak     INTEGER NOT NULL,  -- most messages in one second of it
        PRIMARY KEY (instance, minute)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE second (
        second   INTEGER NOT NULL,  -- seconds since 1970, UTC
        instance TEXT NOT NULL,
        count    INTEGER NOT NULL,
        PRIMARY KEY (second, instance)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE total (
        instance TEXT NOT NULL PRIMARY KEY,
        count    INTEGER NOT NULL   -- messages billed, ever
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE watermark (
        generation INTEGER NOT NULL,
        shard      INTEGER NOT NULL,
        next       INTEGER NOT NULL, -- first sequence number not folded yet
        PRIMARY KEY (generation, shard)
    ) STRICT, WITHOUT ROWID;
";

/// Why the ledger cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database says so.
    #[error("ledger {path}: {source}")]
    Database {
        /// The file.
        path: String,
        /// SQLite's own words.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is something else, or of another version.
    #[error("ledger {path}: {found}; this weir reads format {FORMAT}")]
    Format {
        /// The file.
        path: String,
        /// What it is.
        found: String,
    },
}

/// The rows and the watermark they cover, committed together.
pub struct Ledger {
    connection: Connection,
    path: String,
}

impl Ledger {
    /// Opens the ledger, or makes an empty one.
    ///
    /// # Errors
    /// [`LedgerError`] if the file is not a ledger of this format, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let name = path.display().to_string();
        let database = |source| LedgerError::Database { path: name.clone(), source };
        let connection = Connection::open(path).map_err(database)?;
        let ledger = Self { connection, path: name.clone() };
        ledger.connection.busy_timeout(BUSY).map_err(database)?;
        ledger.prepare()?;
        Ok(ledger)
    }

    /// Opens an existing ledger and changes nothing, while weir runs or is stopped.
    ///
    /// # Errors
    /// [`LedgerError`] if there is none, or it cannot be read.
    pub fn open_to_read(path: &Path) -> Result<Self, LedgerError> {
        let name = path.display().to_string();
        let database = |source| LedgerError::Database { path: name.clone(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(database)?;
        connection.busy_timeout(BUSY).map_err(database)?;
        Ok(Self { connection, path: name.clone() })
    }

    fn prepare(&self) -> Result<(), LedgerError> {
        let pragma = |name: &str| -> Result<i32, LedgerError> {
            self.tried(self.connection.pragma_query_value(None, name, |row| row.get(0)))
        };
        match (pragma("application_id")?, pragma("user_version")?) {
            (0, 0) => {
                let made = self.connection.execute_batch(&format!(
                    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {TABLES}
                     PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};
                     COMMIT;"
                ));
                self.tried(made)
            }
            (APPLICATION_ID, FORMAT) => {
                self.tried(self.connection.execute_batch("PRAGMA synchronous = FULL"))
            }
            (APPLICATION_ID, version) => Err(LedgerError::Format {
                path: self.path.clone(),
                found: format!("it has format {version}"),
            }),
            _ => Err(LedgerError::Format {
                path: self.path.clone(),
                found: "it is not a weir ledger".to_owned(),
            }),
        }
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first sequence number of a stream that is not folded yet.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be read.
    pub fn watermark(&self, stream: StreamId) -> Result<Sequence, LedgerError> {
        let next = self
            .connection
            .prepare_cached("SELECT next FROM watermark WHERE generation = ? AND shard = ?")
            .and_then(|mut statement| {
                let key = params![stream.generation, stream.shard];
                statement.query_row(key, |row| row.get(0)).optional()
            });
        Ok(self.tried(next)?.map_or(Sequence::FIRST, Sequence))
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
        let rows = self.tried(read())?;
        let known = rows.into_iter().filter_map(|(id, n)| Some((InstanceId::parse(&id).ok()?, n)));
        Ok(known.collect())
    }

    /// Commits what was folded: rows, totals and watermarks in one transaction.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing of the fold was committed then.
    pub fn commit(&mut self, fold: &Fold) -> Result<(), LedgerError> {
        let written = self.connection.transaction().and_then(|transaction| {
            write(&transaction, fold)?;
            fail::fail_point!("ledger-before-commit", |_| std::process::abort());
            transaction.commit()
        });
        fail::fail_point!("ledger-after-commit", |_| std::process::abort());
        self.tried(written)
    }

    fn tried<T>(&self, result: rusqlite::Result<T>) -> Result<T, LedgerError> {
        result.map_err(|source| LedgerError::Database { path: self.path.clone(), source })
    }
}

fn write(transaction: &Transaction<'_>, fold: &Fold) -> rusqlite::Result<()> {
    let mut second = transaction.prepare_cached(
        "INSERT INTO second VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET count = count + excluded.count RETURNING count",
    )?;
    let mut minute = transaction.prepare_cached(
        "INSERT INTO usage VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
         SET count = count + excluded.count, peak = max(peak, excluded.peak)",
    )?;
    let mut total = transaction.prepare_cached(
        "INSERT INTO total VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET count = count + excluded.count",
    )?;
    let mut newest = 0;
    for ((instance, at), count) in fold.seconds() {
        let in_second: u64 =
            second.query_row(params![at, instance.as_str(), count], |row| row.get(0))?;
        minute.execute(params![instance.as_str(), at / 60, count, in_second])?;
        total.execute(params![instance.as_str(), count])?;
        newest = newest.max(*at);
    }
    let mut watermark =
        transaction.prepare_cached("INSERT OR REPLACE INTO watermark VALUES (?, ?, ?)")?;
    for (stream, next) in fold.watermarks() {
        watermark.execute(params![stream.generation, stream.shard, next.0])?;
    }
    transaction
        .prepare_cached("DELETE FROM second WHERE second < ?")?
        .execute([newest.saturating_sub(SECONDS_KEPT)])?;
    Ok(())
}
