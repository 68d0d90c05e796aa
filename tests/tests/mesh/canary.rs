//! `weft canary` on files: the weights in the file, and where requests then are.

use std::fs;
use std::time::Duration;

use weft_sandbox::load::Load;
use weft_sandbox::process::Program;
use weft_sandbox::{Mesh, Workload};
use weft_tests::counts::wait_for;

use crate::Suite;
use crate::common::{Cx, PORT, http_app, mesh, service, stats};

const REQUESTS: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(10);
/// With what somebody wrote beside it.
const POLICY: &str = "\
# The shop's canary.
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: shop}
spec:
  targetRefs: [{kind: Service, name: shop}]
  split:
    backends:
    - {name: shop-v1, weight: 100}   # 100 until the canary is good
    - name: shop-v2
      weight: 0   # never more than 100
";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("canary::weights_in_a_file", weights);
}

/// Requests at the servers of both versions, of so many.
async fn counts(mesh: &Mesh) -> anyhow::Result<[u64; 2]> {
    let mut all = [0; 2];
    for (count, app) in all.iter_mut().zip(["v1-1", "v2-1"]) {
        let before = stats(mesh, [app]).await?.requests;
        *count = before;
    }
    let load = Load::new(mesh.addr("shop", PORT)).requests(REQUESTS);
    let report = load.run(&mesh.pod("client")).await;
    assert_eq!(report.status(200), REQUESTS);
    for (count, app) in all.iter_mut().zip(["v1-1", "v2-1"]) {
        *count = stats(mesh, [app]).await?.requests - *count;
    }
    assert_eq!(all[0] + all[1], REQUESTS, "each request at one server once");
    Ok(all)
}

async fn weights(cx: Cx) -> anyhow::Result<()> {
    let builder = mesh("canary-file")
        .workload(Workload::new("client"))
        .workload(http_app("v1-1"))
        .workload(http_app("v2-1"))
        .service(service("shop", ["v1-1"]))
        .service(service("shop-v1", ["v1-1"]))
        .service(service("shop-v2", ["v2-1"]))
        .named_policy("shop", POLICY);
    cx.on(builder, async |mesh| {
        let file = mesh.dir().join("config").join("shop.yaml");
        assert_eq!(counts(mesh).await?, [REQUESTS, 0]);

        let said = weft(mesh, &["set", "shop", "shop-v1=60", "shop-v2=40"], 0).await?;
        assert!(said.contains("Written to"), "{said}");
        let wanted = POLICY
            .replace("weight: 100}", "weight: 60}")
            .replace("weight: 0 ", "weight: 40 ");
        assert_eq!(fs::read_to_string(&file)?, wanted);
        // Five standard deviations, once the control plane has looked.
        wait_for("40 %", PATIENCE, async || {
            let [_, new] = counts(mesh).await?;
            let share = 100.0 * new as f64 / REQUESTS as f64;
            Ok(((share - 40.0).abs() <= 14.2).then_some(()))
        })
        .await?;

        weft(mesh, &["promote", "shop"], 0).await?;
        wait_for("all at the new", PATIENCE, async || {
            Ok((counts(mesh).await? == [0, REQUESTS]).then_some(()))
        })
        .await?;
        weft(mesh, &["abort", "shop"], 0).await?;
        wait_for("all at the old", PATIENCE, async || {
            Ok((counts(mesh).await? == [REQUESTS, 0]).then_some(()))
        })
        .await?;
        assert_eq!(fs::read_to_string(&file)?, POLICY, "as it was written");
        weft(mesh, &["set", "shop", "shop-v1=0"], 1).await?;
        assert_eq!(fs::read_to_string(&file)?, POLICY);
        Ok(())
    })
    .await
}

/// What the command prints, which ends with this code.
async fn weft(mesh: &Mesh, args: &[&str], code: i32) -> anyhow::Result<String> {
    let config = mesh.dir().join("config").display().to_string();
    let mut command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .arg("canary")
        .args(args.iter().copied())
        .args(["-n", mesh.namespace(), "-f", &config])
        .command();
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let out = String::from_utf8(output.stdout)?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.code() == Some(code), "{args:?}: {out}{error}");
    Ok(out)
}
