//! Findings while they are gathered: the same one at many places is one finding.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Finding, Severity};
use crate::index::{Refusal, Sourced};
use crate::policy::TrafficPolicy;

/// Places that a finding names; of more it says how many.
const MAX_PLACES: usize = 3;

/// What was found, each with the places that it holds for.
#[derive(Debug, Default)]
pub(super) struct Found(BTreeMap<Finding, BTreeSet<String>>);

/// What a check says about a policy.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) severity: Severity,
    pub(super) check: &'static str,
    pub(super) what: String,
    pub(super) why: String,
    pub(super) mend: String,
}

impl Found {
    /// What the control plane refuses, in its own words.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        let finding = Finding {
            file: refusal.file.clone(),
            line: refusal.line,
            severity: Severity::Error,
            check: "refused",
            object: refusal.object.clone(),
            what: "not in force as it is written".to_owned(),
            why: refusal.reason.clone(),
            mend: refusal.mend.clone(),
        };
        self.0.entry(finding).or_default();
    }

    /// Something about a policy as a whole.
    pub(super) fn add(&mut self, policy: &Sourced<Arc<TrafficPolicy>>, said: Said) {
        self.0.entry(finding(policy, said)).or_default();
    }

    /// Something about a policy that holds for a place, as `service shop/checkout port 80`.
    pub(super) fn add_at(
        &mut self,
        policy: &Sourced<Arc<TrafficPolicy>>,
        place: String,
        said: Said,
    ) {
        let places = self.0.entry(finding(policy, said)).or_default();
        places.insert(place);
    }

    /// By file and line.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        let found = self.0.into_iter();
        found
            .map(|(mut finding, places)| {
                if !places.is_empty() {
                    finding.what = format!("{}: {}", finding.what, listed(&places));
                }
                finding
            })
            .collect()
    }
}

fn finding(policy: &Sourced<Arc<TrafficPolicy>>, said: Said) -> Finding {
    let metadata = &policy.object.metadata;
    Finding {
        file: policy.origin.file.to_string(),
        line: policy.origin.line,
        severity: said.severity,
        check: said.check,
        object: format!("TrafficPolicy {}/{}", metadata.namespace, metadata.name),
        what: said.what,
        why: said.why,
        mend: said.mend,
    }
}

fn listed(places: &BTreeSet<String>) -> String {
    let named: Vec<_> = places.iter().take(MAX_PLACES).map(String::as_str).collect();
    let more = places.len() - named.len();
    match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
