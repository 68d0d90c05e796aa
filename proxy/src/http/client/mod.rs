//! Pools of upstream connections: one pool per endpoint and worker, owned by the endpoint.
//!
//! What a pool promises:
//! * A connection goes back only when the response body has ended and the request body as well.
//! * A dead pooled connection under a request of which nothing was written is replaced silently:
//!   that is not a retry.
//! * `Processed::Never` in a [`Failure`] is a proof: nothing was written, or the peer said that it
//!   did not process the request (REFUSED_STREAM, GOAWAY below it, or a clean close without an
//!   answer where the peer keeps the contract of [`server`](super::server)). All else is `Maybe`.
//! * Everything is bounded: connections, requests that wait for one, silent replacements. Where pools
//!   share a [`Room`], each connection holds a token of it until it is closed, and a request that
//!   would need one more comes back at once, whole and marked as [`Full`].
//!
//! Dropping what [`H1Pool::send`] or [`H2Pool::send`] returned gives the request up: HTTP/1 closes
//! its connection, HTTP/2 resets the stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request};
use http_body::Body;
use hyper::client::conn::TrySendError;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::body::{Progress, RequestBody, h2_error};
use super::floods::FloodBounds;
use super::spare;
use crate::bounds::{Bounds, HeadExcess, ProcessLimits};
use crate::net::age::AgeCap;
use crate::outcome::{Failure, Outcome, Processed};

pub use h1::H1Pool;
pub(super) use h1::LineBody;
pub use h1::Tunnel;
pub use h2::H2Pool;
pub(super) use lease::Lease;
use sent::SentBody;

mod h1;
mod h2;
mod io;
mod lease;
mod proof;
mod sent;

/// How long a response that has ended waits for the rest of its request body before the HTTP/1
/// connection is given up.
pub const UPLOAD_GRACE: Duration = Duration::from_millis(250);
/// Dead connections replaced silently for one request before a fresh one is made.
pub const MAX_REPLACEMENTS: usize = 3;
/// HTTP/2 connections of one pool.
pub const MAX_H2_CONNECTIONS: usize = 4;

/// A future in a box.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Makes the connections of a pool.
pub trait Connect: Send + Sync + 'static {
    /// A connection, TLS included.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Makes one. The connect timeout is the connector's. For HTTP/2 the attempt goes on when the
    /// request that asked for it is gone.
    fn connect(&self) -> BoxFuture<Result<Self::Io, Failure>>;

    /// The peer keeps the contract of [`server`](super::server) and a clean end of `Io` cannot be
    /// forged or truncated: mesh TLS with its close_notify.
    fn clean_close_is_proof(&self) -> bool {
        false
    }

    /// Connections are kept so that [`Connect::peer_has_closed`] can be asked of idle ones. Without
    /// it [`SendOptions::probe_before_write`] does nothing.
    fn check_before_reuse(&self) -> bool {
        false
    }

    /// What the process bears. Asked once, by a new pool.
    fn bounds(&self) -> Arc<Bounds> {
        Bounds::uncounted(ProcessLimits::DEFAULT)
    }

    /// A bound on connections that this pool shares with others. Asked once, by a new pool.
    fn room(&self) -> Option<Arc<dyn Room>> {
        None
    }

    /// What is borne of an HTTP/2 peer. Asked once per connection.
    fn floods(&self) -> FloodBounds {
        FloodBounds::default()
    }

    /// When a connection may take no more requests, whatever its age: what it was made with ends.
    fn ends_at(_io: &Self::Io) -> Option<Instant> {
        None
    }

    /// Asks the kernel, not the runtime's view of readiness, whether the peer of an idle connection
    /// has closed it or sent what nobody asked for. See [`tcp_peer_has_closed`].
    fn peer_has_closed(_io: &Self::Io) -> bool {
        false
    }
}

/// A bound on connections that several pools share.
pub trait Room: std::fmt::Debug + Send + Sync {
    /// The right to have one more connection open, for as long as the token lives; `None` where
    /// there is no room.
    fn take(self: Arc<Self>) -> Option<Token>;

    /// A connection of a pool has become idle, or has become free for one more stream.
    fn eased(&self);
}

/// The right to have one connection open. It lives in the connection itself.
pub type Token = Box<dyn std::any::Any + Send + Sync>;

/// Whoever waited for a connection to become possible.
pub trait Queued: std::fmt::Debug + Send + Sync {
    /// The request has its connection, or one is being made for it.
    fn served(&self);
}

