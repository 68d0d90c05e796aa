//! The manifests: objects of Kubernetes' own types without a field too many, of the same services as
//! `mesh.yaml`, whose pods can have sidecars.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft_proto::names;

use super::{PLATFORMS, Platform, documents, files, list, name, said, text, weft};

/// Kinds of what has pods.
const OWNERS: [&str; 2] = ["Deployment", "StatefulSet"];
/// Ports of what is called by HTTP have this name.
const HTTP: &str = "http";

fn folder(platform: Platform) -> PathBuf {
    platform.folder().join("kubernetes")
}

fn objects(platform: Platform) -> Vec<Value> {
    platform.objects("kubernetes")
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |it| it["kind"] == kind)
}

fn named<'a>(objects: &'a [Value], kind: &'a str, wanted: &str) -> &'a Value {
    let mut of_kind = of_kind(objects, kind);
    of_kind
        .find(|it| name(it) == wanted)
        .unwrap_or_else(|| panic!("no {kind} {wanted}"))
}

fn owners(objects: &[Value]) -> Vec<&Value> {
    let is_owner = |it: &&Value| OWNERS.contains(&text(&it["kind"]));
    objects.iter().filter(is_owner).collect()
}

/// What the type makes of an object, which is all of it where every field is one of the type's.
fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let read: T = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("{} {}: {error}", object["kind"], name(object)));
    serde_json::to_value(read).expect("what was read can be written")
}

/// As the type writes it: without what is empty, and with every number the same kind of number.
fn without_nothing(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, it)| (key.clone(), without_nothing(it)));
            Value::Object(fields.filter(|(_, it)| *it != json!({})).collect())
        }
        Value::Array(items) => items.iter().map(without_nothing).collect(),
        other => other.clone(),
    }
}

#[test]
fn every_object_is_what_an_api_server_takes() {
    for platform in PLATFORMS {
        let objects = objects(platform);
        assert!(objects.len() >= 10, "{}", platform.name);
        let mut seen = BTreeSet::new();
        for object in &objects {
            let kind = text(&object["kind"]);
            let read = match kind {
                "ConfigMap" => typed::<ConfigMap>(object),
                "Deployment" => typed::<Deployment>(object),
                "EndpointSlice" => typed::<EndpointSlice>(object),
                "HorizontalPodAutoscaler" => typed::<HorizontalPodAutoscaler>(object),
                "Ingress" => typed::<Ingress>(object),
                "Namespace" => typed::<Namespace>(object),
                "NetworkPolicy" => typed::<NetworkPolicy>(object),
                "PodDisruptionBudget" => typed::<PodDisruptionBudget>(object),
                "Secret" => typed::<Secret>(object),
                "Service" => typed::<Service>(object),
                "ServiceAccount" => typed::<ServiceAccount>(object),
                "StatefulSet" => typed::<StatefulSet>(object),
                other => panic!("{}: {other}", platform.name),
            };
            let at = format!("{} {kind} {}", platform.name, name(object));
            assert_eq!(without_nothing(&read), without_nothing(object), "{at}");
            assert!(seen.insert(at.clone()), "twice: {at}");
            let wanted = (kind != "Namespace").then_some(platform.namespace);
            assert_eq!(object["metadata"]["namespace"].as_str(), wanted, "{at}");
        }
        let namespace = named(&objects, "Namespace", platform.namespace);
        let labels = &namespace["metadata"]["labels"];
        assert_eq!(labels[names::INJECT_LABEL], names::INJECT_ENABLED);
    }
}

