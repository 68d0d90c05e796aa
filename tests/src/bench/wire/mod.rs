//! Clients and servers that cost as little as they can: what is said was made before, and of what is heard
//! no more is looked at than tells a good answer from another.
//!
//! * `http1`: requests, byte by byte.
//! * `http2`: requests and unary calls, frame by frame.
//! * `tcp`: bytes, and connections that are soon over.
//! * `idle`: connections that are held.
//! * `alarm`: when something is due.
//!
//! Every client of HTTP has a connection of its own with one request under way, as that many processes
//! have. A latency is counted from when a request was due, not from when there was time to send it.

mod alarm;
mod http1;
mod http2;
mod idle;
mod tcp;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::protocol::Protocol;

use alarm::Alarm;

pub(super) use http1::serve as serve_http1;
pub(super) use http2::serve as serve_http2;
pub(super) use idle::Held;
pub(super) use tcp::serve as serve_tcp;

/// The longest latency that is told apart.
const MAX_MICROS: u64 = 60_000_000;
/// The bodies that servers know, in bytes: which of them is asked for is the last of a path.
const SIZES: [usize; 2] = [1 << 10, 64 << 10];
/// One try of the first exchange, and the time between two.
const FIRST_TRY: Duration = Duration::from_secs(1);
const FIRST_GAP: Duration = Duration::from_millis(50);
/// A request of a rate that is sent so much after it is due is late. The client does nothing that takes as
/// long: another program has its core, or a hypervisor has, or its sidecar does not leave it.
const LATE: Duration = Duration::from_millis(1);
/// How much longer than its time a load may take to come to its end.
const OVERTIME: Duration = Duration::from_secs(20);
/// How many connections of all may fail.
const MOST_FAILED: f64 = 0.01;

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// Requests.
    Requests(Shape),
    /// Bytes on one connection.
    Stream(Direction),
    /// So many at a time of: connect, 1 KiB there and back, close.
    Connections(usize),
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// HTTP of either version, or gRPC, whose calls send as much as they get.
    pub(super) protocol: Protocol,
    /// Connections, each with one request under way.
    pub(super) connections: usize,
    /// Bytes of an answer's body: one of [`SIZES`].
    pub(super) size: usize,
    /// Requests per second; as many as there can be without.
    pub(super) rate: Option<u32>,
}

/// Where bytes go, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

impl Load {
    pub(super) fn protocol(self) -> Protocol {
        match self {
            Self::Requests(shape) => shape.protocol,
            Self::Stream(_) | Self::Connections(_) => Protocol::Tcp,
        }
    }
}

/// What came of a load.
pub(super) struct Measured {
    /// Requests, bytes or connections.
    pub(super) done: u64,
    pub(super) seconds: f64,
    /// Of a request or a connection, in microseconds.
    pub(super) latency: Histogram<u64>,
    /// Connections that did not do what they were made for; in [`Self::done`] are only those that did.
    pub(super) failed: u64,
    /// Requests of a rate that were sent [`LATE`].
    pub(super) late: u64,
}

/// When what is done counts, and the count.
#[derive(Clone)]
struct Counter {
    begin: Instant,
    end: Instant,
    latency: Rc<RefCell<Histogram<u64>>>,
    failures: Rc<RefCell<Failures>>,
    late: Rc<Cell<u64>>,
}

/// What went wrong and may, now and then.
#[derive(Default)]
struct Failures {
    count: u64,
    /// The first.
    cause: Option<anyhow::Error>,
}

impl Counter {
    /// Whether `now` is in the time that counts; a latency since `due` if so.
    fn record(&self, due: Instant, now: Instant) -> anyhow::Result<bool> {
        let counts = self.counts(now);
        if counts {
            let micros = (now - due).as_micros() as u64;
            let mut latency = self.latency.borrow_mut();
            latency.record(micros.min(MAX_MICROS))?;
        }
        Ok(counts)
    }

    /// A failure, if `now` is in the time that counts.
    fn fail(&self, now: Instant, error: anyhow::Error) {
        if self.counts(now) {
            let mut failures = self.failures.borrow_mut();
            failures.count += 1;
            failures.cause.get_or_insert(error);
        }
    }

    /// A request that is sent [`LATE`].
    fn late(&self, now: Instant) {
        if self.counts(now) {
            self.late.set(self.late.get() + 1);
        }
    }

    fn counts(&self, now: Instant) -> bool {
        now >= self.begin && now < self.end
    }
}

