//! What is said about a policy: its `status`, as GEP-713 has it.
//!
//! Pure: (policy, verdicts, counts, what was said before) → what to say now.
//!
//! * `Accepted` is true where the policy holds as it is written, at every target. False: `Invalid`,
//!   `TargetNotFound`, `Conflicted`, `WeakerThanNamespace`, `WeakerThanMesh`.
//! * `ResolvedRefs` is true where every service that it sends requests to is there. False:
//!   `BackendNotFound`. Unknown: `Invalid`.
//! * `Programmed` is true where every connected sidecar that holds anything of it confirmed the newest
//!   version of all of that: `Programmed`, or `PartiallyProgrammed` where a part of the policy acts
//!   nowhere. False: `Reconciling` while confirmations are missing, `Refused` by a sidecar,
//!   `Overridden` where a route has all that it says, `Accepted`'s own reason where nothing of it is in
//!   force. Unknown: `NoSidecars`, as it is not known to work where nobody runs it.
//! * `weft.dev/Overlapping` is true where what it says about inbound ports meets other services on the
//!   same workload ports, and is absent elsewhere.
//!
//! Sidecars are counted per policy and not per target: the targets of a policy share one count.
//! Conditions of other types and ancestors of other controllers stay as they are; a condition's time
//! changes only with its status.

use std::collections::BTreeSet;
use std::fmt;

use weft_proto::names::cluster::CONTROLLER;

use crate::index::{JudgedPolicy, JudgedTarget, Overlap};
use crate::policy::{
    AncestorRef, AncestorStatus, Condition, ConditionStatus, ProxyCounts, TargetKind,
    TrafficPolicyStatus,
};
use crate::serve::counts::Count;

pub(crate) const ACCEPTED: &str = "Accepted";
pub(crate) const RESOLVED_REFS: &str = "ResolvedRefs";
pub(crate) const PROGRAMMED: &str = "Programmed";
const OVERLAPPING: &str = "weft.dev/Overlapping";
const OWN: [&str; 4] = [ACCEPTED, RESOLVED_REFS, PROGRAMMED, OVERLAPPING];

pub(crate) const INVALID: &str = "Invalid";
/// A sidecar does not take the policy.
pub(crate) const REFUSED: &str = "Refused";
const RECONCILING: &str = "Reconciling";

/// Ancestors that a status may have, of all controllers.
const MAX_ANCESTORS: usize = 16;
/// Names that one message lists.
const MAX_NAMED: usize = 5;
/// Bytes of one message; the schema takes 32 times as many.
const MAX_MESSAGE: usize = 1024;

/// A policy as the control plane knows it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The newest generation that is known, whether it could be read or not.
    pub generation: i64,
    /// What is wrong with that generation; `None` where it could be read.
    pub refused: Option<&'a str>,
    /// Verdicts about the version that is in force; `None` where there is none.
    pub judged: Option<&'a JudgedPolicy>,
    /// What each of its targets shares with other services.
    pub overlaps: &'a [Vec<Overlap>],
}

/// What is known of the sidecars that run a policy.
#[derive(Clone, Copy, Debug)]
pub enum Counted<'a> {
    /// They have not been counted since the policy changed.
    NotYet,
    /// Nobody holds anything of it.
    Nobody,
    /// So many.
    Sidecars(&'a Count),
}

/// A status that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    /// The whole of it.
    pub status: TrafficPolicyStatus,
    /// Whether more has changed than which sidecars run the policy.
    pub at_once: bool,
}

