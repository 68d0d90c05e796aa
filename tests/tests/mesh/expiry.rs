//! Certificates that are not renewed, and the secrets behind them. Certificates live for seconds here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
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
    APP_PORT, Cx, PORT, assert_all_served_once, client_and, http_app, id, mesh, metrics, request,
    send, service, stats, wait_for,
};

const TCP_PORT: u16 = 9000;
/// What goes both ways over connections of bytes.
const BYTES: [u8; 64] = [7; 64];
/// What an exchange may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// How soon after the control plane's return all is well: the longest pause between two tries, and time
/// to do it.
const RECOVERY: Duration = Duration::from_secs(20);
/// Traffic that must not fail ends this long before a certificate does; certificates count whole seconds.
const MARGIN: Duration = Duration::from_millis(1_200);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("expiry::traffic_until_then_and_none_after", outage);
    suite.add("expiry::no_secret_is_ever_shown", secrets);
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
        for (workload, end) in all.into_iter().zip(&ends) {
            let at = warned(workload).await?;
            let before = end.duration_since(at).with_context(|| {
                format!("{workload} says that it cannot renew only after the end")
            })?;
            cx.measured(format!("{workload} says so {before:.1?} before the end"));
            assert_eq!(expiry(mesh, workload).await?, *end, "{workload}");
        }
        sleep(until(*first).saturating_sub(MARGIN)).await;
        exchange(&mut kept).await?;
        let report = load.stop().await;
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

/// "Key material never logged, never in `/config`; a test greps logs and dumps for it."
async fn secrets(cx: Cx) -> anyhow::Result<()> {
    let client = Workload::new("client").service_account("client");
    let builder = mesh("secrets")
        .workload(client.env(env::LOG_LEVEL, "trace"))
        .workload(http_app("api-1").env(env::LOG_LEVEL, "trace"))
        .service(service("api", ["api-1"]))
        .control_plane_env(env::LEAF_LIFETIME, "4s")
        .control_plane_env(env::LOG_LEVEL, "trace");
    cx.on(builder, async |mesh| {
        let load = Load::new(mesh.addr("api", PORT))
            .clients(2)
            .rate(20.0)
            .shot(Shot::get("/"))
            .start(&mesh.pod("client"));
        // Renewals, an outage with failing ones, and renewals again.
        sleep(Duration::from_secs(3)).await;
        mesh.kill_control_plane().await?;
        wait_for("a failed renewal", PATIENCE, async || {
            Ok((renewals(mesh, "client", "failed").await? > 0.0).then_some(()))
        })
        .await?;
        mesh.start_control_plane().await?;
        let before = renewals(mesh, "client", "ok").await?;
        wait_for("a renewal", RECOVERY, async || {
            Ok((renewals(mesh, "client", "ok").await? > before).then_some(()))
        })
        .await?;
        load.stop().await;

        let needles = needles(mesh)?;
        let pages = pages(mesh).await?;
        cx.measured(format!(
            "{} secrets in {} texts",
            needles.len(),
            pages.len()
        ));
        for (place, text) in &pages {
            for (what, needle) in &needles {
                assert!(!text.contains(needle.as_str()), "{place} has {what}");
            }
        }
        Ok(())
    })
    .await
}

/// What must be nowhere: every line of every private key of the authority, and the token of each workload.
fn needles(mesh: &Mesh) -> anyhow::Result<Vec<(String, String)>> {
    let authority = std::fs::read_to_string(mesh.state_dir().join("authority.pem"))?;
    let mut needles = vec![("a private key".to_owned(), "PRIVATE KEY".to_owned())];
    let mut inside = false;
    for line in authority.lines() {
        if line.contains("PRIVATE KEY") {
            inside = line.starts_with("-----BEGIN");
        } else if inside && line.len() >= 16 {
            needles.push(("a key of the authority".to_owned(), line.to_owned()));
        }
    }
    // Two keys of more than one line each.
    assert!(needles.len() > 4, "the authority's keys were not found");
    for workload in mesh.workloads() {
        let file = format!("{}.token", workload.replace('/', "."));
        let token = std::fs::read_to_string(mesh.dir().join(file))?
            .trim()
            .to_owned();
        assert!(token.len() >= 16, "the token of {workload}");
        needles.push((format!("the token of {workload}"), token));
    }
    Ok(needles)
}

/// All that a mesh says of itself: logs, and every page of every admin port.
async fn pages(mesh: &Mesh) -> anyhow::Result<Vec<(String, String)>> {
    let mut pages = Vec::new();
    for file in std::fs::read_dir(mesh.dir().join("logs"))? {
        let path = file?.path();
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        pages.push((path.display().to_string(), text));
    }
    let is_log_of = |name: &str| {
        let holds = |(place, text): &(String, String)| place.contains(name) && text.len() > 200;
        pages.iter().any(holds)
    };
    assert!(is_log_of("control-plane") && is_log_of("api-1") && is_log_of("client"));
    for workload in mesh.workloads() {
        for page in [
            "/health",
            "/config",
            "/metrics",
            "/circuit-breakers",
            "/ready",
        ] {
            let answer = mesh.admin_get(&workload, page).await?;
            assert!(
                answer.status.is_success(),
                "{workload} {page}: {}",
                answer.status
            );
            pages.push((format!("{page} of {workload}"), answer.text()));
        }
    }
    for page in ["/health", "/status", "/identity", "/metrics", "/ready"] {
        let answer = mesh.control_plane_get(page).await?;
        assert!(answer.status.is_success(), "{page}: {}", answer.status);
        pages.push((format!("{page} of the control plane"), answer.text()));
    }
    // What may be known is shown.
    let (_, config) = pages
        .iter()
        .find(|(place, _)| place.starts_with("/config"))
        .context("no /config")?;
    let config: Value = serde_json::from_str(config)?;
    let identity = &config["health"]["identity"];
    for shown in ["spiffeId", "serial", "fingerprint", "issuerFingerprint"] {
        assert!(identity[shown].is_string(), "{shown} in {identity}");
    }
    assert!(identity["notAfter"].is_u64() && identity["rootFingerprints"][0].is_string());
    Ok(pages)
}

/// When a sidecar says that its certificate expires.
async fn expiry(mesh: &Mesh, workload: &str) -> anyhow::Result<SystemTime> {
    let metrics = metrics(mesh, workload).await?;
    let seconds = metrics
        .value("weft_certificate_expiry_timestamp_seconds", &[])
        .context("no expiry")?;
    Ok(UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

async fn renewals(mesh: &Mesh, workload: &str, result: &str) -> anyhow::Result<f64> {
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
