//! The one model of the mesh: services, endpoints, workloads, policies.
//!
//! A [`Model`] is an immutable snapshot with a revision that rises with every change. Sources make
//! [`Objects`]; [`Model::build`] checks them against each other (addresses that two objects claim,
//! policies that conflict or weaken their namespace) and leaves out what does not fit, one object at
//! a time, with a [`Refusal`] that names it. Building cannot fail.
//!
//! Inheritance: service port > service > namespace, one whole stanza at a time; what nobody says is
//! the mesh default, which the compiler knows. `mtls` and `authorization` only tighten. Where a Gateway
//! API route is attached to a service port, it has matching and weights there.

mod attach;
mod build;
mod changes;
mod judged;
mod objects;
mod publisher;
mod routes;
mod said;
#[cfg(test)]
mod tests;
mod tighten;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::policy::{Authorization, MtlsMode};
use attach::Attached;
pub use attach::Stanzas;
pub use changes::Since;
use changes::{History, Inputs};
pub use judged::{JudgedPolicy, JudgedTarget, Overlap, Overridden};
pub use objects::{
    BrokenPolicy, EndpointName, ExplicitListener, ForeignEndpoint, MeshSettings, Name, Objects,
    Origin, Probe, Refusal, Service, ServiceEndpoint, ServicePort, Sourced, Workload, WorkloadPort,
};
pub use publisher::Publisher;
pub use routes::Judged;
use routes::Routes;
pub use said::{Level, Said};

/// What holds where no policy says anything about mTLS.
pub const DEFAULT_MTLS: MtlsMode = MtlsMode::Permissive;

/// An immutable snapshot of everything that is known.
#[derive(Debug)]
pub struct Model {
    revision: u64,
    settings: MeshSettings,
    workloads: BTreeMap<Name, Arc<Workload>>,
    services: BTreeMap<Name, Arc<Service>>,
    workload_by_ip: HashMap<IpAddr, Arc<Workload>>,
    service_by_ip: HashMap<IpAddr, Arc<Service>>,
    /// The services that have a workload among their endpoints, in the order of their names.
    services_of_workload: HashMap<Name, Vec<Arc<Service>>>,
    /// The services that have an address without a workload among their endpoints, likewise.
    services_of_address: HashMap<IpAddr, Vec<Arc<Service>>>,
    listeners: HashMap<Name, Vec<ExplicitListener>>,
    policies: Attached,
    judged: Vec<JudgedPolicy>,
    routes: Routes,
    refusals: Vec<Refusal>,
    inputs: Inputs,
    history: History,
}

