//! The client and the server of plain HTTP/1.1: bytes made before, and as little as can be looked at.
//!
//! A latency is counted from when a request was due, not from when there was time to send it.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// What a head may have, at most.
const MAX_HEAD: usize = 8 * 1024;
const READ: usize = 64 * 1024;
/// The longest latency that is told apart.
const MAX_MICROS: u64 = 60_000_000;

/// The paths that the server knows: how many bytes each answers.
pub(super) const SIZES: [usize; 2] = [1 << 10, 64 << 10];

/// A load of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Connections, each with one request under way.
    pub(super) connections: usize,
    /// Bytes of an answer's body: one of [`SIZES`].
    pub(super) size: usize,
    /// Requests per second; as many as there can be without.
    pub(super) rate: Option<u32>,
}

/// What came of a load.
pub(super) struct Measured {
    pub(super) requests: u64,
    pub(super) seconds: f64,
    /// In microseconds.
    pub(super) latency: Histogram<u64>,
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener) {
    let answers: Rc<Vec<Vec<u8>>> = Rc::new(SIZES.iter().map(|size| answer(*size)).collect());
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let answers = Rc::clone(&answers);
        connections.spawn_local(async move {
            // The client tells what went wrong.
            let _ = answer_each(stream, &answers).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(size: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {size}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + size, b'x');
    answer
}

async fn answer_each(mut stream: TcpStream, answers: &[Vec<u8>]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(MAX_HEAD);
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        // "GET /0", "GET /1"
        let which = usize::from(head[5].wrapping_sub(b'0'));
        let answer = answers.get(which).ok_or(io::ErrorKind::InvalidData)?;
        stream.write_all(answer).await?;
    }
}

/// Loads `to` for `warm` and then for `time`, which counts. At the begin and at the end of that, `mark`.
pub(super) async fn load(
    to: SocketAddr,
    shape: Shape,
    warm: Duration,
    time: Duration,
    mark: impl Fn(),
) -> anyhow::Result<Measured> {
    let latency = Rc::new(RefCell::new(Histogram::new_with_max(MAX_MICROS, 3)?));
    let begin = Instant::now() + warm;
    let end = begin + time;
    let mut clients = JoinSet::new();
    for number in 0..shape.connections {
        let latency = Rc::clone(&latency);
        let client = Client::new(to, shape, number).await?;
        clients.spawn_local(client.run(begin, end, latency));
    }
    sleep_until(begin).await;
    let begun = Instant::now();
    mark();
    sleep_until(end).await;
    mark();
    let seconds = begun.elapsed().as_secs_f64();
    let mut requests = 0;
    while let Some(done) = clients.join_next().await {
        requests += done??;
    }
    anyhow::ensure!(requests > 0, "no request came to its end");
    let latency = latency.borrow().clone();
    Ok(Measured {
        requests,
        seconds,
        latency,
    })
}

/// Asks until there is an answer as it should be.
pub(super) async fn until_answered(to: SocketAddr, patience: Duration) -> anyhow::Result<()> {
    let shape = Shape {
        connections: 1,
        size: SIZES[0],
        rate: None,
    };
    let until = Instant::now() + patience;
    loop {
        let asking = async { Client::new(to, shape, 0).await?.exchange().await };
        let asking = timeout(Duration::from_secs(1), asking).await;
        match asking.unwrap_or_else(|_| Err(anyhow::anyhow!("nothing within a second"))) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error.context("the first answer")),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    size: usize,
    /// Between two requests of this connection, and how long after the others' begin its first is due.
    pace: Option<(Duration, Duration)>,
    buffer: Vec<u8>,
}

impl Client {
    async fn new(to: SocketAddr, shape: Shape, number: usize) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let which = SIZES.iter().position(|size| *size == shape.size);
        let which = which.context("a size that the server does not know")?;
        let request = format!(
            "GET /{which} HTTP/1.1\r\nhost: {to}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n"
        );
        let pace = shape.rate.map(|rate| {
            let gap = Duration::from_secs(1) / rate;
            (gap * shape.connections as u32, gap * number as u32)
        });
        Ok(Self {
            stream,
            request: request.into_bytes(),
            size: shape.size,
            pace,
            buffer: vec![0; READ],
        })
    }

    /// Asks until `end`; how many were answered after `begin`.
    async fn run(
        mut self,
        begin: Instant,
        end: Instant,
        latency: Rc<RefCell<Histogram<u64>>>,
    ) -> anyhow::Result<u64> {
        let mut due = Instant::now() + self.pace.map_or(Duration::ZERO, |(_, first)| first);
        let mut counted = 0;
        loop {
            if self.pace.is_some() {
                sleep_until(due).await;
            } else {
                due = Instant::now();
            }
            self.exchange().await?;
            let now = Instant::now();
            if now >= begin && now < end {
                counted += 1;
                let micros = (now - due).as_micros() as u64;
                latency.borrow_mut().record(micros.min(MAX_MICROS))?;
            }
            if let Some((gap, _)) = self.pace {
                due += gap;
            }
            if Instant::now() >= end {
                return Ok(counted);
            }
        }
    }

    async fn exchange(&mut self) -> anyhow::Result<()> {
        self.stream
            .write_all(&self.request)
            .await
            .context("sending")?;
        let mut filled = 0;
        let body = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            anyhow::ensure!(read > 0, "the connection ended within an answer");
            filled += read;
            let known = &self.buffer[..filled];
            if let Some(at) = known.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            anyhow::ensure!(filled < MAX_HEAD, "an answer without an end of its head");
        };
        anyhow::ensure!(
            self.buffer.starts_with(b"HTTP/1.1 200 "),
            "not answered well: {}",
            String::from_utf8_lossy(&self.buffer[..filled.min(300)])
        );
        let mut left = (self.size + body)
            .checked_sub(filled)
            .context("more than was asked for")?;
        while left > 0 {
            let read = self.stream.read(&mut self.buffer[..]).await?;
            anyhow::ensure!(read > 0, "the connection ended within a body");
            left = left.checked_sub(read).context("more than was asked for")?;
        }
        Ok(())
    }
}
