//! What has become of each policy, for its status.
//!
//! The same findings as the model's refusals, by policy and target and in words for machines. Nothing
//! here changes what is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::attach::missing_backends;
use super::objects::{EndpointName, Name, Service, ServiceEndpoint, Sourced};
use super::{Model, ServicePort};
use crate::policy::{Split, TargetKind, TargetRef, TrafficPolicy};
use crate::route::status::Reason;

/// Stanzas that the target's own sidecars enforce.
const INBOUND: [&str; 4] = ["mtls", "authorization", "rateLimit", "accessLog"];

/// A policy with a verdict for each of its targets.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedPolicy {
    /// Its name.
    pub name: Name,
    /// The generation that was judged, which is the last good one; `None` in files.
    pub generation: Option<i64>,
    /// By target, as the policy spells it and in its order.
    pub targets: Vec<JudgedTarget>,
    /// Services that it sends requests to and that are not there.
    pub unresolved: Vec<Name>,
}

/// What has become of a policy at one of its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedTarget {
    /// The target.
    pub target: TargetRef,
    /// Why not all of the policy holds there; empty where it is accepted.
    pub rejected: Vec<Reason>,
    /// The stanzas that hold there, by their names in YAML. Where the policy is rejected, what it
    /// closes and is not itself at fault stays.
    pub in_force: Vec<&'static str>,
    /// What a route has instead of it, by service port.
    pub overridden: Vec<Overridden>,
    /// Stanzas that are in force and act nowhere at the target, as routes have all that they say.
    pub idle: Vec<&'static str>,
}

/// What of a policy a route has at one service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridden {
    /// The parts, as `spec.rules`.
    pub parts: Vec<&'static str>,
    /// The service port.
    pub port: u16,
    /// The route, with its kind.
    pub by: String,
}

/// A workload port that a policy's target shares with other services.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overlap {
    /// What the workloads listen on.
    pub port: u16,
    /// The other services.
    pub services: BTreeSet<Name>,
}

/// Gathers verdicts while policies are attached.
#[derive(Debug, Default)]
pub(super) struct Judgement(BTreeMap<Name, Pending>);

#[derive(Debug)]
struct Pending {
    judged: JudgedPolicy,
    /// The policy's split says nothing but where requests go.
    only_weights: bool,
    /// How many service ports each target means.
    ports: Vec<usize>,
}

impl Judgement {
    pub(super) fn of(
        policies: &[Sourced<Arc<TrafficPolicy>>],
        services: &BTreeMap<Name, Arc<Service>>,
    ) -> Self {
        let policies = policies.iter().map(|policy| &policy.object);
        let pending = policies.map(|policy| {
            let pending = Pending::of(policy, services);
            (pending.judged.name.clone(), pending)
        });
        Self(pending.collect())
    }

    /// The policy does not hold at this target as it is written.
    pub(super) fn reject(&mut self, policy: &Name, target: &TargetRef, reason: Reason) {
        if let Some(target) = self.target(policy, target) {
            target.rejected.push(reason);
        }
    }

    /// This stanza of it holds.
    pub(super) fn holds(&mut self, policy: &Name, target: &TargetRef, stanza: &'static str) {
        if let Some(target) = self.target(policy, target) {
            target.in_force.push(stanza);
        }
    }

    /// A route has a part of it.
    pub(super) fn overridden(&mut self, policy: &Name, target: &TargetRef, what: Overridden) {
        if let Some(target) = self.target(policy, target) {
            target.overridden.push(what);
        }
    }

    /// The verdicts, by name.
    pub(super) fn into_verdicts(self) -> Vec<JudgedPolicy> {
        self.0.into_values().map(Pending::finish).collect()
    }

    fn target(&mut self, policy: &Name, target: &TargetRef) -> Option<&mut JudgedTarget> {
        let mut targets = self.0.get_mut(policy)?.judged.targets.iter_mut();
        targets.find(|known| known.target == *target)
    }
}

