//! One downstream connection.
//!
//! What it promises:
//! * **A clean close (EOF, over TLS a close_notify) without a byte of response means that the
//!   request was never handed to the [`Handler`].** The peer's sidecar builds on it: it sends such a
//!   request again, whatever its method. A connection that took a request and cannot answer is cut.
//! * Closing is announced first and never overtakes a request: in phase Announcing an idle
//!   connection stays until its peer leaves; in phase Draining an idle HTTP/1 connection still
//!   waits for a request under way, and what is closed is read until its peer is gone, so that no
//!   reset destroys the clean end. A connection that begins while draining serves what it came for.
//!   A GOAWAY that leaves requests out is said only when no more of them come (`farewell`).
//! * No default of hyper's closes or refuses anything; idle keep-alive has its own, long limit.
//!
//! A request whose framing could be read in two ways never comes to hyper, nor to the handler but as
//! [`Handler::refuse`]: `guarded` and the guard see to it. hyper itself answers what it alone cannot
//! parse (400) and ends the connection. While a
//! response is being made an HTTP/1 client that goes away is noticed only when it is written to:
//! that is the price of letting clients half-close.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use self::io::ServerIo;
use self::parked::Parkable;
use self::service::Serving;
use self::state::State;
use super::body::ResponseBody;
use super::client::BoxFuture;
use super::cork::{Cork, Release};
use super::deadline::Alarm;
use super::floods::{FloodBounds, Watch};
use super::together::{Spawner, Together};
use super::{Version, settings};
use crate::bounds::{Bounds, HeadExcess};
use crate::net::closing::{Closing, Phase};
use crate::outcome::{Failure, Outcome};
use crate::worker;

mod farewell;
mod guarded;
mod io;
mod parked;
mod service;
mod state;

/// Between HTTP/2 pings; a peer that answers none is given up.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long an HTTP/2 ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an idle connection may take to end gracefully.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Answers requests. Whatever goes wrong becomes a response here: a connection has no other way to
/// say it.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The future is dropped when the client gives the request up.
    fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<Response<ResponseBody>>;

    /// Answers a request that breaks the protocol and so was not read; the connection ends with it.
    fn refuse(self: &Arc<Self>, failure: Failure) -> BoxFuture<Response<ResponseBody>>;

    /// Answers a request that is more than this process bears, unless it must be served all the same.
    fn turn_away(
        self: &Arc<Self>,
        request: Request<Incoming>,
        excess: Excess,
    ) -> BoxFuture<Response<ResponseBody>>;
}

/// What a request is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Requests in flight.
    Requests,
    /// Its own head.
    Head(HeadExcess),
}

impl Excess {
    /// The answer; `outcome` is what too many requests are to a direction.
    pub fn failure(self, outcome: Outcome) -> Failure {
        match self {
            Self::Requests => {
                Failure::never(outcome, "this sidecar has as many requests as it may")
            }
            Self::Head(excess) => Failure::never(Outcome::BadRequest, excess.detail())
                .with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        }
    }
}

/// Times and bounds of one connection.
#[derive(Clone)]
pub struct ServerOptions {
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Without an exchange, the connection is closed after this.
    pub idle_limit: Duration,
    /// In phase Draining, how long an idle HTTP/1 connection still waits for a request that is on
    /// its way, and an HTTP/2 connection that has only just begun for its first one.
    pub linger: Duration,
    /// In phase Announcing, HTTP/2 peers get their GOAWAY and HTTP/1 responses say
    /// `connection: close`.
    pub announce: bool,
    /// An HTTP/1 client may end its side and still have its answer. Else its end is the exchange's.
    pub half_close: bool,
    /// HTTP/2 peers whose frames cost more are cut off.
    pub floods: FloodBounds,
    /// When the peer is to be told to come over another connection: by `Connection: close` or GOAWAY.
    /// What is in flight is finished.
    pub replace_at: Option<Instant>,
    /// Names of HTTP/1 headers are written as they were spelled.
    pub keep_case: bool,
    /// The peer is a verified sidecar, which carries what many clients send and give up.
    pub from_sidecar: bool,
    /// What the process bears.
    pub bounds: Arc<Bounds>,
}

