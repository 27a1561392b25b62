use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const MESSAGES: &str = "{bar:32} {human_pos}/{human_len} {per_sec} {msg} eta {eta}";
const BYTES: &str = "recovering {bar:32} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
/// Redraws no more often than an eye follows.
const TICK: Duration = Duration::from_millis(200);

/// A bar on stderr that counts messages; it shows on a terminal only.
pub(super) fn messages(total: u64) -> ProgressBar {
    bar(total, MESSAGES)
}

/// A bar on stderr that counts bytes; it shows on a terminal only.
pub(super) fn bytes(total: u64) -> ProgressBar {
    bar(total, BYTES)
}

fn bar(total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}
