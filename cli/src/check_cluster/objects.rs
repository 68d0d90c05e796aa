//! TrafficPolicies and routes: what their status says, and what the control plane's own rules say.

use serde_json::Value;
use weft_control_plane::check::{Finding, Severity};

use super::facts::{After, Trouble, full_name, list};
use super::line::{Check, Line, counted};

const STATUS: Check = Check("policies", "status");
const RULES: &str = "policies";
/// A status with this reason is a matter of taste and not of repair.
const IN_FORCE: &str = "Accepted";

pub(super) fn check(after: &After) -> Vec<Line> {
    let mut lines = vec![status(after)];
    lines.extend(findings(after));
    lines
}

/// What of an object's status is false, with its reason.
fn untrue(object: &Value) -> Vec<(String, bool)> {
    let own = list(&object["status"]["conditions"]);
    let parents = list(&object["status"]["parents"]);
    let parents = parents.flat_map(|parent| list(&parent["conditions"]));
    let wrong = own
        .chain(parents)
        .filter(|condition| condition["status"] == "False");
    let mut all: Vec<_> = wrong
        .map(|condition| {
            let word = |key: &str| condition[key].as_str().unwrap_or_default();
            let told = format!(
                "{} is False ({}): {}",
                word("type"),
                word("reason"),
                word("message")
            );
            let told = told.trim_end_matches([':', ' ']).to_owned();
            (told, word("type") == IN_FORCE)
        })
        .collect();
    all.dedup();
    all
}

fn status(after: &After) -> Line {
    let (mut listed, mut looked, mut refused) = (Vec::new(), 0, false);
    for (kind, objects) in &after.objects {
        let objects = match objects {
            Ok(objects) => objects,
            Err(Trouble::Absent) => continue,
            Err(trouble) => return STATUS.untold(&format!("objects of kind {kind}"), trouble),
        };
        looked += objects.len();
        for object in objects {
            for (told, is_refused) in untrue(object) {
                refused |= is_refused;
                listed.push(format!("{kind} {}: {told}", full_name(object)));
            }
        }
    }
    if listed.is_empty() {
        return STATUS.ok(format!(
            "of {}, no status says that it is not in force",
            counted(looked, "policy or route", "policies and routes")
        ));
    }
    let hint = "mend the object as its reason says; kubectl describe shows all of its status";
    let what = "statuses say that objects are not in force as they are written";
    let line = if refused {
        STATUS.failed(what, hint)
    } else {
        STATUS.warning(what, hint)
    };
    line.listing(listed)
}

/// The findings of `weft check -f`, on the objects of the cluster.
fn findings(after: &After) -> Vec<Line> {
    let rules = Check(RULES, "rules");
    let report = match &after.report {
        Ok(report) => report,
        Err(trouble) => return vec![rules.untold("what the mesh is made of", trouble)],
    };
    if report.findings.is_empty() {
        return vec![rules.ok(format!(
            "{}, {} and {} were checked against each other",
            counted(report.policies, "policy", "policies"),
            counted(report.services, "service", "services"),
            counted(report.workloads, "workload", "workloads"),
        ))];
    }
    report.findings.iter().map(finding).collect()
}

fn finding(finding: &Finding) -> Line {
    let check = Check(RULES, finding.check);
    let mut what = format!("{}: {}", finding.object, finding.what);
    if !finding.why.is_empty() {
        what = format!("{what}; {}", finding.why);
    }
    match finding.severity {
        Severity::Error => check.failed(what, &*finding.mend),
        Severity::Warning => check.warning(what, &*finding.mend),
    }
}
