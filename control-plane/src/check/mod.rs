//! What is wrong with manifests, before a control plane reads them.
//!
//! What is refused here is what the control plane refuses, with the same words: objects are read and
//! put together by the same code. On top come warnings about what is accepted and does not do what
//! its author may think: what can never act, and what is risky.
//!
//! Pure. Without a `mesh.yaml`, every service and port that a policy or route names is taken to be there, and
//! nothing is said about endpoints and protocols.

mod alone;
mod assume;
mod balancer;
mod breaker;
mod fallback;
mod found;
mod route;
mod side;
#[cfg(test)]
mod tests;
mod view;

use serde::Serialize;

use crate::index::Model;
use crate::source::files::Once;
use found::Found;
use view::View;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is not in force as it is written, or requests fail by it.
    Error,
    /// It is in force and may not do what it was written for.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// The line that the object begins in, or the very line where it is known; from 1, 0 for the file
    /// as a whole.
    pub line: u64,
    /// How bad it is.
    pub severity: Severity,
    /// Which check found it: a stable word, `refused` for what the control plane refuses.
    pub check: &'static str,
    /// The object, as `TrafficPolicy shop/checkout`.
    pub object: String,
    /// What is wrong.
    pub what: String,
    /// Why that is so, or why it matters.
    pub why: String,
    /// What to do about it; empty when the rest says it already.
    pub mend: String,
}

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By file and line.
    pub findings: Vec<Finding>,
    /// Policies that are good by themselves.
    pub policies: usize,
    /// Services of the mesh file.
    pub services: usize,
    /// Workloads of the mesh file.
    pub workloads: usize,
}

impl Report {
    /// How many findings are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|finding| finding.severity == severity)
            .count()
    }
}

/// Checks everything that was read.
pub fn check(read: Once) -> Report {
    let Once {
        mut objects,
        has_mesh,
    } = read;
    let mut report = Report {
        findings: Vec::new(),
        policies: objects.policies.len(),
        services: objects.services.len(),
        workloads: objects.workloads.len(),
    };
    let policies = objects.policies.clone();
    if !has_mesh {
        objects.services = assume::services(&policies, &objects.routes);
    }
    let model = Model::build(objects, 0);
    let view = View::new(&model, &policies, has_mesh);

    let mut found = Found::default();
    for refusal in model.refusals() {
        found.refused(refusal);
    }
    for policy in &policies {
        alone::check(&mut found, policy);
        side::check(&mut found, &view, policy);
    }
    route::check(&mut found, &view);
    fallback::check(&mut found, &view);
    if has_mesh {
        breaker::check(&mut found, &view);
        balancer::check(&mut found, &view);
    }
    report.findings = found.into_findings();
    report
}
