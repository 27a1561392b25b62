use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use prometheus::IntGauge;

/// What weir is doing, as `/readyz` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// The journals are being read; nothing is accepted yet.
    Recovering = 0,
    /// Calls are taken.
    Ready = 1,
    /// Calls are finished, none should be sent.
    Draining = 2,
    /// A sync failed; weir takes nothing more and ends.
    Poisoned = 3,
    /// A disk hangs: calls that need it wait, so none should be sent. It may pass.
    Stalled = 4,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recovering => "recovering",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Poisoned => "poisoned",
            Self::Stalled => "stalled: a journal waits for its disk",
        })
    }
}

/// The state, shared; it only ever moves forward, but for a stall that comes and goes while ready.
pub struct Readiness {
    state: AtomicU8,
    stalled: AtomicBool,
    looks: AtomicU64,
    gauge: IntGauge,
}

impl Readiness {
    /// Starts at [`State::Recovering`]; `gauge` is 1 while ready.
    #[must_use]
    pub const fn new(gauge: IntGauge) -> Self {
        let state = AtomicU8::new(State::Recovering as u8);
        Self { state, stalled: AtomicBool::new(false), looks: AtomicU64::new(0), gauge }
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Recovering,
            1 if self.stalled.load(Ordering::Acquire) => State::Stalled,
            1 => State::Ready,
            2 => State::Draining,
            _ => State::Poisoned,
        }
    }

    /// Moves forward; a state that lies behind changes nothing. [`Self::set_stalled`] stalls.
    pub fn advance(&self, to: State) {
        let to = if to == State::Stalled { State::Ready } else { to };
        self.state.fetch_max(to as u8, Ordering::AcqRel);
        self.show();
    }

    /// Says whether a disk hangs, and that somebody looked.
    pub fn set_stalled(&self, stalled: bool) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.stalled.store(stalled, Ordering::Release);
        self.show();
    }

    /// How often [`Self::set_stalled`] was called: a number that stands still is a weir that hangs.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    fn show(&self) {
        self.gauge.set(i64::from(self.state() == State::Ready));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_never_moves_back_but_for_a_stall_that_passes() {
        let readiness = Readiness::new(IntGauge::new("ready", "ready").unwrap());
        assert_eq!(readiness.state(), State::Recovering);
        readiness.advance(State::Ready);
        assert_eq!((readiness.state(), readiness.gauge.get()), (State::Ready, 1));
        readiness.set_stalled(true);
        assert_eq!((readiness.state(), readiness.gauge.get()), (State::Stalled, 0));
        readiness.set_stalled(false);
        assert_eq!((readiness.state(), readiness.gauge.get()), (State::Ready, 1));
        readiness.set_stalled(true);
        readiness.advance(State::Poisoned);
        readiness.advance(State::Draining);
        assert_eq!((readiness.state(), readiness.gauge.get()), (State::Poisoned, 0));
    }
}