/// Loads `to` for `warm` and then for `time`, which counts. At the begin and at the end of that, `mark`.
pub(super) async fn load(
    to: SocketAddr,
    load: Load,
    warm: Duration,
    time: Duration,
    mark: impl Fn(),
) -> anyhow::Result<Measured> {
    // Opened before the clock starts: a crowd of handshakes is not what is warmed up.
    let mut ready = Vec::new();
    if let Load::Requests(shape) = load {
        for _ in 0..shape.connections {
            ready.push(Client::new(to, shape).await?);
        }
    }
    let begin = Instant::now() + warm;
    let counter = Counter {
        begin,
        end: begin + time,
        latency: Rc::new(RefCell::new(Histogram::new_with_max(MAX_MICROS, 3)?)),
        failures: Rc::default(),
        late: Rc::default(),
    };
    let mut clients = JoinSet::new();
    match load {
        Load::Requests(shape) => {
            for (number, client) in ready.into_iter().enumerate() {
                let pace = shape.pace(number);
                clients.spawn_local(client.run(pace, counter.clone()));
            }
        }
        Load::Stream(direction) => {
            clients.spawn_local(tcp::stream(to, direction, counter.clone()));
        }
        Load::Connections(at_once) => {
            for _ in 0..at_once {
                clients.spawn_local(tcp::connections(to, counter.clone()));
            }
        }
    }
    sleep_until(counter.begin).await;
    let begun = Instant::now();
    mark();
    sleep_until(counter.end).await;
    mark();
    let seconds = begun.elapsed().as_secs_f64();
    let mut done = 0;
    let ending = async {
        while let Some(client) = clients.join_next().await {
            done += client??;
        }
        anyhow::Ok(())
    };
    let ended = timeout_at(counter.end + OVERTIME, ending).await;
    ended.with_context(|| format!("not over {OVERTIME:?} after its end"))??;
    let Failures {
        count: failed,
        cause,
    } = counter.failures.take();
    if let Some(cause) = cause
        && failed as f64 > MOST_FAILED * (done + failed) as f64
    {
        return Err(cause.context(format!("{failed} of {} failed; the first", done + failed)));
    }
    anyhow::ensure!(done > 0, "nothing came to its end");
    let latency = counter.latency.borrow().clone();
    Ok(Measured {
        done,
        seconds,
        latency,
        failed,
        late: counter.late.get(),
    })
}

/// Asks until there is an answer as it should be.
pub(super) async fn until_answered(
    to: SocketAddr,
    protocol: Protocol,
    patience: Duration,
) -> anyhow::Result<()> {
    let until = Instant::now() + patience;
    loop {
        let asking = timeout(FIRST_TRY, first(to, protocol)).await;
        match asking.unwrap_or_else(|_| Err(anyhow::anyhow!("nothing within {FIRST_TRY:?}"))) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error.context("the first answer")),
            Err(_) => sleep(FIRST_GAP).await,
        }
    }
}

async fn first(to: SocketAddr, protocol: Protocol) -> anyhow::Result<()> {
    if protocol == Protocol::Tcp {
        return tcp::echo(to).await;
    }
    let shape = Shape {
        protocol,
        connections: 1,
        size: SIZES[0],
        rate: None,
    };
    Client::new(to, shape).await?.exchange().await
}

async fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(to).await.context("connecting")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Between two requests of a connection, and how long after the others' begin its first is due.
#[derive(Clone, Copy)]
struct Pace {
    gap: Duration,
    first: Duration,
}

impl Shape {
    fn pace(self, number: usize) -> Option<Pace> {
        let gap = Duration::from_secs(1) / self.rate?;
        Some(Pace {
            gap: gap * self.connections as u32,
            first: gap * number as u32,
        })
    }

    /// Which of [`SIZES`] it is.
    fn which(self) -> anyhow::Result<usize> {
        let which = SIZES.iter().position(|size| *size == self.size);
        which.context("a size that the server does not know")
    }
}

/// A connection that asks.
enum Client {
    Http1(http1::Client),
    Http2(http2::Client),
}

impl Client {
    async fn new(to: SocketAddr, shape: Shape) -> anyhow::Result<Self> {
        Ok(match shape.protocol {
            Protocol::Http1 => Self::Http1(http1::Client::new(to, shape).await?),
            Protocol::Http2 | Protocol::Grpc => Self::Http2(http2::Client::new(to, shape).await?),
            Protocol::Tcp => anyhow::bail!("there are no requests in bytes"),
        })
    }

    async fn exchange(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Http1(client) => client.exchange().await,
            Self::Http2(client) => client.exchange().await,
        }
    }

    /// Asks until the end; how many answers count.
    async fn run(mut self, pace: Option<Pace>, counter: Counter) -> anyhow::Result<u64> {
        let alarm = Alarm::new()?;
        let mut due = Instant::now() + pace.map_or(Duration::ZERO, |pace| pace.first);
        let (mut counted, mut late) = (0, false);
        loop {
            if pace.is_some() {
                late = match alarm.at(due).await? {
                    Some(after) => after > LATE,
                    // The one before took so long, which is the peer's doing, unless it was late itself.
                    None => late && due.elapsed() > LATE,
                };
                if late {
                    counter.late(Instant::now());
                }
            } else {
                due = Instant::now();
            }
            self.exchange().await?;
            let now = Instant::now();
            counted += u64::from(counter.record(due, now)?);
            if let Some(pace) = pace {
                due += pace.gap;
            }
            if now >= counter.end {
                return Ok(counted);
            }
        }
    }
}
