//! The one model of the mesh: services, endpoints, workloads, policies.

mod objects;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use objects::{
    BrokenPolicy, ExplicitListener, MeshSettings, Name, Objects, Origin, Probe, Refusal, Service,
    ServiceEndpoint, ServicePort, Sourced, Workload, WorkloadPort,
};

/// An immutable snapshot of everything that is known.
#[derive(Debug)]
pub struct Model {
    revision: u64,
    settings: MeshSettings,
    workloads: BTreeMap<Name, Arc<Workload>>,
    refusals: Vec<Refusal>,
}

impl Model {
    /// Rises with every change, over restarts too: microseconds of unix time, at least.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The trust domain of every identity of this mesh.
    pub fn trust_domain(&self) -> &str {
        &self.settings.trust_domain
    }

    /// The workload by its name.
    pub fn workload(&self, namespace: &str, name: &str) -> Option<&Workload> {
        self.workloads
            .get(&Name::new(namespace, name))
            .map(|workload| &**workload)
    }

    /// What is not in force as it is written.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }
}
