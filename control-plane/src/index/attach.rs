//! Which stanza holds for which target.
//!
//! Policies on one target combine while their stanzas are disjoint; else the older wins and the
//! younger is `Conflicted`. A service's `mtls` or `authorization` that is weaker than its
//! namespace's makes its policy `WeakerThanNamespace`, a namespace's that is weaker than the mesh's
//! minimum `WeakerThanMesh`. Of a policy that is refused here, security stanzas that are not
//! themselves at fault stay in force: leaving them out would open what somebody meant to close.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::judged::Judgement;
use super::objects::{BrokenPolicy, Name, Origin, Refusal, Service, Sourced};
use super::tighten;
use crate::policy::{
    AccessLog, Authorization, AuthorizationMode, CircuitBreaker, Fallback, FaultInjection,
    LoadBalancer, MtlsMode, RateLimit, Retries, Rule, Split, TargetKind, TargetRef, Timeouts,
    TrafficPolicy, TrafficPolicySpec,
};
use crate::route::status::Reason;

/// The stanzas that hold for something. An absent one is said by nobody.
#[derive(Clone, Debug, Default)]
pub struct Stanzas {
    /// Whether plaintext is accepted.
    pub mtls: Option<MtlsMode>,
    /// Who may do what; names without a namespace are of the target's.
    pub authorization: Option<Arc<Authorization>>,
    /// Limits in time.
    pub timeouts: Option<Arc<Timeouts>>,
    /// Which failed tries are repeated.
    pub retries: Option<Arc<Retries>>,
    /// When traffic is stopped.
    pub circuit_breaker: Option<Arc<CircuitBreaker>>,
    /// How endpoints are chosen.
    pub load_balancer: Option<Arc<LoadBalancer>>,
    /// Where requests go.
    pub split: Option<Arc<Split>>,
    /// What clients get where their service cannot answer.
    pub fallback: Option<Arc<Fallback>>,
    /// Failures that are asked for.
    pub fault_injection: Option<Arc<FaultInjection>>,
    /// How many requests the target's workloads take.
    pub rate_limit: Option<Arc<RateLimit>>,
    /// Which requests there is a line about.
    pub access_log: Option<Arc<AccessLog>>,
    /// Stanzas for some requests only.
    pub rules: Option<Arc<[Rule]>>,
}

/// All policies by what they are meant for.
#[derive(Debug, Default)]
pub(super) struct Attached {
    targets: HashMap<Target, Stanzas>,
    owners: HashMap<Target, HashMap<&'static str, Owner>>,
}

/// Which policy a stanza of a target is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) policy: Name,
    /// It could not be understood: what holds is only what it closes.
    pub(super) broken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Target {
    // Namespaces come first: what they say bounds the rest.
    Namespace(String),
    Service(Name),
    Port(Name, String),
}

struct Candidate {
    origin: Origin,
    policy: Arc<TrafficPolicy>,
    /// Which of the policy's references means the target.
    reference: TargetRef,
}

impl Stanzas {
    /// Fills what is absent from what is inherited, one whole stanza at a time. Nothing has to be
    /// compared here: what would weaken a namespace was never attached.
    pub(super) fn or(self, inherited: &Self) -> Self {
        Self {
            mtls: self.mtls.or(inherited.mtls),
            authorization: self
                .authorization
                .or_else(|| inherited.authorization.clone()),
            timeouts: self.timeouts.or_else(|| inherited.timeouts.clone()),
            retries: self.retries.or_else(|| inherited.retries.clone()),
            circuit_breaker: self
                .circuit_breaker
                .or_else(|| inherited.circuit_breaker.clone()),
            load_balancer: self
                .load_balancer
                .or_else(|| inherited.load_balancer.clone()),
            split: self.split.or_else(|| inherited.split.clone()),
            fallback: self.fallback.or_else(|| inherited.fallback.clone()),
            fault_injection: self
                .fault_injection
                .or_else(|| inherited.fault_injection.clone()),
            rate_limit: self.rate_limit.or_else(|| inherited.rate_limit.clone()),
            access_log: self.access_log.or_else(|| inherited.access_log.clone()),
            rules: self.rules.or_else(|| inherited.rules.clone()),
        }
    }

    fn take_security(&mut self, spec: &TrafficPolicySpec) {
        if let Some(mtls) = spec.mtls {
            self.mtls = Some(mtls.mode);
        }
        if let Some(authorization) = &spec.authorization {
            self.authorization = Some(Arc::new(authorization.clone()));
        }
    }

