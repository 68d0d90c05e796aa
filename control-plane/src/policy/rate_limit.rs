//! The `rateLimit` stanza: how many requests a service's workloads take.

use serde::{Deserialize, Serialize};

/// How many requests each workload port takes, as its own sidecar counts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// In the long run, 1 to 10,000,000.
    pub requests_per_second: u32,
    /// At once, after a rest: from `requests_per_second`, which it is where it is left out, to
    /// 10,000,000.
    #[serde(default)]
    pub burst: Option<u32>,
    /// What is counted apart.
    #[serde(default)]
    pub key: RateLimitKey,
    /// The header of key `Header`.
    #[serde(default)]
    pub header: Option<String>,
    /// For some callers of key `ClientIdentity` another rate: at most 16. Their burst is in the
    /// same proportion to their rate.
    #[serde(default)]
    pub overrides: Option<Vec<RateLimitOverride>>,
}

/// What is counted apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateLimitKey {
    /// Nothing: one count for all.
    #[default]
    Global,
    /// Callers by the SPIFFE id that they proved; those who proved none share one count.
    ClientIdentity,
    /// Requests by the first value of a header; those without it share one count.
    Header,
}

/// The rate of one caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitOverride {
    /// The whole SPIFFE id: 1 to 512 bytes.
    pub identity: String,
    /// In the long run, 1 to 10,000,000.
    pub requests_per_second: u32,
}

impl RateLimit {
    /// The most that can be asked for, per second and at once.
    pub const MAX: u32 = 10_000_000;

    /// What passes at once, after a rest.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.requests_per_second)
    }

    /// What passes at once of a caller with another rate.
    pub fn burst_of(&self, other: &RateLimitOverride) -> u32 {
        let own = u64::from(self.burst()) * u64::from(other.requests_per_second);
        let scaled = own.div_ceil(u64::from(self.requests_per_second.max(1)));
        let most = u64::from(Self::MAX);
        u32::try_from(scaled.min(most)).unwrap_or(Self::MAX)
    }
}
