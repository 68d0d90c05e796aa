//! What a mesh is made of, as objects of a cluster. All of them are legal in any cluster, whose own
//! machinery leaves them alone: no scheduler has the pods' name for it, the services have no selector,
//! and the slices say who manages them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use weft_proto::names;

use super::Key;
use crate::mesh::member::Member;
use crate::mesh::source::{Behind, RunningService, State};
use crate::mesh::spec::Workload;

/// Who schedules the pods: nobody.
pub(super) const SCHEDULER: &str = "weft-sandbox";
/// Who manages the slices.
pub(super) const MANAGER: &str = "sandbox.weft.dev";
/// Keeps a pod that was told to end until its processes have, as its kubelet would: an API server
/// removes a pod without a node at once otherwise.
pub(super) const FINALIZER: &str = "weft.dev/sandbox";
/// Nothing pulls it.
pub(super) const IMAGE: &str = "registry.invalid/weft-sandbox:none";
/// Kinds of probes that a container has room for.
const PROBES: [&str; 3] = ["readinessProbe", "livenessProbe", "startupProbe"];

/// Everything that is to be there.
#[derive(Debug, Default)]
pub(super) struct Desired {
    pub(super) pods: BTreeMap<Key, Pod>,
    pub(super) services: BTreeMap<Key, Value>,
    pub(super) slices: BTreeMap<Key, Slice>,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) service_account: String,
    pub(super) manifest: Value,
    pub(super) status: Value,
    pub(super) terminating: bool,
}

/// A slice, but for the uids of pods.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    manifest: Value,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug)]
struct Endpoint {
    address: IpAddr,
    pod: Option<Key>,
    zone: Option<String>,
    terminating: bool,
}

impl Desired {
    pub(super) fn of(state: &State) -> Self {
        let mut desired = Self::default();
        for member in state.members.values() {
            let key = (member.namespace.clone(), member.spec.name.clone());
            desired.pods.insert(key, Pod::of(member));
        }
        for service in state.services.values() {
            let key = (service.namespace.clone(), service.spec.name.clone());
            desired.services.insert(key, manifest_of(service));
            for slice in slices_of(service, state) {
                let name = slice.manifest["metadata"]["name"].as_str();
                let name = name.unwrap_or_default().to_owned();
                desired
                    .slices
                    .insert((service.namespace.clone(), name), slice);
            }
        }
        desired
    }
}

impl Pod {
    fn of(member: &Member) -> Self {
        let spec = &member.spec;
        let addresses: Vec<Value> = member
            .pod
            .addresses()
            .iter()
            .map(|address| json!({"ip": address.to_string()}))
            .collect();
        Self {
            service_account: spec.service_account.clone(),
            manifest: json!({
                "metadata": {
                    "name": spec.name,
                    "namespace": member.namespace,
                    "labels": {"app": spec.name, "version": spec.version},
                    "finalizers": [FINALIZER],
                },
                "spec": {
                    "serviceAccountName": spec.service_account,
                    "automountServiceAccountToken": false,
                    "schedulerName": SCHEDULER,
                    "restartPolicy": spec.restart_policy.as_deref().unwrap_or("Always"),
                    "containers": containers(spec),
                },
            }),
            status: status(&addresses),
            terminating: *member.draining.lock(),
        }
    }
}

/// A pod that runs and is ready, at these addresses.
pub(super) fn status(addresses: &[Value]) -> Value {
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    let conditions = conditions.map(|kind| json!({"type": kind, "status": "True"}));
    json!({
        "phase": "Running",
        "podIP": addresses.first().map(|address| &address["ip"]),
        "podIPs": addresses,
        "conditions": conditions,
    })
}

fn containers(spec: &Workload) -> Vec<Value> {
    let ports = spec.ports.iter().map(|(port, app)| {
        let protocol = app.protocol.as_deref().unwrap_or_default();
        let mut declared = json!({"containerPort": port, "protocol": "TCP"});
        if !protocol.is_empty() {
            declared["name"] = format!("{protocol}-{port}").into();
        }
        declared
    });
    let mut app = json!({"name": "app", "image": IMAGE, "ports": ports.collect::<Vec<_>>()});
    for (kind, (port, path)) in PROBES.iter().zip(&spec.probes) {
        app[kind] = json!({"httpGet": {"path": path, "port": port}});
    }
    let sidecar = json!({"name": names::PROXY_CONTAINER, "image": IMAGE});
    std::iter::once(app)
        .chain(spec.meshed.then_some(sidecar))
        .collect()
}

