use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::breaker_policy;
use crate::policy::{BreakerPolicy, ErrorRate};
use crate::resilience::attempt::TryVerdict;
use crate::resilience::breaker::{Breaker, ProbeEligibility, State};
use crate::resilience::tripwire::Tripwire;

const SECOND: Duration = Duration::from_secs(1);

fn open_period(breaker: &Breaker) -> Duration {
    breaker.open_until().expect("open") - breaker.since()
}

fn assert_about(actual: Duration, period: Duration) {
    assert!(
        actual >= period && actual <= period + period / 10,
        "{actual:?}"
    );
}

#[test]
fn opens_probes_and_closes() {
    let (policy, mut rng) = (breaker_policy(), fastrand::Rng::with_seed(1));
    let start = Instant::now();
    let mut breaker = Breaker::new(start);
    assert!(breaker.trip(start, &policy, &mut rng).is_some());
    assert!(breaker.trip(start, &policy, &mut rng).is_none());
    assert_about(open_period(&breaker), SECOND * 2);
    assert!(
        !breaker
            .start_probe(start + SECOND, ProbeEligibility::Yes, &policy)
            .0
    );

    let now = breaker.open_until().unwrap();
    for success in 1..=3 {
        assert!(!breaker.start_probe(now, ProbeEligibility::Late, &policy).0);
        assert!(breaker.start_probe(now, ProbeEligibility::Yes, &policy).0);
        assert!(!breaker.start_probe(now, ProbeEligibility::Yes, &policy).0);
        let generation = breaker.generation();
        breaker.finish_probe(generation, now, TryVerdict::Success, &policy, &mut rng);
        let expected = if success < 3 {
            State::HalfOpen
        } else {
            State::Closed
        };
        assert_eq!(breaker.state(), expected);
    }
}

#[test]
fn the_open_period_doubles_up_to_its_bound_and_begins_anew() {
    let policy = BreakerPolicy {
        max_open_duration: SECOND * 5,
        half_open_success_threshold: 1,
        ..breaker_policy()
    };
    let mut rng = fastrand::Rng::with_seed(2);
    let mut now = Instant::now();
    let mut breaker = Breaker::new(now);
    breaker.trip(now, &policy, &mut rng);
    for expected in [2, 4, 5, 5] {
        assert_about(open_period(&breaker), SECOND * expected);
        now = breaker.open_until().unwrap();
        breaker.start_probe(now, ProbeEligibility::Yes, &policy);
        let generation = breaker.generation();
        breaker.finish_probe(generation, now, TryVerdict::Failure, &policy, &mut rng);
    }
    now = breaker.open_until().unwrap();
    breaker.start_probe(now, ProbeEligibility::Yes, &policy);
    breaker.finish_probe(
        breaker.generation(),
        now,
        TryVerdict::Success,
        &policy,
        &mut rng,
    );
    assert_eq!(breaker.state(), State::Closed);
    breaker.trip(now, &policy, &mut rng);
    assert_about(open_period(&breaker), SECOND * 2);
}

