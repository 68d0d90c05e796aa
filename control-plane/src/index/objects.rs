//! What the mesh is made of, as every source delivers it: already checked one by one, not yet
//! against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::policy::{DefaultAuthorization, MtlsMode, TrafficPolicy};
use crate::route::{ReferenceGrant, Route};

/// Where an object stands, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file's name inside its directory; where it is of a cluster, that word.
    pub file: Arc<str>,
    /// The line, from 1; 0 where there are no lines.
    pub line: u64,
}

/// An object with the place that it was read from.
#[derive(Clone, Debug)]
pub struct Sourced<T> {
    /// Where it stands.
    pub origin: Origin,
    /// The object.
    pub object: T,
}

/// The name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Its namespace.
    pub namespace: String,
    /// Its name inside the namespace.
    pub name: String,
}

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// The trust domain of every identity of this mesh.
    pub trust_domain: String,
    /// Blocks inside which addresses belong to the mesh.
    pub networks: Vec<IpNet>,
    /// Ports on which servers speak first.
    pub server_first_ports: Vec<u16>,
    /// What no policy may weaken; `None` leaves every mode to policies.
    pub minimum_mtls: Option<MtlsMode>,
    /// Who may call what no policy speaks of.
    pub default_authorization: DefaultAuthorization,
}

/// A pod or a named process. It has one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name, unique in its namespace.
    pub name: Name,
    /// What it is one of, as a Deployment's name; its own name where it stands alone.
    pub owner: String,
    /// The service account that its identity is made of.
    pub service_account: String,
    /// Its own addresses, most preferred first.
    pub addresses: Vec<IpAddr>,
    /// Whether a sidecar serves it.
    pub meshed: bool,
    /// The zone; empty when unknown.
    pub zone: String,
    /// How much traffic it gets relative to others, at least 1.
    pub weight: u32,
    /// Whether it is being removed: no new traffic goes there.
    pub draining: bool,
    /// Whether everything of it but its sidecar has ended, for good.
    pub ended: bool,
    /// The ports that it declares.
    pub ports: Vec<WorkloadPort>,
}

/// A port that a workload declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPort {
    /// 1 to 65535.
    pub port: u16,
    /// The protocol's word as in a service's `appProtocol`; empty when not said.
    pub protocol: String,
    /// Requests that pass in plaintext even under Strict.
    pub probes: Vec<Probe>,
}

/// A probe that a workload declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The path, exactly.
    pub path: String,
    /// The method, upper case.
    pub method: String,
}

/// A name and ports that clients address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Its virtual addresses; none for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports, none of them twice.
    pub ports: Vec<ServicePort>,
    /// What stands behind it.
    pub endpoints: Vec<ServiceEndpoint>,
    /// Workloads among its endpoints that get no traffic at the moment, as they are not ready. Its
    /// policies hold for them all the same.
    pub idle: BTreeSet<String>,
    /// All of its endpoints that serve are being removed: better they get traffic than nobody.
    pub last_resort: bool,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name, which a policy's `sectionName` means; empty when it has none.
    pub name: String,
    /// What clients address.
    pub port: u16,
    /// What the endpoints listen on.
    pub target_port: u16,
    /// Endpoints that listen on another port, and those (`None`) that do not have this one at all.
    pub exceptions: BTreeMap<EndpointName, Option<u16>>,
    /// The protocol's word; empty when not said.
    pub app_protocol: String,
}

/// What tells the endpoints of a service apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointName {
    /// A workload of the service's namespace.
    Workload(String),
    /// An address without one.
    Address(IpAddr),
}

/// What stands behind a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServiceEndpoint {
    /// A workload of the service's namespace.
    Workload(String),
    /// An address outside the mesh, or at least unknown to it.
    Address(ForeignEndpoint),
}

/// An address that no workload has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForeignEndpoint {
    /// The address.
    pub ip: IpAddr,
    /// Its zone; empty when unknown.
    pub zone: String,
    /// How much traffic it gets relative to others, at least 1.
    pub weight: u32,
}

/// A local address that stands for a service where nothing is intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplicitListener {
    /// Whose sidecar binds it.
    pub workload: Name,
    /// A loopback address.
    pub listen: SocketAddr,
    /// The service that a connection means.
    pub service: Name,
    /// The service port.
    pub port: u16,
}

/// A policy that nothing good is known of, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenPolicy {
    /// Its name.
    pub name: Name,
    /// What it was meant for.
    pub targets: Vec<crate::policy::TargetRef>,
    /// It carries `authorization`: nothing is allowed.
    pub deny: bool,
    /// It carries `mtls`: Strict holds.
    pub strict: bool,
}

/// Everything that one source knows.
#[derive(Clone, Debug)]
pub struct Objects {
    /// What holds for the whole mesh.
    pub settings: MeshSettings,
    /// Listeners where nothing is intercepted.
    pub listeners: Vec<Sourced<ExplicitListener>>,
    /// Workloads.
    pub workloads: Vec<Sourced<Workload>>,
    /// Services.
    pub services: Vec<Sourced<Service>>,
    /// Policies that are good by themselves.
    pub policies: Vec<Sourced<Arc<TrafficPolicy>>>,
    /// Policies that are not, and have no last good version.
    pub broken: Vec<BrokenPolicy>,
    /// Gateway API routes that are good by themselves.
    pub routes: Vec<Sourced<Arc<Route>>>,
    /// Who may refer to services of other namespaces.
    pub grants: Vec<Sourced<Arc<ReferenceGrant>>>,
    /// What the source itself refused.
    pub refusals: Vec<Refusal>,
}

/// An object, or a part of one, that is not in force as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The file's name inside its directory; where the object is of a cluster, that word.
    pub file: String,
    /// The line, from 1; 0 when it concerns the file as a whole, or there are no lines.
    pub line: u64,
    /// The object, as `TrafficPolicy shop/checkout`.
    pub object: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it; empty when the reason says it already.
    pub mend: String,
}

impl Name {
    /// Makes a name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Service {
    /// The port by its number.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|known| known.port == port)
    }
}

impl ServicePort {
    /// What an endpoint listens on; `None` where it does not have this port.
    pub fn target_of(&self, endpoint: &EndpointName) -> Option<u16> {
        match self.exceptions.get(endpoint) {
            Some(exception) => *exception,
            None => Some(self.target_port),
        }
    }
}

impl Workload {
    /// The declared port by its number.
    pub fn port(&self, port: u16) -> Option<&WorkloadPort> {
        self.ports.iter().find(|known| known.port == port)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if self.line != 0 {
            write!(f, "{}:", self.line)?;
        }
        write!(f, " {}: {}", self.object, self.reason)?;
        if self.mend.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.mend)
    }
}
