use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;
use crate::metering::JournalMetrics;

use super::segment::SEGMENT_HEADER_BYTES;
use super::storage::Storage;
use super::turn::{Salt, TURN_BYTES_MAX};

const SHARDS_MAX: u16 = 256;
const SEGMENT_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
const SEGMENT_BYTES_MIN: u64 = 8 * 1024 * 1024;
const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

const _: () = assert!((SEGMENT_HEADER_BYTES + TURN_BYTES_MAX) as u64 <= SEGMENT_BYTES_MIN);
const _: () = assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_DEFAULT);
const _: () = assert!(SEGMENT_BYTES_MAX <= u32::MAX as u64);

/// Where the journal lies and how it is cut.
#[derive(Clone, Debug)]
pub struct Config {
    /// The journal's folder; no default, made if it is missing.
    pub dir: PathBuf,
    /// Streams written at once; no default, 1 to 256. A change starts a new generation.
    pub shards: u16,
    /// Size of a new segment in bytes; default 64 MiB, 8 MiB to 1 GiB.
    pub segment_bytes: u64,
}

/// Why a [`Config`] is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No shard, or too many.
    #[error("shard.count is {found}; the journal keeps 1 to {SHARDS_MAX} shards")]
    Shards {
        /// The number configured.
        found: u16,
    },
    /// A segment that cannot hold the largest turn, or takes too long to make.
    #[error("journal.segment_bytes is {found}; it is {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}")]
    SegmentBytes {
        /// The number configured.
        found: u64,
    },
}

impl Config {
    /// The defaults for a folder and a number of shards.
    #[must_use]
    pub const fn new(dir: PathBuf, shards: u16) -> Self {
        Self { dir, shards, segment_bytes: SEGMENT_BYTES_DEFAULT }
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// [`ConfigError`] names the first one that is broken.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=SHARDS_MAX).contains(&self.shards) {
            return Err(ConfigError::Shards { found: self.shards });
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(ConfigError::SegmentBytes { found: self.segment_bytes });
        }
        Ok(())
    }
}

/// Draws the secret of one segment; never all zeros.
pub type Salts = Arc<dyn Fn() -> io::Result<Salt> + Send + Sync>;

/// Salts from the operating system's random source.
#[must_use]
pub fn system_salts() -> Salts {
    Arc::new(|| {
        let mut salt = Salt::default();
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        // All zeros is what an empty place in a segment looks like.
        salt[0] |= u8::from(salt == Salt::default());
        Ok(salt)
    })
}

/// What the journal is given instead of reaching for it.
#[derive(Clone)]
pub struct Environment {
    /// The disk.
    pub storage: Arc<dyn Storage>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Its metrics.
    pub metrics: JournalMetrics,
    /// Randomness.
    pub salts: Salts,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_outside_its_bounds_is_refused_by_name() {
        let good = Config::new("journal".into(), 2);
        assert_eq!(good.check(), Ok(()));
        let none = Config { shards: 0, ..good.clone() };
        assert_eq!(none.check(), Err(ConfigError::Shards { found: 0 }));
        let tiny = Config { segment_bytes: 1024, ..good };
        assert_eq!(tiny.check(), Err(ConfigError::SegmentBytes { found: 1024 }));
        assert!(tiny.check().unwrap_err().to_string().contains("1024"));
    }

    #[test]
    fn no_two_salts_are_alike() {
        let salts = system_salts();
        assert_ne!(salts().unwrap(), salts().unwrap());
    }
}
