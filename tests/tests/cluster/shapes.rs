//! Clusters that are not as simple as a service with its pods.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use weft_sandbox::app::Behavior;
use weft_sandbox::client::{Answer, Http1};
use weft_sandbox::mesh::{Endpoint, Service};
use weft_sandbox::metrics::Metrics;
use weft_sandbox::{Mesh, Pod, Workload};
use weft_tests::counts::wait_for;

use crate::common::{
    APP_PORT, CHANGE, Cx, PORT, client_and, http_app, mesh, moved_to, policy, service, stats,
};
use crate::{Needs, Suite};

/// More than any test here uses up.
const BUDGET: &str = "backoff: {base: 1ms, max: 1ms}, budget: {minRetriesPerSecond: 1000}";

/// Opens after three failures and stays open; what has no endpoint is answered aside.
const BREAKER: &str = "circuitBreaker: {consecutiveFailures: {threshold: 3}, openDuration: 60s, \
                       maxOpenDuration: 60s}, loadBalancer: {policy: RoundRobin}, \
                       fallback: {triggers: [NoEndpoints], response: {status: 200, body: aside}}";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("shapes::a_pod_that_arrives_late", Needs::default(), late);
    suite.add(
        "shapes::a_port_behind_three_services",
        Needs::default(),
        three,
    );
    suite.add(
        "shapes::a_service_without_selector",
        Needs::default(),
        foreign,
    );
    suite.add("shapes::a_headless_service", Needs::default(), headless);
    suite.add("shapes::both_families", Needs::default(), families);
}

