//! Rotations of leaves, issuer and root under load, and who was away meanwhile. Certificates live for
//! seconds here, and with them each phase.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use weft_proto::names::{env, ports};
use weft_sandbox::Mesh;
use weft_sandbox::load::{Load, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::process::Program;
use weft_tests::grpc_and_bytes::{GrpcAndBytes, with_servers};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_all_served_once, client_and, http_app, metrics, service, stats, wait_for,
};

/// What an exchange may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a rotation with these leaves may take.
const ROTATED: Duration = Duration::from_secs(75);
const SOAK_ROTATED: Duration = Duration::from_secs(240);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("rotation::root_and_leaves_under_load", root);
    suite.add("rotation::issuer_under_load", issuer);
    suite.add("rotation::who_was_away_recovers", away);
}

/// "Rotation of leaf, issuer and root under load (HTTP/1, gRPC, TCP): 0 failed; the old root gone at the
/// end; a phase cannot be skipped": the root, with its issuer and several generations of leaves.
async fn root(cx: Cx) -> anyhow::Result<()> {
    under_load(&cx, "rotate-root", "root").await
}

/// The same for the issuer under a root that stays.
async fn issuer(cx: Cx) -> anyhow::Result<()> {
    under_load(&cx, "rotate-issuer", "issuer").await
}

async fn under_load(cx: &Cx, name: &str, kind: &'static str) -> anyhow::Result<()> {
    let leaf = cx.pick("10s", "40s");
    cx.on(loaded(name, leaf), async |mesh| {
        let before = trusted(mesh).await?;
        let load = Load::new(mesh.addr("api", PORT))
            .clients(4)
            .rate(100.0)
            .shot(Shot::get("/"))
            .shot(Shot::post("/orders", 100))
            .start(&mesh.pod("client"));
        let others = GrpcAndBytes::start(mesh);
        let took = rotate_watched(mesh, kind, cx.pick(ROTATED, SOAK_ROTATED)).await?;
        sleep(Duration::from_secs(1)).await;
        let (report, others) = (load.stop().await, others.end(mesh).await?);

        assert_all_served_once(&report, &stats(mesh, ["api-1", "api-2"]).await?);
        assert!(others.calls > 100 && others.connections > 40 && report.sent > 500);
        for (workload, issued) in leaves(mesh).await? {
            assert!(issued >= 3.0, "{workload} had {issued} certificates");
        }

        // Whatever the old one was, nobody has it any more.
        let after = wait_for("sidecars that trust one root", PATIENCE, async || {
            let after = trusted(mesh).await?;
            let is_so = after.values().all(|(roots, _)| roots.len() == 1);
            Ok(is_so.then_some(after))
        })
        .await?;
        let file = std::fs::read_to_string(mesh.state_dir().join("trust-bundle.pem"))?;
        assert_eq!(file.matches("BEGIN CERTIFICATE").count(), 1);
        for (workload, (roots, issuer)) in &after {
            let (old_roots, old_issuer) = &before[workload];
            assert_eq!(roots.len(), 1, "{workload} trusts {roots:?}");
            assert_ne!(issuer, old_issuer, "{workload}");
            assert_eq!(roots == old_roots, kind == "issuer", "{workload}");
        }
        cx.measured(format!(
            "a rotation of the {kind} took {took:.0?}: {} requests, {} gRPC calls, {} TCP connections, 0 \
             failed",
            report.sent, others.calls, others.connections
        ));
        Ok(())
    })
    .await
}

/// "A proxy offline during rotation recovers": one that is stopped, one whose process stands still, and
/// one that boots from a bundle that nobody renewed, as soon as somebody does.
async fn away(cx: Cx) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let copied = directory.path().join("trust-bundle.pem");
    let builder = client_and("rotate-away", ["api-1", "still-1"])
        .service(service("still", ["still-1"]))
        .control_plane_env(env::LEAF_LIFETIME, "8s");
    cx.on(builder, async |mesh| {
        let renewed = mesh.state_dir().join("trust-bundle.pem");
        std::fs::copy(&renewed, &copied)?;
        for (name, bundle) in [("stopped-1", &renewed), ("stale-1", &copied)] {
            let bundle = bundle.to_str().context("a path in UTF-8")?;
            let workload = http_app(name).env(env::TRUST_BUNDLE_FILE, bundle);
            mesh.add_workload(workload).await?;
            mesh.add_service(service(name, [name]))?;
        }
        for name in ["api", "still", "stopped-1", "stale-1"] {
            answers(mesh, name).await?;
        }
        mesh.stop_sidecar("stopped-1").await?;
        mesh.stop_sidecar("stale-1").await?;
        mesh.sidecar("still-1")?.pause()?;
        rotate_watched(mesh, "root", ROTATED).await?;
        assert_eq!(
            mesh.pod("client")
                .get(mesh.addr("api", PORT), "/")
                .await?
                .status,
            200
        );

        // It continues with a certificate that nobody trusts any more, and an expired one at that.
        mesh.sidecar("still-1")?.resume()?;
        answers(mesh, "still").await?;
        mesh.start_sidecar("stopped-1").await?;
        answers(mesh, "stopped-1").await?;

        // What boots from a bundle of before meets nobody whom it trusts, and says so.
        let starting = mesh.start_sidecar("stale-1");
        let renewing = async {
            let said = wait_for("why it does not start", PATIENCE, async || {
                let log = mesh.sidecar_log("stale-1");
                Ok(log.contains("UnknownIssuer").then_some(log))
            })
            .await?;
            assert!(said.contains("no certificate"), "{said}");
            write_atomically(&renewed, &copied)
        };
        let (started, written) = tokio::join!(starting, renewing);
        written?;
        started?;
        answers(mesh, "stale-1").await
    })
    .await
}

