//! How long a thread executes: what the kernel's scheduler says of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// The file of one thread: nanoseconds that it executed, that it waited, and how often it ran (Linux,
/// `Documentation/scheduler/sched-stats.rst`). It says so to every thread of the process.
pub(super) struct Clock(File);

impl Clock {
    /// The calling thread's.
    ///
    /// # Errors
    /// Where the kernel keeps no such statistics.
    pub(super) fn of_this_thread() -> io::Result<Self> {
        let clock = Self(File::open("/proc/thread-self/schedstat")?);
        clock.executed()?;
        Ok(clock)
    }

    /// For how many nanoseconds the thread has executed in all.
    fn executed(&self) -> io::Result<u64> {
        let mut text = [0; 96];
        let length = self.0.read_at(&mut text, 0)?;
        executed_in(&text[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Tells which share of the time a thread executes.
pub(super) struct Meter {
    seen: Option<(u64, Instant)>,
}

impl Meter {
    /// One that has seen nothing.
    pub(super) fn new() -> Self {
        Self { seen: None }
    }

    /// The share since the last call; none in the first one, and where the clock says nothing.
    pub(super) fn share(&mut self, clock: &Clock, now: Instant) -> Option<f64> {
        let executed = clock.executed().ok()?;
        let (before, since) = self.seen.replace((executed, now))?;
        let passed = now.saturating_duration_since(since).as_nanos();
        (passed > 0).then(|| (executed.saturating_sub(before) as f64 / passed as f64).min(1.0))
    }
}

fn executed_in(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_number_counts() {
        assert_eq!(executed_in(b"123456 42 7\n"), Some(123_456));
        for odd in [&b""[..], b"\n", b"x 1 2", b"-1 2 3", b"\xff 1"] {
            assert_eq!(executed_in(odd), None);
        }
    }

    #[test]
    fn who_executes_is_told_from_who_sleeps() {
        let clock = Clock::of_this_thread().unwrap();
        let mut meter = Meter::new();
        let began = Instant::now();
        assert_eq!(meter.share(&clock, began), None);
        thread::sleep(Duration::from_millis(50));
        let slept = meter.share(&clock, Instant::now()).unwrap();
        // In time of its own: other threads may have the machine's cores meanwhile.
        let before = clock.executed().unwrap();
        let mut rounds = 0_u64;
        while clock.executed().unwrap() < before + 20_000_000 {
            rounds += 1;
        }
        assert!(rounds > 0);
        let worked = meter.share(&clock, Instant::now()).unwrap();
        assert!(slept < 0.5 && slept < worked, "{slept} {worked}");
        assert!((0.0..=1.0).contains(&worked), "{worked}");
    }
}
