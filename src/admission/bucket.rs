use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{RateLimiter, clock, middleware::NoOpMiddleware};

use crate::clock::Clock;

/// Highest rate and largest burst a bucket may be given; a token then stands for 1 us.
pub const TOKENS_MAX: u32 = 1_000_000;

/// Most weirs that share a limit.
pub const REPLICAS_MAX: u32 = 1_000;

/// How many calls an instance may make.
///
/// Of `n` replicas that share the limit each admits `qps / n` calls a second and holds `burst / n`
/// tokens, at least one. Together they never admit more than `qps` a second and `max(burst, n)` at
/// once. They admit less where the balancer is uneven, for none takes over what another leaves: a
/// replica that gets the part `p` of a load admits the smaller of `p * load` and `qps / n`; with
/// one of them down, `(n - 1) / n` of the limit is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back in a second, 1 to [`TOKENS_MAX`]. Default 1,000 (ApsaraMQ for MQTT,
    /// "QPS limits").
    pub qps: NonZeroU32,
    /// Tokens a full bucket holds, 1 to [`TOKENS_MAX`]. Default 100.
    pub burst: NonZeroU32,
}

/// What is left of an instance's quota, as an answer's `RateLimit` headers state it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Calls in each window.
    pub limit: u32,
    /// The window in seconds; 1, unless a share of a small limit is less than a call a second.
    pub window_s: u32,
    /// Calls that would be admitted at once.
    pub remaining: u32,
    /// When the bucket is full again.
    pub reset: Duration,
}

/// The token bucket of one instance: governor's GCRA over our clock.
pub(super) struct Bucket {
    limiter: RateLimiter<NotKeyed, Shared, Elapsed, NoOpMiddleware<Duration>>,
    state: Shared,
    clock: Elapsed,
    token_nanos: u64,
    burst: NonZeroU32,
    /// As an answer states the rate: calls in a window of seconds.
    stated: (u32, u32),
}

impl Bucket {
    pub(super) fn new(rate: Rate, replicas: NonZeroU32, clock: Arc<dyn Clock>) -> Self {
        let epoch = clock.now();
        let clock = Elapsed { clock, epoch };
        let state = Shared(Arc::default());
        let burst = NonZeroU32::new(rate.burst.get() / replicas).unwrap_or(NonZeroU32::MIN);
        let second = 1_000_000_000 * u64::from(replicas.get());
        // Rounded up: all shares together never exceed the limit.
        let token_nanos = second.div_ceil(u64::from(rate.qps.get()));
        let quota = governor::Quota::with_period(Duration::from_nanos(token_nanos))
            .unwrap_or(governor::Quota::per_second(rate.qps))
            .allow_burst(burst);
        let limiter = RateLimiter::new(quota, state.clone(), clock.clone());
        let stated = match rate.qps.get() / replicas {
            0 => (1, replicas.get().div_ceil(rate.qps.get())),
            whole => (whole, 1),
        };
        Self { limiter, state, clock, token_nanos, burst, stated }
    }

    /// Takes one token, or says when there will be one.
    pub(super) fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| {
            not_until.wait_time_from(clock::Clock::now(&self.clock)).max(Duration::from_nanos(1))
        })
    }

    /// What is left, without taking anything.
    pub(super) fn quota(&self) -> Quota {
        let peeked = self.state.measure_and_replace(&NotKeyed::NonKey, |full_at| {
            Err::<((), Nanos), _>(full_at.map_or(0, Nanos::as_u64))
        });
        let full_at = peeked.err().unwrap_or_default();
        let now: Nanos = clock::Clock::now(&self.clock).into();
        let owed = full_at.saturating_sub(now.as_u64());
        let capacity = self.token_nanos * u64::from(self.burst.get());
        let remaining = capacity.saturating_sub(owed) / self.token_nanos;
        Quota {
            limit: self.stated.0,
            window_s: self.stated.1,
            remaining: u32::try_from(remaining).unwrap_or(self.burst.get()),
            reset: Duration::from_nanos(owed),
        }
    }
}

/// governor's own state, with a second handle to look at it.
#[derive(Clone)]
struct Shared(Arc<InMemoryState>);

impl StateStore for Shared {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, key: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, f)
    }
}

/// Our clock as governor asks for it: time since the bucket was made.
#[derive(Clone)]
struct Elapsed {
    clock: Arc<dyn Clock>,
    epoch: Instant,
}

