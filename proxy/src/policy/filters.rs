//! What routes change of requests and responses.

use http::uri::Authority;
use http::{HeaderName, HeaderValue, StatusCode};

/// What a route changes.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteFilters {
    /// Of requests.
    pub request_headers: Option<HeaderEdits>,
    /// Of servers' responses, and of redirects.
    pub response_headers: Option<HeaderEdits>,
    /// The sidecar answers.
    pub redirect: Option<Redirect>,
    /// Requests ask for something else.
    pub rewrite: Option<Rewrite>,
}

/// Changes of a head, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderEdits {
    /// Replaced as a whole.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// One more line.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Taken away.
    pub remove: Vec<HeaderName>,
}

/// A redirect to the request's own URL but for these.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// HTTPS rather than HTTP.
    pub https: bool,
    /// The host; `None` for the request's own.
    pub host: Option<Box<str>>,
    /// The port.
    pub port: u16,
    /// The path; `None` for the request's own.
    pub path: Option<PathEdit>,
    /// The answer's status.
    pub status: StatusCode,
}

/// What a request asks for instead.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// The host; `None` for the request's own.
    pub host: Option<(Authority, HeaderValue)>,
    /// The path; `None` for the request's own.
    pub path: Option<PathEdit>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// It is replaced.
    Full(Box<str>),
    /// Its leading segments are replaced, where it has them.
    Prefix {
        /// Whole segments.
        prefix: Box<str>,
        /// What stands there instead.
        replacement: Box<str>,
    },
}
