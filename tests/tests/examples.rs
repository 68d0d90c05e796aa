//! The recipes of `examples/canary` are what they say: their manifests are accepted, their pods can have a
//! sidecar, their queries ask for series that sidecars have, and what their pages show is what comes out.
//!
//! That they work on a mesh is proved by the suite `cluster` (`recipes::plain`, `canary::…`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use weft_proto::names;
use weft_proxy::outcome::{Origin, Outcome};
use weft_proxy::telemetry::{ProcessLabels, ScopeLabels, Telemetry, Tls};
use weft_sandbox::metrics::Metrics;
use weft_tests::promql::selectors;

/// The folders of recipes, each with its namespace.
const RECIPES: [(&str, &str); 3] = [
    ("plain", "canary"),
    ("flagger", "canary-flagger"),
    ("argo-rollouts", "canary-argo"),
];
/// What Prometheus adds to every series, as `prometheus.yaml` and the chart's PodMonitor tell it.
const SCRAPED: &str = "pod";
/// Fewer selectors than this are not all of them.
const LEAST_SELECTORS: usize = 12;

fn canary() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/canary")
}

/// Every YAML file of a folder, by name.
fn manifests(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of a file.
fn documents(path: &Path) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of a recipe, but for what is no manifest.
fn objects(recipe: &str) -> Vec<Value> {
    let files = manifests(&canary().join(recipe)).into_iter();
    let files = files.filter(|path| path.file_name().is_some_and(|name| name != "mesh.yaml"));
    files.flat_map(|path| documents(&path)).collect()
}

fn weft(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(arguments)
        .current_dir(dir)
        .env("HOME", dir)
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .expect("weft starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_manifest_is_whole_and_in_its_namespace() {
    let cluster_wide = ["Namespace", "ClusterRole", "ClusterRoleBinding"];
    for (recipe, namespace) in RECIPES {
        let objects = objects(recipe);
        assert!(objects.len() >= 7, "{recipe} has only {}", objects.len());
        for object in &objects {
            let kind = object["kind"].as_str().expect("a kind");
            let name = object["metadata"]["name"].as_str().expect("a name");
            assert!(object["apiVersion"].is_string(), "{kind} {name}");
            let wanted = match (kind, name) {
                (kind, _) if cluster_wide.contains(&kind) => None,
                (_, "argo-rollouts-config") => Some("argo-rollouts"),
                _ => Some(namespace),
            };
            let found = object["metadata"]["namespace"].as_str();
            assert_eq!(found, wanted, "{kind} {name}");
        }
        let labelled = objects.iter().find(|object| object["kind"] == "Namespace");
        let labels = &labelled.expect("a namespace")["metadata"]["labels"];
        assert_eq!(labels[names::INJECT_LABEL], names::INJECT_ENABLED);
    }
    assert!(!documents(&canary().join("prometheus.yaml")).is_empty());
}

/// A mesh with these services, each with two endpoints, as the recipes have at least two of each pod.
fn mesh_of(namespace: &str, services: &[&str]) -> String {
    let mut workloads = Vec::new();
    let mut entries = Vec::new();
    for (number, service) in services.iter().enumerate() {
        let mut endpoints = Vec::new();
        for replica in [1, 2] {
            let workload = format!("{service}-{replica}");
            workloads.push(json!({"name": workload, "namespace": namespace,
                                  "addresses": [format!("10.42.{number}.{replica}")]}));
            endpoints.push(json!({"workload": workload}));
        }
        entries.push(json!({"name": service, "namespace": namespace,
                            "clusterIPs": [format!("10.96.0.{}", number + 1)],
                            "ports": [{"name": "http", "port": 80, "targetPort": 9898}],
                            "endpoints": endpoints}));
    }
    let networks = json!(["10.42.0.0/16", "10.96.0.0/16"]);
    json!({"networks": networks, "workloads": workloads, "services": entries}).to_string()
}

/// `weft check` of these objects in a mesh finds nothing.
fn assert_accepted(what: &str, mesh: &str, objects: &[Value]) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("mesh.yaml"), mesh).expect("written");
    let all: Vec<_> = objects.iter().map(Value::to_string).collect();
    fs::write(dir.path().join("objects.yaml"), all.join("\n---\n")).expect("written");
    let output = weft(&["check", "-f", "."], dir.path());
    assert_eq!(
        output.status.code(),
        Some(0),
        "{what}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

fn is_ours(object: &Value) -> bool {
    object["kind"] == names::TRAFFIC_POLICY_KIND || object["kind"] == "HTTPRoute"
}

#[test]
fn policies_and_routes_are_accepted() {
    let plain = canary().join("plain/mesh.yaml");
    let flagger = mesh_of("canary-flagger", &["app", "app-primary", "app-canary"]);
    let argo = mesh_of("canary-argo", &["app", "app-stable", "app-canary"]);
    for ((recipe, _), mesh) in RECIPES.into_iter().zip([read(&plain), flagger, argo]) {
        let ours: Vec<_> = objects(recipe).into_iter().filter(is_ours).collect();
        assert!(!ours.is_empty(), "{recipe} has a policy");
        assert_accepted(recipe, &mesh, &ours);
    }
}

/// The route that Flagger makes of a Canary in the middle of its analysis.
fn route_of(canary: &Value) -> Value {
    let service = &canary["spec"]["service"];
    let name = canary["metadata"]["name"].as_str().expect("a name");
    let backend = |suffix: &str, weight: u64| {
        json!({"group": "", "kind": "Service", "name": format!("{name}-{suffix}"),
               "port": service["port"], "weight": weight})
    };
    let path = json!({"type": "PathPrefix", "value": "/"});
    let rule = |matches: Value, weights: [u64; 2]| {
        let mut rule = json!({"matches": matches,
            "backendRefs": [backend("primary", weights[0]), backend("canary", weights[1])]});
        if service["timeout"].is_string() {
            rule["timeouts"] = json!({"request": service["timeout"]});
        }
        rule
    };
    let chosen = canary["spec"]["analysis"]["match"].as_array();
    let rules = match chosen {
        None => json!([rule(json!([{"path": path}]), [70, 30])]),
        Some(chosen) => {
            let matches = chosen.iter().map(|one| {
                let headers = one["headers"].as_object().expect("headers");
                let headers = headers.iter().map(|(name, how)| {
                    let kinds = [("exact", "Exact"), ("regex", "RegularExpression")];
                    let mut kinds = kinds.into_iter();
                    let (key, kind) = kinds
                        .find(|(key, _)| how[key].is_string())
                        .expect("exact or regex");
                    json!({"name": name, "type": kind, "value": how[key]})
                });
                json!({"path": path, "headers": headers.collect::<Vec<_>>()})
            });
            let matches = json!(matches.collect::<Vec<_>>());
            json!([
                rule(matches, [0, 100]),
                rule(json!([{"path": path}]), [100, 0])
            ])
        }
    };
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
           "metadata": {"name": name, "namespace": canary["metadata"]["namespace"]},
           "spec": {"parentRefs": service["gatewayRefs"], "rules": rules}})
}

