//! What many objects mean together.

use serde_json::{Value, json};

use weft_proto::discovery::outbound::Target;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::update::Resource;
use weft_proto::discovery::{InboundKey, OutboundKey, Protocol, ResourceKey};

use super::super::event::Urgency;
use super::super::store::Cluster;
use super::{applied, cluster, model, pod_json, policy_json, sent, service_json, slice_json};
use crate::compile::{Client, compile};
use crate::index::{Destination, Model};
use crate::policy::MtlsMode;

fn web() -> Vec<Value> {
    vec![
        service_json("web", "10.96.0.1"),
        pod_json("web-1", "10.0.0.1"),
        pod_json("web-2", "10.0.0.2"),
    ]
}

/// What is sent of `shop/web` where these are there too.
fn sent_with(objects: impl IntoIterator<Item = Value>) -> Vec<String> {
    sent(&model(&cluster(web().into_iter().chain(objects))), "web")
}

#[test]
fn slices_are_merged_and_named_ports_are_each_pods_own() {
    let first = slice_json("a", "web", 8080, &[("web-1", "10.0.0.1", true)]);
    let second = slice_json("b", "web", 9090, &[("web-2", "10.0.0.2", true)]);
    let again = slice_json("c", "web", 8080, &[("web-1", "10.0.0.1", true)]);
    assert_eq!(
        sent_with([first, second.clone(), again]),
        ["10.0.0.1:8080 cart", "10.0.0.2:9090 cart"]
    );

    // A pod that does not have the port is no endpoint of it.
    let mut without = slice_json("a", "web", 1, &[("web-1", "10.0.0.1", true)]);
    without["ports"] = json!([]);
    let model = model(&cluster(web().into_iter().chain([without, second])));
    assert_eq!(sent(&model, "web"), ["10.0.0.2:9090 cart"]);
    let backed = |pod, port| {
        let workload = model.workload("shop", pod).unwrap();
        model.backed_by_workload(workload, port).count()
    };
    assert_eq!((backed("web-2", 9090), backed("web-2", 8080)), (1, 0));
    assert_eq!(backed("web-1", 9090), 0);
}

#[test]
fn an_endpoint_is_withheld_while_its_pod_is_another() {
    for (pod, ip) in [
        ("web-9", "10.0.0.1"),
        ("web-1", "10.0.0.2"),
        ("web-9", "10.0.0.9"),
    ] {
        let slice = slice_json("a", "web", 8080, &[(pod, ip, true)]);
        assert!(sent_with([slice]).is_empty(), "{pod} {ip}");
    }
}

#[test]
fn an_address_of_a_pod_is_that_pod_whoever_says_so() {
    let mut slice = slice_json(
        "a",
        "web",
        8080,
        &[("", "10.0.0.1", true), ("", "192.0.2.1", true)],
    );
    for endpoint in slice["endpoints"].as_array_mut().unwrap() {
        endpoint.as_object_mut().unwrap().remove("targetRef");
    }
    assert_eq!(
        sent_with([slice.clone()]),
        ["10.0.0.1:8080 cart", "192.0.2.1:8080 -"]
    );

    // Of another namespace it can be neither promised an identity nor sent without one.
    let mut foreign = pod_json("x", "10.0.0.1");
    foreign["metadata"]["namespace"] = json!("other");
    let model = model(&cluster([service_json("web", "10.96.0.1"), foreign, slice]));
    assert_eq!(sent(&model, "web"), ["192.0.2.1:8080 -"]);
    let said = model.refusals()[0].to_string();
    assert!(
        said.starts_with("cluster: Service shop/web: endpoint 10.0.0.1 is pod other/x"),
        "{said}"
    );
}

#[test]
fn pods_of_the_node_have_no_identity_of_their_own() {
    let mut host = pod_json("web-1", "10.9.9.9");
    host["spec"]["hostNetwork"] = json!(true);
    let slice = slice_json("a", "web", 8080, &[("web-1", "10.9.9.9", true)]);
    assert_eq!(sent_with([host, slice]), ["10.9.9.9:8080 -"]);
}

#[test]
fn an_address_is_the_youngest_pods() {
    let mut younger = pod_json("a-new", "10.0.0.1");
    younger["metadata"]["creationTimestamp"] = json!("2026-11-20T11:00:00Z");
    let old = slice_json("a", "web", 8080, &[("web-1", "10.0.0.1", true)]);
    let new = slice_json("a", "web", 8080, &[("a-new", "10.0.0.1", true)]);
    assert!(sent_with([younger.clone(), old]).is_empty());
    assert_eq!(sent_with([younger, new]), ["10.0.0.1:8080 cart"]);
}

