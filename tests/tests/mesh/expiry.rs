//! Certificates that are not renewed. Certificates live for seconds here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use weft_proto::names::{alpn, env};
use weft_sandbox::load::{Load, Report, Shot};
use weft_sandbox::{AppSpec, Mesh, Service, Workload};
use weft_tests::tls::{self, Credentials};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, assert_all_served_once, client_and, id, metrics, request, send, stats,
    wait_for,
};

const TCP_PORT: u16 = 9000;
/// What goes both ways over connections of bytes.
const BYTES: [u8; 64] = [7; 64];
/// What an exchange may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// How soon after the control plane's return all is well: the longest pause between two tries, and time
/// to do it.
pub(crate) const RECOVERY: Duration = Duration::from_secs(20);
/// Traffic that must not fail ends this long before a certificate does; certificates count whole seconds.
const MARGIN: Duration = Duration::from_millis(1_200);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("expiry::traffic_until_then_and_none_after", outage);
}

/// "Control plane away for longer than a certificate's remaining life: traffic goes on until expiry, then
/// fails closed with its outcome; metrics warn well before; all heals by itself."
async fn outage(cx: Cx) -> anyhow::Result<()> {
    let life = cx.pick(8, 20);
    let builder = client_and("expiry", ["api-1"])
        .workload(Workload::new("bytes-1").port(TCP_PORT, AppSpec::tcp()))
        .service(
            Service::new("bytes")
                .port(TCP_PORT, TCP_PORT)
                .app_protocol("tcp")
                .endpoints(["bytes-1"]),
        )
        .control_plane_env(env::LEAF_LIFETIME, &format!("{life}s"));
    cx.on(builder, async |mesh| {
        let all = ["client", "api-1", "bytes-1"];
        let load = Load::new(mesh.addr("api", PORT))
            .clients(4)
            .rate(50.0)
            .shot(Shot::get("/"))
            .shot(Shot::post("/orders", 100))
            .start(&mesh.pod("client"));
        let mut kept = connect(mesh).await?;
        exchange(&mut kept).await?;
        // Longer than a certificate lives: connections leave theirs, and bytes outlive it.
        sleep(Duration::from_secs(life + 1)).await;
        exchange(&mut kept).await?;
        for workload in all {
            let renewed = renewals(mesh, workload, "ok").await?;
            assert!(renewed >= 2.0, "{workload} was renewed {renewed} times");
        }

        mesh.kill_control_plane().await?;
        let mut ends = Vec::new();
        for workload in all {
            ends.push(expiry(mesh, workload).await?);
        }
        let first = ends.iter().min().context("no sidecar")?;
        let last = ends.iter().max().context("no sidecar")?;
        // Half of a life at least is left when the control plane goes, so that somebody is warned: the
        // expiry does not move, and attempts to renew fail.
        let warned = async |workload: &'static str| {
            wait_for("a failed renewal", PATIENCE, async || {
                let failed = renewals(mesh, workload, "failed").await?;
                Ok((failed > 0.0).then(SystemTime::now))
            })
            .await
        };
        let warnings = all.into_iter().zip(&ends).map(async |(workload, end)| {
            let at = warned(workload).await?;
            let before = end.duration_since(at).with_context(|| {
                format!("{workload} says that it cannot renew only after the end")
            })?;
            cx.measured(format!("{workload} says so {before:.1?} before the end"));
            assert_eq!(expiry(mesh, workload).await?, *end, "{workload}");
            anyhow::Ok(())
        });
        let until_then = async {
            sleep(until(*first).saturating_sub(MARGIN)).await;
            exchange(&mut kept).await?;
            anyhow::Ok(load.stop().await)
        };
        // All at once: one that was just renewed may notice only when another one's has ended.
        let (_, report) = tokio::try_join!(try_join_all(warnings), until_then)?;
        let served = stats(mesh, ["api-1"]).await?;
        assert_all_served_once(&report, &served);
        assert!(report.sent > 100, "{} requests", report.sent);

        // After the end of all of them nothing passes, in either direction, new or open.
        sleep(until(*last) + MARGIN).await;
        let client = mesh.pod("client");
        for number in 0..5 {
            let order = request(Method::POST, "/late", &format!("late-{number}"), "late");
            let answer = send(&client, mesh.addr("api", PORT), order).await?;
            assert_eq!(answer.status, 502, "{}", answer.text());
            assert_eq!(answer.outcome(), Some("tls_failed"));
        }
        for mut stream in [kept, connect(mesh).await?] {
            let passed = exchange(&mut stream).await;
            assert!(passed.is_err(), "bytes passed after the end");
        }
        // Nor does the server's side take anybody, as good as its certificate may be.
        let good = Credentials::good(&mesh.state_dir(), &id("client"))?;
        let stranger = mesh.stranger("stranger")?;
        let to = (mesh.pod("api-1").v4(), APP_PORT).into();
        let refused = tls::connect(stranger.connect(to).await?, Some(&good), &[alpn::HTTP1]).await;
        assert!(refused.is_err(), "the server's side took a connection");
        assert_eq!(failed_closed(mesh, "client", "outbound").await?, 2.0);
        for server in ["api-1", "bytes-1"] {
            assert_eq!(
                failed_closed(mesh, server, "inbound").await?,
                1.0,
                "{server}"
            );
        }
        let late = stats(mesh, ["api-1"]).await?;
        assert_eq!(late.requests, served.requests, "{:?}", late.routes);
        for workload in all {
            let health = mesh.admin_get(workload, "/config").await?;
            let config: Value = serde_json::from_slice(&health.body)?;
            let identity = &config["health"]["identity"];
            assert_eq!(identity["expired"], true, "{identity}");
            assert!(identity["lastError"].is_string(), "{identity}");
        }

        mesh.start_control_plane().await?;
        let healing = std::time::Instant::now();
        wait_for("an answer", RECOVERY, async || {
            let answer = client.get(mesh.addr("api", PORT), "/again").await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await?;
        wait_for("bytes", RECOVERY, async || {
            let exchanged = async { exchange(&mut connect(mesh).await?).await };
            Ok(exchanged.await.is_ok().then_some(()))
        })
        .await?;
        let healed = healing.elapsed();
        let report = Load::new(mesh.addr("api", PORT))
            .requests(50)
            .run(&client)
            .await;
        assert_healed(mesh, &report).await?;
        cx.measured(format!(
            "all is well {healed:.1?} after the control plane's return"
        ));
        Ok(())
    })
    .await
}

async fn assert_healed(mesh: &Mesh, report: &Report) -> anyhow::Result<()> {
    assert_eq!(
        (report.sent, report.not_ok()),
        (50, 0),
        "{:?}",
        report.outcomes
    );
    for workload in ["client", "api-1", "bytes-1"] {
        assert!(
            expiry(mesh, workload).await? > SystemTime::now(),
            "{workload}"
        );
        // Not a byte was ever sent or taken in plaintext instead.
        let metrics = metrics(mesh, workload).await?;
        for family in ["weft_requests_total", "weft_tcp_connections_total"] {
            let plain = metrics.sum(family, &[("tls", "none"), ("outcome", "ok")]);
            assert_eq!(plain, 0.0, "{family} of {workload}");
        }
    }
    Ok(())
}

/// When a sidecar says that its certificate expires.
async fn expiry(mesh: &Mesh, workload: &str) -> anyhow::Result<SystemTime> {
    let metrics = metrics(mesh, workload).await?;
    let seconds = metrics
        .value("weft_certificate_expiry_timestamp_seconds", &[])
        .context("no expiry")?;
    Ok(UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

pub(crate) async fn renewals(mesh: &Mesh, workload: &str, result: &str) -> anyhow::Result<f64> {
    let metrics = metrics(mesh, workload).await?;
    Ok(metrics.sum("weft_certificate_renewals_total", &[("result", result)]))
}

/// Connections of bytes, or that never came to be more, which a sidecar ended as `tls_failed`; waits for
/// the first.
async fn failed_closed(mesh: &Mesh, workload: &str, direction: &str) -> anyhow::Result<f64> {
    wait_for("connections that failed closed", PATIENCE, async || {
        let metrics = metrics(mesh, workload).await?;
        let labels = [("direction", direction), ("outcome", "tls_failed")];
        let failed = metrics.sum("weft_tcp_connections_total", &labels);
        Ok((failed > 0.0).then_some(failed))
    })
    .await
    .with_context(|| format!("{direction} at {workload}"))
}

fn until(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::now()).unwrap_or_default()
}

async fn connect(mesh: &Mesh) -> anyhow::Result<TcpStream> {
    let to = mesh.addr("bytes", TCP_PORT);
    Ok(mesh.pod("client").connect(to).await?)
}

async fn exchange(stream: &mut TcpStream) -> anyhow::Result<()> {
    let exchanging = async {
        stream.write_all(&BYTES).await?;
        let mut back = [0; BYTES.len()];
        stream.read_exact(&mut back).await?;
        anyhow::ensure!(back == BYTES, "other bytes came back");
        Ok(())
    };
    timeout(PATIENCE, exchanging).await?
}