/// The status of a policy after `before`; `now` is in RFC 3339. `None` where nothing is to be written: it
/// says so already, or is about a newer generation than is known here.
pub fn status(
    subject: &Subject<'_>,
    counted: Counted<'_>,
    before: &TrafficPolicyStatus,
    now: &str,
) -> Option<Next> {
    let generation = subject.generation;
    if seen(before) > Some(generation) {
        return None;
    }
    let targets = subject.targets();
    let since = |known: &[Condition], said: Vec<Said>| -> Vec<Condition> {
        let said = said.into_iter();
        said.map(|said| said.since(known, generation, now))
            .collect()
    };

    let others = before.conditions.iter();
    let others = others.filter(|known| !OWN.contains(&&*known.kind));
    let mut conditions = since(&before.conditions, subject.say(&targets, counted));
    conditions.extend(others.cloned());

    let others = before.ancestors.iter();
    let others = others.filter(|known| known.controller_name != CONTROLLER);
    let mut ancestors: Vec<_> = others.cloned().collect();
    for target in &targets {
        if ancestors.len() == MAX_ANCESTORS {
            break;
        }
        let ancestor_ref = target.reference(subject);
        let known = before.ancestors.iter().find(|known| {
            known.controller_name == CONTROLLER && known.ancestor_ref == ancestor_ref
        });
        let known = known.map_or(&[][..], |known| &known.conditions);
        let said = subject.say(std::slice::from_ref(target), counted);
        ancestors.push(AncestorStatus {
            conditions: since(known, said),
            controller_name: CONTROLLER.to_owned(),
            ancestor_ref,
        });
    }

    let status = TrafficPolicyStatus {
        conditions,
        ancestors,
        proxies: subject.proxies(counted, before),
    };
    if same(&status, before) {
        return None;
    }
    let programmed = before.conditions.iter();
    let programmed = programmed.filter(|known| known.kind == PROGRAMMED);
    let current = programmed
        .filter_map(|known| known.observed_generation)
        .any(|observed| observed == generation);
    let at_once = !current || !same(&without_counts(&status), &without_counts(before));
    Some(Next { status, at_once })
}

/// Whether sidecars were counted for this generation when `before` was written.
pub fn is_counted(before: &TrafficPolicyStatus, generation: i64) -> bool {
    let mut conditions = before.conditions.iter();
    conditions
        .any(|known| known.kind == PROGRAMMED && known.observed_generation == Some(generation))
}

/// A condition without its generation and time.
struct Said {
    kind: &'static str,
    status: ConditionStatus,
    reason: &'static str,
    message: String,
}

/// A target with what is known of it.
struct Target<'a> {
    judged: &'a JudgedTarget,
    overlaps: &'a [Overlap],
}

impl Said {
    fn new(
        kind: &'static str,
        status: ConditionStatus,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let message = shortened(message.into(), MAX_MESSAGE);
        Self {
            kind,
            status,
            reason,
            message,
        }
    }

    fn since(self, known: &[Condition], generation: i64, now: &str) -> Condition {
        let known = known.iter().find(|known| known.kind == self.kind);
        let known = known.filter(|known| known.status == self.status);
        Condition {
            kind: self.kind.to_owned(),
            status: self.status,
            reason: self.reason.to_owned(),
            message: self.message,
            observed_generation: Some(generation),
            last_transition_time: known
                .map_or(now, |known| &known.last_transition_time)
                .to_owned(),
        }
    }
}

