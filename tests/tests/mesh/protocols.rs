//! What applications speak, where no other room of these suites shows it: whatever clients of one port
//! speak, interim answers, trailers, names of headers, who waits for whom; and what a sidecar does of
//! its own accord: it replaces connections, and says who the client is.

mod server;
mod standing;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_sandbox::app::http::Seen;
use weft_sandbox::client::{Answer, Http1, Http2};
use weft_sandbox::load::{Load, Protocol, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Pod, Service, Workload};

use self::server::{Server, Spoken};
use self::standing::{long_http1, long_http2};
use crate::Suite;
use crate::common::{
    Cx, PORT, assert_no_failure, client_and, http_app, mesh, metrics, request, service, stats,
    wait_for,
};

/// Where the tests' own server listens; nobody says what it speaks.
const OWN_PORT: u16 = 9300;
/// The host that a client asks for by TLS of its own.
const SERVER_NAME: &str = "shop.example";
/// The body for a server that does not read: more than all buffers between the two hold.
const LONG: usize = 256 * 1024 * 1024;
/// What those buffers hold at most: the kernel's of three connections, and the windows.
const HELD: usize = 96 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("protocols::one_port_for_every_client", one_port);
    suite.add("protocols::interim_answers", interim);
    suite.add("protocols::trailers_both_ways", trailers);
    suite.add("protocols::names_and_order_of_headers", names);
    suite.add("protocols::names_as_they_were_spelled", spelling);
    suite.add(
        "protocols::a_server_that_does_not_read_stops_its_client",
        not_reading,
    );
    suite.add("protocols::old_connections_are_replaced", ages);
    suite.add("protocols::clients_addresses", addresses);
}

/// Clients of one port speak HTTP/1, HTTP/2 without being asked, TLS of their own and bytes, one after
/// the other and again: each is carried as what it is, from the mesh and from outside.
async fn one_port(cx: Cx) -> anyhow::Result<()> {
    cx.on(own_server("one-port"), async |mesh| {
        let server = Server::start(&mesh.pod("server-1"), OWN_PORT)?;
        for (pod, to) in ways(mesh)? {
            for _ in 0..2 {
                let hello = client_hello()?;
                for sent in [&b"\x00\x01 neither"[..], b"PRI * HTT", &hello] {
                    let mut stream = pod.connect(to).await?;
                    stream.write_all(sent).await?;
                    // Half of a preface is nothing yet; now it is something else.
                    let more: &[u8] = if sent.starts_with(b"PRI") { b"X!" } else { b"" };
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    stream.write_all(more).await?;
                    let sent = [sent, more].concat();
                    let back = exactly(&mut stream, sent.len()).await?;
                    ensure!(back == sent, "{sent:?} came back as {back:?}");
                    stream.shutdown().await?;
                    let seen = ended(&mut stream, &server).await?;
                    let tls = sent.first() == Some(&22);
                    let spoken = if tls { Spoken::Tls } else { Spoken::Bytes };
                    ensure!(seen.spoken == [spoken], "{seen:?}");
                    ensure!(seen.bytes == sent, "{seen:?}");
                }
                let answer = get1(&pod, to, "/").await?;
                ensure!((answer.0.as_str(), answer.1.as_str()) == ("200", "ok"));
                let seen = server.take();
                ensure!(
                    seen.heads.len() == 1 && seen.only(Spoken::Http1),
                    "{seen:?}"
                );
                let client = Http2::connect(&pod, to).await?;
                let answer = client.request(request(Method::GET, "http://api/", "", ""));
                let answer = answer.await?;
                ensure!(
                    answer.text() == "ok",
                    "{}: {}",
                    answer.status,
                    answer.text()
                );
                let seen = server.take();
                ensure!(seen.streams == 1 && seen.only(Spoken::Http2), "{seen:?}");
            }
        }
        // Who asked for a host by TLS of its own is in the client's sidecar's metrics, and in the
        // server's where the mesh's TLS is not around it.
        let named = [("sni", SERVER_NAME)];
        for (workload, expected) in [("client", 2.0), ("server-1", 2.0)] {
            let metrics = metrics(mesh, workload).await?;
            let connections = metrics.sum("weft_tcp_connections_total", &named);
            assert_eq!(connections, expected, "with a server name at {workload}");
        }
        Ok(())
    })
    .await
}

