//! How many mesh TLS handshakes a core makes in a second, and what each costs at either end.
//!
//! `cargo run --release -p weft-tests --bin weft-handshakes [SECONDS]`: the sidecar's own code and
//! settings at both ends, certificates of the control plane's own authority (P-256, leaf and issuer),
//! in memory and on one thread. What the network and the kernel add is not in it. CPU time is the
//! thread's, taken around each step of each end, so that a busy machine does not change it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustix::time::{ClockId, clock_gettime};
use rustls_pki_types::PrivatePkcs8KeyDer;
use weft_control_plane::identity::{Authority, DEFAULT_LEAF_LIFETIME, WorkloadKey};
use weft_proto::spiffe::SpiffeId;
use weft_proxy::identity::{Alpn, Identity};

const TRUST_DOMAIN: &str = "weft.local";
/// How long it runs, unless told otherwise, and at most.
const SECONDS: u64 = 3;
const MAX_SECONDS: u64 = 60;
/// Handshakes before it counts: caches are warm then.
const WARM_UP: u32 = 50;
/// Bytes under way between both ends: more than a handshake has.
const PIPE: usize = 64 * 1024;

fn main() -> anyhow::Result<()> {
    let seconds = match std::env::args().nth(1) {
        Some(text) => text.parse().context("how many seconds?")?,
        None => SECONDS,
    };
    let long = Duration::from_secs(seconds.clamp(1, MAX_SECONDS));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(run(long))
}

async fn run(long: Duration) -> anyhow::Result<()> {
    let state = tempfile::tempdir()?;
    let now = SystemTime::now();
    let authority = Authority::open(state.path(), TRUST_DOMAIN, DEFAULT_LEAF_LIFETIME, now)?;
    let (client, _) = workload(&authority, "client")?;
    let (server, id) = workload(&authority, "server")?;
    for _ in 0..WARM_UP {
        handshake(&client, &server, &id).await?;
    }

    let (mut count, mut dialled, mut accepted) = (0_u32, Duration::ZERO, Duration::ZERO);
    let begin = Instant::now();
    while begin.elapsed() < long {
        let (client, server) = handshake(&client, &server, &id).await?;
        dialled += client;
        accepted += server;
        count += 1;
    }
    let cpu = dialled + accepted;
    let per_second = |cpu: Duration| f64::from(count) / cpu.as_secs_f64();
    let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / f64::from(count);
    println!(
        "{count} full mTLS handshakes in {:.1?}: TLS 1.3, X25519, ECDSA P-256, AES-128-GCM",
        begin.elapsed()
    );
    println!(
        "both ends  {:6.0} us CPU  {:6.0} a second on one core",
        micros(cpu),
        per_second(cpu)
    );
    println!(
        "client     {:6.0} us CPU  {:6.0}",
        micros(dialled),
        per_second(dialled)
    );
    println!(
        "server     {:6.0} us CPU  {:6.0}",
        micros(accepted),
        per_second(accepted)
    );
    Ok(())
}

/// A workload with a certificate of `authority`.
fn workload(authority: &Authority, account: &str) -> anyhow::Result<(Identity, SpiffeId)> {
    let id = SpiffeId::new(TRUST_DOMAIN, "default", account)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    let now = SystemTime::now();
    let leaf = authority.issue(&id, &WorkloadKey::from_csr(request.der())?, now)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let roots = authority.bundle().borrow().roots.to_vec();
    let identity = Identity::new();
    identity.install(leaf.chain, key, roots, now)?;
    Ok((identity, id))
}

/// One handshake, which is a full one, as nothing is ever resumed: the CPU time of the client's side and of the server's.
async fn handshake(
    client: &Identity,
    server: &Identity,
    id: &SpiffeId,
) -> anyhow::Result<(Duration, Duration)> {
    let (near, far) = tokio::io::duplex(PIPE);
    let dialling = Timed::new(Box::pin(client.connect(near, id, Alpn::Http2)));
    let accepting = Timed::new(Box::pin(server.accept(far)));
    let ((dialled, client), (accepted, server)) = tokio::join!(dialling, accepting);
    dialled.map_err(|failure| described(&failure))?;
    accepted.map_err(|failure| described(&failure))?;
    Ok((client, server))
}

fn described(failure: &weft_proxy::outcome::Failure) -> anyhow::Error {
    anyhow::anyhow!("{failure}")
}

/// A future that says how much CPU time its steps took.
struct Timed<F> {
    inner: F,
    spent: Duration,
}

impl<F> Timed<F> {
    fn new(inner: F) -> Self {
        Self {
            inner,
            spent: Duration::ZERO,
        }
    }
}

impl<F: Future + Unpin> Future for Timed<F> {
    type Output = (F::Output, Duration);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let before = thread_time();
        let polled = Pin::new(&mut self.inner).poll(cx);
        self.spent += thread_time().saturating_sub(before);
        polled.map(|output| (output, self.spent))
    }
}

/// The CPU time of this thread so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}