impl ServerOptions {
    /// Ordinary times, within `bounds`.
    pub fn within(bounds: &Arc<Bounds>) -> Self {
        Self {
            head_timeout: bounds.limits.header_timeout,
            idle_limit: bounds.limits.idle_timeout,
            linger: Duration::from_secs(1),
            announce: true,
            half_close: true,
            floods: FloodBounds::default(),
            replace_at: None,
            keep_case: false,
            from_sidecar: false,
            bounds: Arc::clone(bounds),
        }
    }
}

#[cfg(test)]
impl Default for ServerOptions {
    fn default() -> Self {
        Self::within(&Bounds::uncounted(crate::bounds::ProcessLimits::DEFAULT))
    }
}

/// Serves one connection until it ends. Dropping the future cuts it.
///
/// Not an `async fn`, which would keep a place for each of these besides the one where they are used.
pub fn serve<I, H>(
    io: I,
    version: Version,
    handler: Arc<H>,
    closing: Closing,
    options: ServerOptions,
) -> impl Future<Output = ()> + Send
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let limits = options.bounds.limits;
    let state = Arc::new(State::new(version, Arc::clone(&options.bounds)));
    let service = Serving {
        handler,
        state: Arc::clone(&state),
        http1: version == Version::Http1,
        replace_at: options.replace_at,
    };
    let floods = (version == Version::Http2)
        .then(|| Watch::over_client(&options.floods, options.from_sidecar));
    let io = ServerIo::new(io, Arc::clone(&state), floods);
    let pending_resets =
        settings::max_pending_accept_resets(options.from_sidecar, limits.http2_streams);
    match version {
        Version::Http1 => {
            let connection = Parkable::new(io, service, Arc::clone(&state), &options);
            Either::Left(Driver::new(state, version, closing, options).run(connection))
        }
        Version::Http2 => {
            let (corked, release) = Cork::new(io);
            let spawner = Spawner::default();
            let connection = http2::Builder::new(spawner.clone())
                .timer(TokioTimer::new())
                .initial_stream_window_size(limits.http2_stream_window)
                .initial_connection_window_size(limits.http2_connection_window)
                .max_concurrent_streams(limits.http2_streams)
                .max_header_list_size(settings::max_header_list(limits.header_bytes))
                .max_send_buf_size(settings::MAX_SEND_BUFFER)
                .max_pending_accept_reset_streams(pending_resets)
                .max_local_error_reset_streams(settings::MAX_ERROR_RESETS)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .enable_connect_protocol()
                .auto_date_header(false)
                .serve_connection(TokioIo::new(corked), service);
            let together = Together::new(spawner);
            let driver = Driver::new(state, version, closing, options);
            Either::Right(driver.run_with(connection, together, release))
        }
    }
}

/// A connection of either version.
trait Connection: Future<Output = hyper::Result<()>> {
    fn graceful_shutdown(self: Pin<&mut Self>);

    /// It has been at rest for a while: gives back what it does not need until it is used again.
    fn park(self: Pin<&mut Self>) {}
}

impl<I, S, B> Connection for http2::Connection<I, S, Spawner>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Polls a connection and ends it at the right time.
struct Driver {
    state: Arc<State>,
    version: Version,
    options: ServerOptions,
    /// The next phase. Polled only when it has something to say: a wake of the connection does not
    /// touch what all connections share.
    phases: FuturesUnordered<BoxFuture<(Phase, Closing)>>,
    /// The phase in which the connection began.
    born: Phase,
    /// It is to end as soon as it has taken a request.
    ends_after_first: bool,
    alarm: Alarm,
    /// Requests seen when the connection last came to rest.
    seen: u64,
    /// Bytes read when it came to rest.
    rested_at: u64,
    /// Since when it has been at rest; none while an exchange is in flight.
    rest: Option<Instant>,
    /// When the first byte of a head came.
    head: Option<Instant>,
    /// Which head of HTTP/2 that is.
    head_number: u64,
    /// In phase Draining, until when a request may still come.
    linger_until: Option<Instant>,
    /// When a head was found to take too long, and its answer began.
    late: Option<Instant>,
    /// When an idle connection was told to end.
    shut_down: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It has been idle for too long.
    Idle,
    /// A request may have come, and did not.
    Gracefully,
    /// A head takes too long: it is answered.
    Late,
    Cut,
    /// No new exchange; those in flight go on for as long as they like.
    Replaced,
    /// It does not end: it is put away until it is used again.
    Parked,
}

