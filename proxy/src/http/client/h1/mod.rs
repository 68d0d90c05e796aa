//! The HTTP/1 pool: connections that carry one exchange at a time.
//!
//! A connection is driven by its exchange ([`line`]), which [`encode`] writes and [`decode`] reads; what
//! comes behind a response's head is [`body`]'s. Idle connections are watched by one task of the pool,
//! which wakes only when the peer of one has left. Where names of headers are to be written as they were
//! spelled, connections are the HTTP library's ([`library`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

pub(in crate::http) use self::body::LineBody;
use self::decode::{Framing, Head, Malformed};
pub(in crate::http) use self::library::H1Lease;
use self::library::{Library, Unanswered};
pub(in crate::http::client) use self::line::Broken;
use self::line::Line;
use self::transport::Over;
pub use self::transport::Tunnel;
use super::lease::Lease;
use super::{
    Connect, Full, MAX_REPLACEMENTS, Outgoing, PoolOptions, PoolStats, Room, SendOptions, Token,
    TryError, Unconnected, bounded, proof, take_room,
};
use crate::bounds::{Bounds, DialPlace};
use crate::http::body::{Progress, RequestBody, UpstreamBody};
use crate::http::headers;
use crate::http::upgrade::Switched;
use crate::outcome::{Failure, Outcome};

