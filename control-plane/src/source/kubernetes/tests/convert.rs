//! What is kept of pods, services and slices.

use serde_json::{Value, json};

use super::super::slice::Who;
use super::{pod, pod_json, service, service_json, slice, slice_json};

/// `base` with `patch` laid over it; `null` takes a field away.
fn with(mut base: Value, patch: &Value) -> Value {
    lay(&mut base, patch);
    base
}

fn lay(base: &mut Value, patch: &Value) {
    if base.is_null() && patch.is_object() {
        *base = json!({});
    }
    let (Some(fields), Value::Object(patch)) = (base.as_object_mut(), patch) else {
        *base = patch.clone();
        return;
    };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            lay(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

#[test]
fn owners_are_what_people_deployed() {
    let owned = |kind: &str, owner: &str, hash: Value| {
        let owners = json!([{"apiVersion": "v1", "kind": kind, "name": owner, "uid": "1",
                             "controller": true}]);
        let patch = json!({"metadata": {"ownerReferences": owners,
                                        "labels": {"pod-template-hash": hash}}});
        pod(with(pod_json("p", "10.0.0.1"), &patch))
            .1
            .unwrap()
            .owner
    };
    for (kind, owner, hash, expected) in [
        ("ReplicaSet", "web-5d4f8c7b9", json!("5d4f8c7b9"), "web"),
        ("ReplicaSet", "web-5d4f8c7b9", Value::Null, "web-5d4f8c7b9"),
        ("ReplicaSet", "bare", json!("other"), "bare"),
        ("StatefulSet", "db", Value::Null, "db"),
        ("DaemonSet", "agent", Value::Null, "agent"),
        ("Job", "backup-29391040", Value::Null, "backup"),
        ("Job", "import-2", Value::Null, "import-2"),
        ("Node", "node-1", Value::Null, "p"),
    ] {
        assert_eq!(owned(kind, owner, hash), expected, "{kind} {owner}");
    }
    assert_eq!(pod(pod_json("p", "10.0.0.1")).1.unwrap().owner, "p");
}

#[test]
fn a_pod_is_meshed_where_its_sidecar_runs() {
    for (spec, meshed) in [
        (json!({}), true),
        (json!({"initContainers": [{"name": "weft-proxy"}]}), false),
        (json!({"initContainers": null}), false),
        (
            json!({"initContainers": null, "containers": [{"name": "app"}, {"name": "weft-proxy"}]}),
            true,
        ),
    ] {
        let json = with(pod_json("p", "10.0.0.1"), &json!({"spec": spec}));
        assert_eq!(pod(json).1.unwrap().meshed, meshed, "{spec}");
    }
}

#[test]
fn only_living_pods_of_their_own_have_addresses() {
    let dual = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    for (patch, addresses) in [
        (json!({}), vec!["10.0.0.1"]),
        (
            json!({"status": {"podIPs": dual}}),
            vec!["10.0.0.1", "fd00::1"],
        ),
        (json!({"status": {"phase": "Succeeded"}}), vec![]),
        (json!({"status": {"phase": "Failed"}}), vec![]),
        (json!({"status": {"podIP": null, "podIPs": null}}), vec![]),
        (json!({"spec": {"hostNetwork": true}}), vec![]),
    ] {
        let pod = pod(with(pod_json("p", "10.0.0.1"), &patch)).1.unwrap();
        let found: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(found, addresses, "{patch}");
    }
}

#[test]
fn what_is_trimmed_away_is_no_change() {
    let noise = json!({
        "metadata": {"resourceVersion": "7", "annotations": {"a": "b"}, "managedFields": []},
        "spec": {"nodeName": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    let base = pod_json("p", "10.0.0.1");
    assert_eq!(pod(base.clone()), pod(with(base.clone(), &noise)));
    let ending = json!({"metadata": {"deletionTimestamp": "2026-11-20T10:00:00Z"}});
    assert!(pod(with(base, &ending)).1.unwrap().terminating);
}

#[test]
fn a_pod_has_ended_where_only_a_legacy_sidecar_is_left() {
    let ended = |code: i32| json!({"terminated": {"exitCode": code}});
    let running = json!({"running": {}});
    let jobs = |policy: &str, app: &Value, helper: &Value| {
        let containers = json!([{"name": "weft-proxy"}, {"name": "app"}, {"name": "helper"}]);
        let statuses = json!([{"name": "weft-proxy", "state": running},
                              {"name": "app", "state": app}, {"name": "helper", "state": helper}]);
        json!({
            "spec": {"restartPolicy": policy, "containers": containers, "initContainers": null},
            "status": {"containerStatuses": statuses},
        })
    };
    let of = |patch: &Value| {
        let pod = pod(with(pod_json("p", "10.0.0.1"), patch)).1.unwrap();
        assert!(!pod.addresses.is_empty() && pod.boots_sidecar);
        pod.ended
    };
    for (policy, app, helper, expected) in [
        ("Never", ended(0), ended(0), true),
        ("Never", ended(0), ended(1), true),
        ("Never", ended(0), running.clone(), false),
        ("Never", json!({"waiting": {}}), ended(0), false),
        ("Never", Value::Null, ended(0), false),
        ("OnFailure", ended(0), ended(0), true),
        ("OnFailure", ended(0), ended(1), false),
        ("Always", ended(0), ended(0), false),
    ] {
        let patch = jobs(policy, &app, &helper);
        assert_eq!(of(&patch), expected, "{patch}");
    }
    let never = jobs("Never", &ended(0), &ended(0));

    // Nobody has said anything of one of them, or of any.
    let mut silent = never.clone();
    silent["status"]["containerStatuses"]
        .as_array_mut()
        .unwrap()
        .remove(1);
    assert!(!of(&silent));
    assert!(!of(&with(
        never.clone(),
        &json!({"status": {"containerStatuses": null}})
    )));

    // A native sidecar is nothing that a pod's end waits for, and alone it is no application's.
    let mut native = never.clone();
    native["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .remove(0);
    native["spec"]["initContainers"] = json!([{"name": "weft-proxy", "restartPolicy": "Always"}]);
    assert!(!of(&native));
    let alone = json!({"spec": {"containers": [{"name": "weft-proxy"}]}});
    assert!(!of(&with(never.clone(), &alone)));

    // It may be started again by rules of its own.
    let mut own = never;
    own["spec"]["containers"][1]["restartPolicy"] = json!("Never");
    assert!(!of(&own));
}

#[test]
fn declared_ports_and_plaintext_probes_are_kept() {
    let containers = json!([{
        "name": "app",
        "ports": [{"name": "grpc-api", "containerPort": 9000},
                  {"name": "web", "containerPort": 8080, "protocol": "TCP"},
                  {"name": "dns", "containerPort": 53, "protocol": "UDP"}],
        "livenessProbe": {"httpGet": {"path": "/live?full=1", "port": "web"}},
        "readinessProbe": {"grpc": {"port": 9000}},
        "startupProbe": {"httpGet": {"port": 9100}},
    }, {
        "name": "other",
        "ports": [{"name": "web", "containerPort": 7000}],
        "livenessProbe": {"httpGet": {"path": "/secret", "port": 7000, "scheme": "HTTPS"}},
        "readinessProbe": {"httpGet": {"path": "/elsewhere", "port": 7000, "host": "1.2.3.4"}},
        "startupProbe": {"tcpSocket": {"port": 7000}},
    }, {
        "name": "weft-proxy",
        "ports": [{"name": "weft-admin", "containerPort": 15190}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 15190}},
    }]);
    let json = with(
        pod_json("p", "10.0.0.1"),
        &json!({"spec": {"containers": containers}}),
    );
    let pod = pod(json).1.unwrap();
    let found: Vec<_> = pod
        .ports
        .iter()
        .map(|port| {
            let probes = port.probes.iter();
            let probes: Vec<_> = probes
                .map(|probe| format!("{} {}", probe.method, probe.path))
                .collect();
            (port.port, port.protocol.as_str(), probes.join(", "))
        })
        .collect();
    assert_eq!(
        found,
        [
            (7000, "web", String::new()),
            (8080, "web", "GET /live".to_owned()),
            (9000, "grpc", "POST /grpc.health.v1.Health/Check".to_owned()),
            (9100, "", "GET /".to_owned()),
        ]
    );
}

#[test]
fn services_have_addresses_and_tcp_ports() {
    let (name, headless) = service(with(
        service_json("db", "None"),
        &json!({"spec": {"publishNotReadyAddresses": true}}),
    ));
    assert_eq!(name.to_string(), "shop/db");
    let headless = headless.unwrap();
    assert!(headless.cluster_ips.is_empty() && headless.publish_not_ready);

    let dual = json!({"spec": {"clusterIPs": ["10.96.0.1", "fd00::1"]}});
    let dual = service(with(service_json("web", "10.96.0.1"), &dual))
        .1
        .unwrap();
    assert_eq!(dual.cluster_ips.len(), 2);
    assert!(!dual.publish_not_ready);

    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.org"}});
    assert_eq!(
        service(with(service_json("out", "None"), &external)).1,
        None
    );

    let ports = json!([
        {"port": 80, "targetPort": 8080, "appProtocol": "kubernetes.io/h2c", "name": "a"},
        {"port": 81, "name": "grpc-b"},
        {"port": 82, "targetPort": "web", "name": "c"},
        {"port": 53, "protocol": "UDP", "name": "d"},
    ]);
    let json = with(
        service_json("web", "10.96.0.1"),
        &json!({"spec": {"ports": ports}}),
    );
    let service = service(json).1.unwrap();
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| (&*port.name, port.number, port.target, &*port.app_protocol))
        .collect();
    assert_eq!(
        ports,
        [
            ("a", 80, Some(8080), "kubernetes.io/h2c"),
            ("grpc-b", 81, Some(81), ""),
            ("c", 82, None, ""),
        ]
    );
}

#[test]
fn conditions_that_are_left_out_mean_what_kubernetes_says() {
    for (conditions, ready, serving_last) in [
        (json!({}), true, false),
        (json!({"ready": false}), false, false),
        (
            json!({"ready": false, "serving": true, "terminating": true}),
            false,
            true,
        ),
        (
            json!({"ready": false, "serving": false, "terminating": true}),
            false,
            false,
        ),
        (json!({"ready": false, "terminating": true}), false, false),
        (
            json!({"ready": true, "serving": true, "terminating": true}),
            true,
            true,
        ),
    ] {
        let mut json = slice_json("s", "web", 8080, &[("p", "10.0.0.1", true)]);
        json["endpoints"][0]["conditions"] = conditions.clone();
        let slice = slice(json).1.unwrap();
        let endpoint = &slice.endpoints[0];
        let found = (endpoint.ready, endpoint.serving_last);
        assert_eq!(found, (ready, serving_last), "{conditions}");
    }
}

#[test]
fn slices_say_who_stands_where() {
    let mut json = slice_json(
        "s",
        "web",
        8080,
        &[("p", "10.0.0.1", true), ("q", "10.0.0.2", true)],
    );
    json["endpoints"][0]["targetRef"]["namespace"] = json!("other");
    let endpoints = json["endpoints"].as_array_mut().unwrap();
    endpoints.push(json!({"addresses": ["fd00::3", "fd00::4"]}));
    endpoints.push(json!({"addresses": ["not-an-address"]}));
    let kept = slice(json.clone()).1.unwrap();
    let who: Vec<_> = kept
        .endpoints
        .iter()
        .map(|known| known.who.clone())
        .collect();
    assert_eq!(who, [Who::Elsewhere, Who::Pod("q".to_owned()), Who::Unsaid]);
    assert_eq!(kept.endpoints[0].zone, "a");

    let mut names = json.clone();
    names["addressType"] = json!("FQDN");
    assert_eq!(slice(names).1, None);
    json["metadata"]["labels"] = json!({});
    assert_eq!(slice(json).1, None);
}
