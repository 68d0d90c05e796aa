//! A split as it is shown.

use serde::Serialize;

/// A service's split, and what is known of its sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Canary {
    pub(super) namespace: String,
    pub(super) service: String,
    /// The port that the policy is for, by its name; all ports where there is none.
    pub(super) section: Option<String>,
    pub(super) policy: String,
    /// The file and line of the policy; nothing in a cluster.
    pub(super) place: Option<String>,
    /// What keeps users on one side, in words; nothing where chance decides each time.
    pub(super) sticky: Option<String>,
    /// `Fail` or `NextBackend`.
    pub(super) when_empty: String,
    /// The service that gets copies.
    pub(super) mirror: Option<String>,
    pub(super) backends: Vec<Side>,
    /// How many sidecars have it, as the control plane says; nothing among files, or before it has.
    pub(super) proxies: Option<Proxies>,
    /// How far it is, as the control plane says; nothing where it has not said yet.
    pub(super) programmed: Option<Programmed>,
    /// What holds the weights instead of the policy.
    pub(super) routes: Vec<String>,
}

/// One side.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Side {
    pub(super) name: String,
    pub(super) weight: u32,
    /// Whether some requests go there whatever its weight is.
    pub(super) forced: bool,
    /// What stands behind it: names, or addresses. Nothing where that is not known.
    pub(super) endpoints: Option<Vec<Endpoint>>,
}

/// What stands behind a side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Endpoint {
    pub(super) name: String,
    /// Whether it takes traffic.
    pub(super) ready: bool,
}

/// How far a policy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Programmed {
    pub(super) state: State,
    /// The control plane's own words.
    pub(super) message: String,
}

/// How far a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// Every sidecar that holds anything of it has it.
    Everywhere,
    /// No connected sidecar holds anything of it; whoever comes gets it.
    NoSidecars,
    /// Sidecars are getting it.
    OnItsWay,
    /// It is not in force, or a sidecar refuses it.
    Refused,
}

/// How many sidecars run a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Proxies {
    pub(super) acknowledged: u64,
    pub(super) total: u64,
}

impl Canary {
    pub(super) fn weights(&self) -> Vec<u32> {
        self.backends.iter().map(|side| side.weight).collect()
    }

    /// A side's share of requests that are not forced, in percent.
    pub(super) fn share(&self, side: &Side) -> f64 {
        let total: u64 = self.weights().into_iter().map(u64::from).sum();
        if total == 0 {
            return 0.0;
        }
        f64::from(side.weight) * 100.0 / total as f64
    }
}

impl Side {
    /// How many take traffic, and how many there are.
    pub(super) fn ready(&self) -> Option<(usize, usize)> {
        let endpoints = self.endpoints.as_ref()?;
        let ready = endpoints.iter().filter(|endpoint| endpoint.ready).count();
        Some((ready, endpoints.len()))
    }
}
