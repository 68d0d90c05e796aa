//! HTTP/2 streams through two sidecars: many at once, stalled, reset, cancelled, and their
//! connection's end. Counts are the server's own and the client's.

mod server;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::try_join_all;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Method, Request, StatusCode};
use weft_sandbox::app::echo::EchoRequest;
use weft_sandbox::client::Http2;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Service, Workload};
use weft_tests::frames::{Wire, code_name, flag, frame, headers, kind};

use self::server::{MESSAGE, Server};
use crate::Suite;
use crate::common::{Cx, PORT, client_and, mesh, metrics, request, stats, wait_for};

/// Where the tests' own server listens.
const OWN_PORT: u16 = 9100;
/// Streams at once: as many as a sidecar takes on one connection.
const STREAMS: usize = 1_000;
/// Messages to the reader that does not read: more than fit all windows between the two.
const SLOW_MESSAGES: usize = 80_000;
/// What a sidecar may grow by for a thousand streams and one that stalls: the frames of one window,
/// and the streams.
const MEMORY: f64 = 96.0 * 1024.0 * 1024.0;
/// The longest that a stream which is read may be without a message that is due.
const STARVED: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn register(suite: &mut Suite) {
    suite.add(
        "streams::a_thousand_of_small_messages_and_a_slow_reader",
        thousand,
    );
    suite.add("streams::resets_keep_their_code_both_ways", resets);
    suite.add("streams::connections_that_leave_lose_nothing", leaving);
    suite.add("streams::a_cancelled_call_ends_at_the_server", cancelled);
    suite.add("streams::extended_connect_is_carried", extended_connect);
}

/// "gRPC: 1,000 concurrent streams of small messages with one slow reader: no connection is closed, no
/// stream starves, buffered bytes stay under the cap."
async fn thousand(cx: Cx) -> anyhow::Result<()> {
    // Each stream gets a message every 400 ms.
    let (each, pause) = (cx.pick(10, 150), 400);
    cx.on(own_server("thousand"), async |mesh| {
        let server = Server::start(&mesh.pod("server-1"), OWN_PORT)?;
        let client = connect(mesh).await?;
        let before = memory(mesh).await?;

        // The slow reader's stream fills all windows between the two ends, until the server waits.
        let mut slow = open(&client, &format!("/messages/{SLOW_MESSAGES}/0")).await?;
        let stalled = stalled_at(&server).await?;
        assert!(
            stalled < SLOW_MESSAGES,
            "nothing stalls: the windows hold all {stalled}"
        );

        let path = format!("/messages/{each}/{pause}");
        let readers = (1..STREAMS).map(|_| async {
            let body = open(&client, &path).await?;
            read(body).await
        });
        let begin = Instant::now();
        let read_all = try_join_all(readers);
        let (grown, read_all) = peak_while(mesh, read_all).await?;
        let took = begin.elapsed();
        let gap = read_all.iter().map(|read| read.longest_gap).max();
        let gap = gap.context("readers")?;
        for read in &read_all {
            assert_eq!((read.messages, read.ended), (each, true));
        }
        assert!(gap <= STARVED, "a stream waited {gap:?} for a message");

        // The slow reader has lost nothing.
        let rest = read_into(&mut slow).await?;
        assert_eq!((rest.messages, rest.ended), (SLOW_MESSAGES, true));
        let counts = server.counts();
        assert_eq!(counts.messages, SLOW_MESSAGES + (STREAMS - 1) * each);
        assert_eq!(counts.requests, STREAMS);
        assert_eq!(counts.most_streams, STREAMS, "streams at once");
        assert_eq!(counts.closed, 0, "connections to the server were closed");
        for (workload, (grown, before)) in WORKLOADS.iter().zip(grown.iter().zip(before)) {
            let grown = grown - before;
            assert!(
                grown <= MEMORY,
                "the sidecar of {workload} grew by {grown} bytes"
            );
            let metrics = metrics(mesh, workload).await?;
            let floods = metrics.sum("weft_limit_hits_total", &[("limit", "http2_floods")]);
            assert_eq!(floods, 0.0, "{workload} took it for a flood");
            cx.measured(format!(
                "the sidecar of {workload} grew by {:.0} MiB",
                grown / f64::from(1 << 20)
            ));
        }
        cx.measured(format!(
            "{STREAMS} streams over {} connections to the server in {took:.1?}, longest gap \
             {gap:.1?}, the slow one stalled after {stalled} messages",
            counts.connections
        ));
        Ok(())
    })
    .await
}

