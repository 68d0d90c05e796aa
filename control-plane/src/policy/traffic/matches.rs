//! What requests are told apart by: words that several stanzas share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::schema::words::{Rule, TOKEN};

/// gRPC statuses that can be named. Their numbers are those of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // The words are gRPC's own.
pub enum GrpcCode {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// HTTP methods that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // The words are HTTP's own.
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

/// A header that a request has, on any of its lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    Rule::new(
        "self.type == 'Present' ? !has(self.value) : has(self.value)",
        "value is required unless type is Present, and forbidden when it is",
    )
    .mend("add a value, or use type Present without one"),
]))]
pub struct HeaderMatch {
    /// Its name, in any case.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: String,
    /// How `value` is meant.
    #[serde(default, rename = "type")]
    pub kind: HeaderMatchType,
    /// What the header is compared with; left out exactly with type Present.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub value: Option<String>,
}

/// How a header's value is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HeaderMatchType {
    /// The whole value.
    #[default]
    Exact,
    /// What the value begins with.
    Prefix,
    /// A regular expression that the whole value matches, without look-around and back-references.
    RegularExpression,
    /// Any value.
    Present,
}

/// A cookie that a request has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieMatch {
    /// Its name.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: String,
    /// Its whole value; any value where this is left out.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub value: Option<String>,
}

impl Method {
    /// The method as requests carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}