/// What is full when there is no connection for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The pool, by its own [`PoolOptions`].
    Pool,
    /// The [`Room`] that it shares with others.
    Room,
}

/// Bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Connections at once, those that are upgraded included.
    pub max_connections: usize,
    /// Requests that wait for a connection at once; one more fails with `overflow`.
    pub max_pending: usize,
    /// An idle connection older than this is not used any more. A peer's `Keep-Alive: timeout=`
    /// lowers it for its connection.
    pub idle_limit: Duration,
    /// A connection older than this is left once there is nothing on it, or another one is there.
    pub max_age: AgeCap,
    /// Names of HTTP/1 headers are written as they were spelled.
    pub keep_case: bool,
}

impl PoolOptions {
    /// Between sidecars, where nobody says how old connections may become.
    pub const MESH: Self = Self {
        max_connections: 1_024,
        max_pending: 1_024,
        idle_limit: Duration::from_secs(60),
        max_age: AgeCap::OFF,
        keep_case: false,
    };
    /// Towards the application, and whatever else is not a sidecar.
    pub const PLAIN: Self = Self {
        max_connections: 1_024,
        max_pending: 1_024,
        idle_limit: Duration::from_secs(3),
        max_age: AgeCap::OFF,
        keep_case: false,
    };
}

/// How one request is to be sent.
#[derive(Clone, Debug, Default)]
pub struct SendOptions {
    /// Only a connection that was used within this, or a fresh one.
    pub max_idle_age: Option<Duration>,
    /// Ask the kernel about a reused connection before the request is handed to it.
    pub probe_before_write: bool,
    /// Touched by each frame of the request body; shared with the response body's idle limit.
    pub progress: Option<Arc<Progress>>,
    /// Told as soon as there is a connection, or one is being made.
    pub queued: Option<Arc<dyn Queued>>,
}

/// A request on its way to a connection. It stays where it is until one takes it: each future between
/// would have room for it, and a future moves as a whole.
///
/// Its head may be lent. HTTP/1 writes that as it is, with `extra` instead of its own fields of those
/// names: a request that may be sent again costs no copy of its head.
#[derive(Debug)]
pub(crate) struct Outgoing<'h> {
    head: Head<'h>,
    extra: Extra,
    body: RequestBody,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a box would cost each request that is sent once an allocation"
)]
enum Head<'h> {
    Own(Parts),
    Lent(&'h Parts),
    Taken,
}

/// Fields of one try.
type Extra = SmallVec<[(HeaderName, HeaderValue); 2]>;

impl<'h> Outgoing<'h> {
    /// It is whole.
    pub(crate) fn new(request: Request<RequestBody>) -> Self {
        let (head, body) = request.into_parts();
        Self {
            head: Head::Own(head),
            extra: Extra::new(),
            body,
        }
    }

    /// One whose head stays somebody else's.
    pub(crate) fn lent(head: &'h Parts, body: RequestBody) -> Self {
        Self {
            head: Head::Lent(head),
            extra: Extra::new(),
            body,
        }
    }

    /// Has `value` sent, and no other of that name. To be said once of each name.
    pub(crate) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        match &mut self.head {
            Head::Own(head) => {
                head.headers.insert(name, value);
            }
            Head::Lent(_) | Head::Taken => self.extra.push((name, value)),
        }
    }

    /// Its head, without what was [set](Self::set) of one that is lent.
    pub(crate) fn head(&self) -> &Parts {
        self.parts().0
    }

    pub(crate) fn has_body(&self) -> bool {
        !self.body.is_end_stream()
    }

    /// What is written of it.
    fn parts(&self) -> (&Parts, &Extra) {
        let head = match &self.head {
            Head::Own(head) => head,
            Head::Lent(head) => head,
            Head::Taken => unreachable!("a request is sent once"),
        };
        (head, &self.extra)
    }

    /// The same, and what is still to be read of it.
    fn split(&mut self) -> ((&Parts, &Extra), &mut RequestBody) {
        let head = match &self.head {
            Head::Own(head) => head,
            Head::Lent(head) => head,
            Head::Taken => unreachable!("a request is sent once"),
        };
        ((head, &self.extra), &mut self.body)
    }

    /// It was written: nobody needs it any more.
    fn let_go(&mut self) {
        if let Head::Own(head) = std::mem::replace(&mut self.head, Head::Taken) {
            spare::give_fields(head.headers);
        }
        self.body = RequestBody::Empty;
    }

    fn take(&mut self) -> Request<RequestBody> {
        let mut head = match std::mem::replace(&mut self.head, Head::Taken) {
            Head::Own(head) => head,
            Head::Lent(head) => head.clone(),
            Head::Taken => unreachable!("a request is sent once"),
        };
        for (name, value) in self.extra.drain(..) {
            head.headers.insert(name, value);
        }
        Request::from_parts(head, std::mem::replace(&mut self.body, RequestBody::Empty))
    }
}

