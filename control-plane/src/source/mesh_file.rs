//! `mesh.yaml`: what a mesh without Kubernetes is made of.
//!
//! These are the types that it is read with and that tools write it with; fields that hold their
//! default are left out when written. [`MeshFile::to_yaml`] makes a whole file.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::policy::{DefaultAuthorization, MtlsMode};

/// The file's name inside its directory.
pub const FILE_NAME: &str = "mesh.yaml";

/// Ports on which servers speak first where a mesh does not say otherwise: FTP, SSH, SMTP, POP3,
/// IMAP, submission, MySQL.
pub const DEFAULT_SERVER_FIRST_PORTS: [u16; 7] = [21, 22, 25, 110, 143, 587, 3306];

/// The blocks that no public address is in, which clusters take theirs from (RFC 1918, RFC 6598,
/// RFC 4193).
pub const DEFAULT_NETWORKS: &str = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7";

/// The greatest weight of an endpoint.
pub const MAX_WEIGHT: u32 = 1_000;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MeshFile {
    /// The trust domain of every identity; `cluster.local` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// CIDR blocks inside which addresses belong to the mesh. Traffic to others passes as it is.
    pub networks: Vec<IpNet>,
    /// Ports on which servers speak first; [`DEFAULT_SERVER_FIRST_PORTS`] where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_first_ports: Option<Vec<u16>>,
    /// What holds for everything and no policy may weaken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Defaults>,
    /// Pods or processes, each with one identity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<WorkloadEntry>,
    /// Names and ports that clients address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceEntry>,
    /// Local listeners for services, where nothing is intercepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub explicit_listeners: Vec<ListenerEntry>,
}

/// What holds for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Defaults {
    /// The mesh's minimum: a namespace may be stricter, never weaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsMode>,
    /// Who may call what no policy speaks of; everybody where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<DefaultAuthorization>,
}

/// A pod or process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadEntry {
    /// Its name, unique in its namespace.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The service account that its identity is made of.
    #[serde(default = "default_service_account")]
    pub service_account: String,
    /// Its own addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// Whether a sidecar serves it.
    #[serde(default = "default_meshed")]
    pub meshed: bool,
    /// The zone that it runs in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// How much of its services' traffic it gets, relative to other endpoints: 1 to
    /// [`MAX_WEIGHT`], 1 where it is left out.
    #[serde(default = "default_weight", skip_serializing_if = "is_default_weight")]
    pub weight: u32,
    /// Whether it is being removed: it gets no new traffic, and its sidecar announces closing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draining: bool,
    /// Ports that it declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<WorkloadPortEntry>,
}

/// A port that a workload declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPortEntry {
    /// 1 to 65535.
    pub port: u16,
    /// What is spoken there, as in a service port's `appProtocol`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Requests that pass in plaintext even under Strict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeEntry>,
}

/// A probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeEntry {
    /// The path, exactly.
    pub path: String,
    /// The method.
    #[serde(default = "default_probe_method")]
    pub method: String,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceEntry {
    /// Its name, unique in its namespace.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Its virtual addresses; none for a headless one.
    #[serde(default, rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports, at least one.
    pub ports: Vec<ServicePortEntry>,
    /// What stands behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointEntry>,
}

/// A service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePortEntry {
    /// Its name, which a policy's `sectionName` means and whose part before the first dash hints at
    /// the protocol.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What clients address.
    pub port: u16,
    /// What endpoints listen on; `port` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
    /// What is spoken: `http` is found out per connection, `http1`, `http2`, `h2c`, `grpc`, `tcp`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub app_protocol: String,
}

/// One endpoint: either a workload, whose zone and weight stand in its own entry, or an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointEntry {
    /// A workload of the service's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// An address that no workload has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The address's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The address's weight, 1 to [`MAX_WEIGHT`]; 1 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// A local address that stands for a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerEntry {
    /// Whose sidecar binds it, as `namespace/name`.
    pub workload: String,
    /// A loopback address and port.
    pub listen: SocketAddr,
    /// The service, as `namespace/name`.
    pub service: String,
    /// The service port.
    pub port: u16,
}

impl MeshFile {
    /// The file's text.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        serde_saphyr::to_string(self)
    }
}

impl EndpointEntry {
    /// A workload of the service's namespace.
    pub fn workload(name: impl Into<String>) -> Self {
        Self {
            workload: Some(name.into()),
            ..Self::default()
        }
    }

    /// An address that no workload has.
    pub fn address(ip: IpAddr) -> Self {
        Self {
            address: Some(ip),
            ..Self::default()
        }
    }
}

fn default_namespace() -> String {
    crate::policy::DEFAULT_NAMESPACE.to_owned()
}

fn default_service_account() -> String {
    "default".to_owned()
}

fn default_probe_method() -> String {
    "GET".to_owned()
}

fn default_meshed() -> bool {
    true
}

fn default_weight() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands references
fn is_default_weight(weight: &u32) -> bool {
    *weight == default_weight()
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands references
fn is_false(value: &bool) -> bool {
    !value
}
