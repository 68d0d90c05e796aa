//! The policy as a whole, and its server-side stanzas.

use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use weft_proto::names;

use super::fallback::Fallback;
use super::fault::FaultInjection;
use super::rate_limit::RateLimit;
use super::traffic::{CircuitBreaker, LoadBalancer, Method, Retries, Rule, Split, Timeouts};

/// One `TrafficPolicy` as a manifest carries it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicy {
    /// [`names::API_VERSION`].
    pub api_version: String,
    /// [`names::TRAFFIC_POLICY_KIND`].
    pub kind: String,
    /// Who it is.
    pub metadata: Metadata,
    /// What it says.
    pub spec: TrafficPolicySpec,
    /// Written by a cluster; without meaning here.
    #[serde(default, rename = "status", skip_serializing)]
    _status: Option<IgnoredAny>,
}

/// The part of an object's metadata that Weft reads. Everything else belongs to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The policy's name.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// RFC 3339, in UTC as clusters write it; decides which of two policies is the older.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
}

/// What a policy says. An absent stanza is inherited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// What it is meant for: 1 to 16.
    pub target_refs: Vec<TargetRef>,
    /// Whether plaintext is accepted.
    pub mtls: Option<Mtls>,
    /// Who may do what.
    pub authorization: Option<Authorization>,
    /// Limits in time.
    pub timeouts: Option<Timeouts>,
    /// Which failed tries are repeated.
    pub retries: Option<Retries>,
    /// When traffic to what fails is stopped.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How endpoints are chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Where requests go.
    pub split: Option<Split>,
    /// Stanzas for some requests only: at most 16.
    pub rules: Option<Vec<Rule>>,
    /// How many requests the target's workloads take.
    pub rate_limit: Option<RateLimit>,
    /// Failures that are asked for.
    pub fault_injection: Option<FaultInjection>,
    /// What clients get where their service cannot answer.
    pub fallback: Option<Fallback>,
}

/// What a policy is meant for; always of the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// The API group; only the core group, which is empty, has targets.
    #[serde(default)]
    pub group: String,
    /// The kind.
    #[serde(default)]
    pub kind: TargetKind,
    /// The name of the service or namespace.
    pub name: String,
    /// A service port's name; the policy is then for this port only.
    #[serde(default)]
    pub section_name: Option<String>,
}

/// Kinds that policies can be meant for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum TargetKind {
    /// A service, or one port of it.
    #[default]
    Service,
    /// Everything of a namespace.
    Namespace,
}

/// Whether plaintext is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    /// The mode.
    pub mode: MtlsMode,
}

/// Modes of mutual TLS, from the weakest to the strictest: their order is their strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MtlsMode {
    /// Plaintext is what clients are promised.
    Disabled,
    /// Mesh TLS and plaintext.
    Permissive,
    /// Mesh TLS only.
    Strict,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorization {
    /// Whether what is not allowed is denied, or only counted.
    #[serde(default)]
    pub mode: AuthorizationMode,
    /// What is allowed: at most 16 entries; none of them denies everything.
    pub allow: Vec<AllowEntry>,
}

/// What happens to requests that no entry allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizationMode {
    /// They are denied.
    #[default]
    Enforce,
    /// They are logged and counted, and pass.
    Audit,
}

/// One allowance: by all of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowEntry {
    /// Any of these callers: 1 to 16.
    pub principals: Vec<Principal>,
    /// Any of these methods; none of them means any.
    #[serde(default)]
    pub methods: Vec<Method>,
    /// Path prefixes by whole segments; none means any.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// A caller: exactly one of its parts is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Principal {
    /// By service account, of this mesh's trust domain.
    #[serde(default)]
    pub service_account: Option<ServiceAccountRef>,
    /// By SPIFFE id, exactly or with a trailing `/*`.
    #[serde(default)]
    pub spiffe_id: Option<String>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountRef {
    /// Its namespace; the policy's own where it is left out.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Its name; `*` is every service account of the namespace.
    pub name: String,
}

impl TrafficPolicy {
    /// Makes a policy of this API version.
    pub fn new(metadata: Metadata, spec: TrafficPolicySpec) -> Self {
        Self {
            api_version: names::API_VERSION.to_owned(),
            kind: names::TRAFFIC_POLICY_KIND.to_owned(),
            metadata,
            spec,
            _status: None,
        }
    }
}

impl fmt::Display for MtlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "Disabled",
            Self::Permissive => "Permissive",
            Self::Strict => "Strict",
        })
    }
}

fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

/// Where an object without a namespace lives, as with every Kubernetes client.
pub const DEFAULT_NAMESPACE: &str = "default";
