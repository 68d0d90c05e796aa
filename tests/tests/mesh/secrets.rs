//! Key material and tokens: what is secret is in no log and on no page, whatever goes wrong.

use std::time::Duration;

use anyhow::Context as _;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::time::sleep;
use weft_proto::names::env;
use weft_sandbox::load::{Load, Shot};
use weft_sandbox::{Mesh, Workload};

use crate::Suite;
use crate::common::{Cx, PORT, http_app, mesh, service, wait_for};
use crate::expiry::{PATIENCE, RECOVERY, renewals};

/// What stands before the number of a private key of an elliptic curve, in DER: version 1 and the head of
/// 32 bytes (RFC 5915, section 3).
const EC_PRIVATE_KEY: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];

pub(crate) fn register(suite: &mut Suite) {
    suite.add("secrets::none_is_ever_shown", secrets);
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

        let mut needles = needles(mesh)?;
        needles.push(refused_token(mesh).await?);
        broken_state(mesh).await?;
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

/// A sidecar shows a token that is not believed, and both sides say that they refuse it. Returns what was
/// shown.
async fn refused_token(mesh: &Mesh) -> anyhow::Result<(String, String)> {
    let file = token_file(mesh, "default/client");
    let good = std::fs::read_to_string(&file)?;
    let (whose, secret) = good.trim().rsplit_once('/').context("no join token")?;
    let bad: String = secret.chars().rev().collect();
    anyhow::ensure!(bad != secret);
    let failed = renewals(mesh, "client", "failed").await?;
    std::fs::write(&file, format!("{whose}/{bad}"))?;
    wait_for("a refused renewal", PATIENCE, async || {
        Ok((renewals(mesh, "client", "failed").await? > failed).then_some(()))
    })
    .await?;
    std::fs::write(&file, &good)?;
    Ok(("a token that is refused".to_owned(), bad))
}

/// The control plane meets a state that is cut off in the middle of a key: while it runs, and at its start,
/// which it refuses. Then it is mended.
async fn broken_state(mesh: &Mesh) -> anyhow::Result<()> {
    let file = mesh.state_dir().join("authority.pem");
    let good = std::fs::read_to_string(&file)?;
    let begin = good.find("-----BEGIN PRIVATE KEY").context("no key")?;
    let half = &good[..begin + 100];
    let logged = || std::fs::read_to_string(mesh.dir().join("logs/control-plane.log"));
    let complaints = |text: &str| text.matches("a section does not end").count();

    let before = complaints(&logged()?);
    std::fs::write(&file, half)?;
    wait_for("a word on the broken state", PATIENCE, async || {
        Ok((complaints(&logged()?) > before).then_some(()))
    })
    .await?;
    mesh.kill_control_plane().await?;
    let before = complaints(&logged()?);
    let started = mesh.start_control_plane().await;
    assert!(started.is_err(), "the control plane serves a broken state");
    assert!(complaints(&logged()?) > before, "it does not say why");
    std::fs::write(&file, &good)?;
    mesh.start_control_plane().await
}

fn token_file(mesh: &Mesh, workload: &str) -> std::path::PathBuf {
    let file = format!("{}.token", workload.replace('/', "."));
    mesh.dir().join(file)
}

/// Bytes in every form that somebody could have written them in by mistake.
fn forms(what: &str, bytes: &[u8]) -> Vec<(String, String)> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;

    let hex = |byte: &u8| format!("{byte:02x}");
    let list = format!("{bytes:?}");
    vec![
        (
            format!("{what}, in hexadecimal digits"),
            bytes.iter().map(hex).collect(),
        ),
        (
            format!("{what}, as a list"),
            list.trim_matches(['[', ']']).to_owned(),
        ),
        // The last letter may depend on what follows.
        (format!("{what}, in base64"), {
            let mut text = STANDARD_NO_PAD.encode(bytes);
            text.pop();
            text
        }),
    ]
}

/// What must be nowhere: every line and the bytes of every private key of the authority, and the token of
/// each workload with its secret part.
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
    for key in PrivatePkcs8KeyDer::pem_slice_iter(authority.as_bytes()) {
        let key = key?;
        let der = key.secret_pkcs8_der();
        let at = der
            .windows(EC_PRIVATE_KEY.len())
            .position(|at| at == EC_PRIVATE_KEY);
        let at = at.context("no number in the key")? + EC_PRIVATE_KEY.len();
        let number = der.get(at..at + 32).context("a short key")?;
        needles.extend(forms("a key of the authority", number));
    }
    for workload in mesh.workloads() {
        let token = std::fs::read_to_string(token_file(mesh, &workload))?
            .trim()
            .to_owned();
        let (_, secret) = token.rsplit_once('/').context("no join token")?;
        assert!(secret.len() >= 32, "the token of {workload}");
        needles.push((format!("the secret of {workload}"), secret.to_owned()));
        needles.extend(forms(&format!("the token of {workload}"), token.as_bytes()));
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
