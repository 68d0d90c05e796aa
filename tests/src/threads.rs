//! What the threads of a process have used, by name.
//!
//! A suite may run in a process namespace of its own while `/proc` is an outer one's, with other numbers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The place in `/proc` of the process that this one calls `pid`.
pub fn place_of(pid: u32) -> io::Result<PathBuf> {
    let own = fs::read_link("/proc/self/ns/pid")?;
    for entry in fs::read_dir("/proc")? {
        let place = entry?.path();
        // Others' processes end at any time.
        let is_ours = fs::read_link(place.join("ns/pid")).is_ok_and(|namespace| namespace == own);
        if is_ours && inner(&place.join("status")) == Some(pid) {
            return Ok(place);
        }
    }
    Err(io::Error::other(format!(
        "/proc does not show process {pid}"
    )))
}

/// Processor time of each thread of the process at `place`, by the thread's name; of those with one name
/// together.
pub fn times(place: &std::path::Path) -> io::Result<BTreeMap<String, Duration>> {
    let mut times = BTreeMap::new();
    for thread in fs::read_dir(place.join("task"))? {
        let thread = thread?.path();
        let name = fs::read_to_string(thread.join("comm"))?.trim().to_owned();
        // Nanoseconds on a processor, those in the queue, and how often (proc(5)).
        let ran = fs::read_to_string(thread.join("schedstat"))?;
        let ran = ran.split(' ').next().and_then(|ran| ran.parse().ok());
        let ran = ran.ok_or_else(|| io::Error::other("no time of a thread"))?;
        *times.entry(name).or_default() += Duration::from_nanos(ran);
    }
    Ok(times)
}

/// What a process is called in its own namespace.
fn inner(status: &std::path::Path) -> Option<u32> {
    let status = fs::read_to_string(status).ok()?;
    let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}
