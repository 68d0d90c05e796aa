//! What is in force for a service port, and who said so.
//!
//! Values are those that the compiler works with, resolved: what no policy says is the mesh default.
//! Nothing is matched or decided here that a sidecar decides; whoever asks about a request gives the
//! compiled message to the sidecar's own code.
//!
//! Pure. Nothing here fails but the search for names.

mod backends;
mod find;
mod inbound;
mod problems;
mod resolve;
mod stanzas;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::index::{Level, Model, Objects, Said, Service, ServicePort};
pub use backends::{Connection, ExplainedBackend};
pub use find::{FindError, find_service, find_workload};
pub use inbound::{Enforced, Inbound};
pub use problems::Problem;
pub use stanzas::{Rule, Stanza};
pub use tree::Tree;

/// Who said something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A policy.
    Policy(Said),
    /// `defaults` of `mesh.yaml`.
    MeshFile,
    /// Nobody: the mesh default.
    MeshDefault,
}

/// Everything about one port of a service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// The service, as `namespace/name`.
    pub service: String,
    /// The port that clients address.
    pub port: u16,
    /// Its name; empty when it has none.
    pub port_name: String,
    /// What the endpoints listen on.
    pub target_port: u16,
    /// Authorities of requests that mean it, for a client of `client_namespace`.
    pub authorities: Vec<String>,
    /// The namespace that short names are looked at from.
    pub client_namespace: String,
    /// The effective policy, stanza by stanza.
    pub stanzas: Vec<Stanza>,
    /// Rules in their order, each with the stanzas that it replaces.
    pub rules: Vec<Rule>,
    /// Gateway API routes that hold for this client: matching and weights are theirs, and neither rules nor
    /// the backends of splits are in force. As `HTTPRoute namespace/name`, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// What holds for connections to each backend.
    pub backends: Vec<ExplainedBackend>,
    /// What the sidecars of its workloads enforce; workloads alike are one entry.
    pub inbound: Vec<Inbound>,
    /// What concerns this service and is not in force as it is written.
    pub problems: Vec<Problem>,
}

/// The model, and the objects that it was made of.
#[derive(Debug)]
pub struct Explainer {
    model: Model,
    objects: Objects,
}

impl Explainer {
    /// Puts objects together as the control plane does.
    pub fn new(objects: Objects) -> Self {
        Self {
            model: Model::build(objects.clone(), 0),
            objects,
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Everything about a port of a service, for a client of `client_namespace`.
    pub fn explain(
        &self,
        service: &Service,
        port: &ServicePort,
        client_namespace: &str,
    ) -> Explained {
        let model = &self.model;
        Explained {
            service: service.name.to_string(),
            port: port.port,
            port_name: port.name.clone(),
            target_port: port.target_port,
            authorities: crate::compile::spellings(service, port, client_namespace),
            client_namespace: client_namespace.to_owned(),
            stanzas: stanzas::of(model, service, port),
            rules: stanzas::rules(model, service, port),
            routes: model
                .routes(service, port, client_namespace)
                .iter()
                .map(ToString::to_string)
                .collect(),
            backends: backends::of(model, service, port, client_namespace),
            inbound: inbound::of(model, service, port),
            problems: problems::of(model, &self.objects, service),
        }
    }
}

impl From<Said> for Source {
    fn from(said: Said) -> Self {
        Self::Policy(said)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match self {
            Self::MeshDefault => return f.write_str("mesh default"),
            Self::MeshFile => return f.write_str("mesh.yaml (defaults)"),
            Self::Policy(said) => said,
        };
        let level = match said.level {
            Level::Port => "service port",
            Level::Service => "service",
            Level::Namespace => "namespace",
        };
        let broken = if said.broken { ", refused" } else { "" };
        write!(f, "policy {} ({level}{broken})", said.policy)
    }
}

/// As its words.
impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
