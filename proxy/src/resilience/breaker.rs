//! One breaker: closed, open, half-open; forced open and closed by people.
//!
//! A plain state machine. While it is closed a [`super::tripwire::Tripwire`] counts; whoever sees it
//! trip calls [`Breaker::trip`]. Every change of state begins a new generation, and results that
//! carry an old one change nothing: a slow try that began before a breaker opened cannot close it.
//!
//! Open lasts `open_duration`, doubled per failed probe up to `max_open_duration`, plus up to a tenth
//! of jitter. Then a probe may go through: one that can be repeated elsewhere at once, any other
//! after a further `open_duration` and only alone, so that a request that cannot be repeated pays for
//! at most one probe per open period.

use std::time::{Duration, Instant};

use super::attempt::TryVerdict;
use crate::policy::BreakerPolicy;

/// Jitter is at most this part of the open period.
const JITTER_DIVISOR: u32 = 10;

/// A breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Requests pass and are counted.
    Closed,
    /// No request passes.
    Open,
    /// Probes pass.
    HalfOpen,
    /// People said so: nothing passes.
    ForcedOpen,
    /// People said so: everything passes, nothing is counted.
    ForcedClosed,
}

impl State {
    /// Every state, in the order of the enum.
    pub const ALL: [Self; 5] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::ForcedClosed,
    ];

    /// The word in metrics and on the admin endpoint.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }

    /// Whether every request passes.
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::Closed | Self::ForcedClosed)
    }

    /// Whether failures put it here.
    pub const fn is_ejected(self) -> bool {
        matches!(self, Self::Open | Self::HalfOpen)
    }
}

/// Which probes a request may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeEligibility {
    /// None: it has been a probe already.
    No,
    /// Replayable and idempotent: as soon as the open period is over.
    Yes,
    /// Any other: after a further `open_duration`, and alone.
    Late,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    generation: u64,
    since: Instant,
    /// The open period in force, without its jitter.
    period: Duration,
    open_until: Instant,
    /// From when on any request may probe.
    late_at: Instant,
    probes: u32,
    successes: u32,
}

impl Breaker {
    /// A closed one.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Closed,
            generation: 0,
            since: now,
            period: Duration::ZERO,
            open_until: now,
            late_at: now,
            probes: 0,
            successes: 0,
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Counts changes of state.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When it came to its state.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When its open period ends or ended; `None` unless failures opened it.
    pub fn open_until(&self) -> Option<Instant> {
        self.state.is_ejected().then_some(self.open_until)
    }

    /// From when on a request of this eligibility may probe; `None`: not before something changes.
    pub fn probe_at(
        &self,
        eligibility: ProbeEligibility,
        policy: &BreakerPolicy,
    ) -> Option<Instant> {
        if !self.state.is_ejected() {
            return None;
        }
        match eligibility {
            ProbeEligibility::No => None,
            ProbeEligibility::Yes => {
                (self.probes < policy.half_open_max_requests.max(1)).then_some(self.open_until)
            }
            ProbeEligibility::Late => (self.probes == 0).then_some(self.late_at),
        }
    }

    /// Opens a closed one. `None` when it is not closed (another was faster, or people forced it).
    pub fn trip(
        &mut self,
        now: Instant,
        policy: &BreakerPolicy,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        if self.state != State::Closed {
            return None;
        }
        Some(self.open(now, policy.open_duration, policy, rng))
    }

    /// Takes a place for a probe; `true` when there is one. It is given back by
    /// [`Self::finish_probe`] with the generation that holds after this call.
    pub fn start_probe(
        &mut self,
        now: Instant,
        eligibility: ProbeEligibility,
        policy: &BreakerPolicy,
    ) -> (bool, Option<Transition>) {
        if self.probe_at(eligibility, policy).is_none_or(|at| at > now) {
            return (false, None);
        }
        let transition = (self.state == State::Open).then(|| self.enter(State::HalfOpen, now));
        self.probes += 1;
        (true, transition)
    }

    /// Gives a probe's place back, with its result.
    pub fn finish_probe(
        &mut self,
        generation: u64,
        now: Instant,
        verdict: TryVerdict,
        policy: &BreakerPolicy,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        if generation != self.generation || self.state != State::HalfOpen {
            return None;
        }
        self.probes = self.probes.saturating_sub(1);
        match verdict {
            TryVerdict::Neutral => None,
            TryVerdict::ConnectFailed | TryVerdict::Failure => {
                let period = self
                    .period
                    .saturating_mul(2)
                    .min(policy.max_open_duration)
                    .max(policy.open_duration);
                Some(self.open(now, period, policy, rng))
            }
            TryVerdict::Success => {
                self.successes += 1;
                (self.successes >= policy.half_open_success_threshold)
                    .then(|| self.enter(State::Closed, now))
            }
        }
    }

    /// Gives a probe's place back without a result.
    pub fn release_probe(&mut self, generation: u64) {
        if generation == self.generation && self.state == State::HalfOpen {
            self.probes = self.probes.saturating_sub(1);
        }
    }

    /// Goes to `state`, which people ask for; [`State::Closed`] resets it. `None` when it is there.
    /// [`State::Open`] and [`State::HalfOpen`] are for failures to reach and change nothing.
    pub fn force(&mut self, state: State, now: Instant) -> Option<Transition> {
        (self.state != state && !state.is_ejected()).then(|| self.enter(state, now))
    }

    fn open(
        &mut self,
        now: Instant,
        period: Duration,
        policy: &BreakerPolicy,
        rng: &mut fastrand::Rng,
    ) -> Transition {
        let bound = u64::try_from((period / JITTER_DIVISOR).as_nanos()).unwrap_or(u64::MAX);
        let jitter = Duration::from_nanos(rng.u64(0..=bound));
        self.period = period;
        self.open_until = now + period + jitter;
        self.late_at = self.open_until + policy.open_duration;
        self.enter(State::Open, now)
    }

    fn enter(&mut self, to: State, now: Instant) -> Transition {
        let from = std::mem::replace(&mut self.state, to);
        self.generation += 1;
        self.since = now;
        self.probes = 0;
        self.successes = 0;
        Transition { from, to }
    }
}