#[test]
fn every_pod_can_have_a_sidecar() {
    let sidecar = format!("name: {}\n", names::PROXY_CONTAINER);
    for platform in PLATFORMS {
        let mut patched = 0;
        for file in files(&folder(platform)) {
            let wanted = owners(&documents(&file)).len();
            let path = file.to_str().expect("a path");
            let output = weft(&["inject", "-f", path], &folder(platform));
            let wrong = said(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{path}: {wrong}");
            assert!(!wrong.contains("warning"), "{path}: {wrong}");
            assert_eq!(
                said(&output.stdout).matches(&sidecar).count(),
                wanted,
                "{path}"
            );
            patched += wanted;
        }
        assert!(patched >= 3, "{}: only {patched}", platform.name);
    }
}

/// What a Service's port is, as `mesh.yaml` says it too.
fn port(of: &Value) -> (Option<&str>, Option<u64>, Option<u64>, Option<&str>) {
    let port = &of["ports"][0];
    (
        port["name"].as_str(),
        port["port"].as_u64(),
        port["targetPort"].as_u64(),
        port["appProtocol"].as_str(),
    )
}

#[test]
fn services_are_those_of_the_mesh_file() {
    for platform in PLATFORMS {
        let objects = objects(platform);
        let here: BTreeMap<_, _> = of_kind(&objects, "Service")
            .map(|it| (name(it), port(&it["spec"])))
            .collect();
        let mesh = platform.services();
        let mut there: BTreeMap<_, _> = mesh
            .iter()
            .map(|it| (text(&it["name"]), port(it)))
            .collect();
        // Kafka is managed, and so is what it keeps its own state in.
        if platform.name == "kafka-gateway" {
            assert!(there.remove("zookeeper").is_some());
        }
        assert_eq!(here, there, "{}", platform.name);
        for service in of_kind(&objects, "Service") {
            let is_headless = service["spec"]["clusterIP"] == "None";
            let clusters = platform.name == "ecommerce" && name(service) == "redis";
            let in_mesh = mesh.iter().find(|it| it["name"] == name(service));
            let in_mesh = in_mesh.expect("compared before");
            let says_so = list(&in_mesh["clusterIPs"]).is_empty();
            assert!(clusters || is_headless == says_so, "{}", name(service));
        }
    }
}

/// Whether all of these labels are among those.
fn selects(selector: &Value, labels: &Value) -> bool {
    let mut wanted = selector.as_object().into_iter().flatten();
    wanted.all(|(key, value)| labels[key] == *value)
}

#[test]
fn services_lead_to_pods_with_the_identities_of_the_mesh_file() {
    for platform in PLATFORMS {
        let objects = objects(platform);
        let owners = owners(&objects);
        for service in platform.services() {
            let service_name = text(&service["name"]);
            let Some(object) = of_kind(&objects, "Service").find(|it| name(it) == service_name)
            else {
                continue;
            };
            let selector = &object["spec"]["selector"];
            if selector.is_null() {
                let slices = of_kind(&objects, "EndpointSlice");
                let own = slices.filter(|it| {
                    it["metadata"]["labels"]["kubernetes.io/service-name"] == service_name
                });
                assert_eq!(own.count(), 1, "{service_name}");
                continue;
            }
            let pods: Vec<_> = owners
                .iter()
                .map(|it| &it["spec"]["template"])
                .filter(|pod| selects(selector, &pod["metadata"]["labels"]))
                .collect();
            assert!(!pods.is_empty(), "{service_name} has no pods");
            let target = &object["spec"]["ports"][0]["targetPort"];
            let accounts: BTreeSet<_> = list(&service["endpoints"])
                .iter()
                .map(|it| platform.workload(text(&it["workload"]))["serviceAccount"].clone())
                .map(|account| text(&account).to_owned())
                .collect();
            let mut here = BTreeSet::new();
            for pod in pods {
                let ports = list(&pod["spec"]["containers"][0]["ports"]);
                let declares = ports.iter().any(|it| it["containerPort"] == *target);
                assert!(declares, "{service_name}: nobody declares {target}");
                let account = text(&pod["spec"]["serviceAccountName"]);
                named(&objects, "ServiceAccount", account);
                here.insert(account.to_owned());
            }
            assert_eq!(here, accounts, "{} {service_name}", platform.name);
        }
        for owner in owners {
            let labels = &owner["spec"]["template"]["metadata"]["labels"];
            let selector = &owner["spec"]["selector"]["matchLabels"];
            assert!(selects(selector, labels), "{}", name(owner));
        }
    }
}

#[test]
fn probes_are_those_that_pass_in_the_mesh_file_too() {
    let mut checked = 0;
    for platform in PLATFORMS {
        let objects = objects(platform);
        for owner in of_kind(&objects, "Deployment") {
            let container = &owner["spec"]["template"]["spec"]["containers"][0];
            if container["ports"].is_null() {
                continue;
            }
            let account = &owner["spec"]["template"]["spec"]["serviceAccountName"];
            let workloads = platform.workloads();
            let same = workloads.iter().find(|it| it["serviceAccount"] == *account);
            let same = &same.expect("a workload with this account")["ports"][0];
            let passing: BTreeSet<_> = list(&same["probes"])
                .iter()
                .map(|it| text(&it["path"]))
                .collect();
            for probe in ["livenessProbe", "readinessProbe"] {
                let asked = &container[probe]["httpGet"];
                let at = format!("{} {}", platform.name, name(owner));
                assert!(passing.contains(text(&asked["path"])), "{at}: {asked}");
                assert_eq!(
                    asked["port"], container["ports"][0]["containerPort"],
                    "{at}"
                );
                checked += 1;
            }
            assert_eq!(container["ports"][0]["name"], HTTP);
        }
    }
    assert!(checked >= 40, "only {checked}");
}

/// The guides' tables: platform, Deployment, at least, at most, CPU, memory.
const SCALING: [(&str, &str, u64, u64, u64, u64); 21] = [
    ("rent-to-own", "api-gateway", 3, 10, 70, 80),
    ("rent-to-own", "user-service", 2, 5, 70, 80),
    ("rent-to-own", "vehicle-service", 2, 5, 70, 80),
    ("rent-to-own", "payment-service", 2, 5, 70, 80),
    ("rent-to-own", "credit-service", 2, 5, 70, 80),
    ("rent-to-own", "telematics-service", 2, 5, 70, 80),
    ("rent-to-own", "support-service", 2, 5, 70, 80),
    ("ecommerce", "user-service-v1", 2, 5, 70, 80),
    ("ecommerce", "product-service-blue", 3, 10, 70, 80),
    ("ecommerce", "product-service-green", 3, 10, 70, 80),
    ("ecommerce", "cart-service", 2, 8, 60, 75),
    ("ecommerce", "order-service", 2, 5, 70, 80),
    ("ecommerce", "payment-service", 2, 4, 75, 85),
    ("ecommerce", "inventory-service", 2, 5, 70, 80),
    ("ecommerce", "notification-service", 2, 5, 60, 70),
    ("ecommerce", "search-service", 2, 5, 60, 80),
    ("venta", "user-management", 2, 5, 70, 80),
    ("venta", "vendor-management-stable", 2, 5, 70, 80),
    ("venta", "location-service", 3, 10, 60, 70),
    ("venta", "real-time", 2, 8, 50, 60),
    ("dotmac", "dotmac-platform", 3, 10, 70, 80),
];

#[test]
fn pods_are_scaled_as_the_guides_say() {
    for (platform, deployment, least, most, cpu, memory) in SCALING {
        let platform = PLATFORMS.into_iter().find(|it| it.name == platform);
        let objects = objects(platform.expect("the platform"));
        let mut scalers = of_kind(&objects, "HorizontalPodAutoscaler");
        let scaler = scalers.find(|it| it["spec"]["scaleTargetRef"]["name"] == deployment);
        let spec = &scaler.unwrap_or_else(|| panic!("no HPA of {deployment}"))["spec"];
        let targets = [0, 1].map(|at| &spec["metrics"][at]["resource"]);
        let found = targets.map(|it| it["target"]["averageUtilization"].as_u64());
        assert_eq!(found, [Some(cpu), Some(memory)], "{deployment}");
        let bounds = ["minReplicas", "maxReplicas"].map(|bound| spec[bound].as_u64());
        assert_eq!(bounds, [Some(least), Some(most)], "{deployment}");
        let replicas = named(&objects, "Deployment", deployment)["spec"]["replicas"].as_u64();
        assert!(
            replicas >= Some(least) && replicas <= Some(most),
            "{deployment}"
        );
    }
}

#[test]
fn ingresses_lead_to_services_through_their_addresses() {
    for platform in PLATFORMS {
        let objects = objects(platform);
        let mut checked = 0;
        for ingress in of_kind(&objects, "Ingress") {
            let annotations = &ingress["metadata"]["annotations"];
            let upstream = &annotations["nginx.ingress.kubernetes.io/service-upstream"];
            assert_eq!(upstream, "true", "{}", platform.name);
            for rule in list(&ingress["spec"]["rules"]) {
                for path in list(&rule["http"]["paths"]) {
                    let backend = &path["backend"]["service"];
                    let service = named(&objects, "Service", text(&backend["name"]));
                    let ports = &service["spec"]["ports"];
                    assert_eq!(ports[0]["port"], backend["port"]["number"]);
                    checked += 1;
                }
            }
        }
        assert!(checked > 0, "{} has no ingress", platform.name);
    }
}

/// Three replicas apart, two always there, one replaced at a time, 30 s to end, metrics by tenant.
#[test]
fn the_telecom_platform_ends_and_scales_as_its_guide_says() {
    let objects = objects(PLATFORMS[3]);
    let deployment = named(&objects, "Deployment", "dotmac-platform");
    let update = &deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(*update, json!({"maxUnavailable": 1, "maxSurge": 1}));
    let pod = &deployment["spec"]["template"];
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["config.weft.dev/drain-timeout"], "30s");
    let label = &annotations["config.weft.dev/metrics-header-label"];
    assert_eq!(label, "tenant=x-tenant-id");
    assert!(pod["spec"]["terminationGracePeriodSeconds"].as_u64() > Some(30));
    let container = &pod["spec"]["containers"][0];
    for (probe, path) in [
        ("startupProbe", "/health"),
        ("livenessProbe", "/live"),
        ("readinessProbe", "/ready"),
    ] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
    }
    let resources = json!({"requests": {"cpu": "250m", "memory": "512Mi"},
                           "limits": {"cpu": "500m", "memory": "1Gi"}});
    assert_eq!(container["resources"], resources);
    let budget = named(&objects, "PodDisruptionBudget", "dotmac-platform");
    assert_eq!(budget["spec"]["minAvailable"], 2);
    let scaler = named(&objects, "HorizontalPodAutoscaler", "dotmac-platform");
    let behavior = &scaler["spec"]["behavior"];
    assert_eq!(behavior["scaleDown"]["stabilizationWindowSeconds"], 300);
    assert_eq!(behavior["scaleDown"]["policies"][0]["value"], 10);
    let up: Vec<_> = list(&behavior["scaleUp"]["policies"])
        .iter()
        .map(|it| it["value"].as_u64())
        .collect();
    assert_eq!(up, [Some(50), Some(2)]);
}

#[test]
fn a_field_that_is_none_of_the_types_is_found_out() {
    let objects = objects(PLATFORMS[0]);
    let mut wrong = named(&objects, "Service", "api-gateway").clone();
    assert_eq!(
        without_nothing(&typed::<Service>(&wrong)),
        without_nothing(&wrong)
    );
    wrong["spec"]["selektor"] = json!({"app": "api-gateway"});
    assert_ne!(
        without_nothing(&typed::<Service>(&wrong)),
        without_nothing(&wrong)
    );
}
