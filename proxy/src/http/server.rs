//! One downstream connection.
//!
//! What it promises:
//! * **A clean close (EOF, over TLS a close_notify) without a byte of response means that the
//!   request was never handed to the [`Handler`].** The peer's sidecar builds on it: it sends such a
//!   request again, whatever its method. A connection that took a request and cannot answer is cut.
//! * Closing is announced first and never overtakes a request: in phase Announcing an idle
//!   connection stays until its peer leaves; in phase Draining an idle HTTP/1 connection still
//!   waits for a request under way, and what is closed is read until its peer is gone, so that no
//!   reset destroys the clean end.
//! * No default of hyper's closes or refuses anything; idle keep-alive has its own, long limit.
//!
//! A request whose framing could be read in two ways never comes to hyper, nor to the handler but as
//! [`Handler::refuse`]: `guarded` and the guard see to it. hyper itself answers what it alone cannot
//! parse (400) and ends the connection. While a
//! response is being made an HTTP/1 client that goes away is noticed only when it is written to:
//! that is the price of letting clients half-close.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use metrics::Counter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use self::io::{Floods, ServerIo};
use self::state::{InFlight, State};
use super::body::{BodyError, ResponseBody, h2_error};
use super::client::BoxFuture;
use super::deadline::Alarm;
use super::floods::FloodLimits;
use super::guard::MAX_HEAD;
use super::{Version, settings};
use crate::net::closing::{Closing, Phase};
use crate::outcome::Failure;

mod guarded;
mod io;
mod state;

/// Bytes that one HTTP/1 connection buffers either way.
const MAX_BUFFER: usize = 128 * 1024;
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
}

/// Times and bounds of one connection.
#[derive(Clone)]
pub struct ServerOptions {
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Without an exchange, the connection is closed after this.
    pub idle_limit: Duration,
    /// In phase Draining, how long an idle HTTP/1 connection still waits for a request that is on
    /// its way.
    pub linger: Duration,
    /// In phase Announcing, HTTP/2 peers get their GOAWAY and HTTP/1 responses say
    /// `connection: close`.
    pub announce: bool,
    /// An HTTP/1 client may end its side and still have its answer. Else its end is the exchange's.
    pub half_close: bool,
    /// HTTP/2 peers whose frames cost more are cut off.
    pub floods: FloodLimits,
    /// Counts such peers.
    pub flooded: Counter,
    /// The peer is a verified sidecar, which carries what many clients send and give up.
    pub from_sidecar: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            idle_limit: Duration::from_secs(3_600),
            linger: Duration::from_secs(1),
            announce: true,
            half_close: true,
            floods: FloodLimits::default(),
            flooded: Counter::noop(),
            from_sidecar: false,
        }
    }
}

/// Serves one connection until it ends. Dropping the future cuts it.
pub async fn serve<I, H>(
    io: I,
    version: Version,
    handler: Arc<H>,
    closing: Closing,
    options: ServerOptions,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let state = Arc::new(State::new(version));
    let service = Serving {
        handler,
        state: Arc::clone(&state),
        http1: version == Version::Http1,
    };
    let floods = (version == Version::Http2).then(|| Floods::new(&options));
    let io = TokioIo::new(ServerIo::new(io, Arc::clone(&state), floods));
    let pending_resets = settings::max_pending_accept_resets(options.from_sidecar);
    let half_close = options.half_close;
    let driver = Driver::new(state, version, &closing, options);
    match version {
        Version::Http1 => {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                // Ours instead: hyper's counts the idle time between requests too.
                .header_read_timeout(None)
                .half_close(half_close)
                .max_buf_size(MAX_BUFFER)
                .max_header_size(MAX_HEAD)
                .auto_date_header(false)
                .serve_connection(io, service)
                .with_upgrades();
            driver.run(connection).await;
        }
        Version::Http2 => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(settings::STREAM_WINDOW)
                .initial_connection_window_size(settings::CONNECTION_WINDOW)
                .max_concurrent_streams(settings::MAX_STREAMS)
                .max_header_list_size(settings::MAX_HEADER_LIST)
                .max_send_buf_size(settings::MAX_SEND_BUFFER)
                .max_pending_accept_reset_streams(pending_resets)
                .max_local_error_reset_streams(settings::MAX_ERROR_RESETS)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .enable_connect_protocol()
                .auto_date_header(false)
                .serve_connection(io, service);
            driver.run(connection).await;
        }
    }
}

/// A connection of either version.
trait Connection: Future<Output = hyper::Result<()>> {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<I, S, B> Connection for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B> Connection for http2::Connection<I, S, TokioExecutor>
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
    /// When an idle connection was told to end.
    shut_down: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Gracefully,
    Cut,
}

