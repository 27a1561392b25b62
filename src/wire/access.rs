//! The access log: a JSON object a line for each answered call, written by a thread of its own.
//!
//! A line names no payload, no key, no signature and no text that a caller chose.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use prometheus::IntCounter;
use serde::Serialize;
use tokio::sync::oneshot;

use super::request_id::{RequestId, SPREAD};
use crate::clock::{Clock, UnixMillis};
use crate::message::InstanceId;

/// Lines that may wait for their writer; more are dropped and counted, for a disk that cannot keep
/// up must not hold calls up.
const WAITING_LINES_MAX: usize = 8_192;
/// Smallest size at which a file is renamed to `{path}.1`, in bytes.
pub const FILE_BYTES_MIN: u64 = 1024 * 1024;
/// Lines between two looks whether somebody has moved the file away, if they come without a pause.
const LINES_A_LOOK: usize = 1_024;

/// What is written down of answered calls.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessConfig {
    /// Where.
    pub to: Destination,
    /// The share of calls answered 200 that is written down, 0 to 1; of the others every one is.
    /// Default 1.
    pub sample: f64,
    /// Bytes of a file at which it is renamed to `{path}.1`, in the place of the one before; at
    /// least [`FILE_BYTES_MIN`]. Default 256 MiB.
    pub file_bytes_max: u64,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output; the log proper is on standard error.
    Stdout,
    /// The end of this file, which is opened anew once it was moved or removed.
    File(PathBuf),
}

/// One answered call.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    pub(super) at: UnixMillis,
    pub(super) request_id: RequestId,
    /// Once it is known to be the caller's.
    pub(super) instance: Option<InstanceId>,
    pub(super) code: &'static str,
    pub(super) status: u16,
    /// Of query and body, where they were read to their end.
    pub(super) bytes_in: usize,
    /// Of the answer's body.
    pub(super) bytes_out: u64,
    pub(super) took: Duration,
    pub(super) peer: IpAddr,
}

/// Takes lines without ever waiting.
#[derive(Clone)]
pub struct AccessLog {
    lines: Sender<Line>,
    dropped: IntCounter,
    sample_below: u64,
    successes: Arc<AtomicU64>,
}

/// Ends once everything is written; the log proper has to be dropped before.
pub struct AccessWriter {
    ended: oneshot::Receiver<()>,
}

impl AccessLog {
    /// Opens the file, if it is one, and starts the writer. `dropped` counts lines that were not
    /// written.
    ///
    /// # Errors
    /// The operating system's, for the file or the thread.
    pub fn start(
        config: &AccessConfig,
        dropped: IntCounter,
        clock: Arc<dyn Clock>,
    ) -> io::Result<(Self, AccessWriter)> {
        let out = match &config.to {
            Destination::Stdout => Out::Stdout,
            Destination::File(path) => Out::file(path, config.file_bytes_max)?,
        };
        let (lines, waiting) = crossbeam_channel::bounded(WAITING_LINES_MAX);
        let (end, ended) = oneshot::channel();
        let writer = Writer { out, clock, dropped: dropped.clone(), reported: 0, failed: false };
        std::thread::Builder::new().name("weir-access-log".into()).spawn(move || {
            writer.run(&waiting);
            // Nobody waits any more if it fails.
            let _ = end.send(());
        })?;
        let sample_below = threshold(config.sample);
        let log = Self { lines, dropped, sample_below, successes: Arc::default() };
        Ok((log, AccessWriter { ended }))
    }

    /// Whether the next call answered 200 is one of those to write down. They are spread evenly
    /// over all of them (a Weyl sequence).
    pub(super) fn samples_success(&self) -> bool {
        let count = self.successes.fetch_add(1, Ordering::Relaxed);
        count.wrapping_mul(SPREAD) < self.sample_below
    }

    pub(super) fn write(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.dropped.inc();
        }
    }
}

impl AccessWriter {
    /// Waits until everything is written, or `patience` has passed.
    pub async fn finish(self, patience: Duration) {
        if tokio::time::timeout(patience, self.ended).await.is_err() {
            tracing::warn!("the access log takes no more lines; some are lost");
        }
    }
}

