//! The HTTP/2 pool: few connections that carry many exchanges at once.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::io::{Link, Meter, Publisher};
use super::lease::Lease;
use super::sent::SentBody;
use super::{
    Connect, Full, MAX_H2_CONNECTIONS, MAX_REPLACEMENTS, Outgoing, PoolOptions, PoolStats, Room,
    SendOptions, Token, TryError, Unconnected, bounded, proof, take_room,
};
use crate::bounds::Bounds;
use crate::http::body::{RequestBody, UpstreamBody};
use crate::http::cork::Cork;
use crate::http::floods;
use crate::http::settings;
use crate::http::together::{Spawner, Together};
use crate::net::age::AgeCap;
use crate::outcome::{Failure, Outcome};

/// Between pings; a connection that answers none is given up.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long the settings of a fresh connection are waited for, where a request depends on them.
const SETTINGS_WAIT: Duration = Duration::from_millis(250);
/// How often they are looked for: nobody tells when they come.
const SETTINGS_POLL: Duration = Duration::from_millis(5);
/// Between tries to replace a connection that has become too old: it serves on until one succeeds.
const REPLACE_PAUSE: Duration = Duration::from_secs(5);
/// How long a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections of one endpoint that carry many exchanges at once. Cheap to clone.
///
/// One connection, until its peer allows no more streams; then a further one. One whose peer wants
/// it to end is left out and finishes what it has. One that has become too old is left out as soon as
/// there is another one: where none can be made, it serves on.
pub struct H2Pool<C> {
    connect: Arc<C>,
    shared: Arc<Shared>,
}

