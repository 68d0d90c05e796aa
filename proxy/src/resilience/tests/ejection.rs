use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{WHOLE, breaker_policy, endpoints, sides};
use crate::policy::{BalancerPolicy, BreakerPolicy, BreakerScope};
use crate::resilience::attempt::TryVerdict;
use crate::resilience::balance::{PickKind, PickRequest, ProbeEligibility, pick};
use crate::resilience::breaker::State;
use crate::resilience::group::{Group, Target, ejection_cap};
use crate::resilience::health::EndpointHealth;

const MS: Duration = Duration::from_millis(1);

fn fail(health: &Arc<EndpointHealth>, now: Instant, times: u32, verdict: TryVerdict) {
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..times {
        health.admit().finish(now, MS, verdict, &mut rng);
    }
}

fn group(policy: Option<BreakerPolicy>, now: Instant) -> Arc<Group> {
    Group::new(now, policy, BalancerPolicy::PeakEwma)
}

fn ejected(group: &Group) -> usize {
    let states = group.states();
    states.iter().filter(|view| view.state.is_ejected()).count()
}

#[test]
fn the_cap_leaves_one_and_grants_one() {
    for (endpoints, percent, expected) in [
        (0, 50, 0),
        (1, 100, 0),
        (2, 10, 1),
        (2, 100, 1),
        (3, 50, 1),
        (4, 50, 2),
        (10, 50, 5),
        (10, 100, 9),
        (10, 0, 1),
    ] {
        assert_eq!(
            ejection_cap(endpoints, percent),
            expected,
            "{endpoints} {percent}"
        );
    }
}

#[test]
fn the_last_endpoint_is_never_ejected() {
    let now = Instant::now();
    let group = group(Some(breaker_policy()), now);
    let healths = group.set_endpoints(now, &endpoints(1));
    fail(&healths[0], now, 100, TryVerdict::Failure);
    assert_eq!(healths[0].state(), State::Closed);

    // The others leave: what was ejected comes back.
    let healths = group.set_endpoints(now, &endpoints(3));
    fail(&healths[2], now, 5, TryVerdict::Failure);
    assert_eq!(healths[2].state(), State::Open);
    let kept = group.set_endpoints(now, &endpoints(3)[2..]);
    assert!(Arc::ptr_eq(&kept[0], &healths[2]));
    assert_eq!(kept[0].state(), State::Closed);
    assert_eq!(group.away(), 0);
    // Results for removed endpoints are heard by nobody.
    fail(&healths[0], now, 100, TryVerdict::Failure);
    assert_eq!(ejected(&group), 0);
}

/// Forced closed means that nothing can open, the backend's own breaker included; where policy gives
/// it none, none is invented.
#[test]
fn what_is_forced_closed_does_not_trip() {
    let now = Instant::now();
    let policy = BreakerPolicy {
        scope: BreakerScope::Backend,
        ..breaker_policy()
    };
    let mut rng = fastrand::Rng::with_seed(1);
    let backend = group(Some(policy), now);
    backend.force_closed(now, Target::All);
    for _ in 0..100 {
        let mut permit = backend.enter(now).expect("it is forced closed");
        permit.observe(now, TryVerdict::Failure, &mut rng);
    }
    backend.reset(now, Target::All);
    for _ in 0..5 {
        let mut permit = backend.enter(now).expect("nothing was counted");
        permit.observe(now, TryVerdict::Failure, &mut rng);
    }
    assert!(backend.enter(now).is_err());

    let endpoint = group(Some(breaker_policy()), now);
    endpoint.set_endpoints(now, &endpoints(2));
    endpoint.force_closed(now, Target::All);
    let states = endpoint.states();
    assert_eq!(states.len(), 2);
    assert!(states.iter().all(|view| view.state == State::ForcedClosed));
}

