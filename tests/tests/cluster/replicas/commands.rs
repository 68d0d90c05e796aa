//! Commands where each replica has one of the sidecars that they are for.

use serde_json::{Map, Value};
use weft_proto::names::env::ADMIN_TOKEN_FILE;
use weft_proto::names::ports;
use weft_sandbox::mesh::unique;
use weft_sandbox::process::Program;
use weft_sandbox::{Mesh, Workload};

use super::callers::apart;
use crate::common::{Cx, PORT, client_and, stats};

const CALLERS: [&str; 2] = ["client", "second"];

/// Two callers at different replicas: opened at one replica, both callers' breakers are open and nothing
/// comes to the server; reset at the other one, both are served.
pub(super) async fn all(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = client_and("commands", ["api-1"])
        .workload(Workload::new("second"))
        .namespace(&unique("commands"))
        .replicas(2);
    cx.on(&cluster, builder, async |mesh| {
        let replicas = mesh.replicas();
        let [first, second] = &replicas[..] else {
            anyhow::bail!("not two: {replicas:?}");
        };
        apart(mesh, [(CALLERS[0], first), (CALLERS[1], second)]).await?;
        call(mesh, 200).await?;
        let served = stats(mesh, ["api-1"]).await?.requests;
        assert_eq!(served, 2);

        let backend = format!("{}/api:{PORT}", mesh.namespace());
        let opened = weft(mesh, first, &["breaker", "open", &backend]).await?;
        let wanted = format!("Opened 2 breakers of {backend} in 2 sidecars; 1 other has none.\n");
        assert_eq!(unwrapped(&opened), wanted);
        call(mesh, 503).await?;
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, served);
        for replica in [first, second] {
            let listed = weft(mesh, replica, &["breaker", "list", &backend]).await?;
            let sum = "2 breakers in 3 sidecars, 2 not closed.";
            assert!(listed.contains(sum), "{listed}");
        }
        let reset = weft(mesh, second, &["breaker", "reset"]).await?;
        assert_eq!(reset, "Reset 2 breakers in 2 sidecars; 1 other has none.\n");
        call(mesh, 200).await?;
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, served + 2);
        Ok(())
    })
    .await
}

/// Two callers at different replicas: either replica has what both of them sent, exactly, and by caller.
pub(super) async fn traffic(cx: Cx) -> anyhow::Result<()> {
    const SENT: [u64; 2] = [30, 12];
    let cluster = cx.cluster().await?;
    let builder = client_and("traffic", ["api-1"])
        .workload(Workload::new(CALLERS[1]).service_account(CALLERS[1]))
        .namespace(&unique("traffic"))
        .replicas(2);
    cx.on(&cluster, builder, async |mesh| {
        let replicas = mesh.replicas();
        let [first, second] = &replicas[..] else {
            anyhow::bail!("not two: {replicas:?}");
        };
        apart(mesh, [(CALLERS[0], first), (CALLERS[1], second)]).await?;
        for (caller, sent) in CALLERS.into_iter().zip(SENT) {
            for _ in 0..sent {
                let answer = mesh.pod(caller).get(mesh.addr("api", PORT), "/").await?;
                assert_eq!(answer.status, 200, "{caller}: {}", answer.text());
            }
        }
        let all: u64 = SENT.iter().sum();
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, all);
        for replica in [first, second] {
            for side in ["client", "server"] {
                let line = |line: &Value| {
                    let outcomes = &line["outcomes"];
                    assert_eq!(outcomes.as_object().map(Map::len), Some(1), "{line}");
                    (
                        line["from"].as_str().map(str::to_owned),
                        outcomes["ok"].as_u64(),
                    )
                };
                let lines = async |view: &str| {
                    let args = ["stat", view, "--since-start", "-o", "json", "--side", side];
                    let told: Value = serde_json::from_str(&weft(mesh, replica, &args).await?)?;
                    assert_eq!(told["sidecars"], 3, "{told}");
                    let lines = told["requests"].as_array().into_iter().flatten();
                    anyhow::Ok(lines.map(line).collect::<Vec<_>>())
                };
                assert_eq!(
                    lines("services").await?,
                    [(None, Some(all))],
                    "{replica}, {side}"
                );
                let mut pairs = lines("pairs").await?;
                pairs.sort();
                let wanted = CALLERS.into_iter().zip(SENT).map(|(caller, sent)| {
                    let from = format!("{}/{caller}", mesh.namespace());
                    (Some(from), Some(sent))
                });
                assert_eq!(pairs, wanted.collect::<Vec<_>>(), "{replica}, {side}");
            }
        }
        Ok(())
    })
    .await
}

/// Each caller calls once.
async fn call(mesh: &Mesh, status: u16) -> anyhow::Result<()> {
    for caller in CALLERS {
        let answer = mesh.pod(caller).get(mesh.addr("api", PORT), "/").await?;
        assert_eq!(answer.status, status, "{caller}: {}", answer.text());
    }
    Ok(())
}

/// What the command prints beside a replica, for the mesh's own namespace.
async fn weft(mesh: &Mesh, replica: &str, args: &[&str]) -> anyhow::Result<String> {
    let server = format!("http://127.0.0.1:{}", ports::ADMIN);
    let mut command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(args.iter().copied())
        .args(["--server", &server, "-n", mesh.namespace()])
        .command();
    command.env(ADMIN_TOKEN_FILE, mesh.operator_token()?);
    let output = mesh.replica_pod(replica)?.output(command).await?;
    let (out, error) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    anyhow::ensure!(output.status.code() == Some(0), "{out}{error}");
    Ok(out)
}

/// A sentence in one line.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ") + "\n"
}
