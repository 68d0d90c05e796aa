//! Who calls whom, where each replica knows one end of it.

use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::Value;
use weft_proto::names::env::ADMIN_TOKEN_FILE;
use weft_proto::names::ports;
use weft_sandbox::mesh::unique;
use weft_sandbox::process::Program;
use weft_sandbox::{Mesh, Workload};
use weft_tests::counts::wait_for;

use super::looking::connected;
use crate::common::{APP_PORT, CHANGE, Cx, PORT, client_and, stats};

/// Sidecars report every 10 s, and once they are at another replica.
const REPORTED: std::time::Duration = CHANGE.saturating_mul(3);
const BY_MESH: u64 = 6;
const IN_PLAINTEXT: u64 = 4;

/// Client and server at different replicas, and a pod without a sidecar: both replicas say the same, with
/// the server's counts. When one of them is killed, the other one still does.
pub(super) async fn halves(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = client_and("callers", ["api-1"])
        .workload(Workload::new("legacy").unmeshed())
        .namespace(&unique("callers"))
        .replicas(2);
    cx.on(&cluster, builder, async |mesh| {
        let replicas = mesh.replicas();
        let [first, second] = &replicas[..] else {
            anyhow::bail!("not two: {replicas:?}");
        };
        apart(mesh, [("client", first), ("api-1", second)]).await?;
        for _ in 0..BY_MESH {
            let answer = mesh.pod("client").get(mesh.addr("api", PORT), "/").await?;
            assert_eq!(answer.status, 200);
        }
        let at_its_own = SocketAddr::from((mesh.pod("api-1").v4(), APP_PORT));
        for _ in 0..IN_PLAINTEXT {
            let answer = mesh.pod("legacy").get(at_its_own, "/").await?;
            assert_eq!(answer.status, 200);
        }
        let seen = stats(mesh, ["api-1"]).await?;
        assert_eq!(seen.requests, BY_MESH + IN_PLAINTEXT);

        let namespace = mesh.namespace();
        let wanted = [
            format!("unmeshed {namespace}/legacy plaintext {IN_PLAINTEXT}"),
            format!("identity {namespace}/client mesh {BY_MESH}"),
        ];
        for replica in [first, second] {
            told(mesh, replica, &wanted).await?;
        }
        // The server's sidecar comes to the other one with all that it has counted.
        mesh.kill_replica(second).await?;
        wait_for("both at one replica", REPORTED, async || {
            let all = connected(mesh, first).await?;
            Ok((all.len() == 2 && all.iter().all(|(_, at)| at == first)).then_some(()))
        })
        .await?;
        told(mesh, first, &wanted).await
    })
    .await
}

/// Each workload's sidecar at its replica.
pub(super) async fn apart(mesh: &Mesh, places: [(&str, &str); 2]) -> anyhow::Result<()> {
    for (workload, replica) in places {
        let name = format!("{}/{workload}", mesh.namespace());
        let is_there = async || {
            let all = connected(mesh, replica).await?;
            let mut all = all.iter();
            anyhow::Ok(all.any(|(known, at)| *known == name && at == replica))
        };
        if !is_there().await? {
            mesh.lead_to_replicas(Some(&[replica]))?;
            mesh.restart_sidecar(workload).await?;
            wait_for("a sidecar at its replica", CHANGE, async || {
                Ok(is_there().await?.then_some(()))
            })
            .await?;
        }
    }
    mesh.lead_to_replicas(None)
}

/// Waits until `weft edges` beside a replica says this and no more, as `KIND NAME TLS REQUESTS`.
async fn told(mesh: &Mesh, replica: &str, wanted: &[String]) -> anyhow::Result<()> {
    let mut last = Vec::new();
    let found = wait_for("edges", REPORTED, async || {
        let pod = mesh.replica_pod(replica)?;
        let server = format!("http://127.0.0.1:{}", ports::ADMIN);
        let mut command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
            .args(["edges", "--server", &server, "-o", "json"])
            .args(["-n", mesh.namespace()])
            .command();
        command.env(ADMIN_TOKEN_FILE, mesh.observer_token()?);
        let output = pod.output(command).await?;
        let said: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let edges = said["edges"].as_array().context("no edges")?;
        last = edges.iter().map(words).collect();
        Ok((last == wanted).then_some(()))
    })
    .await;
    found.with_context(|| format!("{replica}: {last:#?}"))
}

fn words(edge: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (&edge["to"]["name"], &edge["port"]),
        (&"api".into(), &PORT.into())
    );
    let from = &edge["from"];
    let (kind, name) = (text(&from["kind"]), text(&from["name"]));
    format!("{kind} {name} {} {}", text(&edge["tls"]), edge["requests"])
}