impl<C: Connect> H2Pool<C> {
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
    /// response. Of the options, those that concern idle connections do nothing: an HTTP/2
    /// connection says when it ends.
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
            let stream = match self.stream(options).await {
                Ok(stream) => stream,
                Err(unconnected) => return Err(TryError::unconnected(unconnected, request.take())),
            };
            match self.exchange(stream, request, options).await {
                Ok(response) => return Ok(response),
                // Only what died in the pool is replaced: a fresh connection that does is a try of
                // its own, which the caller counts.
                Err(TryError {
                    request: Some(whole),
                    reused: true,
                    ..
                }) if replaced < MAX_REPLACEMENTS => {
                    replaced += 1;
                    *request = Outgoing::new(*whole);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Drops connections that are closed or have been without a stream for too long. Somebody has
    /// to call it now and then.
    pub fn sweep(&self) {
        let now = Instant::now();
        let limit = self.shared.options.idle_limit;
        let dropped: Vec<_> = {
            let mut state = self.shared.state.lock();
            let over = |entry: &mut Entry| {
                let is_over = now.duration_since(entry.used) >= limit || entry.is_old(now);
                entry.sender.is_closed() || (entry.line.streams() == 0 && is_over)
            };
            state.entries.extract_if(.., over).collect()
        };
        drop(dropped);
    }

    /// Counts now.
    pub fn stats(&self) -> PoolStats {
        let state = self.shared.state.lock();
        let streams = state.entries.iter().map(|entry| entry.line.streams());
        PoolStats {
            connections: state.entries.len() + usize::from(state.connecting),
            idle: streams.clone().filter(|streams| *streams == 0).count(),
            pending: state.waiting.len(),
            streams: streams.sum(),
        }
    }

    /// Whether a connection is there, or being made, that takes one more stream.
    pub fn has_stream(&self) -> bool {
        let state = self.shared.state.lock();
        let now = Instant::now();
        let takes_more = |entry: &Entry| {
            !entry.is_over(now) && entry.line.streams() < entry.line.link.max_streams()
        };
        state.connecting || state.entries.iter().any(takes_more)
    }

    /// Closes a connection that carries no stream; false where there is none.
    pub fn close_idle(&self) -> bool {
        let mut state = self.shared.state.lock();
        let is_idle = |entry: &Entry| !entry.sender.is_closed() && entry.line.streams() == 0;
        let at = state.entries.iter().position(is_idle);
        let closed = at.map(|at| state.entries.remove(at));
        drop(state);
        closed.is_some()
    }

    /// A connection with room for one more stream.
    async fn stream(&self, options: &SendOptions) -> Result<Stream, Unconnected> {
        loop {
            let picked = self.shared.pick()?;
            options.served();
            if let Some(Making(token)) = picked.connect {
                tokio::spawn(make(
                    Arc::clone(&self.connect),
                    token,
                    Arc::downgrade(&self.shared),
                    self.shared.options.max_age,
                ));
            }
            let granted = match picked.taken {
                Taken::Stream(stream) => return Ok(stream),
                Taken::Wait(granted) => granted,
            };
            match granted.await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => return Err(failure.into()),
                Err(_) => {
                    return Err(Failure::never(Outcome::Reset, "connecting was given up").into());
                }
            }
        }
    }

    async fn exchange(
        &self,
        mut stream: Stream,
        request: &mut Outgoing<'_>,
        options: &SendOptions,
    ) -> Result<Response<UpstreamBody>, TryError> {
        let mark = stream.lease.0.link.mark();
        let reused = stream.lease.0.answered.load(Ordering::Relaxed);
        if request.head().extensions.get::<Protocol>().is_some()
            && !stream.takes_extended_connect().await
        {
            let failure =
                Failure::never(Outcome::BadRequest, "the server takes no extended CONNECT")
                    .with_status(StatusCode::NOT_IMPLEMENTED);
            return Err(TryError::unconnected(failure.into(), request.take()));
        }
        let sent = |body| SentBody::of_http2(body, options.progress.clone());
        stream.lease.0.link.count_request();
        let sending = stream.sender.try_send_request(request.take().map(sent));
        match sending.await {
            Ok(response) => {
                stream.lease.0.answered.store(true, Ordering::Relaxed);
                let response = bounded(response, &self.shared.bounds, reused)?;
                let lease = Lease::H2(stream.lease);
                let progress = options.progress.clone();
                Ok(response.map(|body| UpstreamBody::new(body, lease, progress)))
            }
            Err(error) => {
                let evidence = proof::Evidence {
                    wrote_nothing: stream.lease.0.link.wrote_nothing_since(mark),
                    closed_cleanly: false,
                };
                if error.message().is_some() || proof::connection_is_ending(error.error()) {
                    self.shared.retire(&stream.lease.0);
                }
                Err(TryError::unanswered(error, reused, evidence))
            }
        }
    }
}

impl<C> Clone for H2Pool<C> {
    fn clone(&self) -> Self {
        Self {
            connect: Arc::clone(&self.connect),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<C> std::fmt::Debug for H2Pool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Pool").finish_non_exhaustive()
    }
}

/// What is counted of one connection.
#[derive(Debug)]
struct Line {
    link: Arc<Link>,
    streams: AtomicUsize,
    /// It has carried an exchange.
    answered: AtomicBool,
    room: Option<Arc<dyn Room>>,
}

impl Line {
    fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }
}

/// One stream, counted until dropped.
#[derive(Debug)]
pub(in crate::http) struct H2Lease(Arc<Line>);

impl H2Lease {
    fn new(line: &Arc<Line>) -> Self {
        line.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(line))
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
        if let Some(room) = &self.0.room {
            room.eased();
        }
    }
}

/// What a request needs of a connection.
struct Stream {
    sender: SendRequest<SentBody>,
    lease: H2Lease,
}

impl Stream {
    /// Whether the peer takes extended CONNECT (RFC 8441, 3). Its settings may not be here, or nobody
    /// may have looked at them, yet.
    async fn takes_extended_connect(&self) -> bool {
        let link = &self.lease.0.link;
        let asking = link.ask_for_extended_connect();
        let until = Instant::now() + SETTINGS_WAIT;
        loop {
            if link.takes_extended_connect() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            asking.look_again();
            tokio::time::sleep(SETTINGS_POLL).await;
        }
    }
}

struct Shared {
    options: PoolOptions,
    bounds: Arc<Bounds>,
    room: Option<Arc<dyn Room>>,
    state: Mutex<State>,
}