/// A stream that the server resets ends at the client with the same code, and the other way round.
async fn resets(cx: Cx) -> anyhow::Result<()> {
    cx.on(own_server("resets"), async |mesh| {
        let server = Server::start(&mesh.pod("server-1"), OWN_PORT)?;
        let mut wire = Wire::open(mesh.pod("client").connect(to(mesh)).await?).await?;
        let mut stream = 1;
        for code in [0, 1, 2, 7, 8, 11, 13] {
            let name = code_name(code);
            wire.send(&request_for(stream, true, &format!("/reset/{code}")))
                .await?;
            wire.until(PATIENCE, |heard| heard.end(stream).is_some())
                .await?;
            assert_eq!(wire.heard.statuses.get(&stream), Some(&200), "{name}");
            assert_eq!(
                wire.heard.resets.get(&stream),
                Some(&code),
                "{name}: {:?}",
                wire.heard
            );
            stream += 2;
        }
        // While the request is on its way its code is passed on. Of one that is whole the server is told
        // that nobody waits for the answer.
        let whole = [(true, 2, 8), (true, 11, 8), (true, 8, 8)];
        let open = [(false, 2, 2), (false, 11, 11), (false, 8, 8)];
        for (told, (whole, code, expected)) in whole.into_iter().chain(open).enumerate() {
            let name = code_name(code);
            wire.send(&request_for(stream, whole, "/hold")).await?;
            let held = wire.until(PATIENCE, |heard| heard.statuses.contains_key(&stream));
            assert!(held.await?, "{name}: {:?}", wire.heard);
            wire.send(&frame(kind::RST_STREAM, 0, stream, &u32::to_be_bytes(code)))
                .await?;
            let heard = wait_for(name, PATIENCE, async || {
                Ok(server.counts().resets.get(told).copied())
            });
            assert_eq!(
                heard.await?,
                Reason::from(expected),
                "{name}, whole: {whole}"
            );
            stream += 2;
        }
        Ok(())
    })
    .await
}

/// "GOAWAY without loss": a server that leaves each connection after some requests; a client that has
/// many under way at once gets each answered, and the server sees each once.
async fn leaving(cx: Cx) -> anyhow::Result<()> {
    let rounds = cx.pick(20, 400);
    cx.on(own_server("leaving"), async |mesh| {
        let server = Server::leaving(&mesh.pod("server-1"), OWN_PORT)?;
        let client = Http2::connect(&mesh.pod("client"), to(mesh)).await?;
        for round in 0..rounds {
            let at_once =
                (0..25).map(|_| client.request(request(Method::POST, "http://api/", "", "")));
            for answer in try_join_all(at_once).await? {
                assert_eq!(
                    answer.status,
                    StatusCode::OK,
                    "round {round}: {}",
                    answer.text()
                );
            }
        }
        // With bodies, of which the server's sidecar cannot send a part again: the client's does.
        for round in 0..rounds {
            let at_once =
                (0..5).map(|_| client.request(request(Method::POST, "http://api/", "", "body")));
            for answer in try_join_all(at_once).await? {
                assert_eq!(
                    answer.status,
                    StatusCode::OK,
                    "round {round} of bodies: {}",
                    answer.text()
                );
            }
        }
        let counts = server.counts();
        assert_eq!(counts.requests, rounds * 30, "requests that the server saw");
        assert!(
            counts.closed > rounds / 2,
            "{} connections were left",
            counts.closed
        );
        assert!(!client.is_closed());
        cx.measured(format!(
            "{} requests over {} connections",
            counts.requests, counts.connections
        ));
        Ok(())
    })
    .await
}

/// "gRPC cancellation": a call that its caller gives up ends at the server, before its answer.
async fn cancelled(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("cancelled", ["api-1"]), async |mesh| {
        let to = mesh.addr("api", PORT);
        let mut echo = mesh.pod("client").echo_client(to, "api").await?;
        let slow = EchoRequest {
            payload: b"a".to_vec(),
            repeat: 1_000,
            delay_ms: 200,
            ..EchoRequest::default()
        };
        let mut answers = echo.server_stream(slow.clone()).await?.into_inner();
        assert!(answers.message().await?.is_some());
        assert_eq!(stats(mesh, ["api-1"]).await?.in_flight, 1);
        drop(answers);
        let late = EchoRequest {
            delay_ms: 60_000,
            ..slow
        };
        let call = tokio::time::timeout(Duration::from_secs(1), echo.unary(late)).await;
        assert!(call.is_err(), "an answer before its time");
        wait_for("the ends of both calls", PATIENCE, async || {
            let stats = stats(mesh, ["api-1"]).await?;
            Ok((stats.cancelled == 2 && stats.in_flight == 0).then_some(()))
        })
        .await
    })
    .await
}

