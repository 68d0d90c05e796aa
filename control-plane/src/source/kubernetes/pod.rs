//! Pods, trimmed to what the mesh needs of them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus, Probe as KubeProbe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_proto::names::PROXY_CONTAINER;

use super::event::{Trimmed, Urgency, name_of, port};
use crate::index::{Name, Probe, WorkloadPort};

/// The label by which a ReplicaSet's pods carry the hash that its own name ends with.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// A CronJob's Jobs are called by its name and the minute that they are due, which has had at least
/// as many digits since 1989.
const MIN_DUE_DIGITS: usize = 8;
/// What kubelet's gRPC probes call.
const GRPC_HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    /// Seconds of unix time.
    pub(super) created: i64,
    /// The name of what it is one of; its own where it stands alone.
    pub(super) owner: String,
    pub(super) service_account: String,
    /// Its own addresses. None where it has none yet, has ended, or has its node's.
    pub(super) addresses: Vec<IpAddr>,
    /// Its addresses are its node's, and say nothing about who it is.
    pub(super) host_network: bool,
    /// Whether a sidecar was injected.
    pub(super) meshed: bool,
    /// Whether a sidecar of it boots, or may yet: it has one and has not ended.
    pub(super) boots_sidecar: bool,
    /// Whether it has been told to end.
    pub(super) terminating: bool,
    /// Whether all its containers but a sidecar among them have ended, and none starts again.
    pub(super) ended: bool,
    pub(super) ports: Vec<WorkloadPort>,
}

