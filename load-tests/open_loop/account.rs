//! What a process has cost so far.

use std::time::Duration;

/// `USER_HZ`: what `/proc` counts in, on every architecture Linux has for servers (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// User and system time of a process and its threads.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|error| format!("--pid: {path}: {error}"))?;
    // The name before it may hold spaces; `utime` and `stime` are fields 14 and 15.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_ascii_whitespace());
    let ticks: Option<u32> = fields
        .map(|fields| fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum());
    ticks.map(|ticks| TICK * ticks).ok_or_else(|| format!("--pid: {path} is not as proc(5) has it"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_that_works_has_cost_time_and_one_that_is_not_there_is_an_error() {
        let before = super::cpu_time(std::process::id()).unwrap();
        while super::cpu_time(std::process::id()).unwrap() <= before {}
        assert!(super::cpu_time(u32::MAX).is_err());
    }
}