#[test]
fn policies_hold_for_pods_that_are_not_ready_or_closing() {
    let strict = policy_json(
        "strict",
        &json!({"targetRefs": [{"kind": "Service", "name": "web"}], "mtls": {"mode": "Strict"}}),
    );
    let mut slice = slice_json(
        "a",
        "web",
        8080,
        &[("web-1", "10.0.0.1", false), ("web-2", "10.0.0.2", true)],
    );
    let mut closing = pod_json("web-1", "10.0.0.1");
    closing["metadata"]["deletionTimestamp"] = json!("2026-11-20T10:00:00Z");
    let objects = web().into_iter().chain([closing, strict, slice.clone()]);
    let known = model(&cluster(objects));
    assert_eq!(sent(&known, "web"), ["10.0.0.2:8080 cart"]);
    let workload = known.workload("shop", "web-1").unwrap();
    assert!(workload.draining);
    assert_eq!(workload.zone, "a");
    assert_eq!(known.inbound_mtls(workload, 8080), MtlsMode::Strict);

    // Where all of them are closing, those that still serve are better than nothing.
    slice["endpoints"][1]["conditions"] = json!({"ready": false, "serving": false});
    slice["endpoints"][0]["conditions"] =
        json!({"ready": false, "serving": true, "terminating": true});
    let mut closing = pod_json("web-1", "10.0.0.1");
    closing["metadata"]["deletionTimestamp"] = json!("2026-11-20T10:00:00Z");
    assert_eq!(sent_with([closing, slice]), ["10.0.0.1:8080 cart"]);
}

#[test]
fn not_ready_addresses_are_published_where_the_service_wants_it() {
    let mut service = service_json("web", "10.96.0.1");
    service["spec"]["publishNotReadyAddresses"] = json!(true);
    let slice = slice_json("a", "web", 8080, &[("web-1", "10.0.0.1", false)]);
    assert!(sent_with([slice.clone()]).is_empty());
    assert_eq!(sent_with([service, slice]), ["10.0.0.1:8080 cart"]);
}

