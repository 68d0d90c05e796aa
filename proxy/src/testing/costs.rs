//! What one request, or one idle connection, costs a sidecar: a thread of its own for the sidecar, whose
//! allocations are counted, with its client and its server on the test's.
//!
//! What is counted is everything that the thread does: the sidecar's own code, hyper, TLS, the runtime.
//! System calls and instructions are counted from outside, by running a test once more under `strace` and
//! `valgrind`; the environment then says how many requests, and among how many other services.

mod grpc;
mod http1;

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use weft_counting::Tally;

use super::soon;

/// Bytes of a response's body.
const BODY: usize = 1_024;
/// Requests that go before the first that is counted: pools, buffers and maps have then grown.
const WARM_UP: usize = 200;
/// Requests that are counted, without [`REQUESTS`].
const COUNTED: usize = 1_000;
/// Connections that are held at a time, and how long until nothing is done for them any more.
const HELD: usize = 100;
const IDLE: Duration = Duration::from_millis(1_500);
/// Names how many requests are counted.
const REQUESTS: &str = "WEFT_COSTS_REQUESTS";
/// Names how many other services, or ports, the sidecar knows.
const OTHERS: &str = "WEFT_COSTS_OTHERS";
/// Reads, or writes, of a connection's handshake and end.
const FEW: usize = 16;
/// Calls that fit into what the HTTP/2 library reads at a time, 8 KiB: it reads the next one in two parts,
/// where it is not TLS that it reads from.
const CALLS_PER_BUFFER: usize = 7;
/// What the client's sidecar adds to what it sends on.
pub(crate) const SENT_ON: Headers<'static> = &[
    ("x-request-id", "0123456789abcdef0123456789abcdef"),
    ("x-weft-deadline-ms", "60000"),
];

/// Names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// What is asked again and again, over one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A request of HTTP/1.
    Plain,
    /// A unary call of gRPC.
    Call,
}

/// A client.
trait Ask {
    /// Asks once and reads the whole answer.
    async fn ask(&mut self);
}

/// A thread that runs a sidecar, for as long as the process lives.
pub(crate) struct Side<S> {
    pub(crate) sidecar: Arc<S>,
    /// Takes what the sidecar's listener would be given.
    address: SocketAddr,
    tally: Tally,
}

/// What a request cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Allocations, the mean of many requests.
    pub(crate) allocations: f64,
    /// All that were sent, those that warmed the sidecar up included.
    pub(crate) requests: usize,
}

impl<S: Send + Sync + 'static> Side<S> {
    /// Starts the sidecar that `make` makes, on a thread of this name; it does with each connection what
    /// `serve` says.
    pub(crate) async fn start<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        make: impl FnOnce() -> S + Send + 'static,
        serve: impl Fn(Arc<S>, TcpStream) -> F + Send + 'static,
    ) -> Self {
        let (told, started) = oneshot::channel();
        let run = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let sidecar = Arc::new(make());
            let side = Self {
                sidecar: Arc::clone(&sidecar),
                address: listener.local_addr().unwrap(),
                tally: Tally::here(),
            };
            assert!(told.send(side).is_ok(), "the test waits for it");
            while let Ok((accepted, _)) = listener.accept().await {
                accepted.set_nodelay(true).unwrap();
                tokio::spawn(serve(Arc::clone(&sidecar), accepted));
            }
        };
        let thread = thread::Builder::new().name(name.to_owned());
        let run = move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(run);
        };
        thread.spawn(run).unwrap();
        soon(started).await.unwrap()
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// What a request of this `kind` over `io` costs, which has `more` headers, once the sidecar is warm.
    pub(crate) async fn cost(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin,
        kind: Kind,
        more: Headers<'_>,
    ) -> Cost {
        match kind {
            Kind::Plain => self.cost_of(http1::Client::new(io, more)).await,
            Kind::Call => self.cost_of(grpc::Client::new(io, more).await).await,
        }
    }

    async fn cost_of(&self, mut client: impl Ask) -> Cost {
        let requests = asked(REQUESTS).unwrap_or(COUNTED);
        for _ in 0..WARM_UP {
            soon(client.ask()).await;
        }
        let before = self.settled().await;
        for _ in 0..requests {
            soon(client.ask()).await;
        }
        let allocations = self.settled().await - before;
        Cost {
            allocations: allocations as f64 / requests as f64,
            requests: WARM_UP + requests,
        }
    }

    /// Bytes of the heap that the sidecar keeps for each connection that was used once and is idle now.
    /// Opened one after the other; what the first ones cost besides is not counted.
    pub(crate) async fn idle_bytes(&self) -> f64 {
        let (mut held, mut kept) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            for _ in 0..HELD {
                let mut client = http1::Client::new(self.connect().await, &[]);
                soon(client.ask()).await;
                held.push(client);
            }
            tokio::time::sleep(IDLE).await;
            kept.push(self.tally.bytes());
        }
        (kept[1] - kept[0]) as f64 / HELD as f64
    }

    /// The count once nothing is done any more: a client has its answer before the sidecar is done with
    /// the request.
    async fn settled(&self) -> u64 {
        let mut last = self.tally.allocations();
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.tally.allocations();
            if now == last {
                return now;
            }
            last = now;
        }
    }
}

/// System calls that move bytes, of one thread.
#[derive(Clone, Copy, Debug)]
struct Calls {
    reads: usize,
    writes: usize,
}

