//! One endpoint's health as this sidecar sees it: latency, load and breaker.
//!
//! It is shared by all workers, and belongs to the endpoint's address: it outlives changes of policy
//! and of the endpoint set for as long as the address stays in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::attempt::TryVerdict;
use super::breaker::{ProbeEligibility, State, Transition};
use super::group::Group;
use super::tripwire::Tripwire;

/// After this time without a result an old latency weighs 1/e.
pub const EWMA_DECAY: Duration = Duration::from_secs(10);
/// A failed try counts as one that took at least this long, so that fast errors attract nothing.
pub const FAILED_TRY_LATENCY: Duration = Duration::from_secs(1);

const STATE_BITS: u32 = 3;

/// What the fast path reads of a breaker, whose own state is behind the group's lock.
#[derive(Debug)]
pub(super) struct Circuit {
    /// Generation and state.
    gate: AtomicU64,
    /// From when on a repeatable request may probe, in the group's nanoseconds.
    pub(super) probe_at: AtomicU64,
    /// From when on any request may.
    pub(super) late_at: AtomicU64,
    pub(super) tripwire: Tripwire,
}

impl Circuit {
    pub(super) fn new() -> Self {
        Self {
            gate: AtomicU64::new(0),
            probe_at: AtomicU64::new(u64::MAX),
            late_at: AtomicU64::new(u64::MAX),
            tripwire: Tripwire::default(),
        }
    }

    pub(super) fn gate(&self) -> Gate {
        Gate(self.gate.load(Ordering::Acquire))
    }

    pub(super) fn set_gate(&self, generation: u64, state: State) {
        self.gate
            .store(Gate::new(generation, state).0, Ordering::Release);
    }
}

/// A generation and a state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gate(u64);

impl Gate {
    pub(super) fn new(generation: u64, state: State) -> Self {
        Self(generation << STATE_BITS | state as u64)
    }

    pub(super) fn state(self) -> State {
        State::ALL[(self.0 & ((1 << STATE_BITS) - 1)) as usize]
    }

    pub(super) fn generation(self) -> u64 {
        self.0 >> STATE_BITS
    }
}

/// One endpoint's health.
#[derive(Debug)]
pub struct EndpointHealth {
    pub(super) group: Arc<Group>,
    pub(super) address: SocketAddr,
    /// Tells a removed endpoint from a later one with its address.
    pub(super) id: u64,
    pub(super) circuit: Circuit,
    /// When it came to others that were there already.
    pub(super) arrived: Option<Instant>,
    in_flight: AtomicU32,
    latency: PeakEwma,
}

impl EndpointHealth {
    pub(super) fn new(
        group: Arc<Group>,
        address: SocketAddr,
        id: u64,
        arrived: Option<Instant>,
    ) -> Self {
        Self {
            arrived,
            group,
            address,
            id,
            circuit: Circuit::new(),
            in_flight: AtomicU32::new(0),
            latency: PeakEwma::default(),
        }
    }

    /// Where the endpoint is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its breaker's state.
    pub fn state(&self) -> State {
        self.circuit.gate().state()
    }

    /// Tries in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Peak EWMA of the latency at `now`, in microseconds; `None` before the first result.
    pub fn latency_micros(&self, now: Instant) -> Option<f32> {
        self.latency.at(self.group.millis(now))
    }

    /// Failures in a row; meaningful while the breaker is closed.
    pub fn consecutive_failures(&self) -> u32 {
        self.circuit.tripwire.consecutive()
    }

    /// Begins a try on this endpoint whatever its breaker says: where there is no choice.
    pub fn admit(self: &Arc<Self>) -> Permit {
        Permit::new(self.clone(), self.circuit.gate(), false)
    }

    /// Whether a probe could be due at `now` (the group's nanoseconds); the lock decides.
    pub(super) fn is_probe_due(&self, now: u64, eligibility: ProbeEligibility) -> bool {
        let at = match eligibility {
            ProbeEligibility::No => return false,
            ProbeEligibility::Yes => &self.circuit.probe_at,
            ProbeEligibility::Late => &self.circuit.late_at,
        };
        at.load(Ordering::Relaxed) <= now
    }

    pub(super) fn try_probe(
        self: &Arc<Self>,
        now: Instant,
        eligibility: ProbeEligibility,
    ) -> Option<Permit> {
        let gate = self.group.start_probe(self, now, eligibility)?;
        Some(Permit::new(self.clone(), gate, true))
    }
}

