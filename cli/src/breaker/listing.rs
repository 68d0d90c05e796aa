//! Sidecars' breakers, in one list.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::edges::seen::Replica;
use crate::order::{Missing, Told};

/// The breakers of all sidecars that answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listing {
    /// Those that are not closed first, then by workload, backend and endpoint.
    pub(super) breakers: Vec<Breaker>,
    /// Sidecars that answered.
    pub(super) sidecars: usize,
    /// Those that did not.
    pub(super) failed: Vec<Failed>,
    pub(super) not_connected: Vec<Missing>,
    pub(super) replicas: Vec<Replica>,
}

/// One sidecar's breaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Breaker {
    /// Whose sidecar, as `NAMESPACE/NAME`.
    pub(super) workload: String,
    pub(super) backend: String,
    #[serde(flatten)]
    pub(super) state: Condition,
}

/// What a breaker is like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Condition {
    /// `Backend` or `Endpoint`.
    pub(super) scope: String,
    /// `None` where it is the whole backend's.
    pub(super) endpoint: Option<String>,
    /// `closed`, `open`, `half_open`, `forced_open` or `forced_closed`.
    pub(super) state: String,
    /// `circuit_breaker`, or `reconnect_backoff` where policy asks for no breaker.
    pub(super) kind: String,
    /// For how long it is so, in seconds.
    pub(super) for_seconds: f64,
    pub(super) consecutive_failures: u64,
    /// For how long it stays open, in seconds; `None` where that is not known.
    pub(super) open_for_seconds: Option<f64>,
}

/// A sidecar that did not list its breakers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) workload: String,
    pub(super) error: String,
}

/// As a sidecar answers.
#[derive(Deserialize)]
struct Payload {
    backends: Vec<Backend>,
}

#[derive(Deserialize)]
struct Backend {
    backend: String,
    breakers: Vec<Condition>,
}

impl Listing {
    /// Of all answers.
    pub(super) fn of(answers: &Told) -> Self {
        let mut listing = Self {
            not_connected: answers.not_connected.clone(),
            replicas: answers.replicas.clone(),
            ..Self::default()
        };
        for answer in &answers.answers {
            let workload = format!("{}/{}", answer.namespace, answer.name);
            let error = match (&answer.error, Payload::deserialize(&answer.payload)) {
                (None, Ok(payload)) => {
                    listing.sidecars += 1;
                    listing.add(&workload, payload);
                    continue;
                }
                (None, Err(error)) => {
                    format!("the answer is not of a sidecar that we know: {error}")
                }
                (Some(error), _) => error.clone(),
            };
            listing.failed.push(Failed { workload, error });
        }
        let key = |breaker: &Breaker| {
            let state = &breaker.state;
            let is_closed = state.state == "closed";
            let (workload, backend) = (breaker.workload.clone(), breaker.backend.clone());
            (is_closed, workload, backend, state.endpoint.clone())
        };
        listing.breakers.sort_by_cached_key(key);
        listing
    }

    fn add(&mut self, workload: &str, payload: Payload) {
        for Backend { backend, breakers } in payload.backends {
            let all = breakers.into_iter().map(|state| Breaker {
                workload: workload.to_owned(),
                backend: backend.clone(),
                state,
            });
            self.breakers.extend(all);
        }
    }

    /// Leaves out what is of other backends and endpoints.
    pub(super) fn keep(&mut self, backend: Option<&str>, endpoint: Option<SocketAddr>) {
        let endpoint = endpoint.map(|it| it.to_string());
        self.breakers.retain(|breaker| {
            backend.is_none_or(|backend| breaker.backend == backend)
                && (endpoint.is_none() || breaker.state.endpoint == endpoint)
        });
    }
}
