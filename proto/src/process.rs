//! What the kernel says about this process, from `/proc/self`, for the metrics that every process of
//! Weft has under the names that Prometheus' own clients gave them.
//!
//! What cannot be read is left out; nothing here fails. A few small files are read, so this belongs on no
//! data thread.

use std::fmt::Write as _;
use std::fs;

/// What is known about this process at the moment. Each is none where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Processor time used since the start, user and system, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Memory that is resident, in bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<usize>,
    /// When it started, in seconds since the Unix epoch.
    pub start_seconds: Option<f64>,
}

impl Process {
    /// Asks the kernel.
    pub fn read() -> Self {
        let stat = text("/proc/self/stat").and_then(|text| Stat::parse(&text));
        let boot = text("/proc/stat").and_then(|text| boot_time(&text));
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        // One of them is the directory being read.
        let fds = fs::read_dir("/proc/self/fd").map(|open| open.count().saturating_sub(1));
        Self {
            cpu_seconds: stat.as_ref().map(|it| it.cpu_ticks as f64 / ticks),
            resident_bytes: stat
                .as_ref()
                .map(|it| it.resident_pages * rustix::param::page_size() as u64),
            open_fds: fds.ok(),
            start_seconds: stat
                .zip(boot)
                .map(|(it, boot)| boot as f64 + it.start_ticks as f64 / ticks),
        }
    }

    /// Adds what is known to a page in Prometheus' text format.
    pub fn render(&self, page: &mut String) {
        let mut put = |name: &str, kind: &str, what: &str, value: Option<f64>| {
            let Some(value) = value else { return };
            writeln!(
                page,
                "# HELP {name} {what}\n# TYPE {name} {kind}\n{name} {value}"
            )
            .expect("strings take everything");
        };
        put(
            "process_cpu_seconds_total",
            "counter",
            "Processor time that the process used, user and system.",
            self.cpu_seconds,
        );
        put(
            "process_resident_memory_bytes",
            "gauge",
            "Memory of the process that is resident.",
            self.resident_bytes.map(|bytes| bytes as f64),
        );
        put(
            "process_open_fds",
            "gauge",
            "Open file descriptors of the process.",
            self.open_fds.map(|open| open as f64),
        );
        put(
            "process_start_time_seconds",
            "gauge",
            "When the process started, in seconds since the Unix epoch.",
            self.start_seconds,
        );
    }
}

/// What is used of `/proc/self/stat` (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// User and system time.
    cpu_ticks: u64,
    /// Since boot.
    start_ticks: u64,
    /// Pages in memory.
    resident_pages: u64,
}

impl Stat {
    /// Reads the line. The command's name may hold anything, so counting starts behind the last
    /// parenthesis, with field 3.
    fn parse(text: &str) -> Option<Self> {
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

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_any_name() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 90 0 0 0 11 22 0 0 20 0 3 0 333 9999 44 1";
        let stat = Stat::parse(text).expect("a stat line");
        assert_eq!(
            (stat.cpu_ticks, stat.start_ticks, stat.resident_pages),
            (33, 333, 44)
        );
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_plausible() {
        let process = Process::read();
        assert!(process.resident_bytes.expect("memory") > 100_000);
        assert!(process.open_fds.expect("descriptors") >= 1);
        assert!(process.cpu_seconds.expect("time") >= 0.0);
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).expect("after");
        let age = now.as_secs_f64() - process.start_seconds.expect("a start");
        assert!((-1.0..86_400.0).contains(&age), "{age}");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut page = String::new();
        Process::default().render(&mut page);
        assert_eq!(page, "");
        let process = Process {
            cpu_seconds: Some(1.5),
            open_fds: Some(3),
            ..Process::default()
        };
        process.render(&mut page);
        let samples: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            ["process_cpu_seconds_total 1.5", "process_open_fds 3"]
        );
        assert!(page.contains("\n# TYPE process_cpu_seconds_total counter\n"));
    }
}
