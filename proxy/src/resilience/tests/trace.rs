//! What breakers do over time, as text: scripted failures under a steady load on pure time, compared
//! with the files in `golden/`.
//!
//! A line is a change of one breaker's state, with the time since the script's begin and, where it
//! opened, for how long. `WEFT_UPDATE_GOLDEN=1` writes the files anew and fails all the same, so
//! that no run both changes and passes.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Side, WHOLE, breaker_policy, endpoints, sides};
use crate::policy::{BalancerPolicy, BreakerPolicy, BreakerScope, ErrorRate};
use crate::resilience::attempt::TryVerdict;
use crate::resilience::balance::{PickRequest, ProbeEligibility, pick};
use crate::resilience::breaker::State;
use crate::resilience::group::{BreakerView, Group, Target, ejection_cap};

/// What a request takes, and the time until the next: a hundred a second.
const LATENCY: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_millis(9);
const UPDATE: &str = "WEFT_UPDATE_GOLDEN";
/// How many endpoints each script is played with.
const ENDPOINTS: [u16; 4] = [1, 2, 3, 10];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    ConsecutiveFailures,
    ErrorRate,
}

/// Who fails at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    /// All, but less than what trips a breaker.
    NotEnough,
    First,
    All,
    Nobody,
}

/// What people do at a time.
type Deed = (Duration, &'static str, fn(&Group, Instant));

const SECOND: Duration = Duration::from_secs(1);

/// A share of failures that trips nothing; one endpoint down for long; all of them; and health.
const STORY: [(Duration, Failing); 4] = [
    (Duration::from_secs(5), Failing::NotEnough),
    (Duration::from_secs(35), Failing::First),
    (Duration::from_secs(55), Failing::All),
    (Duration::from_secs(90), Failing::Nobody),
];

fn policy(scope: BreakerScope, trigger: Trigger) -> BreakerPolicy {
    let by_rate = trigger == Trigger::ErrorRate;
    BreakerPolicy {
        scope,
        consecutive_failures: (!by_rate).then_some(5),
        error_rate: by_rate.then_some(ErrorRate {
            threshold_percent: 50,
            min_requests: 10,
            window: SECOND * 2,
        }),
        max_open_duration: SECOND * 8,
        ..breaker_policy()
    }
}

/// A backend under load.
struct World {
    start: Instant,
    now: Instant,
    policy: BreakerPolicy,
    trigger: Trigger,
    group: Arc<Group>,
    sides: Vec<Side>,
    /// Requests that each endpoint got.
    got: Vec<u32>,
    before: Vec<BreakerView>,
    trace: String,
    probe: ProbeEligibility,
    /// Where in the list picking begins, and how long a breaker stays open: apart, so that the one
    /// does not change the other.
    draws: fastrand::Rng,
    jitter: fastrand::Rng,
}

impl World {
    fn new(policy: BreakerPolicy, trigger: Trigger, count: u16) -> Self {
        let start = Instant::now();
        let group = Group::new(start, Some(policy.clone()), BalancerPolicy::RoundRobin);
        Self {
            start,
            now: start,
            trigger,
            sides: sides(group.set_endpoints(start, &endpoints(count))),
            got: vec![0; usize::from(count)],
            before: group.states(),
            group,
            trace: String::new(),
            probe: ProbeEligibility::Yes,
            draws: fastrand::Rng::with_seed(1),
            jitter: fastrand::Rng::with_seed(u64::from(count)),
            policy,
        }
    }

    fn play(&mut self, story: &[(Duration, Failing)], deeds: &[Deed]) {
        let mut deeds = deeds.iter();
        let mut deed = deeds.next();
        for (until, failing) in story {
            while self.now < self.start + *until {
                if let Some((at, what, act)) = deed
                    && self.now >= self.start + *at
                {
                    writeln!(self.trace, "t={:7.3} {what}", self.elapsed()).unwrap();
                    act(&self.group, self.now);
                    self.note();
                    deed = deeds.next();
                }
                self.request(*failing);
                self.now += PAUSE;
            }
        }
        assert!(deed.is_none(), "the script ended before {deed:?}");
    }

    /// One request.
    fn request(&mut self, failing: Failing) {
        let entered = self.group.enter(self.now);
        self.note();
        let Ok(mut backend) = entered else {
            self.now += LATENCY;
            return;
        };
        let request = PickRequest {
            now: self.now,
            probe: self.probe,
            closed_only: false,
            tried: &[],
            layout: &WHOLE,
            point: None,
        };
        let picked = pick(&self.group, &self.sides, &request, &mut self.draws);
        self.note();
        self.now += LATENCY;
        let Some(mut picked) = picked else { return };
        self.got[picked.index] += 1;
        let verdict = self.verdict(failing, picked.index);
        backend.observe(self.now, verdict, &mut self.jitter);
        self.note();
        picked
            .permit
            .observe(self.now, LATENCY, verdict, &mut self.jitter);
        self.note();
    }

    fn verdict(&self, failing: Failing, index: usize) -> TryVerdict {
        let nth = self.got[index];
        // A share of failures is never a row of them, and the other way round.
        let fails = match (failing, self.trigger) {
            (Failing::NotEnough, Trigger::ConsecutiveFailures) => {
                index == 0 && !nth.is_multiple_of(5)
            }
            (Failing::NotEnough, Trigger::ErrorRate) => nth.is_multiple_of(3),
            (Failing::First, _) if index > 0 => false,
            (Failing::First | Failing::All, Trigger::ConsecutiveFailures) => true,
            (Failing::First | Failing::All, Trigger::ErrorRate) => !nth.is_multiple_of(4),
            (Failing::Nobody, _) => false,
        };
        if fails {
            TryVerdict::Failure
        } else {
            TryVerdict::Success
        }
    }

    /// Writes down what has changed, and looks at what must hold at any time.
    fn note(&mut self) {
        let after = self.group.states();
        for (old, new) in self.before.iter().zip(&after) {
            assert_eq!(old.endpoint, new.endpoint);
            if old.state == new.state {
                continue;
            }
            let who = match new.endpoint {
                Some(address) => format!("endpoint={}", address.port()),
                None => "backend".to_owned(),
            };
            let (from, to) = (old.state.as_str(), new.state.as_str());
            let time = self.elapsed();
            write!(self.trace, "t={time:7.3} {who} {from}→{to}").unwrap();
            if new.state == State::Open {
                let lasts = (new.open_until.unwrap() - new.since).as_secs_f64();
                write!(self.trace, " for {lasts:.3}").unwrap();
            }
            self.trace.push('\n');
        }
        self.before = after;

        let count = |wanted: fn(State) -> bool| {
            let endpoints = self.before.iter().filter(|view| view.endpoint.is_some());
            endpoints.filter(|view| wanted(view.state)).count()
        };
        let all = self.sides.len();
        let forced = count(|state| state == State::ForcedOpen);
        let ejected = count(State::is_ejected);
        let cap = ejection_cap(all, self.policy.max_ejection_percent);
        assert!(ejected <= cap.saturating_sub(forced), "{}", self.trace);
        assert!(
            ejected == 0 || ejected + forced < all,
            "the last one was ejected:\n{}",
            self.trace
        );
    }

    fn elapsed(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }
}

fn at(endpoint: u16) -> Target {
    Target::Endpoint(super::endpoint(endpoint, 1).address)
}

/// The traces of one policy, one after the other.
fn story(policy: &BreakerPolicy, trigger: Trigger, probe: ProbeEligibility) -> String {
    let mut text = String::new();
    for count in ENDPOINTS {
        let mut world = World::new(policy.clone(), trigger, count);
        world.probe = probe;
        world.play(&STORY, &[]);
        let away = world.before.iter().filter(|v| v.state != State::Closed);
        assert_eq!(away.count(), 0, "not healed:\n{}", world.trace);
        write_section(&mut text, &world);
    }
    text
}

fn write_section(text: &mut String, world: &World) {
    let count = world.sides.len();
    let plural = if count == 1 { "" } else { "s" };
    writeln!(text, "# {count} endpoint{plural}\n{}", world.trace).unwrap();
}

#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let path = format!(
        "{}/src/resilience/tests/golden/{name}.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, text).unwrap();
        panic!("{name}.txt was written: read what has changed, then run without {UPDATE}");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = golden.lines().zip(text.lines()).enumerate();
    let differing = lines.find(|(_, (old, new))| old != new);
    assert!(
        golden == text,
        "{name}.txt: {} lines instead of {}, the first that differs: {differing:?}",
        text.lines().count(),
        golden.lines().count(),
    );
}

