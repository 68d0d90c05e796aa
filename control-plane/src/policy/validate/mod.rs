//! Manifests as policies, or what is wrong with them.
//!
//! Shapes, bounds and what fields ask of each other come from the schema, so that a cluster and a
//! directory refuse the same things; [`beyond`] is what a schema cannot say.

mod beyond;
mod findings;

use std::fmt;

use serde::Deserialize as _;
use serde_json::Value;

use super::evaluate::MANIFEST;
use super::spec::TrafficPolicy;
use findings::Findings;

/// The longest label.
const MAX_LABEL: usize = 63;

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, as `spec.timeouts.perTry`.
    pub path: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it; empty when the reason says it already.
    pub mend: String,
}

impl TrafficPolicy {
    /// Reads a manifest as a cluster would, with every default filled in.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(mut manifest: Value) -> Result<Self, Vec<Violation>> {
        let violations = MANIFEST.evaluate(&mut manifest);
        if !violations.is_empty() {
            return Err(violations);
        }
        // Written by a cluster, and without meaning here.
        if let Value::Object(fields) = &mut manifest {
            fields.remove("status");
        }
        // Never fails for what the schema accepts, as tests show; and a manifest is no reason to panic.
        let policy = Self::deserialize(manifest).map_err(|error| {
            vec![Violation {
                path: String::new(),
                reason: error.to_string(),
                mend: String::new(),
            }]
        })?;
        let violations = policy.check_beyond();
        if violations.is_empty() {
            Ok(policy)
        } else {
            Err(violations)
        }
    }

    /// Everything that is wrong with a policy that was not read from a manifest; nothing when it is
    /// good.
    pub fn check(&self) -> Vec<Violation> {
        let mut manifest = serde_json::to_value(self).expect("a policy can be written as JSON");
        let mut violations = MANIFEST.evaluate(&mut manifest);
        if violations.is_empty() {
            violations = self.check_beyond();
        }
        violations
    }

    fn check_beyond(&self) -> Vec<Violation> {
        let mut found = Findings::default();
        beyond::check(&mut found, &self.spec);
        found.0
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.reason);
        }
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// Whether a text is an RFC 1123 label, as namespaces and services are named.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= MAX_LABEL
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
