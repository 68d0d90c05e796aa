//! Through interception, with clients that know of no proxy: curl over HTTP/1.1 and HTTP/2, gRPC of
//! every kind, and long byte streams; IPv4 and IPv6.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::digest::{Context, SHA256};
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_sandbox::app::echo::EchoRequest;
use weft_sandbox::app::http::Seen;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Service, Workload};

use crate::Suite;
use crate::common::{APP_PORT, Cx, PORT, client_and, mesh, metrics, stats};

/// A port whose service says `tcp`.
const TCP_PORT: u16 = 9000;
/// A port whose server speaks first, and about which nobody says anything.
const SERVER_FIRST_PORT: u16 = 9001;
/// A port that the tests listen on themselves.
const OWN_PORT: u16 = 9002;
/// How much goes through opaque connections, each way.
const LONG: usize = 100 * 1024 * 1024;
const BLOCK: usize = 64 * 1024;

pub(crate) fn register(suite: &mut Suite) {
    suite.add_needing(
        Some("curl"),
        "transparent::curl_http1_keep_alive",
        curl_http1,
    );
    suite.add_needing(Some("curl"), "transparent::curl_http2", curl_http2);
    suite.add("transparent::grpc_of_every_kind", grpc);
    suite.add("transparent::long_streams_by_declared_protocol", declared);
    suite.add(
        "transparent::long_streams_where_the_server_speaks_first",
        server_first,
    );
    suite.add(
        "transparent::half_close_from_the_server",
        half_close_from_the_server,
    );
}

/// "Real `curl` HTTP/1.1 keep-alive; IPv6": two URLs go over one connection of curl's, to IPv4 and
/// IPv6 cluster IPs; the application sees HTTP/1.1 and its own host; both sidecars carried it in
/// mutual TLS.
async fn curl_http1(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("curl1", ["api-1"]), async |mesh| {
        for base in bases(mesh) {
            let urls = [format!("{base}/one"), format!("{base}/two?x=1")];
            let answers = curl(mesh, &["--http1.1"], &urls).await?;
            let targets: Vec<_> = answers.iter().map(|a| a.seen.target.as_str()).collect();
            assert_eq!(targets, ["/one", "/two?x=1"]);
            for answer in &answers {
                assert_eq!((answer.status, answer.version.as_str()), (200, "1.1"));
                assert_eq!(answer.seen.protocol, "HTTP/1.1");
                assert!(
                    base.ends_with(&answer.seen.authority),
                    "{base}: {}",
                    answer.seen.authority
                );
            }
            let connects: Vec<_> = answers.iter().map(|answer| answer.connects).collect();
            assert_eq!(
                connects,
                [1, 0],
                "curl opened a connection for the second URL"
            );
        }
        assert_carried(mesh, 4.0).await
    })
    .await
}

/// "HTTP/2 prior knowledge": curl speaks HTTP/2 from the first byte, and the application sees HTTP/2.
/// (curl 7.88 breaks such a connection itself when it uses it again, so each URL has a run of its
/// own; that connections are used again is shown with gRPC.)
async fn curl_http2(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("curl2", ["api-1"]), async |mesh| {
        for base in bases(mesh) {
            for target in ["/one", "/two?x=1"] {
                let url = format!("{base}{target}");
                let answers = curl(mesh, &["--http2-prior-knowledge"], &[url]).await?;
                let [answer] = &answers[..] else {
                    anyhow::bail!("{} answers to one URL", answers.len());
                };
                assert_eq!((answer.status, answer.version.as_str()), (200, "2"));
                assert_eq!(answer.seen.protocol, "HTTP/2.0");
                assert_eq!(answer.seen.target, target);
                assert!(
                    base.ends_with(&answer.seen.authority),
                    "{}",
                    answer.seen.authority
                );
            }
        }
        assert_carried(mesh, 4.0).await
    })
    .await
}

