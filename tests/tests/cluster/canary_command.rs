//! `weft canary` on a cluster: what it writes, whom it waits for, and where requests then are.

use serde_json::{Value, json};
use weft_sandbox::Mesh;
use weft_sandbox::load::Load;
use weft_sandbox::mesh::unique;
use weft_tests::counts::wait_for;

use crate::common::{CHANGE, Cluster, Cx, PORT, client_and, policy, service, stats};
use crate::{Needs, Suite};

const OLD: &str = "app-1";
const NEW: &str = "app-2";
const REQUESTS: u64 = 400;
/// Who runs the split: the caller's sidecar.
const EVERYWHERE: &str = "1 of 1 sidecars have it.";

pub(crate) fn register(suite: &mut Suite) {
    let server = Needs {
        server: true,
        ..Needs::default()
    };
    suite.add("canary_command::shares_follow", Needs::default(), shares);
    suite.add("canary_command::somebody_is_faster", server, raced);
}

/// How many of [`REQUESTS`] come to the new version, by the servers' own counts.
async fn at_new(mesh: &Mesh) -> anyhow::Result<u64> {
    let before = counts(mesh).await?;
    let load = Load::new(mesh.addr("api", PORT)).requests(REQUESTS);
    let report = load.run(&mesh.pod("client")).await;
    assert_eq!(report.status(200), REQUESTS, "{report:?}");
    let after = counts(mesh).await?;
    let (old, new) = (after[0] - before[0], after[1] - before[1]);
    assert_eq!(old + new, REQUESTS, "each request at one server once");
    Ok(new)
}

async fn counts(mesh: &Mesh) -> anyhow::Result<[u64; 2]> {
    let of = async |app| anyhow::Ok(stats(mesh, [app]).await?.requests);
    Ok([of(OLD).await?, of(NEW).await?])
}

/// When a command returns, the callers' sidecars have what it wrote: shares are those at once, exactly so
/// where everything is on one side.
async fn shares(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    on(&cx, &cluster, "shares", async |mesh| {
        assert_eq!(at_new(mesh).await?, 0);

        let said = weft(&cluster, mesh, &["set", "api", "v1=70", "v2=30"], 0).await?;
        assert!(said.contains(EVERYWHERE), "{said}");
        let seen = 100.0 * at_new(mesh).await? as f64 / REQUESTS as f64;
        // Five standard deviations.
        assert!((seen - 30.0).abs() <= 11.5, "{seen:.1} % instead of 30 %");

        let shown = weft(&cluster, mesh, &["get", "api", "-o", "json"], 0).await?;
        let shown: Value = serde_json::from_str(&shown)?;
        let side = |at: usize| {
            let side = &shown["backends"][at];
            (side["weight"].clone(), side["endpoints"].clone())
        };
        assert_eq!(side(0), (json!(70), json!([{"name": OLD, "ready": true}])));
        assert_eq!(side(1), (json!(30), json!([{"name": NEW, "ready": true}])));
        assert_eq!(shown["proxies"], json!({"acknowledged": 1, "total": 1}));

        let said = weft(&cluster, mesh, &["promote", "api", "--no-wait"], 0).await?;
        assert!(said.contains("nobody waited"), "{said}");
        wait_for("all at the new", CHANGE, async || {
            Ok((at_new(mesh).await? == REQUESTS).then_some(()))
        })
        .await?;
        weft(&cluster, mesh, &["abort", "api"], 0).await?;
        assert_eq!(at_new(mesh).await?, 0);

        // What is refused changes nothing.
        let object = cluster.policies(mesh.namespace()).get("shop").await?;
        for args in [
            &["set", "api", "v3=1"][..],
            &["set", "api", "v1=0"],
            &["promote", "nobody"],
            &["promote", "api", "v3"],
        ] {
            weft(&cluster, mesh, args, 1).await?;
        }
        mesh.set_endpoints::<&str>("v2", [])?;
        wait_for("no endpoint", CHANGE, async || {
            let said = weft(&cluster, mesh, &["get", "api"], 0).await?;
            Ok(said.contains("0 of 0").then_some(()))
        })
        .await?;
        weft(&cluster, mesh, &["promote", "api"], 1).await?;
        let after = cluster.policies(mesh.namespace()).get("shop").await?;
        assert_eq!(object.data["spec"], after.data["spec"]);
        assert_eq!(object.metadata.generation, after.metadata.generation);
        assert_eq!(at_new(mesh).await?, 0);
        Ok(())
    })
    .await
}

