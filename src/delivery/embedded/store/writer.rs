use std::sync::Arc;
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, Transaction, params};

use super::desk::Batch;
use super::rows::{Body, Copy, SessionKey, SessionRow, Subscription};
use super::{Shared, properties};
use crate::clock::Clock;

/// First wait after a commit failed; doubled up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Writes batch after batch, a transaction each, on a thread of its own.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Writer {
    /// Ends once the store is closed and everything is written, or cannot be.
    pub(super) fn run(mut self) {
        while let Some((number, batch)) = self.shared.take() {
            // Whoever waits for what was taken back meanwhile waits for no disk.
            if !batch.is_empty() && !self.write_until_it_is_written(&batch) {
                break;
            }
            self.shared.committed(number);
        }
        // Closed before anybody who waits for the end hears of it.
        drop(self.connection);
        self.shared.ended();
    }

    /// False if it was given up because the store is closing.
    fn write_until_it_is_written(&mut self, batch: &Batch) -> bool {
        let mut backoff = BACKOFF_MIN;
        let mut failing = false;
        while let Err(error) = self.write(batch) {
            if !failing {
                tracing::error!(
                    %error,
                    "stored sessions cannot be written: messages wait, new ones are kept back"
                );
            }
            failing = true;
            if self.shared.failed(backoff) {
                return false;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        if failing {
            tracing::warn!("stored sessions can be written again");
        }
        true
    }

    fn write(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        let now = self.clock.unix().0;
        let transaction = self.connection.transaction()?;
        write_sessions(&transaction, batch)?;
        write_copies(&transaction, batch)?;
        write_retained(&transaction, batch)?;
        transaction.prepare_cached("UPDATE seen SET at = ?")?.execute([now])?;
        fail::fail_point!("devices-before-commit", |_| std::process::abort());
        transaction.commit()?;
        fail::fail_point!("devices-after-commit", |_| std::process::abort());
        Ok(())
    }
}

fn write_sessions(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    const OF_A_SESSION: [&str; 3] = [
        "DELETE FROM session WHERE id = ?",
        "DELETE FROM subscription WHERE session = ?",
        "DELETE FROM copy WHERE session = ?",
    ];
    let mut put = transaction
        .prepare_cached("INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?;
    for (SessionKey(key), row) in &batch.sessions {
        let Some(row) = row else {
            for delete in OF_A_SESSION {
                transaction.prepare_cached(delete)?.execute([key])?;
            }
            continue;
        };
        let SessionRow { instance, client, is_v5, expiry, created, away, sent_before } = row;
        let (version, away) = (if *is_v5 { 5 } else { 4 }, away.map_or(0, |at| at.0));
        put.execute(params![
            key,
            instance,
            client,
            version,
            expiry.as_secs(),
            created.0,
            away,
            sent_before
        ])?;
    }
    let mut put = transaction
        .prepare_cached("INSERT OR REPLACE INTO subscription VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?;
    let mut remove =
        transaction.prepare_cached("DELETE FROM subscription WHERE session = ? AND filter = ?")?;
    for ((SessionKey(key), filter), options) in &batch.subscriptions {
        match options.as_ref().map(Subscription::columns) {
            Some(columns) => {
                let (no_local, as_retained, retained, identifier) =
                    columns.v5.map_or((None, None, None, None), |(local, kept, how, id)| {
                        (Some(local), Some(kept), Some(how), Some(id))
                    });
                put.execute(params![
                    key,
                    filter,
                    columns.share,
                    columns.qos,
                    no_local,
                    as_retained,
                    retained,
                    identifier
                ])?
            }
            None => remove.execute(params![key, filter])?,
        };
    }
    Ok(())
}

fn write_copies(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut remove =
        transaction.prepare_cached("DELETE FROM copy WHERE session = ? AND place = ?")?;
    for (SessionKey(key), place) in &batch.copies_gone {
        remove.execute([key, place])?;
    }
    let mut remove = transaction.prepare_cached("DELETE FROM body WHERE id = ?")?;
    for body in &batch.bodies_gone {
        remove.execute([body])?;
    }
    let mut put =
        transaction.prepare_cached("INSERT OR REPLACE INTO body VALUES (?, ?, ?, ?, ?)")?;
    for (number, body) in &batch.bodies {
        let Body { topic, payload, properties, created } = &**body;
        let properties = properties::write(properties);
        put.execute(params![number, &**topic, &**payload, properties, created])?;
    }
    let mut put =
        transaction.prepare_cached("INSERT OR REPLACE INTO copy VALUES (?, ?, ?, ?, ?, ?, ?)")?;
    for ((SessionKey(key), place), (body, copy)) in &batch.copies {
        write_copy(&mut put, (*key, *place, *body), copy)?;
    }
    let mut put = transaction
        .prepare_cached("UPDATE copy SET packet = ?3 WHERE session = ?1 AND place = ?2")?;
    for ((SessionKey(key), place), packet) in &batch.packets {
        put.execute(params![key, place, packet])?;
    }
    Ok(())
}

fn write_copy(
    put: &mut CachedStatement<'_>,
    (key, place, body): (u64, u64, u64),
    copy: &Copy,
) -> rusqlite::Result<()> {
    let ids: Vec<String> = copy.subscription_ids.iter().map(ToString::to_string).collect();
    let qos = copy.qos.value();
    put.execute(params![key, place, body, qos, copy.retain, copy.packet, ids.join(",")])?;
    Ok(())
}

fn write_retained(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut put = transaction
        .prepare_cached("INSERT OR REPLACE INTO retained VALUES (?, ?, ?, ?, ?, ?, ?)")?;
    let mut remove =
        transaction.prepare_cached("DELETE FROM retained WHERE instance = ? AND topic = ?")?;
    for ((instance, topic), row) in &batch.retained {
        match row {
            Some(row) => put.execute(params![
                instance,
                topic,
                &*row.body.payload,
                properties::write(&row.body.properties),
                row.qos.value(),
                row.body.created,
                row.publisher
            ])?,
            None => remove.execute([instance, topic])?,
        };
    }
    Ok(())
}
