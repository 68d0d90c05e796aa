//! What is said about policies comes back to the API server, and is true of the traffic.

use std::time::Duration;

use serde_json::{Value, json};
use weft_sandbox::Mesh;
use weft_sandbox::mesh::Builder;
use weft_tests::counts::{assert_all_served_once, wait_for};

use crate::common::{
    Cluster, Cx, client_and, http_app, load, moved_to, policy, reaches, service, stats,
};
use crate::{Needs, Suite};

/// How long a status may take that says how many sidecars run a policy: it is written every 10 s at most,
/// and a new leader counts for 10 s first.
const COUNTED: Duration = Duration::from_secs(25);
/// The same for `kubectl wait`.
const COUNTED_FLAG: &str = "--timeout=25s";
/// Creation times have whole seconds.
const SECOND: Duration = Duration::from_millis(1_100);

pub(crate) fn register(suite: &mut Suite) {
    let kubectl = Needs {
        kubectl: true,
        ..Needs::default()
    };
    suite.add("statuses::comes_back", kubectl, comes_back);
    suite.add("statuses::conflicts", Needs::default(), conflicts);
    suite.add(
        "statuses::overlaps_and_weakening",
        Needs::default(),
        overlaps,
    );
    suite.add("statuses::bad_policies", kubectl, bad);
}

fn three_services(name: &str) -> Builder {
    client_and(name, ["api-1"])
        .workload(http_app("blue-1"))
        .workload(http_app("green-1"))
        .workload(http_app("steady-1"))
        .service(service("blue", ["blue-1"]))
        .service(service("green", ["green-1"]))
        .service(service("steady", ["steady-1"]))
}

/// `kubectl apply`, then `kubectl wait` for each condition: every sidecar that holds anything of the policy
/// has confirmed it. An edit is counted anew, for its own generation.
async fn comes_back(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, three_services("status"), async |mesh| {
        let namespace = mesh.namespace();
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        reaches(&api, "api-1").await?;
        let strict = format!("mtls: {{mode: Strict}}, {}", moved_to("blue"));
        let made = policy(namespace, "api", "api", &strict);
        cluster.kubectl(&["apply", "-f", "-"], &made).await?;
        for condition in ["Accepted", "ResolvedRefs", "Programmed"] {
            let condition = format!("--for=condition={condition}");
            let arguments = ["-n", namespace, "wait", &condition, "tp/api", COUNTED_FLAG];
            cluster.kubectl(&arguments, "").await?;
        }
        let text = "{.status.proxies.acknowledged} of {.status.proxies.total}";
        let path = format!("jsonpath={text}");
        let said = cluster
            .kubectl(&["-n", namespace, "get", "tp", "api", "-o", &path], "")
            .await?;
        // The client's sidecar, and the server's for `mtls`.
        assert_eq!(said, "2 of 2");
        reaches(&api, "blue-1").await?;

        let patch = json!({"spec": {"split": {"backends": [{"name": "green", "weight": 1}]}}});
        cluster.merge_policy(namespace, "api", &patch).await?;
        reaches(&api, "green-1").await?;
        let status = said_of(
            &cluster,
            namespace,
            "api",
            "Programmed",
            "True",
            "Programmed",
        )
        .await?;
        let proxies = &status["proxies"];
        assert_eq!(proxies["acknowledged"], proxies["total"], "{status:#}");
        assert_eq!(proxies["total"], 2, "{status:#}");
        let ancestor = &status["ancestors"][0];
        assert_eq!(ancestor["controllerName"], "weft.dev/controller");
        assert_eq!(ancestor["ancestorRef"]["name"], "api");
        finish(mesh, steady, api, ["api-1", "blue-1", "green-1"]).await
    })
    .await
}

/// Two policies on one service: the older holds, the younger is told so by its name, and holds when the
/// older has gone.
async fn conflicts(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, three_services("conflict"), async |mesh| {
        let namespace = mesh.namespace();
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        reaches(&api, "api-1").await?;
        let older = policy(namespace, "z-older", "api", &moved_to("blue"));
        cluster.create_policy(namespace, &older).await?;
        said_of(
            &cluster, namespace, "z-older", "Accepted", "True", "Accepted",
        )
        .await?;
        reaches(&api, "blue-1").await?;
        tokio::time::sleep(SECOND).await;
        let younger = policy(namespace, "a-younger", "api", &moved_to("green"));
        cluster.create_policy(namespace, &younger).await?;
        let status = said_of(
            &cluster,
            namespace,
            "a-younger",
            "Accepted",
            "False",
            "Conflicted",
        )
        .await?;
        let message = condition(&status, "Accepted").2;
        assert!(message.contains("z-older"), "{message}");
        assert_eq!(
            mesh.app("green-1").stats().await?.requests,
            0,
            "the younger"
        );
        reaches(&api, "blue-1").await?;

        cluster.delete_policy(namespace, "z-older").await?;
        said_of(
            &cluster,
            namespace,
            "a-younger",
            "Accepted",
            "True",
            "Accepted",
        )
        .await?;
        reaches(&api, "green-1").await?;
        finish(mesh, steady, api, ["api-1", "blue-1", "green-1"]).await
    })
    .await
}

