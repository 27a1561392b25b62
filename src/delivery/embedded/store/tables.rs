//! The file. Times are milliseconds since 1970, UTC; what is 0 or 1 is a yes or no.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

/// `PRAGMA application_id` of this file: "weid" in ASCII.
const APPLICATION_ID: i32 = 0x7765_6964;
/// `PRAGMA user_version`: the format of the tables below. A number is never used twice.
const FORMAT: i32 = 1;
/// How long another process may hold the database before a commit gives up and tries again later.
const BUSY: Duration = Duration::from_secs(5);
/// Statements kept prepared: more than a transaction takes.
const STATEMENTS_MAX: usize = 32;
/// What a write-ahead log may keep of the disk once it is written back.
const LOG_BYTES_MAX: u32 = 64 << 20;

const TABLES: &str = "
    CREATE TABLE session (
        id       INTEGER NOT NULL PRIMARY KEY,
        instance TEXT NOT NULL,
        client   TEXT NOT NULL,
        version  INTEGER NOT NULL,  -- of MQTT: 4 is 3.1.1, 5 is 5.0
        expiry   INTEGER NOT NULL,  -- seconds it outlives its connection
        created  INTEGER NOT NULL,
        away     INTEGER NOT NULL,  -- when its connection ended; 0 while connected
        sent     INTEGER NOT NULL   -- copies before this place may have been sent
    ) STRICT;
    CREATE TABLE subscription (
        session     INTEGER NOT NULL,
        filter      TEXT NOT NULL,     -- without $share/{group}/
        share       TEXT,
        qos         INTEGER NOT NULL,
        no_local    INTEGER,           -- this and the next: null for MQTT 3.1.1
        as_retained INTEGER,
        retained    INTEGER,           -- retain handling, 0 to 2
        identifier  INTEGER,           -- 0 is none
        PRIMARY KEY (session, filter)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE body (                -- what the copies of a message share
        id         INTEGER NOT NULL PRIMARY KEY,
        topic      TEXT NOT NULL,
        payload    BLOB NOT NULL,
        properties TEXT NOT NULL,      -- see properties.rs
        created    INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE copy (                -- what a device has yet to acknowledge
        session     INTEGER NOT NULL,
        place       INTEGER NOT NULL,  -- the order of a session; given to no other copy
        body        INTEGER NOT NULL,
        qos         INTEGER NOT NULL,
        retain      INTEGER NOT NULL,
        packet      INTEGER NOT NULL,  -- packet id it was sent with; 0 if that is not known
        identifiers TEXT NOT NULL,     -- subscription identifiers, by comma
        PRIMARY KEY (session, place)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE retained (
        instance   TEXT NOT NULL,
        topic      TEXT NOT NULL,
        payload    BLOB NOT NULL,
        properties TEXT NOT NULL,
        qos        INTEGER NOT NULL,
        created    INTEGER NOT NULL,
        publisher  TEXT NOT NULL,      -- client id
        PRIMARY KEY (instance, topic)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE seen (at INTEGER NOT NULL) STRICT;  -- when weir last wrote here
    INSERT INTO seen VALUES (0);
";

/// Why stored sessions cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database says so.
    #[error(
        "stored sessions {path}: {source}; let weir read and write this file and its folder, or \
         move the file away to begin without stored sessions and retained messages"
    )]
    Database {
        /// The file.
        path: String,
        /// SQLite's own words.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is something else, or of another version.
    #[error(
        "stored sessions {path}: {found}; this weir reads format {FORMAT}: start the one that \
         wrote it, or move this file away to begin without stored sessions and retained messages"
    )]
    Format {
        /// The file.
        path: String,
        /// What it is.
        found: String,
    },
    /// A row is not as it was written.
    #[error(
        "stored sessions {path}: {place} is not as it was written; restore the data directory, or \
         move this file away to begin without stored sessions and retained messages"
    )]
    Damaged {
        /// The file.
        path: String,
        /// The row.
        place: String,
    },
    /// Its thread cannot be started.
    #[error("stored sessions: no thread: {0}; allow this process one more thread")]
    Thread(std::io::Error),
}

impl StoreError {
    pub(super) fn database(path: &Path) -> impl FnOnce(rusqlite::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Database { path, source }
    }
}

/// Opens the file to write, or makes an empty one.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = || StoreError::database(path);
    let connection = Connection::open(path).map_err(failed())?;
    connection.busy_timeout(BUSY).map_err(failed())?;
    if identity(&connection, path)? == (0, 0) {
        let make = format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {TABLES}
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
        );
        connection.execute_batch(&make).map_err(failed())?;
    }
    let found = match identity(&connection, path)? {
        (APPLICATION_ID, FORMAT) => None,
        (APPLICATION_ID, version) => Some(format!("it has format {version}")),
        _ => Some("it holds no sessions of weir".to_owned()),
    };
    if let Some(found) = found {
        return Err(StoreError::Format { path: path.display().to_string(), found });
    }
    let tune = format!("PRAGMA synchronous = FULL; PRAGMA journal_size_limit = {LOG_BYTES_MAX};");
    connection.execute_batch(&tune).map_err(failed())?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

fn identity(connection: &Connection, path: &Path) -> Result<(i32, i32), StoreError> {
    let pragma = |name: &str| {
        let value = connection.pragma_query_value(None, name, |row| row.get(0));
        value.map_err(StoreError::database(path))
    };
    Ok((pragma("application_id")?, pragma("user_version")?))
}