/// Extended CONNECT (RFC 8441): what WebSockets over HTTP/2 are made of.
async fn extended_connect(cx: Cx) -> anyhow::Result<()> {
    cx.on(own_server("tunnel"), async |mesh| {
        let _server = Server::start(&mesh.pod("server-1"), OWN_PORT)?;
        // The second time over connections that are there.
        for _ in 0..2 {
            let mut wire = Wire::open(mesh.pod("client").connect(to(mesh)).await?).await?;
            let head = [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":authority", "own"),
                (":path", "/tunnel"),
            ];
            wire.send(&headers(1, false, &head)).await?;
            let taken = wire.until(PATIENCE, |heard| heard.statuses.contains_key(&1));
            assert!(taken.await?, "{:?}", wire.heard);
            assert_eq!(wire.heard.statuses[&1], 200);
            for turn in 1..=3 {
                wire.send(&frame(kind::DATA, 0, 1, b"there and back"))
                    .await?;
                let all = 14 * turn;
                let back = wire.until(PATIENCE, |heard| heard.data.get(&1) == Some(&all));
                assert!(back.await?, "{:?}", wire.heard);
            }
            wire.send(&frame(kind::DATA, flag::END_STREAM, 1, &[]))
                .await?;
            let ended = wire.until(PATIENCE, |heard| heard.ended.contains(&1));
            assert!(ended.await?, "{:?}", wire.heard);
        }
        Ok(())
    })
    .await
}

/// In the order of what is said about their memory.
const WORKLOADS: [&str; 2] = ["client", "server-1"];

/// A client, and a workload in whose pod the test's own server listens.
fn own_server(name: &str) -> Builder {
    mesh(name)
        .workload(Workload::new("client"))
        .workload(Workload::new("server-1").port(OWN_PORT, AppSpec::none()))
        .service(
            Service::new("own")
                .port(PORT, OWN_PORT)
                .endpoints(["server-1"]),
        )
}

fn to(mesh: &Mesh) -> SocketAddr {
    mesh.addr("own", PORT)
}

/// A request that is `whole`, or of which more is to come.
fn request_for(stream: u32, whole: bool, path: &str) -> Vec<u8> {
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "own"),
        (":path", path),
    ];
    headers(stream, whole, &head)
}

/// A client with one connection, whose window is no reason for a stream to wait for another.
async fn connect(mesh: &Mesh) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = mesh.pod("client").connect(to(mesh)).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = h2::client::Builder::new()
        .initial_connection_window_size(16 << 20)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn open(client: &SendRequest<Bytes>, path: &str) -> anyhow::Result<RecvStream> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://own{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut client = client.clone().ready().await?;
    let (response, _) = client.send_request(request, true)?;
    let response = response.await?;
    anyhow::ensure!(
        response.status() == StatusCode::OK,
        "{:?}",
        response.headers()
    );
    Ok(response.into_body())
}

/// What a stream brought.
struct Read {
    messages: usize,
    /// It ended in order, with its status.
    ended: bool,
    longest_gap: Duration,
}

async fn read(mut body: RecvStream) -> anyhow::Result<Read> {
    read_into(&mut body).await
}

async fn read_into(body: &mut RecvStream) -> anyhow::Result<Read> {
    let (mut bytes, mut longest_gap, mut last) = (0, Duration::ZERO, Instant::now());
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes += data.len();
        longest_gap = longest_gap.max(last.elapsed());
        last = Instant::now();
    }
    let trailers = body.trailers().await?.context("no trailers")?;
    Ok(Read {
        messages: bytes / MESSAGE.len(),
        ended: trailers["grpc-status"] == "0" && bytes % MESSAGE.len() == 0,
        longest_gap,
    })
}

/// How many messages the server has sent when it can send no more.
async fn stalled_at(server: &Server) -> anyhow::Result<usize> {
    let mut last = usize::MAX;
    wait_for("a stalled stream", PATIENCE, async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sent = server.counts().messages;
        let stalled = sent == last;
        last = sent;
        Ok(stalled.then_some(sent))
    })
    .await
}

/// Resident bytes of each sidecar.
async fn memory(mesh: &Mesh) -> anyhow::Result<[f64; 2]> {
    let mut all = [0.0; 2];
    for (bytes, workload) in all.iter_mut().zip(WORKLOADS) {
        *bytes = metrics(mesh, workload)
            .await?
            .sum("process_resident_memory_bytes", &[]);
        anyhow::ensure!(*bytes > 0.0, "no resident memory of {workload}");
    }
    Ok(all)
}

/// Runs `work`, and looks at the sidecars' memory meanwhile: the most of each.
async fn peak_while<T>(
    mesh: &Mesh,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<([f64; 2], T)> {
    let mut work = std::pin::pin!(work);
    let mut most = memory(mesh).await?;
    loop {
        let done = tokio::select! {
            done = &mut work => Some(done?),
            () = tokio::time::sleep(Duration::from_millis(250)) => None,
        };
        let now = memory(mesh).await?;
        for (most, now) in most.iter_mut().zip(now) {
            *most = most.max(now);
        }
        if let Some(done) = done {
            return Ok((most, done));
        }
    }
}
