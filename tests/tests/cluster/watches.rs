//! The API server forgets, falls silent or goes away: what is known stays in force, nothing fails, and
//! what changed meanwhile is caught up with.

use std::time::{Duration, Instant};

use weft_sandbox::mesh::Builder;
use weft_tests::apiserver::Outage;
use weft_tests::counts::{assert_all_served_once, assert_no_failure, wait_for};
use weft_tests::gateway_crds;

use crate::common::{
    Cx, PORT, client_and, http_app, load, moved_to, policy, reaches, reaches_within, service,
    stats, trafficpolicies,
};
use crate::{Needs, Suite};

/// How long a control plane may take to notice that an API server is back: it asks again after up to
/// half a minute, and sooner after a short outage.
const RETURN: Duration = Duration::from_secs(20);
const SOAK_RETURN: Duration = Duration::from_secs(60);
const POLICIES: &str = "trafficpolicies.weft.dev";
const WATCHED: [&str; 4] = [
    "services",
    "endpointslices.discovery.k8s.io",
    "pods",
    POLICIES,
];

pub(crate) fn register(suite: &mut Suite) {
    let server = Needs {
        server: true,
        ..Needs::default()
    };
    suite.add("watches::history_is_gone", server, gone);
    suite.add("watches::dropped_and_refused", server, dropped);
    suite.add("watches::definitions_come_later", server, definitions);
    suite.add("watches::the_api_server_is_away", Needs::default(), away);
    suite.add("watches::the_api_server_hangs_or_fails", server, hangs);
}

/// `api`, which is to be moved, `steady`, which nothing happens to, and `cold`, which nobody has called.
fn three_services(name: &str) -> Builder {
    client_and(name, ["api-1"])
        .workload(http_app("blue-1"))
        .workload(http_app("steady-1"))
        .workload(http_app("cold-1"))
        .service(service("blue", ["blue-1"]))
        .service(service("steady", ["steady-1"]))
        .service(service("cold", ["cold-1"]))
}

/// Every watch ends, and when it is to go on from where it was, the server has forgotten that: 410 Gone.
/// All is listed anew. What changed in between, a policy and a service's endpoints, acts then, and no
/// request of any service fails.
async fn gone(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let server = cluster.server()?;
    // So that watches do not know newer revisions than those of their own kind.
    server.bookmark_every(Duration::from_secs(600));
    cx.on(&cluster, three_services("gone"), async |mesh| {
        let namespace = mesh.namespace();
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        let cold = load(mesh, "cold");
        reaches(&api, "api-1").await?;
        reaches(&cold, "cold-1").await?;
        let listed = WATCHED.map(|kind| server.count("list", kind));
        for kind in WATCHED {
            // The watch is tried again a second later, and two seconds after that.
            server.refuse("watch", kind, 2, 500);
        }
        server.drop_watches();
        let moved = policy(namespace, "api", "api", &moved_to("blue"));
        cluster.create_policy(namespace, &moved).await?;
        mesh.set_endpoints("cold", ["cold-1", "api-1"])?;
        server.compact();
        let caught_up = reaches_within(&api, "blue-1", RETURN).await?;
        reaches_within(&cold, "api-1", RETURN).await?;

        for (kind, before) in WATCHED.into_iter().zip(listed) {
            wait_for(&format!("a new list of {kind}"), RETURN, async || {
                Ok((server.count("list", kind) > before).then_some(()))
            })
            .await?;
        }
        let (steady, api, cold) = (steady.stop().await, api.stop().await, cold.stop().await);
        cx.measured(format!(
            "{} requests; caught up after {caught_up:.1?}",
            steady.sent + api.sent + cold.sent
        ));
        assert_all_served_once(&steady, &stats(mesh, ["steady-1"]).await?);
        // `api-1` serves two of the loads.
        let seen = stats(mesh, ["api-1", "blue-1", "cold-1"]).await?;
        assert_no_failure(&api);
        assert_no_failure(&cold);
        assert_eq!(seen.repeated_ids(), 0);
        assert_eq!(seen.requests, api.sent + cold.sent);
        Ok(())
    })
    .await
}

/// Watches end again and again, and the server answers some of those that begin with errors, while a
/// policy changes with every round.
async fn dropped(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let server = cluster.server()?;
    cx.on(&cluster, three_services("dropped"), async |mesh| {
        let namespace = mesh.namespace();
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        reaches(&api, "api-1").await?;
        let moved = policy(namespace, "api", "api", &moved_to("api"));
        cluster.create_policy(namespace, &moved).await?;
        for round in 0..cx.pick(3, 12) {
            let to = ["blue", "api"][round % 2];
            server.drop_watches();
            if round % 2 == 1 {
                server.refuse("watch", POLICIES, 1, 429);
            }
            let patch: serde_json::Value = serde_json::json!({
                "spec": {"split": {"backends": [{"name": to, "weight": 1}]}}
            });
            cluster.merge_policy(namespace, "api", &patch).await?;
            server.drop_watches();
            reaches(&api, &format!("{to}-1")).await?;
        }
        let (steady, api) = (steady.stop().await, api.stop().await);
        assert_all_served_once(&steady, &stats(mesh, ["steady-1"]).await?);
        assert_all_served_once(&api, &stats(mesh, ["api-1", "blue-1"]).await?);
        Ok(())
    })
    .await
}

