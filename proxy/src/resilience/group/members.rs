//! The breakers of a group, and how many of them may be open.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Instant;

use crate::policy::BreakerPolicy;
use crate::resilience::breaker::{Breaker, State};
use crate::resilience::health::EndpointHealth;

/// What lies under a group's lock.
#[derive(Debug)]
pub(super) struct Slow {
    pub(super) members: BTreeMap<SocketAddr, Member>,
    pub(super) next_id: u64,
    pub(super) ejected: usize,
    pub(super) forced_open: usize,
    pub(super) backend: Breaker,
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: u64,
    pub(super) health: Weak<EndpointHealth>,
    pub(super) breaker: Breaker,
}

impl Slow {
    /// Of a group without endpoints.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            members: BTreeMap::new(),
            next_id: 0,
            ejected: 0,
            forced_open: 0,
            backend: Breaker::new(now),
        }
    }

    pub(super) fn member(&mut self, health: &EndpointHealth) -> Option<&mut Member> {
        self.members
            .get_mut(&health.address)
            .filter(|member| member.id == health.id)
    }

    /// How many may be ejected, beside what people forced open.
    pub(super) fn room(&self, policy: &BreakerPolicy) -> usize {
        ejection_cap(self.members.len(), policy.max_ejection_percent)
            .saturating_sub(self.forced_open)
    }

    pub(super) fn recount(&mut self) {
        let count = |wanted: fn(State) -> bool| {
            let states = self.members.values().map(|member| member.breaker.state());
            states.filter(|state| wanted(*state)).count()
        };
        (self.ejected, self.forced_open) = (
            count(State::is_ejected),
            count(|state| state == State::ForcedOpen),
        );
    }
}

impl Member {
    /// Forgets what was counted while the breaker was closed.
    pub(super) fn count_anew(&self) {
        if let Some(health) = self.health.upgrade() {
            health.circuit.tripwire.reset();
        }
    }
}

/// How many of `endpoints` may be ejected at once.
pub fn ejection_cap(endpoints: usize, percent: u32) -> usize {
    if endpoints < 2 {
        return 0;
    }
    (endpoints * percent as usize / 100).clamp(1, endpoints - 1)
}
