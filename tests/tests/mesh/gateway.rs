//! Gateway API routes on Services: the mesh conformance cases of the Gateway API under their names, in
//! our own words, through real sidecars. Who answered is counted at the servers: every case sends requests
//! with ids of its own, and each of them was seen by the wanted server, once, or by none.

mod filters;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use weft_sandbox::app::{ID, Stats};
use weft_sandbox::client::{Answer, Http2};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Service, Workload};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, http_app, mesh, percent, policy, request, send, service, stats, wait_for,
};

/// A second port of the service `echo`.
const OTHER_PORT: u16 = 8080;
/// The namespace of consumers.
const CONSUMERS: &str = "consumers";
/// Requests of a case that counts shares.
const MANY: u64 = 600;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("gateway::MeshBasic", basic);
    suite.add("gateway::MeshTrafficSplit", traffic_split);
    suite.add("gateway::MeshPorts", ports);
    suite.add("gateway::MeshConsumerRoute", consumer_route);
    suite.add("gateway::MeshHTTPRouteSimpleSameNamespace", simple);
    suite.add("gateway::MeshHTTPRouteMatching", matching);
    suite.add("gateway::MeshHTTPRouteQueryParamMatching", query_params);
    suite.add("gateway::MeshHTTPRouteNamedRule", named_rule);
    suite.add("gateway::MeshHTTPRouteWeight", weight);
    suite.add("gateway::MeshGRPCRouteWeight", grpc_weight);
    suite.add(
        "gateway::MeshHTTPRouteRequestHeaderModifier",
        filters::rule_headers,
    );
    suite.add(
        "gateway::MeshHTTPRouteBackendRequestHeaderModifier",
        filters::backend_headers,
    );
    suite.add(
        "gateway::MeshHTTPRouteRedirectHostAndStatus",
        filters::redirect_host,
    );
    suite.add("gateway::MeshHTTPRouteRedirectPath", filters::redirect_path);
    suite.add("gateway::MeshHTTPRouteRedirectPort", filters::redirect_port);
    suite.add(
        "gateway::MeshHTTPRouteSchemeRedirect",
        filters::redirect_scheme,
    );
    suite.add("gateway::MeshHTTPRouteRewritePath", filters::rewrite_path);
    suite.add("gateway::MeshHTTPRouteRequestMirror", filters::mirror);
    suite.add("gateway::MeshFrontend", frontend);
    suite.add("gateway::backends_that_lead_nowhere_answer_500", nowhere);
    suite.add("gateway::policies_supply_the_rest", the_rest);
    suite.add("gateway::a_route_that_comes_and_goes", comes_and_goes);
}

/// What one request meets.
enum Wanted {
    /// This server, which sees this path.
    Server(&'static str),
    /// An answer of the sidecar's.
    Status(u16),
    /// A redirect.
    Location(u16, &'static str),
}
use Wanted::{Location, Server, Status};

/// Method, target, headers, and what the request meets.
type Case<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], Wanted);

/// Two versions of one application, each with a service of its own, and one service for both.
fn echo(name: &str, manifest: &str) -> Builder {
    mesh(name)
        .workload(Workload::new("client"))
        .workload(http_app("echo-v1-1"))
        .workload(http_app("echo-v2-1").version("v2"))
        .service(
            Service::new("echo")
                .port(PORT, APP_PORT)
                .port_name("http")
                .port(OTHER_PORT, APP_PORT)
                .port_name("http-alt")
                .endpoints(["echo-v1-1", "echo-v2-1"]),
        )
        .service(service("echo-v1", ["echo-v1-1"]))
        .service(service("echo-v2", ["echo-v2-1"]))
        .named_policy("route", manifest)
}

/// An HTTPRoute of the namespace `default`; `spec` in YAML's flow style, behind its parent.
fn route(parent: &str, rules: &str) -> String {
    manifest("HTTPRoute", "route", "default", parent, rules)
}

fn manifest(kind: &str, name: &str, namespace: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\n\
         apiVersion: gateway.networking.k8s.io/v1\n\
         kind: {kind}\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, {parent}}}], rules: [{rules}]}}\n"
    )
}

const ECHO: &str = "name: echo";
const V1: &str = "backendRefs: [{name: echo-v1, port: 80}]";
const V2: &str = "backendRefs: [{name: echo-v2, port: 80}]";