impl Driver {
    fn new(state: Arc<State>, version: Version, closing: Closing, options: ServerOptions) -> Self {
        let born = closing.phase();
        let phases = FuturesUnordered::new();
        phases.push(reached(closing, Phase::Announcing));
        Self {
            state,
            version,
            options,
            phases,
            born,
            ends_after_first: false,
            alarm: Alarm::default(),
            seen: 0,
            rested_at: 0,
            rest: Some(Instant::now()),
            head: None,
            head_number: 0,
            linger_until: None,
            late: None,
            shut_down: None,
        }
    }

    /// Not an `async fn`, which would keep a place for the connection besides the one that it is
    /// polled in.
    fn run<C: Connection>(mut self, connection: C) -> impl Future<Output = ()> {
        let mut connection = Box::pin(connection);
        poll_fn(move |cx| self.poll(connection.as_mut(), cx))
    }

    /// With what is spawned for it, and what it writes kept until all of them have been polled.
    fn run_with<C: Connection, I: AsyncWrite + Unpin>(
        mut self,
        connection: C,
        mut together: Together,
        release: Release<I>,
    ) -> impl Future<Output = ()> {
        let mut connection = Box::pin(connection);
        poll_fn(move |cx| {
            let polled = together.poll(cx, |cx| self.poll(connection.as_mut(), cx));
            release.poll(cx);
            polled
        })
    }

