//! The HTTP/1 pool: connections that carry one exchange at a time.
//!
//! A connection is driven by its exchange ([`line`]), which [`encode`] writes and [`decode`] reads; what
//! comes behind a response's head is [`body`]'s, and [`connection`] is what the pool keeps. Idle connections are watched by one task of the pool,
//! which wakes only when the peer of one has left. Where names of headers are to be written as they were
//! spelled, connections are the HTTP library's ([`library`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use http::header::{self, HeaderValue};
use http::{Method, Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

pub(in crate::http) use self::body::LineBody;
use self::connection::{Carrier, Connection, announced_idle};
use self::decode::Malformed;
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
use crate::bounds::Bounds;
use crate::http::body::{RequestBody, UpstreamBody};
use crate::http::headers;
use crate::outcome::{Failure, Outcome};

mod body;
mod connection;
mod decode;
mod encode;
mod library;
mod line;
mod transport;

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
