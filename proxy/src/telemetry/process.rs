//! What the kernel says about this process, and about the connections that it tracks in the process's
//! network. What cannot be read is left out.

use std::fs;

use weft_proto::process::Process;

use super::exposition::Exposition;
use super::families;

/// Where the kernel says how many connections it tracks in this network, and how many it can.
/// Neither is there while nothing is tracked.
const CONNTRACK_COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Writes the process families.
pub(super) fn collect(exposition: &mut Exposition) {
    let process = Process::read();
    if let Some(seconds) = process.cpu_seconds {
        exposition.counter(&families::PROCESS_CPU, &[], seconds);
    }
    for (family, value) in [
        (&families::PROCESS_START, process.start_seconds),
        (
            &families::PROCESS_MEMORY,
            process.resident_bytes.map(|bytes| bytes as f64),
        ),
        (
            &families::PROCESS_FDS,
            process.open_fds.map(|open| open as f64),
        ),
        (&families::CONNTRACK_ENTRIES, count(CONNTRACK_COUNT)),
        (&families::CONNTRACK_LIMIT, count(CONNTRACK_MAX)),
    ] {
        if let Some(value) = value {
            exposition.gauge(family, &[], value);
        }
    }
}

/// The number that is all of a file.
fn count(path: &str) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    text.trim().parse::<u32>().ok().map(f64::from)
}
