//! A backend's endpoints, their breakers and the cap on ejections.
//!
//! Every change of a breaker's state happens under one lock per group, so that the cap holds for
//! trips at the same instant; the lock is held over nothing else, and what requests read while all
//! is well are atomics, which each change publishes.
//!
//! * At most `max_ejection_percent` of the endpoints are ejected (open or half-open) at once, but one
//!   may be when there are two or more, and the last never is. What people forced open counts. When
//!   the set shrinks below what the cap allows, those whose open period ends first are closed again.
//! * Where no breaker of scope Endpoint is set, one that only sees connections takes its place: the
//!   reconnect backoff of [`RECONNECT_MIN`] to [`RECONNECT_MAX`].
//! * A stanza without a trigger is no breaker: its limits hold, and nothing else changes. Nor does a
//!   change of limits reset a breaker.

mod members;
mod permit;
mod settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::attempt::TryVerdict;
use super::breaker::{Breaker, ProbeEligibility, State, Transition};
use super::health::{Circuit, EndpointHealth, Gate};
use super::limits::Limits;
use crate::policy::{Balancer, BreakerPolicy, EndpointInfo};
use members::{Member, Slow};
use settings::RECONNECT;

pub use members::ejection_cap;
pub use permit::BackendPermit;
pub(super) use settings::Settings;
pub use settings::{RECONNECT_MAX, RECONNECT_MIN};

/// One backend as this sidecar sees it.
#[derive(Debug)]
pub struct Group {
    epoch: Instant,
    pub(super) settings: ArcSwap<Settings>,
    /// Endpoints that do not take every request.
    pub(super) away: AtomicUsize,
    /// When the next probe is due: for repeatable requests, and for others.
    next_probe: AtomicU64,
    next_late: AtomicU64,
    /// Round robin, for each side of the layout.
    pub(super) cursors: [AtomicUsize; 2],
    /// Until when some endpoint has less than its weight; 0 where none has.
    ramp_until: AtomicU64,
    pub(super) max_weight: AtomicU32,
    pub(super) uniform: AtomicBool,
    transitions: [AtomicU64; State::ALL.len()],
    /// Scope Backend.
    backend: Circuit,
    limits: Arc<Limits>,
    slow: Mutex<Slow>,
}

/// What people act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every breaker of the backend.
    All,
    /// The backend's own.
    Backend,
    /// One endpoint's.
    Endpoint(SocketAddr),
}

/// One breaker for people and metrics.
#[derive(Clone, Debug)]
pub struct BreakerView {
    /// Whose; `None` is the backend's own.
    pub endpoint: Option<SocketAddr>,
    /// Its state.
    pub state: State,
    /// Whether this is the reconnect backoff and no breaker of policy's.
    pub reconnect: bool,
    /// When it came to its state.
    pub since: Instant,
    /// Failures in a row, while closed.
    pub consecutive_failures: u32,
    /// When its open period ends.
    pub open_until: Option<Instant>,
}

/// Fail fast: the backend's breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backend's breaker is open")]
pub struct CircuitOpen;

impl Group {
    /// A backend without endpoints.
    pub fn new(
        now: Instant,
        breaker: Option<BreakerPolicy>,
        balancer: impl Into<Balancer>,
    ) -> Arc<Self> {
        let limits = breaker.as_ref().and_then(|policy| policy.limits.as_ref());
        Arc::new(Self {
            epoch: now,
            limits: Limits::new(limits),
            settings: ArcSwap::from_pointee(Settings::new(breaker, balancer.into())),
            away: AtomicUsize::new(0),
            next_probe: AtomicU64::new(u64::MAX),
            next_late: AtomicU64::new(u64::MAX),
            cursors: Default::default(),
            ramp_until: AtomicU64::new(0),
            max_weight: AtomicU32::new(1),
            uniform: AtomicBool::new(true),
            transitions: Default::default(),
            backend: Circuit::new(),
            slow: Mutex::new(Slow::new(now)),
        })
    }

    /// Takes a new policy. An equal breaker stanza keeps all state; a changed one resets the
    /// breakers, but not what people forced.
    pub fn set_policy(
        &self,
        now: Instant,
        breaker: Option<BreakerPolicy>,
        balancer: impl Into<Balancer>,
    ) {
        let limits = breaker.as_ref().and_then(|policy| policy.limits.as_ref());
        self.limits.set(limits);
        let settings = Settings::new(breaker, balancer.into());
        let mut slow = self.slow.lock();
        let changed = self.settings.load().given != settings.given;
        self.settings.store(Arc::new(settings));
        self.publish_ramp(&slow);
        if !changed {
            return;
        }
        for member in slow.members.values_mut() {
            reset_unforced(&mut member.breaker, now);
            member.count_anew();
        }
        reset_unforced(&mut slow.backend, now);
        self.backend.tripwire.reset();
        self.publish(&mut slow);
    }