/// Sends each request, and looks at who saw it.
async fn check(mesh: &Mesh, port: u16, cases: &[Case<'_>]) -> anyhow::Result<()> {
    for (number, (method, target, headers, wanted)) in cases.iter().enumerate() {
        let id = format!("case-{port}-{number}");
        let answer = call(
            mesh,
            "client",
            "echo",
            port,
            method.clone(),
            target,
            headers,
            &id,
        )
        .await?;
        let what = format!("{method} {target} {headers:?}: {answer:?}");
        let seen_by = seen_by(mesh, &id).await?;
        match wanted {
            Server(server) => {
                assert_eq!(answer.status, 200, "{what}");
                assert_eq!(seen_by, [*server], "{what}");
            }
            Status(status) => {
                assert_eq!(answer.status, *status, "{what}");
                assert!(seen_by.is_empty(), "{what}");
            }
            Location(status, location) => {
                assert_eq!(answer.status, *status, "{what}");
                assert_eq!(answer.header("location"), Some(*location), "{what}");
                assert_eq!(answer.outcome(), Some("ok"), "{what}");
                assert_eq!(answer.header("x-weft-origin"), Some("outbound"), "{what}");
                assert!(seen_by.is_empty(), "{what}");
            }
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)] // One for each thing that cases differ in.
async fn call(
    mesh: &Mesh,
    client: &str,
    service: &str,
    port: u16,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
    id: &str,
) -> anyhow::Result<Answer> {
    let mut call = request(method, target, id, "");
    call.headers_mut().insert("host", "echo".parse()?);
    for (name, value) in headers {
        let name: http::HeaderName = name.parse()?;
        call.headers_mut().append(name, value.parse()?);
    }
    send(&mesh.pod(client), mesh.addr(service, port), call).await
}

async fn seen_by(mesh: &Mesh, id: &str) -> anyhow::Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for (server, app) in [("v1", "echo-v1-1"), ("v2", "echo-v2-1")] {
        let seen: Stats = mesh.app(app).stats().await?;
        let times = seen.ids.get(id).copied().unwrap_or(0);
        found.extend(std::iter::repeat_n(server, times as usize));
    }
    Ok(found)
}

/// The share of the second version among many requests, with every one of them seen once.
async fn share_of_v2(mesh: &Mesh, prefix: &str) -> anyhow::Result<f64> {
    for app in ["echo-v1-1", "echo-v2-1"] {
        mesh.app(app).reset_stats().await?;
    }
    let load = weft_sandbox::load::Load::new(mesh.addr("echo", PORT));
    let load = load.clients(4).requests(MANY).id_prefix(prefix);
    let report = load.run(&mesh.pod("client")).await;
    crate::common::assert_all_served_once(&report, &stats(mesh, ["echo-v1-1", "echo-v2-1"]).await?);
    let seen = mesh.app("echo-v2-1").stats().await?;
    Ok(percent(seen.requests, MANY))
}

/// Five standard deviations.
fn assert_near(share: f64, wanted: f64) {
    let deviation = (wanted * (100.0 - wanted) / MANY as f64).sqrt();
    let most = 5.0 * deviation;
    assert!(
        (share - wanted).abs() <= most,
        "{share:.1} % instead of {wanted} %"
    );
}

async fn basic(cx: Cx) -> anyhow::Result<()> {
    // No route at all: the service as it is.
    cx.on(echo("gw-basic", "# nothing\n"), async |mesh| {
        let share = share_of_v2(mesh, "basic").await?;
        assert!(share > 0.0 && share < 100.0, "{share} %");
        Ok(())
    })
    .await
}

async fn simple(cx: Cx) -> anyhow::Result<()> {
    let rules = format!("{{{V1}}}");
    cx.on(echo("gw-simple", &route(ECHO, &rules)), async |mesh| {
        assert_near(share_of_v2(mesh, "simple").await?, 0.0);
        Ok(())
    })
    .await
}

async fn traffic_split(cx: Cx) -> anyhow::Result<()> {
    let rules = "{matches: [{path: {type: Exact, value: /v1}}], backendRefs: [{name: echo-v1, port: 80}]}, \
                 {matches: [{path: {type: Exact, value: /v2}}], backendRefs: [{name: echo-v2, port: 80}]}";
    cx.on(echo("gw-split", &route(ECHO, rules)), async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/v1", &[], Server("v1")),
                (Method::GET, "/v2", &[], Server("v2")),
                // A route stands instead of everything else: what it does not match has no route.
                (Method::GET, "/", &[], Status(404)),
            ],
        )
        .await
    })
    .await
}