/// Two services on one workload port say so to whoever says something about it; a service that is weaker
/// than its namespace is told, and the namespace's `mtls` holds; what is not there is named.
async fn overlaps(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = three_services("overlap").service(service("twin", ["api-1"]));
    cx.on(&cluster, builder, async |mesh| {
        let namespace = mesh.namespace();
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        reaches(&api, "api-1").await?;
        let limit = "rateLimit: {requestsPerSecond: 10000, burst: 10000}";
        let limited = policy(namespace, "limited", "twin", limit);
        cluster.create_policy(namespace, &limited).await?;
        let kind = "weft.dev/Overlapping";
        let status = said_of(&cluster, namespace, "limited", kind, "True", "Overlapping").await?;
        let message = condition(&status, kind).2;
        assert!(message.contains("api"), "{message}");
        said_of(
            &cluster, namespace, "limited", "Accepted", "True", "Accepted",
        )
        .await?;

        let strict = policy(namespace, "strict", "x", "mtls: {mode: Strict}").replace(
            "kind: Service, name: x",
            &format!("kind: Namespace, name: {namespace}"),
        );
        cluster.create_policy(namespace, &strict).await?;
        said_of(
            &cluster, namespace, "strict", "Accepted", "True", "Accepted",
        )
        .await?;
        let weaker = policy(namespace, "weaker", "blue", "mtls: {mode: Permissive}");
        cluster.create_policy(namespace, &weaker).await?;
        let reason = "WeakerThanNamespace";
        said_of(&cluster, namespace, "weaker", "Accepted", "False", reason).await?;
        let stranger = mesh.stranger("stranger")?;
        let blue = (mesh.pod("blue-1").v4(), crate::common::APP_PORT).into();
        wait_for("what the namespace says", COUNTED, async || {
            let answer = stranger.get(blue, "/plain").await?;
            Ok((answer.outcome() == Some("mtls_required")).then_some(()))
        })
        .await?;

        let lost = policy(namespace, "lost", "nobody", &moved_to("blue"));
        cluster.create_policy(namespace, &lost).await?;
        said_of(
            &cluster,
            namespace,
            "lost",
            "Accepted",
            "False",
            "TargetNotFound",
        )
        .await?;
        let astray = policy(namespace, "astray", "green", &moved_to("nobody"));
        cluster.create_policy(namespace, &astray).await?;
        let reason = "BackendNotFound";
        let status = said_of(
            &cluster,
            namespace,
            "astray",
            "ResolvedRefs",
            "False",
            reason,
        )
        .await?;
        assert!(condition(&status, "ResolvedRefs").2.contains("nobody"));
        finish(mesh, steady, api, ["api-1"]).await
    })
    .await
}

/// A policy that the API server refuses is not there and changes nothing. One that the API server takes and
/// the control plane does not is told so, and its last good version holds; mended, it holds.
async fn bad(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, three_services("bad"), async |mesh| {
        let namespace = mesh.namespace();
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        reaches(&api, "api-1").await?;
        let refused = policy(namespace, "api", "api", "retries: {attempts: 99}");
        let refused = cluster.kubectl(&["apply", "-f", "-"], &refused).await;
        let refused = format!("{:#}", refused.expect_err("no schema takes this"));
        assert!(refused.contains("spec.retries.attempts"), "{refused}");
        assert!(cluster.policies(namespace).get_opt("api").await?.is_none());

        let good = policy(namespace, "api", "api", &moved_to("blue"));
        cluster.kubectl(&["apply", "-f", "-"], &good).await?;
        reaches(&api, "blue-1").await?;
        let rules = "rules: [{name: r, matches: [{path: {type: RegularExpression, value: '('}}]}]";
        let wrong = policy(
            namespace,
            "api",
            "api",
            &format!("{}, {rules}", moved_to("green")),
        );
        cluster.kubectl(&["apply", "-f", "-"], &wrong).await?;
        let status = said_of(&cluster, namespace, "api", "Accepted", "False", "Invalid").await?;
        let message = condition(&status, "Accepted").2;
        assert!(message.contains("spec.rules[0]"), "{message}");
        reaches(&api, "blue-1").await?;
        assert_eq!(
            mesh.app("green-1").stats().await?.requests,
            0,
            "the bad version"
        );

        let mended = policy(namespace, "api", "api", &moved_to("green"));
        cluster.kubectl(&["apply", "-f", "-"], &mended).await?;
        said_of(&cluster, namespace, "api", "Accepted", "True", "Accepted").await?;
        reaches(&api, "green-1").await?;
        finish(mesh, steady, api, ["api-1", "blue-1", "green-1"]).await
    })
    .await
}

/// Ends the loads: `steady` and `api`, which these applications served, have lost nothing.
async fn finish<const N: usize>(
    mesh: &Mesh,
    steady: weft_sandbox::load::Running,
    api: weft_sandbox::load::Running,
    apps: [&str; N],
) -> anyhow::Result<()> {
    let (steady, api) = (steady.stop().await, api.stop().await);
    assert_all_served_once(&steady, &stats(mesh, ["steady-1"]).await?);
    assert_all_served_once(&api, &stats(mesh, apps).await?);
    Ok(())
}

/// Waits until a condition says this about the newest generation: the whole status.
async fn said_of(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    kind: &str,
    status: &str,
    reason: &str,
) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let wanted = format!("{name}: {kind} {status} {reason}");
    let said = wait_for(&wanted, COUNTED, async || {
        let object = cluster.policies(namespace).get(name).await?;
        last = object.data["status"].clone();
        let (now, why, _) = condition(&last, kind);
        let observed = observed(&last, kind);
        let is_newest = observed.is_some() && observed == object.metadata.generation;
        Ok((is_newest && now == status && why == reason).then(|| last.clone()))
    });
    said.await
        .map_err(|error| error.context(format!("{last:#}")))
}

/// A condition's status, reason and message; empty where there is none.
fn condition(status: &Value, kind: &str) -> (String, String, String) {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut conditions = conditions.filter(|condition| condition["type"] == kind);
    let condition = conditions.next().cloned().unwrap_or_default();
    let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// The generation that a condition is about.
fn observed(status: &Value, kind: &str) -> Option<i64> {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let condition = conditions.find(|condition| condition["type"] == kind)?;
    condition["observedGeneration"].as_i64()
}
