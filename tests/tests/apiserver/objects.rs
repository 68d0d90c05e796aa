//! Objects: made, changed, applied, defined, deleted and refused.

use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use serde_json::{Value, json};
use weft_tests::apiserver::Outage;

use super::{PATIENCE, code, config_map, definition, policy, read, server, until};

#[tokio::test]
async fn objects_come_change_conflict_and_go() {
    let (server, client) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = maps
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let again = maps
        .create(&PostParams::default(), &config_map("a", "1"))
        .await;
    assert_eq!(code(again), (409, "AlreadyExists".to_owned()));

    let mut one = made.clone();
    one.data
        .as_mut()
        .unwrap()
        .insert("a".to_owned(), "2".to_owned());
    let newer = maps
        .replace("a", &PostParams::default(), &one)
        .await
        .unwrap();
    let stale = maps.replace("a", &PostParams::default(), &made).await;
    assert_eq!(code(stale), (409, "Conflict".to_owned()));
    let same = maps
        .replace("a", &PostParams::default(), &newer)
        .await
        .unwrap();
    assert_eq!(
        same.metadata.resource_version, newer.metadata.resource_version,
        "no change"
    );

    let merge = json!({"data": {"a": null, "b": "3"}});
    let merged = maps
        .patch("a", &PatchParams::default(), &Patch::Merge(merge))
        .await
        .unwrap();
    assert_eq!(
        merged.data.unwrap(),
        [("b".to_owned(), "3".to_owned())].into()
    );
    assert_eq!(code(maps.get("none").await), (404, "NotFound".to_owned()));
    let elsewhere: Api<ConfigMap> = Api::namespaced(client.clone(), "nowhere");
    let lost = elsewhere
        .create(&PostParams::default(), &config_map("a", "1"))
        .await;
    assert_eq!(code(lost), (404, "NotFound".to_owned()));
    let bad = maps
        .create(&PostParams::default(), &config_map("A_", "1"))
        .await;
    assert_eq!(code(bad), (422, "Invalid".to_owned()));

    // A finalizer keeps it until it is taken away.
    let hold = json!({"metadata": {"finalizers": ["weft.dev/hold"]}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(hold))
        .await
        .unwrap();
    let kept = maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(kept.left().unwrap().metadata.deletion_timestamp.is_some());
    let free = json!({"metadata": {"finalizers": null}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(free))
        .await
        .unwrap();
    assert_eq!(code(maps.get("a").await).0, 404);

    for name in ["b", "c", "d"] {
        maps.create(&PostParams::default(), &config_map(name, "1"))
            .await
            .unwrap();
    }
    for (labels, count) in [
        ("app=b", 1),
        ("app in (b, c)", 2),
        ("app!=b", 2),
        ("!app", 0),
        ("app", 3),
    ] {
        let found = maps
            .list(&ListParams::default().labels(labels))
            .await
            .unwrap();
        assert_eq!(found.items.len(), count, "{labels}");
    }
    let found = maps
        .list(&ListParams::default().fields("metadata.name=c"))
        .await
        .unwrap();
    assert_eq!(found.items.len(), 1);
    let unknown = maps.list(&ListParams::default().fields("data.a=1")).await;
    assert_eq!(code(unknown).0, 400);
    maps.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("app=b"),
    )
    .await
    .unwrap();
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );
    assert_eq!(server.count("delete", "configmaps"), 1);
    assert_eq!(server.count("deletecollection", "configmaps"), 1);
    server.stop().await;
}

#[tokio::test]
async fn apply_merges_lists_by_their_keys() {
    let (server, client) = server().await;
    let services: Api<Service> = Api::default_namespaced(client);
    let apply = PatchParams::apply("test").force();
    let applied = |ports: Value| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
            "spec": {"selector": {"app": "a"}, "ports": ports},
        });
        Patch::Apply(service)
    };
    let first = applied(json!([{"name": "http", "port": 80}, {"name": "grpc", "port": 90}]));
    let made = services
        .patch("a", &apply, &first)
        .await
        .unwrap()
        .spec
        .unwrap();
    assert!(made.cluster_ip.as_ref().unwrap().starts_with("10.96."));
    let second = applied(json!([{"name": "http", "port": 80, "targetPort": 8080}]));
    let spec = services
        .patch("a", &apply, &second)
        .await
        .unwrap()
        .spec
        .unwrap();
    assert_eq!(spec.cluster_ip, made.cluster_ip);
    let ports = serde_json::to_value(spec.ports).unwrap();
    let both = json!([
        {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"},
        {"name": "grpc", "port": 90, "targetPort": 90, "protocol": "TCP"},
    ]);
    assert_eq!(ports, both);
    let nobody = services.patch("a", &PatchParams::default(), &second).await;
    assert_eq!(code(nobody).0, 400, "without a field manager");
    server.stop().await;
}

