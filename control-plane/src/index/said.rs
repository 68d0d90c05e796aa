//! Which policy said what is in force.

use super::attach::Owner;
use super::{Model, Name, Service, ServicePort};
use crate::policy::MtlsMode;

/// A stanza's policy, and the level that it was attached at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What the policy was meant for.
    pub level: Level,
    /// The policy.
    pub policy: Name,
    /// It could not be understood: what holds is only what it closes.
    pub broken: bool,
}

/// What a policy was meant for, the innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// One port of a service.
    Port,
    /// A service.
    Service,
    /// A namespace.
    Namespace,
}

impl Model {
    /// Who has a stanza (by its name in YAML) for a service port, the innermost first: the first one's
    /// is what [`Model::policy`] gives.
    pub fn said(&self, service: &Service, port: &ServicePort, stanza: &str) -> Vec<Said> {
        let namespace = self.said_of_namespace(&service.name.namespace, stanza);
        let own = self.said_of_own(service, port, stanza).into_iter();
        own.chain(namespace).collect()
    }

    /// The same without the service's namespace: the first one's is what [`Model::own_policy`] gives.
    pub fn said_of_own(&self, service: &Service, port: &ServicePort, stanza: &str) -> Vec<Said> {
        let (name, policies) = (&service.name, &self.policies);
        let of_port = policies.owner_of_port(name, &port.name, stanza);
        let of_service = policies.owner_of_service(name, stanza);
        [(Level::Port, of_port), (Level::Service, of_service)]
            .into_iter()
            .filter_map(|(level, owner)| owner.map(|owner| said(level, owner)))
            .collect()
    }

    /// Who has a stanza for a whole namespace.
    pub fn said_of_namespace(&self, namespace: &str, stanza: &str) -> Option<Said> {
        let owner = self.policies.owner_of_namespace(namespace, stanza);
        owner.map(|owner| said(Level::Namespace, owner))
    }

    /// The generation of a policy's version that is in force; `None` where it has none, as in files, or
    /// where it could never be understood.
    pub fn generation(&self, policy: &Name) -> Option<i64> {
        self.judged_policy(policy)?.generation
    }

    /// What no policy may weaken, as `mesh.yaml` says.
    pub fn minimum_mtls(&self) -> Option<MtlsMode> {
        self.settings.minimum_mtls
    }
}

fn said(level: Level, owner: &Owner) -> Said {
    Said {
        level,
        policy: owner.policy.clone(),
        broken: owner.broken,
    }
}