async fn ports(cx: Cx) -> anyhow::Result<()> {
    let one = manifest(
        "HTTPRoute",
        "one",
        "default",
        "name: echo, port: 80",
        &format!("{{{V1}}}"),
    );
    let by_name = "name: echo, sectionName: http-alt";
    let two = manifest("HTTPRoute", "two", "default", by_name, &format!("{{{V2}}}"));
    cx.on(echo("gw-ports", &(one + &two)), async |mesh| {
        check(mesh, PORT, &[(Method::GET, "/", &[], Server("v1"))]).await?;
        check(mesh, OTHER_PORT, &[(Method::GET, "/", &[], Server("v2"))]).await
    })
    .await
}

async fn consumer_route(cx: Cx) -> anyhow::Result<()> {
    let header = |value| {
        format!(
            "{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: \
             {{set: [{{name: X-Set, value: {value}}}]}}}}], backendRefs: \
             [{{name: echo-v1, namespace: default, port: 80}}]}}"
        )
    };
    let parent = "name: echo, namespace: default";
    let producer = manifest(
        "HTTPRoute",
        "producer",
        "default",
        parent,
        &header("producer"),
    );
    let consumer = manifest(
        "HTTPRoute",
        "consumer",
        CONSUMERS,
        parent,
        &header("consumer"),
    );
    let builder = echo("gw-consumer", &(producer + &consumer));
    let builder = builder.workload(Workload::new("client").namespace(CONSUMERS));
    cx.on(builder, async |mesh| {
        for (client, wanted) in [("client", "producer"), ("consumers/client", "consumer")] {
            let id = format!("of-{wanted}");
            let answer = call(mesh, client, "echo", PORT, Method::GET, "/", &[], &id).await?;
            assert_eq!(answer.header("x-set"), Some(wanted));
            assert_eq!(seen_by(mesh, &id).await?, ["v1"]);
        }
        // Without its own route, a consumer has the producer's.
        let parent = "name: echo, namespace: default";
        let alone = manifest(
            "HTTPRoute",
            "producer",
            "default",
            parent,
            &header("producer"),
        );
        mesh.apply_policy("route", &alone)?;
        wait_for("the producer's route", Duration::from_secs(5), async || {
            let client = "consumers/client";
            let answer = call(mesh, client, "echo", PORT, Method::GET, "/", &[], "again").await?;
            Ok((answer.header("x-set") == Some("producer")).then_some(()))
        })
        .await
    })
    .await
}

async fn matching(cx: Cx) -> anyhow::Result<()> {
    let rules = format!(
        "{{matches: [{{path: {{type: PathPrefix, value: /}}}}, {{headers: [{{name: version, value: one}}]}}], {V1}}}, \
         {{matches: [{{path: {{type: PathPrefix, value: /v2}}}}, {{headers: [{{name: version, value: two}}]}}], {V2}}}, \
         {{matches: [{{path: {{type: RegularExpression, value: '/items/[0-9]+'}}}}, \
                     {{path: {{value: /orders}}, method: PUT}}], {V2}}}"
    );
    cx.on(echo("gw-matching", &route(ECHO, &rules)), async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/", &[], Server("v1")),
                (Method::GET, "/example", &[], Server("v1")),
                (Method::GET, "/", &[("Version", "one")], Server("v1")),
                (Method::GET, "/v2", &[], Server("v2")),
                (Method::GET, "/v2/example", &[], Server("v2")),
                (Method::GET, "/", &[("Version", "two")], Server("v2")),
                (Method::GET, "/v2/", &[], Server("v2")),
                (Method::GET, "/v2example", &[], Server("v1")),
                (Method::GET, "/foo/v2/example", &[], Server("v1")),
                (Method::GET, "/items/7", &[], Server("v2")),
                (Method::GET, "/items/x", &[], Server("v1")),
                (Method::PUT, "/orders/7", &[], Server("v2")),
                (Method::GET, "/orders/7", &[], Server("v1")),
                // The longer prefix goes before the header.
                (Method::GET, "/v2", &[("Version", "one")], Server("v2")),
            ],
        )
        .await
    })
    .await
}