impl Pod {
    pub(super) fn trim(pod: k8s_openapi::api::core::v1::Pod) -> (Name, Option<Self>) {
        let name = name_of(&pod.metadata);
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        // Somebody else may have its addresses by now.
        let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let host_network = spec.host_network == Some(true);

        let mut addresses = Vec::new();
        if !is_over && !host_network {
            let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
            for ip in listed.chain(&status.pod_ip) {
                let Ok(ip) = ip.parse::<IpAddr>() else {
                    continue;
                };
                let ip = ip.to_canonical();
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
            }
        }
        let meshed = running(&spec).any(|container| container.name == PROXY_CONTAINER);
        let trimmed = Self {
            created: pod
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
            owner: owner(&pod.metadata, &name.name),
            service_account: spec
                .service_account_name
                .clone()
                .filter(|account| !account.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            addresses,
            host_network,
            meshed,
            boots_sidecar: meshed && !is_over,
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ended: only_sidecar_left(&spec, &status),
            ports: ports(&spec),
        };
        (name, Some(trimmed))
    }
}

impl Trimmed for Pod {
    fn change(&self, next: &Self) -> Urgency {
        let same_place = self.addresses == next.addresses
            && self.terminating == next.terminating
            && self.ended == next.ended
            && self.meshed == next.meshed;
        if same_place {
            Urgency::Soon
        } else {
            Urgency::Now
        }
    }
}

/// The name of the Deployment, StatefulSet, CronJob or whatever it is one of.
fn owner(metadata: &ObjectMeta, pod: &str) -> String {
    let mut owners = metadata.owner_references.iter().flatten();
    let Some(owner) = owners.find(|owner| owner.controller == Some(true)) else {
        return pod.to_owned();
    };
    let without = |suffix: &str| {
        let stem = owner.name.strip_suffix(suffix)?.strip_suffix('-')?;
        (!stem.is_empty()).then(|| stem.to_owned())
    };
    let outer = match owner.kind.as_str() {
        "ReplicaSet" => {
            let labels = metadata.labels.as_ref();
            labels
                .and_then(|labels| labels.get(TEMPLATE_HASH))
                .and_then(|hash| without(hash))
        }
        "Job" => {
            let due = owner.name.rsplit('-').next().unwrap_or_default();
            let is_due =
                due.len() >= MIN_DUE_DIGITS && due.bytes().all(|byte| byte.is_ascii_digit());
            is_due.then(|| without(due)).flatten()
        }
        // A static pod's owner is its node.
        "Node" => Some(pod.to_owned()),
        _ => None,
    };
    outer.unwrap_or_else(|| owner.name.clone())
}

/// The containers that run as long as the pod does.
fn running(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

/// Whether a sidecar that is one of the pod's containers is the last of them: each other one has ended
/// and does not start again. Native sidecars are no such containers, and Kubernetes ends them itself.
fn only_sidecar_left(spec: &PodSpec, status: &PodStatus) -> bool {
    let is_ours = |container: &&Container| container.name == PROXY_CONTAINER;
    let (ours, others): (Vec<_>, Vec<_>) = spec.containers.iter().partition(is_ours);
    let has_ended = |container: &&Container| {
        let mut statuses = status.container_statuses.iter().flatten();
        let said = statuses.find(|said| said.name == container.name);
        let state = said.and_then(|said| said.state.as_ref());
        let Some(ended) = state.and_then(|state| state.terminated.as_ref()) else {
            return false;
        };
        // One that says so itself (Kubernetes 1.34) may have rules that start it again.
        if container.restart_policy.is_some() {
            return false;
        }
        match spec.restart_policy.as_deref() {
            Some("Never") => true,
            Some("OnFailure") => ended.exit_code == 0,
            _ => false,
        }
    };
    !ours.is_empty() && !others.is_empty() && others.iter().all(has_ended)
}

/// The application's TCP ports, and those that are only probed.
fn ports(spec: &PodSpec) -> Vec<WorkloadPort> {
    let mut ports: Vec<WorkloadPort> = Vec::new();
    let application = || running(spec).filter(|container| container.name != PROXY_CONTAINER);
    for declared in application().flat_map(|container| container.ports.iter().flatten()) {
        let tcp = declared.protocol.as_deref().unwrap_or("TCP") == "TCP";
        let Some(number) = port(declared.container_port).filter(|_| tcp) else {
            continue;
        };
        let name = declared.name.as_deref().unwrap_or_default();
        let protocol = name.split('-').next().unwrap_or_default();
        protocol.clone_into(&mut entry(&mut ports, number).protocol);
    }
    for container in application() {
        let probes = [
            &container.liveness_probe,
            &container.readiness_probe,
            &container.startup_probe,
        ];
        for (number, probe) in probes
            .into_iter()
            .flatten()
            .filter_map(|p| probe(container, p))
        {
            let known = &mut entry(&mut ports, number).probes;
            if !known.contains(&probe) {
                known.push(probe);
            }
        }
    }
    ports.sort_by_key(|port| port.port);
    ports
}

fn entry(ports: &mut Vec<WorkloadPort>, number: u16) -> &mut WorkloadPort {
    let index = ports.iter().position(|known| known.port == number);
    let index = index.unwrap_or_else(|| {
        ports.push(WorkloadPort {
            port: number,
            protocol: String::new(),
            probes: Vec::new(),
        });
        ports.len() - 1
    });
    &mut ports[index]
}

/// The plaintext request that a probe makes to the pod, and its port. `tcpSocket` probes make none.
fn probe(container: &Container, probe: &KubeProbe) -> Option<(u16, Probe)> {
    if let Some(get) = &probe.http_get {
        let https = get.scheme.as_deref() == Some("HTTPS");
        let elsewhere = get.host.as_deref().is_some_and(|host| !host.is_empty());
        if https || elsewhere {
            return None;
        }
        let number = match &get.port {
            IntOrString::Int(number) => port(*number)?,
            IntOrString::String(name) => {
                let mut ports = container.ports.iter().flatten();
                let named = ports.find(|port| port.name.as_ref() == Some(name));
                port(named?.container_port)?
            }
        };
        // kubelet asks for `/` where there is no path, and what follows a `?` is no part of one.
        let path = get.path.as_deref().unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let path = format!("/{}", path.strip_prefix('/').unwrap_or(path));
        let method = "GET".to_owned();
        return Some((number, Probe { path, method }));
    }
    let grpc = probe.grpc.as_ref()?;
    let probe = Probe {
        path: GRPC_HEALTH_CHECK.to_owned(),
        method: "POST".to_owned(),
    };
    Some((port(grpc.port)?, probe))
}
