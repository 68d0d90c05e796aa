//! What goes on beside a load of HTTP/1 while something in the mesh changes: gRPC calls, connections of
//! bytes that stay open all the while, and new ones, all of them counted by their servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use weft_sandbox::load::{Load, Protocol, Running, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Pod, Service, Workload};

use crate::counts::{assert_all_served_once, wait_for};

/// The servers.
const GRPC: &str = "grpc-1";
const BYTES: &str = "bytes-1";
const GRPC_PORT: u16 = 80;
const APP_PORT: u16 = 8080;
const BYTES_PORT: u16 = 9000;
/// gRPC callers with a connection each, and their calls in a second.
const CALLERS: usize = 2;
const CALLS: f64 = 20.0;
/// Bytes of a call.
const CALL: usize = 200;
/// Connections of bytes that stay, and those that make one new connection after the other.
const KEPT: usize = 3;
const MAKERS: usize = 2;
/// Bytes of one exchange.
const EXCHANGE: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);
/// What an exchange, and the end of the servers' counting, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

/// Adds the servers.
pub fn with_servers(builder: Builder) -> Builder {
    builder
        .workload(Workload::new(GRPC).port(APP_PORT, AppSpec::http()))
        .service(
            Service::new("grpc")
                .port(GRPC_PORT, APP_PORT)
                .endpoints([GRPC]),
        )
        .workload(Workload::new(BYTES).port(BYTES_PORT, AppSpec::tcp()))
        .service(
            Service::new("bytes")
                .port(BYTES_PORT, BYTES_PORT)
                .app_protocol("tcp")
                .endpoints([BYTES]),
        )
}

/// The calls and connections of the workload `client`, from [`GrpcAndBytes::start`] on.
#[derive(Debug)]
pub struct GrpcAndBytes {
    calls: Running,
    stopped: Arc<AtomicBool>,
    connections: Vec<JoinHandle<anyhow::Result<Exchanged>>>,
}

/// What was asked, and as often answered and seen by its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// gRPC calls.
    pub calls: u64,
    /// Connections of bytes.
    pub connections: u64,
    /// Bytes that came back over them.
    pub bytes: u64,
}

impl GrpcAndBytes {
    /// To the servers of [`with_servers`], until [`Self::end`].
    pub fn start(mesh: &Mesh) -> Self {
        let client = mesh.pod("client");
        let calls = Load::new(mesh.addr("grpc", GRPC_PORT))
            .protocol(Protocol::Grpc)
            .clients(CALLERS)
            .rate(CALLS)
            .id_prefix("grpc")
            .shot(Shot::post("/", CALL))
            .start(&client);
        let to = mesh.addr("bytes", BYTES_PORT);
        let stopped = Arc::new(AtomicBool::new(false));
        let connections = (0..KEPT + MAKERS).map(|number| {
            let way = Way {
                client: client.clone(),
                to,
                number,
                stopped: Arc::clone(&stopped),
            };
            tokio::spawn(async move {
                if number < KEPT {
                    way.keep().await
                } else {
                    way.make().await
                }
            })
        });
        Self {
            calls,
            connections: connections.collect(),
            stopped,
        }
    }

    /// Ends all of it, after what is under way.
    ///
    /// # Errors
    /// Names the first connection that failed, at which of its exchanges.
    ///
    /// # Panics
    /// Where a call failed, or a server has seen more or less than was sent.
    pub async fn end(self, mesh: &Mesh) -> anyhow::Result<Exchanged> {
        self.stopped.store(true, Ordering::Relaxed);
        let report = self.calls.stop().await;
        assert_all_served_once(&report, &mesh.app(GRPC).stats().await?);
        let mut all = Exchanged {
            calls: report.sent,
            ..Exchanged::default()
        };
        for (number, connection) in self.connections.into_iter().enumerate() {
            let own = connection.await?;
            let own = own.with_context(|| format!("connections of bytes, number {number}"))?;
            all.connections += own.connections;
            all.bytes += own.bytes;
        }
        // The server hears of the last ones' end after the client.
        let seen = wait_for(
            "the end of all connections of bytes",
            PATIENCE,
            async || {
                let seen = mesh.app(BYTES).stats().await?;
                Ok((seen.open_connections == 0).then_some(seen))
            },
        )
        .await?;
        let arrived = (seen.connections, seen.echoed);
        assert_eq!(
            arrived,
            (all.connections, all.bytes),
            "connections and bytes"
        );
        Ok(all)
    }
}

/// One connection of bytes, or one after the other.
struct Way {
    client: Pod,
    to: SocketAddr,
    number: usize,
    stopped: Arc<AtomicBool>,
}

impl Way {
    /// One connection, for as long as all of this takes.
    async fn keep(self) -> anyhow::Result<Exchanged> {
        let mut stream = self.connect().await?;
        let mut exchanges = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            exchanges += 1;
            self.exchange(&mut stream, exchanges).await?;
            sleep(PAUSE).await;
        }
        finish(stream).await?;
        Ok(Exchanged::over(1, exchanges))
    }

    /// A new connection, and with it perhaps a handshake, for each exchange.
    async fn make(self) -> anyhow::Result<Exchanged> {
        let mut exchanges = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            exchanges += 1;
            let mut stream = self.connect().await?;
            self.exchange(&mut stream, exchanges).await?;
            finish(stream).await?;
            sleep(PAUSE).await;
        }
        Ok(Exchanged::over(exchanges, exchanges))
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let connecting = timeout(PATIENCE, self.client.connect(self.to));
        Ok(connecting.await.context("no connection")??)
    }

    /// Sends what was never sent before, and wants it back.
    async fn exchange(&self, stream: &mut TcpStream, number: u64) -> anyhow::Result<()> {
        let text = format!("{}/{number}/", self.number);
        let sent: Vec<u8> = text.bytes().cycle().take(EXCHANGE).collect();
        let exchanging = async {
            stream.write_all(&sent).await?;
            let mut back = [0; EXCHANGE];
            stream.read_exact(&mut back).await?;
            anyhow::ensure!(back[..] == sent[..], "other bytes came back");
            Ok(())
        };
        timeout(PATIENCE, exchanging)
            .await
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| format!("exchange {number}"))
    }
}

impl Exchanged {
    fn over(connections: u64, exchanges: u64) -> Self {
        Self {
            calls: 0,
            connections,
            bytes: exchanges * EXCHANGE as u64,
        }
    }
}

/// Ends a connection, which its server does then too, without another byte.
async fn finish(mut stream: TcpStream) -> anyhow::Result<()> {
    let finishing = async {
        stream.shutdown().await?;
        let more = stream.read(&mut [0]).await?;
        anyhow::ensure!(more == 0, "more came back than was sent");
        Ok(())
    };
    timeout(PATIENCE, finishing)
        .await
        .map_err(anyhow::Error::from)
        .flatten()
        .context("the end of a connection")
}