async fn query_params(cx: Cx) -> anyhow::Result<()> {
    let param = |value| format!("queryParams: [{{name: animal, value: {value}}}]");
    let rules = format!(
        "{{matches: [{{{whale}}}], {V1}}}, {{matches: [{{{dolphin}}}], {V2}}}, \
         {{matches: [{{{dolphin}, path: {{value: /path1}}}}, {{{whale}, path: {{value: /path1}}}}], {V1}}}, \
         {{matches: [{{{whale}, headers: [{{name: version, value: one}}]}}], {V2}}}, \
         {{matches: [{{{shark}, path: {{value: /path3}}}}, \
                     {{{kraken}, path: {{value: /path4}}, headers: [{{name: version, value: three}}]}}], {V1}}}, \
         {{matches: [{{queryParams: [{{type: RegularExpression, name: animal, value: 'sea-.*'}}]}}], {V2}}}, \
         {{matches: [{{{hydra}}}], {V2}}}, {{matches: [{{path: {{value: /path5}}}}], {V1}}}",
        whale = param("whale"),
        dolphin = param("dolphin"),
        shark = param("shark"),
        kraken = param("kraken"),
        hydra = param("hydra"),
    );
    cx.on(echo("gw-query", &route(ECHO, &rules)), async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/?animal=whale", &[], Server("v1")),
                (Method::GET, "/?animal=dolphin", &[], Server("v2")),
                (
                    Method::GET,
                    "/?animal=whale&other=irrelevant",
                    &[],
                    Server("v1"),
                ),
                (
                    Method::GET,
                    "/?animal=dolphin&color=yellow",
                    &[],
                    Server("v2"),
                ),
                (Method::GET, "/?color=blue", &[], Status(404)),
                (Method::GET, "/?animal=dog", &[], Status(404)),
                (Method::GET, "/?animal=whaledolphin", &[], Status(404)),
                (Method::GET, "/", &[], Status(404)),
                (Method::GET, "/path1?animal=whale", &[], Server("v1")),
                (
                    Method::GET,
                    "/?animal=whale",
                    &[("version", "one")],
                    Server("v2"),
                ),
                (Method::GET, "/path3?animal=shark", &[], Server("v1")),
                (
                    Method::GET,
                    "/path4?animal=kraken",
                    &[("version", "three")],
                    Server("v1"),
                ),
                (Method::GET, "/?animal=shark", &[], Status(404)),
                (Method::GET, "/path4?animal=kraken", &[], Status(404)),
                (Method::GET, "/path5?animal=hydra", &[], Server("v1")),
                (Method::GET, "/?animal=sea-cow", &[], Server("v2")),
            ],
        )
        .await
    })
    .await
}

async fn named_rule(cx: Cx) -> anyhow::Result<()> {
    let rules = format!(
        "{{name: first, matches: [{{path: {{value: /named}}}}], {V1}}}, \
         {{matches: [{{path: {{value: /unnamed}}}}], {V2}}}"
    );
    cx.on(echo("gw-named", &route(ECHO, &rules)), async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/named", &[], Server("v1")),
                (Method::GET, "/unnamed", &[], Server("v2")),
            ],
        )
        .await?;
        let metrics = crate::common::metrics(mesh, "client").await?;
        for name in ["first", "route"] {
            let labels = [("direction", "outbound"), ("route", name)];
            assert_eq!(metrics.sum("weft_requests_total", &labels), 1.0, "{name}");
        }
        Ok(())
    })
    .await
}

async fn weight(cx: Cx) -> anyhow::Result<()> {
    let rules = |v1, v2| {
        let refs = format!(
            "{{backendRefs: [{{name: echo-v1, port: 80, weight: {v1}}}, \
             {{name: echo-v2, port: 80, weight: {v2}}}]}}"
        );
        route(ECHO, &refs)
    };
    cx.on(echo("gw-weight", &rules(70, 30)), async |mesh| {
        let share = share_of_v2(mesh, "weight").await?;
        cx.measured(format!("{share:.1} % of 30 %"));
        assert_near(share, 30.0);
        mesh.apply_policy("route", &rules(0, 1))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_near(share_of_v2(mesh, "zero").await?, 100.0);
        Ok(())
    })
    .await
}