mod body;
mod decode;
mod encode;
mod library;
mod line;
mod transport;

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
                is_watched: AtomicBool::new(false),
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
        request: &mut Outgoing<'_>,
        options: &SendOptions,
    ) -> Result<Response<UpstreamBody>, TryError> {
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

    /// Whether the head of a request is gone once it was sent.
    pub(crate) fn takes_heads(&self) -> bool {
        self.shared.options.keep_case
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
            idle: state.idle.iter().filter(|idle| idle.is_open()).count(),
            pending: state.waiting.len(),
            streams: 0,
        }
    }

    /// Whether an idle connection is there that a request with these options may use.
    pub fn has_idle(&self, options: &SendOptions) -> bool {
        let now = Instant::now();
        let fits = |idle: &Connection| {
            let age = now.duration_since(idle.used);
            idle.usable(now) && idle.is_ready() && options.max_idle_age.is_none_or(|max| age <= max)
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
            closes = oldest.is_open();
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
        let held = (dials.place().await?, slot);
        let io = self.connect.connect().await?;
        let ends_at = C::ends_at(&io);
        let carrier = if self.shared.options.keep_case {
            let probe = (self.connect.check_before_reuse())
                .then_some(C::peer_has_closed as fn(&C::Io) -> bool);
            Carrier::Library(Library::new(io, held, limits, probe).await?)
        } else {
            self.shared.watch();
            Carrier::Line(
                Line::new(
                    Box::new(Over::<C>::new(io)),
                    Arc::clone(&self.shared.bounds),
                ),
                held,
            )
        };
        let now = Instant::now();
        let PoolOptions {
            idle_limit,
            max_age,
            ..
        } = self.shared.options;
        Ok(Box::new(Connection {
            carrier,
            pool: Arc::downgrade(&self.shared),
            checks_before_reuse: self.connect.check_before_reuse(),
            used: now,
            used_before: false,
            idle_limit,
            replace_at: max_age.replace_at(now, fastrand::f64(), ends_at),
        }))
    }

    async fn exchange(
        &self,
        mut connection: Box<Connection>,
        request: &mut Outgoing<'_>,
        options: &SendOptions,
    ) -> Result<Response<UpstreamBody>, TryError> {
        let reused = std::mem::replace(&mut connection.used_before, true);
        let line = match &mut connection.carrier {
            Carrier::Line(line, _) => line,
            Carrier::Library(_) => {
                return Box::pin(self.exchange_by_library(connection, request, options, reused))
                    .await;
            }
        };
        let before = line.count();
        let progress = options.progress.as_ref();
        match poll_fn(|cx| line.poll_exchange(cx, request, progress)).await {
            Ok(head) => Ok(connection.response(head, request, progress)),
            Err(broken) => {
                let now = line.count();
                let evidence = proof::Evidence {
                    wrote_nothing: now.written == before.written,
                    closed_cleanly: self.connect.clean_close_is_proof()
                        && now.ended
                        && now.read == before.read,
                };
                Err(self.unanswered(broken, evidence, request, reused))
            }
        }
    }

    fn unanswered(
        &self,
        broken: Broken,
        evidence: proof::Evidence,
        request: &mut Outgoing<'_>,
        reused: bool,
    ) -> TryError {
        if let Broken::Malformed(Malformed::Bytes | Malformed::Fields) = broken {
            self.shared.bounds.hits.response_head.increment(1);
        }
        let is_whole = matches!(broken, Broken::BeforeRequest);
        TryError {
            failure: proof::of_line(broken, evidence),
            reused,
            request: is_whole.then(|| Box::new(request.take())),
            full: None,
        }
    }

    async fn exchange_by_library(
        &self,
        mut connection: Box<Connection>,
        request: &mut Outgoing<'_>,
        options: &SendOptions,
        reused: bool,
    ) -> Result<Response<UpstreamBody>, TryError> {
        let proof = self.connect.clean_close_is_proof();
        let Some(library) = connection.library() else {
            return Err(Failure::never(Outcome::Reset, "no connection of the library's").into());
        };
        let mut request = request.take();
        frame(&mut request);
        let mut response = match library.exchange(request, options, proof).await {
            Ok(response) => response,
            Err(Unanswered { error, evidence }) => {
                if error.error().is_parse_too_large() {
                    self.shared.bounds.hits.response_head.increment(1);
                }
                return Err(TryError::unanswered(error, reused, evidence));
            }
        };
        if !headers::frame_once(response.headers_mut()) {
            let failure = Failure::maybe(Outcome::Reset, Malformed::TwoReadings.to_string());
            return Err(TryError {
                reused,
                ..failure.into()
            });
        }
        let response = bounded(response, &self.shared.bounds, reused)?;
        if let Some(announced) = announced_idle(response.headers()) {
            connection.idle_limit = announced;
        }
        let lease = Lease::H1(H1Lease::new(connection));
        let progress = options.progress.clone();
        Ok(response.map(|body| UpstreamBody::new(body, lease, progress)))
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

/// Each in a box, which goes with the response's body and comes back.
type Connections = Vec<Box<Connection>>;

/// What a connection holds for as long as it is open.
type Held = (DialPlace, (Slot, Option<Token>));

/// A connection of the pool.
struct Connection {
    carrier: Carrier,
    pool: Weak<Shared>,
    checks_before_reuse: bool,
    used: Instant,
    /// It has carried an exchange.
    used_before: bool,
    idle_limit: Duration,
    /// It has become so old that no more requests go over it.
    replace_at: Option<Instant>,
}

/// Who drives a connection.
#[derive(Debug)]
enum Carrier {
    /// Its exchange.
    Line(Line, Held),
    /// A task of the library's.
    Library(Library),
}

impl Connection {
    /// The response that begins with `head`, whose body reads on from this connection.
    fn response(
        mut self: Box<Self>,
        head: Head,
        request: &mut Outgoing<'_>,
        progress: Option<&Arc<Progress>>,
    ) -> Response<UpstreamBody> {
        let Head {
            mut response,
            framing,
            switches,
            is_last: _,
        } = head;
        let progress = progress.map(Arc::clone);
        if switches {
            if let Some(tunnel) = self.into_tunnel() {
                response.extensions_mut().insert(Switched::new(tunnel));
            }
            return response.map(|()| UpstreamBody::of_line(LineBody::none(), progress));
        }
        if let Some(announced) = announced_idle(response.headers()) {
            self.idle_limit = announced;
        }
        let body = if self.is_uploaded() {
            request.let_go();
            LineBody::new(self, framing)
        } else {
            LineBody::beside(request.take(), progress.clone(), self, framing)
        };
        response.map(|()| UpstreamBody::of_line(body, progress))
    }

    /// What is left when both sides have left HTTP.
    fn into_tunnel(self) -> Option<Tunnel> {
        let Carrier::Line(mut line, held) = self.carrier else {
            return None;
        };
        let (read, io) = line.take();
        Some(Tunnel::new(read, io, held))
    }

    /// Goes on with the request; see [`Line::poll_upload`].
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Request<RequestBody>,
        progress: Option<&Arc<Progress>>,
    ) -> Poll<Result<(), Broken>> {
        match &mut self.carrier {
            Carrier::Line(line, _) => {
                // Its headers stay as they are; the borrow checker cannot know.
                let headers = std::mem::take(request.headers_mut());
                let polled = line.poll_upload(cx, &headers, request.body_mut(), progress);
                *request.headers_mut() = headers;
                polled
            }
            Carrier::Library(_) => Poll::Ready(Ok(())),
        }
    }

    /// The next frame of the response's body; see [`Line::poll_body`].
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        match &mut self.carrier {
            Carrier::Line(line, _) => line.poll_body(cx, framing),
            Carrier::Library(_) => Poll::Ready(Err(Broken::Closed)),
        }
    }

    fn is_uploaded(&self) -> bool {
        match &self.carrier {
            Carrier::Line(line, _) => line.is_uploaded(),
            Carrier::Library(_) => true,
        }
    }

    fn library(&mut self) -> Option<&mut Library> {
        match &mut self.carrier {
            Carrier::Line(..) => None,
            Carrier::Library(library) => Some(library),
        }
    }

    fn usable(&self, now: Instant) -> bool {
        self.is_open() && now.duration_since(self.used) < self.idle_limit && !self.is_old(now)
    }

    /// Not known to have ended.
    fn is_open(&self) -> bool {
        match &self.carrier {
            Carrier::Line(..) => true,
            Carrier::Library(library) => !library.is_closed(),
        }
    }

    fn is_ready(&self) -> bool {
        match &self.carrier {
            Carrier::Line(..) => true,
            Carrier::Library(library) => library.is_ready(),
        }
    }

    /// Ready once an idle connection can take no request.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.carrier {
            Carrier::Line(line, _) => line.poll_idle(cx),
            Carrier::Library(library) if library.is_closed() => Poll::Ready(()),
            Carrier::Library(_) => Poll::Pending,
        }
    }

    /// Asks the kernel whether the peer of an idle connection has closed it, where that is to be asked.
    fn peer_has_closed(&self) -> bool {
        self.checks_before_reuse
            && match &self.carrier {
                Carrier::Line(line, _) => line.peer_has_closed(),
                Carrier::Library(library) => library.peer_has_closed(),
            }
    }

    fn is_old(&self, now: Instant) -> bool {
        self.replace_at.is_some_and(|at| now >= at)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("carrier", &self.carrier)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    options: PoolOptions,
    bounds: Arc<Bounds>,
    room: Option<Arc<dyn Room>>,
    /// Idle connections are watched.
    is_watched: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last one used is the last one here.
    idle: Connections,
    /// Slots given out.
    open: usize,
    waiting: VecDeque<oneshot::Sender<Grant>>,
    /// Of the task that watches idle connections.
    watch: Option<Waker>,
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
        if let Some(watch) = &state.watch
            && connection
                .poll_left(&mut Context::from_waker(watch))
                .is_ready()
        {
            // Closing a connection may come back to this pool.
            drop(state);
            return;
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

impl Shared {
    /// Has idle connections dropped as soon as their peers leave, from now on.
    fn watch(self: &Arc<Self>) {
        if self.is_watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = Arc::downgrade(self);
        let watching = poll_fn(move |cx| match shared.upgrade() {
            Some(shared) => shared.drop_left(cx),
            None => Poll::Ready(()),
        });
        // It looks at all of them at once: the runtime's budget would have it begin anew for ever.
        tokio::spawn(unconstrained(watching));
    }

    fn drop_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        state.watch = Some(cx.waker().clone());
        let left: Connections = state
            .idle
            .extract_if(.., |idle| idle.poll_left(cx).is_ready())
            .collect();
        drop(state);
        drop(left);
        Poll::Pending
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The watching task finds that there is nothing to be watched any more.
        if let Some(watch) = self.state.get_mut().watch.take() {
            watch.wake();
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
            if !idle.is_ready() {
                continue;
            }
            let connection = self.idle.remove(index);
            if options.probe_before_write && connection.peer_has_closed() {
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

/// A connection whose exchange has ended goes back to its pool, where it may take another one.
fn give_back(mut connection: Box<Connection>) {
    if let Carrier::Line(line, _) = &mut connection.carrier {
        if !line.is_reusable() {
            return;
        }
        line.rest();
    }
    check_in(connection);
}

fn check_in(connection: Box<Connection>) {
    if let Some(pool) = connection.pool.upgrade() {
        pool.check_in(connection);
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