/// "gRPC unary and all streaming kinds (tonic)", over IPv4 and IPv6; a status that the application
/// gives, in trailers, arrives as it is.
async fn grpc(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("grpc", ["api-1"]), async |mesh| {
        for to in [mesh.addr("api", PORT), mesh.addr_v6("api", PORT)] {
            let mut echo = mesh.pod("client").echo_client(to, "api").await?;
            let say = |payload: &str| EchoRequest {
                payload: payload.as_bytes().to_vec(),
                repeat: 5,
                ..EchoRequest::default()
            };
            let answer = echo.unary(say("a")).await?.into_inner();
            assert_eq!(
                (&answer.payload[..], answer.served_by.as_str()),
                (&b"a"[..], "api-1")
            );

            let answers: Vec<_> = echo
                .server_stream(say("b"))
                .await?
                .into_inner()
                .collect()
                .await;
            let numbers: Result<Vec<_>, _> = answers
                .into_iter()
                .map(|answer| answer.map(|a| a.sequence))
                .collect();
            assert_eq!(numbers?, [0, 1, 2, 3, 4]);

            let parts = tokio_stream::iter(["c", "d", "e"].map(say));
            let answer = echo.client_stream(parts).await?.into_inner();
            assert_eq!((&answer.payload[..], answer.sequence), (&b"cde"[..], 3));

            // Each message is sent only when the answer to the one before has come: both directions
            // stream, nothing waits for an end.
            let (talk, listen) = tokio::sync::mpsc::channel(1);
            talk.send(say("0")).await?;
            let requests = tokio_stream::wrappers::ReceiverStream::new(listen);
            let mut answers = echo.bidi(requests).await?.into_inner();
            for number in 0..5_u32 {
                let answer = answers.message().await?.context("the stream ended early")?;
                assert_eq!(answer.payload, number.to_string().into_bytes());
                talk.send(say(&(number + 1).to_string())).await?;
            }
            drop(talk);
            assert!(answers.message().await?.is_some());
            assert!(answers.message().await?.is_none());

            let failure = EchoRequest {
                fail_code: tonic::Code::FailedPrecondition.into(),
                ..EchoRequest::default()
            };
            let status = echo
                .unary(failure)
                .await
                .expect_err("the application refuses");
            assert_eq!(status.code(), tonic::Code::FailedPrecondition);
            assert_eq!(status.message(), "told to fail");
        }
        assert_carried(mesh, 10.0).await
    })
    .await
}

/// "100 MiB through opaque TCP both ways with half-close, hashes equal; IPv6": a port whose service
/// says that it is TCP.
async fn declared(cx: Cx) -> anyhow::Result<()> {
    cx.on(byte_mesh("bytes"), async |mesh| {
        for to in [
            mesh.addr("bytes", TCP_PORT),
            mesh.addr_v6("bytes", TCP_PORT),
        ] {
            let mut stream = mesh.pod("client").connect(to).await?;
            let took = there_and_back(&mut stream).await?;
            cx.measured(format!("100 MiB each way via {to} in {took:.1?}"));
        }
        assert_bytes_carried(mesh, 2).await
    })
    .await
}

/// The same where nothing is declared and the server speaks first: its greeting arrives though the
/// client is silent, and the connection is relayed as bytes.
async fn server_first(cx: Cx) -> anyhow::Result<()> {
    cx.on(byte_mesh("greeting"), async |mesh| {
        for to in [
            mesh.addr("bytes", SERVER_FIRST_PORT),
            mesh.addr_v6("bytes", SERVER_FIRST_PORT),
        ] {
            let mut stream = mesh.pod("client").connect(to).await?;
            let mut greeting = vec![0; b"220 server-1 v1\r\n".len()];
            let reading = stream.read_exact(&mut greeting);
            tokio::time::timeout(Duration::from_secs(5), reading)
                .await
                .context("no greeting")??;
            assert_eq!(greeting, b"220 server-1 v1\r\n");
            let took = there_and_back(&mut stream).await?;
            cx.measured(format!("100 MiB each way via {to} in {took:.1?}"));
        }
        assert_bytes_carried(mesh, 2).await
    })
    .await
}

