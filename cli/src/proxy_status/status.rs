//! The control plane's answer.

use serde::{Deserialize, Serialize};

/// What is younger is on its way.
const ON_ITS_WAY_SECONDS: f64 = 2.0;

/// What the control plane says of its sidecars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// Revision of the model that the asked replica serves.
    pub(super) model_revision: Option<u64>,
    /// The replicas of the control plane, the asked one first.
    pub(super) replicas: Vec<Replica>,
    /// The connected sidecars, by name.
    pub(super) proxies: Vec<Proxy>,
    /// Workloads that are to have a sidecar, which is not connected; `None` where nobody knows.
    pub(super) not_connected: Option<Vec<Workload>>,
}

/// A replica of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replica {
    pub(super) name: String,
    /// `None` for the asked one.
    pub(super) address: Option<String>,
    pub(super) model_revision: Option<u64>,
    /// Why its sidecars are not known.
    pub(super) error: Option<String>,
}

/// A connected sidecar. Ages are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proxy {
    pub(super) replica: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
    pub(super) zone: String,
    #[serde(rename = "proxyVersion")]
    pub(super) version: String,
    pub(super) connected_seconds: Option<f64>,
    /// Resources that it is subscribed to.
    pub(super) resources: u32,
    /// How many of them it has not confirmed at the newest version.
    pub(super) behind: u32,
    pub(super) behind_seconds: Option<f64>,
    /// The newest revision that it confirmed anything of.
    pub(super) source_revision: u64,
    pub(super) updated_seconds: Option<f64>,
    pub(super) refused: Vec<Refused>,
}

/// A resource whose newest version a sidecar refuses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) resource: String,
    pub(super) reason: String,
}

/// A workload by its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Workload {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Status {
    /// Leaves out what is of other namespaces.
    pub(super) fn keep(&mut self, namespace: &str) {
        self.proxies.retain(|proxy| proxy.namespace == namespace);
        if let Some(missing) = &mut self.not_connected {
            missing.retain(|workload| workload.namespace == namespace);
        }
    }

    /// Whether everybody is connected and runs the newest.
    pub(super) fn is_in_step(&self) -> bool {
        let nobody_missing = self.not_connected.as_ref().is_some_and(Vec::is_empty);
        nobody_missing && self.proxies.iter().all(Proxy::is_in_step)
    }
}

impl Proxy {
    /// Whether it confirmed everything but what is on its way.
    pub(super) fn is_in_step(&self) -> bool {
        let is_on_its_way = |age: f64| age < ON_ITS_WAY_SECONDS;
        self.refused.is_empty()
            && (self.behind == 0 || self.behind_seconds.is_some_and(is_on_its_way))
    }
}
