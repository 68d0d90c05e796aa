//! The model, and which policy said what is in force.

use std::sync::Arc;

use crate::index::{Model, Name, Service, ServiceEndpoint, ServicePort, Sourced};
use crate::policy::{TargetKind, TargetRef, TrafficPolicy, TrafficPolicySpec};

/// A policy with its place.
pub(super) type Policy = Sourced<Arc<TrafficPolicy>>;

/// What checks look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) model: &'a Model,
    policies: &'a [Policy],
    /// Whether services, endpoints and workloads are those of a mesh and not assumed.
    pub(super) has_mesh: bool,
}

impl<'a> View<'a> {
    pub(super) fn new(model: &'a Model, policies: &'a [Policy], has_mesh: bool) -> Self {
        Self {
            model,
            policies,
            has_mesh,
        }
    }

    /// Who said a stanza that is in force for a service port: the policy of the innermost level that
    /// has this very stanza.
    pub(super) fn owner<T: PartialEq + ?Sized>(
        &self,
        service: &Service,
        port: &ServicePort,
        in_force: &T,
        stanza: impl Fn(&TrafficPolicySpec) -> Option<&T>,
    ) -> Option<&'a Policy> {
        let levels: [&dyn Fn(&TargetRef) -> bool; 3] = [
            &|target| {
                is_service(target, &service.name)
                    && target.section_name.as_ref() == Some(&port.name)
            },
            &|target| is_service(target, &service.name) && target.section_name.is_none(),
            &|target| target.kind == TargetKind::Namespace,
        ];
        levels.into_iter().find_map(|level| {
            self.policies.iter().find(|policy| {
                policy.object.metadata.namespace == service.name.namespace
                    && policy.object.spec.target_refs.iter().any(level)
                    && stanza(&policy.object.spec) == Some(in_force)
            })
        })
    }

    /// Whether each endpoint of a service is meshed; endpoints that nothing is known of are left out.
    pub(super) fn endpoints(&self, service: &Service) -> Vec<bool> {
        let namespace = &service.name.namespace;
        let endpoints = service.endpoints.iter();
        endpoints
            .filter_map(|endpoint| match endpoint {
                ServiceEndpoint::Address(_) => Some(false),
                ServiceEndpoint::Workload(name) => self
                    .model
                    .workload(namespace, name)
                    .map(|workload| workload.meshed),
            })
            .collect()
    }
}

/// A service port, for people.
pub(super) fn place(service: &Service, port: &ServicePort) -> String {
    format!("service {} port {}", service.name, port.port)
}

fn is_service(target: &TargetRef, name: &Name) -> bool {
    target.kind == TargetKind::Service && target.name == name.name
}
