use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::message::Message;

use super::broker::RefusedBy;

/// Messages that were billed and can never be delivered: a JSON object a line, synced line by line.
pub struct DeadLetters {
    file: File,
    /// The last line may lack its end: a crash or a full disk came between.
    torn: bool,
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

#[derive(Serialize)]
struct Line<'m> {
    msg_id: String,
    instance_id: &'m str,
    topic: &'m str,
    admitted_at_ms: u64,
    reason: String,
    payload_base64: String,
}

impl DeadLetters {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        // Its name lasts as well, or a power cut takes the file with every letter in it.
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        let mut last = [b'\n'];
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self { file, torn: last != [b'\n'] })
    }

    /// Keeps one message for good.
    ///
    /// # Errors
    /// The operating system's; the message is not kept then.
    pub fn keep(&mut self, message: &Message, reason: Reason) -> io::Result<()> {
        let line = Line {
            msg_id: message.id.to_string(),
            instance_id: message.instance.as_str(),
            topic: message.topic.as_str(),
            admitted_at_ms: message.admitted_at.0,
            reason: reason.to_string(),
            payload_base64: STANDARD.encode(message.payload.bytes()),
        };
        let mut text = if self.torn { vec![b'\n'] } else { vec![] };
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
        self.torn = true;
        self.file.write_all(&text)?;
        self.torn = false;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::message::{InstanceId, MessageId, Payload, Topic};

    #[test]
    fn a_line_that_a_crash_has_torn_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        let message = Message {
            id: MessageId::from_u128(7),
            instance: InstanceId::parse("post-cn-test").unwrap(),
            topic: Topic::parse("TopicA").unwrap(),
            payload: Payload::new(Bytes::from_static(b"x")).unwrap(),
            admitted_at: UnixMillis(1),
        };
        let keep = || DeadLetters::open(&path).unwrap().keep(&message, Reason::Expired).unwrap();
        keep();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).unwrap();
        keep();
        keep();
        let text = std::fs::read_to_string(&path).unwrap();
        let good =
            text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
        assert_eq!((text.lines().count(), good.count()), (4, 3), "{text}");
    }
}