/// A slice names a pod that nobody has seen yet, and something answers plaintext at its address: it is
/// withheld, and gets no connection at all. When the Pod is there, with its sidecar, it is called with
/// mutual TLS.
async fn late(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = client_and("late", ["api-1"]).service(service::<0>("late", []));
    cx.on(&cluster, builder, async |mesh| {
        let namespace = mesh.namespace();
        let client = mesh.pod("client");
        let to = mesh.addr("late", PORT);
        let unknown = mesh.start_unknown(http_app("late-1")).await?;
        let (app, pod) = (unknown.app(), unknown.pod().clone());
        let slices: Api<EndpointSlice> = Api::namespaced(cluster.client.clone(), namespace);
        let endpoint = json!({"endpoints": [{
            "addresses": [pod.v4().to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": "late-1"},
        }]});
        let params = PatchParams::default();
        slices
            .patch("late-ipv4", &params, &Patch::Merge(&endpoint))
            .await?;
        // The same for a pod that is known shows that slices written like this are read.
        let known = json!({"endpoints": [{
            "addresses": [mesh.pod("api-1").v4().to_string()],
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": "api-1"},
        }, endpoint["endpoints"][0]]});
        slices
            .patch("late-ipv4", &params, &Patch::Merge(&known))
            .await?;
        wait_for("the pod that is known", CHANGE, async || {
            let answer = client.get(to, "/known").await?;
            Ok((answer.served_by() == Some("api-1")).then_some(()))
        })
        .await?;
        for _ in 0..50 {
            let answer = client.get(to, "/early").await?;
            assert_eq!(answer.served_by(), Some("api-1"), "{}", answer.text());
        }
        slices
            .patch("late-ipv4", &params, &Patch::Merge(&endpoint))
            .await?;
        wait_for("only what is withheld", CHANGE, async || {
            let answer = client.get(to, "/early").await?;
            Ok((answer.outcome() == Some("no_endpoints")).then_some(()))
        })
        .await?;
        let seen = app.stats().await?;
        assert_eq!(
            (seen.requests, seen.connections),
            (0, 0),
            "while it is withheld"
        );

        let begin = Instant::now();
        mesh.make_known(unknown).await?;
        let mut served = 0;
        wait_for("the pod that came late", CHANGE, async || {
            let answer = client.get(to, "/late").await?;
            served += u64::from(answer.served_by() == Some("late-1"));
            Ok((served >= 5).then_some(()))
        })
        .await?;
        cx.measured(format!("ready and called after {:.1?}", begin.elapsed()));
        let seen = app.stats().await?;
        assert_eq!(seen.requests, served, "{:?}", seen.routes);
        assert_eq!(inbound(mesh, "late-1", "mutual").await?, served);
        assert_eq!(inbound(mesh, "late-1", "none").await?, 0);
        Ok(())
    })
    .await
}

/// A pod's port that three Services select has the strictest `mtls` and every `authorization`, by
/// whichever of them it is addressed. Who dials the pod's own address gets the Namespace's policy, or
/// that of the Service which the request names.
async fn three(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = mesh("three")
        .workload(Workload::new("one-client").service_account("one"))
        .workload(Workload::new("two-client").service_account("two"))
        .workload(http_app("api-1"))
        .service(service("first", ["api-1"]))
        .service(service("second", ["api-1"]))
        .service(service("third", ["api-1"]));
    cx.on(&cluster, builder, async |mesh| {
        let namespace = mesh.namespace();
        let (one, two) = (mesh.pod("one-client"), mesh.pod("two-client"));
        let stranger = mesh.stranger("stranger")?;
        let pod: SocketAddr = (mesh.pod("api-1").v4(), APP_PORT).into();

        // At the client: how often a request is tried says whose policy it had.
        let retries = |attempts: u64| {
            format!("retries: {{attempts: {attempts}, statusCodes: [503], {BUDGET}}}")
        };
        let of_namespace = policy(namespace, "all", "x", &retries(1)).replace(
            "kind: Service, name: x",
            &format!("kind: Namespace, name: {namespace}"),
        );
        mesh.apply_policy("all", &of_namespace)?;
        mesh.apply_policy("first", &policy(namespace, "first", "first", &retries(3)))?;
        mesh.apply_policy(
            "second",
            &policy(namespace, "second", "second", &retries(2)),
        )?;
        mesh.app("api-1").behave(&Behavior::status(503)).await?;
        let hosts = ["first", "second", "third"].map(|name| (mesh.addr(name, PORT), name));
        let cases = [
            (hosts[0], 4),
            (hosts[1], 3),
            (hosts[2], 2),
            ((pod, "10.0.0.1:8080"), 2),
            ((pod, "first"), 4),
            ((pod, "third"), 2),
        ];
        for (number, ((to, host), tries)) in cases.into_iter().enumerate() {
            wait_for(
                &format!("{tries} tries of {host} at {to}"),
                CHANGE,
                async || {
                    let id = format!("{number}-{:?}", Instant::now());
                    ask(&one, to, Method::GET, host, &id).await?;
                    let seen = mesh.app("api-1").stats().await?.ids;
                    Ok((seen.get(&id) == Some(&tries)).then_some(()))
                },
            )
            .await?;
        }
        mesh.app("api-1").behave(&Behavior::default()).await?;
        mesh.remove_policy("all")?;

        // At the server.
        assert_eq!(stranger.get(pod, "/plain").await?.status, 200, "Permissive");
        let allow = |accounts: &str, more: &str| {
            format!("authorization: {{allow: [{{principals: [{accounts}]{more}}}]}}")
        };
        let of = |account: &str| format!("{{serviceAccount: {{name: {account}}}}}");
        let (only_one, both) = (of("one"), format!("{}, {}", of("one"), of("two")));
        for (name, stanzas) in [
            ("first", "mtls: {mode: Strict}".to_owned()),
            ("second", allow(&only_one, "")),
            ("third", allow(&both, ", methods: [GET]")),
        ] {
            mesh.apply_policy(name, &policy(namespace, name, name, &stanzas))?;
        }
        // For each caller and method, by every way: whether it is let in.
        let ways = hosts.into_iter().chain([(pod, "first"), (pod, "third")]);
        let ways: Vec<_> = ways.collect();
        let check = async |caller: &Pod, method: Method, status: u16| -> anyhow::Result<()> {
            for (to, host) in &ways {
                let before = mesh.app("api-1").stats().await?.requests;
                let what = format!(
                    "{status} for {method} by {} to {host} at {to}",
                    caller.name()
                );
                let answered = wait_for(&what, CHANGE, async || {
                    let answer = ask(caller, *to, method.clone(), host, "").await?;
                    Ok((answer.status == status).then_some(()))
                });
                answered.await?;
                if status != 200 {
                    let again = ask(caller, *to, method.clone(), host, "").await?;
                    assert_eq!(again.status, status, "{what}");
                    continue;
                }
                assert!(mesh.app("api-1").stats().await?.requests > before, "{what}");
            }
            Ok(())
        };
        check(&two, Method::GET, 403).await?;
        check(&one, Method::POST, 403).await?;
        check(&one, Method::GET, 200).await?;
        let plain = stranger.get(pod, "/plain").await?;
        assert_eq!(
            (plain.status.as_u16(), plain.outcome()),
            (403, Some("mtls_required"))
        );
        let refused = mesh.app("api-1").stats().await?.routes;
        check(&two, Method::GET, 403).await?;
        assert_eq!(
            mesh.app("api-1").stats().await?.routes,
            refused,
            "at the server"
        );

        // Without the second's, the first's and the third's hold on.
        mesh.remove_policy("second")?;
        check(&two, Method::GET, 200).await?;
        check(&one, Method::POST, 403).await?;
        Ok(())
    })
    .await
}

/// A Service without selector, whose slice has addresses that are nobody's pod: every stanza that the
/// client's sidecar carries out acts there, in plaintext, as nobody there has an identity.
async fn foreign(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = client_and("foreign", ["api-1"]).service(service::<0>("external", []));
    cx.on(&cluster, builder, async |mesh| {
        let namespace = mesh.namespace();
        let client = mesh.pod("client");
        let to = mesh.addr("external", PORT);
        let mut outside = Vec::new();
        for name in ["outside-1", "outside-2"] {
            outside.push(mesh.start_unknown(http_app(name).unmeshed()).await?);
        }
        let stanzas = format!("retries: {{attempts: 2, statusCodes: [503], {BUDGET}}}, {BREAKER}");
        mesh.apply_policy(
            "external",
            &policy(namespace, "external", "external", &stanzas),
        )?;
        wait_for("the fallback", CHANGE, async || {
            let answer = client.get(to, "/").await?;
            Ok((answer.text() == "aside").then_some(()))
        })
        .await?;
        let addresses = outside
            .iter()
            .map(|one| Endpoint::Address(one.pod().v4().into()));
        mesh.set_endpoints("external", addresses)?;
        let mut by = BTreeMap::<String, u64>::new();
        wait_for("both addresses", CHANGE, async || {
            let answer = client.get(to, "/").await?;
            *by.entry(answer.served_by().unwrap_or_default().to_owned())
                .or_default() += 1;
            Ok((by.contains_key("outside-1") && by.contains_key("outside-2")).then_some(()))
        })
        .await?;

        // One of them fails from now on: nobody notices, and the breaker takes it out.
        outside[0].app().behave(&Behavior::status(503)).await?;
        let before = outside[0].app().stats().await?.requests;
        for number in 0..40 {
            let answer = ask(&client, to, Method::GET, "external", &number.to_string()).await?;
            assert_eq!(
                answer.served_by(),
                Some("outside-2"),
                "{number}: {}",
                answer.status
            );
        }
        let tried = outside[0].app().stats().await?.requests - before;
        assert_eq!(tried, 3, "until the breaker opened");
        let page = Metrics::parse(&mesh.metrics("client").await?);
        let plain = [
            ("direction", "outbound"),
            ("tls", "none"),
            ("outcome", "ok"),
        ];
        assert!(page.sum("weft_requests_total", &plain) >= 40.0);
        let open = [("state", "open")];
        assert_eq!(page.sum("weft_circuit_breaker_state", &open) as u64, 1);

        // Its split leads into the mesh.
        let moved = policy(namespace, "external", "external", &moved_to("api"));
        mesh.apply_policy("external", &moved)?;
        wait_for("the split", CHANGE, async || {
            let answer = client.get(to, "/moved").await?;
            Ok((answer.served_by() == Some("api-1")).then_some(()))
        })
        .await?;
        assert!(inbound(mesh, "api-1", "mutual").await? >= 1);
        Ok(())
    })
    .await
}

/// Clients of a headless Service dial its pods, by names that are the pods' own: what the policy says of
/// requests holds, with mutual TLS, and there is nothing to balance and nothing to split. Requests that
/// name the Service itself are the Service's, wherever they were dialled.
async fn headless(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let db = Service::new("db").headless().port(PORT, APP_PORT);
    let builder = client_and("headless", ["api-1"])
        .workload(http_app("db-1"))
        .workload(http_app("db-2"))
        .service(db.endpoints(["db-1", "db-2"]));
    cx.on(&cluster, builder, async |mesh| {
        let namespace = mesh.namespace();
        let client = mesh.pod("client");
        let pods = ["db-1", "db-2"].map(|name| {
            let to: SocketAddr = (mesh.pod(name).v4(), APP_PORT).into();
            (name, to)
        });
        let stanzas = format!(
            "retries: {{attempts: 2, statusCodes: [503], {BUDGET}}}, {}",
            moved_to("api")
        );
        mesh.apply_policy("db", &policy(namespace, "db", "db", &stanzas))?;
        mesh.app("db-1").behave(&Behavior::status(503)).await?;
        wait_for("the retries", CHANGE, async || {
            let id = format!("{:?}", Instant::now());
            ask(&client, pods[0].1, Method::GET, "db-1.db", &id).await?;
            let seen = mesh.app("db-1").stats().await?.ids;
            Ok((seen.get(&id) == Some(&3)).then_some(()))
        })
        .await?;
        mesh.app("db-1").behave(&Behavior::default()).await?;
        for (name, to) in pods {
            let before = mesh.app(name).stats().await?.requests;
            for _ in 0..20 {
                let answer = client.get(to, "/").await?;
                assert_eq!(
                    (answer.status.as_u16(), answer.served_by()),
                    (200, Some(name))
                );
            }
            let seen = mesh.app(name).stats().await?.requests;
            assert_eq!(seen - before, 20, "requests that {name} saw");
            assert_eq!(inbound(mesh, name, "none").await?, 0, "{name}");
            assert!(inbound(mesh, name, "mutual").await? >= 20, "{name}");
        }
        assert_eq!(
            stats(mesh, ["api-1"]).await?.requests,
            0,
            "nothing is split"
        );
        // Pods are dialled as long as they are there; a slice that names them no more takes the policy.
        mesh.set_endpoints("db", ["db-2"])?;
        mesh.app("db-1").behave(&Behavior::status(503)).await?;
        wait_for("a pod of no service", CHANGE, async || {
            let id = format!("{:?}", Instant::now());
            ask(&client, pods[0].1, Method::GET, "x", &id).await?;
            let seen = mesh.app("db-1").stats().await?.ids;
            Ok((seen.get(&id) == Some(&1)).then_some(()))
        })
        .await
    })
    .await
}

/// A Service has the addresses that the API server gives it, of both families where it has both; its pods
/// are one endpoint each, though a slice of each family names them.
async fn families(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, client_and("families", ["api-1"]), async |mesh| {
        let services: Api<k8s_openapi::api::core::v1::Service> =
            Api::namespaced(cluster.client.clone(), mesh.namespace());
        let spec = services.get("api").await?.spec.unwrap_or_default();
        let given = spec.cluster_ips.unwrap_or_default();
        let (v4, v6) = (mesh.addr("api", PORT), mesh.addr_v6("api", PORT));
        let mut ways = vec![v4];
        ways.extend(mesh.has_v6("api").then_some(v6));
        assert!(
            cx.given.is_some() || ways.len() == 2,
            "the test's own server"
        );
        let known: Vec<_> = ways.iter().map(|to| to.ip().to_string()).collect();
        assert_eq!(known, given);
        for to in &ways {
            for _ in 0..5 {
                let answer = mesh.pod("client").get(*to, "/").await?;
                assert_eq!(
                    (answer.status.as_u16(), answer.served_by()),
                    (200, Some("api-1"))
                );
            }
        }
        let expected = 5 * ways.len() as u64;
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, expected);
        assert_eq!(inbound(mesh, "api-1", "mutual").await?, expected);
        Ok(())
    })
    .await
}

/// Requests that a sidecar let in, with this kind of TLS.
async fn inbound(mesh: &Mesh, workload: &str, tls: &str) -> anyhow::Result<u64> {
    let page = Metrics::parse(&mesh.metrics(workload).await?);
    let labels = [("direction", "inbound"), ("tls", tls), ("outcome", "ok")];
    Ok(page.sum("weft_requests_total", &labels) as u64)
}

/// One request over a connection of its own, with an id that the application counts unless it is empty.
async fn ask(
    pod: &Pod,
    to: SocketAddr,
    method: Method,
    host: &str,
    id: &str,
) -> anyhow::Result<Answer> {
    let mut request = Request::builder()
        .method(method)
        .uri("/")
        .header(http::header::HOST, host);
    if !id.is_empty() {
        request = request.header(weft_sandbox::app::ID, id);
    }
    let request = request.body(Full::new(Bytes::new()))?;
    let exchange = async {
        let mut connection = Http1::connect(pod, to).await?;
        connection.request(request).await
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await?
}
