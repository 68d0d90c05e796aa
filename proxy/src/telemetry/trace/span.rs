//! One sampled exchange, as it is told to a collector.
//!
//! A span takes what its request says when it begins, cut to bounds, and what became of it when it ends;
//! then it is put into the exporter's queue. Nothing of it is formatted before: that happens where it is
//! sent. However an exchange ends, its span ends with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::http::request::Parts;
use ::http::uri::Authority;
use ::http::{HeaderValue, Method, Version, header};

use super::context::{Context, tracestate};
use super::export::Queue;
use crate::outcome::Outcome;
use crate::resilience::attempt::TryResult;
use crate::telemetry::Tls;

/// Bytes of a path, an authority or an id that are kept.
pub const MAX_TEXT: usize = 512;
/// Tries of one request that are kept beside the last one; more are only counted.
pub const MAX_TRIES: usize = 8;

/// Which side of a connection a span is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The sidecar of whoever asks.
    Client,
    /// The sidecar of whoever answers.
    Server,
}

/// One sampled exchange in flight.
#[derive(Debug)]
pub struct Span {
    pub(super) context: Context,
    pub(super) kind: Kind,
    pub(super) began: SystemTime,
    pub(super) method: Method,
    pub(super) path: Box<str>,
    pub(super) authority: Box<str>,
    pub(super) version: Version,
    pub(super) is_grpc: bool,
    pub(super) trace_state: Box<str>,
    pub(super) address: Option<SocketAddr>,
    pub(super) tries: Vec<Try>,
    pub(super) untold_tries: u32,
    queue: Arc<Queue>,
}

/// One that is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) span: Box<Span>,
    pub(super) end: End,
}

/// A try that another one followed.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) at: SystemTime,
    pub(super) address: Option<SocketAddr>,
    pub(super) outcome: Outcome,
    pub(super) status: Option<u16>,
}

/// What became of an exchange.
#[derive(Clone, Debug)]
pub struct End {
    /// How long it took.
    pub elapsed: Duration,
    /// What the client got; 499 where it went away first.
    pub status: u16,
    /// The code of a gRPC response.
    pub grpc_status: Option<u8>,
    /// The word for it.
    pub outcome: Outcome,
    /// It was a copy of another request.
    pub is_copy: bool,
    /// `x-request-id`.
    pub request_id: Option<HeaderValue>,
    /// As the label `service` has it.
    pub service: Arc<str>,
    /// As the label `route` has it.
    pub route: Arc<str>,
    /// As the label `backend` has it.
    pub backend: Arc<str>,
    /// As the label `peer` has it.
    pub peer: Arc<str>,
    /// As the label `tls` has it.
    pub tls: Tls,
}

impl Span {
    pub(super) fn new(context: Context, kind: Kind, head: &Parts, queue: Arc<Queue>) -> Self {
        let headers = &head.headers;
        let host = || headers.get(header::HOST).and_then(|it| it.to_str().ok());
        let authority = head.uri.authority().map(Authority::as_str).or_else(host);
        let grpc = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        Self {
            context,
            kind,
            began: SystemTime::now(),
            method: head.method.clone(),
            path: cut(head.uri.path()).into(),
            authority: cut(authority.unwrap_or_default()).into(),
            version: head.version,
            is_grpc: grpc.is_some_and(|kind| kind.starts_with(b"application/grpc")),
            trace_state: tracestate(headers, MAX_TEXT).unwrap_or_default().into(),
            address: None,
            tries: Vec::new(),
            untold_tries: 0,
            queue,
        }
    }

    /// A try goes to this endpoint.
    pub fn goes_to(&mut self, address: SocketAddr) {
        self.address = Some(address);
    }

    /// That try came to `result`, and another one follows.
    pub fn tried(&mut self, result: &TryResult) {
        if self.tries.len() >= MAX_TRIES {
            self.untold_tries += 1;
            return;
        }
        let (outcome, status) = match result {
            TryResult::Answered(answer) => {
                let outcome = answer.inbound.unwrap_or(Outcome::Ok);
                (outcome, Some(answer.status.as_u16()))
            }
            TryResult::Failed { outcome, .. } => (*outcome, None),
        };
        self.tries.push(Try {
            at: SystemTime::now(),
            address: self.address,
            outcome,
            status,
        });
    }

    /// The exchange is over.
    pub fn end(self: Box<Self>, end: End) {
        let queue = Arc::clone(&self.queue);
        queue.put(Ended { span: self, end });
    }
}

/// The begin of a text, at most [`MAX_TEXT`] bytes.
pub(super) fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
