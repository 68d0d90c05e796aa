//! Cores, and the processor time of processes.

use std::io;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::threads;

/// The core of the client's pod, and of the server's, among those that this program may use.
pub(super) const CLIENT_CORE: usize = 0;
pub(super) const SERVER_CORE: usize = 1;

/// Those that it could use when it was first asked for one: a pinned thread has one only.
static ALLOWED: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
});

/// How many cores there are. To be asked before anything is pinned.
pub(super) fn cores() -> usize {
    ALLOWED.len()
}

/// How many parts of a second the kernel counts in: `USER_HZ`, the same on every Linux that Rust knows.
const TICKS: u64 = 100;

/// Keeps the calling thread on one core.
pub(super) fn pin_thread(core: usize) -> io::Result<()> {
    Ok(sched_setaffinity(None, &only(core))?)
}

/// A process, by the number that `/proc` has for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(u32);

impl Process {
    /// The process that this one calls `pid`.
    pub(super) fn find(pid: u32) -> io::Result<Self> {
        Self::at(&threads::place_of(pid)?)
    }

    /// All of this program's process namespace: itself, and what it has started. Where it has none of its
    /// own, these are everybody's.
    pub(super) fn all_of_ours() -> io::Result<Vec<Self>> {
        threads::places()?.iter().map(|it| Self::at(it)).collect()
    }

    fn at(place: &Path) -> io::Result<Self> {
        let number = threads::number(place);
        number.map(Self).ok_or_else(|| invalid("no process"))
    }

    /// Keeps every thread, and those that they start, on one core.
    pub(super) fn pin(self, core: usize) -> io::Result<()> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.0))? {
            let id = threads::inner(&thread?.path())?;
            match sched_setaffinity(Pid::from_raw(id as i32), &only(core)) {
                // A thread that has ended meanwhile needs no core.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What it has used, user and system (`utime` and `stime` of proc(5)).
    fn time(self) -> io::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The program's name is in parentheses and may hold anything.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok());
        match (ticks(), ticks()) {
            (Some(user), Some(system)) => {
                Ok(Duration::from_millis((user + system) * 1_000 / TICKS))
            }
            _ => Err(invalid("no times")),
        }
    }

    /// What it has in memory, in MiB.
    pub(super) fn resident_mib(self) -> io::Result<f64> {
        Ok(self.resident()? as f64 / f64::from(1 << 20))
    }

    fn resident(self) -> io::Result<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.0))?;
        let pages = statm
            .split(' ')
            .nth(1)
            .and_then(|it| it.parse::<u64>().ok());
        Ok(pages.ok_or_else(|| invalid("no pages"))? * rustix::param::page_size() as u64)
    }
}

/// What processes have used together.
pub(super) fn processor_time(processes: &[Process]) -> io::Result<Duration> {
    processes.iter().map(|process| process.time()).sum()
}

/// The time of all cores of the machine together.
///
/// What they had to do is what is left of the time without that in which they had nothing, which the kernel
/// takes with a clock. What it tells as busy it does not: where it looks, at every 4 ms or so, it adds as
/// much to whoever runs. Whoever wakes at the same beat, as a thousand requests a second do, is seen
/// at every look or at none.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineTime {
    at: Instant,
    cores: u32,
    /// Of all cores.
    idle: Duration,
}

impl MachineTime {
    /// Since the machine's start.
    pub(super) fn now() -> io::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let at = Instant::now();
        let lines = stat.lines().take_while(|line| line.starts_with("cpu"));
        let cores = lines.filter(|line| !line.starts_with("cpu ")).count() as u32;
        let fields = stat.strip_prefix("cpu ");
        let fields = fields.ok_or_else(|| invalid("no times of the machine"))?;
        // user, nice, system, and then idle, iowait.
        let mut ticks = fields.split_ascii_whitespace().skip(3);
        let mut ticks = || ticks.next().and_then(|field| field.parse::<u64>().ok());
        let idle = ticks().zip(ticks()).ok_or_else(|| invalid("no times"))?;
        let idle = Duration::from_millis((idle.0 + idle.1) * 1_000 / TICKS);
        Ok(Self { at, cores, idle })
    }

    /// How long the cores were busy since `begin`, whoever with, and how long that was for all together. What a
    /// hypervisor took from a busy one is in it, and what the kernel did when packets came.
    pub(super) fn busy_since(&self, begin: &Self) -> (Duration, Duration) {
        let whole = (self.at - begin.at) * self.cores;
        let idle = self.idle.saturating_sub(begin.idle);
        (whole.saturating_sub(idle), whole)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    // Where there are too few, nobody has come so far.
    set.set(ALLOWED.get(core).copied().unwrap_or(core));
    set
}