/// Workloads of each protocol, and leaves of this life.
fn loaded(name: &str, leaf: &str) -> Builder {
    with_servers(client_and(name, ["api-1", "api-2"])).control_plane_env(env::LEAF_LIFETIME, leaf)
}

/// Rotates by the command, which ends when the rotation has ended. Meanwhile a second one is refused.
async fn rotate_watched(
    mesh: &Mesh,
    kind: &'static str,
    patience: Duration,
) -> anyhow::Result<Duration> {
    sleep(Duration::from_secs(1)).await;
    let begin = Instant::now();
    let watched = ["rotate", kind, "--yes", "--watch"];
    let watching = weft(mesh, &watched);
    let asking = async {
        let phase = wait_for("a rotation", PATIENCE, async || {
            let status = status(mesh).await?;
            let rotation = &status["rotation"];
            Ok(rotation["phase"].as_str().map(str::to_owned))
        })
        .await?;
        assert_eq!(
            phase == "publish",
            kind == "root",
            "the first phase is {phase}"
        );
        for other in ["root", "issuer"] {
            let (code, _, error) = weft(mesh, &["rotate", other, "--yes"]).await?;
            assert_eq!(code, Some(1), "{error}");
            assert!(error.contains("no phase of it can be skipped"), "{error}");
        }
        anyhow::Ok(())
    };
    let both = async { tokio::try_join!(watching, asking) };
    let ((code, out, error), ()) = timeout(patience, both).await.context("the rotation")??;
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(out.ends_with("the rotation has ended\n"), "{out}");
    let signs = out.find("phase sign").context("it never signed")?;
    let publishes = out.find("phase publish");
    assert_eq!(
        publishes.is_some_and(|at| at < signs),
        kind == "root",
        "{out}"
    );
    println!("{out}");
    Ok(begin.elapsed())
}

pub(crate) async fn status(mesh: &Mesh) -> anyhow::Result<Value> {
    let (code, out, error) = weft(mesh, &["status", "-o", "json"]).await?;
    anyhow::ensure!(code == Some(0), "{code:?} {error}");
    Ok(serde_json::from_str(&out)?)
}

/// Runs `weft identity` beside the control plane: exit code, output, errors.
pub(crate) async fn weft(
    mesh: &Mesh,
    args: &[&str],
) -> anyhow::Result<(Option<i32>, String, String)> {
    let pod = mesh.control_plane_pod();
    let host = pod.place().map_or(
        [127, 0, 0, 1].into(),
        weft_sandbox::pod::loopback::Place::address,
    );
    let server = format!("http://{host}:{}", ports::ADMIN);
    let command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .arg("identity")
        .args(args.iter().copied())
        .args(["--server", &server])
        .command();
    let output = pod.output(command).await?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    ))
}

pub(crate) type Trusted = std::collections::BTreeMap<String, (Vec<Value>, String)>;

/// The roots that each sidecar trusts, and who signed its certificate.
pub(crate) async fn trusted(mesh: &Mesh) -> anyhow::Result<Trusted> {
    let mut all = Trusted::new();
    for workload in mesh.workloads() {
        let answer = mesh.admin_get(&workload, "/config").await?;
        let config: Value = serde_json::from_slice(&answer.body)?;
        let identity = &config["health"]["identity"];
        let roots = identity["rootFingerprints"]
            .as_array()
            .context("no roots")?;
        let issuer = identity["issuerFingerprint"]
            .as_str()
            .context("no issuer")?;
        all.insert(workload, (roots.clone(), issuer.to_owned()));
    }
    Ok(all)
}

/// How many certificates each sidecar has had.
pub(crate) async fn leaves(mesh: &Mesh) -> anyhow::Result<Vec<(String, f64)>> {
    let mut all = Vec::new();
    for workload in mesh.workloads() {
        let answer = mesh.admin_get(&workload, "/config").await?;
        let config: Value = serde_json::from_slice(&answer.body)?;
        let issued = &config["health"]["identity"]["certificatesIssued"];
        all.push((workload, issued.as_f64().context("no certificates")?));
    }
    Ok(all)
}

/// Waits until a service answers through both sidecars.
async fn answers(mesh: &Mesh, name: &str) -> anyhow::Result<()> {
    wait_for(&format!("{name} answers"), PATIENCE * 2, async || {
        // To an address that the control plane does not know yet it goes as it is, and gets no answer.
        let (pod, to) = (mesh.pod("client"), mesh.addr(name, PORT));
        let answer = timeout(Duration::from_secs(3), pod.get(to, "/")).await;
        let is_good = answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200));
        Ok(is_good.then_some(()))
    })
    .await?;
    // Nothing that was answered came in plaintext.
    let metrics = metrics(mesh, "client").await?;
    let plain = [("tls", "none"), ("outcome", "ok")];
    assert_eq!(metrics.sum("weft_requests_total", &plain), 0.0);
    Ok(())
}

fn write_atomically(from: &Path, to: &Path) -> anyhow::Result<()> {
    let draft = to.with_extension("draft");
    std::fs::copy(from, &draft)?;
    Ok(std::fs::rename(draft, to)?)
}
