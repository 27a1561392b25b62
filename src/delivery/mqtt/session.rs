use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use super::backoff::Backoff;
use super::dial::{Io, Opened};
use super::lane::Lost;
use super::packet::{self, Granted, Version};
use crate::delivery::broker::RefusedBy;
use crate::message::Message;

/// How long a message may be the oldest on its way. A PUBACK that is missing then does not come any
/// more, and only a new connection may bring the message again (MQTT 5.0, 4.4) or free its packet
/// id.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(5 * 60);
/// How long the last DISCONNECT may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a lane knows of its open connection.
pub(super) struct Session {
    pub(super) reader: ReadHalf<Box<dyn Io>>,
    pub(super) writer: WriteHalf<Box<dyn Io>>,
    pub(super) inbound: BytesMut,
    pub(super) outbound: BytesMut,
    pub(super) unflushed: bool,
    pub(super) version: Version,
    pub(super) granted: Granted,
    keep_alive: Duration,
    pub(super) heard: Instant,
    pinged: Instant,
    /// When bytes last went out.
    pub(super) wrote: Instant,
    pub(super) published: Option<Instant>,
    /// The oldest message on its way, and since when it is the oldest.
    oldest: Option<(u16, Instant)>,
    /// No message goes out before then: the broker has said that it is too much.
    pub(super) paused_until: Option<Instant>,
    pub(super) pauses: Backoff,
}

impl Session {
    pub(super) fn new(opened: Opened, keep_alive: Duration, now: Instant) -> Self {
        let (reader, writer) = tokio::io::split(opened.io);
        // A broker may ask for pings at intervals of its own, and 0 for none: then weir's hold.
        let asked = opened.granted.keep_alive.filter(|asked| !asked.is_zero());
        Self {
            reader,
            writer,
            inbound: opened.inbound,
            outbound: BytesMut::new(),
            unflushed: false,
            version: opened.version,
            granted: opened.granted,
            keep_alive: asked.unwrap_or(keep_alive),
            heard: now,
            pinged: now,
            wrote: now,
            published: None,
            oldest: None,
            paused_until: None,
            pauses: Backoff::default(),
        }
    }

    pub(super) fn publish(
        &mut self,
        id: u16,
        message: &Message,
        topic: &Bytes,
    ) -> Result<(), RefusedBy> {
        let bytes_max = self.granted.packet_bytes_max;
        packet::publish(self.version, id, topic, message, &self.granted, &mut self.outbound)
            .map_err(|bytes| RefusedBy::PacketTooLarge { bytes, bytes_max })
    }

    /// A broker that was not heard for half a keep-alive is asked; and so is one that was sent
    /// nothing for as long, which may close the connection otherwise (MQTT 5.0, 3.1.2.10).
    fn ping_at(&self) -> Instant {
        self.heard.min(self.wrote).max(self.pinged) + self.keep_alive / 2
    }

    fn given_up_at(&self) -> Instant {
        self.heard + self.keep_alive.mul_f64(1.5)
    }

    /// To be told the packet id of the oldest message on its way, whenever that may be another one.
    pub(super) fn note_oldest(&mut self, id: Option<u16>, now: Instant) {
        if self.oldest.map(|(id, _)| id) != id {
            self.oldest = id.map(|id| (id, now));
        }
    }

    /// How long nothing has to be done unless something happens.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let next = self.ping_at().min(self.given_up_at());
        let next = self.paused_until.map_or(next, |until| next.min(until));
        let next = self.oldest.map_or(next, |(_, since)| next.min(since + ANSWERED_WITHIN));
        next.saturating_duration_since(now)
    }

    pub(super) fn look_at_the_time(&mut self, now: Instant) -> Result<(), Lost> {
        self.paused_until = self.paused_until.filter(|until| *until > now);
        if now >= self.given_up_at() {
            return Err(Lost::Silent(self.keep_alive.mul_f64(1.5)));
        }
        if self.oldest.is_some_and(|(_, since)| now >= since + ANSWERED_WITHIN) {
            return Err(Lost::Unanswered);
        }
        if now >= self.ping_at() {
            self.pinged = now;
            packet::ping(&mut self.outbound);
        }
        Ok(())
    }

    pub(super) async fn say_farewell(&mut self) {
        packet::disconnect(&mut self.outbound);
        let farewell = async {
            self.writer.write_all_buf(&mut self.outbound).await?;
            self.writer.shutdown().await
        };
        if let Ok(Err(error)) = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await {
            tracing::debug!(%error, "the broker was not told that weir stops");
        }
    }
}

/// Writes what there is, or flushes what was written (0 bytes); nothing is lost if it is dropped.
pub(super) async fn write(
    writer: &mut WriteHalf<Box<dyn Io>>,
    outbound: &mut BytesMut,
) -> io::Result<usize> {
    if outbound.is_empty() {
        writer.flush().await.map(|()| 0)
    } else {
        writer.write_buf(outbound).await
    }
}
