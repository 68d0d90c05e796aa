//! Readers that do not read, and writers that hardly write.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use h2::RecvStream;
use h2::client::SendRequest;
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Pod, Service, Workload};

use super::server::{self, Counts, Judge, Pattern};
use super::{Asked, Bystander, Each, WORKLOADS, answer_head, each, many, memory, need_descriptors};
use crate::Suite;
use crate::common::{APP_PORT, Cx, PORT, mesh};

/// The tests' own server.
const HTTP_PORT: u16 = 9100;
const BYTES_PORT: u16 = 9101;
const MIB: u64 = 1 << 20;
/// What a reader's connection holds back itself.
const RECEIVE_BUFFER: u32 = 16 * 1024;
/// Each so manyth of a crowd wants [`LONGER`], which no buffer between the two ends holds.
const LONG_ONES: usize = 50;
const LONGER: u64 = 16 * MIB;
/// How long nothing may move before everything is taken to stand still.
const STILL: Duration = Duration::from_millis(1_500);
/// Until a crowd stands still.
const STALLS_WITHIN: Duration = Duration::from_secs(60);
/// What one that stands still may take of either sidecar's memory, in KiB.
const HTTP1_EACH: f64 = 512.0;
const STREAM_EACH: f64 = 256.0;
const BYTES_EACH: f64 = 160.0;
/// Three buffers of HTTP/1, of 128 KiB at most each; a third of what a writer sends in all.
const WRITER_EACH: f64 = 384.0;

pub(super) fn register(suite: &mut Suite) {
    suite.add("crowds::slow_readers", slow_readers);
    suite.add("crowds::slow_streams", slow_streams);
    suite.add("crowds::slow_opaque_readers", slow_opaque_readers);
    suite.add("crowds::slow_writers", slow_writers);
}

