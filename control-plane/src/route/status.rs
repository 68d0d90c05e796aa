//! What is said about a route: its `status.parents`, as the Gateway API has it.
//!
//! Pure: (route, verdicts, what was said before) → what to say now. Parents are copied as the route
//! spells them, since tools compare them field by field; entries of other controllers stay as they are;
//! a condition's time changes only with its status.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Route;
use crate::policy::{Condition, ConditionStatus, Violation};
pub use weft_proto::names::cluster::CONTROLLER;

const ACCEPTED: &str = "Accepted";
const RESOLVED_REFS: &str = "ResolvedRefs";
const PARTIALLY_INVALID: &str = "PartiallyInvalid";
const IGNORED: &str = "weft.dev/Ignored";

/// `status` of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// By parent and controller.
    #[serde(default)]
    pub parents: Vec<RouteParentStatus>,
}

/// What one controller says about a route and one of its parents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// As the route spells it.
    pub parent_ref: Value,
    /// Who says it.
    pub controller_name: String,
    /// What is said.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Why something does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// In one word, of the Gateway API's where it has one.
    pub word: &'static str,
    /// For people.
    pub message: String,
}

/// What has become of a route at one parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is not attached there; `None` where it is.
    pub rejected: Option<Reason>,
    /// Why not every reference leads to something.
    pub unresolved: Option<Reason>,
    /// What some of its rules ask for and cannot be done: their requests are answered 500.
    pub partly: Option<Reason>,
    /// What it asks for and is left undone without harm.
    pub ignored: Option<Reason>,
}

impl Reason {
    /// Makes a reason.
    pub fn new(word: &'static str, message: impl Into<String>) -> Self {
        Self {
            word,
            message: message.into(),
        }
    }
}

/// The status of a route with a verdict for each of its parents, after `before`; `now` is in RFC 3339.
/// `None` where nothing is to be written.
pub fn status(
    route: &Route,
    verdicts: &[Verdict],
    before: &RouteStatus,
    now: &str,
) -> Option<RouteStatus> {
    let said = route.parents.iter().zip(verdicts);
    let said = said.map(|(parent, verdict)| (&parent.written, conditions(verdict)));
    merged(said, route.generation, before, now)
}

/// The status of a manifest that could not be read, likewise; an earlier version of it may be in force
/// instead.
pub fn of_refused(
    manifest: &Value,
    violations: &[Violation],
    last_good_stays: bool,
    before: &RouteStatus,
    now: &str,
) -> Option<RouteStatus> {
    let reasons: Vec<_> = violations
        .iter()
        .map(|violation| format!("{}: {}", violation.path, violation.reason))
        .collect();
    let instead = if last_good_stays {
        "; its last good version stays in force"
    } else {
        ""
    };
    let verdict = Verdict {
        rejected: Some(Reason::new(
            "UnsupportedValue",
            reasons.join("; ") + instead,
        )),
        ..Verdict::default()
    };
    let generation = manifest.pointer("/metadata/generation");
    let parents = Route::read_parents(manifest);
    let said = parents.iter();
    let said = said.map(|parent| (&parent.written, conditions(&verdict)));
    merged(said, generation.and_then(Value::as_i64), before, now)
}

/// A condition without its generation and time.
type Said = (&'static str, bool, &'static str, String);

fn conditions(verdict: &Verdict) -> Vec<Said> {
    let holds = |kind: &'static str, broken: &Option<Reason>, fine: &str| match broken {
        None => (kind, true, kind, fine.to_owned()),
        Some(reason) => (kind, false, reason.word, reason.message.clone()),
    };
    let mut said = vec![
        holds(ACCEPTED, &verdict.rejected, "attached"),
        holds(
            RESOLVED_REFS,
            &verdict.unresolved,
            "every reference leads to a service",
        ),
    ];
    for (kind, found) in [
        (PARTIALLY_INVALID, &verdict.partly),
        (IGNORED, &verdict.ignored),
    ] {
        if let Some(reason) = found {
            said.push((kind, true, reason.word, reason.message.clone()));
        }
    }
    said
}

fn merged<'a>(
    said: impl Iterator<Item = (&'a Value, Vec<Said>)>,
    generation: Option<i64>,
    before: &RouteStatus,
    now: &str,
) -> Option<RouteStatus> {
    // A newer version was seen already by another replica: what is known here is stale.
    let seen = own(before).flat_map(|entry| &entry.conditions);
    let newest = seen
        .filter_map(|condition| condition.observed_generation)
        .max();
    if newest > generation && generation.is_some() {
        return None;
    }
    let others = before.parents.iter();
    let others = others.filter(|entry| entry.controller_name != CONTROLLER);
    let mut parents: Vec<_> = others.cloned().collect();
    for (parent, said) in said {
        let known = own(before).find(|entry| entry.parent_ref == *parent);
        let conditions = said.into_iter().map(|(kind, holds, reason, message)| {
            let status = if holds {
                ConditionStatus::True
            } else {
                ConditionStatus::False
            };
            let known = known.iter().flat_map(|entry| &entry.conditions);
            let mut known = known.filter(|known| known.kind == kind);
            let since = known.next().filter(|known| known.status == status);
            Condition {
                kind: kind.to_owned(),
                status,
                reason: reason.to_owned(),
                message,
                observed_generation: generation,
                last_transition_time: since
                    .map_or(now, |known| &known.last_transition_time)
                    .to_owned(),
            }
        });
        parents.push(RouteParentStatus {
            parent_ref: parent.clone(),
            controller_name: CONTROLLER.to_owned(),
            conditions: conditions.collect(),
        });
    }
    let after = RouteStatus { parents };
    (!same(&after, before)).then_some(after)
}

fn own(status: &RouteStatus) -> impl Iterator<Item = &RouteParentStatus> {
    let entries = status.parents.iter();
    entries.filter(|entry| entry.controller_name == CONTROLLER)
}

/// Whether two statuses say the same, in whatever order controllers come.
fn same(one: &RouteStatus, other: &RouteStatus) -> bool {
    one.parents.len() == other.parents.len()
        && one
            .parents
            .iter()
            .all(|entry| other.parents.contains(entry))
}