impl Pending {
    fn of(policy: &TrafficPolicy, services: &BTreeMap<Name, Arc<Service>>) -> Self {
        let (metadata, spec) = (&policy.metadata, &policy.spec);
        let mut targets: Vec<JudgedTarget> = Vec::with_capacity(spec.target_refs.len());
        let mut ports = Vec::with_capacity(spec.target_refs.len());
        for target in &spec.target_refs {
            if targets.iter().any(|known| known.target == *target) {
                continue;
            }
            targets.push(JudgedTarget::new(target));
            let service = services.get(&Name::new(&*metadata.namespace, &*target.name));
            let meant = service.map_or(0, |service| ports_of(service, target).count());
            ports.push(meant);
        }
        let weights = |split: &Split| {
            !split.backends.is_empty() && split.sticky.is_none() && split.mirror.is_none()
        };
        let unresolved = missing_backends(spec, &metadata.namespace, services);
        Self {
            judged: JudgedPolicy {
                name: Name::new(&*metadata.namespace, &*metadata.name),
                generation: metadata.generation,
                targets,
                unresolved: unresolved.into_iter().collect(),
            },
            only_weights: spec.split.as_ref().is_some_and(weights),
            ports,
        }
    }

    fn finish(self) -> JudgedPolicy {
        let mut judged = self.judged;
        for (target, ports) in judged.targets.iter_mut().zip(self.ports) {
            if target.is_missing() {
                target.in_force.clear();
                continue;
            }
            let everywhere = |part: &str| {
                let overridden = target.overridden.iter();
                let times = overridden.filter(|known| known.parts.contains(&part));
                ports > 0 && times.count() >= ports
            };
            let rules = everywhere("spec.rules");
            let split = self.only_weights && everywhere("spec.split.backends");
            let idle = target.in_force.iter().copied();
            let idle = idle
                .filter(|stanza| (*stanza == "rules" && rules) || (*stanza == "split" && split));
            target.idle = idle.collect();
        }
        judged
    }
}

impl JudgedTarget {
    fn new(target: &TargetRef) -> Self {
        Self {
            target: target.clone(),
            rejected: Vec::new(),
            in_force: Vec::new(),
            overridden: Vec::new(),
            idle: Vec::new(),
        }
    }

    /// Whether some stanza acts there.
    pub fn acts(&self) -> bool {
        self.in_force
            .iter()
            .any(|stanza| !self.idle.contains(stanza))
    }

    /// Whether there is no such target.
    pub fn is_missing(&self) -> bool {
        let mut rejected = self.rejected.iter();
        rejected.any(|reason| reason.word == "TargetNotFound")
    }
}

impl Model {
    /// Every policy with what has become of it at each target, by name.
    pub fn judged_policies(&self) -> &[JudgedPolicy] {
        &self.judged
    }

    /// One of them.
    pub fn judged_policy(&self, name: &Name) -> Option<&JudgedPolicy> {
        let found = self.judged.binary_search_by(|judged| judged.name.cmp(name));
        Some(&self.judged[found.ok()?])
    }

    /// The workload ports at which stanzas of a policy that the target's own sidecars enforce meet other
    /// services: what these say holds there too, and the policy holds for their requests. By port.
    pub fn overlaps(&self, namespace: &str, judged: &JudgedTarget) -> Vec<Overlap> {
        let inbound = |stanza: &str| INBOUND.contains(&stanza);
        let target = &judged.target;
        if target.kind != TargetKind::Service || !judged.in_force.iter().any(|it| inbound(it)) {
            return Vec::new();
        }
        let Some(service) = self.service(namespace, &target.name) else {
            return Vec::new();
        };
        let mut shared: BTreeMap<u16, BTreeSet<Name>> = BTreeMap::new();
        for endpoint in &service.endpoints {
            // Addresses without a workload have no sidecar that would enforce anything.
            let ServiceEndpoint::Workload(workload) = endpoint else {
                continue;
            };
            let Some(workload) = self.workload(namespace, workload) else {
                continue;
            };
            let endpoint = EndpointName::Workload(workload.name.name.clone());
            for port in ports_of(service, target) {
                let Some(port) = port.target_of(&endpoint) else {
                    continue;
                };
                let others = self.backed_by_workload(workload, port);
                let others = others.map(|(other, _)| &other.name);
                for other in others.filter(|name| **name != service.name) {
                    shared.entry(port).or_default().insert(other.clone());
                }
            }
        }
        let shared = shared.into_iter();
        shared
            .map(|(port, services)| Overlap { port, services })
            .collect()
    }
}

/// The ports of a service that a target means.
fn ports_of<'a>(
    service: &'a Service,
    target: &'a TargetRef,
) -> impl Iterator<Item = &'a ServicePort> {
    let ports = service.ports.iter();
    ports.filter(|port| {
        let section = target.section_name.as_ref();
        section.is_none_or(|section| *section == port.name)
    })
}
