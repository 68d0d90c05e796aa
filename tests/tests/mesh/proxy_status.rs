//! `weft proxy status` against a mesh.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use weft_proto::names::ports;
use weft_sandbox::{Mesh, process::Program};

use crate::Suite;
use crate::common::{Cx, PORT, client_and, policy, wait_for};

/// What the command counts as on its way, and the machine's time.
const SOON: Duration = Duration::from_secs(20);
/// The control plane gives up a connection after 20 s without an answer.
const GIVEN_UP: Duration = Duration::from_secs(45);

pub(crate) fn register(suite: &mut Suite) {
    suite.add(
        "proxy_status::who_stands_still_is_behind_and_then_gone",
        stands_still,
    );
}

/// What the command said.
struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

/// A sidecar that is stopped (SIGSTOP) is behind once something changes for it, and not connected when
/// its connection is given up; continued, it catches up. Nobody else is behind.
async fn stands_still(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and("proxy-status", ["api-1", "api-2"]),
        async |mesh| {
            let answer = mesh.pod("client").get(mesh.addr("api", PORT), "/").await?;
            assert_eq!(answer.status, 200);
            let said = wait_for("all in step", SOON, async || {
                let said = weft(mesh, &[]).await?;
                Ok((said.code == Some(0)).then_some(said))
            })
            .await?;
            println!("{}", said.out);
            for workload in ["client", "api-1", "api-2"] {
                let line = line_of(&said, workload)?;
                assert!(line.ends_with("in step"), "{line}");
                assert!(line.contains(env!("CARGO_PKG_VERSION")), "{line}");
            }
            assert!(
                said.out
                    .contains("3 connected: 3 in step, 0 behind, 0 refusing.")
            );

            mesh.sidecar("api-1")?.pause()?;
            mesh.apply_policy("strict", &policy("strict", "api", "mtls: {mode: Strict}"))?;
            let said = wait_for("one behind", SOON, async || {
                let said = weft(mesh, &[]).await?;
                Ok(said.out.contains("behind with").then_some(said))
            })
            .await?;
            println!("{}", said.out);
            assert_eq!(said.code, Some(1));
            assert!(line_of(&said, "api-1")?.contains("behind with 1 for "));
            assert!(line_of(&said, "api-2")?.ends_with("in step"));
            assert!(said.out.lines().all(|line| line.chars().count() <= 100));
            let json: Value = serde_json::from_str(&weft(mesh, &["-o", "json"]).await?.out)?;
            let proxies = json["proxies"].as_array().context("no proxies")?;
            let of = |name: &str| proxies.iter().find(|proxy| proxy["name"] == name);
            let api = of("api-1").context("no api-1")?;
            assert_eq!(api["behind"], 1);
            assert!(api["behindSeconds"].as_f64() >= Some(2.0), "{api}");
            let other = of("api-2").context("no api-2")?;
            assert_eq!(other["behind"], 0);
            // What the other one has is newer than what the stopped one has.
            assert!(other["sourceRevision"].as_u64() > api["sourceRevision"].as_u64());
            // Of another namespace there is nobody.
            assert_eq!(weft(mesh, &["-n", "elsewhere"]).await?.code, Some(0));

            let said = wait_for("given up", GIVEN_UP, async || {
                let said = weft(mesh, &["-o", "wide"]).await?;
                let is_gone = line_of(&said, "api-1")?.ends_with("not connected");
                Ok(is_gone.then_some(said))
            })
            .await?;
            assert_eq!(said.code, Some(1));

            mesh.sidecar("api-1")?.resume()?;
            wait_for("in step again", SOON, async || {
                Ok((weft(mesh, &[]).await?.code == Some(0)).then_some(()))
            })
            .await?;

            mesh.kill_control_plane().await?;
            let said = weft(mesh, &[]).await?;
            assert_eq!(said.code, Some(2), "{}", said.out);
            assert!(said.error.contains("port-forward"), "{}", said.error);
            Ok(())
        },
    )
    .await
}

/// Runs the command beside the control plane.
async fn weft(mesh: &Mesh, more: &[&str]) -> anyhow::Result<Said> {
    let pod = mesh.control_plane_pod();
    let host = pod.place().map_or(
        [127, 0, 0, 1].into(),
        weft_sandbox::pod::loopback::Place::address,
    );
    let server = format!("http://{host}:{}", ports::ADMIN);
    let command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(["proxy", "status", "--server", &server])
        .args(more.iter().copied())
        .command();
    let output = pod.output(command).await?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        error: String::from_utf8(output.stderr)?,
    })
}

fn line_of<'s>(said: &'s Said, workload: &str) -> anyhow::Result<&'s str> {
    let name = format!("default/{workload} ");
    let line = said.out.lines().find(|line| line.starts_with(&name));
    line.with_context(|| format!("{workload} is not in\n{}{}", said.out, said.error))
}
