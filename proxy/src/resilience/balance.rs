//! Which endpoint a try goes to.
//!
//! While every endpoint takes requests, power of two choices looks at two of them and at nothing
//! else. Only when some are away (ejected, or forced open) are states looked at, and only when a
//! probe is due is the whole list: a due endpoint takes the next request that is eligible, rather
//! than waiting to be drawn.
//!
//! * An endpoint never measured is taken to be as fast as the one it is compared with: it gets its
//!   share, and no more than its requests in flight allow.
//! * A breaker needs evidence, but latency-aware choice hides a failing endpoint, whose failures
//!   count as slow. So while an endpoint has failed in a row, and not yet often enough to trip its
//!   breaker, a part of the requests that draw it first stays with it.
//! * Weights: where they differ, endpoints are drawn by weight, and requests in flight are compared
//!   relative to it.
//! * Somebody is always picked, unless people forced everything open: with all endpoints away, the
//!   one whose open period ends first is used ([`PickKind::LastResort`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

pub use super::breaker::ProbeEligibility;
use super::breaker::State;
use super::group::{Group, Settings};
use super::health::{EndpointHealth, Permit};
use crate::policy::BalancerPolicy;

/// Draws before the list is looked through.
const MAX_DRAWS: usize = 16;
/// One in so many requests that draw a suspect first stays with it: repeatable ones, and others.
const EVIDENCE_REPEATABLE: u32 = 2;
const EVIDENCE_OTHERS: u32 = 8;

/// What can be picked.
pub trait Candidate {
    /// Its health, of the group that [`pick`] is called with.
    fn health(&self) -> &Arc<EndpointHealth>;
    /// Its relative weight, at least 1.
    fn weight(&self) -> u32;
}

/// What a try asks for.
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'a> {
    /// The time.
    pub now: Instant,
    /// Which probes it may be.
    pub probe: ProbeEligibility,
    /// Never a probe, never a last resort: the free try after a failed probe.
    pub closed_only: bool,
    /// Positions to avoid while there is another.
    pub tried: &'a [usize],
}

/// An endpoint for a try.
#[derive(Debug)]
pub struct Pick {
    /// Its position in the candidates.
    pub index: usize,
    /// Why it.
    pub kind: PickKind,
    /// The try.
    pub permit: Permit,
}

/// Why an endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickKind {
    /// All endpoints are away; this one comes back first.
    LastResort,
    /// By policy, among those that take requests.
    Normal,
    /// To find out whether it has recovered.
    Probe,
}

/// Picks an endpoint; `None` when there is none, or none that may be used.
pub fn pick<C: Candidate>(
    group: &Group,
    candidates: &[C],
    request: &PickRequest<'_>,
    rng: &mut fastrand::Rng,
) -> Option<Pick> {
    if candidates.is_empty() {
        return None;
    }
    let choice = Choice {
        group,
        candidates,
        request,
        some_away: group.away.load(Ordering::Relaxed) > 0,
        uniform: group.uniform.load(Ordering::Relaxed),
        max_weight: group.max_weight.load(Ordering::Relaxed).max(1),
    };
    if let Some(pick) = choice.due_probe(rng) {
        return Some(pick);
    }
    choice.normal(rng).or_else(|| choice.last_resort())
}

struct Choice<'a, C> {
    group: &'a Group,
    candidates: &'a [C],
    request: &'a PickRequest<'a>,
    some_away: bool,
    uniform: bool,
    max_weight: u32,
}