fn manifest_of(service: &RunningService) -> Value {
    let ports = service.spec.ports.iter().map(|port| {
        let mut declared = json!({
            "port": port.port, "targetPort": port.target, "protocol": "TCP",
        });
        if let Some(name) = port_name(service, port.name.as_deref(), port.port) {
            declared["name"] = name.into();
        }
        if let Some(protocol) = &port.protocol {
            declared["appProtocol"] = protocol.as_str().into();
        }
        declared
    });
    let mut manifest = json!({
        "metadata": {"name": service.spec.name, "namespace": service.namespace},
        "spec": {
            "ports": ports.collect::<Vec<_>>(),
            "ipFamilyPolicy": "PreferDualStack",
        },
    });
    if service.spec.headless {
        manifest["spec"]["clusterIP"] = "None".into();
    }
    manifest
}

/// Where there are several ports each of them has a name.
fn port_name(service: &RunningService, given: Option<&str>, port: u16) -> Option<String> {
    match given {
        Some(name) => Some(name.to_owned()),
        None => (service.spec.ports.len() > 1).then(|| format!("port-{port}")),
    }
}

/// A slice for each family that has an endpoint.
fn slices_of(service: &RunningService, state: &State) -> Vec<Slice> {
    let mut endpoints = Vec::new();
    for behind in service.behind(&state.members) {
        match behind {
            Behind::Address(address) => endpoints.push(Endpoint {
                address,
                pod: None,
                zone: None,
                terminating: false,
            }),
            Behind::Member(member) => {
                endpoints.extend(member.pod.addresses().into_iter().map(|address| Endpoint {
                    address,
                    pod: Some((member.namespace.clone(), member.spec.name.clone())),
                    zone: member.spec.zone.clone(),
                    terminating: *member.draining.lock(),
                }));
            }
        }
    }
    let ports = service.spec.ports.iter().map(|port| {
        let name = port_name(service, port.name.as_deref(), port.port).unwrap_or_default();
        let mut declared = json!({"name": name, "port": port.target, "protocol": "TCP"});
        if let Some(protocol) = &port.protocol {
            declared["appProtocol"] = protocol.as_str().into();
        }
        declared
    });
    let ports: Vec<Value> = ports.collect();
    let (v4, v6): (Vec<_>, Vec<_>) = endpoints
        .into_iter()
        .partition(|endpoint| endpoint.address.is_ipv4());
    let families = [("IPv4", v4), ("IPv6", v6)];
    let families = families
        .into_iter()
        // A service with nothing behind it has a slice that says so.
        .filter(|(family, endpoints)| *family == "IPv4" || !endpoints.is_empty());
    families
        .map(|(family, endpoints)| Slice {
            manifest: json!({
                "metadata": {
                    "name": format!("{}-{}", service.spec.name, family.to_lowercase()),
                    "namespace": service.namespace,
                    "labels": {
                        "kubernetes.io/service-name": service.spec.name,
                        "endpointslice.kubernetes.io/managed-by": MANAGER,
                    },
                },
                "addressType": family,
                "ports": ports,
            }),
            endpoints,
        })
        .collect()
}

impl Slice {
    /// The whole of it, where the pods have these uids.
    pub(super) fn manifest(&self, uids: &BTreeMap<Key, String>) -> Value {
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let mut described = json!({
                "addresses": [endpoint.address.to_string()],
                "conditions": {
                    "ready": !endpoint.terminating,
                    "serving": true,
                    "terminating": endpoint.terminating,
                },
            });
            if let Some(key) = &endpoint.pod {
                described["targetRef"] = json!({
                    "kind": "Pod", "namespace": key.0, "name": key.1, "uid": uids.get(key),
                });
            }
            if let Some(zone) = &endpoint.zone {
                described["zone"] = zone.as_str().into();
            }
            described
        });
        let mut manifest = self.manifest.clone();
        manifest["endpoints"] = endpoints.collect();
        manifest
    }
}
