//! Floods that come from servers: an application behind its sidecar, and one without a sidecar that
//! the client's sidecar speaks to.
//!
//! The server counts what it was asked and how long it could flood. Its connection ends, the request
//! that it flooded in answer to ends too, and the next one is answered over another connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use http::{Request, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use weft_sandbox::client::{Answer, Http2};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Service, Workload};
use weft_tests::frames::{PREFACE, block, flag, frame, kind};

use super::{PATIENCE, Way, documented};
use crate::common::{Cx, PORT, http_app, mesh, metrics, service, wait_for};

/// Where the server listens that floods.
const OWN_PORT: u16 = 9100;
/// Length of a frame's header.
const HEADER: usize = 9;
/// HEADERS with `:status: 200`, behind their length.
const STATUS_200: &[u8] = &[0x88];
/// More than any flood may last, in bytes.
const MOST: u64 = 64 << 20;
/// What the sidecar may have taken until it has ended the connection, with what fits the sockets'
/// buffers: nobody knows how much of it was read.
const ENDED_WITHIN: u64 = 8_000_000;
/// What the sidecar may grow by during one flood.
const MEMORY: f64 = 48.0 * 1024.0 * 1024.0;
/// Between the beginning of an answer and the flood.
const BEFORE_THE_FLOOD: Duration = Duration::from_millis(100);
/// How often another client asks meanwhile.
const BYSTANDER_ASKS: Duration = Duration::from_millis(20);
/// Until a flood must be in the metrics.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// One row.
struct Flood {
    /// As in `docs/http2.md`.
    name: &'static str,
    /// How the request ends, as the page says.
    end: &'static str,
    /// What is sent first.
    first: Vec<u8>,
    /// What is sent again and again.
    part: Vec<u8>,
}

fn all() -> Vec<Flood> {
    let flood = |name, part| Flood {
        name,
        end: "502 `reset`",
        first: Vec::new(),
        part,
    };
    let interim = block(&[(":status", "103")]);
    let begun = frame(kind::HEADERS, flag::END_HEADERS, 1, STATUS_200);
    vec![
        flood("PING", frame(kind::PING, 0, 0, &[0; 8])),
        flood("SETTINGS", frame(kind::SETTINGS, 0, 0, &[])),
        flood(
            "WINDOW_UPDATE",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ),
        flood(
            "answers 103 without end",
            frame(kind::HEADERS, flag::END_HEADERS, 1, &interim),
        ),
        Flood {
            first: frame(kind::HEADERS, 0, 1, STATUS_200),
            ..flood("CONTINUATION, empty", frame(kind::CONTINUATION, 0, 1, &[]))
        },
        Flood {
            first: frame(kind::HEADERS, 0, 1, STATUS_200),
            ..flood(
                "CONTINUATION, 1 KB each",
                frame(kind::CONTINUATION, 0, 1, &block(&[("x", &"v".repeat(990))])),
            )
        },
        Flood {
            end: "200, then a reset",
            first: begun,
            ..flood("DATA, empty", frame(kind::DATA, 0, 1, &[]))
        },
        flood(
            "RST_STREAM of one stream",
            [
                frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 2]),
                frame(kind::PING, flag::ACK, 0, &[0; 8]),
            ]
            .concat(),
        ),
    ]
}

/// A flood each, and the client served again after each.
pub(super) async fn end_the_connection(cx: Cx, way: Way) -> anyhow::Result<()> {
    cx.on(with_server("serverfloods", way), async |mesh| {
        let server = Server::start(mesh)?;
        let pod = mesh.pod("client");
        let client = Http2::connect(&pod, mesh.addr("own", PORT)).await?;
        let bystander = Http2::connect(&pod, mesh.addr("api", PORT)).await?;
        ask(&bystander, "api").await?;
        assert_eq!(ask(&client, "own").await?.status, StatusCode::OK);

        for flood in all() {
            let name = flood.name;
            let before = sidecar(mesh, way).await?;
            let seen = server.seen();
            *server.shared.flood.lock() = Some((flood.first, flood.part));

            let mut flooded = std::pin::pin!(end_of(&client));
            let mut asked = 0_u32;
            let end = loop {
                tokio::select! {
                    end = &mut flooded => break end,
                    () = tokio::time::sleep(BYSTANDER_ASKS) => {
                        ask(&bystander, "api").await.context(name)?;
                        asked += 1;
                    }
                }
            };
            let lasted = wait_for("the server's connection to end", PATIENCE, async || {
                Ok(server.shared.ended.lock().take())
            });
            let lasted = lasted.await.context(name)?;

            let counted = wait_for("the flood to be counted", COUNTED_WITHIN, async || {
                let now = sidecar(mesh, way).await?;
                Ok((now.floods > before.floods).then_some(now))
            });
            let now = counted.await.context(name)?;
            let next = ask(&client, "own").await.context(name)?;
            ask(&bystander, "api").await.context(name)?;
            cx.measured(format!(
                "{name}: {end}, closed after {lasted} bytes, {asked} others served meanwhile"
            ));
            assert_eq!(end, flood.end, "{name}");
            assert!(lasted <= ENDED_WITHIN, "{name}: {lasted} bytes sent");
            assert_eq!(now.floods - before.floods, 1.0, "{name}: floods counted");
            let grown = now.memory - before.memory;
            assert!(grown <= MEMORY, "{name}: the sidecar grew by {grown} bytes");
            assert_eq!(next.status, StatusCode::OK, "{name}: {}", next.text());
            // The one that was flooded, and the one after it: neither was sent twice.
            assert_eq!(
                server.seen() - seen,
                2,
                "{name}: requests that the server saw"
            );
            let row = format!("| {name} | {} |", flood.end);
            assert!(documented(&row), "docs/http2.md has no row {row}");
        }
        Ok(())
    })
    .await
}