    fn take_traffic(&mut self, spec: &TrafficPolicySpec) {
        fn take<T: Clone>(slot: &mut Option<Arc<T>>, stanza: Option<&T>) {
            if let Some(stanza) = stanza {
                *slot = Some(Arc::new(stanza.clone()));
            }
        }
        take(&mut self.timeouts, spec.timeouts.as_ref());
        take(&mut self.retries, spec.retries.as_ref());
        take(&mut self.circuit_breaker, spec.circuit_breaker.as_ref());
        take(&mut self.load_balancer, spec.load_balancer.as_ref());
        take(&mut self.split, spec.split.as_ref());
        take(&mut self.fallback, spec.fallback.as_ref());
        take(&mut self.fault_injection, spec.fault_injection.as_ref());
        take(&mut self.rate_limit, spec.rate_limit.as_ref());
        take(&mut self.access_log, spec.access_log.as_ref());
        if let Some(rules) = &spec.rules {
            self.rules = Some(rules.as_slice().into());
        }
    }
}

impl Attached {
    /// Attaches every policy that fits, and names the others in `refusals`.
    pub(super) fn attach(
        policies: Vec<Sourced<Arc<TrafficPolicy>>>,
        broken: &[BrokenPolicy],
        minimum: Option<MtlsMode>,
        services: &BTreeMap<Name, Arc<Service>>,
        judgement: &mut Judgement,
        refusals: &mut Vec<Refusal>,
    ) -> Self {
        let mut attached = Self::default();
        let (namespaces, rest): (Vec<_>, Vec<_>) =
            by_target(policies, services, judgement, refusals)
                .into_iter()
                .partition(|(target, _)| matches!(target, Target::Namespace(_)));
        for (target, candidates) in namespaces {
            attached.settle(target, candidates, minimum, judgement, refusals);
        }
        // Before services, whose policies must be within what a broken one leaves of its namespace.
        for policy in broken {
            attached.close(policy, |target| matches!(target, Target::Namespace(_)));
        }
        for (target, candidates) in rest {
            attached.settle(target, candidates, minimum, judgement, refusals);
        }
        for policy in broken {
            attached.close(policy, |target| !matches!(target, Target::Namespace(_)));
        }
        attached
    }

    pub(super) fn of_namespace(&self, namespace: &str) -> Stanzas {
        self.of(&Target::Namespace(namespace.to_owned()))
    }

    pub(super) fn of_service(&self, service: &Name) -> Stanzas {
        self.of(&Target::Service(service.clone()))
    }

    pub(super) fn of_port(&self, service: &Name, port: &str) -> Stanzas {
        self.of(&Target::Port(service.clone(), port.to_owned()))
    }

    /// Whose the namespace's stanza of this name is.
    pub(super) fn owner_of_namespace(&self, namespace: &str, stanza: &str) -> Option<&Owner> {
        self.owner(&Target::Namespace(namespace.to_owned()), stanza)
    }

    /// Whose the service's own stanza of this name is.
    pub(super) fn owner_of_service(&self, service: &Name, stanza: &str) -> Option<&Owner> {
        self.owner(&Target::Service(service.clone()), stanza)
    }

    /// Whose the port's own stanza of this name is.
    pub(super) fn owner_of_port(&self, service: &Name, port: &str, stanza: &str) -> Option<&Owner> {
        self.owner(&Target::Port(service.clone(), port.to_owned()), stanza)
    }

    fn owner(&self, target: &Target, stanza: &str) -> Option<&Owner> {
        self.owners.get(target)?.get(stanza)
    }

    fn of(&self, target: &Target) -> Stanzas {
        self.targets.get(target).cloned().unwrap_or_default()
    }