/// One try on one endpoint. Dropping it ends the try; without a result, it says nothing.
#[derive(Debug)]
pub struct Permit {
    health: Arc<EndpointHealth>,
    gate: Gate,
    probe: bool,
    measured: bool,
    observed: bool,
}

impl Permit {
    fn new(health: Arc<EndpointHealth>, gate: Gate, probe: bool) -> Self {
        health.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            health,
            gate,
            probe,
            measured: false,
            observed: false,
        }
    }

    /// The endpoint.
    pub fn health(&self) -> &Arc<EndpointHealth> {
        &self.health
    }

    /// Whether this is a breaker's probe.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// The response head came, `latency` after the endpoint was picked: for exchanges whose verdict
    /// comes with the trailers. Counts once; a later [`Self::observe`] adds only its verdict.
    pub fn head_received(&mut self, now: Instant, latency: Duration) {
        if !self.measured && !self.observed {
            self.measured = true;
            self.measure(now, latency);
        }
    }

    /// The try's result, `latency` after the endpoint was picked. Counts once. The try stays in
    /// flight until the permit is dropped, for a response whose body is still to come.
    pub fn observe(
        &mut self,
        now: Instant,
        latency: Duration,
        verdict: TryVerdict,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        if std::mem::replace(&mut self.observed, true) {
            return None;
        }
        match verdict {
            TryVerdict::Neutral => {}
            TryVerdict::Success if self.measured => {}
            TryVerdict::Success => self.measure(now, latency),
            TryVerdict::ConnectFailed | TryVerdict::Failure => {
                // Nor does a failure make an endpoint look faster than it was.
                let known = self.health.latency_micros(now).unwrap_or_default();
                let known = Duration::from_secs_f32(known / 1e6);
                self.measure(now, latency.max(FAILED_TRY_LATENCY).max(known));
            }
        }
        let group = &self.health.group;
        if self.probe {
            return group.finish_probe(&self.health, self.gate, now, verdict, rng);
        }
        group.record(&self.health, self.gate, now, verdict, rng)
    }

    /// [`Self::observe`], and the end of the try.
    pub fn finish(
        mut self,
        now: Instant,
        latency: Duration,
        verdict: TryVerdict,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        self.observe(now, latency, verdict, rng)
    }

    fn measure(&self, now: Instant, latency: Duration) {
        let health = &self.health;
        health
            .latency
            .record(health.group.millis(now), latency.as_secs_f32() * 1e6);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.health.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.probe && !self.observed {
            self.health.group.release_probe(&self.health, self.gate);
        }
    }
}

/// Peak EWMA: rises at once, falls with time.
///
/// One word holds the value (microseconds, `f32`) and when it was taken (milliseconds, wrapping
/// after 49 days); 0 is "never measured".
#[derive(Debug, Default)]
pub(super) struct PeakEwma(AtomicU64);

impl PeakEwma {
    /// The value at `now`: with no new result it decays, so that a slow endpoint is asked again.
    pub(super) fn at(&self, now: u32) -> Option<f32> {
        let packed = self.0.load(Ordering::Relaxed);
        if packed == 0 {
            return None;
        }
        let (value, stamp) = unpack(packed);
        Some(value * weight(stamp, now))
    }

    pub(super) fn record(&self, now: u32, micros: f32) {
        // At least 1, so that the word is never 0.
        let micros = micros.max(1.0);
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
                if packed == 0 {
                    return Some(pack(micros, now));
                }
                let (value, stamp) = unpack(packed);
                if micros >= value {
                    return Some(pack(micros, now));
                }
                // Within a millisecond a result weighs nothing.
                let old = weight(stamp, now);
                (old < 1.0).then(|| pack(value * old + micros * (1.0 - old), now))
            });
    }
}

fn pack(value: f32, stamp: u32) -> u64 {
    u64::from(value.to_bits()) << 32 | u64::from(stamp)
}

fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}

/// What an old value weighs. A stamp from the future, of another thread, is taken as now.
fn weight(stamp: u32, now: u32) -> f32 {
    let age = now.wrapping_sub(stamp);
    if age > u32::MAX / 2 {
        return 1.0;
    }
    (-(age as f32) / EWMA_DECAY.as_millis() as f32).exp()
}
