use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rmqtt::types::QoS;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use super::properties;
use super::rows::{self, Body, Columns, Copy, Retained, SessionKey, SessionRow, Subscription};
use super::tables::StoreError;
use crate::clock::UnixMillis;

/// Sessions whose rows go in one transaction: a purge shall not hold a start up at one commit.
const ENDED_SESSIONS_MAX: usize = 16;

/// What the file holds.
pub(in super::super) struct Loaded {
    pub(in super::super) sessions: Vec<Kept>,
    /// By instance and topic.
    pub(in super::super) retained: Vec<(String, String, Retained)>,
    /// Copies of sessions that expired while weir was away, by instance.
    pub(in super::super) expired: HashMap<String, u64>,
    /// Greater than every number in use.
    pub(super) next: u64,
}

/// One session.
pub(in super::super) struct Kept {
    pub(in super::super) key: SessionKey,
    pub(in super::super) row: SessionRow,
    pub(in super::super) subscriptions: Vec<(String, Subscription)>,
    /// In order: the place, the body's number, the body, the copy.
    pub(in super::super) copies: Vec<(u64, u64, Arc<Body>, Copy)>,
}

/// Reads everything, and removes sessions that have expired. A device that was connected when weir
/// ended is away since weir was last seen, and may have been sent anything.
pub(super) fn all(
    connection: &mut Connection,
    path: &Path,
    now: UnixMillis,
) -> Result<Loaded, StoreError> {
    let reader = Reader { path };
    let seen = reader.ask(|| {
        connection.query_row("SELECT at FROM seen", [], |row| Ok(UnixMillis(row.get(0)?)))
    })?;
    let next = reader.ask(|| {
        let highest = "SELECT max(coalesce((SELECT max(id) FROM session), 0),
            coalesce((SELECT max(id) FROM body), 0), coalesce((SELECT max(place) FROM copy), 0))";
        connection.query_row(highest, [], |row| row.get::<_, u64>(0))
    })? + 1;
    let mut live = Vec::new();
    let mut over = Vec::new();
    for (key, mut row) in reader.sessions(connection)? {
        if row.away.is_none() {
            (row.away, row.sent_before) = (Some(seen), next);
        }
        let is_over = row.away.is_some_and(|away| now.since(away) >= row.expiry);
        (if is_over { &mut over } else { &mut live }).push((key, row));
    }
    let mut expired = HashMap::new();
    for (_, row) in &over {
        expired.entry(row.instance.clone()).or_insert(0);
    }
    for some in over.chunks(ENDED_SESSIONS_MAX) {
        reader.ask(|| remove(connection, some, &mut expired))?;
    }
    let mut bodies = HashMap::new();
    let mut sessions = Vec::with_capacity(live.len());
    for (key, row) in live {
        sessions.push(reader.session(connection, key, row, &mut bodies)?);
    }
    let retained = reader.retained(connection)?;
    Ok(Loaded { sessions, retained, expired, next })
}

/// Reads one session beside the writer.
pub(super) fn one(path: &Path, key: SessionKey) -> Result<Option<Kept>, StoreError> {
    let reader = Reader { path };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = reader.ask(|| Connection::open_with_flags(path, flags))?;
    // One look at the file for all that is asked: what is done meanwhile is not missing from it.
    let snapshot = reader.ask(|| connection.unchecked_transaction())?;
    let row = reader.ask(|| {
        let find = format!("{SESSIONS} WHERE id = ?");
        snapshot.query_row(&find, [key.0], |row| Ok(session_row(row))).optional()
    })?;
    let Some(row) = row else { return Ok(None) };
    let (_, row) = reader.ask(|| row)?;
    reader.session(&snapshot, key, row, &mut HashMap::new()).map(Some)
}

const SESSIONS: &str = "SELECT * FROM session";

fn session_row(row: &Row<'_>) -> rusqlite::Result<(SessionKey, SessionRow)> {
    let away: u64 = row.get(6)?;
    let session = SessionRow {
        instance: row.get(1)?,
        client: row.get(2)?,
        is_v5: row.get::<_, u8>(3)? == 5,
        expiry: Duration::from_secs(row.get(4)?),
        created: UnixMillis(row.get(5)?),
        away: (away > 0).then_some(UnixMillis(away)),
        sent_before: row.get(7)?,
    };
    Ok((SessionKey(row.get(0)?), session))
}

/// Removes sessions and counts their copies.
fn remove(
    connection: &mut Connection,
    sessions: &[(SessionKey, SessionRow)],
    counted: &mut HashMap<String, u64>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (SessionKey(key), row) in sessions {
        let copies =
            transaction.prepare_cached("DELETE FROM copy WHERE session = ?")?.execute([key])?;
        *counted.entry(row.instance.clone()).or_insert(0) += copies as u64;
        transaction.prepare_cached("DELETE FROM subscription WHERE session = ?")?.execute([key])?;
        transaction.prepare_cached("DELETE FROM session WHERE id = ?")?.execute([key])?;
    }
    transaction.execute("DELETE FROM body WHERE id NOT IN (SELECT body FROM copy)", [])?;
    transaction.commit()
}

struct Reader<'p> {
    path: &'p Path,
}

