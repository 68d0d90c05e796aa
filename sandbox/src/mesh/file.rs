//! The control plane's `mesh.yaml`, written as JSON, which is YAML too.

use std::net::IpAddr;

use serde::Serialize;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MeshFile {
    pub(super) trust_domain: String,
    pub(super) networks: Vec<String>,
    pub(super) workloads: Vec<WorkloadEntry>,
    pub(super) services: Vec<ServiceEntry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkloadEntry {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) meshed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<String>,
    pub(super) draining: bool,
    pub(super) ports: Vec<WorkloadPortEntry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkloadPortEntry {
    pub(super) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceEntry {
    pub(super) name: String,
    pub(super) namespace: String,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Vec<IpAddr>,
    pub(super) ports: Vec<ServicePortEntry>,
    pub(super) endpoints: Vec<EndpointEntry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePortEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) port: u16,
    pub(super) target_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app_protocol: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum EndpointEntry {
    Workload(String),
    Address(IpAddr),
}