impl Calls {
    /// Of the thread named `thread` while the test of this name runs once more, for so many requests and
    /// those that warm it up. `None` where there is no strace, or it may not trace, which is an error in CI.
    fn of(test: &str, thread: &str, requests: usize) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let traced = Command::new("strace")
            .args([
                "-ff",
                "-e",
                "trace=prctl,recvfrom,recvmsg,sendto,sendmsg,writev",
            ])
            .arg("-o")
            .arg(directory.path().join("thread"))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(REQUESTS, requests.to_string())
            .output();
        let traced = match traced {
            Ok(traced) if !said_by_strace(&traced) => traced,
            untraced => {
                assert!(std::env::var_os("CI").is_none(), "strace: {untraced:?}");
                println!("not counted, as strace cannot be run: {untraced:?}");
                return None;
            }
        };
        assert!(traced.status.success(), "{traced:?}");
        let name = format!("PR_SET_NAME, \"{thread}\"");
        let threads = std::fs::read_dir(directory.path()).unwrap();
        let of_thread = threads
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
            .find(|calls| calls.contains(&name));
        let calls = of_thread.expect("the sidecar's thread has this name");
        let count = |names: &[&str]| {
            let is_one = |line: &&str| names.iter().any(|name| line.starts_with(name));
            calls.lines().filter(is_one).count()
        };
        Some(Self {
            reads: count(&["recvfrom(", "recvmsg("]),
            writes: count(&["sendto(", "sendmsg(", "writev("]),
        })
    }
}

/// Answers every request of this kind on `io`.
pub(crate) async fn answer(io: impl AsyncRead + AsyncWrite + Unpin, kind: Kind) {
    match kind {
        Kind::Plain => http1::answer(io).await,
        Kind::Call => grpc::answer(io).await,
    }
}

/// Asserts that a request takes two reads and two writes of the thread named `thread`, while this test runs
/// once more: a read and a write of either connection. Nothing where they cannot be counted.
pub(crate) fn assert_two_reads_and_two_writes(test: &str, thread: &str, kind: Kind) {
    let Some(calls) = Calls::of(test, thread, COUNTED) else {
        return;
    };
    let requests = WARM_UP + COUNTED;
    println!("{test}: {calls:?} for {requests} requests");
    // A handshake and waking another thread are few, and once.
    let (least, few) = (2 * requests, 2 * FEW);
    assert!((least..least + few).contains(&calls.writes), "{calls:?}");
    let cut = match kind {
        Kind::Plain => 0,
        Kind::Call => requests / CALLS_PER_BUFFER,
    };
    assert!(
        (least..least + cut + few).contains(&calls.reads),
        "{calls:?}"
    );
}

/// Asserts that a request allocates nothing more where `cost` is told of more other services, or ports.
pub(crate) async fn assert_same_among_others(cost: impl AsyncFn(u16) -> Cost) {
    let alone = cost(0).await.allocations;
    for others in [9, 99, 999] {
        let among = cost(others).await.allocations;
        println!("among {others}: {among}");
        assert!(
            among <= 1.05 * alone,
            "{among} among {others}, {alone} alone"
        );
    }
}

/// Asserts that a request takes no more instructions in this test where [`others`] are more. Nothing where
/// they cannot be counted.
pub(crate) fn assert_same_instructions_among_others(test: &str) {
    let Some(alone) = instructions(test, 0) else {
        return;
    };
    println!("{test}: {alone:.0} instructions");
    let soak = std::env::var("WEFT_SOAK").is_ok_and(|value| value == "1");
    let others: &[u16] = if soak { &[9, 99, 999] } else { &[999] };
    for others in others {
        let among = instructions(test, *others).expect("it has just been run");
        println!("among {others}: {among:.0}");
        assert!(
            among <= 1.05 * alone,
            "{among} among {others}, {alone} alone"
        );
    }
}

/// The mean of the instructions, without the kernel's, that a request takes the sidecar's thread of this
/// test, which [`others`] tells of how many other services. `None` where there is no valgrind, which is an
/// error in CI.
///
/// Two runs that differ in nothing but the number of requests: what comes once goes out.
fn instructions(test: &str, others: u16) -> Option<f64> {
    const FEW: u64 = 20;
    const MANY: u64 = 220;
    let few = instructions_of(test, others, FEW)?;
    let many = instructions_of(test, others, MANY)?;
    Some((many - few) as f64 / (MANY - FEW) as f64)
}

/// How many other services, or ports, the sidecar is to know.
pub(crate) fn others() -> u16 {
    asked(OTHERS).unwrap_or(0)
}

/// Threads of a test that is run alone: the program's own, the test's, and then the sidecar's.
const THREADS: usize = 3;

fn instructions_of(test: &str, others: u16, requests: u64) -> Option<i64> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("thread");
    let counted = Command::new("valgrind")
        .args(["--tool=callgrind", "--separate-threads=yes"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(REQUESTS, requests.to_string())
        .env(OTHERS, others.to_string())
        .output();
    let counted = match counted {
        Ok(counted) => counted,
        absent => {
            assert!(std::env::var_os("CI").is_none(), "valgrind: {absent:?}");
            println!("not counted, as valgrind cannot be run: {absent:?}");
            return None;
        }
    };
    assert!(counted.status.success(), "{counted:?}");
    let of_thread = |number: usize| file.with_file_name(format!("thread-{number:02}"));
    assert!(!of_thread(THREADS + 1).exists(), "a thread is not known");
    let totals = std::fs::read_to_string(of_thread(THREADS)).unwrap();
    let total = totals
        .lines()
        .find_map(|line| line.strip_prefix("totals: "));
    Some(total.unwrap().trim().parse().unwrap())
}

/// A number that the environment gives.
fn asked<T: std::str::FromStr<Err: std::fmt::Debug>>(name: &str) -> Option<T> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

/// Whether it was strace that failed, and not what it ran.
fn said_by_strace(traced: &Output) -> bool {
    !traced.status.success() && String::from_utf8_lossy(&traced.stderr).contains("strace: ")
}
