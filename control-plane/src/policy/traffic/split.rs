//! `split`: where requests go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::matches::{CookieMatch, HeaderMatch};
use crate::policy::duration::PolicyDuration;
use crate::policy::schema::words::{LABEL, Rule, TOKEN};

/// Where requests to the target go: to other services by weight, with users kept on one side, and
/// with copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend(
    "x-weft-enforced" = "the client's sidecar",
    "x-weft-example" = r"split:
  backends:
  - {name: checkout-v1, weight: 95}
  - name: checkout-v2
    weight: 5
    matches: [{headers: [{name: x-canary, value: always}]}]
  sticky: {type: Cookie, ttl: 24h}
  whenEmpty: NextBackend
  mirror: {name: checkout-shadow, percent: 10}",
    "x-kubernetes-validations" = [
        Rule::new(
            "has(self.backends) || has(self.sticky) || has(self.mirror)",
            "backends, sticky or mirror is required",
        )
        .mend("name the backends"),
        Rule::new(
            "!has(self.mirror) || !has(self.backends) || !self.backends.exists(b, b.name == self.mirror.name && b.weight > 0)",
            "mirror must not name a backend that already receives weighted traffic",
        )
        .at(".mirror")
        .mend("mirror to a service of its own, or give that backend the weight 0"),
    ],
))]
pub struct Split {
    /// The services that requests go to, by their weights and in this order. Raising the weight
    /// of the last one moves users to it and none away from it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 8),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name"],
            "x-kubernetes-validations" = [
                Rule::new(
                    "self.exists(b, b.weight > 0)",
                    "at least one backend must have a weight above 0",
                )
                .mend("give the backend that takes the traffic a weight"),
            ]
        )
    )]
    pub backends: Vec<SplitBackend>,
    /// What keeps a user on one side.
    pub sticky: Option<Sticky>,
    /// What happens when the chosen backend has no endpoint.
    pub when_empty: WhenEmpty,
    /// A service that gets copies of requests, and whose answers nobody waits for. Copies carry
    /// `x-weft-mirror: true` and an authority that ends in `-shadow`. What streams is not copied, gRPC
    /// among it, nor what has a longer body than `retries.bodyLimitBytes`.
    pub mirror: Option<Mirror>,
}

impl Split {
    /// Every service that is named, with its port where that is too: the sides, then the mirror.
    pub fn named(&self) -> impl Iterator<Item = (&str, Option<u16>)> {
        let sides = self.backends.iter();
        let sides = sides.map(|side| (side.name.as_str(), side.port));
        let mirror = self.mirror.iter();
        sides.chain(mirror.map(|mirror| (mirror.name.as_str(), mirror.port)))
    }
}

/// A service that gets copies of requests, and whose answers nobody waits for. Copies carry
/// `x-weft-mirror: true` and an authority that ends in `-shadow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// A service of the policy's namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub name: String,
    /// Its port; the number of the addressed port where this is left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
    /// The percentage of requests that are copied.
    #[serde(default = "default_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
}

/// One side of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SplitBackend {
    /// A service of the policy's namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub name: String,
    /// Its port; the number of the addressed port where this is left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
    /// Its share of the sum of all weights. 0 clears it at once, of sticky users too.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: u32,
    /// Requests that go here whatever the weights are: those that any of these entries matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<SplitMatch>,
}

/// A request that is forced to a side: by all of its headers and cookies. At least one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1))]
pub struct SplitMatch {
    /// Headers that the request has, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub headers: Vec<HeaderMatch>,
    /// Cookies that the request has, all of them; the first of a name counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 4),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub cookies: Vec<CookieMatch>,
}

/// What keeps a user on one side: requests with the same key go to the same backend. A request
/// without a key goes by chance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    Rule::new(
        "self.type != 'Header' || has(self.name)",
        "name is required for Header",
    )
    .at(".name")
    .mend("name the header"),
    Rule::new(
        "self.type != 'ClientIdentity' || !has(self.name)",
        "name is forbidden for ClientIdentity",
    )
    .at(".name")
    .mend("leave it out"),
]))]
pub struct Sticky {
    /// What the key is.
    #[serde(rename = "type")]
    pub kind: StickyType,
    /// The name of the cookie or header. A cookie is named weft-canary where this is left out; a
    /// header needs a name, and ClientIdentity has none.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: Option<String>,
    /// How long a cookie lasts that Weft made. 0s is until the browser is closed.
    pub ttl: Option<PolicyDuration>,
}

/// What the key is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StickyType {
    /// The value of a cookie, which Weft makes where it is missing.
    #[default]
    Cookie,
    /// The first value of a header.
    Header,
    /// The calling workload: each instance is one user.
    ClientIdentity,
}

/// What happens when the chosen backend has no endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenEmpty {
    /// The request fails with 503, or takes the fallback.
    #[default]
    Fail,
    /// The next backend in the list takes it.
    NextBackend,
}

impl Sticky {
    /// The cookie where a policy names none.
    pub const DEFAULT_COOKIE: &str = "weft-canary";
}

impl Default for Sticky {
    fn default() -> Self {
        Self {
            kind: StickyType::Cookie,
            name: None,
            ttl: Some(PolicyDuration::from_millis(0)),
        }
    }
}

fn default_weight() -> u32 {
    1
}

fn default_percent() -> u32 {
    100
}
