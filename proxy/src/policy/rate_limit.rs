//! How many requests a port takes.

use std::num::NonZeroU32;

use http::HeaderName;

use super::{RouteMatch, ServiceRef};

/// A limit on the requests to one port, as this sidecar counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitPolicy {
    /// How many, per key.
    pub rate: Rate,
    /// What is counted apart.
    pub key: RateLimitKey,
}

/// How many requests pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: NonZeroU32,
    /// At once, after a rest.
    pub burst: NonZeroU32,
}

/// What is counted apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateLimitKey {
    /// Nothing: one count for all.
    Global,
    /// Callers by their SPIFFE id; those who proved none share one count. Some have another rate.
    ClientIdentity(Vec<RateLimitOverride>),
    /// Requests by this header's first value; those without it share one count.
    Header(HeaderName),
}

/// The rate of one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitOverride {
    /// The whole SPIFFE id.
    pub identity: Box<str>,
    /// The rate instead.
    pub rate: Rate,
}

/// The limits of one policy that tells requests apart by its rules; each has a count of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct RuledRateLimits {
    /// Whose clients the rules are for.
    pub service: ServiceRef,
    /// In order; the first that matches decides.
    pub rules: Vec<RateLimitRule>,
    /// For requests that no rule matches, and those whose rule has no limit of its own.
    pub otherwise: Option<RateLimitPolicy>,
}

/// A set of requests with, perhaps, a limit of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimitRule {
    /// The rule's name.
    pub name: Box<str>,
    /// Any of these; never empty.
    pub matches: Vec<RouteMatch>,
    /// How many of them pass; `None` for what holds otherwise.
    pub limit: Option<RateLimitPolicy>,
}