impl Driver {
    fn new(state: Arc<State>, version: Version, closing: &Closing, options: ServerOptions) -> Self {
        let phases = FuturesUnordered::new();
        phases.push(reached(closing.clone(), Phase::Announcing));
        Self {
            state,
            version,
            options,
            phases,
            born: closing.phase(),
            alarm: Alarm::default(),
            seen: 0,
            rested_at: 0,
            rest: Some(Instant::now()),
            head: None,
            head_number: 0,
            linger_until: None,
            shut_down: None,
        }
    }

    /// Not an `async fn`, which would keep a place for the connection besides the one that it is
    /// polled in.
    fn run<C: Connection>(mut self, connection: C) -> impl Future<Output = ()> {
        let mut connection = Box::pin(connection);
        poll_fn(move |cx| self.poll(connection.as_mut(), cx))
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
                Phase::Draining => Phase::Over,
                _ => Phase::Draining,
            };
            self.phases.push(reached(closing, next));
            if self.enter(phase) {
                connection.as_mut().graceful_shutdown();
            }
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                self.count_flood(ended.err().as_ref());
                return Poll::Ready(());
            }
            if self.state.may_let_go() {
                continue;
            }
            let (at, end) = match (self.shut_down, self.ends_at()) {
                (Some(shut_down), _) => (shut_down + SHUTDOWN_LIMIT, End::Cut),
                (None, Some(end)) => end,
                (None, None) => return Poll::Pending,
            };
            ready!(self.alarm.poll_at(cx, at));
            if end == End::Cut {
                return Poll::Ready(());
            }
            self.shut_down = Some(Instant::now());
            connection.as_mut().graceful_shutdown();
        }
    }

    /// Floods that the library ended: streams reset before they were taken, heads in endless pieces,
    /// the smallest DATA.
    fn count_flood(&self, error: Option<&hyper::Error>) {
        let calmed = error
            .and_then(|error| h2_error(error))
            .is_some_and(|error| {
                error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
            });
        if calmed {
            self.options.flooded.increment(1);
            tracing::warn!("a flood of HTTP/2 frames, connection ended");
        }
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
            return None;
        }
        let now = Instant::now();
        let requests = self.state.requests();
        if self.rest.is_none() || requests != self.seen {
            self.seen = requests;
            self.rested_at = self.state.read();
            self.rest = Some(now);
            self.head = None;
        }
        if self.version == Version::Http1 && self.state.read() > self.rested_at {
            let began = *self.head.get_or_insert(now);
            // hyper does not end a connection gracefully that waits for the rest of a head.
            let at = began.checked_add(self.options.head_timeout)?;
            return Some((at, End::Cut));
        }
        let idle = self
            .rest
            .and_then(|rest| rest.checked_add(self.options.idle_limit));
        let at = idle.into_iter().chain(self.linger_until).min()?;
        Some((at, End::Gracefully))
    }
}

fn reached(mut closing: Closing, phase: Phase) -> BoxFuture<(Phase, Closing)> {
    Box::pin(async move {
        let phase = closing.reached(phase).await;
        (phase, closing)
    })
}

/// The service that hyper sees.
struct Serving<H> {
    handler: Arc<H>,
    state: Arc<State>,
    http1: bool,
}

impl<H: Handler> Service<Request<Incoming>> for Serving<H> {
    type Response = Response<Served>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let in_flight = State::take_request(&self.state);
        let connect = *request.method() == Method::CONNECT;
        let response = match self.state.refuses() {
            None => self.handler.handle(request),
            Some(violation) => self.handler.refuse(violation.failure()),
        };
        Answering {
            response,
            in_flight: Some(in_flight),
            http1: self.http1,
            connect,
        }
    }
}

/// A response being made.
struct Answering {
    response: BoxFuture<Response<ResponseBody>>,
    in_flight: Option<InFlight>,
    http1: bool,
    connect: bool,
}

impl Future for Answering {
    type Output = Result<Response<Served>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.response.as_mut().poll(cx));
        let in_flight = self
            .in_flight
            .take()
            .expect("polled once after it is ready");
        if self.http1 {
            let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS
                || (self.connect && response.status().is_success());
            if upgrades {
                in_flight.state().upgraded();
            } else if in_flight.state().closing_is_announced() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
        }
        Poll::Ready(Ok(response.map(|body| Served {
            body,
            _in_flight: in_flight,
        })))
    }
}

/// A response body that is counted as an exchange in flight until it is dropped.
struct Served {
    body: ResponseBody,
    _in_flight: InFlight,
}

impl Body for Served {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
