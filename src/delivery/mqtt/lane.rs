use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot, watch};

use super::backoff::Backoff;
use super::config::Config;
use super::dial::{self, Opened};
use super::in_flight::{InFlight, Rewound, STRIKES_MAX};
use super::packet::{self, Malformed, Received, Verdict};
use super::session::{ANSWERED_WITHIN, Session, write};
use crate::clock::Clock;
use crate::delivery::broker::{PublishError, RefusedBy};
use crate::message::Message;
use crate::metering::DeliveryMetrics;

/// Bytes that wait for the socket before no more messages are written out.
const OUTBOUND_BYTES_MAX: usize = 256 * 1024;
/// Withdrawn messages a lane without a connection may keep, beside those that are still wanted.
const WITHDRAWN_MESSAGES_MAX: usize = 64;
/// A connection that the broker closes this soon after a message may be closed for its sake.
const BLAMED_WITHIN: Duration = Duration::from_secs(5);
/// A connection that was good for this long is made again without much waiting.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// A message on its way to the broker, and who waits for the broker's word.
pub(super) struct Parcel {
    pub(super) message: Message,
    pub(super) topic: Bytes,
    pub(super) settler: oneshot::Sender<Result<(), PublishError>>,
}

/// One connection to the broker, made again whenever it is lost.
pub(super) struct Lane {
    pub(super) config: Arc<Config>,
    pub(super) client_id: String,
    pub(super) intake: mpsc::Receiver<Parcel>,
    pub(super) table: InFlight<Parcel>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: DeliveryMetrics,
    pub(super) stop: watch::Receiver<bool>,
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("weir stops")]
    Stopped,
    #[error("the broker closed it")]
    Closed,
    #[error("{0}")]
    Failed(io::Error),
    #[error("the broker says {0}")]
    Told(String, bool),
    #[error("nothing was heard for {0:?}, one and a half keep-alives")]
    Silent(Duration),
    #[error("the oldest message on its way has no PUBACK after {ANSWERED_WITHIN:?}")]
    Unanswered,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// What a step has waited for.
enum Happened {
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    Handed(Parcel),
    Nothing,
}

