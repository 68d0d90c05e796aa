//! Which requests there is a line about in the log, and what it says.

use std::sync::Arc;

use super::RouteMatch;

/// An access log. Whatever failed has a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Of the requests that did not fail, this share has a line: 0 to 100.
    pub percent: u32,
    /// What a line says, in this order; at least one, none twice.
    pub fields: Vec<LogField>,
}

/// The access log of one service at its server.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundAccessLog {
    /// In order; the first that matches decides.
    pub rules: Vec<AccessLogRule>,
    /// For requests that no rule matches.
    pub otherwise: Option<Arc<AccessLog>>,
}

/// A set of requests with an access log of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogRule {
    /// Any of these; never empty.
    pub matches: Vec<RouteMatch>,
    /// `None` for no line.
    pub log: Option<Arc<AccessLog>>,
}

/// What a line can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogField {
    /// `x-request-id`.
    RequestId,
    /// The trace's id.
    TraceId,
    /// Seen from the workload.
    Direction,
    /// The method.
    Method,
    /// The host that the client named.
    Authority,
    /// The path without its query.
    Path,
    /// The query.
    Query,
    /// The version of HTTP.
    Protocol,
    /// The status that the client got.
    Status,
    /// The status of a gRPC response.
    GrpcStatus,
    /// The outcome.
    Outcome,
    /// Milliseconds to the response's end.
    DurationMs,
    /// How often it was tried.
    Tries,
    /// The service that the client addressed.
    Destination,
    /// The route.
    Route,
    /// The service that it went to.
    Backend,
    /// The address that it went to.
    Endpoint,
    /// The other side.
    Peer,
    /// How the bytes were protected.
    Tls,
    /// The client's own words for itself.
    UserAgent,
    /// Whether a fallback answered.
    Fallback,
}

impl LogField {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::RequestId,
        Self::TraceId,
        Self::Direction,
        Self::Method,
        Self::Authority,
        Self::Path,
        Self::Query,
        Self::Protocol,
        Self::Status,
        Self::GrpcStatus,
        Self::Outcome,
        Self::DurationMs,
        Self::Tries,
        Self::Destination,
        Self::Route,
        Self::Backend,
        Self::Endpoint,
        Self::Peer,
        Self::Tls,
        Self::UserAgent,
        Self::Fallback,
    ];

    /// Its name in policies and in lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestId => "requestId",
            Self::TraceId => "traceId",
            Self::Direction => "direction",
            Self::Method => "method",
            Self::Authority => "authority",
            Self::Path => "path",
            Self::Query => "query",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::GrpcStatus => "grpcStatus",
            Self::Outcome => "outcome",
            Self::DurationMs => "durationMs",
            Self::Tries => "tries",
            Self::Destination => "destination",
            Self::Route => "route",
            Self::Backend => "backend",
            Self::Endpoint => "endpoint",
            Self::Peer => "peer",
            Self::Tls => "tls",
            Self::UserAgent => "userAgent",
            Self::Fallback => "fallback",
        }
    }
}