async fn grpc_weight(cx: Cx) -> anyhow::Result<()> {
    let rules = "{matches: [{method: {service: weft.sandbox.v1.Echo}}], backendRefs: \
                 [{name: echo-v1, port: 80, weight: 70}, {name: echo-v2, port: 80, weight: 30}]}";
    // Beside a GRPCRoute no HTTPRoute is heard.
    let other = manifest("HTTPRoute", "other", "default", ECHO, &format!("{{{V2}}}"));
    let grpc = manifest("GRPCRoute", "grpc", "default", ECHO, rules);
    cx.on(echo("gw-grpc", &(grpc + &other)), async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("echo", PORT));
        let connection = Http2::connect(&client, to).await?;
        for number in 0..MANY {
            let call = Request::post("http://echo/weft.sandbox.v1.Echo/Unary")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header(ID, format!("grpc-{number}"));
            // One empty message.
            let call = call.body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))?;
            let answer = connection.request(call).await?;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let all = stats(mesh, ["echo-v1-1", "echo-v2-1"]).await?;
        assert_eq!((all.requests, all.repeated_ids()), (MANY, 0));
        let seen = mesh.app("echo-v2-1").stats().await?;
        assert_near(percent(seen.requests, MANY), 30.0);
        // No gRPC, no route; and none for another service of gRPC.
        check(mesh, PORT, &[(Method::GET, "/", &[], Status(404))]).await?;
        let call = Request::post("http://echo/other.Service/Unary");
        let call = call
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let answer = connection.request(call.body(Full::default())?).await?;
        assert_eq!(answer.header("grpc-status"), Some("12"));
        assert_eq!(answer.outcome(), Some("no_route"));
        Ok(())
    })
    .await
}

async fn frontend(cx: Cx) -> anyhow::Result<()> {
    // What is sent to a service whose traffic goes elsewhere is not routed again there.
    let first = format!(
        "{{{V2}, filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: \
         {{set: [{{name: X-Set, value: first}}]}}}}]}}"
    );
    let first = manifest("HTTPRoute", "first", "default", ECHO, &first);
    let second = manifest(
        "HTTPRoute",
        "second",
        "default",
        "name: echo-v2",
        &format!("{{{V1}}}"),
    );
    cx.on(echo("gw-frontend", &(first + &second)), async |mesh| {
        let answer = call(mesh, "client", "echo", PORT, Method::GET, "/", &[], "front").await?;
        assert_eq!(answer.header("x-set"), Some("first"));
        assert_eq!(seen_by(mesh, "front").await?, ["v2"]);
        let answer = call(
            mesh,
            "client",
            "echo-v2",
            PORT,
            Method::GET,
            "/",
            &[],
            "back",
        )
        .await?;
        assert_eq!(answer.header("x-set"), None);
        assert_eq!(seen_by(mesh, "back").await?, ["v1"]);
        Ok(())
    })
    .await
}

async fn nowhere(cx: Cx) -> anyhow::Result<()> {
    let rules = format!(
        "{{matches: [{{path: {{value: /missing}}}}], backendRefs: [{{name: gone, port: 80}}]}}, \
         {{matches: [{{path: {{value: /no-port}}}}], backendRefs: [{{name: echo-v1, port: 81}}]}}, \
         {{matches: [{{path: {{value: /kind}}}}], backendRefs: [{{kind: Pod, name: echo-v1, port: 80}}]}}, \
         {{matches: [{{path: {{value: /none}}}}]}}, \
         {{matches: [{{path: {{value: /cleared}}}}], backendRefs: [{{name: echo-v1, port: 80, weight: 0}}]}}, \
         {{matches: [{{path: {{value: /elsewhere}}}}], backendRefs: [{{name: other, namespace: ops, port: 80}}]}}, \
         {{matches: [{{path: {{value: /cors}}}}], filters: [{{type: CORS, cors: {{}}}}], {V1}}}, \
         {{matches: [{{path: {{value: /fine}}}}], {V1}}}"
    );
    let builder = echo("gw-nowhere", &route(ECHO, &rules))
        .workload(http_app("other-1").namespace("ops"))
        .service(service("other", ["other-1"]).namespace("ops"));
    cx.on(builder, async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/missing", &[], Status(500)),
                (Method::GET, "/no-port", &[], Status(500)),
                (Method::GET, "/kind", &[], Status(500)),
                (Method::GET, "/none", &[], Status(500)),
                (Method::GET, "/cleared", &[], Status(500)),
                (Method::GET, "/elsewhere", &[], Status(500)),
                (Method::GET, "/cors", &[], Status(500)),
                (Method::GET, "/fine", &[], Server("v1")),
            ],
        )
        .await?;
        // With a grant, the other namespace is reached.
        let grant = "---\n\
            apiVersion: gateway.networking.k8s.io/v1\n\
            kind: ReferenceGrant\n\
            metadata: {name: grant, namespace: ops}\n\
            spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], \
                   to: [{group: '', kind: Service}]}\n";
        mesh.apply_policy("grant", grant)?;
        wait_for("the grant", Duration::from_secs(5), async || {
            let target = "/elsewhere";
            let answer = call(mesh, "client", "echo", PORT, Method::GET, target, &[], "granted").await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await?;
        assert_eq!(mesh.app("ops/other-1").stats().await?.requests, 1);
        Ok(())
    })
    .await
}

