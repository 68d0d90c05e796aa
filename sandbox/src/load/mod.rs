//! A load generator that hides nothing.
//!
//! It never sends a request twice: every id is on the wire at most once. A connection that the
//! server closes between two exchanges, in order, is replaced and counted as a reconnect; a request
//! that was given to such a connection and of which nothing was written, as hyper proves by handing
//! it back, goes to the next one. Everything else that goes wrong is a failure, by its text. So
//! `sent == answered + failed`, and a server that counts ids has seen each of them at most once
//! unless the mesh in between sent it again.
//!
//! With a [rate](Load::rate) it is an open loop: when requests are due stands fixed before the first
//! one, and their latency counts from then. [`Report::late`] says how far it fell behind itself.
//!
//! It runs on a thread of its own in the client's pod.

mod client;
mod grpc;
mod line;
mod report;
mod schedule;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use parking_lot::Mutex;

pub use report::{Record, Report};

use crate::Pod;

/// What one exchange may take, unless told otherwise; longer is a failure.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Clients that one load may have.
const MAX_CLIENTS: usize = 4096;

/// The protocol of the client's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 keep-alive.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Unary gRPC calls of the stand-in service over HTTP/2. A call is answered well where its one
    /// message is what was sent and its trailers say status 0; a call that ends in another way is a
    /// failure. Of a [`Shot`] only the length of the body counts.
    Grpc,
}

/// A kind of request in the mix.
#[derive(Clone, Debug)]
pub struct Shot {
    method: Method,
    target: String,
    body_length: usize,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Shot {
    /// A GET of an absolute path.
    pub fn get(target: &str) -> Self {
        Self::new(Method::GET, target)
    }

    /// A POST with a body of `body_length` bytes, different for every request.
    pub fn post(target: &str, body_length: usize) -> Self {
        Self {
            body_length,
            ..Self::new(Method::POST, target)
        }
    }

    /// Another method.
    pub fn new(method: Method, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            body_length: 0,
            headers: Vec::new(),
        }
    }

    /// One more header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// What to send, how, and for how long. Start from [`Load::new`].
#[derive(Clone, Debug)]
pub struct Load {
    to: SocketAddr,
    authority: String,
    protocol: Protocol,
    clients: usize,
    rate: Option<f64>,
    pauses: Vec<(u64, Duration)>,
    on_demand: bool,
    connections: Option<usize>,
    connect_patience: Duration,
    requests: Option<u64>,
    duration: Option<Duration>,
    timeout: Duration,
    mix: Vec<Shot>,
    /// Where each request's number goes too, and what stands before it there.
    id_header: Option<(HeaderName, String)>,
    id_prefix: String,
}

impl Load {
    /// A closed loop of one HTTP/1.1 client that GETs `/` until stopped.
    pub fn new(to: SocketAddr) -> Self {
        Self {
            to,
            authority: to.to_string(),
            protocol: Protocol::Http1,
            clients: 1,
            rate: None,
            pauses: Vec::new(),
            on_demand: false,
            connections: None,
            connect_patience: Duration::ZERO,
            requests: None,
            duration: None,
            timeout: TIMEOUT,
            mix: Vec::new(),
            id_header: None,
            id_prefix: "load".to_owned(),
        }
    }

    /// The authority that requests name; the address without.
    pub fn authority(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// The protocol.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Clients, each with one connection and one exchange at a time; at most 4096.
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients.clamp(1, MAX_CLIENTS);
        self
    }

    /// Open loop: so many requests per second over all clients, whether or not answers come. A
    /// request's latency then counts from when it was due, so that waiting for a free client shows.
    pub fn rate(mut self, per_second: f64) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// With a [rate](Self::rate): after so many requests a pause, then after so many more the next
    /// one, and so on from the first again.
    pub fn pauses(mut self, pauses: impl IntoIterator<Item = (u64, Duration)>) -> Self {
        self.pauses = pauses.into_iter().collect();
        self
    }

    /// With a [rate](Self::rate): clients are made as requests need them, and the one that was free
    /// last goes first. Otherwise all are there from the start and take turns.
    pub fn on_demand(mut self) -> Self {
        self.on_demand = true;
        self
    }

    /// HTTP/2 and gRPC: the clients share so many connections, as the callers in one process do.
    /// Without, each has its own.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = Some(connections.max(1));
        self
    }

    /// A connection that is refused, or closed before anything of its first request was written, is
    /// replaced for so long, and counted; nothing was sent by then. So is one whose GOAWAY leaves out
    /// HTTP/2 requests, which the server has not processed then. Without, it is a failure.
    pub fn connect_patience(mut self, patience: Duration) -> Self {
        self.connect_patience = patience;
        self
    }

    /// Ends after so many requests.
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = Some(requests);
        self
    }

    /// Ends after this time; exchanges in flight are finished.
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = Some(duration);
        self
    }

    /// What one exchange may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// One more kind of request; kinds take turns.
    pub fn shot(mut self, shot: Shot) -> Self {
        self.mix.push(shot);
        self
    }

    /// Sends each request's number in this header too, as the key of a sticky split.
    pub fn number_in(mut self, header: HeaderName) -> Self {
        self.id_header = Some((header, String::new()));
        self
    }

    /// Sends each request's number in this cookie too.
    pub fn number_in_cookie(mut self, name: &str) -> Self {
        self.id_header = Some((http::header::COOKIE, format!("{name}=")));
        self
    }

    /// What ids begin with, where several loads go to one server.
    pub fn id_prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.id_prefix);
        self
    }

    /// Starts it in `pod`.
    pub fn start(mut self, pod: &Pod) -> Running {
        if self.mix.is_empty() {
            self.mix.push(Shot::get("/"));
        }
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            let route = pod.route(self.to).map_err(|error| error.to_string());
            pod.spawn_runtime(move || client::run(self, route, shared))
        };
        Running {
            shared,
            thread: Some(thread),
        }
    }

    /// Runs it in `pod` to its end, which [`Self::requests`] or [`Self::duration`] must set.
    pub async fn run(self, pod: &Pod) -> Report {
        assert!(
            self.requests.is_some() || self.duration.is_some(),
            "a load that runs to its end needs one"
        );
        self.start(pod).ended().await
    }
}

/// What the load's thread and its owner share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    report: Mutex<Report>,
}

/// A load that runs. Stops when dropped.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// What has come of it so far.
    pub fn snapshot(&self) -> Report {
        self.shared.report.lock().clone()
    }

    /// Looks at what has come of it so far, without a copy. Keep it short: the load waits.
    pub fn look<T>(&self, look: impl FnOnce(&Report) -> T) -> T {
        look(&self.shared.report.lock())
    }

    /// Takes what has come of it since the last time, for live tables.
    pub fn take(&self) -> Report {
        std::mem::take(&mut *self.shared.report.lock())
    }

    /// Sends nothing more, and waits for what is in flight.
    pub async fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.ended().await
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Report {
        if let Some(thread) = self.thread.take() {
            tokio::task::spawn_blocking(move || thread.join())
                .await
                .expect("joining does not panic")
                .expect("the load's thread does not panic");
        }
        std::mem::take(&mut self.shared.report.lock())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
