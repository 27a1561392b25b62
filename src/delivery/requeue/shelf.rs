use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::dead_letters::{DEAD_LETTERS, day_of_file};
use super::super::letter::{Letter, day_of};
use super::lines::{Line, Lines};
use super::settled;
use super::spool::{self, Spooled};
use crate::clock::UnixMillis;

/// Where a dead letter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    #[serde(serialize_with = "write_day", deserialize_with = "read_day")]
    pub(super) day: Date,
    pub(super) offset: u64,
}

fn write_day<S: Serializer>(day: &Date, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(day)
}

fn read_day<'de, D: Deserializer<'de>>(from: D) -> Result<Date, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

/// What was seen on the way through the dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Dead letters that were shown.
    pub dead: u64,
    /// Letters that are requeued and not delivered yet, of all days.
    pub requeued: u64,
    /// Lines that a crash or somebody else has spoilt.
    pub unreadable: u64,
}

/// The dead letters of a data directory, read beside a weir that runs or not. It changes nothing.
pub struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    /// The dead letters of this data directory; there may be none.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join(DEAD_LETTERS) }
    }

    /// Shows each letter that is dead now and was given up within these moments, oldest first,
    /// until `see` breaks off. One letter is in memory at a time, and 16 bytes and a MsgId for
    /// each that was requeued.
    ///
    /// # Errors
    /// The operating system's, with the file's name; or what `see` returns.
    pub fn visit(
        &self,
        given_up: &RangeInclusive<UnixMillis>,
        see: &mut dyn FnMut(Place, Letter) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<Counted> {
        // In this order: a letter leaves the folder only after it is noted as settled.
        let mut on_their_way: HashMap<Date, Vec<(u64, String)>> = HashMap::new();
        let mut counted = Counted::default();
        spool::visit(&self.dir, &mut |Spooled { from, letter, .. }| {
            counted.requeued += 1;
            on_their_way.entry(from.day).or_default().push((from.offset, letter.msg_id));
        })?;
        let days = day_of(*given_up.start())..=day_of(*given_up.end());
        for (day, path) in self.days()?.into_iter().filter(|(day, _)| days.contains(day)) {
            let named = |error| named(&path, error);
            let mut gone = settled::of_day(&self.dir, day).map_err(named)?;
            gone.extend(on_their_way.remove(&day).unwrap_or_default());
            let Some(mut lines) = Lines::open(&path).map_err(named)? else { continue };
            while let Some(line) = lines.next().map_err(named)? {
                let letter = match line {
                    Line::Whole(offset, line) => {
                        serde_json::from_slice::<Letter>(line).ok().map(|letter| (offset, letter))
                    }
                    Line::TooLong => None,
                };
                // A torn line's message is still in the journal, or on its way, and buried again.
                let Some((offset, letter)) = letter else {
                    counted.unreadable += 1;
                    continue;
                };
                if !given_up.contains(&letter.given_up_at())
                    || !gone.is_empty() && gone.contains(&(offset, letter.msg_id.clone()))
                {
                    continue;
                }
                counted.dead += 1;
                if see(Place { day, offset }, letter)?.is_break() {
                    return Ok(counted);
                }
            }
        }
        Ok(counted)
    }

    /// The files of letters, oldest first.
    fn days(&self) -> io::Result<Vec<(Date, PathBuf)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            opened => opened.map_err(|error| named(&self.dir, error))?,
        };
        let mut days = vec![];
        for entry in entries {
            let path = entry.map_err(|error| named(&self.dir, error))?.path();
            days.extend(day_of_file(&path).map(|day| (day, path)));
        }
        days.sort();
        Ok(days)
    }
}

/// An error that says which file.
pub(super) fn named(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
