//! The permit of a try under a breaker of scope Backend.

use std::sync::Arc;
use std::time::Instant;

use super::Group;
use crate::policy::BreakerPolicy;
use crate::resilience::attempt::TryVerdict;
use crate::resilience::breaker::{Breaker, State, Transition};
use crate::resilience::health::Gate;

/// One try under a breaker of scope Backend. Dropping it without a result says nothing.
#[derive(Debug)]
pub struct BackendPermit {
    group: Arc<Group>,
    gate: Gate,
    probe: bool,
    observed: bool,
}

impl BackendPermit {
    pub(super) fn new(group: Arc<Group>, gate: Gate, probe: bool) -> Self {
        Self {
            group,
            gate,
            probe,
            observed: false,
        }
    }

    /// Whether this is a probe.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// The try's result. Counts once.
    pub fn observe(
        &mut self,
        now: Instant,
        verdict: TryVerdict,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        if std::mem::replace(&mut self.observed, true) {
            return None;
        }
        let group = &self.group;
        let settings = group.settings.load();
        let policy = settings.backend()?;
        if self.probe {
            let mut slow = group.slow.lock();
            let generation = self.gate.generation();
            let transition = slow
                .backend
                .finish_probe(generation, now, verdict, policy, rng);
            return self.publish(&slow.backend, transition, policy);
        }
        if verdict == TryVerdict::Neutral
            || self.gate.state() != State::Closed
            || self.gate != group.backend.gate()
        {
            return None;
        }
        let tripwire = &group.backend.tripwire;
        if !tripwire.record(group.nanos(now), verdict.is_failure(), policy) {
            return None;
        }
        let mut slow = group.slow.lock();
        if slow.backend.generation() != self.gate.generation() {
            return None;
        }
        let transition = slow.backend.trip(now, policy, rng);
        self.publish(&slow.backend, transition, policy)
    }

    fn publish(
        &self,
        breaker: &Breaker,
        transition: Option<Transition>,
        policy: &BreakerPolicy,
    ) -> Option<Transition> {
        if transition.is_some() {
            self.group.backend.tripwire.reset();
        }
        self.group.count(transition);
        self.group.publish_backend(breaker, policy);
        transition
    }
}

impl Drop for BackendPermit {
    fn drop(&mut self) {
        if !self.probe || self.observed {
            return;
        }
        let settings = self.group.settings.load();
        let Some(policy) = settings.backend() else {
            return;
        };
        let mut slow = self.group.slow.lock();
        slow.backend.release_probe(self.gate.generation());
        self.group.publish_backend(&slow.backend, policy);
    }
}
