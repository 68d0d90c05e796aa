//! Bounds, and what fields ask of each other.

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Violation {
    /// The field, as `spec.timeouts.perTry`.
    pub path: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it; empty when the reason says it already.
    pub mend: String,
}
