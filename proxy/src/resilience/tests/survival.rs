//! What policy and endpoint updates leave as it is: breakers, latencies, what people forced.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{breaker_policy, endpoint, endpoints};
use crate::policy::{BalancerPolicy, BreakerPolicy, BreakerScope};
use crate::resilience::attempt::TryVerdict;
use crate::resilience::breaker::State;
use crate::resilience::group::{Group, Target};

const MS: Duration = Duration::from_millis(1);

#[test]
fn latencies_survive_every_update() {
    let now = Instant::now();
    let group = Group::new(now, Some(breaker_policy()), BalancerPolicy::PeakEwma);
    let healths = group.set_endpoints(now, &endpoints(3));
    let mut rng = fastrand::Rng::with_seed(1);
    for (health, latency) in healths.iter().zip([MS, MS * 20, MS * 300]) {
        health
            .admit()
            .finish(now, latency, TryVerdict::Success, &mut rng);
    }
    let measured = |healths: &[std::sync::Arc<_>]| -> Vec<Option<f32>> {
        let of = |health: &std::sync::Arc<crate::resilience::health::EndpointHealth>| {
            health.latency_micros(now)
        };
        healths.iter().map(of).collect()
    };
    let before = measured(&healths);
    assert!(before.iter().all(Option::is_some), "{before:?}");

    // Another balancer, a changed and a removed breaker, other weights, another order.
    group.set_policy(now, Some(breaker_policy()), BalancerPolicy::LeastRequest);
    assert_eq!(measured(&healths), before);
    group.set_policy(now, None, BalancerPolicy::PeakEwma);
    assert_eq!(measured(&healths), before);
    let heavier = [
        endpoint(3, 7),
        endpoint(2, 1),
        endpoint(1, 4),
        endpoint(9, 1),
    ];
    let mut again = group.set_endpoints(now, &heavier);
    assert_eq!(again[3].latency_micros(now), None, "one that is new");
    again.truncate(3);
    again.reverse();
    assert_eq!(measured(&again), before);
}

#[test]
fn a_backends_breaker_survives_all_but_a_change_of_its_stanza() {
    let policy = BreakerPolicy {
        scope: BreakerScope::Backend,
        ..breaker_policy()
    };
    let now = Instant::now();
    let group = Group::new(now, Some(policy.clone()), BalancerPolicy::PeakEwma);
    group.set_endpoints(now, &endpoints(2));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut fail = |times| {
        for _ in 0..times {
            let mut permit = group.enter(now).expect("closed");
            permit.observe(now, TryVerdict::Failure, &mut rng);
        }
    };
    // Failures that were counted stay counted.
    fail(4);
    group.set_policy(now, Some(policy.clone()), BalancerPolicy::Random);
    group.set_endpoints(now, &endpoints(5));
    assert!(group.enter(now).is_ok());
    fail(1);
    assert!(group.enter(now).is_err());

    let open = group.states()[0].open_until;
    group.set_policy(now, Some(policy.clone()), BalancerPolicy::RoundRobin);
    group.set_endpoints(now, &endpoints(1));
    group.set_endpoints(now, &[]);
    group.set_endpoints(now, &endpoints(3));
    assert!(group.enter(now).is_err());
    assert_eq!(group.states()[0].open_until, open, "and for as long");

    let changed = BreakerPolicy {
        open_duration: policy.open_duration + MS,
        ..policy
    };
    group.set_policy(now, Some(changed), BalancerPolicy::RoundRobin);
    assert!(group.enter(now).is_ok());
    assert_eq!(group.states()[0].consecutive_failures, 0);
}

#[test]
fn what_people_forced_survives_a_changed_stanza() {
    let now = Instant::now();
    let group = Group::new(now, Some(breaker_policy()), BalancerPolicy::PeakEwma);
    let healths = group.set_endpoints(now, &endpoints(3));
    group.force_open(now, Target::Endpoint(healths[0].address()));
    group.force_closed(now, Target::Endpoint(healths[1].address()));
    let changed = BreakerPolicy {
        consecutive_failures: Some(9),
        ..breaker_policy()
    };
    group.set_policy(now, Some(changed), BalancerPolicy::PeakEwma);
    group.set_policy(now, None, BalancerPolicy::PeakEwma);
    assert_eq!(healths[0].state(), State::ForcedOpen);
    assert_eq!(healths[1].state(), State::ForcedClosed);
}

proptest! {
    /// Whatever else is updated between results, a breaker comes to the same states at the same
    /// times as if nothing had been.
    #[test]
    fn updates_do_not_disturb_a_breakers_course(
        steps in prop::collection::vec((any::<bool>(), 0_u64..900, 0_u8..4), 1..150),
        seed: u64,
    ) {
        let start = Instant::now();
        let new = || Group::new(start, Some(breaker_policy()), BalancerPolicy::PeakEwma);
        let (quiet, updated) = (new(), new());
        let quiet_health = quiet.set_endpoints(start, &endpoints(4)).remove(0);
        let mut healths = updated.set_endpoints(start, &endpoints(4));
        // Others are there throughout, so that the cap does not depend on the updates.
        let _others = quiet.set_endpoints(start, &endpoints(4));
        let mut rngs = [fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed)];
        let mut now = start;
        for (fails, wait, update) in steps {
            now += MS * wait as u32;
            match update {
                0 => updated.set_policy(now, Some(breaker_policy()), BalancerPolicy::Random),
                1 => healths = updated.set_endpoints(now, &endpoints(5)),
                2 => {
                    let weighted: Vec<_> = (1..=4).map(|n| endpoint(n, u32::from(n))).collect();
                    healths = updated.set_endpoints(now, &weighted);
                }
                _ => {}
            }
            let verdict = if fails { TryVerdict::Failure } else { TryVerdict::Success };
            for (health, rng) in [&quiet_health, &healths[0]].into_iter().zip(&mut rngs) {
                let probe = health.try_probe(now, super::super::breaker::ProbeEligibility::Yes);
                let permit = probe.unwrap_or_else(|| health.admit());
                permit.finish(now, MS, verdict, rng);
            }
            prop_assert_eq!(quiet_health.state(), healths[0].state());
            let until = |group: &Group| group.states()[0].open_until;
            prop_assert_eq!(until(&quiet), until(&updated));
        }
    }
}