/// An interim answer of the application (103) is not passed on, as `docs/http1.md` says; the answer
/// behind it is, and the connection goes on.
async fn interim(cx: Cx) -> anyhow::Result<()> {
    cx.on(own_server("interim"), async |mesh| {
        let server = Server::start(&mesh.pod("server-1"), OWN_PORT)?;
        for (pod, to) in ways(mesh)? {
            let mut stream = pod.connect(to).await?;
            for target in ["/hints", "/"] {
                let head = format!("GET {target} HTTP/1.1\r\nhost: h\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let answer = until(&mut stream, "\r\n\r\nok").await?;
                ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
                ensure!(!answer.contains("link"), "{answer}");
            }
            ensure!(server.take().heads.len() == 2);
        }
        Ok(())
    })
    .await
}

/// Trailers, of requests and of answers: HTTP/1 where the head names them, HTTP/2 always.
async fn trailers(cx: Cx) -> anyhow::Result<()> {
    cx.on(own_server("trailers"), async |mesh| {
        let server = Server::start(&mesh.pod("server-1"), OWN_PORT)?;
        for (pod, to) in ways(mesh)? {
            let mut stream = pod.connect(to).await?;
            stream
                .write_all(
                    b"POST /trailers HTTP/1.1\r\nhost: h\r\nconnection: te\r\nte: trailers\r\n\
                      transfer-encoding: chunked\r\ntrailer: x-part\r\n\r\n\
                      2\r\nab\r\n0\r\nx-part: 3\r\n\r\n",
                )
                .await?;
            let answer = until(&mut stream, "\r\n0\r\nx-sum: 7\r\n\r\n").await?;
            ensure!(answer.contains("\r\ntrailer: x-sum\r\n"), "{answer}");
            let seen = server.take();
            let [head] = &seen.heads[..] else {
                anyhow::bail!("{seen:?}");
            };
            ensure!(head.contains("\r\nte: trailers\r\n"), "{head}");
            ensure!(head.ends_with("\r\nx-part: 3\r\n"), "{head}");

            let client = connect2(&pod, to).await?;
            let mut client = client.ready().await?;
            let post = Request::post("http://own/").body(())?;
            let (answer, mut body) = client.send_request(post, false)?;
            body.send_data(Bytes::from_static(b"ab"), false)?;
            let mut sent = HeaderMap::new();
            sent.insert("x-part", HeaderValue::from_static("3"));
            sent.insert("grpc-status", HeaderValue::from_static("0"));
            body.send_trailers(sent.clone())?;
            let mut answer = answer.await?.into_body();
            while let Some(data) = answer.data().await {
                answer.flow_control().release_capacity(data?.len())?;
            }
            let back = answer.trailers().await?.context("no trailers")?;
            ensure!(back == sent, "{back:?}");
            let mut seen = server.take().trailers;
            seen.sort();
            ensure!(seen == ["grpc-status: 0", "x-part: 3"], "{seen:?}");
        }
        Ok(())
    })
    .await
}

/// Headers arrive in the order and the number in which they were sent, their names in lower case.
async fn names(cx: Cx) -> anyhow::Result<()> {
    cx.on(own_server("names"), async |mesh| {
        let server = Server::start(&mesh.pod("server-1"), OWN_PORT)?;
        for (pod, to) in ways(mesh)? {
            let mut stream = pod.connect(to).await?;
            stream
                .write_all(
                    b"GET /names HTTP/1.1\r\nHost: h\r\nX-B: 1\r\nUser-Agent: Test/1\r\nX-A: 2\r\n\
                      X-B: 3\r\nAccept: */*\r\nX-Request-Id: q\r\n\r\n",
                )
                .await?;
            let answer = until(&mut stream, "\r\n\r\nok").await?;
            let back = [
                "x-one: 1",
                "set-cookie: a=1",
                "set-cookie: b=2",
                "etag: \"x\"",
                "x-two: 2",
                "content-length: 2",
            ];
            ensure!(lines(&answer) == back, "{answer}");
            let seen = server.take();
            let there = [
                "host: h",
                "x-b: 1",
                "x-b: 3",
                "user-agent: Test/1",
                "x-a: 2",
                "accept: */*",
                "x-request-id: q",
            ];
            ensure!(lines(&seen.heads[0]) == there, "{seen:?}");
        }
        Ok(())
    })
    .await
}

/// Where that is asked for, names are as they were spelled, both ways.
async fn spelling(cx: Cx) -> anyhow::Result<()> {
    let keeps = |name| Workload::new(name).env("WEFT_HEADER_CASE", "keep");
    let builder = mesh("spelling")
        .workload(keeps("client"))
        .workload(keeps("server-1").port(OWN_PORT, AppSpec::none()))
        .service(own_service());
    cx.on(builder, async |mesh| {
        let server = Server::start(&mesh.pod("server-1"), OWN_PORT)?;
        for (pod, to) in ways(mesh)? {
            // The second time over connections that are there.
            for _ in 0..2 {
                let mut stream = pod.connect(to).await?;
                let head = "GET /names HTTP/1.1\r\nHost: h\r\nX-B: 1\r\nX-A: 2\r\nx-b: 3\r\n\
                            SOAPAction: q\r\nConnection: X-Hop\r\nX-Hop: h\r\nX-Request-ID: r\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
                let answer = until(&mut stream, "\r\n\r\nok").await?;
                let back = [
                    "X-One: 1",
                    "Set-Cookie: a=1",
                    "Set-Cookie: b=2",
                    "ETag: \"x\"",
                    "x-two: 2",
                    "Content-Length: 2",
                ];
                ensure!(lines(&answer) == back, "{answer}");
                let seen = server.take();
                let there = [
                    "Host: h",
                    "X-B: 1",
                    "x-b: 3",
                    "X-A: 2",
                    "SOAPAction: q",
                    "X-Request-ID: r",
                ];
                ensure!(lines(&seen.heads[0]) == there, "{seen:?}");
            }
        }
        Ok(())
    })
    .await
}

/// A server that leaves a body alone: its client comes to a stand, over HTTP/1 and HTTP/2, and nothing
/// between them takes what has no place. Afterwards all of it arrives.
async fn not_reading(cx: Cx) -> anyhow::Result<()> {
    cx.on(own_server("not-reading"), async |mesh| {
        let server = Server::start(&mesh.pod("server-1"), OWN_PORT)?;
        let (pod, to) = (mesh.pod("client"), mesh.addr("own", PORT));
        for version in ["HTTP/1.1", "HTTP/2"] {
            let sending = async {
                if version == "HTTP/2" {
                    long_http2(&pod, to).await
                } else {
                    long_http1(&pod, to).await
                }
            };
            let stood_at = sending.await.context(version)?;
            ensure!(stood_at < HELD, "{version}: {stood_at} bytes went away");
            let body = wait_for("the whole body", PATIENCE, async || {
                Ok((server.body() >= LONG).then(|| server.take().body))
            });
            ensure!(body.await? == LONG, "{version}");
            cx.measured(format!("{version}: stood after {} KiB", stood_at / 1024));
        }
        Ok(())
    })
    .await
}

/// Connections between sidecars become a second old and are replaced under load, whoever of the two
/// sees to it: no request fails, each is seen once, and the client's own connections stay.
async fn ages(cx: Cx) -> anyhow::Result<()> {
    const CLIENTS: usize = 4;
    // Who sees to it: nobody, the client's sidecar, the server's.
    const PAIRS: [(&str, &str, &str); 3] = [
        ("nobody", "off", "off"),
        ("asks", "1s", "off"),
        ("serves", "off", "1s"),
    ];
    let duration = cx.pick(Duration::from_secs(8), Duration::from_secs(60));
    let mut builder = mesh("ages");
    for (pair, client_age, server_age) in PAIRS {
        let (client, app) = (format!("{pair}-client"), format!("{pair}-1"));
        builder = builder
            .workload(Workload::new(&client).env("WEFT_MAX_CONNECTION_AGE", client_age))
            .workload(http_app(&app).env("WEFT_MAX_CONNECTION_AGE", server_age))
            .service(service(pair, [app.as_str()]));
    }
    cx.on(builder, async |mesh| {
        let mut running = Vec::new();
        for (pair, ..) in PAIRS {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let load = Load::new(mesh.addr(pair, PORT))
                    .protocol(protocol)
                    .id_prefix(&format!("{protocol:?}-"))
                    .clients(CLIENTS)
                    .rate(50.0)
                    .duration(duration)
                    .shot(Shot::get("/items?delay_ms=30"))
                    .shot(Shot::post("/orders?delay_ms=30", 300))
                    .start(&mesh.pod(&format!("{pair}-client")));
                running.push((pair, protocol, load));
            }
        }
        let mut made = Vec::new();
        let mut reports = Vec::new();
        for (pair, protocol, load) in running {
            let report = load.ended().await;
            ensure!(
                report.reconnects == 0,
                "{pair}, {protocol:?}: the client's own connections ended {} times",
                report.reconnects
            );
            reports.push((pair, report));
        }
        for (pair, ..) in PAIRS {
            let app = format!("{pair}-1");
            let of_pair = reports.iter().filter(|(of, _)| *of == pair);
            let mut sent = 0;
            for (_, report) in of_pair {
                assert_no_failure(report);
                sent += report.sent;
            }
            let seen = mesh.app(&app).stats().await?;
            let ids = seen.ids.len() as u64;
            let counts = (seen.not_listed, seen.repeated_ids(), ids, seen.requests);
            assert_eq!(counts, (0, 0, sent, sent), "{pair}: seen by the server");
            let accepted = [("direction", "inbound"), ("result", "ok")];
            let metrics = metrics(mesh, &app).await?;
            made.push(metrics.sum("weft_tls_handshakes_total", &accepted));
        }
        cx.measured(format!(
            "connections between two sidecars in {duration:?}: {made:?} ({PAIRS:?})"
        ));
        // At least one connection of each version, and no more than requests at once.
        let [nobody, replaced @ ..] = &made[..] else {
            unreachable!("there are three pairs");
        };
        let requests_at_once = 4.0 * CLIENTS as f64;
        ensure!((2.0..=requests_at_once).contains(nobody), "{nobody}");
        // Each of the two versions' connections lives for 1.1 s at most.
        let lives = (duration.as_secs_f64() / 1.1).floor();
        for made in replaced {
            ensure!(*made >= 2.0 * (lives - 2.0), "{made} in {lives} lives");
            ensure!(
                *made <= (lives + 2.0) * requests_at_once,
                "{made}: too many"
            );
        }
        Ok(())
    })
    .await
}

