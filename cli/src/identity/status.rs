//! The control plane's answer. Moments are seconds of unix time.

use serde::{Deserialize, Serialize};

/// Where the authority stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) trust_domain: String,
    /// Where the state is kept.
    pub(super) kept: String,
    /// How often it has changed.
    pub(super) generation: u64,
    /// Whether the process that answered is the one that writes.
    pub(super) leads: bool,
    /// What is wrong with what is kept.
    pub(super) problem: Option<String>,
    pub(super) leaf_lifetime_seconds: u64,
    pub(super) certificates: Vec<Certificate>,
    pub(super) rotation: Option<Rotation>,
}

/// A root or an issuer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificate {
    pub(super) kind: String,
    /// `signs`, `comes` or `goes`.
    pub(super) state: String,
    pub(super) fingerprint: String,
    pub(super) not_after: u64,
    pub(super) rotates_at: Option<u64>,
}

/// A rotation under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rotation {
    pub(super) kind: String,
    pub(super) phase: String,
    pub(super) since: u64,
    /// What comes next: `sign` or `retire`.
    pub(super) next: String,
    pub(super) at_the_latest: u64,
    pub(super) waiting_for: Waiting,
}

/// Whom it waits for, beside the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Waiting {
    pub(super) bundle: bool,
    pub(super) replicas: Vec<String>,
    pub(super) sidecars: u32,
    pub(super) sidecar_names: Vec<String>,
}
