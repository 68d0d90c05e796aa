//! The policy as a whole, and its server-side stanzas.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proto::names;

use super::access_log::AccessLog;
use super::fallback::Fallback;
use super::fault::FaultInjection;
use super::rate_limit::RateLimit;
use super::schema::words::{GROUP, LABEL, PLAIN_PATH, Rule, SERVICE_ACCOUNT, SPIFFE_ID, SUBDOMAIN};
use super::traffic::{CircuitBreaker, LoadBalancer, Method, Retries, Split, Timeouts};

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
    /// Counted up by a cluster with every change of the spec; nothing where there is none.
    #[serde(default)]
    pub generation: Option<i64>,
}

/// What a policy says: at least one stanza. An absent stanza is inherited as a whole: from the
/// service's policy, else from the namespace's, else from the mesh's defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    Rule::new(
        "!self.targetRefs.exists(t, t.kind == 'Namespace') || !(has(self.split) || has(self.rules) || has(self.fallback))",
        "split, rules and fallback cannot be set on a Namespace target",
    )
    .mend("target the services one by one"),
    Rule::new(
        "!has(self.split) || size(self.targetRefs) == 1",
        "split needs exactly one target",
    )
    .at(".split")
    .mend("write one policy per service"),
    Rule::new(
        "has(self.mtls) || has(self.authorization) || has(self.timeouts) || has(self.retries) || has(self.circuitBreaker) || has(self.loadBalancer) || has(self.split) || has(self.rateLimit) || has(self.faultInjection) || has(self.fallback) || has(self.accessLog) || has(self.rules)",
        "at least one policy stanza is required",
    )
    .mend("add what the policy is for, as retries: {}"),
    Rule::new(
        "!(has(self.mtls) && self.mtls.mode == 'Disabled' && has(self.authorization))",
        "authorization needs mTLS",
    )
    .at(".authorization")
    .mend("use mtls mode Permissive or Strict: callers are known by their certificates"),
    Rule::new(
        "!(has(self.authorization) && has(self.authorization.forServices) && self.targetRefs.exists(t, t.kind == 'Service'))",
        "forServices needs targets of kind Namespace",
    )
    .at(".authorization.forServices")
    .mend("leave it out: below a service there is nothing that it could be for"),
]))]
pub struct TrafficPolicySpec {
    /// What the policy is meant for. All targets are of the policy's own namespace.
    #[schemars(
        length(min = 1, max = 16),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["group", "kind", "name"]
        )
    )]
    pub target_refs: Vec<TargetRef>,
    /// Whether the target's workloads accept plaintext. A service may not be weaker than its
    /// namespace, nor a namespace weaker than the mesh.
    pub mtls: Option<Mtls>,
    /// Who may do what. Where it is given, all that it does not allow is denied: answered 403, and gRPC
    /// callers get PERMISSION_DENIED.
    pub authorization: Option<Authorization>,
    /// Limits in time, each of them optional; at least one is given. `0s` switches a limit off,
    /// except `connect`. The stanza is inherited as a whole: limits that it does not name are not in
    /// force. Without any, connect is 1s and there is no other limit.
    pub timeouts: Option<Timeouts>,
    /// Which failed tries are repeated. What was provably never processed may be repeated whatever
    /// the method; everything else needs a method in `methods` or an `Idempotency-Key` header. `{}`
    /// takes every default. Without this stanza, up to 2 retries of never processed tries are made.
    pub retries: Option<Retries>,
    /// When traffic to what fails is stopped, and how it begins again. At least one of
    /// `consecutiveFailures`, `errorRate` and `limits` is given. Every try counts, retries too.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How one of a backend's endpoints is chosen for each try.
    pub load_balancer: Option<LoadBalancer>,
    /// Where requests to the target go: to other services by weight, with users kept on one side,
    /// and with copies. At least one of `backends`, `sticky` and `mirror` is given. Without `backends`
    /// requests stay with the service itself, or with the weights of a route that is attached to it; the
    /// other two hold there. It needs exactly one target, a service.
    pub split: Option<Split>,
    /// Stanzas for some requests only. Rules are tried in order, and the first that matches wins; a
    /// stanza that it has replaces the same one of the policy. Targets are services only.
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub rules: Option<Vec<super::traffic::Rule>>,
    /// How many requests each workload of the target takes, as its own sidecar counts them. More are
    /// answered 429 with `Retry-After`, and gRPC callers get RESOURCE_EXHAUSTED.
    pub rate_limit: Option<RateLimit>,
    /// Delays and failures by chance, to see what clients make of them. At least one of `delay` and
    /// `abort` is given.
    pub fault_injection: Option<FaultInjection>,
    /// What clients get where their service cannot answer: an answer that the sidecar makes, or
    /// another service's; exactly one of `response` and `backend` is given. It carries
    /// `x-weft-fallback: true`. Targets are services only.
    pub fallback: Option<Fallback>,
    /// Which requests the sidecars write a line about, and what it says. Without it there is none.
    pub access_log: Option<AccessLog>,
}