#[tokio::test]
async fn a_definition_brings_its_kind_with_defaults_rules_and_status() {
    let (server, client) = server().await;
    let mut kind = ApiResource::erase::<Pod>(&());
    kind.group = "weft.dev".to_owned();
    kind.version = "v1alpha1".to_owned();
    kind.api_version = "weft.dev/v1alpha1".to_owned();
    kind.kind = "TrafficPolicy".to_owned();
    kind.plural = "trafficpolicies".to_owned();
    let policies: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &kind);
    assert_eq!(
        code(policies.list(&ListParams::default()).await).0,
        404,
        "not there yet"
    );
    let crd = server.put(&definition()).await.unwrap();
    assert_eq!(crd["status"]["conditions"][1]["type"], "Established");
    let groups = client.list_api_groups().await.unwrap();
    assert!(groups.groups.iter().any(|group| group.name == "weft.dev"));

    let post = PostParams::default();
    let good = policy(&json!({"retries": {}, "unknown": 1}));
    let made = policies.create(&post, &read(good)).await.unwrap();
    assert_eq!(
        made.data["spec"]["retries"]["attempts"], 2,
        "the schema's default"
    );
    assert_eq!(made.data["spec"]["targetRefs"][0]["kind"], "Service");
    assert_eq!(made.data["spec"].get("unknown"), None, "pruned");
    assert_eq!(made.metadata.generation, Some(1));

    let broken = policy(&json!({"timeouts": {"request": "1s", "perTry": "2s"}}));
    let refused = policies.create(&post, &read(broken.clone())).await;
    assert_eq!(code(refused), (409, "AlreadyExists".to_owned()));
    let refused = policies
        .patch("p", &PatchParams::default(), &Patch::Merge(broken))
        .await;
    match refused.unwrap_err() {
        kube::Error::Api(status) => {
            assert_eq!((status.code, &*status.reason), (422, "Invalid"));
            assert!(
                status
                    .message
                    .contains("perTry cannot be longer than request"),
                "{status:?}"
            );
        }
        other => panic!("{other}"),
    }
    let path = "/apis/weft.dev/v1alpha1/namespaces/default/trafficpolicies";
    let typo = policy(&json!({"retrys": {}, "retries": {}}));
    let strict = format!("{path}?fieldValidation=Strict");
    let (status, said) = server.ask(Method::POST, &strict, Some(&typo)).await;
    assert_eq!(status, 409, "{said}");
    let mut typo = typo;
    typo["metadata"]["name"] = "q".into();
    let (status, said) = server.ask(Method::POST, &strict, Some(&typo)).await;
    assert_eq!(status, 400, "{said}");
    assert!(
        said["message"]
            .as_str()
            .unwrap()
            .contains("unknown field \"spec.retrys\""),
        "{said}"
    );

    // Status and the rest are written apart, and only the rest counts generations.
    let status = json!({"spec": {"retries": {"attempts": 9}}, "status": {"ancestors": []}});
    let patched = policies
        .patch_status("p", &PatchParams::default(), &Patch::Merge(&status))
        .await;
    let patched = patched.unwrap();
    assert_eq!(patched.data["status"], json!({"ancestors": []}));
    assert_eq!(patched.data["spec"]["retries"]["attempts"], 2);
    assert_eq!(patched.metadata.generation, Some(1));
    let other = json!({"spec": {"retries": {"attempts": 3}}, "status": {"ancestors": null}});
    let patched = policies
        .patch("p", &PatchParams::default(), &Patch::Merge(&other))
        .await
        .unwrap();
    assert_eq!(patched.data["status"], json!({"ancestors": []}));
    assert_eq!(patched.metadata.generation, Some(2));

    let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    assert_eq!(
        all.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trafficpolicies.weft.dev";
    assert_eq!(server.ask(Method::DELETE, crds, None).await.0, 200);
    assert_eq!(
        code(all.list(&ListParams::default()).await).0,
        404,
        "gone with its kind"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_pod_lingers_for_its_grace() {
    let (server, client) = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let pod = |name: &str| -> Pod {
        read(json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a"}]}}))
    };
    pods.create(&PostParams::default(), &pod("a"))
        .await
        .unwrap();
    let ready = json!({"status": {"phase": "Running", "podIP": "10.0.0.1"}});
    pods.patch_status("a", &PatchParams::default(), &Patch::Merge(ready))
        .await
        .unwrap();
    let left = pods
        .delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(left.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(
        pods.get("a").await.unwrap().status.unwrap().phase.unwrap(),
        "Running"
    );
    let now = DeleteParams::default().grace_period(0);
    assert!(pods.delete("a", &now).await.unwrap().right().is_some());
    assert_eq!(code(pods.get("a").await).0, 404);

    server.end_pods_after(Duration::from_millis(30));
    pods.create(&PostParams::default(), &pod("b"))
        .await
        .unwrap();
    pods.delete("b", &DeleteParams::default()).await.unwrap();
    let gone = async {
        while pods.get_opt("b").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn requests_are_refused_as_a_test_says() {
    let (server, client) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    server.refuse("create", "configmaps", 1, 409);
    let create = || async {
        maps.create(&PostParams::default(), &config_map("a", "1"))
            .await
    };
    assert_eq!(code(create().await).0, 409);
    create().await.unwrap();
    server.set_outage(Outage::Failing(500));
    assert_eq!(code(maps.get("a").await), (500, "InternalError".to_owned()));
    server.set_outage(Outage::Away);
    assert!(matches!(
        maps.get("a").await,
        Err(kube::Error::HyperError(_) | kube::Error::Service(_))
    ));
    server.set_outage(Outage::None);
    until("it listens again", || {
        std::net::TcpStream::connect(server.address()).is_ok()
    })
    .await;
    maps.get("a").await.unwrap();
    server.stop().await;
}

/// Services get an address of each of their families, and never one that another has; what a client names
/// stays, through changes too.
#[tokio::test]
async fn services_get_addresses_of_their_families() {
    let (server, client) = server().await;
    let services: Api<Service> = Api::default_namespaced(client);
    let create = async |name: &str, spec: Value| {
        let mut service = json!({"metadata": {"name": name}, "spec": spec});
        service["spec"]["ports"] = json!([{"port": 80}]);
        let made = services
            .create(&PostParams::default(), &read(service))
            .await;
        made.unwrap().spec.unwrap()
    };
    let named = create("named", json!({"clusterIP": "10.96.0.2"})).await;
    assert_eq!(named.cluster_ips.unwrap(), ["10.96.0.2"]);
    let mut given = Vec::new();
    for name in ["one", "two", "three"] {
        let spec = create(name, json!({})).await;
        assert_eq!(spec.ip_families.unwrap(), ["IPv4"], "{name}");
        let [address] = &spec.cluster_ips.unwrap()[..] else {
            panic!("{name} has one address");
        };
        assert_eq!(spec.cluster_ip.as_ref(), Some(address), "{name}");
        assert!(address.starts_with("10.96."), "{name}: {address}");
        assert!(
            address != "10.96.0.2" && !given.contains(address),
            "{name}: {address}"
        );
        given.push(address.clone());
    }
    let both = create("both", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!(both.ip_families.unwrap(), ["IPv4", "IPv6"]);
    let addresses = both.cluster_ips.unwrap();
    assert!(addresses[0].starts_with("10.96."), "{addresses:?}");
    assert!(addresses[1].starts_with("fd96::"), "{addresses:?}");
    let six = create("six", json!({"ipFamilies": ["IPv6"]})).await;
    assert!(six.cluster_ip.unwrap().starts_with("fd96::"));
    let headless = create("headless", json!({"clusterIP": "None"})).await;
    assert_eq!(headless.cluster_ips.unwrap(), ["None"]);
    let external = json!({"type": "ExternalName", "externalName": "example.org"});
    assert_eq!(create("external", external).await.cluster_ip, None);

    let ports = json!({"spec": {"ports": [{"port": 81}], "selector": {"app": "x"}}});
    let patch = PatchParams::default();
    let changed = services.patch("both", &patch, &Patch::Merge(ports)).await;
    let changed = changed.unwrap().spec.unwrap();
    assert_eq!(changed.cluster_ips.unwrap(), addresses);
    assert_eq!(changed.ports.unwrap()[0].protocol.as_deref(), Some("TCP"));
    let wider = Patch::Merge(json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}}));
    let wider = services.patch("one", &patch, &wider).await.unwrap();
    let addresses = wider.spec.unwrap().cluster_ips.unwrap();
    assert_eq!(addresses[0], given[0]);
    assert!(addresses[1].starts_with("fd96::"), "{addresses:?}");
    server.stop().await;
}