    /// Decides between the policies of one target.
    fn settle(
        &mut self,
        target: Target,
        mut candidates: Vec<Candidate>,
        minimum: Option<MtlsMode>,
        judgement: &mut Judgement,
        refusals: &mut Vec<Refusal>,
    ) {
        candidates.sort_by_cached_key(|candidate| age(&candidate.policy));
        let outer = match &target {
            Target::Namespace(_) => Stanzas::default(),
            Target::Service(name) | Target::Port(name, _) => self.of_namespace(&name.namespace),
        };
        let floor = outer.mtls.max(minimum);
        let mut stanzas = Stanzas::default();
        let mut owners: HashMap<&'static str, Name> = HashMap::new();

        for candidate in candidates {
            let Candidate {
                origin,
                policy,
                reference,
            } = candidate;
            let name = Name::new(&*policy.metadata.namespace, &*policy.metadata.name);
            let mut spec = policy.spec.clone();
            let mut refused = false;

            let present = stanza_names(&policy.spec);
            let taken = present
                .iter()
                .find_map(|stanza| owners.get_key_value(stanza));
            if let Some((stanza, winner)) = taken {
                refused = true;
                let reason = Reason::new(
                    "Conflicted",
                    format!("{winner} is older and has {stanza} for {target} too"),
                );
                refusals.push(refusal(
                    &origin,
                    &name,
                    worded(&reason),
                    "keep the stanza in one of them".to_owned(),
                ));
                judgement.reject(&name, &reference, reason);
                if owners.contains_key("mtls") {
                    spec.mtls = None;
                }
                if owners.contains_key("authorization") {
                    spec.authorization = None;
                }
            }
            for (reason, mend) in weaker(&mut spec, &target, &outer, floor) {
                refused = true;
                refusals.push(refusal(&origin, &name, worded(&reason), mend));
                judgement.reject(&name, &reference, reason);
            }

            stanzas.take_security(&spec);
            if !refused {
                stanzas.take_traffic(&spec);
            }
            let held = stanza_names(&spec);
            for stanza in held {
                if !refused || stanza == "mtls" || stanza == "authorization" {
                    owners.insert(stanza, name.clone());
                    judgement.holds(&name, &reference, stanza);
                }
            }
        }
        let owners = owners.into_iter().map(|(stanza, policy)| {
            let broken = false;
            (stanza, Owner { policy, broken })
        });
        self.owners.insert(target.clone(), owners.collect());
        self.targets.insert(target, stanzas);
    }

    /// Closes the targets of a policy that could not be understood.
    fn close(&mut self, policy: &BrokenPolicy, wanted: impl Fn(&Target) -> bool) {
        for reference in &policy.targets {
            let Some(target) = Target::of(&policy.name.namespace, reference) else {
                continue;
            };
            if !wanted(&target) {
                continue;
            }
            let owners = self.owners.entry(target.clone()).or_default();
            let stanzas = self.targets.entry(target).or_default();
            let owner = Owner {
                policy: policy.name.clone(),
                broken: true,
            };
            if policy.strict {
                owners.insert("mtls", owner.clone());
                stanzas.mtls = Some(MtlsMode::Strict);
            }
            if policy.deny {
                owners.insert("authorization", owner);
                stanzas.authorization = Some(Arc::new(Authorization {
                    mode: AuthorizationMode::Enforce,
                    for_services: None,
                    allow: Vec::new(),
                }));
            }
        }
    }
}

impl Target {
    /// `None` for another namespace, which no policy reaches.
    fn of(namespace: &str, reference: &TargetRef) -> Option<Self> {
        match (reference.kind, &reference.section_name) {
            (TargetKind::Namespace, _) => {
                (reference.name == namespace).then(|| Self::Namespace(namespace.to_owned()))
            }
            (TargetKind::Service, None) => {
                Some(Self::Service(Name::new(namespace, &*reference.name)))
            }
            (TargetKind::Service, Some(section)) => Some(Self::Port(
                Name::new(namespace, &*reference.name),
                section.clone(),
            )),
        }
    }

