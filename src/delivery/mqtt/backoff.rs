use std::time::Duration;

/// First wait, before the jitter.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait, before the jitter: a broker that is back is found within it.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);

/// Waits that double up to a cap, each cut by up to a half at random, so that a broker that comes
/// back does not meet all its clients at once.
#[derive(Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next wait.
    pub(super) fn wait(&mut self) -> Duration {
        let mut random = [0; 4];
        // Without a random source the wait is the longest one: that is no reason to fail.
        if getrandom::fill(&mut random).is_err() {
            random = [0; 4];
        }
        self.wait_cut_by(u32::from_le_bytes(random))
    }

    /// Things go well again: the next wait is the first.
    pub(super) const fn reset(&mut self) {
        self.tries = 0;
    }

    fn wait_cut_by(&mut self, random: u32) -> Duration {
        let whole = WAIT_MIN.saturating_mul(1 << self.tries.min(16)).min(WAIT_MAX);
        self.tries = self.tries.saturating_add(1);
        whole - whole.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_are_cut_by_at_most_a_half() {
        let mut longest = Backoff::default();
        let mut shortest = Backoff::default();
        let mut expected = WAIT_MIN;
        for _ in 0..100 {
            assert_eq!(longest.wait_cut_by(0), expected);
            assert_eq!(shortest.wait_cut_by(u32::MAX), expected / 2);
            let drawn = Backoff { tries: longest.tries - 1 }.wait();
            assert!(drawn >= expected / 2 && drawn <= expected, "{drawn:?}");
            expected = (expected * 2).min(WAIT_MAX);
        }
        longest.reset();
        assert_eq!(longest.wait_cut_by(0), WAIT_MIN);
    }
}
