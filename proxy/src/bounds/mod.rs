//! What one sidecar bears: the process's own limits, and what is taken of them.
//!
//! [`ProcessLimits`] are the numbers, read from the environment; [`Bounds`] are one direction's view of
//! them, with a counter for each that was hit (`weft_limit_hits_total`). Every limit acts before
//! anything reaches the application.
//!
//! Invariants:
//! * A place ([`Requests`], [`DialPlace`], [`KeptBytes`]) is given back exactly once, when it is dropped
//!   or left.
//! * Requests in flight cost two relaxed additions to a number that only their own worker writes. The
//!   sum over all workers is looked at only where this worker alone has more than its share; so
//!   admission may be off by the requests that begin on several workers in the same instant, never more.
//! * Nothing waits here but a dial, for a connection that was closed to make room for it, and not longer
//!   than [`RECLAIM_WAIT`].
//!
//! What policy allows per backend (`circuitBreaker.limits`) is another matter: `resilience::limits`.

mod dial;
mod kept;
mod requests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Request};
use metrics::Counter;

use crate::outcome::Origin;
use crate::telemetry::Telemetry;

pub use dial::{DialPlace, Dials, RECLAIM_WAIT};
pub use kept::{KeptBytes, KeptPlace};
pub use requests::Requests;

/// What HPACK adds to a field's name and value (RFC 7541, 4.1).
const FIELD_OVERHEAD: usize = 32;

/// The numbers. Each has a variable of its own; docs/process-limits.md lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Accepted connections of all listeners together.
    pub connections: usize,
    /// Connections that one direction has dialled, being made or open.
    pub upstream_connections: usize,
    /// HTTP connections to one endpoint or port of the application, over all workers.
    pub endpoint_connections: usize,
    /// HTTP requests in flight in one direction.
    pub requests: usize,
    /// Bytes of one head. HTTP/1 counts what is sent; HTTP/2 names, values and 32 for each field.
    pub header_bytes: usize,
    /// Fields of one head.
    pub headers: u16,
    /// From the first byte of an HTTP/1 head to its last.
    pub header_timeout: Duration,
    /// HTTP connections of the application, and plaintext ones, without an exchange.
    pub idle_timeout: Duration,
    /// Streams of one HTTP/2 peer at once.
    pub http2_streams: u32,
    /// Bytes that one HTTP/2 stream may have under way.
    pub http2_stream_window: u32,
    /// Bytes that one HTTP/2 connection may have under way.
    ///
    /// Many stream windows, so that stalled streams do not stop their siblings. h2 derives from it what
    /// DATA frames under 256 bytes may wait to be read: half of the window, where each takes what it is
    /// short of 256, and ends the connection past that. A stream that is not read with a window full of
    /// messages of 10 bytes takes 6.2 MiB: of the default, five such streams fit.
    pub http2_connection_window: u32,
    /// Bytes of request bodies that all requests together keep for another try, a fallback or a copy.
    pub body_buffer: usize,
}

/// One direction's bounds. Shared by all of its connections.
#[derive(Debug)]
pub struct Bounds {
    /// The numbers.
    pub limits: ProcessLimits,
    /// What was hit.
    pub hits: Hits,
    /// Requests in flight.
    pub requests: Requests,
    /// Connections dialled.
    pub dials: Arc<Dials>,
    /// Bytes of bodies kept.
    pub kept: Arc<KeptBytes>,
}

/// A counter for each limit that connections and requests meet.
#[derive(Clone, Debug)]
pub struct Hits {
    /// [`ProcessLimits::requests`].
    pub requests: Counter,
    /// [`ProcessLimits::endpoint_connections`]: a request found no free connection and may make none.
    pub endpoint_connections: Counter,
    /// [`ProcessLimits::header_bytes`], of requests.
    pub header_bytes: Counter,
    /// [`ProcessLimits::headers`], of requests.
    pub headers: Counter,
    /// Either of them, of responses.
    pub response_head: Counter,
    /// [`ProcessLimits::header_timeout`].
    pub header_timeout: Counter,
    /// [`ProcessLimits::idle_timeout`].
    pub idle_timeout: Counter,
    /// [`ProcessLimits::http2_streams`]: a connection has as many as it may.
    pub http2_streams: Counter,
}

/// What a head has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadExcess {
    /// Bytes.
    Bytes,
    /// Fields.
    Fields,
}

