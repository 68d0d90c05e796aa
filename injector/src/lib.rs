//! Which pods get a sidecar, what is added to them, and the admission webhook that does it.
//!
//! What becomes of a pod is pure: pods are JSON as it came, of which nothing is read that does not matter
//! and nothing changed that is not ours, so that fields of newer Kubernetes versions survive. The webhook
//! answers an API server with it, and `weft inject` uses the same on manifests.
//!
//! Data flows downhill: a module uses only what stands below it in this list.
//!
//! * [`app`]: the program `weft-injector`.
//! * [`serve`]: HTTPS, and [`admin`]: health and metrics.
//! * [`watch`]: what the cluster says.
//! * [`certificate`]: what is served with, and whether the API server trusts it.
//! * [`admission`]: a review in, an answer out.
//! * [`events`]: what the owners of pods are told.
//! * [`metrics`]: what is counted.
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

pub mod admin;
pub mod admission;
pub mod annotations;
pub mod app;
pub mod certificate;
pub mod decide;
pub mod events;
pub mod inject;
mod json;
pub mod metrics;
pub mod patch;
pub mod rbac;
pub mod serve;
pub mod settings;
pub mod values;
pub mod watch;
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