/// Half-close in the other direction too: a server that has ended its side still gets what the
/// client sends, to the end.
async fn half_close_from_the_server(cx: Cx) -> anyhow::Result<()> {
    cx.on(byte_mesh("half"), async |mesh| {
        let server = mesh.pod("server-1");
        let listener = server.listen(SocketAddr::new(server.v4().into(), OWN_PORT))?;
        let mut client = mesh
            .pod("client")
            .connect(mesh.addr("bytes", OWN_PORT))
            .await?;
        let (mut served, _) = listener.accept().await?;
        served.write_all(b"all that I have").await?;
        served.shutdown().await?;
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await?;
        assert_eq!(heard, b"all that I have");
        for part in [b"still ", b"there "] {
            client.write_all(part).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        client.shutdown().await?;
        heard.clear();
        served.read_to_end(&mut heard).await?;
        assert_eq!(heard, b"still there ");
        Ok(())
    })
    .await
}

/// Where the service `api` is: IPv4, IPv6.
fn bases(mesh: &Mesh) -> [String; 2] {
    // Port 80 is what URLs and authorities leave out.
    let (v4, v6) = mesh.cluster_ips("api");
    [format!("http://{v4}"), format!("http://[{v6}]")]
}

/// One answer to curl.
struct CurlAnswer {
    seen: Seen,
    status: u16,
    version: String,
    connects: u32,
}

/// Runs curl in the client's pod, with nothing in its environment but the path.
async fn curl(mesh: &Mesh, options: &[&str], urls: &[String]) -> anyhow::Result<Vec<CurlAnswer>> {
    let mut command = Command::new("curl");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .args(["--silent", "--show-error", "--globoff", "--max-time", "20"])
        .args([
            "--write-out",
            "\n%{http_code} %{http_version} %{num_connects}\n",
        ])
        .args(options)
        .args(urls);
    let output = mesh.pod("client").output(command).await?;
    anyhow::ensure!(
        output.status.success(),
        "curl {urls:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<_> = text.lines().collect();
    lines
        .chunks(2)
        .map(|pair| {
            let [body, words] = pair else {
                anyhow::bail!("curl printed {text}");
            };
            let words: Vec<_> = words.split(' ').collect();
            let [status, version, connects] = words[..] else {
                anyhow::bail!("curl printed {text}");
            };
            Ok(CurlAnswer {
                seen: serde_json::from_str(body).with_context(|| (*body).to_owned())?,
                status: status.parse()?,
                version: version.to_owned(),
                connects: connects.parse()?,
            })
        })
        .collect()
}

/// Both sidecars say that so many requests went through them, in mutual TLS between the two.
async fn assert_carried(mesh: &Mesh, requests: f64) -> anyhow::Result<()> {
    for (workload, direction) in [("client", "outbound"), ("api-1", "inbound")] {
        let metrics = metrics(mesh, workload).await?;
        let labels = [("direction", direction), ("tls", "mutual")];
        let carried = metrics.sum("weft_requests_total", &labels);
        assert_eq!(
            carried, requests,
            "{direction} requests of {workload} in mutual TLS"
        );
    }
    assert_eq!(stats(mesh, ["api-1"]).await?.requests as f64, requests);
    Ok(())
}

/// A client and a server of byte streams.
fn byte_mesh(name: &str) -> Builder {
    mesh(name)
        .workload(Workload::new("client"))
        .workload(
            Workload::new("server-1")
                .port(APP_PORT, AppSpec::http())
                .port(TCP_PORT, AppSpec::tcp())
                .port(SERVER_FIRST_PORT, AppSpec::tcp_server_first())
                .port(OWN_PORT, AppSpec::none()),
        )
        .service(
            Service::new("bytes")
                .port(TCP_PORT, TCP_PORT)
                .port_name("tcp-echo")
                .app_protocol("tcp")
                .port(SERVER_FIRST_PORT, SERVER_FIRST_PORT)
                .port_name("unsaid")
                .port(OWN_PORT, OWN_PORT)
                .port_name("own")
                .endpoints(["server-1"]),
        )
}

/// Sends [`LONG`] bytes, ends its side, and reads to the other's end: what comes back has the hash
/// of what went. The server ends its side only after the client has, so a lost half-close hangs.
async fn there_and_back(stream: &mut TcpStream) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let (mut read, mut write) = stream.split();
    let sending = async {
        let mut hash = Context::new(&SHA256);
        let mut random = fastrand::Rng::with_seed(100);
        let mut block = vec![0; BLOCK];
        random.fill(&mut block);
        for _ in 0..LONG / BLOCK {
            // No two blocks alike: a block lost, doubled or out of place changes the hash.
            block[..8].copy_from_slice(&random.u64(..).to_ne_bytes());
            hash.update(&block);
            write.write_all(&block).await?;
        }
        write.shutdown().await?;
        anyhow::Ok(hash.finish())
    };
    let receiving = async {
        let mut hash = Context::new(&SHA256);
        let mut block = vec![0; BLOCK];
        let mut length = 0;
        loop {
            let read = read.read(&mut block).await?;
            if read == 0 {
                return anyhow::Ok((hash.finish(), length));
            }
            hash.update(&block[..read]);
            length += read;
        }
    };
    let (sent, (received, length)) = tokio::try_join!(sending, receiving)?;
    assert_eq!(length, LONG);
    assert_eq!(
        received.as_ref(),
        sent.as_ref(),
        "SHA-256 of what came back"
    );
    Ok(begin.elapsed())
}

/// Both sidecars relayed these connections as bytes, in mutual TLS between the two.
async fn assert_bytes_carried(mesh: &Mesh, connections: u64) -> anyhow::Result<()> {
    for (workload, direction) in [("client", "outbound"), ("server-1", "inbound")] {
        let metrics = metrics(mesh, workload).await?;
        let labels = [("direction", direction), ("tls", "mutual")];
        let relayed = metrics.sum("weft_tcp_connections_total", &labels);
        assert_eq!(
            relayed, connections as f64,
            "{direction} connections of {workload}"
        );
    }
    Ok(())
}
