use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use prometheus::IntGauge;
use siphasher::sip::SipHasher24;

use crate::clock::UnixMillis;

/// Nonces remembered for one access key at most; at the bound new ones are refused, old ones never
/// forgotten early. About 30 bytes each.
pub const NONCES_MAX: usize = 4_000_000;

/// Parts a set is locked in, so that two calls rarely meet and one growing part stalls nobody long.
const PARTS: usize = 16;

/// The key of every fingerprint, kept in the data directory: without it nobody can make two nonces
/// collide on purpose.
#[derive(Clone, Copy)]
pub struct FingerprintKey(pub [u8; 16]);

impl FingerprintKey {
    /// The 8-byte keyed fingerprint of a text.
    pub(super) fn of(&self, text: &str) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

/// Why a nonce cannot be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unclaimed {
    Used,
    Full,
}

/// The nonces one access key has used and whose window has not passed.
pub(super) struct Nonces {
    parts: [Mutex<HashSet<Nonce, BuildHasherDefault<AsIs>>>; PARTS],
    live: AtomicUsize,
    max: usize,
    gauge: IntGauge,
}

impl Nonces {
    pub(super) fn new(max: usize, gauge: IntGauge) -> Self {
        Self { parts: Default::default(), live: AtomicUsize::new(0), max, gauge }
    }

    /// Whether the nonce was used within its window.
    pub(super) fn contains(&self, fingerprint: u64, now: UnixMillis) -> bool {
        let wanted = Nonce::new(fingerprint, now);
        let part = self.part(fingerprint).lock();
        part.get(&wanted).is_some_and(|known| known.expires_second > seconds(now))
    }

    /// Remembers a nonce until `expires_at`, unless it is remembered already.
    pub(super) fn claim(
        &self,
        fingerprint: u64,
        expires_at: UnixMillis,
        now: UnixMillis,
    ) -> Result<(), Unclaimed> {
        let nonce = Nonce::new(fingerprint, expires_at);
        let mut part = self.part(fingerprint).lock();
        if let Some(known) = part.get(&nonce) {
            if known.expires_second > seconds(now) {
                return Err(Unclaimed::Used);
            }
            part.replace(nonce);
            return Ok(());
        }
        if self.live.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.live.fetch_sub(1, Ordering::Relaxed);
            return Err(Unclaimed::Full);
        }
        part.insert(nonce);
        self.gauge.inc();
        Ok(())
    }

    /// Takes a claim back: its message was refused, so the nonce was not used.
    pub(super) fn release(&self, fingerprint: u64) {
        let forgotten = Nonce::new(fingerprint, UnixMillis(0));
        if self.part(fingerprint).lock().remove(&forgotten) {
            self.forgot(1);
        }
    }

    /// Forgets the nonces whose window has passed and gives their memory back.
    pub(super) fn sweep(&self, now: UnixMillis) {
        for part in &self.parts {
            let mut part = part.lock();
            let before = part.len();
            part.retain(|nonce| nonce.expires_second > seconds(now));
            let gone = before - part.len();
            if part.capacity() > 4 * part.len() + 1_024 {
                part.shrink_to_fit();
            }
            drop(part);
            self.forgot(gone);
        }
    }

    fn forgot(&self, nonces: usize) {
        self.live.fetch_sub(nonces, Ordering::Relaxed);
        self.gauge.sub(i64::try_from(nonces).unwrap_or(i64::MAX));
    }

    fn part(&self, fingerprint: u64) -> &Mutex<HashSet<Nonce, BuildHasherDefault<AsIs>>> {
        &self.parts[(fingerprint >> 60) as usize % PARTS]
    }
}

/// 12 bytes, aligned to 4: a fingerprint in two halves, and the second at which it expires.
#[derive(Clone, Copy)]
struct Nonce {
    fingerprint: [u32; 2],
    expires_second: u32,
}

impl Nonce {
    #[expect(clippy::cast_possible_truncation, reason = "two halves of one fingerprint")]
    fn new(fingerprint: u64, expires_at: UnixMillis) -> Self {
        let halves = [(fingerprint >> 32) as u32, fingerprint as u32];
        // Rounded up, so that a nonce is never forgotten within its window.
        let expires_second = seconds(expires_at).saturating_add(1);
        Self { fingerprint: halves, expires_second }
    }
}

/// Seconds since 1970; enough until 2106.
fn seconds(at: UnixMillis) -> u32 {
    u32::try_from(at.seconds()).unwrap_or(u32::MAX)
}

impl PartialEq for Nonce {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Nonce {}

impl Hash for Nonce {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [high, low] = self.fingerprint;
        state.write_u64(u64::from(high) << 32 | u64::from(low));
    }
}

/// A fingerprint is a keyed hash already; the set takes it as it is.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, fingerprint: u64) {
        // The top bits choose the part and are alike within one; the set reads the top seven.
        self.0 = fingerprint.rotate_left(8);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);
    const LATER: UnixMillis = UnixMillis(1_900_000);

    fn nonces(max: usize) -> Nonces {
        Nonces::new(max, IntGauge::new("nonces", "nonces").unwrap())
    }

    #[test]
    fn a_nonce_is_claimed_once_until_its_window_has_passed() {
        let nonces = nonces(10);
        assert!(!nonces.contains(7, NOW));
        assert_eq!(nonces.claim(7, LATER, NOW), Ok(()));
        assert!(nonces.contains(7, NOW));
        assert_eq!(nonces.claim(7, LATER, NOW), Err(Unclaimed::Used));
        assert_eq!(nonces.claim(7, LATER, LATER), Err(Unclaimed::Used), "to the last second");
        let past = UnixMillis(LATER.0 + 1_000);
        assert!(!nonces.contains(7, past));
        assert_eq!(nonces.claim(7, UnixMillis(past.0 + 900_000), past), Ok(()));
    }

    #[test]
    fn a_released_claim_leaves_nothing_behind() {
        let nonces = nonces(1);
        assert_eq!(nonces.claim(7, LATER, NOW), Ok(()));
        nonces.release(7);
        nonces.release(7);
        assert_eq!(nonces.gauge.get(), 0);
        assert_eq!(nonces.claim(7, LATER, NOW), Ok(()), "the place is free again");
    }

    #[test]
    fn at_the_bound_a_new_nonce_is_refused_and_no_old_one_forgotten() {
        let nonces = nonces(2);
        for fingerprint in [1, u64::MAX] {
            assert_eq!(nonces.claim(fingerprint, LATER, NOW), Ok(()));
        }
        assert_eq!(nonces.claim(3, LATER, NOW), Err(Unclaimed::Full));
        assert!(nonces.contains(1, NOW) && nonces.contains(u64::MAX, NOW));
        nonces.sweep(UnixMillis(LATER.0 + 1_000));
        assert_eq!(nonces.gauge.get(), 0);
        assert_eq!(nonces.claim(3, UnixMillis(LATER.0 * 2), LATER), Ok(()));
    }

    #[test]
    fn of_many_threads_one_claims_a_nonce() {
        let nonces = nonces(1_000);
        let won: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..500_u64).filter(|n| nonces.claim(n << 50, LATER, NOW).is_ok()).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(won, 500);
    }

    #[test]
    fn a_remembered_nonce_takes_twelve_bytes_in_its_set() {
        assert_eq!(size_of::<Nonce>(), 12);
    }
}
