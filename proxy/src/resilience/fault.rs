//! Whether a request meets a failure that policy asks for.

use std::time::Duration;

use http::HeaderMap;

use super::route;
use crate::outcome::{Failure, Outcome};
use crate::policy::{AbortStatus, FaultPolicy};

/// What a request meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// It waits first.
    pub delay: Option<Duration>,
    /// It is then answered so.
    pub abort: Option<AbortStatus>,
}

impl Fault {
    /// Draws for a request with these headers: delay and abort each by a draw of their own, so that
    /// their shares hold independently. `draw` gives numbers from 0 to 99, each as often.
    pub fn draw(policy: &FaultPolicy, headers: &HeaderMap, mut draw: impl FnMut() -> u32) -> Self {
        let mut all = policy.headers.iter();
        if !all.all(|rule| route::matches_header(rule, headers)) {
            return Self::default();
        }
        Self {
            delay: policy
                .delay
                .filter(|delay| draw() < delay.percent)
                .map(|delay| delay.duration),
            abort: policy
                .abort
                .filter(|abort| draw() < abort.percent)
                .map(|abort| abort.status),
        }
    }

    /// The answer, where there is to be one.
    pub fn failure(&self) -> Option<Failure> {
        let failure = Failure::never(Outcome::FaultInjected, "policy asked for this failure");
        self.abort.map(|status| match status {
            AbortStatus::Grpc(code) => failure.with_grpc_code(code),
            AbortStatus::Http(status) => failure.with_status(status),
        })
    }
}