    /// Why there is nothing that a policy could act on.
    fn missing(&self, services: &BTreeMap<Name, Arc<Service>>) -> Option<String> {
        match self {
            Self::Service(name) | Self::Port(name, _) if !services.contains_key(name) => {
                Some(format!("there is no service {name}"))
            }
            Self::Namespace(_) | Self::Service(_) => None,
            Self::Port(name, section) => {
                let ports = &services.get(name)?.ports;
                let known = ports.iter().any(|port| port.name == *section);
                (!known).then(|| format!("service {name} has no port named {section}"))
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Port(name, section) => write!(f, "service {name} port {section}"),
        }
    }
}

fn by_target(
    policies: Vec<Sourced<Arc<TrafficPolicy>>>,
    services: &BTreeMap<Name, Arc<Service>>,
    judgement: &mut Judgement,
    refusals: &mut Vec<Refusal>,
) -> BTreeMap<Target, Vec<Candidate>> {
    let mut targets: BTreeMap<Target, Vec<Candidate>> = BTreeMap::new();
    for Sourced {
        origin,
        object: policy,
    } in policies
    {
        let namespace = &policy.metadata.namespace;
        let name = Name::new(&**namespace, &*policy.metadata.name);
        for backend in missing_backends(&policy.spec, namespace, services) {
            refusals.push(refusal(
                &origin,
                &name,
                format!("BackendNotFound: there is no service {backend}; it has no endpoints"),
                "correct the name, or add the service".to_owned(),
            ));
        }
        let mut own = HashSet::new();
        for reference in &policy.spec.target_refs {
            let Some(target) = Target::of(namespace, reference) else {
                let why = format!("namespace {} is not the policy's own", reference.name);
                let reason = Reason::new("TargetNotFound", why);
                refusals.push(refusal(
                    &origin,
                    &name,
                    worded(&reason),
                    format!("set metadata.namespace: {}", reference.name),
                ));
                judgement.reject(&name, reference, reason);
                continue;
            };
            if let Some(why) = target.missing(services) {
                let reason = Reason::new("TargetNotFound", why);
                refusals.push(refusal(
                    &origin,
                    &name,
                    worded(&reason),
                    "correct the name, or add what is missing".to_owned(),
                ));
                judgement.reject(&name, reference, reason);
            }
            if own.insert(target.clone()) {
                targets.entry(target).or_default().push(Candidate {
                    origin: origin.clone(),
                    policy: Arc::clone(&policy),
                    reference: reference.clone(),
                });
            }
        }
    }
    targets
}

/// Services that splits and fallbacks name and that are not there. The stanza stays in force as it is
/// written.
pub(super) fn missing_backends(
    spec: &TrafficPolicySpec,
    namespace: &str,
    services: &BTreeMap<Name, Arc<Service>>,
) -> BTreeSet<Name> {
    spec.named_services()
        .map(|name| Name::new(namespace, name))
        .filter(|name| !services.contains_key(name))
        .collect()
}

/// Takes what is weaker than what stands above out of `spec`, and says what it was and how to mend it.
fn weaker(
    spec: &mut TrafficPolicySpec,
    target: &Target,
    outer: &Stanzas,
    floor: Option<MtlsMode>,
) -> Vec<(Reason, String)> {
    let mut found = Vec::new();
    if let (Some(mtls), Some(floor)) = (spec.mtls, floor)
        && mtls.mode < floor
    {
        spec.mtls = None;
        let why = match target {
            Target::Namespace(_) => "WeakerThanMesh",
            Target::Service(_) | Target::Port(..) => "WeakerThanNamespace",
        };
        found.push((
            Reason::new(
                why,
                format!("spec.mtls.mode {} is weaker than {floor}", mtls.mode),
            ),
            format!("use {floor}, or relax what stands above"),
        ));
    }
    if let (Some(own), Some(above)) = (&spec.authorization, &outer.authorization)
        && let Target::Service(name) | Target::Port(name, _) = target
        && !tighten::is_within(own, above, &name.namespace)
    {
        spec.authorization = None;
        found.push((
            Reason::new(
                "WeakerThanNamespace",
                "spec.authorization allows what the namespace's does not",
            ),
            "allow it in the namespace's policy too, make that one's forServices Default, or narrow this one"
                .to_owned(),
        ));
    }
    found
}

/// Older first: by time of creation where there is one, else by name.
fn age(policy: &TrafficPolicy) -> (bool, Option<String>, String, String) {
    let metadata = &policy.metadata;
    (
        metadata.creation_timestamp.is_none(),
        metadata.creation_timestamp.clone(),
        metadata.namespace.clone(),
        metadata.name.clone(),
    )
}

fn stanza_names(spec: &TrafficPolicySpec) -> Vec<&'static str> {
    [
        ("mtls", spec.mtls.is_some()),
        ("authorization", spec.authorization.is_some()),
        ("timeouts", spec.timeouts.is_some()),
        ("retries", spec.retries.is_some()),
        ("circuitBreaker", spec.circuit_breaker.is_some()),
        ("loadBalancer", spec.load_balancer.is_some()),
        ("split", spec.split.is_some()),
        ("fallback", spec.fallback.is_some()),
        ("faultInjection", spec.fault_injection.is_some()),
        ("rateLimit", spec.rate_limit.is_some()),
        ("accessLog", spec.access_log.is_some()),
        ("rules", spec.rules.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, present)| present.then_some(name))
    .collect()
}

fn worded(reason: &Reason) -> String {
    format!("{}: {}", reason.word, reason.message)
}

fn refusal(origin: &Origin, name: &Name, reason: String, mend: String) -> Refusal {
    Refusal {
        file: origin.file.to_string(),
        line: origin.line,
        object: format!("TrafficPolicy {name}"),
        reason,
        mend,
    }
}
