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
//!   relative to it. A newcomer that starts slowly has a part of its weight.
//! * Zones come before the policy: which side of the layout is chosen first, then an
//!   endpoint of it by policy; where that side has none that is usable and untried, the other is asked.
//!   A key that is hashed leaves its zone by a hash too, so that the same keys leave and come back.
//! * A key goes on to the next endpoint along its ring while those before it are away or were tried,
//!   and only they are probed by it: a probe never takes a key elsewhere.
//! * Somebody is always picked, unless people forced everything open: with all endpoints away, the
//!   one whose open period ends first is used ([`PickKind::LastResort`]).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub use super::breaker::ProbeEligibility;
use super::breaker::State;
use super::group::{Group, Settings};
use super::health::{EndpointHealth, Permit};
use super::layout::{self, Layout, Side};
use super::{ring, slow_start};
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
    /// How the candidates are arranged.
    pub layout: &'a Layout,
    /// Where the request's key is on every ring; without one it goes by chance.
    pub point: Option<u64>,
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
    let ramp = group.ramp(request.now);
    let choice = Choice {
        group,
        candidates,
        request,
        some_away: group.away.load(Ordering::Relaxed) > 0,
        uniform: ramp.is_none() && group.uniform.load(Ordering::Relaxed),
        max_weight: group.max_weight.load(Ordering::Relaxed).max(1),
        ramp,
    };
    let sides = choice.sides(rng);
    if let Some(pick) = choice.due_probe(&sides, rng) {
        return Some(pick);
    }
    choice.normal(&sides, rng).or_else(|| choice.last_resort())
}

struct Choice<'a, C> {
    group: &'a Group,
    candidates: &'a [C],
    request: &'a PickRequest<'a>,
    some_away: bool,
    /// All weigh the same, and whole.
    uniform: bool,
    max_weight: u32,
    /// Over what time newcomers start, while there are any.
    ramp: Option<Duration>,
}

/// The one that is asked first, and the other.
type Sides = (Side, Option<Side>);

