//! Programs that put a load on HTTP servers: `nghttp`, `h2load`, `wrk`.

use anyhow::Context as _;
use weft_sandbox::{AppSpec, Mesh};

use crate::Suite;
use crate::common::{CLIENT, Cx, SERVER, assert_requests, client_and_apps, host, metrics, succeed};
use crate::programs::{Needs, command};

const PORT: u16 = 8080;
/// What `wrk` has open at once; at its end each may have a request in flight.
const WRK_CONNECTIONS: u64 = 20;

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::programs(&["nghttp", "h2load"]);
    suite.add("http_load::nghttp_and_h2load", needs, nghttp_and_h2load);
    suite.add("http_load::wrk", Needs::programs(&["wrk"]), wrk);
}

/// Streams beside each other with small windows, a body, 5,000 requests over HTTP/2 and 2,000 over
/// HTTP/1.1: all succeed, and the application has counted every one.
async fn nghttp_and_h2load(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_apps("h2load", [(PORT, AppSpec::http())]),
        async |mesh| {
            let mut nghttp = command("nghttp", mesh.dir());
            // Windows of 2^14 bytes, of the streams and of the connection.
            nghttp.args(["--verbose", "--null-out", "--multiply=20"]);
            nghttp.args(["--window-bits=14", "--connection-window-bits=14"]);
            nghttp.arg(url(mesh, "/large?bytes=200000"));
            let said = succeed(mesh, nghttp).await?;
            assert_eq!(said.matches(":status: 200").count(), 20, "{said}");
            assert_eq!(said.matches("GOAWAY").count(), 1, "its own only: {said}");

            let body = mesh.dir().join("body");
            std::fs::write(&body, vec![b'x'; 300_000])?;
            let mut nghttp = command("nghttp", mesh.dir());
            nghttp.arg("--data").arg(&body).arg(url(mesh, "/body"));
            let said = succeed(mesh, nghttp).await?;
            assert!(said.contains("\"bodyLength\":300000"), "{said}");

            let h2 = ["-n", "5000", "-c", "10", "-m", "20"];
            let small = url(mesh, "/small");
            h2load(&cx, mesh, 5000, &h2, &small).await?;
            let h1 = ["-n", "2000", "-c", "10", "--h1"];
            h2load(&cx, mesh, 2000, &h1, &small).await?;
            let sent = 20 + 1 + 5000 + 2000;
            let seen = mesh.app(SERVER).stats().await?;
            assert_eq!((seen.requests, seen.cancelled), (sent, 0));
            assert_requests(mesh, sent).await
        },
    )
    .await
}

/// Every request of `h2load` succeeds.
pub(crate) async fn h2load(
    cx: &Cx,
    mesh: &Mesh,
    wanted: u64,
    args: &[&str],
    url: &str,
) -> anyhow::Result<()> {
    let mut h2load = command("h2load", mesh.dir());
    h2load.args(args).arg(url);
    let said = succeed(mesh, h2load).await?;
    let all = format!(
        "requests: {wanted} total, {wanted} started, {wanted} done, {wanted} succeeded, 0 failed, \
         0 errored, 0 timeout"
    );
    assert!(said.contains(&all), "{said}");
    assert!(
        said.contains(&format!("status codes: {wanted} 2xx")),
        "{said}"
    );
    let took = said.lines().find(|line| line.starts_with("finished in"));
    cx.measured(format!("h2load {args:?}: {}", took.unwrap_or_default()));
    Ok(())
}

/// `wrk` says nothing of errors, and the application and both sidecars have at least what it counted.
async fn wrk(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_apps("wrk", [(PORT, AppSpec::http())]),
        async |mesh| {
            let mut wrk = command("wrk", mesh.dir());
            wrk.args(["--threads", "2", "--duration", "2s", "--timeout", "20s"]);
            wrk.args([
                "--connections",
                &WRK_CONNECTIONS.to_string(),
                &url(mesh, "/wrk"),
            ]);
            let said = succeed(mesh, wrk).await?;
            assert!(!said.contains("Socket errors"), "{said}");
            assert!(!said.contains("Non-2xx"), "{said}");
            let line = said.lines().find(|line| line.contains(" requests in "));
            let count = line.and_then(|line| line.split_whitespace().next());
            let done: u64 = count.context(said.clone())?.parse()?;
            cx.measured(line.unwrap_or_default().trim());
            assert!(done > 100, "{said}");
            let seen = mesh.app(SERVER).stats().await?.requests;
            assert!(
                (done..=done + WRK_CONNECTIONS).contains(&seen),
                "{seen} seen\n{said}"
            );
            for workload in [CLIENT, SERVER] {
                let labels = [("tls", "mutual"), ("status", "200")];
                let counted = metrics(mesh, workload)
                    .await?
                    .sum("weft_requests_total", &labels);
                assert!(counted >= done as f64, "{counted} of {workload}\n{said}");
            }
            Ok(())
        },
    )
    .await
}

fn url(mesh: &Mesh, path: &str) -> String {
    format!("http://{}:{PORT}{path}", host(mesh))
}
