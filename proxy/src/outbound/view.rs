//! The outbound direction as people and metrics see it, and what people change in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::Outbound;
use super::backend::Backend;
use crate::admin::{BreakerAction, BreakerTarget};
use crate::policy::ServiceRef;
use crate::resilience::breaker::State;
use crate::resilience::group::{BreakerView, Target};
use crate::resilience::limits::{Limit, Limits};
use crate::telemetry::{Exposition, families};

impl Outbound {
    /// Every breaker, backend by backend.
    pub fn breakers_json(&self) -> Value {
        let mut backends = self.sorted_backends();
        backends.retain(|backend| {
            !backend.group.states().is_empty() || has_limits(backend.group.limits())
        });
        let entries = backends.iter().map(|backend| {
            let breakers: Vec<Value> = backend.group.states().iter().map(breaker_json).collect();
            json!({
                "backend": &*backend.label,
                "service": &*backend.owner,
                "breakers": breakers,
                "limits": limits_json(backend.group.limits()),
            })
        });
        json!({ "backends": entries.collect::<Vec<_>>() })
    }

    /// Every backend with its endpoints.
    pub fn backends_json(&self) -> Value {
        let entry = |backend: &Arc<Backend>| {
            let endpoints: Vec<Value> = backend
                .known_endpoints()
                .iter()
                .map(|endpoint| {
                    json!({
                        "address": endpoint.info().address.to_string(),
                        "workload": &*endpoint.info().workload,
                        "identity": endpoint.info().identity.as_ref().map(ToString::to_string),
                        "zone": &*endpoint.info().zone,
                        "weight": endpoint.info().weight,
                        "tls": endpoint.tls().as_str(),
                    })
                })
                .collect();
            json!({ "backend": &*backend.label, "endpoints": endpoints })
        };
        self.sorted_backends()
            .iter()
            .map(entry)
            .collect::<Vec<_>>()
            .into()
    }

    /// Does `action` on the breakers that `target` names; answers how many there were.
    pub fn act_on_breakers(&self, target: &BreakerTarget, action: BreakerAction) -> usize {
        let (service, endpoint): (Option<&ServiceRef>, Option<SocketAddr>) = match target {
            BreakerTarget::All => (None, None),
            BreakerTarget::Backend(service) => (Some(service), None),
            BreakerTarget::Endpoint(service, endpoint) => (Some(service), Some(*endpoint)),
        };
        let label = service.map(ToString::to_string);
        let now = Instant::now();
        let mut met = 0;
        for backend in self.sorted_backends() {
            if label
                .as_deref()
                .is_some_and(|label| *label != *backend.label)
            {
                continue;
            }
            let target = endpoint.map_or(Target::All, Target::Endpoint);
            let done = match action {
                BreakerAction::Auto | BreakerAction::Reset => backend.group.reset(now, target),
                BreakerAction::ForceClosed => backend.group.force_closed(now, target),
                BreakerAction::ForceOpen => backend.group.force_open(now, target),
            };
            if done {
                met += if endpoint.is_some() {
                    1
                } else {
                    backend.group.states().len()
                };
            }
        }
        met
    }

    /// Writes what breakers and endpoint sets are like.
    pub fn collect(&self, exposition: &mut Exposition) {
        for backend in self.sorted_backends() {
            let label = &*backend.label;
            let mut by_state = [0_u32; State::ALL.len()];
            for view in backend.group.states() {
                let endpoint = view.endpoint.map_or_else(String::new, |at| at.to_string());
                if view.endpoint.is_some() {
                    by_state[view.state as usize] += 1;
                }
                for state in State::ALL {
                    let labels = [
                        ("backend", label),
                        ("endpoint", &endpoint),
                        ("state", state.as_str()),
                    ];
                    let value = f64::from(u8::from(view.state == state));
                    exposition.gauge(&families::BREAKER_STATE, &labels, value);
                }
            }
            for state in State::ALL {
                let labels = [("backend", label), ("state", state.as_str())];
                exposition.gauge(
                    &families::ENDPOINTS,
                    &labels,
                    f64::from(by_state[state as usize]),
                );
            }
            for (state, count) in backend.group.transitions() {
                let labels = [("backend", label), ("to", state.as_str())];
                exposition.counter(&families::BREAKER_TRANSITIONS, &labels, count as f64);
            }
            collect_limits(&backend, exposition);
        }
    }

    /// In a stable order: several backends of one service differ by who addresses them.
    fn sorted_backends(&self) -> Vec<Arc<Backend>> {
        let mut backends = self.destinations().backends().all();
        backends.sort_by(|a, b| a.label.cmp(&b.label));
        backends
    }
}

/// What a backend's limits are like; nothing where it has none.
fn collect_limits(backend: &Backend, exposition: &mut Exposition) {
    let limits = backend.group.limits();
    if !has_limits(limits) {
        return;
    }
    let labels = [("service", &*backend.owner), ("backend", &*backend.label)];
    let (_, pending) = limits.pending();
    exposition.gauge(&families::BACKEND_PENDING, &labels, pending as f64);
    for view in limits.views() {
        let family = match view.limit {
            Limit::Requests => &families::BACKEND_REQUESTS,
            Limit::Connections => &families::BACKEND_CONNECTIONS,
        };
        exposition.gauge(family, &labels, view.held as f64);
        let [service, name] = labels;
        let labels = [service, name, ("limit", view.limit.as_str())];
        let overflows = view.overflows as f64;
        exposition.counter(&families::BACKEND_OVERFLOW, &labels, overflows);
    }
}

fn has_limits(limits: &Limits) -> bool {
    Limit::ALL.iter().any(|limit| limits.has(*limit))
}

/// `null` where there are none.
fn limits_json(limits: &Limits) -> Value {
    if !has_limits(limits) {
        return Value::Null;
    }
    let (max_pending, pending) = limits.pending();
    let caps = limits.views().map(|view| {
        json!({
            "limit": view.limit.as_str(),
            "max": view.max,
            "now": view.held,
            "waiting": view.waiting,
            "overflows": view.overflows,
        })
    });
    json!({ "maxPendingRequests": max_pending, "pendingRequests": pending, "caps": caps })
}

fn breaker_json(view: &BreakerView) -> Value {
    let now = Instant::now();
    json!({
        "scope": if view.endpoint.is_some() { "Endpoint" } else { "Backend" },
        "endpoint": view.endpoint.map(|endpoint| endpoint.to_string()),
        "state": view.state.as_str(),
        "kind": if view.reconnect { "reconnect_backoff" } else { "circuit_breaker" },
        "forSeconds": now.saturating_duration_since(view.since).as_secs_f64(),
        "consecutiveFailures": view.consecutive_failures,
        "openForSeconds": view
            .open_until
            .map(|until| until.saturating_duration_since(now).as_secs_f64()),
    })
}