impl<C: Candidate> Choice<'_, C> {
    fn due_probe(&self, rng: &mut fastrand::Rng) -> Option<Pick> {
        let PickRequest { now, probe, .. } = *self.request;
        let nanos = self.group.nanos(now);
        if !self.some_away || self.request.closed_only || !self.group.is_probe_due(nanos, probe) {
            return None;
        }
        let count = self.candidates.len();
        let start = rng.usize(..count);
        (0..count)
            .map(|step| (start + step) % count)
            .filter(|index| !self.request.tried.contains(index))
            .find_map(|index| {
                let health = self.candidates[index].health();
                let permit = health
                    .is_probe_due(nanos, probe)
                    .then(|| health.try_probe(now, probe))??;
                Some(Pick {
                    index,
                    kind: PickKind::Probe,
                    permit,
                })
            })
    }

    fn normal(&self, rng: &mut fastrand::Rng) -> Option<Pick> {
        let settings = self.group.settings.load();
        let index = self
            .by_policy(&settings, true, rng)
            // Another endpoint when there is one; else the same again.
            .or_else(|| {
                let retried = !self.request.tried.is_empty();
                retried.then(|| self.by_policy(&settings, false, rng))?
            })?;
        Some(Pick {
            index,
            kind: PickKind::Normal,
            permit: self.candidates[index].health().admit(),
        })
    }

    fn last_resort(&self) -> Option<Pick> {
        if self.request.closed_only {
            return None;
        }
        let returns = |index: &usize| {
            let circuit = &self.candidates[*index].health().circuit;
            let tried = self.request.tried.contains(index);
            (tried, circuit.probe_at.load(Ordering::Relaxed))
        };
        let index = (0..self.candidates.len())
            .filter(|index| self.candidates[*index].health().state() != State::ForcedOpen)
            .min_by_key(returns)?;
        Some(Pick {
            index,
            kind: PickKind::LastResort,
            permit: self.candidates[index].health().admit(),
        })
    }

    fn by_policy(
        &self,
        settings: &Settings,
        avoid_tried: bool,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        match settings.balancer {
            BalancerPolicy::Random => self.draw(avoid_tried, None, rng),
            BalancerPolicy::RoundRobin => self
                .in_turn(avoid_tried)
                .or_else(|| self.draw(avoid_tried, None, rng)),
            BalancerPolicy::LeastRequest => {
                let (a, b) = self.draw_two(avoid_tried, rng)?;
                Some(if self.load(b) < self.load(a) { b } else { a })
            }
            BalancerPolicy::PeakEwma => {
                let (a, b) = self.draw_two(avoid_tried, rng)?;
                if self.gives_evidence(settings, a, rng) {
                    return Some(a);
                }
                Some(if self.is_faster(b, a) { b } else { a })
            }
        }
    }

    /// Whether a request may go to this endpoint as to any other.
    fn is_usable(&self, index: usize, avoid_tried: bool) -> bool {
        let is_closed = || !self.some_away || self.candidates[index].health().state().is_passing();
        !(avoid_tried && self.request.tried.contains(&index)) && is_closed()
    }

    /// Two different ones; twice the same where there is no other. Where weights differ the draws
    /// are independent, so that a light endpoint's share does not depend on who it is drawn with.
    fn draw_two(&self, avoid_tried: bool, rng: &mut fastrand::Rng) -> Option<(usize, usize)> {
        let a = self.draw(avoid_tried, None, rng)?;
        let other = if self.uniform { Some(a) } else { None };
        let b = self.draw(avoid_tried, other, rng).unwrap_or(a);
        Some((a, b))
    }

    /// A usable one other than `except`, by weight.
    fn draw(
        &self,
        avoid_tried: bool,
        except: Option<usize>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let count = self.candidates.len();
        let fits = |index: usize| Some(index) != except && self.is_usable(index, avoid_tried);
        for _ in 0..MAX_DRAWS {
            let index = rng.usize(..count);
            let accepted =
                self.uniform || rng.u32(..self.max_weight) < self.candidates[index].weight();
            if accepted && fits(index) {
                return Some(index);
            }
        }
        // Few are usable: count them, then take one.
        let usable = (0..count).filter(|&index| fits(index)).count();
        let nth = (usable > 0).then(|| rng.usize(..usable))?;
        (0..count).filter(|&index| fits(index)).nth(nth)
    }

    fn in_turn(&self, avoid_tried: bool) -> Option<usize> {
        let count = self.candidates.len();
        (0..count)
            .map(|_| self.group.cursor.fetch_add(1, Ordering::Relaxed))
            .map(|turn| self.whose_turn(turn))
            .find(|&index| self.is_usable(index, avoid_tried))
    }

    fn whose_turn(&self, turn: usize) -> usize {
        let count = self.candidates.len();
        if self.uniform {
            return turn % count;
        }
        let weight = |candidate: &C| u64::from(candidate.weight().max(1));
        let total: u64 = self.candidates.iter().map(weight).sum();
        let mut left = turn as u64 % total;
        let found = self.candidates.iter().position(|candidate| {
            let own = weight(candidate);
            let here = left < own;
            left = left.saturating_sub(own);
            here
        });
        found.unwrap_or(count - 1)
    }

    /// Requests in flight, this one included, relative to weight.
    fn load(&self, index: usize) -> f32 {
        let candidate = &self.candidates[index];
        let relative = self.max_weight as f32 / candidate.weight().max(1) as f32;
        1.0 + candidate.health().in_flight() as f32 * relative
    }

    fn is_faster(&self, b: usize, a: usize) -> bool {
        let now = self.request.now;
        let latency = |index: usize| self.candidates[index].health().latency_micros(now);
        let (by_b, by_a) = match (latency(b), latency(a)) {
            (Some(b), Some(a)) => (b, a),
            _ => (1.0, 1.0),
        };
        by_b * self.load(b) < by_a * self.load(a)
    }

    fn gives_evidence(&self, settings: &Settings, index: usize, rng: &mut fastrand::Rng) -> bool {
        let Some(enough) = settings.evidence() else {
            return false;
        };
        let failures = self.candidates[index].health().consecutive_failures();
        if failures == 0 || failures >= enough || !self.request.tried.is_empty() {
            return false;
        }
        let one_in = match self.request.probe {
            ProbeEligibility::Yes => EVIDENCE_REPEATABLE,
            ProbeEligibility::No | ProbeEligibility::Late => EVIDENCE_OTHERS,
        };
        rng.u32(..one_in) == 0
    }
}
