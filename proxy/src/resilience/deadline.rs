//! Time left, and the headers that carry it: the one place where bounds in time are reckoned.
//!
//! A request has one deadline, a value that travels with it; every try has its own, which never
//! lies behind the request's. A client's `grpc-timeout` is reduced by the time already spent and
//! never invented; the policy's remaining time travels as `x-weft-deadline-ms`.

use std::time::{Duration, Instant};

/// Digits in a `grpc-timeout` (the gRPC protocol over HTTP/2: `TimeoutValue`).
const GRPC_DIGITS: usize = 8;
const GRPC_MAX: u128 = 99_999_999;
/// Units of a `grpc-timeout`, finest first, in nanoseconds.
const GRPC_UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// When a request's time is over; perhaps never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

/// Which bound a try meets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The request's deadline: nothing may be tried after it.
    Request,
    /// The try's own.
    Try,
}

impl Deadline {
    /// No bound.
    pub const NONE: Self = Self(None);

    /// `timeout` after `start`; no bound without one, or beyond what an `Instant` can say.
    pub fn after(start: Instant, timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| start.checked_add(timeout)))
    }

    /// The earlier of the two.
    pub fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// The same, that much later; no bound beyond what an `Instant` can say.
    pub fn later(self, by: Duration) -> Self {
        Self(self.0.and_then(|at| at.checked_add(by)))
    }

    /// When it is.
    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Time left at `now`, zero once it is over; `None` without a bound.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(now))
    }

    /// Whether it is over.
    pub fn is_over(self, now: Instant) -> bool {
        self.0.is_some_and(|at| at <= now)
    }

    /// When a try that begins at `now` must end, and by which bound. At equality the request's
    /// bound is named, since no other try could follow.
    pub fn for_try(self, now: Instant, per_try: Option<Duration>) -> (Self, Bound) {
        let first = self.min(Self::after(now, per_try));
        let bound = if first == self {
            Bound::Request
        } else {
            Bound::Try
        };
        (first, bound)
    }

    /// The value of `x-weft-deadline-ms`: rounded up, so that the receiver never gives up before
    /// the sender does.
    pub fn header_ms(self, now: Instant) -> Option<u64> {
        let nanos = self.remaining(now)?.as_nanos();
        Some(u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// The value of `grpc-timeout`: rounded down, so that a server never believes that it has longer
    /// than the client waits. Never nothing, which would mean no limit to some.
    pub fn grpc_timeout(self, now: Instant) -> Option<String> {
        const LEAST: Duration = Duration::from_nanos(1);
        let left = self.remaining(now)?;
        Some(format_grpc_timeout(left.max(LEAST)))
    }
}

/// Reads `x-weft-deadline-ms`. `None` for what is no plain decimal number.
pub fn parse_deadline_ms(value: &[u8]) -> Option<Duration> {
    digits(value).map(Duration::from_millis)
}

/// Reads `grpc-timeout`: one to eight digits and a unit. `None` for anything else.
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, number) = value.split_last()?;
    if number.len() > GRPC_DIGITS {
        return None;
    }
    let number = digits(number)?;
    let (_, nanos) = GRPC_UNITS.into_iter().find(|(name, _)| name == unit)?;
    let total = u128::from(number) * nanos;
    let seconds = u64::try_from(total / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (total % 1_000_000_000) as u32))
}

/// In the finest unit that fits, rounded down. Saturates at the longest that the format can say.
fn format_grpc_timeout(timeout: Duration) -> String {
    let nanos = timeout.as_nanos();
    let fitting = GRPC_UNITS
        .into_iter()
        .find(|(_, unit)| nanos / unit <= GRPC_MAX);
    let (name, value) = match fitting {
        Some((name, unit)) => (name, nanos / unit),
        None => (b'H', GRPC_MAX),
    };
    format!("{value}{}", char::from(name))
}

fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
