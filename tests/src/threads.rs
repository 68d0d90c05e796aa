//! Where `/proc` has a process, and what its threads have used, by name.
//!
//! A program may run in a process namespace of its own while `/proc` is an outer one's, with other numbers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The place in `/proc` of the process that this one calls `pid`.
pub fn place_of(pid: u32) -> io::Result<PathBuf> {
    // Others' processes end at any time.
    let is_it = |place: &PathBuf| inner(place).is_ok_and(|inner| inner == pid);
    let absent = || io::Error::other(format!("/proc does not show process {pid}"));
    places()?.into_iter().find(is_it).ok_or_else(absent)
}

/// The places of all processes of this program's namespace: its own, and those of what it has started.
/// Where it has none of its own, these are everybody's.
pub fn places() -> io::Result<Vec<PathBuf>> {
    let own = fs::read_link("/proc/self/ns/pid")?;
    let mut ours = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let place = entry?.path();
        // Not this process once more, as `self`.
        let is_process = number(&place).is_some();
        // Others' processes end at any time.
        if is_process && fs::read_link(place.join("ns/pid")).is_ok_and(|namespace| namespace == own)
        {
            ours.push(place);
        }
    }
    Ok(ours)
}

/// What `/proc` itself calls the process, or the thread, at `place`.
pub fn number(place: &Path) -> Option<u32> {
    place.file_name()?.to_str()?.parse().ok()
}

/// What a process, or a thread, at `place` is called in its own namespace.
pub fn inner(place: &Path) -> io::Result<u32> {
    let status = fs::read_to_string(place.join("status"))?;
    let line = status.lines().find(|line| line.starts_with("NSpid:"));
    let last = line.and_then(|line| line.split_ascii_whitespace().next_back());
    let unnamed = || io::Error::new(io::ErrorKind::InvalidData, "no NSpid");
    last.and_then(|it| it.parse().ok()).ok_or_else(unnamed)
}

/// Processor time of each thread of the process at `place`, by the thread's name; of those with one name
/// together.
pub fn times(place: &Path) -> io::Result<BTreeMap<String, Duration>> {
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
