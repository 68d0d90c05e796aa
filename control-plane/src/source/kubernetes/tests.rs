//! The source against JSON as an API server writes it.

mod convert;
mod defined;
mod kinds;
mod merge;
mod orders;
mod policies;
mod routes;
mod scale;
mod server;
mod watches;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::update::Resource;
use weft_proto::discovery::{EndpointsKey, ResourceKey, ServiceRef};
use weft_proto::spiffe::SpiffeId;

use super::event::Event;
use super::manifest::{Grant, HeldRoute, Policy};
use super::store::{Change, Cluster};
use super::{Pod, Service, Slice};
use crate::compile::{Client, compile};
use crate::index::{MeshSettings, Model, Name};

fn settings() -> MeshSettings {
    MeshSettings {
        trust_domain: "cluster.local".to_owned(),
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        server_first_ports: Vec::new(),
        minimum_mtls: None,
        default_authorization: crate::policy::DefaultAuthorization::AllowAll,
    }
}

fn parsed<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

fn pod_json(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": "1",
                     "creationTimestamp": "2026-11-20T10:00:00Z"},
        "spec": {"serviceAccountName": "cart", "containers": [{"name": "app"}],
                 "initContainers": [{"name": "weft-proxy", "restartPolicy": "Always"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

fn service_json(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": "1"},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
                 "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]},
    })
}

/// A slice of endpoints, each a pod's name, address and whether it is ready.
fn slice_json(name: &str, service: &str, port: u16, pods: &[(&str, &str, bool)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(pod, ip, ready)| {
            json!({"addresses": [ip], "conditions": {"ready": ready, "serving": ready},
                   "zone": "a", "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod}})
        })
        .collect();
    json!({
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": "1",
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// A route of all requests to `shop/web` port 80 to the same of `to`.
fn route_json(name: &str, to: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop", "uid": "1", "resourceVersion": "1",
                     "generation": 1, "creationTimestamp": "2026-11-20T10:00:00Z"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
                 "rules": [{"backendRefs": [{"name": to, "port": 80}]}]},
    })
}

fn policy_json(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": name, "namespace": "shop", "uid": "1", "resourceVersion": "1",
                     "creationTimestamp": "2026-11-20T10:00:00Z"},
        "spec": spec, "status": {"conditions": []},
    })
}

fn pod(json: Value) -> (Name, Option<Pod>) {
    Pod::trim(parsed(json))
}

fn service(json: Value) -> (Name, Option<Service>) {
    Service::trim(parsed(json))
}

fn slice(json: Value) -> (Name, Option<Slice>) {
    Slice::trim(parsed(json))
}

fn policy(json: Value) -> (Name, Option<Policy>) {
    Policy::trim(parsed(json))
}

/// A change of the one kind that has the object's shape.
fn applied(json: Value) -> Change {
    if json["kind"] == "HTTPRoute" {
        let (name, object) = HeldRoute::trim_http(parsed(json));
        Change::HttpRoute(Event::Applied(name, object))
    } else if json["kind"] == "ReferenceGrant" {
        let (name, object) = Grant::trim(parsed(json));
        Change::Grant(Event::Applied(name, object))
    } else if json.get("addressType").is_some() {
        let (name, object) = slice(json);
        Change::Slice(Event::Applied(name, object))
    } else if json["spec"].get("containers").is_some() {
        let (name, object) = pod(json);
        Change::Pod(Event::Applied(name, object))
    } else if json["spec"].get("targetRefs").is_some() {
        let (name, object) = policy(json);
        Change::Policy(Event::Applied(name, object))
    } else {
        let (name, object) = service(json);
        Change::Service(Event::Applied(name, object))
    }
}

fn cluster(objects: impl IntoIterator<Item = Value>) -> Cluster {
    let mut cluster = Cluster::default();
    for object in objects {
        cluster.take(applied(object));
    }
    cluster
}

fn model(cluster: &Cluster) -> Model {
    Model::build(cluster.objects(&settings()), 1)
}

/// What sidecars are sent as the endpoints of `shop/SERVICE` port 80: each one's address, and the
/// service account that it must prove, or `-`.
fn sent(model: &Model, service: &str) -> Vec<String> {
    let client = Client {
        namespace: "shop".to_owned(),
        service_account: "default".to_owned(),
        workload: "client".to_owned(),
        zone: String::new(),
    };
    let service = ServiceRef {
        namespace: "shop".to_owned(),
        name: service.to_owned(),
        port: 80,
    };
    let key = ResourceKey {
        kind: Some(Kind::Endpoints(EndpointsKey {
            service: Some(service),
        })),
    };
    let Resource::Endpoints(sent) = compile(model, &client, &key) else {
        return Vec::new();
    };
    let endpoints = sent.endpoints.into_iter();
    endpoints
        .map(|endpoint| {
            let address = endpoint.address.unwrap();
            let ip: std::net::IpAddr = match address.ip.len() {
                4 => <[u8; 4]>::try_from(&*address.ip).unwrap().into(),
                _ => <[u8; 16]>::try_from(&*address.ip).unwrap().into(),
            };
            let id: Option<SpiffeId> = endpoint.spiffe_id.parse().ok();
            let who = id.as_ref().map_or("-", SpiffeId::service_account);
            format!(
                "{} {who}",
                std::net::SocketAddr::new(ip, address.port as u16)
            )
        })
        .collect()
}
