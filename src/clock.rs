//! Time as an argument. The only file that may ask the operating system what time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z, as persisted in the journal and the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1_000
    }

    /// Whole minutes since the epoch; fits 32 bits until the year 10136.
    #[must_use]
    pub const fn minutes(self) -> u64 {
        self.0 / 60_000
    }

    /// This moment moved forward, saturating at the end of time.
    #[must_use]
    pub const fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis_of(by)))
    }

    /// This moment moved back, saturating at the epoch.
    #[must_use]
    pub const fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis_of(by)))
    }

    /// How far `self` is past `earlier`; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

const fn millis_of(duration: Duration) -> u64 {
    let millis = duration.as_millis();
    if millis > u64::MAX as u128 {
        u64::MAX
    } else {
        #[expect(clippy::cast_possible_truncation, reason = "compared with u64::MAX just above")]
        {
            millis as u64
        }
    }
}

/// What a stage may ask about time.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time, for intervals and rates.
    fn now(&self) -> Instant;
    /// Wall-clock time, for timestamps that leave the process.
    fn unix(&self) -> UnixMillis;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one file that may")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one file that may")]
    fn unix(&self) -> UnixMillis {
        // A machine whose clock stands before 1970 gets 0: every signed timestamp is then refused
        // with the skew in the message, which is the clearest thing weir can say about it.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(millis_of(since))
    }
}

/// A clock that moves only when it is told to, for tests and simulations.
#[derive(Clone, Debug)]
pub struct ManualClock {
    start: Instant,
    unix_start: UnixMillis,
    elapsed_nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that stands at `unix`.
    #[must_use]
    pub fn at(unix: UnixMillis) -> Self {
        Self { start: SystemClock.now(), unix_start: unix, elapsed_nanos: Arc::default() }
    }

    /// Moves both hands forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed_nanos.load(Ordering::SeqCst))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    fn unix(&self) -> UnixMillis {
        self.unix_start.plus(self.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_both_hands_by_the_same_amount() {
        let clock = ManualClock::at(UnixMillis(60_000));
        let before = clock.now();
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(clock.unix(), UnixMillis(61_500));
        assert_eq!(clock.now() - before, Duration::from_millis(1_500));
    }

    #[test]
    fn time_before_another_time_is_zero_since_it() {
        assert_eq!(UnixMillis(5).since(UnixMillis(9)), Duration::ZERO);
        assert_eq!(UnixMillis(9).since(UnixMillis(5)), Duration::from_millis(4));
    }
}
