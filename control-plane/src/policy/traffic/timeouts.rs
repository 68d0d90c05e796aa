//! `timeouts`: limits in time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::duration::PolicyDuration;
use crate::policy::schema::words::{Rule, lasting};

/// Limits in time, each of them optional; at least one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend(
    "minProperties" = 1,
    "x-weft-enforced" = "the client's sidecar; connect comes from the backend's own policy, else from the addressed service's",
    "x-weft-example" = "timeouts: {request: 3s, perTry: 1s, connect: 250ms, idle: 30s, stream: 1h}",
    "x-kubernetes-validations" = [
        Rule::new(
            "!(has(self.request) && has(self.perTry)) || duration(self.request) == duration('0s') || duration(self.perTry) <= duration(self.request)",
            "perTry cannot be longer than request",
        )
        .at(".perTry")
        .mend("lower perTry, or raise request"),
        Rule::new(
            "!(has(self.connect) && has(self.perTry)) || duration(self.perTry) == duration('0s') || duration(self.connect) <= duration(self.perTry)",
            "connect cannot be longer than perTry",
        )
        .at(".connect")
        .mend("lower connect, or raise perTry"),
    ],
))]
pub struct Timeouts {
    /// The whole exchange, from the first byte of the request to the last byte of the response;
    /// waiting, retries and backoff are included. It ends with the response head for streams:
    /// upgrades, CONNECT, server-sent events, gRPC and watches.
    pub request: Option<PolicyDuration>,
    /// One try, from the choice of an endpoint to its response head. At most `request`.
    pub per_try: Option<PolicyDuration>,
    /// The TCP and TLS handshakes with one endpoint together, 10ms to 1m. At most `perTry`. Not
    /// allowed in rules, because requests of all rules share a backend's connections.
    #[schemars(extend("x-kubernetes-validations" = lasting("10ms", "1m")))]
    pub connect: Option<PolicyDuration>,
    /// How long an exchange may go without a byte in either direction.
    pub idle: Option<PolicyDuration>,
    /// The whole life of a stream: of gRPC, server-sent events, WebSocket and other upgrades, and
    /// CONNECT.
    pub stream: Option<PolicyDuration>,
}