impl<'a> Subject<'a> {
    fn targets(&self) -> Vec<Target<'a>> {
        let targets = self.judged.map_or(&[][..], |judged| &judged.targets);
        let overlaps = self.overlaps.iter().map(Vec::as_slice);
        let overlaps = overlaps.chain(std::iter::repeat(&[][..]));
        let targets = targets.iter().zip(overlaps);
        targets
            .map(|(judged, overlaps)| Target { judged, overlaps })
            .collect()
    }

    /// Everything that is said about some of its targets.
    fn say(&self, targets: &[Target<'_>], counted: Counted<'_>) -> Vec<Said> {
        let accepted = self.accepted(targets);
        let programmed = self.programmed(targets, counted, &accepted);
        let mut said = vec![accepted, self.resolved_refs(), programmed];
        said.extend(overlapping(targets));
        said
    }

    fn accepted(&self, targets: &[Target<'_>]) -> Said {
        use ConditionStatus::{False, True};
        if let Some(problems) = self.refused {
            let instead = match self.judged.map(|judged| judged.generation) {
                Some(Some(generation)) => format!("generation {generation} stays in force"),
                Some(None) => "its last good version stays in force".to_owned(),
                None => "no good version of it is known: what it has authorization for is denied, \
                         what it has mtls for is Strict, and nothing else of it is in force"
                    .to_owned(),
            };
            return Said::new(ACCEPTED, False, INVALID, format!("{problems}; {instead}"));
        }
        let rejected = targets.iter().map(|target| target.judged);
        let rejected: Vec<_> = rejected.filter(|it| !it.rejected.is_empty()).collect();
        let Some(first) = rejected.first() else {
            return Said::new(ACCEPTED, True, ACCEPTED, "it holds as it is written");
        };
        let mut why = Vec::new();
        for target in &rejected {
            let reasons = target.rejected.iter();
            let mut reasons: Vec<_> = reasons.map(|it| it.message.as_str()).collect();
            let kept = match target.in_force.as_slice() {
                [] => String::new(),
                [one] => format!("its {one} holds all the same"),
                more => format!("its {} hold all the same", more.join(" and ")),
            };
            if !kept.is_empty() {
                reasons.push(&kept);
            }
            why.push(reasons.join("; "));
        }
        let mut why = why.join("; ");
        if targets.len() > 1 {
            why = format!("at {} of {} targets: {why}", rejected.len(), targets.len());
        }
        Said::new(ACCEPTED, False, first.rejected[0].word, why)
    }

    fn resolved_refs(&self) -> Said {
        use ConditionStatus::{False, True, Unknown};
        if self.refused.is_some() {
            let why = "this generation could not be read";
            return Said::new(RESOLVED_REFS, Unknown, INVALID, why);
        }
        let missing = self.judged.map_or(&[][..], |judged| &judged.unresolved);
        if missing.is_empty() {
            let fine = "every service that it names is there";
            return Said::new(RESOLVED_REFS, True, RESOLVED_REFS, fine);
        }
        let why = format!(
            "there is no service {}: it has no endpoints",
            listed(missing)
        );
        Said::new(RESOLVED_REFS, False, "BackendNotFound", why)
    }

    fn programmed(&self, targets: &[Target<'_>], counted: Counted<'_>, accepted: &Said) -> Said {
        use ConditionStatus::{False, True, Unknown};
        let said = |status, reason, message: String| Said::new(PROGRAMMED, status, reason, message);
        if self.refused.is_some() {
            let why = format!("generation {} is not in force", self.generation);
            return said(False, INVALID, why);
        }
        let overridden = overridden(targets);
        if !targets.iter().any(|target| target.judged.acts()) {
            return if accepted.status == False {
                said(
                    False,
                    accepted.reason,
                    "nothing of it is in force".to_owned(),
                )
            } else {
                said(False, "Overridden", overridden.join("; "))
            };
        }
        let generation = self.generation;
        let count = match counted {
            Counted::NotYet => {
                let why = format!("no sidecar has confirmed generation {generation} yet");
                return said(False, RECONCILING, why);
            }
            Counted::Sidecars(count) if count.total > 0 => count,
            Counted::Sidecars(_) | Counted::Nobody => {
                let why = "no connected sidecar holds anything of it; whoever comes gets it";
                return said(Unknown, "NoSidecars", why.to_owned());
            }
        };
        let acknowledged = self.acknowledged(count);
        let all = self.judged.is_some_and(|judged| judged.targets.len() > 1);
        let running = format!(
            "{acknowledged}/{} sidecars run generation {generation}{}",
            count.total,
            if all { ", of all targets together" } else { "" },
        );
        if !count.refused.is_empty() {
            let refused = count.refused.iter();
            let refused: Vec<_> = refused
                .map(|(sidecar, why)| format!("{sidecar} refused it: {why}"))
                .collect();
            return said(False, REFUSED, format!("{running}; {}", refused.join("; ")));
        }
        if acknowledged < count.total {
            return said(False, RECONCILING, running);
        }
        let mut but = overridden;
        if accepted.status == False {
            but.insert(0, "not all of it is accepted".to_owned());
        }
        if but.is_empty() {
            return said(True, PROGRAMMED, running);
        }
        let message = format!("{running}; {}", but.join("; "));
        said(True, "PartiallyProgrammed", message)
    }

    /// Those that confirmed this very generation.
    fn acknowledged(&self, count: &Count) -> u32 {
        match count.generation {
            Some(compiled) if compiled != self.generation => 0,
            _ => count.acknowledged,
        }
    }

    fn proxies(&self, counted: Counted<'_>, before: &TrafficPolicyStatus) -> Option<ProxyCounts> {
        let bounded = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        match counted {
            // Those that ran the version before this one.
            Counted::NotYet => before.proxies.map(|before| ProxyCounts {
                acknowledged: 0,
                ..before
            }),
            Counted::Nobody => Some(ProxyCounts::default()),
            Counted::Sidecars(count) => Some(ProxyCounts {
                acknowledged: bounded(self.acknowledged(count)),
                total: bounded(count.total),
            }),
        }
    }
}

impl Target<'_> {
    fn reference(&self, subject: &Subject<'_>) -> AncestorRef {
        let target = &self.judged.target;
        AncestorRef {
            group: target.group.clone(),
            kind: match target.kind {
                TargetKind::Service => "Service",
                TargetKind::Namespace => "Namespace",
            }
            .to_owned(),
            namespace: subject.judged.map(|judged| judged.name.namespace.clone()),
            name: target.name.clone(),
            section_name: target.section_name.clone(),
        }
    }
}

/// What routes have instead of the policy.
fn overridden(targets: &[Target<'_>]) -> Vec<String> {
    let targets = targets.iter().map(|target| target.judged);
    let all = targets.flat_map(|judged| {
        let overridden = judged.overridden.iter();
        overridden.map(|it| {
            format!(
                "{} of service {} port {} not in force: {} has matching and weights there",
                it.parts.join(" and "),
                judged.target.name,
                it.port,
                it.by,
            )
        })
    });
    let mut all: Vec<_> = all.collect();
    if all.len() > MAX_NAMED {
        let more = all.len() - MAX_NAMED;
        all.truncate(MAX_NAMED);
        all.push(format!("and {more} more"));
    }
    all
}

fn overlapping(targets: &[Target<'_>]) -> Option<Said> {
    let overlaps = || targets.iter().flat_map(|target| target.overlaps);
    let ports: BTreeSet<_> = overlaps().map(|it| it.port).collect();
    let services: BTreeSet<_> = overlaps().flat_map(|it| &it.services).collect();
    if ports.is_empty() {
        return None;
    }
    let why = format!(
        "workload port {} is also behind service {}: the strictest mtls holds there, every \
         authorization has to allow a request, every rateLimit counts it, and the accessLog holds that \
         logs most",
        listed(ports),
        listed(services),
    );
    let (kind, status) = (OVERLAPPING, ConditionStatus::True);
    Some(Said::new(kind, status, "Overlapping", why))
}

/// The newest generation that this controller has spoken of.
fn seen(status: &TrafficPolicyStatus) -> Option<i64> {
    let conditions = status.conditions.iter();
    let conditions = conditions.filter(|known| OWN.contains(&&*known.kind));
    let ancestors = status.ancestors.iter();
    let ancestors = ancestors.filter(|known| known.controller_name == CONTROLLER);
    let ancestors = ancestors.flat_map(|known| &known.conditions);
    let all = conditions.chain(ancestors);
    all.filter_map(|known| known.observed_generation).max()
}

/// Whether two statuses say the same, in whatever order their writers put it.
fn same(one: &TrafficPolicyStatus, other: &TrafficPolicyStatus) -> bool {
    fn like<T>(one: &[T], other: &[T], equal: impl Fn(&T, &T) -> bool) -> bool {
        let holds = |wanted: &T| other.iter().any(|known| equal(known, wanted));
        one.len() == other.len() && one.iter().all(holds)
    }
    let ancestor = |one: &AncestorStatus, other: &AncestorStatus| {
        one.ancestor_ref == other.ancestor_ref
            && one.controller_name == other.controller_name
            && like(&one.conditions, &other.conditions, PartialEq::eq)
    };
    one.proxies == other.proxies
        && like(&one.conditions, &other.conditions, PartialEq::eq)
        && like(&one.ancestors, &other.ancestors, ancestor)
}

fn without_counts(status: &TrafficPolicyStatus) -> TrafficPolicyStatus {
    let mut status = status.clone();
    status.proxies = None;
    status.conditions.retain(|known| known.kind != PROGRAMMED);
    for ancestor in &mut status.ancestors {
        if ancestor.controller_name == CONTROLLER {
            ancestor.conditions.retain(|known| known.kind != PROGRAMMED);
        }
    }
    status
}

/// A text within so many bytes, of which an ellipsis takes three where it is needed.
pub(crate) fn shortened(mut text: String, bytes: usize) -> String {
    if text.len() <= bytes {
        return text;
    }
    let longest = bytes.saturating_sub('…'.len_utf8());
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text.push('…');
    text
}

/// The first few of some names.
fn listed<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    let mut names = names.into_iter();
    let first = names.by_ref().take(MAX_NAMED);
    let first: Vec<_> = first.map(|name| name.to_string()).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