/// `x-forwarded-for`: one application asks to be told, the other does not; HTTP/1 and HTTP/2, from the
/// mesh and from outside.
async fn addresses(cx: Cx) -> anyhow::Result<()> {
    let builder = mesh("addresses")
        .workload(Workload::new("client"))
        .workload(http_app("told-1").env("WEFT_FORWARDED_FOR", "append"))
        .workload(http_app("untold-1"))
        .service(service("told", ["told-1"]))
        .service(service("untold", ["untold-1"]));
    cx.on(builder, async |mesh| {
        let stranger = mesh.stranger("stranger")?;
        for (name, is_told) in [("told", true), ("untold", false)] {
            let app = mesh.pod(&format!("{name}-1")).v4();
            let app = SocketAddr::new(app.into(), crate::common::APP_PORT);
            let ways = [
                (mesh.pod("client"), mesh.addr(name, PORT)),
                (stranger.clone(), app),
            ];
            for (pod, to) in ways {
                let address = pod.v4().to_string();
                for before in [&[][..], &["192.0.2.1"], &["192.0.2.1", "192.0.2.2"]] {
                    let mut all = before.to_vec();
                    let expected = if is_told {
                        all.push(&address);
                        vec![all.join(", ")]
                    } else {
                        all.iter().map(|&one| one.to_owned()).collect()
                    };
                    for answer in both_versions(&pod, to, before).await? {
                        let seen: Seen = serde_json::from_slice(&answer.body)?;
                        let lists = seen.headers.into_iter();
                        let lists = lists.filter(|(name, _)| name == "x-forwarded-for");
                        let lists: Vec<_> = lists.map(|(_, value)| value).collect();
                        ensure!(lists == expected, "{name}: {lists:?}, not {expected:?}");
                    }
                }
            }
        }
        ensure!(stats(mesh, ["told-1", "untold-1"]).await?.requests == 24);
        Ok(())
    })
    .await
}

