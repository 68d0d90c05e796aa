use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Side, WHOLE, breaker_policy, endpoint, endpoints, sides};
use crate::policy::{BalancerPolicy, EndpointInfo};
use crate::resilience::attempt::TryVerdict;
use crate::resilience::balance::{PickKind, PickRequest, ProbeEligibility, pick};
use crate::resilience::group::Group;

const MS: Duration = Duration::from_millis(1);

fn request(now: Instant, tried: &[usize]) -> PickRequest<'_> {
    PickRequest {
        now,
        probe: ProbeEligibility::Yes,
        closed_only: false,
        tried,
        layout: &WHOLE,
        point: None,
    }
}

/// Sends `count` requests one after the other; answers how many each endpoint got.
fn shares(
    policy: BalancerPolicy,
    infos: &[EndpointInfo],
    latencies: &[u32],
    count: u32,
) -> Vec<u32> {
    let mut now = Instant::now();
    let group = Group::new(now, None, policy);
    let healths = group.set_endpoints(now, infos);
    let sides: Vec<Side> = healths
        .into_iter()
        .zip(infos)
        .map(|(health, info)| Side {
            health,
            weight: info.weight,
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(5);
    let mut counts = vec![0; infos.len()];
    for _ in 0..count {
        let picked = pick(&group, &sides, &request(now, &[]), &mut rng).unwrap();
        counts[picked.index] += 1;
        let latency = MS * latencies[picked.index];
        now += latency;
        picked
            .permit
            .finish(now, latency, TryVerdict::Success, &mut rng);
    }
    counts
}

#[test]
fn fast_endpoints_get_more_and_slow_ones_are_not_forgotten() {
    let counts = shares(BalancerPolicy::PeakEwma, &endpoints(3), &[5, 5, 50], 10_000);
    assert!(counts[2] < 1_000 && counts[2] > 0, "{counts:?}");
}

#[test]
fn every_policy_spreads_over_equals() {
    for policy in [
        BalancerPolicy::LeastRequest,
        BalancerPolicy::PeakEwma,
        BalancerPolicy::Random,
        BalancerPolicy::RoundRobin,
    ] {
        let counts = shares(policy.clone(), &endpoints(4), &[5; 4], 4_000);
        assert!(
            counts.iter().all(|count| (850..1_150).contains(count)),
            "{policy:?} {counts:?}"
        );
    }
}

#[test]
fn weights_are_honoured() {
    let infos = [endpoint(1, 1), endpoint(2, 9)];
    for (policy, expected) in [
        (BalancerPolicy::LeastRequest, 850..1_150),
        (BalancerPolicy::Random, 850..1_150),
        (BalancerPolicy::RoundRobin, 850..1_150),
        // Where it draws both, which is 18 % of the time, latency decides.
        (BalancerPolicy::PeakEwma, 100..1_950),
    ] {
        let counts = shares(policy.clone(), &infos, &[5, 5], 10_000);
        assert!(expected.contains(&counts[0]), "{policy:?} {counts:?}");
    }
}

#[test]
fn an_endpoint_never_measured_gets_its_share_and_no_more() {
    let now = Instant::now();
    for known in [MS, MS * 1_000] {
        let group = Group::new(now, None, BalancerPolicy::PeakEwma);
        let sides = sides(group.set_endpoints(now, &endpoints(2)));
        let mut rng = fastrand::Rng::with_seed(6);
        sides[0]
            .health
            .admit()
            .finish(now, known, TryVerdict::Success, &mut rng);
        let permits: Vec<_> = (0..100)
            .map(|_| pick(&group, &sides, &request(now, &[]), &mut rng).unwrap())
            .collect();
        let fresh = permits.iter().filter(|pick| pick.index == 1).count();
        assert!((45..=55).contains(&fresh), "{fresh}");
    }
}

#[test]
fn fast_errors_attract_nothing() {
    let mut now = Instant::now();
    let group = Group::new(now, None, BalancerPolicy::PeakEwma);
    let sides = sides(group.set_endpoints(now, &endpoints(3)));
    let mut rng = fastrand::Rng::with_seed(7);
    let mut failed = 0;
    for _ in 0..1_000 {
        let picked = pick(&group, &sides, &request(now, &[]), &mut rng).unwrap();
        let (latency, verdict) = if picked.index == 0 {
            failed += 1;
            (MS / 10, TryVerdict::Failure)
        } else {
            (MS * 10, TryVerdict::Success)
        };
        now += latency;
        picked.permit.finish(now, latency, verdict, &mut rng);
    }
    assert!(failed <= 5, "{failed}");
}

#[test]
fn a_breaker_gets_the_evidence_that_it_needs() {
    for (probe, at_most) in [(ProbeEligibility::Yes, 100), (ProbeEligibility::Late, 400)] {
        let now = Instant::now();
        let group = Group::new(now, Some(breaker_policy()), BalancerPolicy::PeakEwma);
        let sides = sides(group.set_endpoints(now, &endpoints(3)));
        let mut rng = fastrand::Rng::with_seed(8);
        let mut count = 0;
        while group.away() == 0 {
            count += 1;
            assert!(count < at_most, "{probe:?}");
            let request = PickRequest {
                probe,
                ..request(now, &[])
            };
            let picked = pick(&group, &sides, &request, &mut rng).unwrap();
            let verdict = if picked.index == 0 {
                TryVerdict::Failure
            } else {
                TryVerdict::Success
            };
            picked.permit.finish(now, MS, verdict, &mut rng);
        }
    }
}

#[test]
fn when_the_list_lags_behind_somebody_is_still_picked() {
    let now = Instant::now();
    let group = Group::new(now, Some(breaker_policy()), BalancerPolicy::PeakEwma);
    let mut all = sides(group.set_endpoints(now, &endpoints(3)));
    let mut rng = fastrand::Rng::with_seed(8);
    for _ in 0..5 {
        all[0]
            .health
            .admit()
            .finish(now, MS, TryVerdict::Failure, &mut rng);
    }
    all.truncate(1);
    let picked = pick(&group, &all, &request(now, &[]), &mut rng).unwrap();
    assert_eq!(picked.kind, PickKind::LastResort);
    let free = PickRequest {
        closed_only: true,
        ..request(now, &[])
    };
    assert!(pick(&group, &all, &free, &mut rng).is_none());
    assert!(pick::<Side>(&group, &[], &free, &mut rng).is_none());
}

#[test]
fn latency_is_measured_at_the_head_and_judged_at_the_end() {
    let now = Instant::now();
    let group = Group::new(now, Some(breaker_policy()), BalancerPolicy::PeakEwma);
    let health = group.set_endpoints(now, &endpoints(2)).remove(0);
    let mut rng = fastrand::Rng::with_seed(8);
    let mut permit = health.admit();
    permit.head_received(now, MS * 20);
    permit.observe(now, MS * 9_000, TryVerdict::Success, &mut rng);
    permit.observe(now, MS, TryVerdict::Failure, &mut rng);
    assert_eq!(health.latency_micros(now), Some(20_000.0));
    assert_eq!((health.in_flight(), health.consecutive_failures()), (1, 0));
    drop(permit);
    assert_eq!(health.in_flight(), 0);
    health
        .admit()
        .finish(now, MS, TryVerdict::Failure, &mut rng);
    assert_eq!(health.latency_micros(now), Some(1_000_000.0));
    let later = health
        .latency_micros(now + Duration::from_secs(10))
        .unwrap();
    assert!((later - 367_879.4).abs() < 10.0, "{later}");
}

proptest! {
    #[test]
    fn tried_and_ejected_endpoints_are_avoided(
        count in 1_u16..8,
        away in prop::collection::vec(0_usize..8, 0..8),
        tried in prop::collection::vec(0_usize..8, 0..8),
        policy in prop::sample::select(vec![
            BalancerPolicy::LeastRequest, BalancerPolicy::PeakEwma,
            BalancerPolicy::Random, BalancerPolicy::RoundRobin,
        ]),
        seed: u64,
    ) {
        let now = Instant::now();
        let group = Group::new(now, Some(breaker_policy()), policy);
        let sides = sides(group.set_endpoints(now, &endpoints(count)));
        let mut rng = fastrand::Rng::with_seed(seed);
        for index in away {
            for _ in 0..5 {
                let health = &sides[index % sides.len()].health;
                health.admit().finish(now, MS, TryVerdict::Failure, &mut rng);
            }
        }
        let closed = |index: usize| sides[index].health.state().is_passing();
        let picked = pick(&group, &sides, &request(now, &tried), &mut rng).unwrap();
        prop_assert!(closed(picked.index));
        prop_assert_eq!(picked.kind, PickKind::Normal);
        let another = (0..sides.len()).any(|index| closed(index) && !tried.contains(&index));
        prop_assert!(!another || !tried.contains(&picked.index));
        prop_assert_eq!(sides[picked.index].health.in_flight(), 1);
    }
}
