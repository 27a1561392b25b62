//! When each call is due.

use std::time::Duration;

/// A rate that rises evenly from 0 during the ramp and then stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    rate: u32,
    ramp: Duration,
    steady: Duration,
}

impl Plan {
    pub(crate) const fn new(rate: u32, ramp: Duration, steady: Duration) -> Self {
        Self { rate, ramp, steady }
    }

    /// Calls a second after the ramp.
    pub(crate) const fn rate(&self) -> u32 {
        self.rate
    }

    /// From the start to the moment after the last call's.
    pub(crate) fn length(&self) -> Duration {
        self.ramp + self.steady
    }

    pub(crate) fn ramp(&self) -> Duration {
        self.ramp
    }

    /// How many calls there are.
    pub(crate) fn calls(&self) -> u64 {
        self.in_ramp() + self.at_rate(self.steady)
    }

    /// Whether a call is due after the ramp.
    pub(crate) fn is_steady(&self, call: u64) -> bool {
        call >= self.in_ramp()
    }

    /// When a call, counted from 0, is due after the start.
    pub(crate) fn due(&self, call: u64) -> Duration {
        let rate = f64::from(self.rate);
        match call.checked_sub(self.in_ramp()) {
            Some(steady) => self.ramp + Duration::from_secs_f64(steady as f64 / rate),
            // The area under the ramp up to t is rate * t * t / (2 * ramp).
            None => {
                let ramp = self.ramp.as_secs_f64();
                Duration::from_secs_f64((2.0 * ramp * call as f64 / rate).sqrt())
            }
        }
    }

    fn in_ramp(&self) -> u64 {
        self.at_rate(self.ramp / 2)
    }

    fn at_rate(&self, time: Duration) -> u64 {
        let calls = time.as_micros() * u128::from(self.rate) / 1_000_000;
        u64::try_from(calls).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_after_the_ramp_are_evenly_apart() {
        let plan = Plan::new(1_000, Duration::ZERO, Duration::from_secs(2));
        assert_eq!(plan.calls(), 2_000);
        assert_eq!(plan.due(0), Duration::ZERO);
        assert_eq!(plan.due(1_500), Duration::from_millis(1_500));
        assert!(plan.is_steady(0));
    }

    #[test]
    fn a_ramp_has_half_the_calls_and_is_never_out_of_order() {
        let plan = Plan::new(100, Duration::from_secs(4), Duration::from_secs(1));
        assert_eq!(plan.calls(), 300);
        assert!(!plan.is_steady(199) && plan.is_steady(200));
        assert_eq!(
            plan.due(50),
            Duration::from_secs(2),
            "a quarter of the ramp's in half its time"
        );
        assert_eq!(plan.due(200), Duration::from_secs(4));
        assert!((1..300).all(|call| plan.due(call - 1) < plan.due(call)));
    }
}
