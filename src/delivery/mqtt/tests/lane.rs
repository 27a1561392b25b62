use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::packet::{Granted, PACKET_BYTES_MAX, Version};
use super::super::tests::{config, message};
use super::*;
use crate::clock::SystemClock;
use crate::metering::Registry;

/// A connection that takes a PUBLISH and then nothing any more, with words in it that are not
/// noticed before.
struct Broken {
    words: &'static [u8],
    writes: usize,
}

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.writes < 2 {
            return Poll::Pending;
        }
        into.put_slice(std::mem::take(&mut self.words));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Broken {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        match self.writes {
            1 => Poll::Ready(Ok(bytes.len())),
            _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes += 1;
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn broken(words: &'static [u8]) -> Opened {
    let granted =
        Granted { in_flight_messages_max: 9, packet_bytes_max: PACKET_BYTES_MAX, keep_alive: None };
    let io = Box::new(Broken { words, writes: 0 });
    Opened { io, inbound: BytesMut::new(), granted, version: Version::V5 }
}

/// How a lane ends that has sent one message and meets these words at a write that fails, and
/// what it says of the message.
async fn last_words(words: &'static [u8]) -> (Lost, Option<Result<(), PublishError>>) {
    let (handed, intake) = mpsc::channel(1);
    let (_stop, stopped) = watch::channel(false);
    let metrics = DeliveryMetrics::new(&Registry::new()).unwrap();
    let mut lane = Lane {
        config: Arc::new(config(0)),
        client_id: String::new(),
        intake,
        table: InFlight::new(),
        clock: Arc::new(SystemClock),
        metrics,
        stop: stopped,
    };
    let (settler, mut ticket) = oneshot::channel();
    let (message, topic) = (message("TopicA", b"0"), Bytes::from_static(b"TopicA"));
    handed.try_send(Parcel { message, topic, settler }).map_err(drop).unwrap();
    let lost = lane.carry(broken(words), &mut Backoff::default()).await;
    (lost, ticket.try_recv().ok())
}

#[tokio::test]
async fn a_write_that_fails_does_not_throw_away_what_the_broker_has_said() {
    let (lost, outcome) = last_words(&[0x40, 2, 0, 1]).await;
    assert!(matches!(lost, Lost::Failed(_)), "{lost}");
    assert_eq!(outcome, Some(Ok(())), "its PUBACK was there to be read");
    let (lost, outcome) = last_words(&[0xE0, 2, 0x8B, 0]).await;
    assert!(matches!(lost, Lost::Told(_, false)), "shutting down: {lost}");
    assert_eq!(outcome, None);
}

#[test]
fn a_lane_wakes_up_for_the_answer_that_does_not_come() {
    let now = SystemClock.now();
    let mut session = Session::new(broken(&[]), Duration::from_secs(65_535), now);
    assert!(session.wait(now) > ANSWERED_WITHIN);
    session.note_oldest(Some(1), now);
    assert_eq!(session.wait(now), ANSWERED_WITHIN);
    session.note_oldest(None, now);
    assert!(session.wait(now) > ANSWERED_WITHIN);
}