impl<C: Candidate> Choice<'_, C> {
    /// Which zone's endpoints are asked first.
    fn sides(&self, rng: &mut fastrand::Rng) -> Sides {
        let PickRequest { layout, point, .. } = *self.request;
        let count = self.candidates.len();
        let far = layout.far(count);
        let Some(near) = layout.near(count) else {
            return (far, None);
        };
        if !self.some_away {
            return (near, Some(far));
        }
        let usable = near.range.clone();
        let usable = usable.filter(|index| self.is_usable(*index, false)).count();
        let point = point.map_or_else(|| rng.u32(..), ring::spread);
        if layout::stays(near.range.len(), usable, point) {
            (near, Some(far))
        } else {
            (far, Some(near))
        }
    }

    fn due_probe(&self, sides: &Sides, rng: &mut fastrand::Rng) -> Option<Pick> {
        let PickRequest {
            now, probe, point, ..
        } = *self.request;
        let nanos = self.group.nanos(now);
        if !self.some_away || self.request.closed_only || !self.group.is_probe_due(nanos, probe) {
            return None;
        }
        if let Some(point) = point {
            return self.due_owner(sides, point, nanos);
        }
        let count = self.candidates.len();
        let start = rng.usize(..count);
        (0..count)
            .map(|step| (start + step) % count)
            .filter(|index| !self.request.tried.contains(index))
            .find_map(|index| self.probe(index, now, probe, nanos))
    }

    /// An endpoint that the key belongs to and that is due. Where a whole zone is away its keys all
    /// went elsewhere, so they are what its endpoints are probed by.
    fn due_owner(&self, sides: &Sides, point: u64, nanos: u64) -> Option<Pick> {
        let PickRequest {
            now, probe, layout, ..
        } = *self.request;
        let near = layout.near(self.candidates.len());
        let near = near.filter(|near| *near != sides.0);
        near.iter().chain([&sides.0]).find_map(|side| {
            self.owners(side, point)
                .take_while(|index| !self.is_usable(*index, false))
                .filter(|index| !self.request.tried.contains(index))
                .find_map(|index| self.probe(index, now, probe, nanos))
        })
    }

    fn probe(
        &self,
        index: usize,
        now: Instant,
        probe: ProbeEligibility,
        nanos: u64,
    ) -> Option<Pick> {
        let health = self.candidates[index].health();
        let permit = health
            .is_probe_due(nanos, probe)
            .then(|| health.try_probe(now, probe))??;
        Some(Pick {
            index,
            kind: PickKind::Probe,
            permit,
        })
    }

    fn normal(&self, (first, other): &Sides, rng: &mut fastrand::Rng) -> Option<Pick> {
        let settings = self.group.settings.load();
        let mut on_either = |avoid_tried: bool| {
            self.by_policy(&settings, first, avoid_tried, rng)
                .or_else(|| self.by_policy(&settings, other.as_ref()?, avoid_tried, rng))
        };
        let index = on_either(true)
            // Another endpoint when there is one; else the same again.
            .or_else(|| {
                let retried = !self.request.tried.is_empty();
                retried.then(|| on_either(false))?
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

    /// One of a side; `None` where none of it is usable.
    fn by_policy(
        &self,
        settings: &Settings,
        side: &Side,
        avoid_tried: bool,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        match &settings.balancer.policy {
            BalancerPolicy::ConsistentHash(_) => self
                .by_hash(side, avoid_tried)
                .or_else(|| self.draw(side, avoid_tried, None, rng)),
            BalancerPolicy::Random => self.draw(side, avoid_tried, None, rng),
            BalancerPolicy::RoundRobin => self
                .in_turn(side, avoid_tried, rng)
                .or_else(|| self.draw(side, avoid_tried, None, rng)),
            BalancerPolicy::LeastRequest => {
                let (a, b) = self.draw_two(side, avoid_tried, rng)?;
                Some(if self.load(b) < self.load(a) { b } else { a })
            }
            BalancerPolicy::PeakEwma => {
                let (a, b) = self.draw_two(side, avoid_tried, rng)?;
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

    /// The part of its weight that an endpoint has now.
    fn share(&self, index: usize) -> f32 {
        let arrived = self.candidates[index].health().arrived;
        match (arrived, self.ramp) {
            (Some(arrived), Some(over)) => slow_start::share(arrived, self.request.now, over),
            _ => 1.0,
        }
    }

    /// Two different ones; twice the same where there is no other. Where weights differ the draws
    /// are independent, so that a light endpoint's share does not depend on who it is drawn with.
    fn draw_two(
        &self,
        side: &Side,
        avoid_tried: bool,
        rng: &mut fastrand::Rng,
    ) -> Option<(usize, usize)> {
        let a = self.draw(side, avoid_tried, None, rng)?;
        let other = if self.uniform { Some(a) } else { None };
        let b = self.draw(side, avoid_tried, other, rng).unwrap_or(a);
        Some((a, b))
    }

    /// A usable one of a side other than `except`, by weight.
    fn draw(
        &self,
        side: &Side,
        avoid_tried: bool,
        except: Option<usize>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let fits = |index: usize| Some(index) != except && self.is_usable(index, avoid_tried);
        if side.range.is_empty() {
            return None;
        }
        for _ in 0..MAX_DRAWS {
            let index = rng.usize(side.range.clone());
            if self.is_accepted(index, rng) && fits(index) {
                return Some(index);
            }
        }
        // Few are usable, or most weigh little: add them up, then take one.
        let fitting = || side.range.clone().filter(|&index| fits(index));
        if self.uniform {
            let usable = fitting().count();
            let nth = (usable > 0).then(|| rng.usize(..usable))?;
            return fitting().nth(nth);
        }
        let weigh = |index: usize| self.weight(index) * self.share(index);
        let total: f32 = fitting().map(weigh).sum();
        let mut left = rng.f32() * total;
        let mut drawn = None;
        for index in fitting() {
            drawn = Some(index);
            left -= weigh(index);
            if left < 0.0 {
                break;
            }
        }
        drawn
    }

    /// Whether a draw counts: as often as the endpoint's weight is of the greatest.
    fn is_accepted(&self, index: usize, rng: &mut fastrand::Rng) -> bool {
        if self.uniform {
            return true;
        }
        rng.u32(..self.max_weight) < self.candidates[index].weight()
            && (self.ramp.is_none() || rng.f32() < self.share(index))
    }

    /// The first usable one along the ring; `None` too without a key, or where it would be far to go.
    fn by_hash(&self, side: &Side, avoid_tried: bool) -> Option<usize> {
        self.owners(side, self.request.point?)
            .find(|index| self.is_usable(*index, avoid_tried))
    }

    /// The candidates of a side that a key belongs to, most wanted first.
    fn owners(&self, side: &Side, point: u64) -> impl Iterator<Item = usize> {
        let count = self.candidates.len();
        let owners = self.request.layout.owners(side, point);
        owners.filter(move |index| *index < count)
    }

    /// The next in turn; a newcomer passes most of its turns.
    fn in_turn(&self, side: &Side, avoid_tried: bool, rng: &mut fastrand::Rng) -> Option<usize> {
        let cursor = &self.group.cursors[side.nth];
        (0..side.range.len())
            .map(|_| cursor.fetch_add(1, Ordering::Relaxed))
            .map(|turn| self.whose_turn(side, turn))
            .find(|&index| {
                self.is_usable(index, avoid_tried)
                    && (self.ramp.is_none() || rng.f32() < self.share(index))
            })
    }

    fn whose_turn(&self, side: &Side, turn: usize) -> usize {
        let Range { start, end } = side.range;
        if self.group.uniform.load(Ordering::Relaxed) {
            return start + turn % (end - start);
        }
        let candidates = &self.candidates[start..end];
        let weight = |candidate: &C| u64::from(candidate.weight().max(1));
        let total: u64 = candidates.iter().map(weight).sum();
        let mut left = turn as u64 % total;
        let found = candidates.iter().position(|candidate| {
            let own = weight(candidate);
            let here = left < own;
            left = left.saturating_sub(own);
            here
        });
        found.map_or(end - 1, |position| start + position)
    }

    fn weight(&self, index: usize) -> f32 {
        self.candidates[index].weight().max(1) as f32
    }

    /// Requests in flight, this one included, relative to weight.
    fn load(&self, index: usize) -> f32 {
        let in_flight = self.candidates[index].health().in_flight() as f32;
        let relative = self.max_weight as f32 / (self.weight(index) * self.share(index));
        1.0 + in_flight * relative
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