/// Timeouts and retries of a route go before a policy's, which supplies what the route leaves out; a
/// policy's stickiness applies to the route's weights, its own rules and backends do not.
async fn the_rest(cx: Cx) -> anyhow::Result<()> {
    let rules = "{matches: [{path: {value: /slow}}], timeouts: {request: 300ms}, backendRefs: [{name: echo-v1, port: 80}]}, \
                 {matches: [{path: {value: /again}}], retry: {attempts: 2, codes: [503], backoff: 10ms}, backendRefs: [{name: echo-v1, port: 80}]}, \
                 {matches: [{path: {value: /user}}], backendRefs: [{name: echo-v1, port: 80, weight: 50}, {name: echo-v2, port: 80, weight: 50}]}";
    let stanzas = "timeouts: {request: 2s}, split: {backends: [{name: echo-v2}], sticky: {type: Header, name: x-user}}, \
                   rules: [{name: all, matches: [{}], faultInjection: {abort: {httpStatus: 418}}}]";
    let builder = echo("gw-rest", &route(ECHO, rules)).policy(&policy("rest", "echo", stanzas));
    cx.on(builder, async |mesh| {
        let get = async |target: &str, headers: &[(&str, &str)], id: &str| {
            call(
                mesh,
                "client",
                "echo",
                PORT,
                Method::GET,
                target,
                headers,
                id,
            )
            .await
        };
        let begin = std::time::Instant::now();
        let answer = get("/slow?delay_ms=1500", &[], "slow").await?;
        assert_eq!(answer.outcome(), Some("request_timeout"), "{answer:?}");
        assert!(
            begin.elapsed() < Duration::from_millis(1200),
            "{:?}",
            begin.elapsed()
        );
        // Only the policy limits this one.
        assert_eq!(
            get("/user?delay_ms=600", &[("x-user", "me")], "me")
                .await?
                .status,
            200
        );

        let failing = weft_sandbox::app::Behavior {
            fail_next: 2,
            ..weft_sandbox::app::Behavior::default()
        };
        mesh.app("echo-v1-1").behave(&failing).await?;
        let answer = get("/again", &[], "again").await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            mesh.app("echo-v1-1").stats().await?.ids.get("again"),
            Some(&3)
        );

        let mut sides = std::collections::BTreeSet::new();
        for user in 0..12 {
            let user = format!("user-{user}");
            let mut servers = std::collections::BTreeSet::new();
            for visit in 0..3 {
                let answer = get("/user", &[("x-user", &user)], &format!("{user}-{visit}")).await?;
                servers.extend(answer.served_by().map(str::to_owned));
            }
            assert_eq!(servers.len(), 1, "{user} was at {servers:?}");
            sides.extend(servers);
        }
        assert_eq!(sides.len(), 2, "everybody is at {sides:?}");
        Ok(())
    })
    .await
}

/// A route's coming and going, and a bad version of it, cost no request.
async fn comes_and_goes(cx: Cx) -> anyhow::Result<()> {
    cx.on(echo("gw-live", "# nothing\n"), async |mesh| {
        let load = weft_sandbox::load::Load::new(mesh.addr("echo", PORT));
        let load = load.clients(4).rate(200.0).start(&mesh.pod("client"));
        let mut rounds = 0;
        let only = |backend: &str| route(ECHO, &format!("{{{backend}}}"));
        for (text, wanted) in [
            (only(V1), ["v1"]),
            (only(V2), ["v2"]),
            // Refused: the last good one stays in force.
            (route(ECHO, "{timeouts: {request: soon}}"), ["v2"]),
            (only(V1), ["v1"]),
        ] {
            mesh.apply_policy("route", &text)?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            rounds += 1;
            let id = format!("now-{rounds}");
            call(mesh, "client", "echo", PORT, Method::GET, "/", &[], &id).await?;
            assert_eq!(seen_by(mesh, &id).await?, wanted, "{text}");
        }
        mesh.remove_policy("route")?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = load.stop().await;
        crate::common::assert_no_failure(&report);
        assert!(report.served_by.len() == 2, "{:?}", report.served_by);
        Ok(())
    })
    .await
}
