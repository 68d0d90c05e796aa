//! Which pods get a sidecar, and what is added to them.
//!
//! Everything here is pure: pods are JSON as it came, of which nothing is read that does not matter
//! and nothing changed that is not ours, so that fields of newer Kubernetes versions survive. The
//! admission webhook that will answer an API server with it is not there yet; `weft inject` uses it
//! on manifests.
//!
//! Data flows downhill: a module uses only what stands below it in this list.
//!
//! * [`inject`]: one pod in, a patch or a reason out.
//! * [`workload`]: where in an object its pods are.
//! * [`patch`]: what is added.
//! * [`decide`]: whether anything is.
//! * [`annotations`]: what a namespace and a pod say about their sidecars.
//! * [`settings`]: what holds for all pods.
//! * [`values`]: images, quantities, times and ports as text.
//! * [`rbac`]: what the webhook may do in a cluster.
//! * [`json`]: looking into pods.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod decide;
pub mod inject;
mod json;
pub mod patch;
pub mod rbac;
pub mod settings;
pub mod values;
pub mod workload;

use std::fmt;

/// Why a pod cannot have a sidecar as it is, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// What is wrong, with the place and the value.
    pub reason: String,
    /// What to do.
    pub mend: String,
}

impl Refusal {
    /// Of both halves.
    pub fn new(reason: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            mend: mend.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.mend)
    }
}