    /// Takes a new endpoint set and answers with the health of each, in the order given. An address
    /// that was there keeps its own for as long as the caller has kept it. One that comes to others
    /// which stay starts slowly, where policy says so; where all are new, none does.
    pub fn set_endpoints(
        self: &Arc<Self>,
        now: Instant,
        endpoints: &[EndpointInfo],
    ) -> Vec<Arc<EndpointHealth>> {
        let mut slow = self.slow.lock();
        let mut before = std::mem::take(&mut slow.members);
        let stays = |endpoint: &EndpointInfo| {
            let member = before.get(&endpoint.address);
            member.is_some_and(|member| member.health.strong_count() > 0)
        };
        let arrived = endpoints.iter().any(stays).then_some(now);
        let mut healths = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let address = endpoint.address;
            if let Some(twin) = slow.members.get(&address).and_then(|m| m.health.upgrade()) {
                healths.push(twin);
                continue;
            }
            let kept = before
                .remove(&address)
                .and_then(|member| Some((member.health.upgrade()?, member)));
            let (health, member) = kept.unwrap_or_else(|| {
                slow.next_id += 1;
                let health = Arc::new(EndpointHealth::new(
                    self.clone(),
                    address,
                    slow.next_id,
                    arrived,
                ));
                let member = Member {
                    id: slow.next_id,
                    health: Arc::downgrade(&health),
                    breaker: Breaker::new(now),
                };
                (health, member)
            });
            slow.members.insert(address, member);
            healths.push(health);
        }
        self.set_weights(endpoints);
        self.publish_ramp(&slow);
        self.uneject(&mut slow, now);
        healths
    }

    /// Asks the breaker of scope Backend to let a try pass. Without one it always does.
    pub fn enter(self: &Arc<Self>, now: Instant) -> Result<BackendPermit, CircuitOpen> {
        let gate = self.backend.gate();
        if gate.state().is_passing() {
            return Ok(BackendPermit::new(self.clone(), gate, false));
        }
        // Whether a request could be repeated makes no difference: there is nowhere else to go.
        if self.backend.probe_at.load(Ordering::Relaxed) > self.nanos(now) {
            return Err(CircuitOpen);
        }
        let settings = self.settings.load();
        let policy = settings.backend().ok_or(CircuitOpen)?;
        let mut slow = self.slow.lock();
        let (started, transition) = slow.backend.start_probe(now, ProbeEligibility::Yes, policy);
        self.count(transition);
        self.publish_backend(&slow.backend, policy);
        if !started {
            return Err(CircuitOpen);
        }
        let gate = Gate::new(slow.backend.generation(), State::HalfOpen);
        Ok(BackendPermit::new(self.clone(), gate, true))
    }

    /// Whether [`enter`](Self::enter) would say no now. Changes nothing.
    pub fn is_refusing(&self, now: Instant) -> bool {
        !self.backend.gate().state().is_passing()
            && self.backend.probe_at.load(Ordering::Relaxed) > self.nanos(now)
    }

    /// The concurrency caps.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Resets to closed, and begins counting anew; forced states end too. `false` when there is no
    /// such endpoint.
    pub fn reset(&self, now: Instant, target: Target) -> bool {
        self.force(now, target, State::Closed)
    }

    /// Nothing passes until somebody resets it.
    pub fn force_open(&self, now: Instant, target: Target) -> bool {
        self.force(now, target, State::ForcedOpen)
    }

    /// Everything passes until somebody resets it.
    pub fn force_closed(&self, now: Instant, target: Target) -> bool {
        self.force(now, target, State::ForcedClosed)
    }

    /// Every breaker: the backend's own where policy or people gave it one, then the endpoints' by
    /// address.
    pub fn states(&self) -> Vec<BreakerView> {
        let settings = self.settings.load();
        let slow = self.slow.lock();
        let has_backend = settings.backend().is_some() || slow.backend.state() != State::Closed;
        let backend = has_backend.then(|| BreakerView {
            endpoint: None,
            state: slow.backend.state(),
            reconnect: false,
            since: slow.backend.since(),
            consecutive_failures: self.backend.tripwire.consecutive(),
            open_until: slow.backend.open_until(),
        });
        let endpoints = slow.members.iter().map(|(address, member)| BreakerView {
            endpoint: Some(*address),
            state: member.breaker.state(),
            reconnect: settings.reconnect,
            since: member.breaker.since(),
            consecutive_failures: member
                .health
                .upgrade()
                .map_or(0, |health| health.consecutive_failures()),
            open_until: member.breaker.open_until(),
        });
        backend.into_iter().chain(endpoints).collect()
    }

    /// How often a breaker of this group came to each state, in the order of [`State::ALL`]; the
    /// reconnect backoff included. Removed endpoints stay counted.
    pub fn transitions(&self) -> [(State, u64); State::ALL.len()] {
        State::ALL.map(|state| {
            let count = self.transitions[state as usize].load(Ordering::Relaxed);
            (state, count)
        })
    }

    /// Endpoints that do not take every request at the moment.
    pub fn away(&self) -> usize {
        self.away.load(Ordering::Relaxed)
    }

    /// Over what time newcomers start, while there is one that has not its whole weight yet.
    pub(super) fn ramp(&self, now: Instant) -> Option<Duration> {
        let until = self.ramp_until.load(Ordering::Relaxed);
        if until == 0 || self.nanos(now) >= until {
            return None;
        }
        self.settings.load().balancer.slow_start
    }

    pub(super) fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_millis() as u32
    }

    /// Whether some endpoint may be due for a probe.
    pub(super) fn is_probe_due(&self, now: u64, eligibility: ProbeEligibility) -> bool {
        let next = match eligibility {
            ProbeEligibility::No => return false,
            ProbeEligibility::Yes => &self.next_probe,
            ProbeEligibility::Late => &self.next_late,
        };
        next.load(Ordering::Relaxed) <= now
    }

    pub(super) fn start_probe(
        &self,
        health: &EndpointHealth,
        now: Instant,
        eligibility: ProbeEligibility,
    ) -> Option<Gate> {
        let settings = self.settings.load();
        let mut slow = self.slow.lock();
        let member = slow.member(health)?;
        let (started, transition) =
            member
                .breaker
                .start_probe(now, eligibility, &settings.endpoint);
        let gate = Gate::new(member.breaker.generation(), member.breaker.state());
        self.count(transition);
        self.publish(&mut slow);
        started.then_some(gate)
    }

    pub(super) fn finish_probe(
        &self,
        health: &EndpointHealth,
        gate: Gate,
        now: Instant,
        verdict: TryVerdict,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        let settings = self.settings.load();
        let verdict = settings.endpoint_verdict(verdict);
        let mut slow = self.slow.lock();
        let transition = slow.member(health)?.breaker.finish_probe(
            gate.generation(),
            now,
            verdict,
            &settings.endpoint,
            rng,
        );
        if transition.is_some() {
            health.circuit.tripwire.reset();
        }
        self.count(transition);
        self.publish(&mut slow);
        transition
    }

    pub(super) fn release_probe(&self, health: &EndpointHealth, gate: Gate) {
        let mut slow = self.slow.lock();
        if let Some(member) = slow.member(health) {
            member.breaker.release_probe(gate.generation());
            self.publish(&mut slow);
        }
    }

    /// Counts the result of a try that was no probe.
    pub(super) fn record(
        &self,
        health: &EndpointHealth,
        gate: Gate,
        now: Instant,
        verdict: TryVerdict,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        // Results of an earlier life of the breaker say nothing about this one.
        if gate.state() != State::Closed || gate != health.circuit.gate() {
            return None;
        }
        let settings = self.settings.load();
        let failed = match settings.endpoint_verdict(verdict) {
            TryVerdict::Neutral => return None,
            verdict => verdict.is_failure(),
        };
        let policy = &settings.endpoint;
        let tripwire = &health.circuit.tripwire;
        if !tripwire.record(self.nanos(now), failed, policy) {
            return None;
        }

        let mut slow = self.slow.lock();
        let room = slow.room(policy);
        let ejected = slow.ejected;
        let member = slow.member(health)?;
        if ejected >= room || member.breaker.generation() != gate.generation() {
            return None;
        }
        let transition = member.breaker.trip(now, policy, rng);
        self.count(transition);
        self.publish(&mut slow);
        transition
    }

    fn force(&self, now: Instant, target: Target, state: State) -> bool {
        let mut slow = self.slow.lock();
        let mut found = false;
        for (address, member) in &mut slow.members {
            if target != Target::All && target != Target::Endpoint(*address) {
                continue;
            }
            found = true;
            self.count(member.breaker.force(state, now));
            member.count_anew();
        }
        // Forcing everything open stops the endpoints; the backend's own would only hide them. Forced
        // closed it has to be too, where policy gave it one that could open.
        let its_own = match state {
            State::Closed => true,
            State::ForcedClosed => self.settings.load().backend().is_some(),
            _ => false,
        };
        if target == Target::Backend || target == Target::All && its_own {
            found = true;
            self.count(slow.backend.force(state, now));
            self.backend.tripwire.reset();
        }
        self.uneject(&mut slow, now);
        found || target == Target::All
    }

    /// Says until when somebody starts slowly.
    fn publish_ramp(&self, slow: &Slow) {
        let over = self.settings.load().balancer.slow_start;
        let healths = slow.members.values();
        let arrivals = healths.filter_map(|member| member.health.upgrade()?.arrived);
        let until = over
            .zip(arrivals.max())
            .and_then(|(over, last)| last.checked_add(over));
        let until = until.map_or(0, |until| self.nanos(until));
        self.ramp_until.store(until, Ordering::Relaxed);
    }

    /// Closes what the cap no longer allows to be ejected, and publishes.
    fn uneject(&self, slow: &mut Slow, now: Instant) {
        let settings = self.settings.load();
        slow.recount();
        while slow.ejected > slow.room(&settings.endpoint) {
            let first = slow
                .members
                .values_mut()
                .filter(|member| member.breaker.state().is_ejected())
                .min_by_key(|member| member.breaker.open_until());
            let Some(member) = first else { break };
            self.count(member.breaker.force(State::Closed, now));
            member.count_anew();
            slow.recount();
        }
        self.publish(slow);
    }

    fn set_weights(&self, endpoints: &[EndpointInfo]) {
        let weights = || endpoints.iter().map(|endpoint| endpoint.weight.max(1));
        let max = weights().max().unwrap_or(1);
        let uniform = weights().all(|weight| weight == max);
        self.max_weight.store(max, Ordering::Relaxed);
        self.uniform.store(uniform, Ordering::Relaxed);
    }

    fn count(&self, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.transitions[transition.to as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes the atomics say what the breakers do.
    fn publish(&self, slow: &mut Slow) {
        let settings = self.settings.load();
        slow.recount();
        let (mut away, mut next_probe, mut next_late) = (0, u64::MAX, u64::MAX);
        for member in slow.members.values() {
            let Some(health) = member.health.upgrade() else {
                continue;
            };
            let due = |eligibility| {
                member
                    .breaker
                    .probe_at(eligibility, &settings.endpoint)
                    .map_or(u64::MAX, |at| self.nanos(at))
            };
            let (probe_at, late_at) = (due(ProbeEligibility::Yes), due(ProbeEligibility::Late));
            let circuit = &health.circuit;
            circuit.probe_at.store(probe_at, Ordering::Relaxed);
            circuit.late_at.store(late_at, Ordering::Relaxed);
            circuit.set_gate(member.breaker.generation(), member.breaker.state());
            away += usize::from(!member.breaker.state().is_passing());
            next_probe = next_probe.min(probe_at);
            next_late = next_late.min(late_at);
        }
        self.away.store(away, Ordering::Relaxed);
        self.next_probe.store(next_probe, Ordering::Relaxed);
        self.next_late.store(next_late, Ordering::Relaxed);
        let policy = settings.backend().unwrap_or(&RECONNECT);
        self.publish_backend(&slow.backend, policy);
    }

    fn publish_backend(&self, breaker: &Breaker, policy: &BreakerPolicy) {
        let at = breaker
            .probe_at(ProbeEligibility::Yes, policy)
            .map_or(u64::MAX, |at| self.nanos(at));
        self.backend.probe_at.store(at, Ordering::Relaxed);
        self.backend.set_gate(breaker.generation(), breaker.state());
        if !breaker.state().is_passing() {
            // Those who wait for a place wait for nothing.
            self.limits.rouse();
        }
    }
}

fn reset_unforced(breaker: &mut Breaker, now: Instant) {
    if breaker.state().is_ejected() {
        breaker.force(State::Closed, now);
    }
}