#[test]
fn endpoints_by_consecutive_failures() {
    let trigger = Trigger::ConsecutiveFailures;
    let policy = policy(BreakerScope::Endpoint, trigger);
    let text = story(&policy, trigger, ProbeEligibility::Yes);
    assert_golden("endpoint-consecutive-failures", &text);
}

#[test]
fn endpoints_by_error_rate() {
    let trigger = Trigger::ErrorRate;
    let policy = policy(BreakerScope::Endpoint, trigger);
    let text = story(&policy, trigger, ProbeEligibility::Yes);
    assert_golden("endpoint-error-rate", &text);
}

#[test]
fn a_backend_by_consecutive_failures() {
    let trigger = Trigger::ConsecutiveFailures;
    let policy = policy(BreakerScope::Backend, trigger);
    let text = story(&policy, trigger, ProbeEligibility::Yes);
    assert_golden("backend-consecutive-failures", &text);
}

#[test]
fn a_backend_by_error_rate() {
    let trigger = Trigger::ErrorRate;
    let policy = policy(BreakerScope::Backend, trigger);
    let text = story(&policy, trigger, ProbeEligibility::Yes);
    assert_golden("backend-error-rate", &text);
}

/// However many may be ejected, the last one never is.
#[test]
fn endpoints_all_of_which_policy_would_eject() {
    let trigger = Trigger::ConsecutiveFailures;
    let policy = BreakerPolicy {
        max_ejection_percent: 100,
        ..policy(BreakerScope::Endpoint, trigger)
    };
    let text = story(&policy, trigger, ProbeEligibility::Yes);
    assert_golden("endpoint-all-but-one", &text);
}