#[test]
fn what_flagger_makes_of_the_canaries_is_accepted() {
    let mesh = mesh_of("canary-flagger", &["app", "app-primary", "app-canary"]);
    let objects = objects("flagger");
    let templates: BTreeSet<_> = objects
        .iter()
        .filter(|object| object["kind"] == "MetricTemplate")
        .filter_map(|template| template["metadata"]["name"].as_str())
        .collect();
    let canaries: Vec<_> = objects.iter().filter(|it| it["kind"] == "Canary").collect();
    assert_eq!(canaries.len(), 3);
    for canary in canaries {
        assert_eq!(canary["spec"]["provider"], "gatewayapi:v1");
        let route = route_of(canary);
        let policy = objects.iter().find(|object| is_ours(object));
        let both = [route, policy.expect("a policy").clone()];
        assert_accepted(&canary["spec"]["analysis"].to_string(), &mesh, &both);
        let metrics = canary["spec"]["analysis"]["metrics"].as_array();
        for metric in metrics.expect("metrics") {
            let name = metric["templateRef"]["name"].as_str().expect("a template");
            assert!(templates.contains(name), "no template {name}");
        }
    }
}

#[test]
fn the_rollout_names_what_is_there() {
    let objects = objects("argo-rollouts");
    let names_of = |kind: &str| -> BTreeSet<_> {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind);
        let names = of_kind.filter_map(|object| object["metadata"]["name"].as_str());
        names.collect()
    };
    let rollout = objects.iter().find(|object| object["kind"] == "Rollout");
    let canary = &rollout.expect("a rollout")["spec"]["strategy"]["canary"];
    let is_named = |kind: &str, name: &Value| {
        let name = name.as_str().expect("a name");
        assert!(names_of(kind).contains(name), "no {kind} {name}");
    };
    is_named("Service", &canary["stableService"]);
    is_named("Service", &canary["canaryService"]);
    let plugin = &canary["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"];
    is_named("HTTPRoute", &plugin["httpRoutes"][0]["name"]);
    is_named(
        "AnalysisTemplate",
        &canary["analysis"]["templates"][0]["templateName"],
    );

    // Every argument of the template is given, and every one that a query uses is one of it.
    let template = objects.iter().find(|it| it["kind"] == "AnalysisTemplate");
    let template = template.expect("a template");
    let arguments = |of: &Value| -> BTreeSet<String> {
        let list = of.as_array().expect("arguments").iter();
        list.filter_map(|argument| argument["name"].as_str().map(str::to_owned))
            .collect()
    };
    let declared = arguments(&template["spec"]["args"]);
    assert_eq!(declared, arguments(&canary["analysis"]["args"]));
    let queries = template["spec"]["metrics"].to_string();
    let used = queries.split("{{args.").skip(1);
    let used = used.filter_map(|rest| Some(rest.split_once("}}")?.0.to_owned()));
    assert_eq!(declared, used.collect());
}