/// What a policy is meant for; always of the policy's own namespace.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-weft-example" = "targetRefs: [{kind: Service, name: checkout, sectionName: http}]",
    "x-kubernetes-validations" = [
        Rule::new("self.group == ''", "only core Service and Namespace may be targeted")
            .at(".group")
            .mend("leave group out"),
        Rule::new(
            "self.kind == 'Service' || !has(self.sectionName)",
            "sectionName needs kind Service",
        )
        .at(".sectionName")
        .mend("leave sectionName out"),
    ],
))]
pub struct TargetRef {
    /// The API group; only the core group, which is empty, has targets.
    #[serde(default)]
    #[schemars(length(max = 253), regex(pattern = GROUP))]
    pub group: String,
    /// What kind of target it is.
    #[serde(default)]
    pub kind: TargetKind,
    /// The name of the service, or of the policy's own namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub name: String,
    /// The name of one of the service's ports. The policy is then for this port only, and wins there
    /// over a policy for the whole service.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub section_name: Option<String>,
}

/// Kinds that policies can be meant for.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum TargetKind {
    /// A service, or one port of it.
    #[default]
    Service,
    /// Everything of the policy's own namespace.
    Namespace,
}

/// Whether plaintext is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-weft-enforced" = "the server's sidecar",
    "x-weft-example" = "mtls: {mode: Strict}",
))]
pub struct Mtls {
    /// What is accepted. Without any policy it is Permissive.
    pub mode: MtlsMode,
}

/// Modes of mutual TLS, from the weakest to the strictest: their order is their strictness.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum MtlsMode {
    /// Clients are told to use plaintext.
    Disabled,
    /// Mesh TLS and plaintext.
    Permissive,
    /// Mesh TLS only.
    Strict,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-weft-enforced" = "the server's sidecar",
    "x-weft-example" = r"authorization:
  mode: Enforce
  allow:
  - principals: [{serviceAccount: {namespace: web, name: frontend}}]
    methods: [GET]
    paths: [/cart]
  - principals: [{spiffeId: spiffe://partner.example.org/ns/b2b/*}]",
))]
pub struct Authorization {
    /// Whether what is not allowed is denied.
    #[serde(default)]
    pub mode: AuthorizationMode,
    /// Of a Namespace's: what it is to the namespace's services. Ceiling where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_services: Option<ForServices>,
    /// What is allowed: requests that any entry matches. An empty list denies everything.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub allow: Vec<AllowEntry>,
}

/// What happens to requests that no entry allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthorizationMode {
    /// They are denied.
    #[default]
    Enforce,
    /// They are logged and counted, and pass.
    Audit,
}

/// What a namespace's authorization is to its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForServices {
    /// They may narrow it, never widen.
    Ceiling,
    /// It holds for what has none of its own: a service's replaces it.
    Default,
}

/// Requests that are allowed: those that match all parts of the entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowEntry {
    /// The callers: any of these.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub principals: Vec<Principal>,
    /// The HTTP methods: any of these; every method where this is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9), extend("x-kubernetes-list-type" = "set"))]
    pub methods: Vec<Method>,
    /// The paths: those that begin with the whole segments of any of these, however the server reads
    /// them; every path where this is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(length(min = 1, max = 1024), regex(pattern = PLAIN_PATH)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub paths: Vec<String>,
}

/// A caller: exactly one of its fields is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    Rule::new(
        "has(self.serviceAccount) != has(self.spiffeId)",
        "exactly one of serviceAccount or spiffeId is required",
    )
    .mend("use one principal for each"),
]))]
pub struct Principal {
    /// A service account of this mesh's trust domain.
    #[serde(default)]
    pub service_account: Option<ServiceAccountRef>,
    /// A SPIFFE id, as in spiffe://example.org/ns/web/sa/frontend; or with /* at its end, all ids
    /// below one.
    #[serde(default)]
    #[schemars(length(min = 10, max = 512), regex(pattern = SPIFFE_ID))]
    pub spiffe_id: Option<String>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountRef {
    /// Its namespace; the policy's own where this is left out.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub namespace: Option<String>,
    /// Its name. `*` is every service account of the namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = SERVICE_ACCOUNT))]
    pub name: String,
}

impl TrafficPolicySpec {
    /// Every service of the policy's namespace that requests or copies of them are sent to, in splits and
    /// fallbacks.
    pub fn named_services(&self) -> impl Iterator<Item = &str> {
        let rules = || self.rules.iter().flatten();
        let splits = rules().filter_map(|rule| rule.split.as_ref());
        let splits = self.split.iter().chain(splits).flat_map(Split::named);
        let fallbacks = rules().filter_map(|rule| rule.fallback.as_ref());
        let fallbacks = self.fallback.iter().chain(fallbacks);
        let fallbacks = fallbacks.filter_map(|fallback| fallback.backend.as_ref());
        let splits = splits.map(|(name, _)| name);
        splits.chain(fallbacks.map(|backend| backend.name.as_str()))
    }
}

impl TrafficPolicy {
    /// Makes a policy of this API version.
    pub fn new(metadata: Metadata, spec: TrafficPolicySpec) -> Self {
        Self {
            api_version: names::API_VERSION.to_owned(),
            kind: names::TRAFFIC_POLICY_KIND.to_owned(),
            metadata,
            spec,
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