impl Shared {
    fn pick(&self) -> Result<Pick, Unconnected> {
        let mut state = self.state.lock();
        state.pick(&self.options, self.room.as_ref())
    }

    /// The connection takes no more streams; those that it has go on.
    fn retire(&self, line: &Arc<Line>) {
        let mut state = self.state.lock();
        let retired = |entry: &mut Entry| Arc::ptr_eq(&entry.line, line);
        let dropped: Vec<_> = state.entries.extract_if(.., retired).collect();
        drop(state);
        drop(dropped);
    }

    fn connected(&self, made: Result<Entry, Failure>) {
        let (waiting, failure, _replaced) = {
            let mut state = self.state.lock();
            state.connecting = false;
            let replaced = state.no_longer_leaving(made.is_ok());
            let failure = made.map(|entry| state.entries.push(entry)).err();
            (std::mem::take(&mut state.waiting), failure, replaced)
        };
        for waiting in waiting {
            // All of them are told the same.
            let told = failure.as_ref().map_or(Ok(()), |failure| {
                Err(Failure::never(failure.outcome, failure.detail.clone()))
            });
            let _ = waiting.send(told);
        }
        if let Some(room) = &self.room {
            room.eased();
        }
    }
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    /// A connection is being made: by a task of its own, for all who wait.
    connecting: bool,
    waiting: VecDeque<oneshot::Sender<Result<(), Failure>>>,
}

struct Entry {
    sender: SendRequest<SentBody>,
    line: Arc<Line>,
    used: Instant,
    /// It has become too old, and another one is to be made.
    replace_at: Option<Instant>,
    /// It takes no more streams, even if there is no other one.
    ends_at: Option<Instant>,
    /// Another one is being made instead.
    leaving: bool,
}

impl Entry {
    fn is_old(&self, now: Instant) -> bool {
        self.replace_at.is_some_and(|at| now >= at)
    }

    /// Whether a stream may not be opened any more.
    fn is_over(&self, now: Instant) -> bool {
        self.sender.is_closed() || self.ends_at.is_some_and(|at| now >= at)
    }
}

struct Pick {
    taken: Taken,
    /// A connection is wanted, and nobody makes one yet: it is on this one.
    connect: Option<Making>,
}

enum Taken {
    Stream(Stream),
    Wait(oneshot::Receiver<Result<(), Failure>>),
}

/// The right to make a connection, where there is a room with its token.
struct Making(Option<Token>);

impl State {
    fn pick(
        &mut self,
        options: &PoolOptions,
        room: Option<&Arc<dyn Room>>,
    ) -> Result<Pick, Unconnected> {
        let now = Instant::now();
        self.entries.retain(|entry| !entry.is_over(now));
        let limit = options.max_connections.clamp(1, MAX_H2_CONNECTIONS);
        // When no further connection may be made, streams wait inside the least busy one.
        let all_made = self.entries.len() >= limit;
        let least = self.entries.iter_mut().min_by_key(|e| e.line.streams());
        if let Some(entry) = least {
            let streams = entry.line.streams();
            let allowed = entry.line.link.max_streams();
            if streams < allowed || all_made {
                if streams >= allowed.saturating_add(options.max_pending) {
                    return Err(Unconnected::full(Full::Pool));
                }
                entry.used = now;
                let stream = Stream {
                    sender: entry.sender.clone(),
                    lease: H2Lease::new(&entry.line),
                };
                let mut connect = None;
                if entry.is_old(now) {
                    entry.replace_at = now.checked_add(REPLACE_PAUSE);
                    // Without room it stays, and its peer says when it ends.
                    if !self.connecting
                        && let Ok(token) = take_room(room)
                    {
                        entry.leaving = true;
                        self.connecting = true;
                        connect = Some(Making(token));
                    }
                }
                return Ok(Pick {
                    taken: Taken::Stream(stream),
                    connect,
                });
            }
        }
        self.waiting.retain(|waiting| !waiting.is_closed());
        if self.waiting.len() >= options.max_pending {
            return Err(Unconnected::full(Full::Pool));
        }
        let connect = if self.connecting {
            None
        } else {
            Some(Making(take_room(room)?))
        };
        self.connecting = true;
        let (grant, granted) = oneshot::channel();
        self.waiting.push_back(grant);
        Ok(Pick {
            taken: Taken::Wait(granted),
            connect,
        })
    }