impl Lane {
    /// Carries messages until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut complained = None;
        while !*self.stop.borrow() {
            let dialled = tokio::select! {
                dialled = dial::dial(&self.config, &self.client_id) => dialled,
                never = gather(&mut self.intake, &mut self.table) => match never {},
                _ = self.stop.wait_for(|stop| *stop) => return,
            };
            match dialled {
                Ok(opened) => {
                    complained = None;
                    let version = opened.version;
                    tracing::info!(
                        broker = %self.config.address, ?version, client_id = %self.client_id,
                        "connected to the broker"
                    );
                    self.metrics.connections.inc();
                    let lost = self.carry(opened, &mut backoff).await;
                    self.metrics.connections.dec();
                    if matches!(lost, Lost::Stopped) {
                        return;
                    }
                    self.count_lost(&lost);
                }
                Err(error) => {
                    // An outage is said once, and again when its reason changes.
                    let error = error.to_string();
                    if complained.as_ref() != Some(&error) {
                        tracing::warn!(
                            broker = %self.config.address, client_id = %self.client_id, %error,
                            "no connection to the broker; messages wait in the journal"
                        );
                        complained = Some(error);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.wait()) => {}
                never = gather(&mut self.intake, &mut self.table) => match never {},
                _ = self.stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// Works on one connection until it is lost, and sets the table back.
    async fn carry(&mut self, opened: Opened, backoff: &mut Backoff) -> Lost {
        let began = self.clock.now();
        let mut session = Session::new(opened, self.config.keep_alive, began);
        let lost = loop {
            if let Err(lost) = self.step(&mut session, backoff).await {
                break lost;
            }
        };
        if session.heard.saturating_duration_since(began) >= STEADY_AFTER {
            backoff.reset();
        }
        let right_after = session.published.is_some_and(|published| {
            self.clock.now().saturating_duration_since(published) <= BLAMED_WITHIN
        });
        let blamed = right_after
            && match &lost {
                // An answer the codec does not know is as good as none.
                Lost::Closed | Lost::Failed(_) | Lost::Malformed(_) => true,
                Lost::Told(_, blamed) => *blamed,
                Lost::Stopped | Lost::Silent(_) | Lost::Unanswered => false,
            };
        if matches!(lost, Lost::Stopped) {
            session.say_farewell().await;
        }
        let Rewound { again, poison } = self.table.rewind(blamed);
        self.metrics.duplicates_possible.inc_by(again as u64);
        if let Some(parcel) = poison {
            parcel.settle(Err(RefusedBy::ConnectionClosed { times: STRIKES_MAX }.into()));
        }
        lost
    }

    fn count_lost(&self, lost: &Lost) {
        self.metrics.disconnects.inc();
        tracing::warn!(
            broker = %self.config.address, client_id = %self.client_id, error = %lost,
            unacknowledged = self.table.len(), "the connection to the broker is lost"
        );
    }

    /// Waits for the next thing to happen, and does what follows from it.
    async fn step(&mut self, session: &mut Session, backoff: &mut Backoff) -> Result<(), Lost> {
        self.send(session);
        let limit = self.limit(session);
        let wait = session.wait(self.clock.now());
        let Session { reader, writer, inbound, outbound, .. } = session;
        let has_output = session.unflushed || !outbound.is_empty();
        let happened = tokio::select! {
            read = reader.read_buf(inbound) => Happened::Read(read),
            wrote = write(writer, outbound), if has_output => Happened::Wrote(wrote),
            Some(parcel) = self.intake.recv(), if self.table.len() < limit => {
                Happened::Handed(parcel)
            }
            () = tokio::time::sleep(wait) => Happened::Nothing,
            _ = self.stop.wait_for(|stop| *stop) => return Err(Lost::Stopped),
        };
        match happened {
            Happened::Read(read) => {
                if read.map_err(Lost::Failed)? == 0 {
                    return Err(Lost::Closed);
                }
                self.hear(session, backoff)?;
            }
            Happened::Wrote(Ok(0)) => session.unflushed = false,
            Happened::Wrote(Ok(_)) => {
                session.unflushed = true;
                session.wrote = self.clock.now();
            }
            Happened::Wrote(Err(error)) => {
                self.hear_last_words(session, backoff)?;
                return Err(Lost::Failed(error));
            }
            Happened::Handed(parcel) => {
                self.table.push(parcel);
                while self.table.len() < limit
                    && let Ok(parcel) = self.intake.try_recv()
                {
                    self.table.push(parcel);
                }
            }
            Happened::Nothing => {}
        }
        let now = self.clock.now();
        session.note_oldest(self.table.oldest_sent(), now);
        session.look_at_the_time(now)
    }

    /// A broker that closes may have said what it took and why it goes, and that waits to be read
    /// when a write already fails.
    fn hear_last_words(
        &mut self,
        session: &mut Session,
        backoff: &mut Backoff,
    ) -> Result<(), Lost> {
        while let Some(Ok(1..)) = session.reader.read_buf(&mut session.inbound).now_or_never() {
            self.hear(session, backoff)?;
        }
        Ok(())
    }

    fn hear(&mut self, session: &mut Session, backoff: &mut Backoff) -> Result<(), Lost> {
        session.heard = self.clock.now();
        while let Some(received) = packet::read(session.version, &mut session.inbound)? {
            self.receive(received, session, backoff)?;
        }
        Ok(())
    }

    fn limit(&self, session: &Session) -> usize {
        session.granted.in_flight_messages_max.min(self.config.in_flight_messages_max)
    }

    /// Writes out what may go out now.
    fn send(&mut self, session: &mut Session) {
        let limit = self.limit(session);
        if session.paused_until.is_some() {
            return;
        }
        while session.outbound.len() < OUTBOUND_BYTES_MAX {
            let Some(parcel) = self.table.next(limit) else { return };
            if parcel.settler.is_closed() {
                self.table.discard();
                continue;
            }
            let (message, topic) = (parcel.message.clone(), parcel.topic.clone());
            let Some(id) = self.table.send() else { return };
            match session.publish(id, &message, &topic) {
                Ok(()) => session.published = Some(self.clock.now()),
                Err(refused) => {
                    if let Some(parcel) = self.table.take_back(id) {
                        parcel.settle(Err(refused.into()));
                    }
                }
            }
        }
    }

    fn receive(
        &mut self,
        received: Received,
        session: &mut Session,
        backoff: &mut Backoff,
    ) -> Result<(), Lost> {
        match received {
            Received::Answered(id, Verdict::Later(code)) => {
                if self.table.postpone(id) {
                    let wait = session.pauses.wait();
                    session.paused_until = Some(self.clock.now() + wait);
                    tracing::warn!(code, ?wait, "the broker asks to send a message later");
                }
            }
            Received::Answered(id, verdict) => {
                backoff.reset();
                session.pauses.reset();
                if let Some(parcel) = self.table.acknowledge(id) {
                    parcel.settle(match verdict {
                        Verdict::Never(code) => Err(RefusedBy::ReasonCode(code).into()),
                        Verdict::Taken | Verdict::Later(_) => Ok(()),
                    });
                }
            }
            Received::Closing(why, blamed) => return Err(Lost::Told(why, blamed)),
            Received::Opened(_)
            | Received::OtherVersion
            | Received::Refused(_)
            | Received::Alive => {}
        }
        Ok(())
    }
}

/// Takes in what is handed over while there is no connection, and lets go of what is withdrawn: if
/// the broker is away for long, couriers give up what they handed over, and hand over more.
async fn gather(intake: &mut mpsc::Receiver<Parcel>, table: &mut InFlight<Parcel>) -> Infallible {
    loop {
        table.retain(|parcel| !parcel.settler.is_closed());
        for _ in 0..WITHDRAWN_MESSAGES_MAX {
            let Some(parcel) = intake.recv().await else { return std::future::pending().await };
            table.push(parcel);
        }
    }
}

impl Parcel {
    fn settle(self, outcome: Result<(), PublishError>) {
        // A courier that does not wait any more has given the message up.
        let _ = self.settler.send(outcome);
    }
}

#[cfg(test)]
#[path = "tests/lane.rs"]
mod tests;
