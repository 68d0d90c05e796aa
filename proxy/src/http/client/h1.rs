//! The HTTP/1 pool: connections that carry one exchange at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::io::{Link, Meter, Probe};
use super::lease::Lease;
use super::sent::SentBody;
use super::{
    Connect, Full, MAX_REPLACEMENTS, Outgoing, PoolOptions, PoolStats, Room, SendOptions, Token,
    TryError, UPLOAD_GRACE, Unconnected, bounded, proof, take_room,
};
use crate::bounds::Bounds;
use crate::http::body::{RequestBody, UpstreamBody};
use crate::http::{headers, settings};
use crate::outcome::{Failure, Outcome};

/// A peer that announces a longer keep-alive is not believed beyond this.
const MAX_ANNOUNCED_IDLE: Duration = Duration::from_secs(60);
/// How far below its announced end a connection is left alone.
const ANNOUNCED_MARGIN: Duration = Duration::from_secs(1);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Connections of one endpoint that carry one exchange at a time. Cheap to clone.
pub struct H1Pool<C> {
    connect: Arc<C>,
    shared: Arc<Shared>,
}

impl<C: Connect> H1Pool<C> {
    /// An empty pool.
    pub fn new(connect: C, options: PoolOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                options,
                bounds: connect.bounds(),
                room: connect.room(),
                state: Mutex::new(State::default()),
            }),
            connect: Arc::new(connect),
        }
    }

    /// Sends `request`, whose head is as it should go over the wire, and waits for the head of its
    /// response.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        options: SendOptions,
    ) -> Result<Response<UpstreamBody>, TryError> {
        self.send_from(&mut Outgoing::new(request), &options).await
    }

    /// The same, of a request that stays where it is until a connection takes it.
    pub(crate) async fn send_from(
        &self,
        request: &mut Outgoing,
        options: &SendOptions,
    ) -> Result<Response<UpstreamBody>, TryError> {
        frame(request.as_mut());
        let mut replaced = 0;
        loop {
            let reuse = replaced < MAX_REPLACEMENTS;
            let connection = match self.connection(reuse, options).await {
                Ok(connection) => connection,
                Err(unconnected) => return Err(TryError::unconnected(unconnected, request.take())),
            };
            match self.exchange(connection, request, options).await {
                Ok(response) => return Ok(response),
                // Only what died in the pool is replaced: a fresh connection that does is a try of
                // its own, which the caller counts.
                Err(TryError {
                    request: Some(whole),
                    reused: true,
                    ..
                }) if replaced <= MAX_REPLACEMENTS => {
                    replaced += 1;
                    *request = Outgoing::new(*whole);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Drops connections that are closed or idle for too long. Traffic does it by the way; without
    /// any, somebody has to.
    pub fn sweep(&self) {
        let now = Instant::now();
        let dropped: Vec<_> = {
            let mut state = self.shared.state.lock();
            state
                .idle
                .extract_if(.., |idle| !idle.usable(now))
                .collect()
        };
        drop(dropped);
    }

    /// Counts now.
    pub fn stats(&self) -> PoolStats {
        let state = self.shared.state.lock();
        PoolStats {
            connections: state.open,
            idle: state.idle.iter().filter(|c| !c.sender.is_closed()).count(),
            pending: state.waiting.len(),
            streams: 0,
        }
    }

    /// Whether an idle connection is there that a request with these options may use.
    pub fn has_idle(&self, options: &SendOptions) -> bool {
        let now = Instant::now();
        let fits = |idle: &Connection| {
            let age = now.duration_since(idle.used);
            idle.usable(now)
                && idle.sender.is_ready()
                && options.max_idle_age.is_none_or(|max| age <= max)
        };
        self.shared.state.lock().idle.iter().any(|idle| fits(idle))
    }

    /// Closes the connection that has been idle for longest; false where none is.
    pub fn close_idle(&self) -> bool {
        let mut dropped = Vec::new();
        let mut state = self.shared.state.lock();
        let mut closes = false;
        while !closes && !state.idle.is_empty() {
            let oldest = state.idle.remove(0);
            closes = !oldest.sender.is_closed();
            dropped.push(oldest);
        }
        // Closing a connection may come back to this pool.
        drop(state);
        closes
    }

    async fn connection(
        &self,
        reuse: bool,
        options: &SendOptions,
    ) -> Result<Box<Connection>, Unconnected> {
        let checked_out = self.shared.check_out(reuse, options);
        let slot = match checked_out {
            CheckOut::Connection(connection) => {
                options.served();
                return Ok(connection);
            }
            CheckOut::Slot(slot) => slot,
            CheckOut::Wait(granted) => match granted.await {
                Ok(Grant::Connection(connection)) => {
                    options.served();
                    return Ok(connection);
                }
                Ok(Grant::Slot(slot)) => slot,
                Err(_) => return Err(Unconnected::full(Full::Pool)),
            },
            CheckOut::Full => return Err(Unconnected::full(Full::Pool)),
        };
        let token = take_room(self.shared.room.as_ref())?;
        options.served();
        // Few requests need one, and all would carry the room for it.
        Ok(Box::pin(self.make((slot, token))).await?)
    }

    async fn make(&self, slot: (Slot, Option<Token>)) -> Result<Box<Connection>, Failure> {
        let Bounds { limits, dials, .. } = &*self.shared.bounds;
        let slot = (dials.place().await?, slot);
        let io = self.connect.connect().await?;
        let ends_at = C::ends_at(&io);
        let link = Arc::new(Link::new());
        let (meter, probe) = if self.connect.check_before_reuse() {
            let (meter, probe) = Meter::with_probe(io, Arc::clone(&link), slot, C::peer_has_closed);
            (meter, Some(probe))
        } else {
            (Meter::new(io, Arc::clone(&link), slot), None)
        };
        let mut builder = http1::Builder::new();
        if limits.headers > settings::LIBRARY_HEADERS {
            builder.max_headers(limits.headers.into());
        }
        let (sender, driver) = builder
            .max_buf_size(settings::max_buffer(limits.header_bytes))
            .max_header_size(limits.header_bytes)
            .preserve_header_case(self.shared.options.keep_case)
            .handshake::<_, SentBody>(TokioIo::new(meter))
            .await
            .map_err(|error| {
                Failure::never(Outcome::Reset, "no HTTP/1 connection").because(error)
            })?;
        let task = tokio::spawn(async move {
            // Whoever waits for a response is told; nobody else wants to know.
            let _ = driver.with_upgrades().await;
        });
        let now = Instant::now();
        let PoolOptions {
            idle_limit,
            max_age,
            ..
        } = self.shared.options;
        Ok(Box::new(Connection {
            sender,
            link,
            probe,
            task: task.abort_handle(),
            used: now,
            used_before: false,
            idle_limit,
            replace_at: max_age.replace_at(now, fastrand::f64(), ends_at),
        }))
    }

    async fn exchange(
        &self,
        mut connection: Box<Connection>,
        request: &mut Outgoing,
        options: &SendOptions,
    ) -> Result<Response<UpstreamBody>, TryError> {
        let mark = connection.link.mark();
        let reused = connection.used_before;
        connection.used_before = true;
        let sent = |body| SentBody::new(body, options.progress.clone());
        let sending = connection.sender.try_send_request(request.take().map(sent));
        match sending.await {
            Ok(mut response) => {
                if !headers::frame_once(response.headers_mut()) {
                    return Err(TryError {
                        failure: Failure::maybe(
                            Outcome::Reset,
                            "the answer could be read in two ways: its length and its transfer-encoding",
                        ),
                        request: None,
                        reused,
                        full: None,
                    });
                }
                let response = bounded(response, &self.shared.bounds, reused)?;
                if let Some(announced) = announced_idle(response.headers()) {
                    connection.idle_limit = announced;
                }
                let lease = Lease::H1(H1Lease {
                    pool: Arc::downgrade(&self.shared),
                    connection,
                });
                let progress = options.progress.clone();
                Ok(response.map(|body| UpstreamBody::new(body, lease, progress)))
            }
            Err(error) => {
                if error.error().is_parse_too_large() {
                    self.shared.bounds.hits.response_head.increment(1);
                }
                let evidence = proof::Evidence {
                    wrote_nothing: connection.link.wrote_nothing_since(mark),
                    closed_cleanly: self.connect.clean_close_is_proof()
                        && connection.link.closed_cleanly_without_a_byte_since(mark),
                };
                Err(TryError::unanswered(error, reused, evidence))
            }
        }
    }
}

impl<C> Clone for H1Pool<C> {
    fn clone(&self) -> Self {
        Self {
            connect: Arc::clone(&self.connect),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<C> std::fmt::Debug for H1Pool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H1Pool").finish_non_exhaustive()
    }
}

/// A connection whose response body has not ended.
#[derive(Debug)]
pub(in crate::http) struct H1Lease {
    pool: Weak<Shared>,
    connection: Box<Connection>,
}

impl H1Lease {
    /// The response has ended. Where the request has not, it gets a short grace: a connection that
    /// waits for the rest of a request that nobody answers any more would stay for ever.
    pub(super) fn give_back(self) {
        let Self {
            pool,
            mut connection,
        } = self;
        if connection.sender.is_closed() {
            return;
        }
        if connection.sender.is_ready() {
            if let Some(pool) = pool.upgrade() {
                pool.check_in(connection);
            }
            return;
        }
        tokio::spawn(async move {
            let settled = tokio::time::timeout(UPLOAD_GRACE, connection.sender.ready()).await;
            match (settled, pool.upgrade()) {
                (Ok(Ok(())), Some(pool)) => pool.check_in(connection),
                (Ok(_), _) => {}
                (Err(_), _) => connection.task.abort(),
            }
        });
    }
}

/// Each in a box, which goes with the response's body and comes back.
type Connections = Vec<Box<Connection>>;

/// The sender's side of a connection.
struct Connection {
    sender: SendRequest<SentBody>,
    link: Arc<Link>,
    probe: Option<Probe>,
    task: AbortHandle,
    used: Instant,
    /// It has carried an exchange.
    used_before: bool,
    idle_limit: Duration,
    /// It has become so old that no more requests go over it.
    replace_at: Option<Instant>,
}

impl Connection {
    fn usable(&self, now: Instant) -> bool {
        !self.sender.is_closed()
            && now.duration_since(self.used) < self.idle_limit
            && !self.is_old(now)
    }

    fn is_old(&self, now: Instant) -> bool {
        self.replace_at.is_some_and(|at| now >= at)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    options: PoolOptions,
    bounds: Arc<Bounds>,
    room: Option<Arc<dyn Room>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last one used is the last one here.
    idle: Connections,
    /// Slots given out.
    open: usize,
    waiting: VecDeque<oneshot::Sender<Grant>>,
}

enum CheckOut {
    Connection(Box<Connection>),
    Slot(Slot),
    Wait(oneshot::Receiver<Grant>),
    Full,
}

/// What one who waits is given.
#[derive(Debug)]
enum Grant {
    Connection(Box<Connection>),
    Slot(Slot),
}

impl Shared {
    fn check_out(self: &Arc<Self>, reuse: bool, options: &SendOptions) -> CheckOut {
        let now = Instant::now();
        // Dropped after the lock: closing a connection may come back to this pool.
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        if reuse && let Some(connection) = state.pop(now, options, &mut dropped) {
            return CheckOut::Connection(connection);
        }
        if state.open < self.options.max_connections {
            state.open += 1;
            return CheckOut::Slot(Slot(Arc::downgrade(self)));
        }
        self.bounds.hits.endpoint_connections.increment(1);
        state.waiting.retain(|waiting| !waiting.is_closed());
        if state.waiting.len() >= self.options.max_pending {
            return CheckOut::Full;
        }
        // An idle connection that this request may not use makes room for one that it may.
        if !state.idle.is_empty() {
            dropped.push(state.idle.remove(0));
        }
        let (grant, granted) = oneshot::channel();
        state.waiting.push_back(grant);
        CheckOut::Wait(granted)
    }

    fn check_in(&self, mut connection: Box<Connection>) {
        let now = Instant::now();
        connection.used = now;
        // Its slot goes to whoever waits.
        if connection.is_old(now) {
            return;
        }
        let mut state = self.state.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(Grant::Connection(connection)) {
                Err(Grant::Connection(refused)) => connection = refused,
                Ok(()) | Err(Grant::Slot(_)) => return,
            }
        }
        state.idle.push(connection);
        let oldest = (!state.idle[0].usable(now)).then(|| state.idle.remove(0));
        drop(state);
        drop(oldest);
        if let Some(room) = &self.room {
            room.eased();
        }
    }
}

impl State {
    fn pop(
        &mut self,
        now: Instant,
        options: &SendOptions,
        dropped: &mut Connections,
    ) -> Option<Box<Connection>> {
        let mut index = self.idle.len();
        while index > 0 {
            index -= 1;
            let idle = &self.idle[index];
            if !idle.usable(now) {
                dropped.push(self.idle.remove(index));
                continue;
            }
            let age = now.duration_since(idle.used);
            if options.max_idle_age.is_some_and(|max| age > max) {
                // Those below are older still.
                return None;
            }
            if !idle.sender.is_ready() {
                continue;
            }
            let connection = self.idle.remove(index);
            let probe = connection.probe.as_ref();
            if options.probe_before_write && probe.is_some_and(|peer_has_closed| peer_has_closed())
            {
                dropped.push(connection);
                continue;
            }
            return Some(connection);
        }
        None
    }
}

/// The right to have one connection open. It lives in the connection itself.
#[derive(Debug)]
struct Slot(Weak<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let mut state = shared.state.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            if waiting.is_closed() {
                continue;
            }
            // One that leaves right now drops the slot, which comes back here: not under the lock.
            drop(state);
            let _ = waiting.send(Grant::Slot(Self(Weak::clone(&self.0))));
            return;
        }
        state.open -= 1;
    }
}

/// hyper sends no body of unknown length with these methods unless told so.
fn frame(request: &mut Request<RequestBody>) {
    let bodiless = matches!(*request.method(), Method::GET | Method::HEAD);
    if bodiless && !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
    }
}

/// `Keep-Alive: timeout=N`, less a margin.
fn announced_idle(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds = value.split(',').find_map(|part| {
        let (name, seconds) = part.trim().split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("timeout") {
            return None;
        }
        seconds.trim().trim_matches('"').parse().ok()
    })?;
    let announced = Duration::from_secs(seconds);
    Some(
        announced
            .saturating_sub(ANNOUNCED_MARGIN)
            .min(MAX_ANNOUNCED_IDLE),
    )
}