/// The part of all 64-bit numbers that this share of them is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of 0 to 1, and the cast saturates"
)]
fn threshold(share: f64) -> u64 {
    (share * 2_f64.powi(64)) as u64
}

struct Writer {
    out: Out,
    clock: Arc<dyn Clock>,
    dropped: IntCounter,
    /// Dropped lines that the log itself tells of.
    reported: u64,
    failed: bool,
}

enum Out {
    Stdout,
    File { path: PathBuf, bytes_max: u64, file: BufWriter<File>, bytes: u64 },
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Line>) {
        while let Ok(first) = waiting.recv() {
            let batch = std::iter::once(first).chain(waiting.try_iter());
            for line in batch.take(LINES_A_LOOK) {
                self.attempt(&Written::of(&line));
            }
            self.tell_of_dropped();
            let kept = self.out.flush().and_then(|()| self.out.look());
            self.judge(&kept);
        }
    }

    fn attempt(&mut self, line: &impl Serialize) {
        let written = self.out.line(line);
        if written.is_err() {
            self.dropped.inc();
        }
        self.judge(&written);
    }

    /// A line for those that are missing.
    fn tell_of_dropped(&mut self) {
        #[derive(Serialize)]
        struct Missing {
            time: String,
            dropped: u64,
        }
        let dropped = self.dropped.get();
        if dropped > self.reported {
            let line = Missing { time: time(self.clock.unix()), dropped: dropped - self.reported };
            if self.out.line(&line).is_ok() {
                self.reported = dropped;
            }
        }
    }

    /// Says once that lines cannot be written, and once that they can again.
    fn judge(&mut self, written: &io::Result<()>) {
        match written {
            Err(error) if !self.failed => {
                tracing::error!(%error, "the access log cannot be written");
            }
            Ok(()) if self.failed => tracing::info!("the access log is written again"),
            _ => {}
        }
        self.failed = written.is_err();
    }
}

impl Out {
    fn file(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self::File { path: path.to_owned(), bytes_max, file: BufWriter::new(file), bytes })
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        match self {
            Self::Stdout => io::stdout().lock().write_all(&text),
            Self::File { path, bytes_max, file, bytes } => {
                if *bytes > 0 && *bytes + text.len() as u64 > *bytes_max {
                    file.flush()?;
                    std::fs::rename(&*path, before(path))?;
                    (*file, *bytes) = (BufWriter::new(open(path)?), 0);
                }
                file.write_all(&text)?;
                *bytes += text.len() as u64;
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().flush(),
            Self::File { file, .. } => file.flush(),
        }
    }

    /// Opens the file anew if somebody (logrotate) has moved or removed it.
    fn look(&mut self) -> io::Result<()> {
        let Self::File { path, file, bytes, .. } = self else { return Ok(()) };
        let ours = file.get_ref().metadata()?;
        let there = std::fs::metadata(&*path);
        let same =
            |there: std::fs::Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        if !there.is_ok_and(same) {
            let fresh = open(path)?;
            *bytes = fresh.metadata()?.len();
            *file = BufWriter::new(fresh);
        }
        Ok(())
    }
}

/// Addresses are personal: the file is its owner's and its group's.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// A line as it is written.
#[derive(Serialize)]
struct Written<'l> {
    time: String,
    request_id: &'l str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'l str>,
    code: &'static str,
    status: u16,
    bytes_in: usize,
    bytes_out: u64,
    millis: f64,
    peer: IpAddr,
}

impl<'l> Written<'l> {
    fn of(line: &'l Line) -> Self {
        Self {
            time: time(line.at),
            request_id: str::from_utf8(line.request_id.as_bytes()).unwrap_or_default(),
            instance: line.instance.as_ref().map(InstanceId::as_str),
            code: line.code,
            status: line.status,
            bytes_in: line.bytes_in,
            bytes_out: line.bytes_out,
            millis: (line.took.as_secs_f64() * 1e6).round() / 1e3,
            peer: line.peer,
        }
    }
}