#[test]
fn every_pod_can_have_a_sidecar() {
    for (recipe, _) in RECIPES {
        let file = canary().join(recipe).join("app.yaml");
        let deployments = documents(&file)
            .iter()
            .filter(|object| object["kind"] == "Deployment")
            .count();
        let path = file.to_str().expect("a path");
        let output = weft(&["inject", "-f", path], &canary());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let sidecar = format!("name: {}\n", names::PROXY_CONTAINER);
        let patched = text(&output.stdout);
        assert_eq!(patched.matches(&sidecar).count(), deployments, "{recipe}");
        assert!(!text(&output.stderr).contains("warning"), "{recipe}");
    }
    // The kind is not known; its pods are.
    let objects = objects("argo-rollouts");
    let rollout = objects.iter().find(|object| object["kind"] == "Rollout");
    let mut pod = rollout.expect("a rollout")["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("app-1");
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("pod.yaml"), pod.to_string()).expect("written");
    let output = weft(&["inject", "-f", "pod.yaml"], dir.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains(names::PROXY_CONTAINER));
}

/// A sidecar's page after a request in each direction.
fn page() -> Metrics {
    let telemetry = Telemetry::new(ProcessLabels {
        workload: "app-1".into(),
        namespace: "canary".into(),
    });
    for direction in [Origin::Outbound, Origin::Inbound] {
        let label = |text: &str| Arc::<str>::from(text);
        let scope = telemetry.request_scope(ScopeLabels {
            direction,
            service: label("canary/app:80"),
            route: label("default"),
            backend: label("canary/app-canary:80"),
            peer: label("canary/default"),
            tls: Tls::Mutual,
        });
        let took = Duration::from_millis(3);
        scope.record(&Method::GET, 200, None, Outcome::Ok, took);
    }
    Metrics::parse(&telemetry.render())
}

