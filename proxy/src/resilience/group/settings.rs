//! What policy says about a backend, made ready for its endpoints' breakers.
//!
//! Every endpoint has a breaker: policy's, or the reconnect backoff, which is told of connections alone.

use std::time::Duration;

use crate::policy::{Balancer, BreakerPolicy, BreakerScope};
use crate::resilience::attempt::TryVerdict;

/// The first reconnect backoff.
pub const RECONNECT_MIN: Duration = Duration::from_secs(1);
/// The longest reconnect backoff.
pub const RECONNECT_MAX: Duration = Duration::from_secs(10);

/// The breaker that an endpoint has where policy gives it none: it opens at the first connection
/// that fails and closes at the first that does not.
pub(super) static RECONNECT: BreakerPolicy = BreakerPolicy {
    scope: BreakerScope::Endpoint,
    consecutive_failures: Some(1),
    error_rate: None,
    failure_status_codes: Vec::new(),
    open_duration: RECONNECT_MIN,
    max_open_duration: RECONNECT_MAX,
    half_open_max_requests: 1,
    half_open_success_threshold: 1,
    max_ejection_percent: 100,
    limits: None,
};

/// What policy says.
#[derive(Debug)]
pub(in crate::resilience) struct Settings {
    /// As it was given, less its limits; `None` where it has no trigger.
    pub(super) given: Option<BreakerPolicy>,
    /// For every endpoint: the given one or the reconnect backoff.
    pub(super) endpoint: BreakerPolicy,
    pub(super) reconnect: bool,
    pub(in crate::resilience) balancer: Balancer,
}

impl Settings {
    pub(super) fn new(given: Option<BreakerPolicy>, balancer: Balancer) -> Self {
        let given = given
            .filter(|policy| policy.consecutive_failures.is_some() || policy.error_rate.is_some())
            .map(|policy| BreakerPolicy {
                limits: None,
                ..policy
            });
        let own = given
            .as_ref()
            .filter(|policy| policy.scope == BreakerScope::Endpoint);
        Self {
            reconnect: own.is_none(),
            endpoint: own.cloned().unwrap_or_else(|| RECONNECT.clone()),
            given,
            balancer,
        }
    }

    pub(super) fn backend(&self) -> Option<&BreakerPolicy> {
        self.given
            .as_ref()
            .filter(|policy| policy.scope == BreakerScope::Backend)
    }

    /// How many failures in a row make up a breaker's mind; `None` where nothing is to be found out.
    pub(in crate::resilience) fn evidence(&self) -> Option<u32> {
        if self.reconnect {
            return None;
        }
        let by_rate = self.endpoint.error_rate.map(|rate| rate.min_requests);
        self.endpoint.consecutive_failures.or(by_rate)
    }

    /// The reconnect backoff only sees whether a connection came about.
    pub(super) fn endpoint_verdict(&self, verdict: TryVerdict) -> TryVerdict {
        match verdict {
            TryVerdict::Failure if self.reconnect => TryVerdict::Success,
            verdict => verdict,
        }
    }
}