    fn poll<C: Connection>(
        &mut self,
        mut connection: Pin<&mut C>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        while let Poll::Ready(Some((phase, closing))) = self.phases.poll_next_unpin(cx) {
            if phase == Phase::Over {
                return Poll::Ready(());
            }
            let next = match phase {
                Phase::Draining | Phase::Finishing => Phase::Over,
                _ => Phase::Draining,
            };
            self.phases.push(reached(closing, next));
            if self.enter(phase) {
                self.shut_down(connection.as_mut());
            }
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    self.options.floods.count_end(&error);
                }
                return Poll::Ready(());
            }
            if self.state.may_let_go() {
                continue;
            }
            if self.is_sent_away() {
                self.options.replace_at = None;
                self.shut_down(connection.as_mut());
                continue;
            }
            if self.ends_after_first && self.state.requests() > 0 {
                self.ends_after_first = false;
                self.linger_until = None;
                self.shut_down(connection.as_mut());
                continue;
            }
            let (at, end) = match (self.shut_down, self.ends_at()) {
                (Some(shut_down), _) => (shut_down + SHUTDOWN_LIMIT, End::Cut),
                (None, Some(end)) => end,
                (None, None) => return Poll::Pending,
            };
            ready!(self.alarm.poll_at(cx, at));
            let hits = &self.options.bounds.hits;
            match end {
                End::Cut => {
                    // Over HTTP/2 nothing can be said to a client that keeps its head to itself.
                    if self.state.unfinished_head().is_some() {
                        hits.header_timeout.increment(1);
                    }
                    return Poll::Ready(());
                }
                End::Late => {
                    hits.header_timeout.increment(1);
                    self.late = Some(Instant::now());
                    self.state.end_head();
                    continue;
                }
                End::Parked => {
                    connection.as_mut().park();
                    continue;
                }
                End::Replaced => self.options.replace_at = None,
                End::Idle | End::Gracefully => {
                    if end == End::Idle && !self.state.is_closing() {
                        hits.idle_timeout.increment(1);
                    }
                    self.shut_down = Some(Instant::now());
                }
            }
            self.shut_down(connection.as_mut());
        }
    }

    fn shut_down<C: Connection>(&self, connection: Pin<&mut C>) {
        self.state.leave();
        connection.graceful_shutdown();
    }

    /// Whether the connection is to be shut down gracefully now.
    fn enter(&mut self, phase: Phase) -> bool {
        let announce = self.options.announce || phase >= Phase::Draining;
        match self.version {
            Version::Http1 => {
                if announce {
                    self.state.announce_close();
                }
                if phase >= Phase::Draining {
                    self.linger_until = Some(Instant::now() + self.options.linger);
                }
                false
            }
            // One that began while closing was announced already was meant: it is not sent away
            // before it must be.
            Version::Http2 if self.born >= Phase::Draining && self.state.requests() == 0 => {
                self.ends_after_first = true;
                self.linger_until = Some(Instant::now() + self.options.linger);
                false
            }
            Version::Http2 => {
                announce && (self.born < Phase::Announcing || phase >= Phase::Draining)
            }
        }
    }

    /// When and how the connection is to end, unless something happens first.
    fn ends_at(&mut self) -> Option<(Instant, End)> {
        if let Some(number) = self.state.unfinished_head() {
            // Nothing else can come on this connection before the rest of the head, and the library
            // waits for it without end.
            if number != self.head_number || self.head.is_none() {
                self.head_number = number;
                self.head = Some(Instant::now());
            }
            let at = self.head?.checked_add(self.options.head_timeout)?;
            return Some((at, End::Cut));
        }
        if self.state.in_flight() > 0 {
            self.rest = None;
            self.head = None;
            return self.replaced_at();
        }
        let now = Instant::now();
        let requests = self.state.requests();
        if self.rest.is_none() || requests != self.seen {
            self.seen = requests;
            // The next head may have begun in the same read that ended the last request.
            self.rested_at = self.state.read().saturating_sub(self.state.partial_head());
            self.rest = Some(now);
            self.head = None;
        }
        if self.version == Version::Http1 && self.state.read() > self.rested_at {
            let began = *self.head.get_or_insert(now);
            // Whoever does not take the answer either is cut.
            return match self.late {
                Some(late) => Some((late + SHUTDOWN_LIMIT, End::Cut)),
                None => Some((began.checked_add(self.options.head_timeout)?, End::Late)),
            };
        }
        let idle = self
            .rest
            .and_then(|rest| rest.checked_add(self.options.idle_limit));
        let linger = self.linger_until.map(|at| (at, End::Gracefully));
        let idle = idle.map(|at| (at, End::Idle));
        let replaced = self.replaced_at();
        let parked = self.rest.filter(|_| self.state.rests());
        let parked = parked.map(|rest| (rest + parked::patience(), End::Parked));
        let ends = idle.into_iter().chain(linger).chain(replaced).chain(parked);
        ends.min_by_key(|(at, _)| *at)
    }

    /// Whether an HTTP/2 peer that is busy is told to come over another connection, so that another worker
    /// has it. HTTP/1 says it in a response.
    fn is_sent_away(&self) -> bool {
        self.version == Version::Http2
            && self.state.in_flight() > 0
            && !self.state.is_leaving()
            && self.shut_down.is_none()
            && worker::sends_away()
    }

    /// When an HTTP/2 peer is told to leave for the connection's age. HTTP/1 says it in a response: to
    /// close an idle connection could cross a request.
    fn replaced_at(&self) -> Option<(Instant, End)> {
        let at = self.options.replace_at?;
        (self.version == Version::Http2).then_some((at, End::Replaced))
    }
}

fn reached(mut closing: Closing, phase: Phase) -> BoxFuture<(Phase, Closing)> {
    Box::pin(async move {
        let phase = closing.reached(phase).await;
        (phase, closing)
    })
}

#[cfg(test)]
mod tests;
