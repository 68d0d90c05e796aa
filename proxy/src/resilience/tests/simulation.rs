//! The breaker's story on pure time: three endpoints, one of which fails for a while.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use proptest::prelude::*;

use super::{Side, WHOLE, breaker_policy, endpoints, retry_policy, sides};
use crate::policy::{BalancerPolicy, BreakerPolicy, RetryPolicy};
use crate::resilience::attempt::{Answer, TryResult};
use crate::resilience::balance::{PickKind, PickRequest, ProbeEligibility, pick};
use crate::resilience::breaker::State;
use crate::resilience::budget::Budget;
use crate::resilience::group::Group;
use crate::resilience::retry::{Request, RetryDecision, is_idempotent};
use std::sync::Arc;

const OPEN: Duration = Duration::from_secs(2);

struct World {
    now: Instant,
    group: Arc<Group>,
    sides: Vec<Side>,
    budget: Budget,
    breaker: BreakerPolicy,
    retries: Option<RetryPolicy>,
    rng: fastrand::Rng,
    /// The first endpoint fails.
    failing: bool,
    probes: u32,
}

impl World {
    fn new(seed: u64, endpoint_count: u16, breaker: BreakerPolicy) -> Self {
        let now = Instant::now();
        let group = Group::new(now, Some(breaker.clone()), BalancerPolicy::PeakEwma);
        Self {
            now,
            sides: sides(group.set_endpoints(now, &endpoints(endpoint_count))),
            group,
            budget: Budget::new(now),
            breaker,
            retries: Some(retry_policy()),
            rng: fastrand::Rng::with_seed(seed),
            failing: true,
            probes: 0,
        }
    }

    fn first_state(&self) -> State {
        self.sides[0].health.state()
    }

    /// One request with its retries; the status that the client sees.
    fn send(&mut self, method: &Method) -> StatusCode {
        self.budget.deposit(self.now);
        let (mut attempt, mut free_used, mut free) = (1, false, false);
        let mut tried = Vec::new();
        loop {
            let eligibility = if free_used {
                ProbeEligibility::No
            } else if is_idempotent(self.retries.as_ref(), method, false) {
                ProbeEligibility::Yes
            } else {
                ProbeEligibility::Late
            };
            let request = PickRequest {
                now: self.now,
                probe: eligibility,
                closed_only: free,
                tried: &tried,
                layout: &WHOLE,
                point: None,
            };
            let mut picked = pick(&self.group, &self.sides, &request, &mut self.rng).unwrap();
            let latency = Duration::from_millis(self.rng.u64(1..8));
            self.now += latency;
            let status = if picked.index == 0 && self.failing {
                StatusCode::INTERNAL_SERVER_ERROR
            } else {
                StatusCode::OK
            };
            let result = TryResult::Answered(Answer::plain(status));
            let verdict = result.verdict(Some(&self.breaker));
            picked
                .permit
                .observe(self.now, latency, verdict, &mut self.rng);
            let probe = picked.kind == PickKind::Probe;
            self.probes += u32::from(probe);
            let state = Request {
                method,
                idempotency_key: false,
                replayable: true,
                attempt,
                failed_probe: probe && verdict.is_failure(),
                free_used,
                remaining: None,
            };
            let decision =
                RetryDecision::decide(self.retries.as_ref(), &state, &result, &mut self.rng);
            let RetryDecision::Retry {
                free: is_free,
                wait,
            } = decision
            else {
                return status;
            };
            free = is_free;
            free_used |= is_free;
            if !free {
                if !self
                    .budget
                    .withdraw(self.now, &self.retries.as_ref().unwrap().budget)
                {
                    return status;
                }
                attempt += 1;
            }
            self.now += wait;
            tried.push(picked.index);
        }
    }

    fn pass(&mut self) {
        self.now += Duration::from_millis(self.rng.u64(5..20));
    }

    /// Sends until the first endpoint is ejected.
    fn trip(&mut self, method: &Method) {
        for _ in 0..10_000 {
            if self.first_state() == State::Open {
                return;
            }
            self.send(method);
            self.pass();
        }
        panic!("the breaker never tripped");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn idempotent_requests_see_no_error_after_the_trip(seed: u64, own_retries: bool) {
        let mut world = World::new(seed, 3, breaker_policy());
        world.trip(&Method::GET);
        // Probes are answered for even where the route has no retries.
        if !own_retries {
            world.retries = None;
        }
        let end = world.now + Duration::from_secs(30);
        while world.now < end {
            prop_assert_eq!(world.send(&Method::GET), StatusCode::OK);
            world.pass();
        }
        prop_assert!((2..=5).contains(&world.probes), "{}", world.probes);
        prop_assert_eq!(world.first_state(), State::Open);

        // It heals, and serves again within two of the open periods then in force.
        let view = world.group.states().remove(0);
        let period = view.open_until.unwrap() - view.since;
        world.failing = false;
        let healed = world.now;
        while world.first_state() != State::Closed {
            prop_assert_eq!(world.send(&Method::GET), StatusCode::OK);
            world.pass();
            prop_assert!(world.now <= healed + period * 2);
        }
    }

    #[test]
    fn others_pay_for_one_probe_per_open_period(seed: u64, max_probes in 1_u32..4) {
        let policy = BreakerPolicy {
            max_open_duration: OPEN,
            half_open_max_requests: max_probes,
            ..breaker_policy()
        };
        let mut world = World::new(seed, 3, policy);
        world.trip(&Method::POST);
        let start = world.now;
        let mut errors = Vec::new();
        while world.now < start + Duration::from_secs(60) {
            if world.send(&Method::POST) != StatusCode::OK {
                errors.push(world.now);
            }
            world.pass();
        }
        prop_assert!(!errors.is_empty());
        prop_assert!(errors.windows(2).all(|pair| pair[1] - pair[0] >= OPEN * 2));

        let view = world.group.states().remove(0);
        let period = view.open_until.unwrap() - view.since;
        world.failing = false;
        let healed = world.now;
        while world.first_state() != State::Closed {
            world.send(&Method::POST);
            world.pass();
            prop_assert!(world.now <= healed + period * 2 + Duration::from_millis(200));
        }
    }

    #[test]
    fn mixed_traffic_lets_the_repeatable_probe(seed: u64) {
        let mut world = World::new(seed, 3, breaker_policy());
        world.trip(&Method::GET);
        let end = world.now + Duration::from_secs(30);
        while world.now < end {
            let method = if world.rng.bool() { Method::GET } else { Method::POST };
            prop_assert_eq!(world.send(&method), StatusCode::OK);
            world.pass();
        }
    }
}

#[test]
fn with_one_endpoint_left_it_is_never_ejected() {
    let mut world = World::new(1, 1, breaker_policy());
    for _ in 0..1_000 {
        world.send(&Method::GET);
        world.pass();
        assert_eq!(world.first_state(), State::Closed);
    }
    world.failing = false;
    assert_eq!(world.send(&Method::GET), StatusCode::OK);
}
