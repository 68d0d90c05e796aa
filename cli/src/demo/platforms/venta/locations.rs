//! The stand-in of the location service: what it answers with stands in Redis.
//!
//! It runs in this program and listens in its pod. Its client of Redis is the guide's: one connection, and
//! a command that fails is tried up to three more times, over a new connection each; then everything that
//! waits fails, with 503. Without a Redis it answers from memory.
//!
//! Who leaves before the answer is there is noticed, and no longer counted as waiting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use weft_sandbox::Pod;
use weft_sandbox::app::SERVED_BY;
use weft_sandbox::programs::redis::{Connection, Reply};

use super::PORT;

/// Longest line of a request's head, in bytes.
const MAX_LINE: u64 = 8 * 1024;
/// Commands that wait for Redis; further ones fail.
const MAX_WAITING: usize = 1_000;
/// The guide's `maxRetriesPerRequest`.
const RETRIES: u32 = 3;
/// Between two tries to connect: so much longer each time, as the guide's client does without being told.
const RECONNECT: Duration = Duration::from_millis(50);
/// The path of what it is asked for, before the key.
const PATH: &str = "/locations/";
const HEALTH: &str = "/health";

/// One pod's application. Ends when dropped.
#[derive(Debug)]
pub(super) struct Locations {
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    name: String,
    latency_ms: AtomicU64,
    requests: AtomicU64,
    crowd: Arc<Crowd>,
}

/// Requests that wait for an answer, in all pods together.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    now: AtomicU64,
    most: AtomicU64,
}

impl Crowd {
    /// The most that waited at once since [`Self::forget`].
    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Counts anew.
    pub(super) fn forget(&self) {
        self.most.store(0, Ordering::Relaxed);
    }
}

/// How its client treats Redis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// The guide's `maxRetryTime`: for a connection, and for an answer.
    pub(super) most: Duration,
    /// What the client's own pauses are divided by.
    pub(super) factor: u32,
}

impl Locations {
    /// Listens in the pod, with the Redis at `redis` where there is one.
    ///
    /// # Errors
    /// Where its port is taken.
    pub(super) fn start(
        pod: &Pod,
        redis: Option<SocketAddr>,
        patience: Patience,
        crowd: &Arc<Crowd>,
    ) -> io::Result<Self> {
        let listener = pod.listen((pod.v4(), PORT).into())?;
        let state = Arc::new(State {
            name: pod.name().to_owned(),
            crowd: Arc::clone(crowd),
            ..State::default()
        });
        let cache = redis.map(|to| {
            let (asks, waiting) = mpsc::channel(MAX_WAITING);
            (asks, keep(pod.clone(), to, patience, waiting))
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state), cache));
        Ok(Self { state, task })
    }

    /// How long each answer takes from now on.
    pub(super) fn set_latency(&self, latency: Duration) {
        let millis = latency.as_millis() as u64;
        self.state.latency_ms.store(millis, Ordering::Relaxed);
    }

    /// Counts anew.
    pub(super) fn forget(&self) {
        self.state.requests.store(0, Ordering::Relaxed);
    }

    /// Requests that have come.
    pub(super) fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Locations {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request that is being worked on.
struct Waiting<'a>(&'a Crowd);

impl<'a> Waiting<'a> {
    fn new(state: &'a State) -> Self {
        state.requests.fetch_add(1, Ordering::Relaxed);
        let crowd = &*state.crowd;
        let now = crowd.now.fetch_add(1, Ordering::Relaxed) + 1;
        crowd.most.fetch_max(now, Ordering::Relaxed);
        Self(crowd)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A key, and where its value is to go; nothing where Redis could not be asked.
type Ask = (String, oneshot::Sender<Option<Reply>>);

async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    cache: Option<(mpsc::Sender<Ask>, impl Future<Output = ()> + Send + 'static)>,
) {
    // They end with this task.
    let mut tasks = JoinSet::new();
    let asks = cache.map(|(asks, keep)| {
        tasks.spawn(keep);
        asks
    });
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (state, asks) = (Arc::clone(&state), asks.clone());
                tasks.spawn(async move {
                    // Who goes away while it is served is no longer interested.
                    let _ = serve(stream, &state, asks.as_ref()).await;
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn serve(
    stream: TcpStream,
    state: &State,
    asks: Option<&mpsc::Sender<Ask>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(path) = read_head(&mut stream).await? {
        let (status, body) = if path == HEALTH {
            ("200 OK", "ok".to_owned())
        } else {
            let _waiting = Waiting::new(state);
            let latency = Duration::from_millis(state.latency_ms.load(Ordering::Relaxed));
            if !latency.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(latency) => {}
                    more = stream.fill_buf() => {
                        if more?.is_empty() {
                            return Ok(());
                        }
                    }
                }
            }
            answer(&path, asks).await
        };
        let name = &state.name;
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\n{SERVED_BY}: {name}\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + &body).as_bytes()).await?;
    }
    Ok(())
}

async fn answer(path: &str, asks: Option<&mpsc::Sender<Ask>>) -> (&'static str, String) {
    let Some(key) = path.strip_prefix(PATH) else {
        return ("404 Not Found", String::new());
    };
    let Some(asks) = asks else {
        return ("200 OK", "from memory".to_owned());
    };
    let (to, value) = oneshot::channel();
    let sent = asks.try_send((format!("location:{key}"), to)).is_ok();
    match value.await {
        Ok(Some(Reply::Value(value))) if sent => ("200 OK", value),
        Ok(Some(_)) => ("404 Not Found", String::new()),
        _ => ("503 Service Unavailable", "no Redis".to_owned()),
    }
}

/// A request's path; nothing at the connection's end. Bodies are not expected.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut path = None;
    loop {
        let mut line = String::new();
        let mut limited = (&mut *stream).take(MAX_LINE);
        if limited.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(path);
        }
        path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
    }
}

/// The client of Redis: one connection for everything that is asked.
async fn keep(pod: Pod, to: SocketAddr, patience: Patience, mut asks: mpsc::Receiver<Ask>) {
    let mut connection = None;
    while let Some((key, answer)) = asks.recv().await {
        let value = ask(&pod, to, patience, &mut connection, &key).await;
        let failed = value.is_none();
        // Who asked may be gone.
        let _ = answer.send(value);
        if failed {
            while let Ok((_, answer)) = asks.try_recv() {
                let _ = answer.send(None);
            }
        }
    }
}

async fn ask(
    pod: &Pod,
    to: SocketAddr,
    patience: Patience,
    connection: &mut Option<Connection>,
    key: &str,
) -> Option<Reply> {
    for attempt in 0..=RETRIES {
        tokio::time::sleep(RECONNECT * attempt / patience.factor).await;
        if connection.is_none() {
            *connection = Connection::connect(pod, to, patience.most).await.ok();
        }
        let Some(open) = connection else { continue };
        match open.call(&["get", key]).await {
            Ok(reply) => return Some(reply),
            Err(_) => *connection = None,
        }
    }
    None
}
