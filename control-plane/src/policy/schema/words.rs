//! What types say about themselves beyond their shape: patterns, list types, and rules in CEL.
//!
//! Keys that begin with `x-kubernetes-` go into the custom resource definition as they are. Keys that
//! begin with `x-weft-`, and the `mend` of a rule, are for this crate only and left out of it.

use serde::Serialize;
use weft_proto::names;

/// A YAML example of a stanza, for the reference page.
pub(crate) const EXAMPLE: &str = "x-weft-example";
/// Which sidecar enforces a stanza, for the reference page.
pub(crate) const ENFORCED: &str = "x-weft-enforced";
/// What `x-weft-` keys begin with.
pub(crate) const OWN: &str = "x-weft-";

/// An RFC 1123 label, as services, ports and namespaces are named.
pub(crate) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// An RFC 1123 subdomain, as most objects are named.
pub(crate) const SUBDOMAIN: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// An API group, of which the core group is empty.
pub(crate) const GROUP: &str =
    r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The value of a label of an object.
pub(crate) const LABEL_VALUE: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
/// A service account's name, or all of them.
pub(crate) const SERVICE_ACCOUNT: &str = r"^(\*|[a-z0-9]([-a-z0-9.]*[a-z0-9])?)$";
/// A token (RFC 9110, 5.6.2), as headers and cookies are named.
pub(crate) const TOKEN: &str = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$";
/// What a header can carry (RFC 9110, 5.5).
pub(crate) const HEADER_VALUE: &str = r"^[^\x00-\x08\x0a-\x1f\x7f]*$";
/// A path.
pub(crate) const PATH: &str = "^/";
/// A path that all servers read alike: no empty segment, none of dots only, no `\`, `;`, `?` or `#`.
pub(crate) const PLAIN_PATH: &str =
    r"^(/|(/\.*[^/.\\;?#\x00-\x20\x7f][^/\\;?#\x00-\x1f\x7f]*)+/?)$";
/// A SPIFFE id, or with `/*` all ids below one.
pub(crate) const SPIFFE_ID: &str = r"^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*(/\*)?$";
/// A gRPC service with its package.
pub(crate) const GRPC_SERVICE: &str = "^[A-Za-z_][A-Za-z0-9_.]*$";
/// A gRPC method.
pub(crate) const GRPC_METHOD: &str = "^[A-Za-z_][A-Za-z0-9_]*$";

/// Headers that belong to a connection or to the framing of a message.
const FRAMING: &str =
    "connection|content-length|keep-alive|proxy-connection|te|trailers?|transfer-encoding|upgrade";

/// A rule in CEL about an object, a list or a value, which is `self`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rule {
    #[serde(rename = "rule")]
    expression: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field_path: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<&'static str>,
}

impl Rule {
    /// What must be true, and what is said where it is not.
    pub(crate) fn new(expression: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            expression: expression.into(),
            message: message.into(),
            field_path: None,
            mend: None,
        }
    }

    /// The field that is to blame, as `.perTry`.
    pub(crate) fn at(mut self, field: &'static str) -> Self {
        self.field_path = Some(field);
        self
    }

    /// What to do about it.
    pub(crate) fn mend(mut self, mend: &'static str) -> Self {
        self.mend = Some(mend);
        self
    }
}

/// Bounds of a duration.
pub(crate) fn lasting(least: &str, most: &str) -> [Rule; 2] {
    [
        Rule::new(
            format!("duration(self) >= duration('{least}')"),
            format!("must be at least {least}"),
        ),
        Rule::new(
            format!("duration(self) <= duration('{most}')"),
            format!("must be at most {most}"),
        ),
    ]
}

/// A header that people may set on an answer.
pub(crate) fn settable_header() -> [Rule; 1] {
    let own = names::headers::PREFIX;
    [Rule::new(
        format!("!self.name.matches('(?i)^({FRAMING}|{own}.*)$')"),
        "name cannot be a header that the sidecar itself sets",
    )
    .at(".name")
    .mend("leave it out")]
}
