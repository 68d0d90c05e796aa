use std::time::{Duration, Instant};

use super::{Action, Container, Machine, Phase, Restart, Role, State};
use Action::{Kill, Start, Stop};
use Role::{Init, Main, Sidecar};

const GRACE: Duration = Duration::from_secs(30);

fn machine(roles: &[Role], policy: Restart) -> Machine {
    Machine::new(roles.iter().copied(), policy, GRACE)
}

#[test]
fn a_pod_with_a_sidecar_lives_as_it_should() {
    let now = Instant::now();
    let mut pod = machine(&[Init, Sidecar, Init, Main, Main], Restart::Always);
    assert_eq!(pod.next(now), [Start(0)]);
    assert_eq!(pod.next(now), [], "one after the other");
    pod.ended(0, 0, now);
    assert_eq!(pod.next(now), [Start(1)]);
    assert_eq!(pod.next(now), [], "the sidecar has not passed");
    pod.passed(1);
    assert_eq!(pod.next(now), [Start(2)]);
    pod.ended(2, 0, now);
    assert_eq!((pod.phase(), pod.is_initialised()), (Phase::Pending, true));
    assert_eq!(pod.next(now), [Start(3)]);
    pod.passed(3);
    assert_eq!(pod.next(now), [Start(4)]);
    pod.passed(4);
    for number in [1, 3] {
        pod.ready(number, true);
    }
    assert!(!pod.is_ready());
    pod.ready(4, true);
    assert_eq!((pod.is_ready(), pod.phase()), (true, Phase::Running));

    pod.end(now, GRACE);
    assert_eq!(pod.next(now), [Stop(3), Stop(4)]);
    pod.ended(4, 0, now);
    assert_eq!(pod.next(now), [], "the sidecar waits for all of them");
    pod.ended(3, 143, now);
    assert_eq!(pod.next(now), [Stop(1)]);
    assert!(!pod.is_over());
    pod.ended(1, 0, now);
    assert!(pod.is_over() && pod.wake().is_none());
    assert_eq!((pod.phase(), pod.next(now)), (Phase::Failed, vec![]));
}

#[test]
fn a_sidecar_that_ends_comes_back_and_holds_up_nobody() {
    let begin = Instant::now();
    let mut pod = machine(&[Sidecar, Main], Restart::Never);
    pod.next(begin);
    pod.passed(0);
    assert_eq!(pod.next(begin), [Start(1)]);
    let mut now = begin;
    let pauses = [0, 500, 1000, 2000, 4000, 5000, 5000];
    for pause in pauses.map(Duration::from_millis) {
        pod.ready(0, true);
        pod.ended(0, 1, now);
        assert!(!pod.is_ready());
        assert_eq!(pod.wake(), Some(now + pause));
        now += pause;
        assert_eq!(pod.next(now), [Start(0)]);
    }
    assert_eq!(pod.containers()[0].restarts(), 7);
}

#[test]
fn a_job_ends_and_takes_its_sidecars_along_last_first() {
    let now = Instant::now();
    let mut pod = machine(&[Sidecar, Sidecar, Main], Restart::OnFailure);
    pod.next(now);
    pod.passed(0);
    pod.next(now);
    pod.passed(1);
    assert_eq!(pod.next(now), [Start(2)]);
    pod.ended(2, 1, now);
    assert_eq!(pod.next(now), [Start(2)], "it failed");
    pod.ended(2, 0, now);
    assert_eq!(pod.next(now), [Stop(1)]);
    assert_eq!(pod.phase(), Phase::Running);
    assert_eq!(pod.wake(), Some(now + GRACE));
    pod.ended(1, 143, now);
    assert_eq!(pod.next(now), [Stop(0)]);
    assert_eq!(pod.next(now + GRACE), [Kill(0)], "after the grace period");
    pod.ended(0, 137, now + GRACE);
    assert_eq!(
        pod.phase(),
        Phase::Succeeded,
        "how sidecars end is not asked"
    );
}

#[test]
fn whoever_does_not_end_in_time_is_killed_once() {
    let now = Instant::now();
    let mut pod = machine(&[Sidecar, Main], Restart::Always);
    pod.next(now);
    pod.passed(0);
    pod.next(now);
    pod.end(now, GRACE);
    assert_eq!(pod.next(now), [Stop(1)]);
    let short = Duration::from_secs(1);
    pod.end(now, short);
    pod.end(now, GRACE);
    assert_eq!(pod.wake(), Some(now + short), "the shortest holds");
    assert_eq!(pod.next(now + short), [Kill(1), Kill(0)]);
    assert_eq!(pod.next(now + GRACE), []);
}

#[test]
fn what_never_began_ends_at_once() {
    let now = Instant::now();
    let mut pod = machine(&[Init, Main], Restart::Always);
    pod.next(now);
    pod.end(now, GRACE);
    assert_eq!(pod.next(now), [Stop(0)]);
    pod.ended(0, 143, now);
    assert!(pod.is_over());
    assert_eq!(pod.containers()[1].state(), State::Waiting);
}

#[test]
fn a_failed_init_container_fails_the_pod_or_is_tried_again() {
    let now = Instant::now();
    let mut pod = machine(&[Init, Main], Restart::Never);
    pod.next(now);
    pod.ended(0, 2, now);
    assert_eq!((pod.next(now), pod.phase()), (vec![], Phase::Failed));
    let mut pod = machine(&[Init, Main], Restart::Always);
    pod.next(now);
    pod.ended(0, 2, now);
    assert_eq!(
        (pod.next(now), pod.phase()),
        (vec![Start(0)], Phase::Pending)
    );
}

/// Whatever happens in whatever order: what is started was not running, init containers have ended well
/// and sidecars have passed before anything behind them begins for the first time, and an end that is
/// asked for comes about.
#[test]
fn any_history_keeps_the_order_and_comes_to_an_end() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..2_000 {
        let (before, mains) = (random.usize(0..4), random.usize(1..3));
        let before = (0..before).map(|_| [Init, Sidecar][random.usize(..2)]);
        let mut roles: Vec<Role> = before.collect();
        roles.extend(std::iter::repeat_n(Main, mains));
        let policy = [Restart::Always, Restart::OnFailure, Restart::Never][random.usize(..3)];
        let mut pod = machine(&roles, policy);
        let mut running = vec![false; roles.len()];
        let mut now = Instant::now();
        for step in 0..60 {
            if step == 40 {
                pod.end(now, GRACE);
            }
            for action in pod.next(now) {
                match action {
                    Start(at) => {
                        assert!(!running[at], "{roles:?}");
                        let before = &pod.containers()[..at];
                        assert!(before.iter().all(Container::has_passed), "{roles:?}");
                        assert!(step < 40);
                        running[at] = true;
                    }
                    Stop(at) => assert!(running[at]),
                    Kill(at) => {
                        pod.ended(at, 137, now);
                        running[at] = false;
                    }
                }
            }
            let at = random.usize(..roles.len());
            match random.u8(..4) {
                0 => pod.passed(at),
                1 => pod.ready(at, random.bool()),
                2 if running[at] && step < 40 => {
                    pod.ended(at, random.i32(..2), now);
                    running[at] = false;
                }
                _ => {}
            }
            now += Duration::from_secs(random.u64(..10));
        }
        assert!(
            running.iter().all(|running| !running) && pod.is_over(),
            "{roles:?}"
        );
    }
}
