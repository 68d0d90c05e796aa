//! What the kernel says about this process, from `/proc/self`, and about the connections that it tracks
//! in the process's network. What cannot be read is left out.

use std::fs;

use super::exposition::Exposition;
use super::families;

/// Where the kernel says how many connections it tracks in this network, and how many it can.
/// Neither is there while nothing is tracked.
const CONNTRACK_COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Writes the process families.
pub(super) fn collect(exposition: &mut Exposition) {
    if let Some(stat) = read("/proc/self/stat").and_then(|text| Stat::parse(&text)) {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        exposition.counter(&families::PROCESS_CPU, &[], stat.cpu_ticks as f64 / ticks);
        let boot = read("/proc/stat").and_then(|text| boot_time(&text));
        if let Some(boot) = boot {
            let start = boot as f64 + stat.start_ticks as f64 / ticks;
            exposition.gauge(&families::PROCESS_START, &[], start);
        }
        let resident = stat.resident_pages * rustix::param::page_size() as u64;
        exposition.gauge(&families::PROCESS_MEMORY, &[], resident as f64);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory being read.
        let open = open.count().saturating_sub(1);
        exposition.gauge(&families::PROCESS_FDS, &[], open as f64);
    }
    for (family, file) in [
        (&families::CONNTRACK_ENTRIES, CONNTRACK_COUNT),
        (&families::CONNTRACK_LIMIT, CONNTRACK_MAX),
    ] {
        if let Some(count) = read(file).and_then(|text| text.trim().parse::<u32>().ok()) {
            exposition.gauge(family, &[], f64::from(count));
        }
    }
}

/// What is used of `/proc/self/stat` (proc(5)).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// User and system time.
    pub(super) cpu_ticks: u64,
    /// Since boot.
    pub(super) start_ticks: u64,
    /// Pages in memory.
    pub(super) resident_pages: u64,
}

impl Stat {
    /// Reads the line. The command's name may hold anything, so counting starts behind the last
    /// parenthesis, with field 3.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            resident_pages: field(24)?,
        })
    }
}

/// Seconds since the Unix epoch at which the machine booted.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}