/// 1,000 clients that ask for a MiB each over HTTP/1, and some for more than all buffers hold, and read
/// no more than the head: memory is bounded and others are served; then they read on, and have every byte.
async fn slow_readers(cx: Cx) -> anyhow::Result<()> {
    let length = |index: usize| {
        if index.is_multiple_of(LONG_ONES) {
            LONGER
        } else {
            MIB
        }
    };
    let crowd = Crowd {
        name: "readers",
        number: 1_000,
        at_most: HTTP1_EACH,
    };
    crowd
        .run(
            &cx,
            async |place, index| {
                let mut stream = slow(&place.client, place.http).await?;
                let path = format!("/{}/{index}", length(index));
                let head = format!("GET {path} HTTP/1.1\r\nhost: api\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let (status, first, announced) = answer_head(&mut stream).await?;
                anyhow::ensure!(status == StatusCode::OK, "{status}");
                anyhow::ensure!(announced as u64 == length(index));
                let mut judge = Judge::new(length(index), index as u64);
                judge.take(&first)?;
                Ok((stream, judge))
            },
            async |_, (stream, judge)| read_all(stream, judge).await,
        )
        .await
}

/// The same as bytes.
async fn slow_opaque_readers(cx: Cx) -> anyhow::Result<()> {
    let crowd = Crowd {
        name: "opaque",
        number: 60,
        at_most: BYTES_EACH,
    };
    let length = 24 * MIB;
    crowd
        .run(
            &cx,
            async |place, index| {
                let mut stream = slow(&place.client, place.bytes).await?;
                stream.write_u64(length).await?;
                stream.write_u64(index as u64).await?;
                let mut first = [0];
                stream.read_exact(&mut first).await?;
                let mut judge = Judge::new(length, index as u64);
                judge.take(&first)?;
                Ok((stream, judge))
            },
            async |_, (stream, judge)| read_all(stream, judge).await,
        )
        .await
}

/// 20 HTTP/2 connections with 50 streams each that nobody reads.
async fn slow_streams(cx: Cx) -> anyhow::Result<()> {
    const STREAMS: usize = 50;
    let crowd = Crowd {
        name: "streams",
        number: 20 * STREAMS,
        at_most: STREAM_EACH,
    };
    let length = MIB / 2;
    let connections = tokio::sync::Mutex::new(Vec::<SendRequest<bytes::Bytes>>::new());
    crowd
        .run(
            &cx,
            async |place, index| {
                let mut send = {
                    let mut connections = connections.lock().await;
                    if connections.len() <= index / STREAMS {
                        connections.push(http2(&place.client, place.http).await?);
                    }
                    connections[(index / STREAMS).min(connections.len() - 1)].clone()
                };
                std::future::poll_fn(|cx| send.poll_ready(cx)).await?;
                let request = http::Request::builder()
                    .uri(format!("http://api/{length}/{index}"))
                    .body(())?;
                let (answer, _) = send.send_request(request, true)?;
                let answer = answer.await?;
                anyhow::ensure!(answer.status() == StatusCode::OK);
                Ok(answer.into_body())
            },
            async |index, mut body: RecvStream| {
                let mut judge = Judge::new(length, index as u64);
                while let Some(data) = body.data().await {
                    let data = data?;
                    judge.take(&data)?;
                    body.flow_control().release_capacity(data.len())?;
                }
                anyhow::ensure!(judge.is_done(), "the end came early");
                Ok(())
            },
        )
        .await
}

/// Uploads that trickle: memory is bounded, others are served, and the server has every byte.
async fn slow_writers(cx: Cx) -> anyhow::Result<()> {
    const LENGTH: u64 = 1024 * 1024;
    /// Parts, and the pause between them.
    const PARTS: u64 = 128;
    const PAUSE: Duration = Duration::from_millis(50);
    let number = 200;
    need_descriptors(8_192)?;
    cx.on(two_sidecars("writers"), async |mesh| {
        let place = Place::new(mesh).await?;
        let alone = place.alone().await?;
        let crowded = place.bystander("crowded");
        let before = memory(mesh, WORKLOADS).await?;
        let done = place.counts.done();
        let writers = (0..number).map(|seed| {
            let (client, to) = (place.client.clone(), place.http);
            async move {
                let mut stream = client.connect(to).await?;
                let head = format!(
                    "POST /{LENGTH}/{seed} HTTP/1.1\r\nhost: api\r\ncontent-length: {LENGTH}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await?;
                let mut pattern = Pattern::new(LENGTH, seed);
                let mut all = Vec::new();
                while let Some(block) = pattern.next_block() {
                    all.extend_from_slice(&block);
                }
                for part in all.chunks((LENGTH / PARTS) as usize) {
                    stream.write_all(part).await?;
                    tokio::time::sleep(PAUSE).await;
                }
                let (status, mut body, length) = answer_head(&mut stream).await?;
                let have = body.len();
                body.resize(length, 0);
                stream.read_exact(&mut body[have..]).await?;
                let said = String::from_utf8_lossy(&body);
                anyhow::ensure!(status == StatusCode::OK && said == "right", "{status} {said}");
                Ok(())
            }
        });
        let mut writing = std::pin::pin!(try_join_all(writers));
        let halfway = tokio::time::sleep(PAUSE * PARTS as u32 / 2);
        tokio::select! {
            written = &mut writing => anyhow::bail!("too soon: {:?}", written.map(|all| all.len())),
            () = halfway => {}
        }
        let during = memory(mesh, WORKLOADS).await?;
        writing.await?;
        assert_eq!(place.counts.done() - done, number, "uploads that the server has whole");
        let crowded = crowded.end().await?;
        let each = each(number as usize, before, during);
        report(&cx, number as usize, each, &alone, &crowded);
        each.assert_at_most("a writer", WRITER_EACH, WRITER_EACH);
        crowded.assert_like(&alone);
        Ok(())
    })
    .await
}

/// One crowd of readers.
struct Crowd {
    name: &'static str,
    number: usize,
    /// KiB of either sidecar.
    at_most: f64,
}

impl Crowd {
    /// `ask` opens one and asks, `read` reads everything.
    async fn run<T>(
        &self,
        cx: &Cx,
        ask: impl AsyncFn(&Place, usize) -> anyhow::Result<T>,
        read: impl AsyncFn(usize, T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        need_descriptors(8_192)?;
        cx.on(two_sidecars(self.name), async |mesh| {
            let place = Place::new(mesh).await?;
            let alone = place.alone().await?;
            let crowded = place.bystander("crowded");
            let before = memory(mesh, WORKLOADS).await?;
            let (begun, done) = (place.counts.begun(), place.counts.done());

            let asked = many(self.number, async |index| {
                Ok((index, ask(&place, index).await?))
            })
            .await?;
            place.stands_still().await?;
            let during = memory(mesh, WORKLOADS).await?;
            let (served, finished) = (place.counts.begun() - begun, place.counts.done() - done);
            assert_eq!(served, self.number as u64, "requests that the server has");
            assert!(
                finished < served,
                "nothing stalls: all answers fit what lies between"
            );
            let crowded = crowded.end().await?;

            many_reads(asked, read).await?;
            assert_eq!(
                place.counts.done() - done,
                served,
                "answers handed out whole"
            );
            let each = each(self.number, before, during);
            report(cx, self.number, each, &alone, &crowded);
            let after = super::each(self.number, before, memory(mesh, WORKLOADS).await?);
            cx.measured(format!("after: {after}"));
            each.assert_at_most("a reader", self.at_most, self.at_most);
            crowded.assert_like(&alone);
            Ok(())
        })
        .await
    }
}

fn report(cx: &Cx, number: usize, each: Each, alone: &Asked, crowded: &Asked) {
    cx.measured(format!("{number} that stand still: {each}"));
    cx.measured(format!("others alone: {alone}; in the crowd: {crowded}"));
}

async fn many_reads<T>(
    asked: Vec<(usize, T)>,
    read: impl AsyncFn(usize, T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let reads = asked.into_iter().map(|(index, one)| {
        let reading = read(index, one);
        async move { reading.await.with_context(|| format!("number {index}")) }
    });
    try_join_all(reads).await?;
    Ok(())
}

/// Where the crowd is, and somebody else.
struct Place {
    client: Pod,
    http: SocketAddr,
    bytes: SocketAddr,
    others: SocketAddr,
    counts: Arc<Counts>,
}

impl Place {
    async fn new(mesh: &Mesh) -> anyhow::Result<Self> {
        Ok(Self {
            client: mesh.pod("client"),
            http: mesh.addr("api", HTTP_PORT),
            bytes: mesh.addr("api", BYTES_PORT),
            others: mesh.addr("api", PORT),
            counts: server::start(&mesh.pod("server-1"), HTTP_PORT, BYTES_PORT).await?,
        })
    }

    fn bystander(&self, name: &'static str) -> Bystander {
        Bystander::start(&self.client, self.others, name)
    }

    async fn alone(&self) -> anyhow::Result<Asked> {
        Bystander::baseline(&self.client, self.others).await
    }

    /// Waits until the server hands out nothing more.
    async fn stands_still(&self) -> anyhow::Result<()> {
        let waiting = async {
            let mut before = None;
            while before != Some(self.counts.bytes()) {
                before = Some(self.counts.bytes());
                tokio::time::sleep(STILL).await;
            }
        };
        tokio::time::timeout(STALLS_WITHIN, waiting)
            .await
            .context("it does not stand still")
    }
}

/// A connection whose own end holds little.
async fn slow(pod: &Pod, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = pod.socket(to.is_ipv4())?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    Ok(socket.connect(to).await?)
}

async fn http2(pod: &Pod, to: SocketAddr) -> anyhow::Result<SendRequest<bytes::Bytes>> {
    let (send, connection) = h2::client::Builder::new()
        .initial_connection_window_size(16 << 20)
        .handshake(pod.connect(to).await?)
        .await?;
    tokio::spawn(connection);
    Ok(send)
}

async fn read_all(mut stream: TcpStream, mut judge: Judge) -> anyhow::Result<()> {
    let mut part = vec![0; 64 * 1024];
    while !judge.is_done() {
        let read = stream.read(&mut part).await?;
        anyhow::ensure!(read > 0, "the end came early");
        judge.take(&part[..read])?;
    }
    Ok(())
}

fn two_sidecars(name: &str) -> Builder {
    let server = Workload::new("server-1")
        .port(APP_PORT, AppSpec::http())
        .port(HTTP_PORT, AppSpec::none())
        .port(BYTES_PORT, AppSpec::none());
    let api = Service::new("api")
        .port(PORT, APP_PORT)
        .port(HTTP_PORT, HTTP_PORT)
        .port_name("long")
        .app_protocol("http")
        .port(BYTES_PORT, BYTES_PORT)
        .port_name("tcp-long")
        .app_protocol("tcp")
        .endpoints(["server-1"]);
    mesh(name)
        .workload(Workload::new("client"))
        .workload(server)
        .service(api)
}
