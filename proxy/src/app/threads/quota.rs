//! How many data workers a sidecar should have.

use std::fs;
use std::path::Path;

use crate::app::settings::MAX_WORKERS;

/// Where a container sees its own control group.
const CGROUP: &str = "/sys/fs/cgroup";
/// The quota and its period there (cgroup v2).
const CPU_MAX: &str = "cpu.max";
/// The same in two files (cgroup v1, which nodes of older clusters have); no quota is -1.
const CFS: [&str; 2] = ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"];

/// The CPU limit rounded up, 1 without one; never the host's cores, which a sidecar does not own.
pub fn default_workers() -> usize {
    workers_under(Path::new(CGROUP))
}

/// By the files of either version of control groups in `cgroup`.
pub(super) fn workers_under(cgroup: &Path) -> usize {
    let read = |name: &str| fs::read_to_string(cgroup.join(name));
    if let Ok(text) = read(CPU_MAX) {
        return workers_of(&text);
    }
    match CFS.map(read) {
        [Ok(quota), Ok(period)] => workers_of(&format!("{quota} {period}")),
        _ => 1,
    }
}

/// Reads `<quota> <period>` in microseconds, where the quota may be `max` or -1.
pub(super) fn workers_of(cpu_max: &str) -> usize {
    let mut numbers = cpu_max.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if period > 0 => {
            (quota.div_ceil(period) as usize).clamp(1, MAX_WORKERS)
        }
        _ => 1,
    }
}