/// The control plane starts where nobody has heard of TrafficPolicies and of the Gateway API. Their
/// definitions are installed under load, and then a policy and a route act.
async fn definitions(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.bare_cluster().await?;
    cx.on(&cluster, three_services("later"), async |mesh| {
        let namespace = mesh.namespace();
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        reaches(&api, "api-1").await?;
        mesh.apply_policy("api", &policy(namespace, "api", "api", &moved_to("blue")))
            .expect_err("the kind is not there");
        cluster.define(&trafficpolicies()?).await?;
        mesh.apply_policy("api", &policy(namespace, "api", "api", &moved_to("blue")))?;
        let policies = reaches(&api, "blue-1").await?;
        mesh.remove_policy("api")?;
        reaches(&api, "api-1").await?;

        for definition in gateway_crds::all() {
            cluster.define(&definition).await?;
        }
        let route = format!(
            "apiVersion: gateway.networking.k8s.io/v1\n\
             kind: HTTPRoute\n\
             metadata: {{name: api, namespace: {namespace}}}\n\
             spec:\n  \
               parentRefs: [{{group: '', kind: Service, name: api, port: {PORT}}}]\n  \
               rules: [{{backendRefs: [{{name: blue, port: {PORT}}}]}}]\n"
        );
        mesh.apply_policy("route", &route)?;
        let routes = reaches(&api, "blue-1").await?;

        let (steady, api) = (steady.stop().await, api.stop().await);
        cx.measured(format!(
            "{} requests; a policy after {policies:.1?}, a route after {routes:.1?}",
            steady.sent + api.sent
        ));
        assert_all_served_once(&steady, &stats(mesh, ["steady-1"]).await?);
        assert_all_served_once(&api, &stats(mesh, ["api-1", "blue-1"]).await?);
        Ok(())
    })
    .await
}

/// "API server away for a minute": the control plane's connections end and new ones are refused, under
/// load. 0 failed requests, for a service that nobody had called before too; what changed meanwhile acts
/// when it is back. The quick form's minute has 8 s.
async fn away(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, three_services("away"), async |mesh| {
        let namespace = mesh.namespace();
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        reaches(&api, "api-1").await?;
        let minute = cx.pick(Duration::from_secs(8), Duration::from_secs(60));
        mesh.cut_off_cluster()?;
        let begin = Instant::now();
        let moved = policy(namespace, "api", "api", &moved_to("blue"));
        cluster.create_policy(namespace, &moved).await?;
        let answer = mesh.pod("client").get(mesh.addr("cold", PORT), "/").await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        tokio::time::sleep(minute.saturating_sub(begin.elapsed())).await;
        assert_eq!(
            mesh.app("blue-1").stats().await?.requests,
            0,
            "it cannot know"
        );
        mesh.reach_cluster()?;
        let back = reaches_within(&api, "blue-1", cx.pick(RETURN, SOAK_RETURN)).await?;

        let (steady, api) = (steady.stop().await, api.stop().await);
        cx.measured(format!(
            "{} requests; caught up {back:.1?} after {minute:?}",
            steady.sent + api.sent
        ));
        assert_all_served_once(&steady, &stats(mesh, ["steady-1"]).await?);
        assert_all_served_once(&api, &stats(mesh, ["api-1", "blue-1"]).await?);
        Ok(())
    })
    .await
}

/// The API server takes requests and does not answer them; then it answers every one with 503, and ends
/// the watches that there are. What is changed meanwhile acts afterwards.
async fn hangs(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let server = cluster.server()?;
    cx.on(&cluster, three_services("hangs"), async |mesh| {
        let namespace = mesh.namespace();
        let (steady, api) = (load(mesh, "steady"), load(mesh, "api"));
        reaches(&api, "api-1").await?;
        for (outage, to) in [(Outage::Hang, "blue"), (Outage::Failing(503), "api")] {
            server.set_outage(outage);
            server.drop_watches();
            let moved: serde_json::Value =
                serde_saphyr::from_str(&policy(namespace, "api", "api", &moved_to(to)))?;
            // The test may, in spite of the outage.
            server.put(&moved).await?;
            tokio::time::sleep(cx.pick(Duration::from_secs(2), Duration::from_secs(30))).await;
            server.set_outage(Outage::None);
            let patience = cx.pick(RETURN, SOAK_RETURN);
            let back = reaches_within(&api, &format!("{to}-1"), patience).await?;
            cx.measured(format!("caught up {back:.1?} after {outage:?}"));
        }
        let (steady, api) = (steady.stop().await, api.stop().await);
        assert_all_served_once(&steady, &stats(mesh, ["steady-1"]).await?);
        assert_all_served_once(&api, &stats(mesh, ["api-1", "blue-1"]).await?);
        Ok(())
    })
    .await
}