impl Reader<'_> {
    fn ask<T>(&self, ask: impl FnOnce() -> rusqlite::Result<T>) -> Result<T, StoreError> {
        ask().map_err(StoreError::database(self.path))
    }

    fn damaged(&self, place: String) -> StoreError {
        StoreError::Damaged { path: self.path.display().to_string(), place }
    }

    fn sessions(
        &self,
        connection: &Connection,
    ) -> Result<Vec<(SessionKey, SessionRow)>, StoreError> {
        self.ask(|| {
            let mut statement = connection.prepare(&format!("{SESSIONS} ORDER BY id"))?;
            let rows = statement.query_map([], session_row)?;
            rows.collect()
        })
    }

    fn session(
        &self,
        connection: &Connection,
        key: SessionKey,
        row: SessionRow,
        bodies: &mut HashMap<u64, Arc<Body>>,
    ) -> Result<Kept, StoreError> {
        let subscriptions = self.subscriptions(connection, key)?;
        let listed = self.ask(|| {
            let mut statement = connection.prepare_cached(
                "SELECT place, body, qos, retain, packet, identifiers FROM copy
                 WHERE session = ? ORDER BY place",
            )?;
            let rows = statement.query_map([key.0], |row| {
                let qos = rows::qos(row.get(2)?);
                let identifiers: String = row.get(5)?;
                Ok((row.get(0)?, row.get(1)?, qos, row.get(3)?, row.get(4)?, identifiers))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let mut copies = Vec::with_capacity(listed.len());
        for (place, number, qos, retain, packet, identifiers) in listed {
            let copy = || -> Option<Copy> {
                let subscription_ids = parse_identifiers(&identifiers)?;
                Some(Copy { qos: qos?, retain, packet, subscription_ids })
            };
            let copy = copy().ok_or_else(|| self.damaged(format!("copy {place}")))?;
            let body = match bodies.get(&number) {
                Some(body) => Arc::clone(body),
                None => {
                    let body = Arc::new(self.body(connection, number)?);
                    bodies.insert(number, Arc::clone(&body));
                    body
                }
            };
            copies.push((place, number, body, copy));
        }
        Ok(Kept { key, row, subscriptions, copies })
    }

    fn subscriptions(
        &self,
        connection: &Connection,
        key: SessionKey,
    ) -> Result<Vec<(String, Subscription)>, StoreError> {
        let rows = self.ask(|| {
            let mut statement = connection.prepare_cached(
                "SELECT filter, share, qos, no_local, as_retained, retained, identifier
                 FROM subscription WHERE session = ?",
            )?;
            let rows = statement.query_map([key.0], |row| {
                let no_local: Option<bool> = row.get(3)?;
                let v5 = match no_local {
                    Some(no_local) => Some((no_local, row.get(4)?, row.get(5)?, row.get(6)?)),
                    None => None,
                };
                let columns = Columns { share: row.get(1)?, qos: row.get(2)?, v5 };
                Ok((row.get::<_, String>(0)?, columns))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let subscription = |(filter, columns)| match Subscription::from_columns(columns) {
            Some(subscription) => Ok((filter, subscription)),
            None => Err(self.damaged(format!("subscription {filter} of session {}", key.0))),
        };
        rows.into_iter().map(subscription).collect()
    }

    fn body(&self, connection: &Connection, number: u64) -> Result<Body, StoreError> {
        let row = self.ask(|| {
            connection
                .prepare_cached(
                    "SELECT topic, payload, properties, created FROM body WHERE id = ?",
                )?
                .query_row([number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
                .optional()
        })?;
        let body = row.and_then(body);
        body.ok_or_else(|| self.damaged(format!("message {number}")))
    }

    fn retained(
        &self,
        connection: &Connection,
    ) -> Result<Vec<(String, String, Retained)>, StoreError> {
        type Listed = (String, String, Option<QoS>, (String, Vec<u8>, String, i64), String);
        let rows: Vec<Listed> = self.ask(|| {
            let mut statement = connection.prepare(
                "SELECT instance, topic, qos, payload, properties, created, publisher
                 FROM retained ORDER BY instance, topic",
            )?;
            let rows = statement.query_map([], |row| {
                let topic: String = row.get(1)?;
                let columns = (topic.clone(), row.get(3)?, row.get(4)?, row.get(5)?);
                Ok((row.get(0)?, topic, rows::qos(row.get(2)?), columns, row.get(6)?))
            })?;
            rows.collect()
        })?;
        let retained = |(instance, topic, qos, columns, publisher): Listed| {
            let row = body(columns).zip(qos);
            let (body, qos) =
                row.ok_or_else(|| self.damaged(format!("retained {topic} of {instance}")))?;
            Ok((instance, topic, Retained { body, qos, publisher }))
        };
        rows.into_iter().map(retained).collect()
    }
}

fn body((topic, payload, written, created): (String, Vec<u8>, String, i64)) -> Option<Body> {
    let properties = properties::read(&written)?;
    Some(Body { topic: topic.into(), payload: Bytes::from(payload), properties, created })
}

fn parse_identifiers(text: &str) -> Option<Vec<NonZeroU32>> {
    text.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}