#[test]
fn results_of_an_earlier_life_change_nothing() {
    let (policy, mut rng) = (
        BreakerPolicy {
            half_open_max_requests: 2,
            half_open_success_threshold: 1,
            ..breaker_policy()
        },
        fastrand::Rng::with_seed(3),
    );
    let mut breaker = Breaker::new(Instant::now());
    breaker.trip(breaker.since(), &policy, &mut rng);
    let now = breaker.open_until().unwrap();
    breaker.start_probe(now, ProbeEligibility::Yes, &policy);
    breaker.start_probe(now, ProbeEligibility::Yes, &policy);
    let old = breaker.generation();
    breaker.finish_probe(old, now, TryVerdict::Failure, &policy, &mut rng);
    assert_eq!(breaker.state(), State::Open);
    assert!(
        breaker
            .finish_probe(old, now, TryVerdict::Success, &policy, &mut rng)
            .is_none()
    );
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn people_have_the_last_word() {
    let (policy, mut rng) = (breaker_policy(), fastrand::Rng::with_seed(4));
    let now = Instant::now();
    let mut breaker = Breaker::new(now);
    breaker.force(State::ForcedClosed, now);
    assert!(breaker.trip(now, &policy, &mut rng).is_none());
    breaker.force(State::ForcedOpen, now);
    assert!(
        !breaker
            .start_probe(now + SECOND * 1_000, ProbeEligibility::Yes, &policy)
            .0
    );
    assert!(breaker.force(State::HalfOpen, now).is_none());
    breaker.force(State::Closed, now);
    assert!(breaker.trip(now, &policy, &mut rng).is_some());
}

#[test]
fn the_share_of_failures_trips_over_a_sliding_window() {
    let policy = BreakerPolicy {
        consecutive_failures: None,
        error_rate: Some(ErrorRate {
            threshold_percent: 50,
            min_requests: 20,
            window: SECOND * 10,
        }),
        ..breaker_policy()
    };
    let at = |ms: u64| ms * 1_000_000;
    let wire = Tripwire::default();
    for index in 0..19 {
        assert!(!wire.record(at(index * 100), index % 2 == 0, &policy));
    }
    assert!(wire.record(at(1_900), true, &policy));

    // What is older than the window is forgotten.
    let wire = Tripwire::default();
    (0..30).for_each(|_| {
        wire.record(at(0), false, &policy);
    });
    assert!((0..19).all(|_| !wire.record(at(10_000), true, &policy)));
    assert!(wire.record(at(10_000), true, &policy));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Wait(u64),
    Trip,
    Probe(bool),
    Finish(usize, TryVerdict),
    Release(usize),
    Force(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let verdict = prop::sample::select(vec![
        TryVerdict::Success,
        TryVerdict::Success,
        TryVerdict::Failure,
        TryVerdict::ConnectFailed,
        TryVerdict::Neutral,
    ]);
    prop_oneof![
        4 => (0_u64..3_000).prop_map(Event::Wait),
        2 => Just(Event::Trip),
        4 => any::<bool>().prop_map(Event::Probe),
        3 => (any::<usize>(), verdict).prop_map(|(index, verdict)| Event::Finish(index, verdict)),
        1 => any::<usize>().prop_map(Event::Release),
        1 => (0_u8..6).prop_map(Event::Force),
    ]
}

proptest! {
    #[test]
    fn invariants_hold_for_every_history(
        events in prop::collection::vec(event(), 1..200),
        max_requests in 1_u32..4,
        threshold in 1_u32..4,
        seed: u64,
    ) {
        let policy = BreakerPolicy {
            half_open_max_requests: max_requests,
            half_open_success_threshold: threshold,
            max_open_duration: SECOND * 8,
            ..breaker_policy()
        };
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = Instant::now();
        let mut breaker = Breaker::new(now);
        let mut probes: Vec<u64> = Vec::new();
        let mut successes = 0;
        for event in events {
            let (before, generation) = (breaker.state(), breaker.generation());
            match event {
                Event::Wait(ms) => now += Duration::from_millis(ms),
                Event::Trip => {
                    let tripped = breaker.trip(now, &policy, &mut rng).is_some();
                    prop_assert_eq!(tripped, before == State::Closed);
                }
                Event::Probe(repeatable) => {
                    let until = breaker.open_until();
                    let eligibility =
                        if repeatable { ProbeEligibility::Yes } else { ProbeEligibility::Late };
                    if breaker.start_probe(now, eligibility, &policy).0 {
                        prop_assert!(before.is_ejected());
                        let further = if repeatable { Duration::ZERO } else { policy.open_duration };
                        prop_assert!(now >= until.unwrap() + further);
                        prop_assert_eq!(breaker.state(), State::HalfOpen);
                        if before == State::Open {
                            successes = 0;
                        }
                        probes.push(breaker.generation());
                    }
                }
                Event::Finish(index, verdict) if !probes.is_empty() => {
                    let probe = probes.swap_remove(index % probes.len());
                    let current = probe == generation && before == State::HalfOpen;
                    let transition = breaker.finish_probe(probe, now, verdict, &policy, &mut rng);
                    successes += u32::from(current && verdict == TryVerdict::Success);
                    prop_assert!(current || transition.is_none());
                    if current && verdict.is_failure() {
                        prop_assert_eq!(breaker.state(), State::Open);
                    }
                    if breaker.state() == State::Closed && before == State::HalfOpen {
                        prop_assert_eq!(successes, threshold);
                    }
                }
                Event::Release(index) if !probes.is_empty() => {
                    breaker.release_probe(probes.swap_remove(index % probes.len()));
                }
                Event::Force(number) => {
                    let wanted = [State::Closed, State::ForcedClosed, State::ForcedOpen];
                    if let Some(state) = wanted.get(usize::from(number)) {
                        breaker.force(*state, now);
                    }
                }
                Event::Finish(..) | Event::Release(_) => {}
            }
            prop_assert_eq!(breaker.state() != before, breaker.generation() != generation);
            let alive = probes.iter().filter(|probe| **probe == breaker.generation()).count();
            prop_assert!(alive <= max_requests as usize);
            if breaker.state() == State::Open {
                let period = open_period(&breaker);
                prop_assert!(period >= SECOND * 2 && period <= SECOND * 8 * 11 / 10);
            }
            // A breaker that failures opened always gives a probe a chance again.
            if breaker.state().is_ejected() && alive == 0 {
                prop_assert!(breaker.probe_at(ProbeEligibility::Yes, &policy).is_some());
            }
        }
    }
}