#[test]
fn what_is_forced_open_counts_against_the_cap() {
    let now = Instant::now();
    let group = group(Some(breaker_policy()), now);
    let healths = group.set_endpoints(now, &endpoints(2));
    fail(&healths[0], now, 5, TryVerdict::Failure);
    assert_eq!(healths[0].state(), State::Open);
    let second = Target::Endpoint(healths[1].address());
    assert!(group.force_open(now, second));
    assert_eq!(healths[0].state(), State::Closed);
    assert!(group.reset(now, second));
    assert_eq!(healths[1].state(), State::Closed);

    group.force_open(now, Target::All);
    let request = PickRequest {
        now,
        probe: ProbeEligibility::Yes,
        closed_only: false,
        tried: &[],
        layout: &WHOLE,
        point: None,
    };
    let sides = sides(healths);
    assert!(pick(&group, &sides, &request, &mut fastrand::Rng::with_seed(1)).is_none());
    group.reset(now, Target::All);
    assert_eq!(group.away(), 0);
    assert!(!group.reset(now, Target::Endpoint(([127, 0, 0, 9], 1).into())));
}

#[test]
fn only_a_changed_stanza_resets() {
    let now = Instant::now();
    let group = group(Some(breaker_policy()), now);
    let healths = group.set_endpoints(now, &endpoints(3));
    fail(&healths[0], now, 5, TryVerdict::Failure);
    group.set_policy(now, Some(breaker_policy()), BalancerPolicy::RoundRobin);
    group.set_endpoints(now, &endpoints(4));
    assert_eq!(healths[0].state(), State::Open);
    let changed = BreakerPolicy {
        consecutive_failures: Some(6),
        ..breaker_policy()
    };
    group.set_policy(now, Some(changed), BalancerPolicy::RoundRobin);
    assert_eq!(healths[0].state(), State::Closed);
    assert_eq!(healths[0].consecutive_failures(), 0);
}

#[test]
fn late_results_do_not_disturb() {
    let now = Instant::now();
    let group = group(Some(breaker_policy()), now);
    let healths = group.set_endpoints(now, &endpoints(3));
    let mut rng = fastrand::Rng::with_seed(1);
    let (early, late) = (healths[0].admit(), healths[0].admit());
    fail(&healths[0], now, 5, TryVerdict::Failure);
    early.finish(now, MS, TryVerdict::Success, &mut rng);
    assert_eq!(healths[0].state(), State::Open);
    group.reset(now, Target::All);
    late.finish(now, MS, TryVerdict::Failure, &mut rng);
    assert_eq!(healths[0].consecutive_failures(), 0);
    assert_eq!(healths[0].in_flight(), 0);
}

