//! Clients that wait to be spoken to, on ports about which nobody says who speaks first.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_proto::names;
use weft_sandbox::{AppSpec, Mesh, Pod, Workload};

use crate::Suite;
use crate::common::{CLIENT, Cx, SERVER, client_and_apps, metrics};
use crate::programs::Needs;

/// Ports of a server that speaks first; the first connection to each is one of which nobody knows.
const PORTS: [u16; 10] = [9001, 9002, 9003, 9004, 9005, 9006, 9007, 9008, 9009, 9010];
const GREETING: &[u8] = b"220 ";
/// Rounds; in each a connection of every kind.
const ROUNDS: usize = 100;
/// What a sidecar may add.
const ALLOWED: Duration = Duration::from_millis(200);
/// A server outside of the mesh.
const BARE: &str = "bare";
/// The port of HTTP.
const HTTP: u16 = 8080;

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::default();
    suite.add("silence::greetings_are_not_delayed", needs, greetings);
    suite.add("silence::says_nothing_about_the_next", needs, next);
}

/// "No connection delayed by more than 200 ms, meshed or unmeshed client": from the connection to the
/// greeting, against the same server without a mesh, in turns.
async fn greetings(cx: Cx) -> anyhow::Result<()> {
    let mut bare = Workload::new(BARE).unmeshed();
    for port in PORTS {
        bare = bare.port(port, AppSpec::tcp_server_first());
    }
    let builder = client_and_apps(
        "greetings",
        PORTS.map(|port| (port, AppSpec::tcp_server_first())),
    );
    cx.on(builder.workload(bare), async |mesh| {
        let (client, stranger) = (mesh.pod(CLIENT), mesh.stranger("stranger")?);
        let service = mesh.cluster_ip(SERVER);
        let kinds = [
            ("without a mesh", &stranger, mesh.pod(BARE).v4()),
            ("from a meshed client to the service", &client, service),
            (
                "from a meshed client to the pod",
                &client,
                mesh.pod(SERVER).v4(),
            ),
            ("from an unmeshed client", &stranger, mesh.pod(SERVER).v4()),
        ];
        // Neighbours find each other: no affair of a sidecar's, and seconds at times.
        for port in PORTS {
            greeting(&stranger, SocketAddr::from((mesh.pod(BARE).v4(), port))).await?;
        }
        let admin = SocketAddr::from((mesh.pod(SERVER).v4(), names::ports::ADMIN));
        for pod in [&stranger, &client] {
            pod.get(admin, "/live").await?;
        }
        let mut took = [(); 4].map(|()| Vec::with_capacity(ROUNDS));
        for round in 0..ROUNDS {
            for ((_, pod, ip), took) in kinds.iter().zip(&mut took) {
                let to = SocketAddr::from((*ip, PORTS[round % PORTS.len()]));
                took.push(greeting(pod, to).await?);
            }
        }
        for ((name, ..), took) in kinds.iter().zip(&mut took) {
            took.sort();
            let (median, most) = (took[ROUNDS / 2], took[ROUNDS - 1]);
            cx.measured(format!(
                "{name}: {median:.1?} in the median, {most:.1?} at most"
            ));
        }
        let [without, meshed @ ..] = &took;
        for ((name, ..), took) in kinds.iter().skip(1).zip(meshed) {
            let (most, limit) = (took[ROUNDS - 1], without[ROUNDS - 1] + ALLOWED);
            assert!(
                most <= limit,
                "{name}: {most:?}, and no more than {limit:?} is allowed"
            );
        }
        let seen = mesh.app(SERVER).stats().await?.connections;
        assert_eq!(
            seen,
            3 * ROUNDS as u64,
            "connections that the server has seen"
        );
        Ok(())
    })
    .await
}

/// "A client silent for 5 s does not change how the next HTTP client is treated": it is answered as HTTP,
/// on another connection while the silent one is there and after it has left, and the silent one too when
/// it speaks at last.
async fn next(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and_apps("silent", [(HTTP, AppSpec::http())]);
    cx.on(builder, async |mesh| {
        let meshed = Caller {
            pod: mesh.pod(CLIENT),
            to: mesh.addr(SERVER, HTTP),
            workload: CLIENT,
            tls: "mutual",
        };
        let unmeshed = Caller {
            pod: mesh.stranger("stranger")?,
            to: SocketAddr::from((mesh.pod(SERVER).v4(), HTTP)),
            workload: SERVER,
            tls: "none",
        };
        tokio::try_join!(meshed.be_silent(&cx, mesh), unmeshed.be_silent(&cx, mesh))?;
        let seen = mesh.app(SERVER).stats().await?.requests;
        assert_eq!(seen, 2 * Caller::REQUESTS);
        Ok(())
    })
    .await
}

/// Who is silent, and the sidecar that has to bear it.
struct Caller {
    pod: Pod,
    to: SocketAddr,
    workload: &'static str,
    tls: &'static str,
}

impl Caller {
    /// What it asks in the end.
    const REQUESTS: u64 = 3;

    async fn be_silent(&self, cx: &Cx, mesh: &Mesh) -> anyhow::Result<()> {
        let leaves = self.pod.connect(self.to).await?;
        let mut speaks = self.pod.connect(self.to).await?;
        tokio::time::sleep(cx.idle()).await;
        let answer = self.pod.get(self.to, "/beside-silent-ones").await?;
        assert_eq!(answer.status, 200);
        self.assert_http(mesh, 1)
            .await
            .context("beside silent ones")?;
        let answer = speak(&mut speaks).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        self.assert_http(mesh, 2).await.context("at last")?;
        drop(leaves);
        let answer = self.pod.get(self.to, "/after-them").await?;
        assert_eq!(answer.status, 200);
        self.assert_http(mesh, 3)
            .await
            .context("after one that has left")
    }

    /// The sidecar has treated so many requests as what they are.
    async fn assert_http(&self, mesh: &Mesh, wanted: u64) -> anyhow::Result<()> {
        let labels = [("tls", self.tls), ("status", "200")];
        let metrics = metrics(mesh, self.workload).await?;
        let counted = metrics.sum("weft_requests_total", &labels);
        anyhow::ensure!(
            counted == wanted as f64,
            "{counted} of {wanted} requests, {labels:?}"
        );
        Ok(())
    }
}

/// How long a client waits that says nothing.
async fn greeting(pod: &Pod, to: SocketAddr) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut stream = pod.connect(to).await?;
    let mut greeting = [0; GREETING.len()];
    let reading = stream.read_exact(&mut greeting);
    let in_time = tokio::time::timeout(Duration::from_secs(10), reading).await;
    in_time.with_context(|| format!("no greeting from {to}"))??;
    assert_eq!(greeting, GREETING);
    Ok(begin.elapsed())
}

async fn speak(silent: &mut TcpStream) -> anyhow::Result<String> {
    silent
        .write_all(b"GET /at-last HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    silent.read_to_string(&mut answer).await?;
    Ok(answer)
}
