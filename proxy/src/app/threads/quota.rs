//! How many data workers a sidecar should have.

use std::fs;

use crate::app::settings::MAX_WORKERS;

/// The quota of the process's own control group, as a container sees it (cgroup v2).
const CPU_MAX: &str = "/sys/fs/cgroup/cpu.max";

/// The CPU limit rounded up, 1 without one; never the host's cores, which a sidecar does not own.
pub fn default_workers() -> usize {
    fs::read_to_string(CPU_MAX).map_or(1, |text| workers_of(&text))
}

/// Reads `<quota> <period>` in microseconds, where the quota may be `max`.
pub(super) fn workers_of(cpu_max: &str) -> usize {
    let mut numbers = cpu_max.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if period > 0 => {
            (quota.div_ceil(period) as usize).clamp(1, MAX_WORKERS)
        }
        _ => 1,
    }
}