/// A client, a server of the tests' own with or without a sidecar, and another service.
fn with_server(name: &str, way: Way) -> Builder {
    let server = Workload::new("server-1").port(OWN_PORT, AppSpec::none());
    let server = match way {
        Way::Out => server.unmeshed(),
        Way::In => server,
    };
    mesh(name)
        .workload(Workload::new("client"))
        .workload(server)
        .workload(http_app("api-1"))
        .service(service("api", ["api-1"]))
        .service(
            Service::new("own")
                .port(PORT, OWN_PORT)
                .endpoints(["server-1"]),
        )
}

/// Of the sidecar whose server floods it.
struct Told {
    floods: f64,
    memory: f64,
}

async fn sidecar(mesh: &Mesh, way: Way) -> anyhow::Result<Told> {
    let workload = match way {
        Way::Out => "client",
        Way::In => "server-1",
    };
    let metrics = metrics(mesh, workload).await?;
    Ok(Told {
        floods: metrics.sum("weft_limit_hits_total", &[("limit", "http2_floods")]),
        memory: metrics.sum("process_resident_memory_bytes", &[]),
    })
}

/// A POST: no policy has it sent twice.
async fn ask(client: &Http2, host: &str) -> anyhow::Result<Answer> {
    let asked = Request::post(format!("http://{host}/")).body(Full::default())?;
    let answer = tokio::time::timeout(PATIENCE, client.request(asked));
    answer.await.context("no answer")?
}

/// How the request ends that is flooded.
async fn end_of(client: &Http2) -> String {
    match ask(client, "own").await {
        Ok(answer) => {
            let outcome = answer.outcome().unwrap_or("no outcome");
            format!("{} `{outcome}`", answer.status.as_u16())
        }
        // The client of the tests says no more of an answer whose body broke.
        Err(error) => match error.root_cause().downcast_ref::<h2::Error>() {
            Some(error) if error.is_reset() => "200, then a reset".to_owned(),
            _ => format!("{error:#}"),
        },
    }
}

/// Answers each request with 200 until it is told to flood; one connection floods then.
struct Server {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    requests: AtomicU64,
    /// What the next request is answered with: once, and again and again.
    flood: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
    /// Bytes of a flood that has ended.
    ended: Mutex<Option<u64>>,
}

impl Server {
    fn start(mesh: &Mesh) -> anyhow::Result<Self> {
        let pod = mesh.pod("server-1");
        let listener = pod.listen(SocketAddr::new(pod.v4().into(), OWN_PORT))?;
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    fn seen(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        // A connection may end in any way: what matters is counted.
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut preface = vec![0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(kind::SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; HEADER];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream_id @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        stream.read_exact(&mut vec![0; length]).await?;
        match kind {
            kind::SETTINGS if flags & flag::ACK == 0 => {
                let ack = frame(kind::SETTINGS, flag::ACK, 0, &[]);
                stream.write_all(&ack).await?;
            }
            kind::HEADERS => {
                shared.requests.fetch_add(1, Ordering::SeqCst);
                let flood = shared.flood.lock().take();
                let Some((first, part)) = flood else {
                    let flags = flag::END_HEADERS | flag::END_STREAM;
                    let id = u32::from_be_bytes(stream_id);
                    let answer = frame(kind::HEADERS, flags, id, STATUS_200);
                    stream.write_all(&answer).await?;
                    continue;
                };
                let lasted = send_flood(stream, &first, &part, stream_id).await;
                *shared.ended.lock() = Some(lasted);
                return Ok(());
            }
            _ => {}
        }
    }
}

/// Floods until the connection ends; how many bytes that took.
async fn send_flood(stream: TcpStream, first: &[u8], part: &[u8], id: [u8; 4]) -> u64 {
    let (mut read, mut write) = stream.into_split();
    // Answers are read: a deaf server would only stop itself.
    let reading = tokio::spawn(async move {
        let mut space = vec![0; 16 * 1024];
        while let Ok(1..) = read.read(&mut space).await {}
    });
    let _ = write.write_all(&of_stream(first, id)).await;
    // What has begun is on its way when the flood comes.
    tokio::time::sleep(BEFORE_THE_FLOOD).await;
    let next = of_stream(part, id).repeat(64);
    let mut sent = 0;
    while sent < MOST && write.write_all(&next).await.is_ok() {
        sent += next.len() as u64;
    }
    reading.abort();
    sent
}

/// The same frames, those of stream 1 for this stream instead.
fn of_stream(frames: &[u8], id: [u8; 4]) -> Vec<u8> {
    let mut frames = frames.to_vec();
    let mut at = 0;
    while at < frames.len() {
        let length = u32::from_be_bytes([0, frames[at], frames[at + 1], frames[at + 2]]) as usize;
        if frames[at + 5..at + HEADER] == [0, 0, 0, 1] {
            frames[at + 5..at + HEADER].copy_from_slice(&id);
        }
        at += HEADER + length;
    }
    frames
}
