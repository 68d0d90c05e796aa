//! The `rateLimit` stanza: how many requests a service's workloads take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::words::{Rule, TOKEN};

/// How many requests each workload of the target takes, as its own sidecar counts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-weft-enforced" = "the server's sidecar",
    "x-weft-example" = r"rateLimit:
  requestsPerSecond: 500
  burst: 1000
  key: ClientIdentity
  overrides: [{identity: spiffe://cluster.local/ns/shop/sa/batch, requestsPerSecond: 50}]",
    "x-kubernetes-validations" = [
        Rule::new(
            "(self.key == 'Header') == has(self.header)",
            "header is required exactly when key is Header",
        )
        .at(".header")
        .mend("name the header with key Header, and leave it out with others"),
        Rule::new(
            "!has(self.burst) || self.burst >= self.requestsPerSecond",
            "burst cannot be below requestsPerSecond",
        )
        .at(".burst")
        .mend("raise burst, or leave it out"),
        Rule::new(
            "!has(self.overrides) || self.key == 'ClientIdentity'",
            "overrides need key ClientIdentity",
        )
        .at(".overrides")
        .mend("use key ClientIdentity, or leave overrides out"),
    ],
))]
pub struct RateLimit {
    /// Requests per second in the long run, for each workload port and key.
    #[schemars(range(min = 1, max = Self::MAX))]
    pub requests_per_second: u32,
    /// Requests that pass at once after a rest. Left out, it is `requestsPerSecond`, below which it
    /// cannot be.
    #[serde(default)]
    #[schemars(range(min = 1, max = Self::MAX))]
    pub burst: Option<u32>,
    /// What is counted apart.
    #[serde(default)]
    pub key: RateLimitKey,
    /// The name of the header that key Header tells requests apart by; given exactly with that key.
    #[serde(default)]
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub header: Option<String>,
    /// Other rates for some callers, with key ClientIdentity. Their bursts are in the same
    /// proportion to their rates.
    #[serde(default)]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["identity"])
    )]
    pub overrides: Option<Vec<RateLimitOverride>>,
}

/// What is counted apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RateLimitKey {
    /// Nothing: there is one count for all requests.
    #[default]
    Global,
    /// Callers, by the SPIFFE id that they proved; those who proved none share one count.
    ClientIdentity,
    /// Requests, by the first value of a header; those without it share one count.
    Header,
}

/// The rate of one caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitOverride {
    /// The caller's whole SPIFFE id.
    #[schemars(length(min = 1, max = 512))]
    pub identity: String,
    /// The caller's requests per second in the long run.
    #[schemars(range(min = 1, max = RateLimit::MAX))]
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