#[test]
fn every_query_asks_for_series_that_sidecars_have() {
    let page = page();
    let mut checked = 0;
    let pages = RECIPES.map(|(recipe, _)| canary().join(recipe).join("README.md"));
    let files = RECIPES.map(|(recipe, _)| manifests(&canary().join(recipe)));
    for path in files.into_iter().flatten().chain(pages) {
        for selector in selectors(&read(&path)) {
            let carries = |label: &str| {
                let mut samples = page.matching(&selector.name, &[]);
                label == SCRAPED || samples.any(|sample| sample.label(label).is_some())
            };
            let place = path.display();
            assert!(carries("direction"), "{place}: no series {selector:?}");
            for matcher in &selector.matchers {
                let label = &matcher.label;
                assert!(carries(label), "{place}: no label {label} in {selector:?}");
                let known = ["=", "!=", "=~", "!~"];
                assert!(known.contains(&&*matcher.operator), "{selector:?}");
            }
            checked += 1;
        }
    }
    assert!(checked >= LEAST_SELECTORS, "only {checked} selectors");
    let scrapes = read(&canary().join("prometheus.yaml"));
    assert!(scrapes.contains(&format!("target_label: {SCRAPED}}}")));
    // The table of the page above them has exactly what there is.
    let table = read(&canary().join("README.md"));
    for name in [
        "weft_requests_total",
        "weft_request_duration_seconds_bucket",
    ] {
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}`")));
        let named = row.expect("a row").rsplit('|').nth(1).expect("a cell");
        let named: BTreeSet<_> = named.split('`').skip(1).step_by(2).collect();
        let sample = page.matching(name, &[]).next().expect("a sample");
        let labels = sample.labels.iter().map(|(label, _)| &**label);
        let emitted: BTreeSet<_> = labels.filter(|label| *label != "le").collect();
        assert_eq!(named, emitted, "{name}");
    }
}

#[test]
fn what_does_not_exist_is_found_out() {
    let wrong =
        "sum(rate(weft_requests_total{direktion=\"outbound\", a!~\"b,}\"}[1m])) / weft_nothing";
    let found = selectors(wrong);
    let labels: Vec<_> = found[0].matchers.iter().map(|it| &*it.label).collect();
    assert_eq!(labels, ["direktion", "a"]);
    assert_eq!(found[0].matchers[1].operator, "!~");
    assert_eq!(found[0].matchers[1].value, "b,}");
    assert_eq!((found.len(), &*found[1].name), (2, "weft_nothing"));
    let page = page();
    let mut series = page.matching("weft_requests_total", &[]);
    assert!(series.all(|sample| sample.label("direktion").is_none()));
    assert_eq!(page.matching("weft_nothing", &[]).count(), 0);
}

#[test]
fn the_steps_of_the_page_are_good_policies() {
    let page = read(&canary().join("plain/README.md"));
    let mesh = read(&canary().join("plain/mesh.yaml"));
    let policy = documents(&canary().join("plain/policy.yaml")).remove(0);
    let patches = page.split("--type=json -p '").skip(1);
    let mut weights = Vec::new();
    for patch in patches {
        let patch = patch.split('\'').next().expect("a patch");
        let patch: json_patch::Patch = serde_json::from_str(patch).expect("a JSON patch");
        let mut patched = policy.clone();
        json_patch::patch(&mut patched, &patch).expect("it fits");
        let backends = patched["spec"]["split"]["backends"].as_array();
        let backends = backends.expect("backends").iter();
        weights.push(backends.map(|it| it["weight"].clone()).collect::<Vec<_>>());
        assert_accepted("a step", &mesh, &[patched]);
    }
    assert_eq!(weights, [[50, 50], [0, 100], [100, 0]]);
}

#[test]
fn the_page_shows_what_weft_explain_prints() {
    let page = read(&canary().join("plain/README.md"));
    let command = page
        .lines()
        .find(|line| line.starts_with("weft explain -f"))
        .expect("the command");
    let mut quoted = command.split('\'');
    let mut arguments: Vec<&str> = Vec::new();
    while let Some(bare) = quoted.next() {
        arguments.extend(bare.split_whitespace());
        arguments.extend(quoted.next());
    }
    let output = weft(&arguments[1..], &canary().join("plain"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let (_, shown) = page.split_once("ends with\n\n```text\n").expect("it");
    let (shown, _) = shown.split_once("```").expect("its end");
    assert!(printed.trim_end().ends_with(shown.trim_end()), "{printed}");
}