    /// The connection that was being made is there, or not. What it replaces is handed out, to be
    /// dropped without the lock: it takes no more streams, and those that it has go on.
    fn no_longer_leaving(&mut self, is_made: bool) -> Vec<Entry> {
        if is_made {
            return self.entries.extract_if(.., |e| e.leaving).collect();
        }
        for entry in &mut self.entries {
            entry.leaving = false;
        }
        Vec::new()
    }
}

/// Makes a connection for a pool that may be gone before it is there.
async fn make<C: Connect>(
    connect: Arc<C>,
    token: Option<Token>,
    shared: Weak<Shared>,
    max_age: AgeCap,
) {
    // Whatever happens here, those who wait are told.
    let mut telling = Telling {
        shared,
        made: Some(Err(Failure::never(
            Outcome::Reset,
            "connecting was given up",
        ))),
    };
    telling.made = Some(open(connect.as_ref(), token, max_age).await);
}

struct Telling {
    shared: Weak<Shared>,
    made: Option<Result<Entry, Failure>>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let (Some(shared), Some(made)) = (self.shared.upgrade(), self.made.take()) {
            shared.connected(made);
        }
    }
}

async fn open<C: Connect>(
    connect: &C,
    token: Option<Token>,
    max_age: AgeCap,
) -> Result<Entry, Failure> {
    let bounds = connect.bounds();
    let limits = bounds.limits;
    let token = (bounds.dials.place().await?, token);
    let io = connect.connect().await?;
    let ends_at = C::ends_at(&io);
    let link = Arc::new(Link::new());
    let bounds = connect.floods();
    let watch = floods::Watch::over_server(&bounds);
    let meter = Meter::new(io, Arc::clone(&link), token).watched(watch);
    let (corked, release) = Cork::new(meter);
    let spawner = Spawner::default();
    let (sender, driver) = http2::Builder::new(spawner.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.http2_stream_window)
        .initial_connection_window_size(limits.http2_connection_window)
        .max_header_list_size(settings::max_header_list(limits.header_bytes))
        .max_send_buf_size(settings::MAX_SEND_BUFFER)
        .max_concurrent_reset_streams(settings::MAX_RESET_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake::<_, SentBody>(TokioIo::new(corked))
        .await
        .map_err(|error| Failure::never(Outcome::Reset, "no HTTP/2 connection").because(error))?;
    link.publish_max_streams(driver.current_max_send_streams());
    let (mut publisher, room) = (Publisher::new(Arc::clone(&link)), connect.room());
    let mut together = Together::new(spawner);
    // None once nobody hands requests over any more, or none can be sent; those that were go on.
    let mut driver = Some(driver);
    tokio::spawn(std::future::poll_fn(move |cx| {
        publisher.listen(cx.waker());
        let polled = together.poll(cx, |cx| match &mut driver {
            Some(driver) => Pin::new(driver).poll(cx),
            None => Poll::Pending,
        });
        release.poll(cx);
        if let Some(driver) = &driver {
            let has_more = publisher.publish(driver.current_max_send_streams(), || {
                driver.is_extended_connect_protocol_enabled()
            });
            if let Some(room) = &room
                && has_more
            {
                room.eased();
            }
        }
        if let Poll::Ready(ended) = polled {
            driver = None;
            if let Err(error) = ended {
                bounds.count_end(&error);
            }
        }
        if driver.is_none() && together.is_empty() {
            return Poll::Ready(());
        }
        Poll::Pending
    }));
    let now = Instant::now();
    Ok(Entry {
        sender,
        line: Arc::new(Line {
            link,
            streams: AtomicUsize::new(0),
            answered: AtomicBool::new(false),
            room: connect.room(),
        }),
        used: now,
        replace_at: max_age.replace_at(now, fastrand::f64(), ends_at),
        ends_at,
        leaving: false,
    })
}