/// Requests that cannot be repeated probe after a further open period, one at a time.
#[test]
fn endpoints_by_requests_that_cannot_be_repeated() {
    let trigger = Trigger::ConsecutiveFailures;
    let policy = policy(BreakerScope::Endpoint, trigger);
    let text = story(&policy, trigger, ProbeEligibility::Late);
    assert_golden("endpoint-not-repeatable", &text);
}

/// People force endpoints while they fail, and let go of them.
#[test]
fn endpoints_that_people_force() {
    let deeds: [Deed; 6] = [
        (SECOND, "people: endpoint=2 open", |group, now| {
            assert!(group.force_open(now, at(2)));
        }),
        (SECOND * 8, "people: endpoint=2 reset", |group, now| {
            assert!(group.reset(now, at(2)));
        }),
        (SECOND * 9, "people: endpoint=1 closed", |group, now| {
            assert!(group.force_closed(now, at(1)));
        }),
        (SECOND * 14, "people: all reset", |group, now| {
            assert!(group.reset(now, Target::All));
        }),
        (SECOND * 18, "people: all open", |group, now| {
            assert!(group.force_open(now, Target::All));
        }),
        (SECOND * 20, "people: all reset", |group, now| {
            assert!(group.reset(now, Target::All));
        }),
    ];
    let story = [
        (SECOND * 17, Failing::First),
        (SECOND * 30, Failing::Nobody),
    ];
    let mut text = String::new();
    for count in [2, 3, 10] {
        let trigger = Trigger::ConsecutiveFailures;
        let mut world = World::new(policy(BreakerScope::Endpoint, trigger), trigger, count);
        world.play(&story, &deeds);
        write_section(&mut text, &world);
    }
    assert_golden("endpoint-forced", &text);
}

/// The same for the breaker of a whole backend.
#[test]
fn a_backend_that_people_force() {
    let deeds: [Deed; 4] = [
        (SECOND, "people: backend closed", |group, now| {
            assert!(group.force_closed(now, Target::Backend));
        }),
        (SECOND * 4, "people: backend reset", |group, now| {
            assert!(group.reset(now, Target::Backend));
        }),
        (SECOND * 12, "people: backend open", |group, now| {
            assert!(group.force_open(now, Target::Backend));
        }),
        (SECOND * 14, "people: backend reset", |group, now| {
            assert!(group.reset(now, Target::Backend));
        }),
    ];
    let story = [(SECOND * 10, Failing::All), (SECOND * 30, Failing::Nobody)];
    let mut text = String::new();
    for count in [1, 3] {
        let trigger = Trigger::ConsecutiveFailures;
        let mut world = World::new(policy(BreakerScope::Backend, trigger), trigger, count);
        world.play(&story, &deeds);
        write_section(&mut text, &world);
    }
    assert_golden("backend-forced", &text);
}
