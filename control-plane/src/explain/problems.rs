//! What concerns a service and is not in force as it is written.

use std::fmt;

use serde::Serialize;

use crate::index::{Model, Name, Objects, Refusal, Service};
use crate::policy::{TargetKind, TargetRef, TrafficPolicySpec};

/// A refusal, in the control plane's own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: u64,
    /// The object, as `TrafficPolicy shop/checkout`.
    pub object: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it; empty when the reason says it already.
    pub mend: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

/// What was refused of the service itself, of the routes that have to do with it, and of the policies that are meant for it, for its
/// namespace, or for nobody knows what, since they could not be read.
pub(super) fn of(model: &Model, objects: &Objects, service: &Service) -> Vec<Problem> {
    let concerns = |refusal: &&Refusal| {
        let Some((kind, name)) = refusal.object.split_once(' ') else {
            return false;
        };
        match kind {
            "Service" => name == service.name.to_string(),
            "TrafficPolicy" => concerns(objects, service, name),
            "HTTPRoute" | "GRPCRoute" => routes(objects, service, &refusal.object),
            _ => false,
        }
    };
    let refusals = model.refusals().iter().filter(concerns);
    refusals
        .map(|refusal| Problem {
            file: refusal.file.clone(),
            line: refusal.line,
            object: refusal.object.clone(),
            reason: refusal.reason.clone(),
            mend: refusal.mend.clone(),
        })
        .collect()
}

/// Whether a route is attached to the service, or sends requests to it.
fn routes(objects: &Objects, service: &Service, object: &str) -> bool {
    let is_it = |namespace: &str, name: &str| {
        namespace == service.name.namespace && name == service.name.name
    };
    let route = objects.routes.iter().map(|route| &route.object);
    let mut route = route.filter(|route| route.to_string() == object);
    // One that could not be read may be meant for any service.
    route.next().is_none_or(|route| {
        let mut backends = route.rules.iter().flat_map(|rule| &rule.backends);
        let mut parents = route.parents.iter();
        parents.any(|it| is_it(&it.namespace, &it.name))
            || backends.any(|it| is_it(&it.reference.namespace, &it.reference.name))
    })
}

fn concerns(objects: &Objects, service: &Service, name: &str) -> bool {
    let namespace = &service.name.namespace;
    let is_own = |target: &TargetRef| match target.kind {
        TargetKind::Namespace => target.name == *namespace,
        TargetKind::Service => target.name == service.name.name,
    };
    let sends_there = |spec: &TrafficPolicySpec| {
        let rules = spec.rules.iter().flatten();
        let splits = spec
            .split
            .iter()
            .chain(rules.filter_map(|rule| rule.split.as_ref()));
        splits
            .flat_map(|split| &split.backends)
            .any(|backend| backend.name == service.name.name)
    };
    let Some((of, _)) = name.split_once('/') else {
        return false;
    };
    if of != namespace {
        return false;
    }
    let mut good = objects.policies.iter().map(|policy| &policy.object);
    let is_named = |known: &Name| known.to_string() == name;
    let known = good.find(|policy| {
        is_named(&Name::new(
            &*policy.metadata.namespace,
            &*policy.metadata.name,
        ))
    });
    if let Some(policy) = known {
        return policy.spec.target_refs.iter().any(is_own) || sends_there(&policy.spec);
    }
    let broken = objects.broken.iter().find(|broken| is_named(&broken.name));
    broken.is_none_or(|broken| broken.targets.iter().any(is_own))
}
