//! Both ends of a sidecar's connections, on loopback, for the tests of either direction.

pub(crate) mod clients;
pub(crate) mod collector;
pub(crate) mod costs;
pub(crate) mod policies;
pub(crate) mod servers;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::telemetry::{ProcessLabels, Telemetry};
use crate::worker::{Seat, Settling};

/// Nothing in these tests takes as long; what does, hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Turns of the runtime after which what is ready has gone on.
const SETTLING: usize = 100;

/// Seats in which connections stay, and how often one was to be settled.
#[derive(Default)]
pub(crate) struct Seats(Arc<Asked>);

#[derive(Default)]
struct Asked(AtomicUsize);

impl Seats {
    pub(crate) fn seat(&self) -> Seat {
        Seat::new(Arc::clone(&self.0) as _)
    }

    pub(crate) fn settled(&self) -> usize {
        self.0.0.load(Ordering::Relaxed)
    }
}

impl Settling for Asked {
    fn settle(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        false
    }
}

/// Two ends of a TCP connection: the one that dialled, the one that was accepted.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// From now on, until what it gives is dropped, no time passes but what a test lets pass, while
/// everything else goes on.
pub(crate) fn stop_clock() -> mpsc::Sender<()> {
    tokio::time::pause();
    hold_clock()
}

/// The same of a clock that is paused already: the runtime does not advance it of its own accord as long
/// as a blocking task runs.
pub(crate) fn hold_clock() -> mpsc::Sender<()> {
    let (running, ended) = mpsc::channel();
    tokio::task::spawn_blocking(move || ended.recv());
    running
}

/// Lets everything that is ready to go on, kernel and all, do so.
pub(crate) async fn settle() {
    for _ in 0..SETTLING {
        tokio::task::yield_now().await;
    }
}

/// Waits without letting time pass.
pub(crate) async fn until(what: &str, come: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !come() {
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
        tokio::task::yield_now().await;
    }
}

/// The ClientHello of a program that knows nothing of the mesh.
pub(crate) fn foreign_hello(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it should come soon")
}

pub(crate) fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(ProcessLabels {
        workload: "test".into(),
        namespace: "shop".into(),
    })
}

/// How often a limit was hit.
pub(crate) fn limit_hits(telemetry: &Telemetry, limit: &str) -> u64 {
    count(telemetry, "weft_limit_hits_total", &[("limit", limit)])
}

/// The sum of a counter over all sets of labels that have each of `labels`.
pub(crate) fn count(telemetry: &Telemetry, family: &str, labels: &[(&str, &str)]) -> u64 {
    let text = telemetry.render();
    let fits = |line: &&str| {
        line.strip_prefix(family)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels
                .iter()
                .all(|(name, value)| line.contains(&format!("{name}=\"{value}\"")))
    };
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    text.lines().filter(fits).map(value).sum::<f64>() as u64
}

/// Bytes of the future that an `async fn` of two arguments makes, which nobody has to call for it.
pub(crate) fn future_size<A, B, F>(_: fn(A, B) -> F) -> usize {
    size_of::<F>()
}
