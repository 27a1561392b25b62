//! What weir tells systemd (`Type=notify`, `WatchdogSec=`); without `NOTIFY_SOCKET` nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use crate::clock::{Clock, SystemClock};
use crate::pipeline::{Readiness, State};

/// How often the state is looked at; a watchdog that wants more is looked at as often as it wants.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How much longer a start may take after each sign of progress, and how often one is given.
const MORE_TIME: Duration = Duration::from_secs(60);
const SIGN_EVERY: Duration = Duration::from_secs(1);

/// Asks for more time to start while a long journal is read.
#[derive(Default)]
pub(super) struct Starting {
    last_sign: Mutex<Option<Instant>>,
}

impl Starting {
    pub(super) fn progress(&self, done_bytes: u64, total_bytes: u64) {
        let now = SystemClock.now();
        let mut last = self.last_sign.lock();
        if last.is_some_and(|last| now.saturating_duration_since(last) < SIGN_EVERY) {
            return;
        }
        *last = Some(now);
        let percent = done_bytes.saturating_mul(100) / total_bytes.max(1);
        let status = format!("recovering the journal, {percent} %");
        let micros = u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::ExtendTimeoutUsec(micros), NotifyState::Status(&status)]);
    }
}

/// Says READY, then every change, and feeds the watchdog for as long as weir is well. The task ends
/// with the runtime; `None` if nobody listens.
pub(super) fn start(readiness: Arc<Readiness>) -> Option<JoinHandle<()>> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let said = readiness.state();
    tell(&[NotifyState::Ready, NotifyState::Status(&said.to_string())]);
    let (looks, fed) = (readiness.looks(), None);
    Some(tokio::spawn(Attendant { readiness, said, looks, watchdog, fed }.run()))
}

struct Attendant {
    readiness: Arc<Readiness>,
    said: State,
    /// Looks of the upkeep when the watchdog was fed last.
    looks: u64,
    /// How often the watchdog is fed, if there is one.
    watchdog: Option<Duration>,
    fed: Option<Instant>,
}

impl Attendant {
    async fn run(mut self) {
        let look_every = self.watchdog.map_or(LOOK_EVERY, |every| every.min(LOOK_EVERY));
        loop {
            self.look();
            tokio::time::sleep(look_every).await;
        }
    }

    fn look(&mut self) {
        let state = self.readiness.state();
        if state != self.said {
            if is_stopping(state) && !is_stopping(self.said) {
                tell(&[NotifyState::Stopping]);
            }
            tell(&[NotifyState::Status(&state.to_string())]);
            self.said = state;
        }
        let Some(every) = self.watchdog else { return };
        let now = SystemClock.now();
        let due = self.fed.is_none_or(|fed| now.saturating_duration_since(fed) >= every);
        // A poisoned weir is about to end by itself; one whose disk hangs, or whose upkeep does,
        // will not: systemd restarts it.
        let looks = self.readiness.looks();
        let well = !matches!(state, State::Poisoned | State::Stalled) && looks != self.looks;
        if due && well {
            tell(&[NotifyState::Watchdog]);
            (self.looks, self.fed) = (looks, Some(now));
        }
    }
}

const fn is_stopping(state: State) -> bool {
    matches!(state, State::Draining | State::Poisoned)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
