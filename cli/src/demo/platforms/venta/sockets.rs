//! WebSockets: the stand-in of the real-time service, and clients that keep one open each.
//!
//! The server says something ten times a second, in text frames (RFC 6455, section 5). A client that
//! loses its connection connects again, and what it has lived through is kept: [`Seen`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use weft_sandbox::Pod;

use super::PORT;

/// Between two frames.
const TICK: Duration = Duration::from_millis(100);
/// Between a lost connection and the next one.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a frame may take before its connection counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest line of a head, and most lines of one.
const MAX_LINE: u64 = 8 * 1024;
const MAX_LINES: usize = 100;
/// A whole text frame, unmasked.
const TEXT: u8 = 0x81;
/// Payloads up to here have their length in one byte.
const MAX_SHORT: usize = 125;
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const UPGRADE: &str = "GET /live HTTP/1.1\r\nhost: real-time\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One pod's application: what its WebSockets say is the pod's name. Ends when dropped.
#[derive(Debug)]
pub(super) struct Server(JoinHandle<()>);

impl Server {
    /// Listens in the pod.
    ///
    /// # Errors
    /// Where its port is taken.
    pub(super) fn start(pod: &Pod) -> io::Result<Self> {
        let listener = pod.listen((pod.v4(), PORT).into())?;
        Ok(Self(tokio::spawn(accept(listener, pod.name().to_owned()))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One connection of a client.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Who answered.
    pub(super) pod: String,
    /// Frames that came.
    pub(super) frames: u64,
    /// The longest time between two of them.
    pub(super) longest_gap: Duration,
    /// When the last one came.
    pub(super) last: Instant,
    /// Whether it has ended.
    pub(super) ended: bool,
}

/// A client that keeps one WebSocket open. Ends when dropped.
#[derive(Debug)]
pub(super) struct Client {
    /// Its connections, the oldest first; few, because each needs a server's end.
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Client {
    /// Connects out of the pod.
    pub(super) fn start(pod: &Pod, to: SocketAddr) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (pod, kept) = (pod.clone(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                let count = kept.lock().len();
                // Its words do not matter: that it has ended is what is looked at.
                let _ = listen(&pod, to, &kept).await;
                if let Some(last) = kept.lock().get_mut(count) {
                    last.ended = true;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { seen, task }
    }

    /// What it has lived through.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// Who answers it now; nobody where it has no connection.
    pub(super) fn now(&self) -> Option<String> {
        let seen = self.seen.lock();
        let last = seen.last().filter(|last| !last.ended)?;
        Some(last.pod.clone())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, name: String) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let name = name.clone();
                tasks.spawn(async move {
                    // It ends when the client does.
                    let _ = serve(stream, &name).await;
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, name: &str) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    read_head(&mut stream).await?;
    stream.write_all(UPGRADED.as_bytes()).await?;
    anyhow::ensure!(name.len() <= MAX_SHORT, "a long name: {name}");
    let frame = [&[TEXT, name.len() as u8], name.as_bytes()].concat();
    loop {
        stream.write_all(&frame).await?;
        tokio::time::sleep(TICK).await;
    }
}

async fn listen(pod: &Pod, to: SocketAddr, seen: &Mutex<Vec<Seen>>) -> anyhow::Result<()> {
    let stream = within(async { Ok(pod.connect(to).await?) }).await?;
    let mut stream = BufReader::new(stream);
    stream.write_all(UPGRADE.as_bytes()).await?;
    let status = within(read_head(&mut stream)).await?;
    anyhow::ensure!(status.contains(" 101 "), "no WebSocket: {status}");
    let first = within(read_frame(&mut stream)).await?;
    let index = {
        let mut seen = seen.lock();
        seen.push(Seen {
            pod: first,
            frames: 1,
            longest_gap: Duration::ZERO,
            last: Instant::now(),
            ended: false,
        });
        seen.len() - 1
    };
    loop {
        within(read_frame(&mut stream)).await?;
        let now = Instant::now();
        let seen = &mut seen.lock()[index];
        seen.frames += 1;
        seen.longest_gap = seen.longest_gap.max(now - seen.last);
        seen.last = now;
    }
}

/// The first line of a head that is read to its end.
async fn read_head(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut first = None;
    for _ in 0..MAX_LINES {
        let mut line = String::new();
        let mut limited = (&mut *stream).take(MAX_LINE);
        let length = limited.read_line(&mut line).await?;
        anyhow::ensure!(length > 0, "the connection was closed");
        if line.trim_end().is_empty() {
            return first.context("an empty head");
        }
        first.get_or_insert(line);
    }
    anyhow::bail!("a head of more than {MAX_LINES} lines")
}

async fn read_frame(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let [kind, length] = head;
    let is_short = kind == TEXT && usize::from(length) <= MAX_SHORT;
    anyhow::ensure!(is_short, "not what the stand-in says: {head:?}");
    let mut payload = vec![0; usize::from(length)];
    stream.read_exact(&mut payload).await?;
    Ok(String::from_utf8_lossy(&payload).into_owned())
}

async fn within<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.with_context(|| format!("not within {PATIENCE:?}"))?
}
