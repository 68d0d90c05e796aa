//! Traces: which request belongs to which, across workloads.
//!
//! A sidecar makes a span of every sampled exchange: one of kind SERVER of what its application is asked,
//! one of kind CLIENT of what its application asks. What it sends on names its own span as the parent, so
//! that spans of applications and of other sidecars find their place. Tries are no spans of their own, but
//! events of the request's.
//!
//! * Where tracing is off there is no [`Tracer`], and no trace header is read or changed.
//! * A caller's decision whether its trace is sampled is kept; where it says "no", its headers pass as they
//!   are. Only where nobody has decided is it done here, and said to whoever is next.
//! * Applications carry the headers from what they are asked to what they ask: no sidecar can.
//!
//! * [`context`]: what headers say.
//! * [`sampler`]: who decides.
//! * [`span`]: one exchange.
//! * [`export`]: the way to the collector.

mod channel;
pub mod context;
mod encode;
pub mod export;
pub mod sampler;
pub mod span;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ::http::Uri;
use ::http::request::Parts;
use ::http::uri::PathAndQuery;

use super::Telemetry;
use crate::net::Dialer;
use context::{Context, Formats, Said, SpanId, TraceId};
use export::{Exporter, Queue};
use sampler::Sampler;
use span::{Kind, Span};

/// Where no port is named: OTLP/gRPC's own.
const DEFAULT_PORT: u16 = 4317;

/// What is told of exchanges, to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// Where spans go.
    pub endpoint: Endpoint,
    /// Which traces are sampled that begin here.
    pub sampler: Sampler,
    /// How trace context is read and written.
    pub formats: Formats,
    /// The `service.name` of the spans; the workload's name without.
    pub service: Option<String>,
}

/// A collector's address: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    origin: Uri,
    host: String,
    port: u16,
}

/// Makes spans. One per process.
#[derive(Debug)]
pub struct Tracer {
    sampler: Sampler,
    formats: Formats,
    queue: Arc<Queue>,
}

impl Endpoint {
    /// Reads `http://host[:port]`, with nothing behind it; `None` for everything else. The port is 4317
    /// where none is named.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let bare = uri.path_and_query().map_or("", PathAndQuery::as_str);
        let fits = uri.scheme_str() == Some("http")
            && matches!(bare, "" | "/")
            && !authority.as_str().contains('@')
            && !authority.host().is_empty();
        // A port that is no number is none to the parser.
        let told = authority.as_str().len() > authority.host().len();
        let port = authority.port_u16();
        if !fits || (told && port.is_none()) || port == Some(0) {
            return None;
        }
        let host = authority.host();
        Some(Self {
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: port.unwrap_or(DEFAULT_PORT),
            origin: uri,
        })
    }

    fn origin(&self) -> Uri {
        self.origin.clone()
    }

    async fn resolve(&self) -> io::Result<impl Iterator<Item = SocketAddr> + use<>> {
        let found = tokio::net::lookup_host((&*self.host, self.port)).await?;
        Ok(found.collect::<Vec<_>>().into_iter())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)
    }
}

impl Tracer {
    /// Makes spans for `settings.endpoint`; what sends them has to be run.
    pub fn new(settings: TraceSettings, telemetry: &Telemetry, dialer: Dialer) -> (Self, Exporter) {
        let service = settings.service.as_deref();
        let (queue, exporter) = Exporter::new(settings.endpoint, service, telemetry, dialer);
        let tracer = Self {
            sampler: settings.sampler,
            formats: settings.formats,
            queue,
        };
        (tracer, exporter)
    }

    /// A span of the exchange whose request has this head, where it is sampled. Changes the head's trace
    /// headers: they name the span then; where nobody has decided and the answer is no, they say so.
    pub fn begin(&self, kind: Kind, head: &mut Parts) -> Option<Box<Span>> {
        let said = Said::read(&head.headers, self.formats);
        let trace = said.parent.map_or_else(TraceId::random, |(trace, _)| trace);
        let parent = said.parent.map(|(_, span)| span);
        let sampled = said.sampled.unwrap_or_else(|| self.sampler.samples(trace));
        if !sampled {
            if said.sampled.is_none() {
                let context = Context {
                    trace,
                    // Whoever asked stays the parent.
                    span: parent.unwrap_or_else(SpanId::random),
                    parent: None,
                    sampled: false,
                    debug: false,
                };
                context.write(&mut head.headers, &said, self.formats);
            }
            return None;
        }
        let context = Context {
            trace,
            span: SpanId::random(),
            parent,
            sampled: true,
            debug: said.debug,
        };
        context.write(&mut head.headers, &said, self.formats);
        let queue = Arc::clone(&self.queue);
        Some(Box::new(Span::new(context, kind, head, queue)))
    }

    /// Waits until what has ended was sent, or has failed to be; the caller bounds the time.
    pub async fn flush(&self) {
        self.queue.flush().await;
    }
}
