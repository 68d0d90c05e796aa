//! `loadBalancer`: how endpoints are chosen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::duration::PolicyDuration;
use crate::policy::schema::words::{Rule, TOKEN, lasting};

/// How one of a backend's endpoints is chosen for each try.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend(
    "x-weft-enforced" = "the client's sidecar; it comes from the backend's own policy, else from the addressed service's",
    "x-weft-example" = "loadBalancer: {policy: ConsistentHash, consistentHash: {header: x-user-id}}",
    "x-kubernetes-validations" = [
        Rule::new(
            "(self.policy == 'ConsistentHash') == has(self.consistentHash)",
            "consistentHash is required exactly when policy is ConsistentHash",
        )
        .mend("add consistentHash: {header: NAME}, or choose another policy"),
    ],
))]
pub struct LoadBalancer {
    /// How an endpoint is chosen.
    pub policy: BalancerPolicy,
    /// What policy ConsistentHash hashes: exactly one of its fields is given.
    pub consistent_hash: Option<ConsistentHash>,
    /// The time over which the share of a new endpoint rises to its full one, 1s to 15m.
    #[schemars(extend("x-kubernetes-validations" = lasting("1s", "15m")))]
    pub slow_start: Option<PolicyDuration>,
    /// Whether endpoints of the client's own zone come first.
    pub locality: Locality,
}

/// Ways to choose an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BalancerPolicy {
    /// Of two by chance, the one with the lower latency times requests in flight.
    #[default]
    #[serde(rename = "PeakEWMA")]
    PeakEwma,
    /// Of two by chance, the one with fewer requests in flight.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
    /// By the hash of something that a user's requests have in common.
    ConsistentHash,
}

/// What ConsistentHash hashes: exactly one of its fields. A request without it goes by chance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct ConsistentHash {
    /// The first value of the header of this name.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub header: Option<String>,
    /// The value of the cookie of this name.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub cookie: Option<String>,
    /// Where requests come from: the calling workload, whatever its address. Only true can be given.
    #[serde(rename = "sourceIP")]
    #[schemars(extend("x-kubernetes-validations" = [
        Rule::new("self", "must be true").mend("leave it out"),
    ]))]
    pub source_ip: Option<bool>,
}

/// Whether the own zone comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Locality {
    /// Zones do not matter.
    #[default]
    Disabled,
    /// Endpoints of the own zone come first while enough of them can be used; then other zones
    /// take a share too.
    PreferSameZone,
}