/// Everything else of the policy stays; and while somebody else writes it all the time, a command either does
/// what it says on top of that or says that it did not.
async fn raced(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    on(&cx, &cluster, "raced", async |mesh| {
        let namespace = mesh.namespace();
        let merge = json!({"spec": {"timeouts": {"request": "7s"}}});
        cluster.merge_policy(namespace, "shop", &merge).await?;
        // Lost once, it is looked at again; lost again and again, it is left to the other one, and said.
        for (times, weight, code) in [(1, 40, 0), (5, 50, 1)] {
            let server = cluster.server()?;
            server.refuse("patch", "trafficpolicies.weft.dev", times, 409);
            let wanted = format!("v2={weight}");
            let args = [
                "canary",
                "set",
                "api",
                &wanted,
                "--no-wait",
                "-n",
                namespace,
            ];
            let said = cluster.weft(&args).await?;
            let error = String::from_utf8_lossy(&said.stderr);
            assert_eq!(said.status.code(), Some(code), "{error}");
            assert!(error.contains("it is looked at again"), "{error}");
            let policy = cluster.policies(namespace).get("shop").await?;
            assert_eq!(policy.data["spec"]["split"]["backends"][1]["weight"], 40);
        }
        let (mut done, mut lost) = (0, 0);
        for round in 0..10_u32 {
            let weight = 1 + round;
            let wanted = format!("v2={weight}");
            let args = ["set", "api", &wanted, "--no-wait"];
            let touch = json!({"metadata": {"annotations": {"round": round.to_string()}}});
            let args = [&["canary"][..], &args, &["-n", namespace]].concat();
            let (said, touched) = tokio::join!(
                cluster.weft(&args),
                cluster.merge_policy(namespace, "shop", &touch),
            );
            touched?;
            let said = said?;
            let policy = cluster.policies(namespace).get("shop").await?;
            let spec = &policy.data["spec"];
            assert_eq!(spec["timeouts"]["request"], "7s");
            assert_eq!(
                policy.metadata.annotations.unwrap_or_default()["round"],
                round.to_string()
            );
            let is_there = spec["split"]["backends"][1]["weight"] == weight;
            match said.status.code() {
                Some(0) => done += 1,
                Some(1) => lost += 1,
                other => anyhow::bail!("{other:?}: {}", String::from_utf8_lossy(&said.stderr)),
            }
            assert_eq!(is_there, said.status.success(), "what it says is so");
        }
        cx.measured(format!("{done} done, {lost} lost to somebody faster"));
        assert!(done > 0, "one of them at least");
        Ok(())
    })
    .await
}

/// A mesh with a service `api`, whose split is all at the first of two versions.
async fn on(
    cx: &Cx,
    cluster: &Cluster,
    name: &str,
    test: impl AsyncFnOnce(&Mesh) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let namespace = unique(name);
    let split = "split: {backends: [{name: v1, weight: 100}, {name: v2, weight: 0}]}";
    let builder = client_and(name, [OLD, NEW])
        .service(service("v1", [OLD]))
        .service(service("v2", [NEW]))
        .named_policy("shop", &policy(&namespace, "shop", "api", split))
        .namespace(&namespace);
    cx.on(cluster, builder, async |mesh| {
        // A sidecar asks for what its application calls.
        at_new(mesh).await?;
        wait_for("the first weights", CHANGE, async || {
            let said = weft(cluster, mesh, &["get", "api"], 0).await?;
            Ok(said.contains(EVERYWHERE).then_some(()))
        })
        .await?;
        test(mesh).await
    })
    .await
}

/// What `weft canary` prints, which ends with this code.
async fn weft(cluster: &Cluster, mesh: &Mesh, args: &[&str], code: i32) -> anyhow::Result<String> {
    let args = [&["canary"], args, &["-n", mesh.namespace()]].concat();
    let output = cluster.weft(&args).await?;
    let out = String::from_utf8(output.stdout)?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.code() == Some(code), "{args:?}: {out}{error}");
    Ok(out)
}
