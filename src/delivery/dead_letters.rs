use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::message::Message;

use super::broker::RefusedBy;

/// Messages that were billed and can never be delivered: a JSON object a line, synced line by line.
pub struct DeadLetters(File);

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
        OpenOptions::new().append(true).create(true).open(path).map(Self)
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
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.0.write_all(&text)?;
        self.0.sync_data()
    }
}