/// What stands behind an address.
#[derive(Clone, Debug)]
pub enum Destination<'a> {
    /// A service's virtual address, whatever the port.
    Service(&'a Service),
    /// A workload's own address.
    Workload(&'a Workload),
    /// An address that only services name, as an endpoint without a workload.
    Address(IpAddr),
}

impl Model {
    /// Checks `objects` against each other and makes a snapshot of what fits.
    pub fn build(objects: Objects, revision: u64) -> Self {
        build::build(objects, revision, None)
    }

    /// The model that follows `before`, of which it shares what is the same.
    pub fn build_after(before: &Self, objects: Objects, revision: u64) -> Self {
        let mut model = build::build(objects, revision, Some(before));
        model.follows(before);
        model
    }

    /// Rises with every change, over restarts too: microseconds of unix time, at least.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The trust domain of every identity of this mesh.
    pub fn trust_domain(&self) -> &str {
        &self.settings.trust_domain
    }

    /// Blocks inside which addresses belong to the mesh.
    pub fn networks(&self) -> &[IpNet] {
        &self.settings.networks
    }

    /// Ports on which servers speak first.
    pub fn server_first_ports(&self) -> &[u16] {
        &self.settings.server_first_ports
    }

    /// The workload by its name.
    pub fn workload(&self, namespace: &str, name: &str) -> Option<&Workload> {
        self.workloads
            .get(&Name::new(namespace, name))
            .map(|workload| &**workload)
    }

    /// All workloads, in the order of their names.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values().map(|workload| &**workload)
    }

    /// The service by its name.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services
            .get(&Name::new(namespace, name))
            .map(|service| &**service)
    }

    /// All services, in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(|service| &**service)
    }

    /// What stands behind an address; `None` when the mesh knows nothing by it.
    pub fn destination(&self, ip: IpAddr) -> Option<Destination<'_>> {
        if let Some(service) = self.service_by_ip.get(&ip) {
            return Some(Destination::Service(service));
        }
        if let Some(workload) = self.workload_by_ip.get(&ip) {
            return Some(Destination::Workload(workload));
        }
        self.services_of_address
            .contains_key(&ip)
            .then_some(Destination::Address(ip))
    }

    /// The service ports that lead to a port of a workload, by service name and then in the order
    /// of the service's ports.
    pub fn backed_by_workload<'a>(
        &'a self,
        workload: &'a Workload,
        port: u16,
    ) -> impl Iterator<Item = (&'a Service, &'a ServicePort)> {
        let services = self.services_of_workload.get(&workload.name);
        let endpoint = EndpointName::Workload(workload.name.name.clone());
        leading_to(services, endpoint, port)
    }

    /// The service ports that lead to a port of an address without a workload.
    pub fn backed_by_address(
        &self,
        ip: IpAddr,
        port: u16,
    ) -> impl Iterator<Item = (&Service, &ServicePort)> {
        let services = self.services_of_address.get(&ip);
        leading_to(services, EndpointName::Address(ip), port)
    }

    /// The namespaces of the services that have this address, without a workload, among their endpoints.
    pub fn namespaces_of_address(&self, ip: IpAddr) -> impl Iterator<Item = &str> {
        let services = self.services_of_address.get(&ip).into_iter().flatten();
        services.map(|service| &*service.name.namespace)
    }

    /// Listeners that a workload's sidecar is to bind.
    pub fn listeners(&self, namespace: &str, workload: &str) -> &[ExplicitListener] {
        self.listeners
            .get(&Name::new(namespace, workload))
            .map_or(&[], Vec::as_slice)
    }

    /// The policy of a service port: of the port, else of its service, else of its namespace.
    pub fn policy(&self, service: &Service, port: &ServicePort) -> Stanzas {
        let inherited = self.policies.of_namespace(&service.name.namespace);
        self.own_policy(service, port).or(&inherited)
    }

    /// The policy of a service port without its namespace's.
    pub fn own_policy(&self, service: &Service, port: &ServicePort) -> Stanzas {
        self.policies
            .of_port(&service.name, &port.name)
            .or(&self.policies.of_service(&service.name))
    }

    /// The policy of a namespace.
    pub fn namespace_policy(&self, namespace: &str) -> Stanzas {
        self.policies.of_namespace(namespace)
    }

    /// Who may call what no policy of the mesh has an `authorization` for; nothing where everybody may.
    pub fn default_authorization(&self) -> Option<Authorization> {
        let settings = &self.settings;
        settings
            .default_authorization
            .authorization(&settings.trust_domain)
    }

    /// The mTLS mode of a workload's port: the strictest of its namespace's and of all services that
    /// lead to it.
    pub fn inbound_mtls(&self, workload: &Workload, port: u16) -> MtlsMode {
        self.backed_by_workload(workload, port)
            .map(|(service, port)| self.own_policy(service, port).mtls)
            .fold(self.namespace_mtls(&workload.name.namespace), Option::max)
            .unwrap_or(DEFAULT_MTLS)
    }

    /// What is not in force as it is written, by file and line.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    fn namespace_mtls(&self, namespace: &str) -> Option<MtlsMode> {
        self.policies
            .of_namespace(namespace)
            .mtls
            .max(self.settings.minimum_mtls)
    }
}

fn leading_to(
    services: Option<&Vec<Arc<Service>>>,
    endpoint: EndpointName,
    port: u16,
) -> impl Iterator<Item = (&Service, &ServicePort)> {
    let services = services.into_iter().flatten();
    let ports = services.flat_map(|service| service.ports.iter().map(|port| (&**service, port)));
    ports.filter(move |(_, known)| known.target_of(&endpoint) == Some(port))
}
