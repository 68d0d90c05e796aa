//! Source ports: more new connections than there are of them.
//!
//! Quick forms have few ports instead of many connections; the ranges are those of the pods' own network
//! namespaces.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Pod, Service, Workload};

use super::{PATIENCE, TIME_WAIT, many, need_descriptors, ports_of, sockets};
use crate::Suite;
use crate::common::{Cx, mesh, metrics, open_breakers, wait_for};

/// Where the tests' own servers listen, and what their services say.
const BYTES_PORT: u16 = 9000;
/// As the kernel takes it: what no listener is in.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const FIRST_PORT: u16 = 20_000;
/// Clients of the crowd: each has source ports of its own towards the server.
const CLIENTS: [&str; 2] = ["client", "client-2"];

pub(super) fn register(suite: &mut Suite) {
    suite.add("crowds::new_opaque_connections", new_connections);
    suite.add("crowds::source_ports_towards_peers", towards_peers);
}

/// "New opaque connections sustained for 90 s without exhausting ports": clients come and go, each ending
/// first, several times as fast as the minute lets the server's sidecar have new ports towards its
/// application; over IPv4 through two sidecars, over IPv6 from a stranger straight to the server's. None
/// fails, and the application has them all.
async fn new_connections(cx: Cx) -> anyhow::Result<()> {
    // Ports for either family; new connections per second, of both together.
    let (ports, rate) = cx.pick((500_u16, 200), (2_000, 250));
    let lasts = Duration::from_secs(cx.pick(12, 90));
    need_descriptors(8_192)?;
    cx.on(two_sidecars("ports"), async |mesh| {
        let server_pod = mesh.pod("server-1");
        narrow(&server_pod, ports)?;
        let server = Echo::start(&server_pod)?;
        let [one, other] = CLIENTS.map(|name| mesh.pod(name));
        let service = mesh.addr("a", BYTES_PORT);
        let direct = (server_pod.v6(), BYTES_PORT).into();
        let stranger = mesh.stranger("stranger")?;
        let ways = [
            (one, service),
            (stranger.clone(), direct),
            (other, service),
            (stranger, direct),
        ];
        let begin = Instant::now();
        let mut opened = 0;
        let mut exchanges = JoinSet::new();
        while begin.elapsed() < lasts {
            let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64;
            for number in opened..due {
                let (pod, to) = ways[number as usize % ways.len()].clone();
                exchanges.spawn(once(pod, to, number));
            }
            opened = due.max(opened);
            while let Some(done) = exchanges.try_join_next() {
                done??;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while let Some(done) = exchanges.join_next().await {
            done??;
        }
        let took = begin.elapsed();

        let served = server.sources();
        assert_eq!(server.spoken(), opened, "connections that said something");
        // A client that is slow to begin makes its sidecar ask the application whether it greets.
        let all = served.values().sum::<u64>();
        assert!(all >= opened, "{served:?}");
        let count = |ip: IpAddr| served.get(&ip).copied().unwrap_or(0);
        let spare4 = count(Ipv4Addr::new(127, 0, 0, 6).into());
        let spare6 = count(Ipv6Addr::LOCALHOST.into());
        assert!(
            spare4 > 0 && spare6 > 0,
            "the ports have not run out: {served:?}"
        );
        let own = served[&server_pod.v4().into()] + served[&server_pod.v6().into()];
        assert_eq!(own + spare4 + spare6, all, "{served:?}");
        let metrics = metrics(mesh, "server-1").await?;
        let counted = metrics.sum("weft_limit_hits_total", &[("limit", "source_ports")]);
        assert_eq!(counted, (spare4 + spare6) as f64);

        // What the kernel keeps for a minute: all ports of the workload's own address.
        let kept = sockets(&server_pod, TIME_WAIT).await?;
        let own4 = server_pod.v4().octets().map(|byte| format!("{byte:02X}"));
        let own4: String = own4.into_iter().rev().collect();
        let own4 = ports_of(&kept, &own4, BYTES_PORT).len();
        let spare4_ports = ports_of(&kept, "0600007F", BYTES_PORT).len();
        assert!(
            own4 >= usize::from(ports) * 9 / 10,
            "{own4} of {ports} ports"
        );
        assert!(spare4_ports > 0);
        let at_clients = sockets(&mesh.pod("client"), TIME_WAIT).await?.len();
        cx.measured(format!(
            "{opened} connections in {took:.1?}, {ports} ports per family towards the application: \
             {spare4} from 127.0.0.6, {spare6} from ::1, no failure; TIME_WAIT for {own4} ports of \
             its own address, {spare4_ports} of 127.0.0.6, {at_clients} in a client's pod"
        ));
        Ok(())
    })
    .await
}

/// Source ports towards one peer are used up: further connections have a clear end that no breaker takes
/// for the peer's fault, another endpoint takes those that may go there, and when connections end there
/// are ports again.
async fn towards_peers(cx: Cx) -> anyhow::Result<()> {
    const PORTS: usize = 100;
    const MORE: usize = 30;
    cx.on(two_sidecars("peers"), async |mesh| {
        let client = mesh.pod("client");
        let servers = ["server-1", "server-2"].map(|name| Echo::start(&mesh.pod(name)));
        let [server, other] = servers;
        let (server, other) = (server?, other?);
        narrow(&client, PORTS as u16)?;
        // Two services with one endpoint: the application has ports towards each.
        let [a, b, both] = ["a", "b", "both"].map(|name| mesh.addr(name, BYTES_PORT));
        let held = many(PORTS - MORE, async |_| open(&client, a).await).await?;
        let more = many(2 * MORE, async |_| Ok(open(&client, b).await.ok())).await?;
        let served = more.iter().flatten().count();
        assert_eq!(served, MORE, "connections for which there were ports");
        assert_eq!(server.open(), PORTS);

        let refused = metrics(mesh, "client").await?;
        let hits = [("limit", "outbound_source_ports")];
        assert!(refused.sum("weft_limit_hits_total", &hits) >= MORE as f64);
        let labels = [("direction", "outbound"), ("outcome", "overflow")];
        let ended = refused.sum("weft_tcp_connections_total", &labels);
        assert_eq!(ended, MORE as f64, "connections that ended as overflow");
        assert_eq!(open_breakers(mesh, "client").await?, 0, "breakers");

        // Whoever may go elsewhere does.
        let elsewhere = many(10, async |_| open(&client, both).await).await?;
        assert_eq!(other.open(), elsewhere.len(), "at the other endpoint");

        // The server ends them: no port is kept in this pod.
        server.end_all();
        for mut stream in held.into_iter().chain(more.into_iter().flatten()) {
            let mut end = [0];
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut end)).await??;
            assert_eq!(read, 0, "the server has ended it");
        }
        let again = wait_for("ports that are free again", PATIENCE, async || {
            Ok(open(&client, b).await.ok())
        });
        drop(again.await?);
        cx.measured(format!("{PORTS} ports towards one peer, {MORE} refused"));
        Ok(())
    })
    .await
}

