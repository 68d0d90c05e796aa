//! Cores, and the processor time of processes.

use std::io;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// The core of the client's pod, and of the server's.
pub(super) const CLIENT_CORE: usize = 0;
pub(super) const SERVER_CORE: usize = 1;

/// How many parts of a second the kernel counts in: `USER_HZ`, the same on every Linux that Rust knows.
const TICKS: u64 = 100;

/// Keeps the calling thread on one core.
pub(super) fn pin_thread(core: usize) -> io::Result<()> {
    Ok(sched_setaffinity(None, &only(core))?)
}

/// Keeps every thread of a process, and those that they start, on one core.
pub(super) fn pin_process(pid: u32, core: usize) -> io::Result<()> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = thread?.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok());
        let Some(id) = id.and_then(Pid::from_raw) else {
            continue;
        };
        sched_setaffinity(Some(id), &only(core))?;
    }
    Ok(())
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

/// What processes have used, user and system (`utime` and `stime` of proc(5)).
pub(super) fn processor_time(pids: &[u32]) -> io::Result<Duration> {
    let times = pids.iter().map(|pid| of_process(*pid));
    times.sum()
}

fn of_process(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name is in parentheses and may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok());
    match (ticks(), ticks()) {
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * 1_000 / TICKS)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no times")),
    }
}

/// What a process has in memory, in bytes.
pub(super) fn resident(pid: u32) -> io::Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|it| it.parse::<u64>().ok());
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no pages");
    Ok(pages.ok_or_else(invalid)? * rustix::param::page_size() as u64)
}