impl PoolOptions {
    /// For at most so many connections.
    #[must_use]
    pub const fn of(self, max_connections: usize) -> Self {
        Self {
            max_connections,
            ..self
        }
    }
}

impl SendOptions {
    fn served(&self) {
        if let Some(queued) = &self.queued {
            queued.served();
        }
    }
}

/// A request that got no response.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct TryError {
    /// Why, and whether it may have been processed.
    #[source]
    pub failure: Failure,
    /// The connection had carried an exchange before: its peer may have closed it as idle just when
    /// the request was on its way.
    pub reused: bool,
    /// The request, where it was provably never written and is still whole.
    pub request: Option<Box<Request<RequestBody>>>,
    /// There was no connection to be had at all; nobody waited for one.
    pub full: Option<Full>,
}

impl TryError {
    /// The peer ended the connection and said that it had not begun this request: an HTTP/2 GOAWAY
    /// (RFC 9113, section 6.8). Over another connection it may well be taken.
    pub fn left_out(&self) -> bool {
        let source = self.failure.source.as_deref();
        self.failure.processed == Processed::Never
            && source
                .and_then(|source| h2_error(source))
                .is_some_and(|error| error.is_go_away() && error.is_remote())
    }

    /// `request` got no connection.
    fn unconnected(unconnected: Unconnected, request: Request<RequestBody>) -> Self {
        Self {
            failure: unconnected.failure,
            reused: false,
            request: Some(Box::new(request)),
            full: unconnected.full,
        }
    }

    /// No response came on a connection that knows `evidence` about it.
    fn unanswered(
        mut error: TrySendError<Request<SentBody>>,
        reused: bool,
        evidence: proof::Evidence,
    ) -> Self {
        let whole = error.take_message();
        Self {
            failure: proof::failure(error.into_error(), whole.is_some(), evidence),
            reused,
            request: whole.map(|request| Box::new(request.map(SentBody::into_inner))),
            full: None,
        }
    }
}

impl From<Failure> for TryError {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            reused: false,
            request: None,
            full: None,
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
struct Unconnected {
    failure: Failure,
    full: Option<Full>,
}

impl Unconnected {
    fn full(full: Full) -> Self {
        Self {
            failure: Failure::never(Outcome::Overflow, "there is no room for a connection"),
            full: Some(full),
        }
    }
}

impl From<Failure> for Unconnected {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            full: None,
        }
    }
}

/// A response within bounds, or what its connection's end means to the request.
fn bounded<B>(
    response: http::Response<B>,
    bounds: &Bounds,
    reused: bool,
) -> Result<http::Response<B>, TryError> {
    let Some(excess) = bounds.limits.head_excess(response.headers(), 0) else {
        return Ok(response);
    };
    bounds.hits.response_head.increment(1);
    let detail = match excess {
        HeadExcess::Bytes => "the head of the answer has more bytes than it may have",
        HeadExcess::Fields => "the answer has more headers than there may be",
    };
    Err(TryError {
        failure: Failure::maybe(Outcome::Reset, detail),
        reused,
        request: None,
        full: None,
    })
}

/// Takes a token of a room, where there is one to be respected.
fn take_room(room: Option<&Arc<dyn Room>>) -> Result<Option<Token>, Unconnected> {
    let Some(room) = room else { return Ok(None) };
    let token = Arc::clone(room).take();
    token.map(Some).ok_or_else(|| Unconnected::full(Full::Room))
}

/// Counts of a pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections, being made or open.
    pub connections: usize,
    /// Of these, idle ones.
    pub idle: usize,
    /// Requests that wait for a connection.
    pub pending: usize,
    /// Exchanges in flight; HTTP/2 only.
    pub streams: usize,
}

/// Whether the peer of an idle TCP connection has closed it, or sent what nobody asked for.
pub fn tcp_peer_has_closed(stream: &tokio::net::TcpStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let mut byte = [0_u8; 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    !matches!(
        recv(stream, &mut byte, flags),
        Err(rustix::io::Errno::AGAIN)
    )
}

#[cfg(test)]
mod tests;
