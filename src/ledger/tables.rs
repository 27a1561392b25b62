use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// `PRAGMA application_id` of a ledger: "weir" in ASCII.
const APPLICATION_ID: i32 = 0x7765_6972;
/// `PRAGMA user_version`: the format of the tables below. A number is never used twice.
const FORMAT: i32 = 2;
/// How long a reader may hold the database before a commit gives up and tries again later.
const BUSY: Duration = Duration::from_secs(5);

/// Statements kept prepared: more than a fold, a close and a purge take together.
const STATEMENTS_MAX: usize = 32;

/// What `sum`, `minutes` and `hash` cover stands in `seal.rs`. Minutes, hours and seconds are
/// counted from 1970, UTC.
const TABLES: &str = "
    CREATE TABLE usage (
        instance TEXT NOT NULL,
        minute   INTEGER NOT NULL,
        count    INTEGER NOT NULL,  -- messages billed
        peak     INTEGER NOT NULL,  -- most messages in one second of it
        sum      INTEGER NOT NULL,
        PRIMARY KEY (instance, minute)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE adjustment (
        hour     INTEGER NOT NULL,  -- the hour it is billed in
        instance TEXT NOT NULL,
        minute   INTEGER NOT NULL,  -- when its messages were admitted: in an hour closed before
        count    INTEGER NOT NULL,
        peak     INTEGER NOT NULL,
        sum      INTEGER NOT NULL,
        PRIMARY KEY (hour, instance, minute)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE second (
        second   INTEGER NOT NULL,
        instance TEXT NOT NULL,
        count    INTEGER NOT NULL,
        sum      INTEGER NOT NULL,
        PRIMARY KEY (second, instance)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE chunk (
        instance TEXT NOT NULL,
        hour     INTEGER NOT NULL,
        count    INTEGER NOT NULL,  -- messages billed in it, adjustments included
        peak     INTEGER NOT NULL,
        adjusted INTEGER NOT NULL,  -- messages of it that are adjustments
        minutes  BLOB NOT NULL,
        previous BLOB NOT NULL,     -- hash of the instance's chunk before
        hash     BLOB NOT NULL,
        kept     INTEGER NOT NULL,  -- 1: its minute rows and adjustments are here; 0: purged
        PRIMARY KEY (instance, hour)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX chunk_kept ON chunk (hour) WHERE kept = 1;
    CREATE TABLE total (
        instance TEXT NOT NULL PRIMARY KEY,
        count    INTEGER NOT NULL,  -- messages billed, ever
        chunks   INTEGER NOT NULL,  -- closed hours
        head     BLOB NOT NULL,     -- hash of the last of them
        sum      INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE watermark (
        generation INTEGER NOT NULL,
        shard      INTEGER NOT NULL,
        next       INTEGER NOT NULL, -- first sequence number not folded yet
        sum        INTEGER NOT NULL,
        PRIMARY KEY (generation, shard)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE closed (
        before INTEGER NOT NULL PRIMARY KEY, -- every hour before this one is closed
        sum    INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// Why the ledger cannot be opened, read or written.
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
    /// There is no file.
    #[error("ledger {path}: there is none; has weir run with this data_dir?")]
    Missing {
        /// Where it was looked for.
        path: String,
    },
    /// A row is not as it was written, and nothing can be billed on top of it.
    #[error("ledger {path}: {place} is not as it was written; restore the data directory")]
    Damaged {
        /// The file.
        path: String,
        /// The row.
        place: String,
    },
}

impl LedgerError {
    pub(super) fn database(path: &Path) -> impl FnOnce(rusqlite::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Database { path, source }
    }
}

/// Opens the ledger to write, or makes an empty one with this first open hour.
pub(super) fn open(path: &Path, closed_sum: u32) -> Result<Connection, LedgerError> {
    let failed = || LedgerError::database(path);
    let connection = Connection::open(path).map_err(failed())?;
    connection.busy_timeout(BUSY).map_err(failed())?;
    if identity(&connection, path)? == (0, 0) {
        let make = format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {TABLES}
             INSERT INTO closed VALUES (0, {closed_sum});
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
        );
        connection.execute_batch(&make).map_err(failed())?;
    }
    check(&connection, path)?;
    connection.execute_batch("PRAGMA synchronous = FULL").map_err(failed())?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

/// Opens an existing ledger to read, beside whoever writes it.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, LedgerError> {
    if !path.exists() {
        return Err(LedgerError::Missing { path: path.display().to_string() });
    }
    let failed = || LedgerError::database(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed())?;
    connection.busy_timeout(BUSY).map_err(failed())?;
    check(&connection, path)?;
    Ok(connection)
}

fn identity(connection: &Connection, path: &Path) -> Result<(i32, i32), LedgerError> {
    let pragma = |name: &str| {
        let value = connection.pragma_query_value(None, name, |row| row.get(0));
        value.map_err(LedgerError::database(path))
    };
    Ok((pragma("application_id")?, pragma("user_version")?))
}

fn check(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    let found = match identity(connection, path)? {
        (APPLICATION_ID, FORMAT) => return Ok(()),
        (APPLICATION_ID, version) => format!("it has format {version}"),
        _ => "it is not a weir ledger".to_owned(),
    };
    Err(LedgerError::Format { path: path.display().to_string(), found })
}