async fn both_versions(
    pod: &Pod,
    to: SocketAddr,
    forwarded_for: &[&str],
) -> anyhow::Result<[Answer; 2]> {
    let asking = || {
        let mut asking = request(Method::GET, "http://api/", "", "");
        for before in forwarded_for {
            let before = HeaderValue::from_str(before).expect("an address");
            asking.headers_mut().append("x-forwarded-for", before);
        }
        asking
    };
    let first = Http1::connect(pod, to).await?.request(asking()).await?;
    let second = Http2::connect(pod, to).await?.request(asking()).await?;
    Ok([first, second])
}

/// A client, and a workload in whose pod the test's own server listens.
fn own_server(name: &str) -> Builder {
    client_and(name, [])
        .workload(Workload::new("server-1").port(OWN_PORT, AppSpec::none()))
        .service(own_service())
}

fn own_service() -> Service {
    Service::new("own")
        .port(PORT, OWN_PORT)
        .port_name("own")
        .endpoints(["server-1"])
}

/// From the mesh, and from outside of it.
fn ways(mesh: &Mesh) -> anyhow::Result<[(Pod, SocketAddr); 2]> {
    let server = SocketAddr::new(mesh.pod("server-1").v4().into(), OWN_PORT);
    Ok([
        (mesh.pod("client"), mesh.addr("own", PORT)),
        (mesh.stranger("stranger")?, server),
    ])
}

