//! Crowds: thousands of idle connections, half heads, readers and writers that hardly move, and new
//! connections for longer than there are source ports. Memory is the sidecars' own, and somebody else
//! is served all the time. Counts are the servers'.

mod heads;
mod idle;
mod ports;
mod readers;
mod server;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use http::{Method, StatusCode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_sandbox::client::Answer;
use weft_sandbox::{Mesh, Pod};

use crate::Suite;
use crate::common::{metrics, request, send};

/// The workloads whose sidecars are looked at.
const WORKLOADS: [&str; 2] = ["client", "server-1"];
/// Connections of a crowd that are being opened at a time.
const AT_ONCE: usize = 64;
/// What a single step of one of a crowd may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often somebody else asks.
const BYSTANDER_PAUSE: Duration = Duration::from_millis(20);
/// What a crowd may cost somebody else, beside [`SLOWER`]: the machine has other things to do.
const SLACK: Duration = Duration::from_secs(2);
/// By how much a crowd may slow somebody else down.
const SLOWER: u32 = 10;
const KIB: f64 = 1024.0;

pub(crate) fn register(suite: &mut Suite) {
    idle::register(suite);
    heads::register(suite);
    readers::register(suite);
    ports::register(suite);
}

/// Lets this process, and the ones that it starts from now on, have so many descriptors.
fn need_descriptors(wanted: u64) -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    // Raising the hard limit too is for root alone.
    let more = Rlimit {
        current: Some(wanted),
        maximum: maximum.map(|maximum| maximum.max(wanted)),
    };
    setrlimit(Resource::Nofile, more)
        .with_context(|| format!("{wanted} open files are needed, the limit is {maximum:?}"))
}

/// Bytes that the sidecars of two workloads have in memory.
pub(crate) async fn memory(mesh: &Mesh, workloads: [&str; 2]) -> anyhow::Result<[f64; 2]> {
    let mut all = [0.0; 2];
    for (bytes, workload) in all.iter_mut().zip(workloads) {
        *bytes = metrics(mesh, workload)
            .await?
            .sum("process_resident_memory_bytes", &[]);
        anyhow::ensure!(*bytes > 0.0, "no resident memory of {workload}");
    }
    Ok(all)
}

/// What each of `number` cost the sidecars, in KiB.
fn each(number: usize, before: [f64; 2], after: [f64; 2]) -> Each {
    let [client, server] = [0, 1].map(|i| (after[i] - before[i]) / number as f64 / KIB);
    Each { client, server }
}

/// KiB of one of a crowd.
#[derive(Clone, Copy, Debug)]
struct Each {
    client: f64,
    server: f64,
}

impl Each {
    /// No sidecar may have grown by more.
    #[track_caller]
    fn assert_at_most(self, what: &str, client: f64, server: f64) {
        assert!(
            self.client <= client && self.server <= server,
            "{what}: {self} each, at most {client} and {server} were expected"
        );
    }
}

impl fmt::Display for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, server } = self;
        write!(
            f,
            "{client:.1} KiB at the client's sidecar, {server:.1} KiB at the server's"
        )
    }
}

