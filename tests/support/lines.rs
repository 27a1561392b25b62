//! What a process writes, line by line: to wait for, and to show when a test fails.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{PATIENCE, now};

/// A longer line is cut where a failure shows it.
const SHOWN_CHARS_MAX: usize = 400;

/// The lines of one pipe, read as they come.
#[derive(Clone)]
pub(crate) struct Lines {
    name: &'static str,
    shared: Arc<(Mutex<Written>, Condvar)>,
}

#[derive(Default)]
struct Written {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Reads `pipe` to its end on a thread of its own; `name` is what failures call it.
    pub(crate) fn of(name: &'static str, pipe: impl Read + Send + 'static) -> Self {
        let lines = Self { name, shared: Arc::default() };
        let writer = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                writer.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
                writer.shared.1.notify_all();
            }
            writer.lock().ended = true;
            writer.shared.1.notify_all();
        });
        lines
    }

    /// Waits until `look` finds something in the lines written so far, or says why it cannot.
    pub(crate) fn wait_for<T>(
        &self,
        awaited: &str,
        mut look: impl FnMut(&[String]) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = now() + PATIENCE;
        let mut written = self.lock();
        loop {
            if let Some(found) = look(&written.lines) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(now());
            if written.ended || left.is_zero() {
                let why = if written.ended { "has ended" } else { "is silent" };
                drop(written);
                let (name, text) = (self.name, self.text());
                return Err(format!("{name} {why} before: {awaited}\n{text}"));
            }
            let woken = self.shared.1.wait_timeout(written, left);
            written = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether this line has been written by now.
    pub(crate) fn any(&self, line: &str) -> bool {
        self.lock().lines.iter().any(|written| written == line)
    }

    /// Everything so far, for a failure.
    pub(crate) fn text(&self) -> String {
        let written = self.lock();
        let shown =
            written.lines.iter().map(|line| match line.char_indices().nth(SHOWN_CHARS_MAX) {
                Some((end, _)) => format!("| {}…\n", &line[..end]),
                None => format!("| {line}\n"),
            });
        shown.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