#[test]
fn families_of_one_pod_are_one_endpoint() {
    let mut pod = pod_json("web-1", "10.0.0.1");
    pod["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let four = slice_json("a", "web", 8080, &[("web-1", "10.0.0.1", true)]);
    let mut six = slice_json("b", "web", 8080, &[("web-1", "fd00::1", true)]);
    six["addressType"] = json!("IPv6");
    assert_eq!(
        sent_with([pod.clone(), four.clone(), six.clone()]),
        ["10.0.0.1:8080 cart"]
    );
    let service = service_json("web", "fd00::96");
    assert_eq!(
        sent_with([service, pod, four, six]),
        ["[fd00::1]:8080 cart"]
    );
}

fn ask(model: &Model, kind: Kind, workload: &str) -> Resource {
    let client = Client {
        namespace: "shop".to_owned(),
        service_account: "cart".to_owned(),
        workload: workload.to_owned(),
        zone: String::new(),
    };
    compile(model, &client, &ResourceKey { kind: Some(kind) })
}

fn outbound(model: &Model, ip: [u8; 4], port: u32) -> Option<Target> {
    let ip = ip.to_vec();
    match ask(model, Kind::Outbound(OutboundKey { ip, port }), "web-1") {
        Resource::Outbound(outbound) => outbound.target,
        _ => None,
    }
}

#[test]
fn a_headless_services_pods_are_it() {
    let strict = policy_json(
        "strict",
        &json!({"targetRefs": [{"kind": "Service", "name": "db"}], "mtls": {"mode": "Strict"}}),
    );
    let db = [
        service_json("db", "None"),
        slice_json("a", "db", 8080, &[("web-1", "10.0.0.1", true)]),
        strict,
    ];
    let known = model(&cluster(web().into_iter().chain(db)));
    assert!(known.service("shop", "db").unwrap().cluster_ips.is_empty());
    assert_eq!(sent(&known, "db"), ["10.0.0.1:8080 cart"]);
    let Some(Target::Endpoint(endpoint)) = outbound(&known, [10, 0, 0, 1], 8080) else {
        panic!("the pod's own address is an endpoint");
    };
    let services: Vec<_> = endpoint
        .aliases
        .iter()
        .map(|alias| &alias.service)
        .collect();
    assert_eq!(services.len(), 1);
    assert_eq!(services[0].as_ref().unwrap().name, "db");
    let workload = known.workload("shop", "web-1").unwrap();
    assert_eq!(known.inbound_mtls(workload, 8080), MtlsMode::Strict);
}

#[test]
fn a_service_without_selector_has_whatever_its_slices_say() {
    let mut slice = slice_json("mine", "bank", 8443, &[("", "10.9.0.1", true)]);
    slice["endpoints"][0]
        .as_object_mut()
        .unwrap()
        .remove("targetRef");
    let mut bank = service_json("bank", "10.96.0.9");
    bank["spec"].as_object_mut().unwrap().remove("selector");
    let known = model(&cluster([bank, slice]));
    assert_eq!(sent(&known, "bank"), ["10.9.0.1:8443 -"]);
    assert!(matches!(
        outbound(&known, [10, 96, 0, 9], 80),
        Some(Target::Service(_))
    ));
    let address = "10.9.0.1".parse().unwrap();
    assert!(matches!(
        known.destination(address),
        Some(Destination::Address(_))
    ));
}

#[test]
fn an_external_name_is_no_service_of_the_mesh() {
    let mut out = service_json("out", "None");
    out["spec"] = json!({"type": "ExternalName", "externalName": "example.org",
                         "ports": [{"port": 80}]});
    let mut known = cluster([service_json("out", "10.96.0.7")]);
    assert!(model(&known).service("shop", "out").is_some());
    known.take(applied(out));
    let known = model(&known);
    assert!(known.service("shop", "out").is_none());
    assert!(known.destination("10.96.0.7".parse().unwrap()).is_none());
}

#[test]
fn ports_say_what_is_spoken() {
    let spoken = |name: &str, app_protocol: Value| {
        let mut service = service_json("web", "10.96.0.1");
        service["spec"]["ports"] = json!([{"name": name, "port": 80, "appProtocol": app_protocol}]);
        match outbound(&model(&cluster([service])), [10, 96, 0, 1], 80) {
            Some(Target::Service(target)) => target.protocol(),
            other => panic!("{other:?}"),
        }
    };
    for (name, app_protocol, expected) in [
        ("http-web", Value::Null, Protocol::Unspecified),
        ("grpc-api", Value::Null, Protocol::Http2),
        ("http2", Value::Null, Protocol::Http2),
        ("tcp-db", Value::Null, Protocol::Opaque),
        ("tcp-db", json!("kubernetes.io/h2c"), Protocol::Http2),
        ("grpc", json!("tcp"), Protocol::Opaque),
        ("grpc", json!("http"), Protocol::Unspecified),
        ("web", json!("redis"), Protocol::Opaque),
        ("web", json!("kubernetes.io/ws"), Protocol::Unspecified),
        ("web", Value::Null, Protocol::Unspecified),
    ] {
        assert_eq!(
            spoken(name, app_protocol.clone()),
            expected,
            "{name} {app_protocol}"
        );
    }
}

#[test]
fn a_pod_whose_application_has_ended_tells_its_sidecar() {
    let mut job = pod_json("job-1", "10.0.0.7");
    job["spec"] = json!({"serviceAccountName": "cart", "restartPolicy": "Never",
                         "containers": [{"name": "weft-proxy"}, {"name": "app"}]});
    let mut known = cluster(web().into_iter().chain([job.clone()]));
    // The job declares no port: the namespace's default is what its sidecar has.
    let ended = |known: &Cluster| {
        let key = Kind::Inbound(InboundKey { port: 0 });
        match ask(&model(known), key, "job-1") {
            Resource::Inbound(inbound) => (inbound.application_ended, inbound.terminating),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ended(&known), (false, false));
    job["status"]["containerStatuses"] =
        json!([{"name": "app", "state": {"terminated": {"exitCode": 3}}}]);
    assert_eq!(known.take(applied(job)), Urgency::Now);
    assert_eq!(ended(&known), (true, false));
}

#[test]
fn a_pod_that_is_told_to_end_tells_its_sidecar() {
    let slice = slice_json("a", "web", 8080, &[("web-1", "10.0.0.1", true)]);
    let mut known = cluster(web().into_iter().chain([slice]));
    let terminating = |known: &Cluster| {
        let key = Kind::Inbound(InboundKey { port: 8080 });
        match ask(&model(known), key, "web-1") {
            Resource::Inbound(inbound) => inbound.terminating,
            other => panic!("{other:?}"),
        }
    };
    assert!(!terminating(&known));
    let mut ending = pod_json("web-1", "10.0.0.1");
    ending["metadata"]["deletionTimestamp"] = json!("2026-11-20T10:00:00Z");
    assert_eq!(known.take(applied(ending)), Urgency::Now);
    assert!(terminating(&known));
    assert!(
        sent(&model(&known), "web").is_empty(),
        "no new traffic, whatever the slice still says"
    );
}

#[test]
fn hints_of_slices_change_nothing() {
    let plain = slice_json("a", "web", 8080, &[("web-1", "10.0.0.1", true)]);
    let mut hinted = plain.clone();
    hinted["endpoints"][0]["hints"] = json!({"forZones": [{"name": "b"}]});
    let mut known = cluster(web().into_iter().chain([plain]));
    assert_eq!(known.take(applied(hinted)), Urgency::Nothing);
    let model = model(&known);
    assert_eq!(model.workload("shop", "web-1").unwrap().zone, "a");
}