/// RFC 3339 in UTC, to the millisecond.
fn time(at: UnixMillis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::wire::request_id::RequestIds;

    const AT: UnixMillis = UnixMillis(1_795_392_000_007);

    fn line(instance: Option<&str>) -> Line {
        Line {
            at: AT,
            request_id: RequestIds::new(0).next(),
            instance: instance.map(|id| InstanceId::parse(id).unwrap()),
            code: "OK",
            status: 200,
            bytes_in: 100,
            bytes_out: 99,
            took: Duration::from_nanos(1_234_567),
            peer: "2001:db8::1".parse().unwrap(),
        }
    }

    struct Written {
        folder: tempfile::TempDir,
        dropped: IntCounter,
    }

    impl Written {
        fn new() -> Self {
            let dropped = IntCounter::new("dropped", "dropped").unwrap();
            Self { folder: tempfile::tempdir().unwrap(), dropped }
        }

        fn start(&self, sample: f64, file_bytes_max: u64) -> (AccessLog, AccessWriter) {
            let to = Destination::File(self.folder.path().join("access.log"));
            let config = AccessConfig { to, sample, file_bytes_max };
            let clock = Arc::new(ManualClock::at(AT));
            AccessLog::start(&config, self.dropped.clone(), clock).unwrap()
        }

        fn lines(&self, name: &str) -> Vec<String> {
            let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    #[tokio::test]
    async fn a_line_is_pinned() {
        let written = Written::new();
        let (log, writer) = written.start(1.0, u64::MAX);
        log.write(line(Some("post-cn-1")));
        log.write(line(None));
        drop(log);
        writer.finish(Duration::from_secs(20)).await;
        let rest = "\"code\":\"OK\",\"status\":200,\"bytes_in\":100,\"bytes_out\":99,\
                    \"millis\":1.235,\"peer\":\"2001:db8::1\"}";
        let start = "{\"time\":\"2026-11-23T00:00:00.007Z\",\
                     \"request_id\":\"00000000-0000-5000-8000-000000000000\"";
        assert_eq!(
            written.lines("access.log"),
            [format!("{start},\"instance\":\"post-cn-1\",{rest}"), format!("{start},{rest}")]
        );
    }

    #[tokio::test]
    async fn the_disk_holds_two_files_of_the_bound_and_no_more() {
        let written = Written::new();
        let (log, writer) = written.start(1.0, 1_000);
        for _ in 0..100 {
            log.write(line(None));
        }
        drop(log);
        writer.finish(Duration::from_secs(20)).await;
        assert_eq!(written.dropped.get(), 0);
        for name in ["access.log", "access.log.1"] {
            let lines = written.lines(name);
            assert!(lines.iter().all(|line| line.ends_with('}')));
            let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
            assert!(bytes <= 1_000, "{name}: {bytes}");
        }
        assert_eq!(std::fs::read_dir(written.folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn lines_beyond_the_bound_are_dropped_counted_and_told_of() {
        let written = Written::new();
        let (lines, waiting) = crossbeam_channel::bounded(1);
        let dropped = written.dropped.clone();
        let log = AccessLog { lines, dropped, sample_below: 0, successes: Arc::default() };
        (0..3).for_each(|_| log.write(line(None)));
        assert_eq!(written.dropped.get(), 2);
        drop(log);
        let writer = Writer {
            out: Out::file(&written.folder.path().join("access.log"), u64::MAX).unwrap(),
            clock: Arc::new(ManualClock::at(AT)),
            dropped: written.dropped.clone(),
            reported: 0,
            failed: false,
        };
        writer.run(&waiting);
        let lines = written.lines("access.log");
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], "{\"time\":\"2026-11-23T00:00:00.007Z\",\"dropped\":2}");
    }

    #[tokio::test]
    async fn the_share_of_successes_is_the_one_asked_for() {
        let written = Written::new();
        for (share, least, most) in [(0.0, 0, 1), (0.01, 99, 101), (0.5, 4_999, 5_001)] {
            let (log, _writer) = written.start(share, u64::MAX);
            let sampled = (0..10_000).filter(|_| log.samples_success()).count();
            assert!((least..=most).contains(&sampled), "{share}: {sampled}");
        }
        let (log, _writer) = written.start(1.0, u64::MAX);
        assert!((0..10_000).all(|_| log.samples_success()));
    }
}
