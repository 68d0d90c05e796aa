//! Connections that do nothing.

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Service, Workload};

use super::{AT_ONCE, Bystander, WORKLOADS, each, exchange, many, memory, need_descriptors};
use crate::Suite;
use crate::common::{APP_PORT, Cx, PORT, mesh, stats};

/// The port of bytes, declared.
const TCP_PORT: u16 = 9000;
/// What one idle connection may take, in KiB: HTTP/1 at the client's sidecar, plaintext HTTP/1 at the
/// server's, bytes at both.
const HTTP_CLIENT: f64 = 8.0;
const HTTP_SERVER: f64 = 14.0;
const TCP_CLIENT: f64 = 10.0;
const TCP_SERVER: f64 = 12.0;

pub(super) fn register(suite: &mut Suite) {
    suite.add("crowds::idle_connections", idle);
}

/// "10,000 idle connections through a sidecar: memory per connection printed": half of them HTTP/1 that
/// are kept after a request, half of them bytes; then half as many HTTP/1 ones of a stranger, straight
/// to the server's sidecar.
async fn idle(cx: Cx) -> anyhow::Result<()> {
    let number = cx.pick(2_500, 5_000);
    need_descriptors(4 * number as u64)?;
    cx.on(two_sidecars("idle"), async |mesh| {
        let client = mesh.pod("client");
        let (http, tcp) = (mesh.addr("api", PORT), mesh.addr("api", TCP_PORT));
        let stranger = mesh.stranger("stranger")?;
        let direct = (mesh.pod("server-1").v4(), APP_PORT).into();
        // What is allocated once, for whatever load.
        let _warm = many(2 * AT_ONCE, async |_| {
            let mut one = client.connect(http).await?;
            exchange(&mut one, "/warm").await?;
            let mut other = client.connect(tcp).await?;
            echo(&mut other).await
        })
        .await?;
        let alone = Bystander::baseline(&client, http).await?;
        let crowded = Bystander::start(&client, http, "crowded");

        let before = memory(mesh, WORKLOADS).await?;
        let mut https = many(number, async |_| {
            let mut stream = client.connect(http).await?;
            exchange(&mut stream, "/idle").await?;
            Ok(stream)
        })
        .await?;
        let with_http = memory(mesh, WORKLOADS).await?;
        let mut tcps = many(number, async |_| {
            let mut stream = client.connect(tcp).await?;
            echo(&mut stream).await?;
            Ok(stream)
        })
        .await?;
        let with_tcp = memory(mesh, WORKLOADS).await?;
        let mut strange = many(number / 2, async |_| {
            let mut stream = stranger.connect(direct).await?;
            exchange(&mut stream, "/idle").await?;
            Ok(stream)
        })
        .await?;
        let with_strange = memory(mesh, WORKLOADS).await?;

        // Each is still there, and the application has all that are bytes.
        let open = stats(mesh, ["server-1"]).await?.open_connections;
        assert!(open >= number as u64, "{open} connections at the server");
        for stream in https.iter_mut().chain(&mut strange).step_by(10) {
            exchange(stream, "/idle").await.context("HTTP/1")?;
        }
        for stream in tcps.iter_mut().step_by(10) {
            echo(stream).await.context("bytes")?;
        }
        let crowded = crowded.end().await?;
        let stats = stats(mesh, ["server-1"]).await?;
        let idle = number + number.div_ceil(10) + number / 2 + (number / 2).div_ceil(10);
        let seen = stats.routes.get("GET /idle").copied().unwrap_or_default();
        assert!(
            seen.abs_diff(idle as u64) <= 1,
            "{seen} requests, not {idle}"
        );
        let asked = stats.routes.get("GET /bystander/crowded").copied();
        assert_eq!(asked, Some(crowded.times.len() as u64));

        let http = each(number, before, with_http);
        let tcp = each(number, with_http, with_tcp);
        let strange = each(number / 2, with_tcp, with_strange);
        cx.measured(format!("{number} idle HTTP/1: {http}"));
        cx.measured(format!("{number} idle opaque: {tcp}"));
        cx.measured(format!(
            "{} idle HTTP/1 in plaintext: {strange}",
            number / 2
        ));
        cx.measured(format!("others alone: {alone}; in the crowd: {crowded}"));
        crowded.assert_like(&alone);
        // The server's sidecar has only what the client's has open at once.
        http.assert_at_most("HTTP/1", HTTP_CLIENT, 1.0);
        tcp.assert_at_most("bytes", TCP_CLIENT, TCP_SERVER);
        strange.assert_at_most("plaintext HTTP/1", 1.0, HTTP_SERVER);
        Ok(())
    })
    .await
}

/// A few bytes there and back.
async fn echo(stream: &mut TcpStream) -> anyhow::Result<()> {
    const WORDS: &[u8] = b"a few words";
    let mut heard = [0; WORDS.len()];
    stream.write_all(WORDS).await?;
    stream.read_exact(&mut heard).await?;
    anyhow::ensure!(heard == WORDS);
    Ok(())
}

fn two_sidecars(name: &str) -> Builder {
    let server = Workload::new("server-1")
        .port(APP_PORT, AppSpec::http())
        .port(TCP_PORT, AppSpec::tcp());
    let api = Service::new("api")
        .port(PORT, APP_PORT)
        .port(TCP_PORT, TCP_PORT)
        .port_name("tcp-echo")
        .app_protocol("tcp")
        .endpoints(["server-1"]);
    mesh(name)
        .workload(Workload::new("client"))
        .workload(server)
        .service(api)
}
