use rusqlite::{Transaction, params};

use super::booking::{change_total, total};
use super::seal::{self, HourDigest, NO_CHUNK};

/// Closed hours whose rows are removed in one transaction, at most: about 3,000 rows.
const PURGED_HOURS_MAX: u32 = 50;

/// What a step of the purge removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Minute rows and adjustments removed.
    pub rows: u64,
    /// Closed hours whose rows were removed; 0 if nothing is left to remove.
    pub hours: u64,
}

/// Closes the oldest hour in `closed..until` that has rows, for every instance, and returns the
/// first hour that is open then.
pub(super) fn close_oldest(
    transaction: &Transaction<'_>,
    closed: u64,
    until: u64,
) -> rusqlite::Result<Option<u64>> {
    let instances: Vec<String> = transaction
        .prepare_cached("SELECT instance FROM total")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut oldest: Option<u64> = transaction
        .prepare_cached("SELECT min(hour) FROM adjustment WHERE hour >= ?")?
        .query_row([closed], |row| row.get(0))?;
    let mut first = transaction
        .prepare_cached("SELECT min(minute) FROM usage WHERE instance = ? AND minute >= ?")?;
    for instance in &instances {
        let minute: Option<u64> =
            first.query_row(params![instance, closed * 60], |row| row.get(0))?;
        let hour = minute.map(|minute| minute / 60);
        oldest = oldest.into_iter().chain(hour).min();
    }
    let Some(hour) = oldest.filter(|hour| *hour < until) else { return Ok(None) };
    for instance in &instances {
        close(transaction, instance, hour)?;
    }
    let next = hour + 1;
    transaction
        .prepare_cached("UPDATE closed SET before = ?, sum = ?")?
        .execute(params![next, seal::closed_sum(next)])?;
    Ok(Some(next))
}

/// Writes the chunk of one instance and hour, if it has rows.
fn close(transaction: &Transaction<'_>, instance: &str, hour: u64) -> rusqlite::Result<()> {
    let mut digest = HourDigest::default();
    let mut rows: u64 = 0;
    let mut minutes = transaction.prepare_cached(
        "SELECT minute, count, peak FROM usage
         WHERE instance = ? AND minute >= ? AND minute < ? ORDER BY minute",
    )?;
    let mut found = minutes.query(params![instance, hour * 60, (hour + 1) * 60])?;
    while let Some(row) = found.next()? {
        digest.minute(row.get(0)?, row.get(1)?, row.get(2)?);
        rows += 1;
    }
    let mut adjustments = transaction.prepare_cached(
        "SELECT minute, count, peak FROM adjustment
         WHERE hour = ? AND instance = ? ORDER BY minute",
    )?;
    let mut found = adjustments.query(params![hour, instance])?;
    while let Some(row) = found.next()? {
        digest.adjustment(row.get(0)?, row.get(1)?, row.get(2)?);
        rows += 1;
    }
    if rows == 0 {
        return Ok(());
    }
    let content = digest.finish();
    let previous = total(transaction, instance)?.map_or(NO_CHUNK, |(total, _)| total.head);
    let hash = seal::chunk_hash(instance, hour, &content, &previous);
    transaction.prepare_cached("INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1)")?.execute(
        params![
            instance,
            hour,
            content.count,
            content.peak,
            content.adjusted,
            &content.minutes[..],
            &previous[..],
            &hash[..],
        ],
    )?;
    change_total(transaction, instance, |total| {
        total.chunks += 1;
        total.head = hash;
    })
}

/// Removes the rows of a few closed hours before `before`, oldest first.
pub(super) fn purge(transaction: &Transaction<'_>, before: u64) -> rusqlite::Result<Purged> {
    let oldest: Vec<(String, u64)> = transaction
        .prepare_cached(
            "SELECT instance, hour FROM chunk
             WHERE kept = 1 AND hour < ? ORDER BY hour LIMIT ?",
        )?
        .query_map(params![before, PURGED_HOURS_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut purged = Purged::default();
    for (instance, hour) in oldest {
        let removed = transaction
            .prepare_cached("DELETE FROM usage WHERE instance = ? AND minute >= ? AND minute < ?")?
            .execute(params![instance, hour * 60, (hour + 1) * 60])?;
        let adjusted = transaction
            .prepare_cached("DELETE FROM adjustment WHERE hour = ? AND instance = ?")?
            .execute(params![hour, instance])?;
        transaction
            .prepare_cached("UPDATE chunk SET kept = 0 WHERE instance = ? AND hour = ?")?
            .execute(params![instance, hour])?;
        purged.rows += (removed + adjusted) as u64;
        purged.hours += 1;
    }
    Ok(purged)
}
