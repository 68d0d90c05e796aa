//! Gateway API routes on Services: the mesh conformance cases of the Gateway API under their names, in
//! our own words, through real sidecars. Who answered is counted at the servers: every case sends requests
//! with ids of its own, and each of them was seen by the wanted server, once, or by none.

mod filters;
mod grpc;
mod life;
mod matching;
mod parents;
mod weights;

use http::Method;
use weft_sandbox::app::Stats;
use weft_sandbox::client::Answer;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Service, Workload};

use crate::Suite;
use crate::common::{APP_PORT, PORT, http_app, mesh, percent, request, send, service, stats};

/// A second port of the service `echo`.
const OTHER_PORT: u16 = 8080;
/// The namespace of consumers.
const CONSUMERS: &str = "consumers";
/// Requests of a case that counts shares.
const MANY: u64 = 600;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("gateway::MeshBasic", parents::basic);
    suite.add("gateway::MeshTrafficSplit", parents::traffic_split);
    suite.add("gateway::MeshPorts", parents::ports);
    suite.add("gateway::MeshConsumerRoute", parents::consumer_route);
    suite.add("gateway::MeshHTTPRouteSimpleSameNamespace", parents::simple);
    suite.add("gateway::MeshHTTPRouteMatching", matching::matching);
    suite.add(
        "gateway::MeshHTTPRouteQueryParamMatching",
        matching::query_params,
    );
    suite.add("gateway::MeshHTTPRouteNamedRule", matching::named_rule);
    suite.add("gateway::MeshHTTPRouteWeight", weights::weight);
    suite.add("gateway::MeshGRPCRouteWeight", weights::grpc_weight);
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
    suite.add("gateway::MeshHTTPRoute303Redirect", filters::redirect_303);
    suite.add("gateway::MeshHTTPRoute307Redirect", filters::redirect_307);
    suite.add("gateway::MeshHTTPRoute308Redirect", filters::redirect_308);
    suite.add("gateway::MeshGRPCRouteRequestHeaderModifier", grpc::headers);
    suite.add("gateway::MeshGRPCRouteRequestMirror", grpc::mirror);
    suite.add("gateway::MeshFrontend", parents::frontend);
    suite.add("gateway::MeshFrontendHostname", parents::frontend_hostname);
    suite.add(
        "gateway::backends_that_lead_nowhere_answer_500",
        life::nowhere,
    );
    suite.add("gateway::policies_supply_the_rest", life::the_rest);
    suite.add("gateway::a_route_that_comes_and_goes", life::comes_and_goes);
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