impl ProcessLimits {
    /// Where nothing else is asked for.
    pub const DEFAULT: Self = Self {
        connections: 50_000,
        upstream_connections: 50_000,
        endpoint_connections: 10_000,
        requests: 50_000,
        header_bytes: 64 << 10,
        headers: 100,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(3_600),
        http2_streams: 1_000,
        http2_stream_window: 256 << 10,
        http2_connection_window: 64 << 20,
        body_buffer: 64 << 20,
    };

    /// One worker's share of [`Self::endpoint_connections`]; at least one.
    pub fn endpoint_connections_of(&self, workers: usize) -> usize {
        (self.endpoint_connections / workers.max(1)).max(1)
    }

    /// Whether a parsed head of HTTP/2, or of a response, is within bounds. `line` is what it has beside
    /// its fields.
    pub fn head_excess(&self, headers: &HeaderMap, line: usize) -> Option<HeadExcess> {
        if headers.len() > usize::from(self.headers) {
            return Some(HeadExcess::Fields);
        }
        let field = |(name, value): (&::http::HeaderName, &::http::HeaderValue)| {
            name.as_str().len() + value.len() + FIELD_OVERHEAD
        };
        let bytes = line + headers.iter().map(field).sum::<usize>();
        (bytes > self.header_bytes).then_some(HeadExcess::Bytes)
    }

    /// The same of an HTTP/2 request, whose pseudo-header fields count too.
    pub fn request_excess<B>(&self, request: &Request<B>) -> Option<HeadExcess> {
        let uri = request.uri();
        let target = uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        let authority = uri
            .authority()
            .map_or(0, |authority| authority.as_str().len());
        let line = request.method().as_str().len() + target + authority;
        self.head_excess(request.headers(), line)
    }
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Bounds {
    /// The bounds of `direction`, which has `workers`, counted in `telemetry`.
    pub fn new(
        limits: ProcessLimits,
        direction: Origin,
        workers: usize,
        telemetry: &Telemetry,
    ) -> Arc<Self> {
        let limit = |name| telemetry.limit(name);
        let (requests, endpoints, dials) = match direction {
            Origin::Inbound => (
                "inbound_requests",
                "inbound_endpoint_connections",
                "inbound_upstream_connections",
            ),
            Origin::Outbound => (
                "outbound_requests",
                "outbound_endpoint_connections",
                "outbound_upstream_connections",
            ),
        };
        let hits = Hits {
            requests: limit(requests),
            endpoint_connections: limit(endpoints),
            header_bytes: limit("header_bytes"),
            headers: limit("headers"),
            response_head: limit("response_head"),
            header_timeout: limit("header_timeout"),
            idle_timeout: limit("idle_timeout"),
            http2_streams: limit("http2_streams"),
        };
        Self::with(limits, hits, workers, limit(dials), limit("body_buffer"))
    }

    /// Bounds of one worker that hold, but are counted nowhere.
    pub fn uncounted(limits: ProcessLimits) -> Arc<Self> {
        let hits = Hits::noop();
        Self::with(limits, hits, 1, Counter::noop(), Counter::noop())
    }

    /// How many workers share them.
    pub fn workers(&self) -> usize {
        self.requests.workers()
    }

    fn with(
        limits: ProcessLimits,
        hits: Hits,
        workers: usize,
        dials: Counter,
        kept: Counter,
    ) -> Arc<Self> {
        Arc::new(Self {
            requests: Requests::new(limits.requests, workers),
            dials: Dials::new(limits.upstream_connections, dials),
            kept: KeptBytes::new(limits.body_buffer, kept),
            limits,
            hits,
        })
    }
}

impl Hits {
    /// Counts what a request's head has too much of.
    pub fn head(&self, excess: HeadExcess) {
        match excess {
            HeadExcess::Bytes => self.header_bytes.increment(1),
            HeadExcess::Fields => self.headers.increment(1),
        }
    }

    fn noop() -> Self {
        Self {
            requests: Counter::noop(),
            endpoint_connections: Counter::noop(),
            header_bytes: Counter::noop(),
            headers: Counter::noop(),
            response_head: Counter::noop(),
            header_timeout: Counter::noop(),
            idle_timeout: Counter::noop(),
            http2_streams: Counter::noop(),
        }
    }
}

impl HeadExcess {
    /// For people.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Bytes => "a head of more bytes than it may have",
            Self::Fields => "more headers than there may be",
        }
    }
}
