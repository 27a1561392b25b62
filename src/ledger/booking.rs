use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Transaction, params};

use super::fold::Fold;
use super::seal::{self, Digest, NO_CHUNK, carried};

/// Seconds of which the ledger keeps single counts, to find a minute's peak however late the shards
/// of one second are folded. Two hours.
const SECONDS_KEPT: u64 = 2 * 60 * 60;

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Booked {
    /// Messages that were admitted in a closed hour, and are adjustments of the open one.
    pub late: u64,
}

/// Messages, and the most of them in one second.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: u64,
    peak: u64,
}

/// Writes a fold into its transaction; `closed` is the first hour that is not closed, and what was
/// admitted before it goes to the hour `open`.
pub(super) fn book(
    transaction: &Transaction<'_>,
    fold: &Fold,
    closed: u64,
    open: u64,
) -> rusqlite::Result<Booked> {
    let mut booked = Booked::default();
    let mut minutes: BTreeMap<(&str, u64), Tally> = BTreeMap::new();
    let mut newest = 0;
    for ((instance, second), count) in fold.seconds() {
        let in_second = add_second(transaction, *second, instance.as_str(), *count)?;
        let tally = minutes.entry((instance.as_str(), second / 60)).or_default();
        tally.count += count;
        tally.peak = tally.peak.max(in_second);
        newest = newest.max(*second);
    }
    for ((instance, minute), tally) in minutes {
        if minute / 60 < closed {
            booked.late += tally.count;
            add_adjustment(transaction, open, instance, minute, tally)?;
        } else {
            add_minute(transaction, instance, minute, tally)?;
        }
    }
    for (instance, count) in fold.by_instance() {
        add_total(transaction, instance.as_str(), count)?;
    }
    let mut watermark =
        transaction.prepare_cached("INSERT OR REPLACE INTO watermark VALUES (?, ?, ?, ?)")?;
    for (stream, next) in fold.watermarks() {
        let sum = seal::watermark_sum(*stream, *next);
        watermark.execute(params![stream.generation, stream.shard, next.0, sum])?;
    }
    transaction
        .prepare_cached("DELETE FROM second WHERE second < ?")?
        .execute([newest.saturating_sub(SECONDS_KEPT)])?;
    Ok(booked)
}

/// Adds to a second and returns what it has now.
fn add_second(
    transaction: &Transaction<'_>,
    second: u64,
    instance: &str,
    count: u64,
) -> rusqlite::Result<u64> {
    let before: Option<(u64, u32)> = transaction
        .prepare_cached("SELECT count, sum FROM second WHERE second = ? AND instance = ?")?
        .query_row(params![second, instance], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let now = before.map_or(0, |(count, _)| count) + count;
    let mut sum = seal::second_sum(second, instance, now);
    if let Some((count, stored)) = before {
        sum = carried(stored, seal::second_sum(second, instance, count), sum);
    }
    transaction
        .prepare_cached("INSERT OR REPLACE INTO second VALUES (?, ?, ?, ?)")?
        .execute(params![second, instance, now, sum])?;
    Ok(now)
}

fn add_minute(
    transaction: &Transaction<'_>,
    instance: &str,
    minute: u64,
    Tally { count, peak }: Tally,
) -> rusqlite::Result<()> {
    let before: Option<(u64, u64, u32)> = transaction
        .prepare_cached("SELECT count, peak, sum FROM usage WHERE instance = ? AND minute = ?")?
        .query_row(params![instance, minute], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (had, peaked, _) = before.unwrap_or_default();
    let (count, peak) = (had + count, peaked.max(peak));
    let mut sum = seal::usage_sum(instance, minute, count, peak);
    if let Some((count, peak, stored)) = before {
        sum = carried(stored, seal::usage_sum(instance, minute, count, peak), sum);
    }
    transaction
        .prepare_cached("INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?, ?)")?
        .execute(params![instance, minute, count, peak, sum])?;
    Ok(())
}

fn add_adjustment(
    transaction: &Transaction<'_>,
    hour: u64,
    instance: &str,
    minute: u64,
    Tally { count, peak }: Tally,
) -> rusqlite::Result<()> {
    let before: Option<(u64, u64, u32)> = transaction
        .prepare_cached(
            "SELECT count, peak, sum FROM adjustment
             WHERE hour = ? AND instance = ? AND minute = ?",
        )?
        .query_row(params![hour, instance, minute], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let (had, peaked, _) = before.unwrap_or_default();
    let (count, peak) = (had + count, peaked.max(peak));
    let mut sum = seal::adjustment_sum(hour, instance, minute, count, peak);
    if let Some((count, peak, stored)) = before {
        let written = seal::adjustment_sum(hour, instance, minute, count, peak);
        sum = carried(stored, written, sum);
    }
    transaction
        .prepare_cached("INSERT OR REPLACE INTO adjustment VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(params![hour, instance, minute, count, peak, sum])?;
    Ok(())
}

fn add_total(transaction: &Transaction<'_>, instance: &str, count: u64) -> rusqlite::Result<()> {
    change_total(transaction, instance, |total| total.count += count)
}

/// What is billed to an instance in all, and where its chain stands.
pub(super) struct Total {
    pub(super) count: u64,
    pub(super) chunks: u64,
    pub(super) head: Digest,
}

pub(super) fn total(
    transaction: &Transaction<'_>,
    instance: &str,
) -> rusqlite::Result<Option<(Total, u32)>> {
    transaction
        .prepare_cached("SELECT count, chunks, head, sum FROM total WHERE instance = ?")?
        .query_row([instance], |row| {
            let total = Total { count: row.get(0)?, chunks: row.get(1)?, head: row.get(2)? };
            Ok((total, row.get(3)?))
        })
        .optional()
}

pub(super) fn change_total(
    transaction: &Transaction<'_>,
    instance: &str,
    change: impl FnOnce(&mut Total),
) -> rusqlite::Result<()> {
    let sum = |total: &Total| seal::total_sum(instance, total.count, total.chunks, &total.head);
    let (total, sum) = match total(transaction, instance)? {
        Some((mut total, stored)) => {
            let before = sum(&total);
            change(&mut total);
            let sum = carried(stored, before, sum(&total));
            (total, sum)
        }
        None => {
            let mut total = Total { count: 0, chunks: 0, head: NO_CHUNK };
            change(&mut total);
            let sum = sum(&total);
            (total, sum)
        }
    };
    let Total { count, chunks, head } = total;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO total VALUES (?, ?, ?, ?, ?)")?
        .execute(params![instance, count, chunks, &head[..], sum])?;
    Ok(())
}
