//! What the application has been told to do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happens to HTTP and gRPC requests from now on. The default answers everything with 200.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Behavior {
    /// Status to answer with.
    pub status: u16,
    /// Share of the requests that get `status` where it is not 200; the others get 200.
    pub status_percent: f64,
    /// Milliseconds to wait, after the request's body has been read, before answering.
    pub latency_ms: u64,
    /// Share of the requests that wait.
    pub latency_percent: f64,
    /// How many of the next requests get `fail_status`.
    pub fail_next: u32,
    /// See `fail_next`.
    pub fail_status: u16,
    /// How many of the next requests, once read, get no answer: their connection is closed (HTTP/2:
    /// their stream is reset).
    pub close_next: u32,
    /// How many of the next requests, once read, get their connection reset (HTTP/2: their stream).
    pub reset_next: u32,
    /// How many of the next requests are refused as not processed (HTTP/2: REFUSED_STREAM; HTTP/1: their
    /// connection is closed).
    pub refuse_next: u32,
    /// How many of the next requests, once read, never get an answer.
    pub hang_next: u32,
    /// How answers with another status than 200 look.
    pub failure: Failure,
}

/// How an answer looks that says that something failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// More headers; they stand beside the status where that is gRPC's.
    pub headers: Vec<(String, String)>,
    /// The status that gRPC callers get.
    pub grpc_code: i32,
    /// gRPC: in trailers behind a head of their own, instead of in the head.
    pub in_trailers: bool,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Answer { status: u16, after: Duration },
    Close,
    Reset,
    Refuse,
    Hang,
}

impl Default for Behavior {
    fn default() -> Self {
        Self {
            status: 200,
            status_percent: 100.0,
            latency_ms: 0,
            latency_percent: 100.0,
            fail_next: 0,
            fail_status: 503,
            close_next: 0,
            reset_next: 0,
            refuse_next: 0,
            hang_next: 0,
            failure: Failure::default(),
        }
    }
}

impl Default for Failure {
    fn default() -> Self {
        Self {
            headers: Vec::new(),
            grpc_code: tonic::Code::Unavailable as i32,
            in_trailers: false,
        }
    }
}

impl Behavior {
    /// Answers with `status`.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// Answers late.
    pub fn latency(latency: Duration) -> Self {
        Self {
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
            ..Self::default()
        }
    }

    /// Decides about one request and counts it off. `roll` gives numbers in 0..100.
    pub(super) fn fate(&mut self, mut roll: impl FnMut() -> f64) -> Fate {
        if take(&mut self.reset_next) {
            return Fate::Reset;
        }
        if take(&mut self.close_next) {
            return Fate::Close;
        }
        if take(&mut self.refuse_next) {
            return Fate::Refuse;
        }
        if take(&mut self.hang_next) {
            return Fate::Hang;
        }
        let status = if take(&mut self.fail_next) {
            self.fail_status
        } else if self.status != 200 && roll() < self.status_percent {
            self.status
        } else {
            200
        };
        let late = self.latency_ms > 0 && roll() < self.latency_percent;
        let after = Duration::from_millis(if late { self.latency_ms } else { 0 });
        Fate::Answer { status, after }
    }
}

fn take(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_run_out_and_shares_hold() {
        let mut behavior = Behavior {
            fail_next: 1,
            close_next: 1,
            status: 500,
            status_percent: 30.0,
            ..Behavior::default()
        };
        let answer = |status| Fate::Answer {
            status,
            after: Duration::ZERO,
        };
        assert_eq!(behavior.fate(|| 0.0), Fate::Close);
        assert_eq!(behavior.fate(|| 99.0), answer(503));
        assert_eq!(behavior.fate(|| 29.9), answer(500));
        assert_eq!(behavior.fate(|| 30.0), answer(200));
    }
}
