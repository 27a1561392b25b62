use std::time::Duration;

/// Shortest time minute rows are kept.
pub const MINUTES_KEPT_MIN: Duration = Duration::from_secs(24 * 3_600);
/// Longest time minute rows are kept: ten years.
pub const MINUTES_KEPT_MAX: Duration = Duration::from_secs(3_653 * 24 * 3_600);
/// 13 months: a year can be compared with the one before.
pub const MINUTES_KEPT: Duration = Duration::from_secs(395 * 24 * 3_600);

/// What the ledger keeps.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long usage is kept by minute; 1 day to 10 years, default 395 days. Closed hours and
    /// their chain are kept for good.
    pub minutes_kept: Duration,
}