/// Makes so many, several at a time.
async fn many<T, F>(number: usize, make: impl Fn(usize) -> F) -> anyhow::Result<Vec<T>>
where
    F: Future<Output = anyhow::Result<T>>,
{
    stream::iter(0..number)
        .map(|index| {
            let made = make(index);
            async move {
                let made = tokio::time::timeout(PATIENCE, made).await;
                made.unwrap_or_else(|_| Err(anyhow::anyhow!("not within {PATIENCE:?}")))
                    .with_context(|| format!("number {index}"))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// One request without a body on an HTTP/1 connection, which stays open. Answers with the body.
async fn exchange(stream: &mut TcpStream, path: &str) -> anyhow::Result<Vec<u8>> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: api\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let (status, mut body, length) = answer_head(stream).await?;
    anyhow::ensure!(status == StatusCode::OK, "{path}: {status}");
    let have = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[have..]).await?;
    Ok(body)
}

/// Reads an HTTP/1 answer's head: status, what of its body came with it, and the body's length.
async fn answer_head(stream: &mut TcpStream) -> anyhow::Result<(StatusCode, Vec<u8>, usize)> {
    const END: &[u8] = b"\r\n\r\n";
    let mut heard = Vec::new();
    let end = loop {
        if let Some(end) = heard.windows(END.len()).position(|four| four == END) {
            break end + END.len();
        }
        anyhow::ensure!(
            stream.read_buf(&mut heard).await? > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&heard)
        );
    };
    let body = heard.split_off(end);
    let head = String::from_utf8(heard)?.to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .with_context(|| format!("no length in {head}"))?;
    Ok((status, body, length.trim().parse()?))
}

/// Somebody else, who asks once in a while, on a connection of its own each time and on a thread that
/// the crowd is not on.
struct Bystander {
    ends: Arc<AtomicBool>,
    asking: JoinHandle<anyhow::Result<Asked>>,
}

/// What somebody else saw.
#[derive(Debug)]
struct Asked {
    times: Vec<Duration>,
}

impl Bystander {
    /// Asks for `/bystander/NAME` from `pod` until it is ended.
    fn start(pod: &Pod, to: SocketAddr, name: &'static str) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (pod_too, told) = (pod.clone(), Arc::clone(&ends));
        let asking = pod.spawn_runtime(move || async move {
            let mut times = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let id = format!("{name}-{}", times.len());
                let begin = Instant::now();
                let target = format!("/bystander/{name}");
                let asked = request(Method::GET, &target, &id, "");
                let answer: Answer = send(&pod_too, to, asked).await?;
                times.push(begin.elapsed());
                anyhow::ensure!(answer.status == StatusCode::OK, "{id}: {}", answer.text());
                tokio::time::sleep(BYSTANDER_PAUSE).await;
            }
            times.sort_unstable();
            Ok(Asked { times })
        });
        Self { ends, asking }
    }

    /// What it is without a crowd.
    async fn baseline(pod: &Pod, to: SocketAddr) -> anyhow::Result<Asked> {
        let alone = Self::start(pod, to, "alone");
        tokio::time::sleep(Duration::from_secs(2)).await;
        alone.end().await
    }

    /// What it saw; an error where one request was not served.
    async fn end(self) -> anyhow::Result<Asked> {
        self.ends.store(true, Ordering::Relaxed);
        let joined = tokio::task::spawn_blocking(move || self.asking.join());
        let joined = joined.await?;
        joined.unwrap_or_else(|_| Err(anyhow::anyhow!("the bystander panicked")))
    }
}

impl Asked {
    fn p99(&self) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get(last * 99 / 100).copied().unwrap_or_default()
    }

    /// The crowd was hardly felt.
    #[track_caller]
    fn assert_like(&self, alone: &Self) {
        let (with, without) = (self.p99(), alone.p99());
        assert!(self.times.len() >= 5, "{} requests", self.times.len());
        assert!(
            with <= without * SLOWER + SLACK,
            "p99 of others is {with:?}, {without:?} without the crowd"
        );
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, p99 {:.1?}", self.times.len(), self.p99())
    }
}

/// Connections in the network namespace of a pod, in one state.
async fn sockets(pod: &Pod, state: &'static str) -> anyhow::Result<Vec<Socket>> {
    let pod = pod.clone();
    let read = move || -> std::io::Result<String> {
        Ok(std::fs::read_to_string("/proc/thread-self/net/tcp")?
            + &std::fs::read_to_string("/proc/thread-self/net/tcp6")?)
    };
    let text = tokio::task::spawn_blocking(move || pod.run(read)).await??;
    let parsed = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next()?, words.next()?);
        (words.next()? == state).then_some(())?;
        Some(Socket {
            local: local.split_once(':')?.0.to_owned(),
            local_port: u16::from_str_radix(local.split_once(':')?.1, 16).ok()?,
            remote_port: u16::from_str_radix(remote.split_once(':')?.1, 16).ok()?,
        })
    });
    Ok(parsed.collect())
}

/// One end of a connection, as the kernel lists it.
#[derive(Clone, Debug)]
struct Socket {
    /// In the kernel's hexadecimal.
    local: String,
    local_port: u16,
    remote_port: u16,
}

/// `TIME_WAIT`, in the kernel's list.
const TIME_WAIT: &str = "06";

/// Different local ports towards `remote_port`, by local address.
fn ports_of<'a>(sockets: &'a [Socket], local: &str, remote_port: u16) -> BTreeSet<&'a u16> {
    let of = |socket: &&Socket| socket.local == local && socket.remote_port == remote_port;
    let found = sockets.iter().filter(of);
    found.map(|socket| &socket.local_port).collect()
}
