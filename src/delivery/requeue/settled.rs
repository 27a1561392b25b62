use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::super::dead_letters::{SETTLED_EXTENSION, open_whole};
use super::lines::{Line, Lines};
use super::shelf::Place;
use crate::clock::UnixMillis;

/// What became of a letter that was requeued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The broker has taken it over.
    Delivered,
    /// It was given up again, and is a dead letter of its own.
    DeadAgain,
}

#[derive(Serialize, Deserialize)]
struct Note {
    offset: u64,
    msg_id: String,
    outcome: Outcome,
    settled_at_ms: u64,
}

/// The letters of a day that are settled, by where they are and who.
pub(super) fn of_day(dir: &Path, day: Date) -> io::Result<HashSet<(u64, String)>> {
    let mut settled = HashSet::new();
    let Some(mut lines) = Lines::open(&file_of(dir, day))? else { return Ok(settled) };
    while let Some(line) = lines.next()? {
        let Line::Whole(_, line) = line else { continue };
        // A crash may have torn a line: that letter goes again.
        if let Ok(note) = serde_json::from_slice::<Note>(line) {
            settled.insert((note.offset, note.msg_id));
        }
    }
    Ok(settled)
}

fn file_of(dir: &Path, day: Date) -> PathBuf {
    dir.join(format!("{day}.{SETTLED_EXTENSION}"))
}

/// Notes letters as settled, in a file beside each day's.
pub(super) struct Settled {
    dir: PathBuf,
    open: HashMap<Date, File>,
    /// What is not written yet.
    waiting: VecDeque<(Place, String, Outcome)>,
}

impl Settled {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), open: HashMap::new(), waiting: VecDeque::new() }
    }

    /// Takes one in, to be written.
    pub(super) fn push(&mut self, place: Place, msg_id: String, outcome: Outcome) {
        self.waiting.push_back((place, msg_id, outcome));
    }

    /// Letters that wait to be written down.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Writes down what waits; a kill of the process does not lose it, a power cut may. After an
    /// error those that are not written wait still.
    pub(super) fn write(&mut self, now: UnixMillis) -> io::Result<()> {
        while let Some((place, msg_id, outcome)) = self.waiting.pop_front() {
            let written = self.write_one(place, &msg_id, outcome, now);
            if written.is_err() {
                self.waiting.push_front((place, msg_id, outcome));
                return written;
            }
        }
        Ok(())
    }

    fn write_one(
        &mut self,
        place: Place,
        msg_id: &str,
        outcome: Outcome,
        now: UnixMillis,
    ) -> io::Result<()> {
        let note =
            Note { offset: place.offset, msg_id: msg_id.to_owned(), outcome, settled_at_ms: now.0 };
        let mut line = serde_json::to_vec(&note)?;
        line.push(b'\n');
        let mut file = match self.open.remove(&place.day) {
            Some(file) => file,
            None => open_whole(&file_of(&self.dir, place.day))?,
        };
        // Half a line may be there if this fails: the file is opened anew, and that line ended.
        file.write_all(&line)?;
        self.open.insert(place.day, file);
        Ok(())
    }

    /// Puts everything that was noted of these days on disk. That takes in what is not written by
    /// this one: a kill, or a sync that failed, may have left it in memory.
    pub(super) fn sync(&mut self, days: &[Date]) -> io::Result<()> {
        for &day in days {
            let Entry::Vacant(not_open) = self.open.entry(day) else { continue };
            match File::open(file_of(&self.dir, day)) {
                // A purge has taken it, and its letters with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => {
                    not_open.insert(opened?);
                }
            }
        }
        for (_, file) in self.open.drain() {
            file.sync_data()?;
        }
        File::open(&self.dir)?.sync_all()
    }
}
