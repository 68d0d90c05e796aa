//! Waits to the microsecond: the runtime's own clock counts milliseconds, which is longer than what is
//! measured.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// A timer of the kernel's, timerfd_create(2).
pub(super) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    // What replaces it is unsafe; an owned descriptor is what it asks for.
    #[expect(deprecated)]
    pub(super) fn new() -> anyhow::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(AsyncFd::new(timer)?))
    }

    /// Until `due`; how much later it rang. `None` if that was over before, and so nothing was waited for.
    pub(super) async fn at(&self, due: Instant) -> anyhow::Result<Option<Duration>> {
        let left = due.saturating_duration_since(Instant::now());
        // Zero would be never.
        if left.is_zero() {
            return Ok(None);
        }
        let once = Itimerspec {
            it_interval: Timespec::try_from(Duration::ZERO)?,
            it_value: Timespec::try_from(left)?,
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| {
                let mut rings = [0; size_of::<u64>()];
                Ok(rustix::io::read(timer.get_ref(), &mut rings)?)
            });
            // Otherwise it was no more than a guess.
            if let Ok(read) = read {
                read?;
                return Ok(Some(due.elapsed()));
            }
        }
    }
}
