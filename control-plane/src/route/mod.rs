//! Gateway API routes for the mesh: `HTTPRoute` and `GRPCRoute` v1 with Services as parents, and
//! `ReferenceGrant`.
//!
//! Objects are read as far as the mesh understands them. They are not ours: unknown fields are others'
//! business and are let be, bad values are refused with the field that they stand in. What is understood
//! and cannot be done is kept in the rule ([`RouteRule::unsupported`]): its requests are answered 500,
//! as the Gateway API asks for, and never as if the field were not there.
//!
//! A route in its Service's namespace is a producer's and holds for all clients; one in another namespace
//! is a consumer's and holds for the clients of its own namespace, instead of the producers'.
//!
//! Pure, and below the index: nothing here knows which services there are.

mod filters;
mod grant;
mod precedence;
mod raw;
mod read;
pub mod status;
#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::Value;

use crate::policy::{HeaderMatch, Method, PolicyDuration};
pub use filters::{Filters, HeaderEdits, Mirror, PathEdit, Redirect, Rewrite};
pub use grant::ReferenceGrant;
pub use precedence::{MatchRef, ordered};

/// The API group of routes.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// Whether a word is a Service's API group: the core group, or Flagger's spelling of it.
fn is_core(group: &str) -> bool {
    group.is_empty() || group == "core"
}

/// An `HTTPRoute` or `GRPCRoute`, as far as it is about the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which of both.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// RFC 3339, in UTC as clusters write it; decides which of two routes is the older.
    pub creation_timestamp: Option<String>,
    /// What its status observes.
    pub generation: Option<i64>,
    /// Its parents that are Services, in their order. Others are none of the mesh's.
    pub parents: Vec<ParentRef>,
    /// In their order.
    pub rules: Vec<RouteRule>,
}

/// What kind of route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// `GRPCRoute`: only requests of gRPC.
    Grpc,
    /// `HTTPRoute`.
    Http,
}

/// A Service that a route is attached to.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentRef {
    /// As the route spells it, for its status.
    pub written: Value,
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The port; `None` for all of them.
    pub port: Option<u16>,
    /// The port's name; `None` for whatever name.
    pub section_name: Option<String>,
}

/// Some requests, and what happens to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteRule {
    /// For people and metrics.
    pub name: Option<String>,
    /// Any of these; never empty.
    pub matches: Vec<RouteMatch>,
    /// What is changed on the way.
    pub filters: Filters,
    /// Where they go.
    pub backends: Vec<RouteBackend>,
    /// The whole exchange; zero for no limit, `None` where the route does not say.
    pub request_timeout: Option<PolicyDuration>,
    /// One try; likewise.
    pub backend_timeout: Option<PolicyDuration>,
    /// Which failed tries are repeated, where the route says it.
    pub retry: Option<RouteRetry>,
    /// What it asks for and cannot be done, with the field: its requests are answered 500.
    pub unsupported: Vec<String>,
    /// What it asks for and is left undone without harm, with the field.
    pub ignored: Vec<String>,
}

/// A conjunction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteMatch {
    /// The path.
    pub path: RoutePath,
    /// The method; `None` for any.
    pub method: Option<Method>,
    /// All of these, each name once.
    pub headers: Vec<HeaderMatch>,
    /// All of these, each name once.
    pub query: Vec<RouteQuery>,
}

/// What a path is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutePath {
    /// The whole path.
    Exact(String),
    /// Whole leading segments.
    Prefix(String),
    /// A regular expression that the whole path matches.
    Regex(String),
    /// The parts of gRPC's path.
    Grpc {
        /// The service; `None` for any.
        service: Option<String>,
        /// The method; `None` for any.
        method: Option<String>,
        /// Both are regular expressions.
        regex: bool,
    },
}

/// A query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteQuery {
    /// Its name.
    pub name: String,
    /// Its whole value.
    pub value: String,
    /// `value` is a regular expression.
    pub regex: bool,
}

/// A destination of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteBackend {
    /// Who it is.
    pub reference: BackendRef,
    /// Its share of the sum of weights.
    pub weight: u32,
    /// Changes of its requests.
    pub request_headers: HeaderEdits,
    /// Changes of its responses.
    pub response_headers: HeaderEdits,
    /// What it asks for and cannot be done, with the field: its share is answered 500.
    pub unsupported: Option<String>,
}

/// A reference to what takes requests or their copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// Its API group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port; always given for a Service.
    pub port: Option<u16>,
}

/// `retry` of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteRetry {
    /// Response statuses; the policy's where there are none.
    pub codes: Vec<u16>,
    /// Tries after the first.
    pub attempts: Option<u32>,
    /// The least wait between tries, as the Gateway API has it: the back-off begins there.
    pub backoff: Option<PolicyDuration>,
}

impl Route {
    /// Whether the route is in the namespace of the Service that it is attached to.
    pub fn is_producer_of(&self, parent: &ParentRef) -> bool {
        self.namespace == parent.namespace
    }

    /// What tells the older of two routes: by time of creation where there is one, then by name.
    pub fn age(&self) -> (bool, Option<&str>, &str, &str) {
        let created = self.creation_timestamp.as_deref();
        (created.is_none(), created, &self.namespace, &self.name)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

impl RouteKind {
    /// The kind as manifests carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
        }
    }

    /// The kind by its word.
    pub fn of(kind: &str) -> Option<Self> {
        [Self::Grpc, Self::Http]
            .into_iter()
            .find(|known| known.as_str() == kind)
    }
}

impl BackendRef {
    /// Whether it is a Service.
    pub fn is_service(&self) -> bool {
        is_core(&self.group) && self.kind == "Service"
    }
}

impl fmt::Display for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)?;
        match self.port {
            Some(port) => write!(f, " port {port}"),
            None => Ok(()),
        }
    }
}

impl Default for RoutePath {
    /// What a match without a path means.
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}
