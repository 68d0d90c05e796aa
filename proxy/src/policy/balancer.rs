//! How an endpoint is chosen.

use std::time::Duration;

use http::HeaderName;

/// How an endpoint is chosen among those of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// The way.
    pub policy: BalancerPolicy,
    /// Over this time the share of an endpoint rises that has come to others.
    pub slow_start: Option<Duration>,
    /// Whether endpoints of the own zone come first.
    pub prefer_same_zone: bool,
}

/// A way to choose an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BalancerPolicy {
    /// By the hash of a key.
    ConsistentHash(HashKey),
    /// Power of two choices over requests in flight.
    LeastRequest,
    /// Power of two choices over peak EWMA.
    PeakEwma,
    /// By chance.
    Random,
    /// In turn.
    RoundRobin,
}

/// What the requests have in common that go to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this cookie.
    Cookie(Box<str>),
    /// The first value of this header.
    Header(HeaderName),
    /// Where they come from, which is the sidecar's own workload.
    SourceIp,
}

impl Balancer {
    /// What is hashed, where something is.
    pub fn hash_key(&self) -> Option<&HashKey> {
        match &self.policy {
            BalancerPolicy::ConsistentHash(key) => Some(key),
            _ => None,
        }
    }
}

impl From<BalancerPolicy> for Balancer {
    /// Without slow start, and all zones alike.
    fn from(policy: BalancerPolicy) -> Self {
        Self {
            policy,
            slow_start: None,
            prefer_same_zone: false,
        }
    }
}
