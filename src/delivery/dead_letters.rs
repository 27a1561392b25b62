//! Messages that were billed and can never be delivered: a JSON object a line, in a file a day of
//! UTC, on disk before their place in the journal is passed.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::civil::Date;

use crate::clock::UnixMillis;
use crate::message::Message;

use super::broker::RefusedBy;
use super::letter::{Letter, day_of};

/// The folder of dead letters in the data directory.
pub const DEAD_LETTERS: &str = "dead-letters";
const EXTENSION: &str = "ndjson";
/// Beside a file of letters: those of them that were requeued and are settled.
pub(super) const SETTLED_EXTENSION: &str = "requeued";
/// Bytes read at once while the letters of a file are counted.
const CHUNK_BYTES: usize = 64 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The folder of dead letters, and the file of the day.
pub struct DeadLetters {
    dir: PathBuf,
    today: Option<(Date, File)>,
}

/// Why a message became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It waited longer than the retention.
    Expired,
    /// The broker will never take it.
    Refused(RefusedBy),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("it waited longer than the retention"),
            Self::Refused(by) => by.fmt(f),
        }
    }
}

impl DeadLetters {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.to_path_buf(), today: None })
    }

    /// Keeps messages in the file of the day, with one sync.
    ///
    /// # Errors
    /// The operating system's; none of them is kept then.
    pub fn keep(&mut self, letters: &[(Message, Reason)], now: UnixMillis) -> io::Result<()> {
        let mut text = vec![];
        for (message, reason) in letters {
            serde_json::to_writer(&mut text, &Letter::of(message, *reason, now))?;
            text.push(b'\n');
        }
        let file = self.file(day_of(now))?;
        let before = file.metadata()?.len();
        let written = file.write_all(&text).and_then(|()| file.sync_data());
        if written.is_err() {
            // What is there of them would be there twice. Half a line that cannot be taken back is
            // ended when the file is opened anew.
            let _ = file.set_len(before);
            self.today = None;
        }
        written
    }

    fn file(&mut self, day: Date) -> io::Result<&mut File> {
        let file = match self.today.take().filter(|(open, _)| *open == day) {
            Some((_, file)) => file,
            None => {
                let path = self.dir.join(format!("{day}.{EXTENSION}"));
                let file = open_whole(&path)?;
                File::open(&self.dir)?.sync_all()?;
                file
            }
        };
        Ok(&mut self.today.insert((day, file)).1)
    }

    /// Removes the oldest file all of whose letters are older than `kept`, and returns how many of
    /// them were dead still; 0 if there is none. A name that is no day's is left alone.
    ///
    /// # Errors
    /// The operating system's; the file is still there then.
    pub fn purge_one(dir: &Path, now: UnixMillis, kept: Duration) -> io::Result<u64> {
        // A file holds letters up to the end of its day.
        let oldest_kept = day_of(now.minus(kept).minus(DAY));
        let mut oldest: Option<(Date, PathBuf)> = None;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let day = day_of_file(&path).or_else(|| day_of_file_as(&path, SETTLED_EXTENSION));
            let day = day.filter(|day| *day <= oldest_kept);
            if let Some(day) = day.filter(|day| oldest.as_ref().is_none_or(|(old, _)| day < old)) {
                oldest = Some((day, path));
            }
        }
        let Some((_, path)) = oldest else { return Ok(0) };
        let (letters, settled) =
            (path.with_extension(EXTENSION), path.with_extension(SETTLED_EXTENSION));
        let dead = lines(&letters)?.saturating_sub(lines(&settled)?);
        // In this order: without its notes a letter would be dead again.
        remove_if_any(&letters)?;
        remove_if_any(&settled)?;
        Ok(dead)
    }
}

/// The day whose letters a file holds, if it holds any.
pub(super) fn day_of_file(path: &Path) -> Option<Date> {
    day_of_file_as(path, EXTENSION)
}