/// What a program says first that asks for [`SERVER_NAME`] by TLS and knows nothing of the mesh.
fn client_hello() -> anyhow::Result<Vec<u8>> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = SERVER_NAME.try_into()?;
    let mut client = rustls::ClientConnection::new(config.into(), name)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok(hello)
}

async fn connect2(pod: &Pod, to: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let (client, connection) = h2::client::handshake(pod.connect(to).await?).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Status and body of one HTTP/1 request on a connection of its own.
async fn get1(pod: &Pod, to: SocketAddr, target: &str) -> anyhow::Result<(String, String)> {
    let mut stream = pod.connect(to).await?;
    let head = format!("GET {target} HTTP/1.1\r\nhost: h\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let answer = until(&mut stream, "\r\n\r\nok").await?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    Ok((status.to_owned(), "ok".to_owned()))
}

/// A head's fields, without those that sidecars add to requests.
fn lines(head: &str) -> Vec<&str> {
    head.split("\r\n")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .collect()
}

/// What comes up to `end`, which must be the last of it.
async fn until(stream: &mut TcpStream, end: &str) -> anyhow::Result<String> {
    let mut heard = Vec::new();
    let reading = async {
        while !heard.ends_with(end.as_bytes()) {
            let read = stream.read_buf(&mut heard).await?;
            ensure!(read > 0, "ended");
        }
        Ok(())
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    let text = String::from_utf8_lossy(&heard).into_owned();
    read.unwrap_or_else(|_| anyhow::bail!("nothing more"))
        .with_context(|| format!("after {text:?}"))?;
    Ok(text)
}

async fn exactly(stream: &mut TcpStream, length: usize) -> anyhow::Result<Vec<u8>> {
    let mut heard = vec![0; length];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut heard)).await??;
    Ok(heard)
}

/// Waits for the end of a connection of bytes: then the server has seen all of it.
async fn ended(stream: &mut TcpStream, server: &Server) -> anyhow::Result<server::Seen> {
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await??;
    ensure!(rest.is_empty(), "more came back: {rest:?}");
    Ok(server.take())
}