impl clock::Clock for Elapsed {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, UnixMillis};
    use proptest::prelude::*;

    fn bucket(qps: u32, burst: u32) -> (Bucket, ManualClock) {
        share(qps, burst, 1)
    }

    fn share(qps: u32, burst: u32, replicas: u32) -> (Bucket, ManualClock) {
        let clock = ManualClock::at(UnixMillis(0));
        let rate =
            Rate { qps: NonZeroU32::new(qps).unwrap(), burst: NonZeroU32::new(burst).unwrap() };
        let replicas = NonZeroU32::new(replicas).unwrap();
        (Bucket::new(rate, replicas, Arc::new(clock.clone())), clock)
    }

    fn taken(bucket: &Bucket) -> u32 {
        (0..).take_while(|_| bucket.take().is_ok()).count().try_into().unwrap()
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_its_rate() {
        let (bucket, clock) = bucket(1_000, 100);
        assert_eq!(taken(&bucket), 100);
        clock.advance(Duration::from_millis(37));
        assert_eq!(taken(&bucket), 37);
        clock.advance(Duration::from_secs(60));
        assert_eq!(taken(&bucket), 100, "idle time never saves up more than the burst");
    }

    #[test]
    fn a_share_is_a_part_of_rate_and_burst_and_says_so() {
        let (third, clock) = share(1_000, 100, 3);
        assert_eq!((third.quota().limit, third.quota().window_s), (333, 1));
        assert_eq!(taken(&third), 33);
        clock.advance(Duration::from_secs(1));
        assert_eq!(taken(&third), 33);
        let mut admitted = 0;
        for _ in 0..3_000 {
            clock.advance(Duration::from_millis(1));
            admitted += taken(&third);
        }
        assert_eq!(admitted, 1_000, "a third of 3,000");
    }

    #[test]
    fn a_share_of_less_than_a_call_a_second_is_a_call_in_more_seconds() {
        let (tenth, clock) = share(1, 1, 10);
        assert_eq!((tenth.quota().limit, tenth.quota().window_s), (1, 10));
        assert_eq!(taken(&tenth), 1);
        assert_eq!(tenth.take().unwrap_err(), Duration::from_secs(10));
        clock.advance(Duration::from_secs(10));
        assert_eq!(taken(&tenth), 1);
    }

    proptest! {
        #[test]
        fn all_shares_together_never_exceed_the_limit(
            qps in 1..=TOKENS_MAX, burst in 1..=1_000_u32, replicas in 1..=REPLICAS_MAX
        ) {
            let (share, _) = share(qps, burst, replicas);
            let a_second = u128::from(replicas) * 1_000_000_000 / u128::from(share.token_nanos);
            prop_assert!(a_second <= u128::from(qps));
            prop_assert!(share.burst.get() * replicas <= burst.max(replicas));
            let (stated, window) = share.stated;
            let exact = u64::from(window) * 1_000_000_000;
            let as_stated = u64::from(stated) * share.token_nanos;
            prop_assert!(as_stated <= exact + u64::from(stated), "no more is stated than given");
        }
    }

    #[test]
    fn an_empty_bucket_says_when_a_token_is_back() {
        let (bucket, clock) = bucket(1_000, 1);
        assert_eq!(bucket.take(), Ok(()));
        let wait = bucket.take().unwrap_err();
        assert_eq!(wait, Duration::from_millis(1));
        clock.advance(wait);
        assert_eq!(bucket.take(), Ok(()));
    }

    #[test]
    fn looking_at_the_quota_takes_nothing() {
        let (bucket, clock) = bucket(1_000, 100);
        assert_eq!(bucket.quota().remaining, 100);
        for left in (0..100).rev() {
            assert_eq!(bucket.take(), Ok(()));
            assert_eq!(bucket.quota().remaining, left);
        }
        assert_eq!(bucket.quota().reset, Duration::from_millis(100));
        clock.advance(Duration::from_millis(10));
        assert_eq!(
            bucket.quota(),
            Quota { limit: 1_000, window_s: 1, remaining: 10, reset: Duration::from_millis(90) }
        );
        assert_eq!(taken(&bucket), 10);
    }

    #[test]
    fn over_any_second_no_more_than_burst_and_rate_are_admitted() {
        let (bucket, clock) = bucket(1_000, 100);
        let mut admitted = 0;
        for _ in 0..10_000 {
            admitted += u32::from(bucket.take().is_ok());
            clock.advance(Duration::from_micros(100));
        }
        assert!((1_000..=1_100).contains(&admitted), "{admitted}");
    }
}
