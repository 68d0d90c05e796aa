//! `weft tap` where each replica has one of the sidecars that it looks at.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use weft_proto::names::env::ADMIN_TOKEN_FILE;
use weft_proto::names::ports;
use weft_sandbox::Workload;
use weft_sandbox::mesh::unique;
use weft_sandbox::process::Program;
use weft_tests::counts::wait_for;

use super::callers::apart;
use crate::common::{Cx, PORT, client_and, stats};

const CALLERS: [&str; 2] = ["client", "second"];
/// Of each.
const CALLS: usize = 5;
const SOON: Duration = Duration::from_secs(30);

/// Two callers at different replicas: beside either replica, `weft tap` shows the calls of both, and both
/// again at the server, each once.
pub(super) async fn all(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = client_and("tap", ["api-1"])
        .workload(Workload::new("second"))
        .namespace(&unique("tap"))
        .replicas(2);
    cx.on(&cluster, builder, async |mesh| {
        let replicas = mesh.replicas();
        let [first, second] = &replicas[..] else {
            anyhow::bail!("not two: {replicas:?}");
        };
        apart(mesh, [(CALLERS[0], first), (CALLERS[1], second)]).await?;
        let server = format!("http://127.0.0.1:{}", ports::ADMIN);
        let mut taps = Vec::new();
        for replica in [first, second] {
            let mut command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
                .args(["tap", "-o", "json", "--server", &server])
                .args(["-n", mesh.namespace(), "--path", "/seen"])
                .command();
            command.env(ADMIN_TOKEN_FILE, mesh.operator_token()?);
            let log = mesh.dir().join("logs").join(format!("tap-{replica}.log"));
            let pod = mesh.replica_pod(replica)?;
            taps.push(pod.start(&format!("tap-{replica}"), command, &log)?);
        }
        let text = |at: usize| anyhow::Ok(std::fs::read_to_string(taps[at].log_file())?);
        for at in [0, 1] {
            let looks = wait_for("three sidecars", SOON, async || {
                Ok(text(at)?.contains("Looking at 3 sidecars").then_some(()))
            });
            looks.await.with_context(|| taps[at].log_tail(20))?;
        }
        for number in 0..CALLS {
            for caller in CALLERS {
                for path in [format!("/seen/{caller}/{number}"), "/other".to_owned()] {
                    let answer = mesh.pod(caller).get(mesh.addr("api", PORT), &path).await?;
                    assert_eq!(answer.status, 200, "{caller}: {}", answer.text());
                }
            }
        }
        let wanted = 2 * CALLS * CALLERS.len();
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, wanted as u64);
        for at in [0, 1] {
            let seen = wait_for("all calls", SOON, async || {
                let text = text(at)?;
                let lines = text.lines().filter(|line| line.starts_with('{'));
                let all: Vec<Value> = lines
                    .filter_map(|it| serde_json::from_str(it).ok())
                    .collect();
                Ok((all.len() >= wanted).then_some(all))
            });
            let seen = seen.await.with_context(|| taps[at].log_tail(50))?;
            taps[at].terminate()?;
            let code = taps[at]
                .wait(SOON)
                .await?
                .context("it does not end")?
                .code();
            assert_eq!(code, Some(0), "{}", taps[at].log_tail(10));
            let sum = format!("{wanted} records of 3 sidecars, 0 dropped.\n");
            assert!(text(at)?.ends_with(&sum), "{}", taps[at].log_tail(10));
            let mut of: Vec<String> = seen
                .iter()
                .map(|it| {
                    let word = |field: &str| it[field].as_str().unwrap_or_default();
                    format!(
                        "{} {} {}",
                        word("workload"),
                        word("direction"),
                        word("path")
                    )
                })
                .collect();
            of.sort();
            let namespace = mesh.namespace();
            let mut all = Vec::new();
            for caller in CALLERS {
                for number in 0..CALLS {
                    let path = format!("/seen/{caller}/{number}");
                    all.push(format!("{namespace}/{caller} outbound {path}"));
                    all.push(format!("{namespace}/api-1 inbound {path}"));
                }
            }
            all.sort();
            assert_eq!(of, all, "beside replica {at}");
        }
        Ok(())
    })
    .await
}