fn day_of_file_as(path: &Path, extension: &str) -> Option<Date> {
    path.extension().filter(|ending| *ending == extension)?;
    path.file_stem()?.to_str()?.parse().ok()
}

fn remove_if_any(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Opens a file to append whole lines: one that a crash or a full disk has torn is ended first.
pub(super) fn open_whole(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != [b'\n'] {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// Lines of a file; none if there is no such file.
fn lines(path: &Path) -> io::Result<u64> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        opened => opened?,
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut lines = 0;
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(lines),
            read => lines += memchr::memchr_iter(b'\n', &chunk[..read]).count() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::{InstanceId, MessageId, Payload, Topic};

    const HOUR: Duration = Duration::from_secs(3_600);
    /// 2026-11-23T23:30:00Z.
    const LATE: UnixMillis = UnixMillis(1_795_476_600_000);

    fn message() -> Message {
        Message {
            id: MessageId::from_u128(0xA),
            instance: InstanceId::parse("post-cn-a").unwrap(),
            topic: Topic::parse("TopicA").unwrap(),
            payload: Payload::new(Bytes::from_static(b"hello")).unwrap(),
            admitted_at: UnixMillis(5),
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_letter_is_a_line_in_the_file_of_the_day_it_was_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("dead-letters");
        let mut letters = DeadLetters::open(&dir).unwrap();
        letters.keep(&[(message(), Reason::Expired)], LATE).unwrap();
        letters.keep(&[(message(), Reason::Expired)], LATE.plus(HOUR)).unwrap();
        drop(letters);
        let mut letters = DeadLetters::open(&dir).unwrap();
        letters.keep(&[(message(), Reason::Expired)], LATE.plus(HOUR)).unwrap();
        assert_eq!(names(&dir), ["2026-11-23.ndjson", "2026-11-24.ndjson"]);
        assert_eq!(
            fs::read_to_string(dir.join("2026-11-23.ndjson")).unwrap(),
            "{\"msg_id\":\"0000000000000000000000000000000A\",\"instance_id\":\"post-cn-a\",\
             \"topic\":\"TopicA\",\"admitted_at_ms\":5,\"given_up_at_ms\":1795476600000,\
             \"reason\":\"it waited longer than the retention\",\
             \"payload_base64\":\"aGVsbG8=\"}\n"
        );
        assert_eq!(lines(&dir.join("2026-11-24.ndjson")).unwrap(), 2);
    }

    #[test]
    fn a_line_that_a_crash_has_torn_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("2026-11-23.ndjson");
        fs::write(&path, "{\"msg_id\":\"00").unwrap();
        let mut letters = DeadLetters::open(folder.path()).unwrap();
        letters.keep(&[(message(), Reason::Expired)], LATE).unwrap();
        letters.keep(&[(message(), Reason::Expired)], LATE).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let whole =
            text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
        assert_eq!((whole.count(), text.lines().count()), (2, 3), "{text}");
    }

    #[test]
    fn a_file_goes_when_its_last_letter_is_too_old_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let mut letters = DeadLetters::open(dir).unwrap();
        letters.keep(&[(message(), Reason::Expired)], LATE).unwrap();
        letters.keep(&[(message(), Reason::Expired)], LATE).unwrap();
        letters.keep(&[(message(), Reason::Expired)], LATE.plus(HOUR)).unwrap();
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        let kept = DAY * 2;
        let purge = |after| DeadLetters::purge_one(dir, LATE.plus(after), kept).unwrap();
        // The letters are two days old, the end of their day is not.
        assert_eq!(purge(kept), 0);
        assert_eq!(purge(kept + HOUR), 2);
        assert_eq!(purge(kept + HOUR), 0);
        assert_eq!(names(dir), ["2026-11-24.ndjson", "notes.txt"]);
        assert_eq!(purge(kept + HOUR + DAY), 1);
        assert_eq!(names(dir), ["notes.txt"]);
    }
}
