//! How many requests a port takes.

use std::num::NonZeroU32;

use http::HeaderName;

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