/// Leaves a pod with so many ephemeral ports.
fn narrow(pod: &Pod, ports: u16) -> anyhow::Result<()> {
    let range = format!("{FIRST_PORT} {}", FIRST_PORT + ports - 1);
    pod.run(move || std::fs::write(RANGE, range))
        .context("source ports of a pod")
}

/// One connection: a number there and back, and its end, the client's first.
async fn once(pod: Pod, to: SocketAddr, number: u64) -> anyhow::Result<()> {
    let exchange = async {
        let mut stream = pod.connect(to).await?;
        stream.write_all(&number.to_be_bytes()).await?;
        stream.shutdown().await?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await?;
        anyhow::ensure!(heard == number.to_be_bytes(), "{heard:?} came back");
        Ok(())
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("not within {PATIENCE:?}")))
        .with_context(|| format!("connection {number} to {to}"))
}

/// A connection on which a byte went there and back.
async fn open(pod: &Pod, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = pod.connect(to).await?;
    stream.write_all(b"x").await?;
    stream.read_u8().await?;
    Ok(stream)
}

/// A server of bytes that come back, in a pod; knows where connections come from.
struct Echo {
    seen: Arc<Mutex<Seen>>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

#[derive(Default)]
struct Seen {
    sources: BTreeMap<IpAddr, u64>,
    spoken: u64,
    open: Vec<tokio::task::AbortHandle>,
}

impl Echo {
    fn start(pod: &Pod) -> anyhow::Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let serve = |ip: IpAddr| -> anyhow::Result<_> {
            let listener = pod.listen((ip, BYTES_PORT).into())?;
            Ok(tokio::spawn(accept(listener, Arc::clone(&seen))))
        };
        let tasks = [serve(pod.v4().into())?, serve(pod.v6().into())?];
        Ok(Self { seen, tasks })
    }

    /// How many connections came from where.
    fn sources(&self) -> BTreeMap<IpAddr, u64> {
        self.seen.lock().sources.clone()
    }

    /// Connections on which something was said.
    fn spoken(&self) -> u64 {
        self.seen.lock().spoken
    }

    /// Connections that are open.
    fn open(&self) -> usize {
        let seen = self.seen.lock();
        seen.open.iter().filter(|task| !task.is_finished()).count()
    }

    /// Ends all connections.
    fn end_all(&self) {
        for task in self.seen.lock().open.drain(..) {
            task.abort();
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.end_all();
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, seen: Arc<Mutex<Seen>>) {
    while let Ok((stream, from)) = listener.accept().await {
        let told = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            // What broke is the client's to tell.
            let _ = echo(stream, &told).await;
        });
        let mut seen = seen.lock();
        *seen.sources.entry(from.ip()).or_default() += 1;
        seen.open.retain(|task| !task.is_finished());
        seen.open.push(task.abort_handle());
    }
}

async fn echo(mut stream: TcpStream, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut part = [0; 64];
    let mut silent = true;
    loop {
        let read = stream.read(&mut part).await?;
        if std::mem::take(&mut silent) && read > 0 {
            seen.lock().spoken += 1;
        }
        if read == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&part[..read]).await?;
    }
}

fn two_sidecars(name: &str) -> Builder {
    let server = |name| Workload::new(name).port(BYTES_PORT, AppSpec::none());
    let service = |name, endpoints: &[&'static str]| {
        Service::new(name)
            .port(BYTES_PORT, BYTES_PORT)
            .port_name("tcp-bytes")
            .app_protocol("tcp")
            .endpoints(endpoints.iter().copied())
    };
    CLIENTS
        .into_iter()
        .fold(mesh(name), |mesh, client| {
            mesh.workload(Workload::new(client))
        })
        .workload(server("server-1"))
        .workload(server("server-2"))
        .service(service("a", &["server-1"]))
        .service(service("b", &["server-1"]))
        .service(service("both", &["server-1", "server-2"]))
}