#[test]
fn without_a_breaker_refused_connections_back_off() {
    let start = Instant::now();
    let group = group(None, start);
    let healths = group.set_endpoints(start, &endpoints(2));
    fail(&healths[0], start, 100, TryVerdict::Failure);
    assert_eq!(group.away(), 0);
    fail(&healths[0], start, 1, TryVerdict::ConnectFailed);
    fail(&healths[1], start, 1, TryVerdict::ConnectFailed);
    assert_eq!(group.away(), 1);
    assert_eq!(healths[1].state(), State::Closed);
    assert!(group.states().iter().all(|view| view.reconnect));

    let sides = sides(healths);
    let mut rng = fastrand::Rng::with_seed(3);
    let mut now = start;
    let mut periods = Vec::new();
    for _ in 0..6 {
        let until = group.states()[0].open_until.unwrap();
        periods.push((until - now).as_secs());
        now = until;
        let request = PickRequest {
            now,
            probe: ProbeEligibility::Yes,
            closed_only: false,
            tried: &[],
            layout: &WHOLE,
            point: None,
        };
        let pick = pick(&group, &sides, &request, &mut rng).unwrap();
        assert_eq!((pick.index, pick.kind), (0, PickKind::Probe));
        pick.permit
            .finish(now, MS, TryVerdict::ConnectFailed, &mut rng);
    }
    assert_eq!(periods, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn a_breaker_of_scope_backend_fails_fast() {
    let policy = BreakerPolicy {
        scope: BreakerScope::Backend,
        half_open_success_threshold: 1,
        ..breaker_policy()
    };
    let start = Instant::now();
    let group = group(Some(policy), start);
    group.set_endpoints(start, &endpoints(1));
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..5 {
        let mut permit = group.enter(start).unwrap();
        permit.observe(start, TryVerdict::Failure, &mut rng);
    }
    assert!(group.enter(start).is_err());
    let now = group.states()[0].open_until.unwrap();
    let abandoned = group.enter(now).unwrap();
    assert!(abandoned.is_probe());
    assert!(group.enter(now).is_err());
    drop(abandoned);
    let mut probe = group.enter(now).unwrap();
    probe.observe(now, TryVerdict::Success, &mut rng);
    assert!(!group.enter(now).unwrap().is_probe());
}

#[test]
fn an_abandoned_probe_gives_its_place_back() {
    let start = Instant::now();
    let group = group(Some(breaker_policy()), start);
    let healths = group.set_endpoints(start, &endpoints(3));
    fail(&healths[0], start, 5, TryVerdict::Failure);
    let sides = sides(healths);
    let now = start + Duration::from_secs(3);
    let mut rng = fastrand::Rng::with_seed(1);
    let request = PickRequest {
        now,
        probe: ProbeEligibility::Yes,
        closed_only: false,
        tried: &[],
        layout: &WHOLE,
        point: None,
    };
    let probe = pick(&group, &sides, &request, &mut rng).unwrap();
    assert_eq!(probe.kind, PickKind::Probe);
    let other = pick(&group, &sides, &request, &mut rng).unwrap();
    assert_eq!(other.kind, PickKind::Normal);
    drop(probe);
    let again = pick(&group, &sides, &request, &mut rng).unwrap();
    assert_eq!(again.kind, PickKind::Probe);
}

#[test]
fn the_cap_holds_for_trips_at_the_same_instant() {
    const ENDPOINTS: u16 = 12;
    for round in 0..20 {
        let now = Instant::now();
        let group = group(Some(breaker_policy()), now);
        let healths = group.set_endpoints(now, &endpoints(ENDPOINTS));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let healths = &healths;
                    scope.spawn(move || {
                        for step in 0..200 {
                            let index = (step + worker + round) % usize::from(ENDPOINTS);
                            fail(&healths[index], now, 1, TryVerdict::Failure);
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(ejected(&group) <= 6);
                }
            });
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(ejected(&group), 6);
        assert_eq!(group.away(), 6);
    }
}

proptest! {
    #[test]
    fn the_cap_holds_for_every_history(
        steps in prop::collection::vec((0_u8..6, 0_usize..8, 1_u16..8), 1..120),
        percent in 1_u32..=100,
    ) {
        let mut now = Instant::now();
        let policy = BreakerPolicy {
            consecutive_failures: Some(2),
            max_ejection_percent: percent,
            ..breaker_policy()
        };
        let group = group(Some(policy), now);
        let mut rng = fastrand::Rng::with_seed(9);
        let mut healths = group.set_endpoints(now, &endpoints(4));
        for (action, index, size) in steps {
            now += Duration::from_millis(700);
            let health = healths[index % healths.len()].clone();
            let target = Target::Endpoint(health.address());
            match action {
                0 | 1 => fail(&health, now, 2, TryVerdict::Failure),
                2 => healths = group.set_endpoints(now, &endpoints(size)),
                3 => { group.force_open(now, target); }
                4 => { group.reset(now, target); }
                _ => {
                    let side = sides(healths.clone());
                    let request = PickRequest {
                        now, probe: ProbeEligibility::Yes, closed_only: false, tried: &[],
                        layout: &WHOLE,
                        point: None,
                    };
                    if let Some(pick) = pick(&group, &side, &request, &mut rng) {
                        let verdict = if index % 2 == 0 { TryVerdict::Failure } else { TryVerdict::Success };
                        pick.permit.finish(now, MS, verdict, &mut rng);
                    }
                }
            }
            let states = group.states();
            let forced = states.iter().filter(|view| view.state == State::ForcedOpen).count();
            let cap = ejection_cap(states.len(), percent);
            prop_assert!(ejected(&group) <= cap.saturating_sub(forced));
            let passing = states.iter().filter(|view| view.state.is_passing()).count();
            prop_assert!(passing > 0 || forced == states.len());
            prop_assert_eq!(group.away(), states.len() - passing);
            for (health, view) in healths.iter().zip(&states) {
                prop_assert_eq!(health.state(), view.state);
            }
        }
    }
}
