//! The election on simulated replicas: clocks that differ, answers that are late or lost, crashes.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::Timing;
use super::election::{Act, Election, Record};

const TIMING: fn() -> Timing = || Timing::of(super::DEFAULT_LEASE);

fn record(holder: &str, version: &str) -> Record {
    Record {
        holder: holder.to_owned(),
        lease: super::DEFAULT_LEASE,
        version: version.to_owned(),
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn the_standard_timing_is_that_of_kubernetes() {
    let timing = TIMING();
    assert_eq!(timing.lease, seconds(15));
    assert_eq!(timing.renew_deadline, seconds(10));
    assert_eq!(timing.retry, seconds(2));
    assert_eq!(Timing::of(seconds(0)).lease, super::MIN_LEASE);
    assert_eq!(Timing::of(seconds(86_400)).lease, super::MAX_LEASE);
}

#[test]
fn a_holder_leads_from_when_it_asked_until_its_deadline() {
    let start = Instant::now();
    let mut election = Election::new("a".to_owned(), TIMING());
    election.saw(None, start);
    assert_eq!(election.act(start), Act::Create);
    assert!(!election.leads(start));

    election.wrote("1".to_owned(), start);
    assert!(election.leads(start + seconds(9)));
    assert!(
        !election.leads(start + seconds(10)),
        "whenever the answer came"
    );
    assert_eq!(election.act(start), Act::Replace("1".to_owned()), "renewed");
}

#[test]
fn others_wait_from_when_they_saw_the_last_change() {
    let start = Instant::now();
    let mut election = Election::new("b".to_owned(), TIMING());
    assert_eq!(election.runs_out(), None);
    election.saw(Some(record("a", "1")), start);
    election.saw(Some(record("a", "1")), start + seconds(14));
    assert_eq!(election.runs_out(), Some(start + seconds(15)));
    assert_eq!(election.act(start + seconds(14)), Act::Wait);
    let due = Act::Replace("1".to_owned());
    assert_eq!(election.act(start + seconds(15)), due);
    election.saw(Some(record("a", "2")), start + seconds(15));
    assert_eq!(election.act(start + seconds(29)), Act::Wait);
    // Given back: at once.
    election.saw(Some(record("", "3")), start + seconds(29));
    assert_eq!(election.runs_out(), None);
    let due = Act::Replace("3".to_owned());
    assert_eq!(election.act(start + seconds(29)), due);
}

#[test]
fn who_sees_another_holder_leads_no_longer() {
    let start = Instant::now();
    let mut election = Election::new("a".to_owned(), TIMING());
    election.wrote("1".to_owned(), start);
    // Somebody else has written something, but it still says the same holder.
    election.saw(Some(record("a", "2")), start + seconds(1));
    assert!(election.leads(start + seconds(1)));
    election.saw(Some(record("b", "3")), start + seconds(2));
    assert!(!election.leads(start + seconds(2)));
    assert_eq!(election.resign(), None, "nothing of its own to give back");
}

#[test]
fn a_lease_that_vanished_still_holds_for_those_who_saw_it() {
    let start = Instant::now();
    let mut election = Election::new("b".to_owned(), TIMING());
    election.saw(Some(record("a", "1")), start);
    election.saw(None, start + seconds(1));
    assert_eq!(election.act(start + seconds(14)), Act::Wait);
    assert_eq!(election.act(start + seconds(15)), Act::Create);
    // Its holder makes it again at once.
    let mut holder = Election::new("a".to_owned(), TIMING());
    holder.wrote("1".to_owned(), start);
    holder.saw(None, start + seconds(1));
    assert_eq!(holder.act(start + seconds(1)), Act::Create);
    assert!(holder.leads(start + seconds(1)));
}

#[test]
fn resigning_names_what_is_to_be_given_back() {
    let start = Instant::now();
    let mut election = Election::new("a".to_owned(), TIMING());
    election.wrote("7".to_owned(), start);
    assert_eq!(election.resign().as_deref(), Some("7"));
    assert!(!election.leads(start));
}

/// A replica of the simulation. Its clock has its own zero and its own speed.
struct Replica {
    election: Election,
    zero: Instant,
    speed_percent: u64,
    /// What its request will do, and when (in the world's time): reach the server, and be answered.
    flight: Option<Flight>,
    next_round: u64,
    name: String,
    lives: u32,
}

struct Flight {
    act: Option<Act>,
    asked: Instant,
    arrives: u64,
    answered: u64,
    lost: bool,
    outcome: Option<Result<Option<Record>, ()>>,
}

struct World {
    record: Option<Record>,
    version: u64,
}

impl Replica {
    fn clock(&self, world_ms: u64) -> Instant {
        self.zero + Duration::from_millis(world_ms * self.speed_percent / 100)
    }

    fn ask(&mut self, at: u64, act: Option<Act>, chance: Chance) {
        self.flight = Some(Flight {
            act,
            asked: self.clock(at),
            arrives: at + chance.there,
            answered: at + chance.there + chance.back,
            lost: chance.lost,
            outcome: None,
        });
    }

    /// One millisecond: what arrives, what is answered, what is begun.
    fn turn(&mut self, at: u64, world: &mut World, chance: Chance) {
        let me = self.election_name();
        if let Some(flight) = &mut self.flight {
            if flight.outcome.is_none() && at >= flight.arrives {
                flight.outcome = Some(world.handle(&me, flight.act.as_ref()));
            }
            if at < flight.answered {
                return;
            }
            let flight = self.flight.take().expect("it was there");
            let now = self.clock(at);
            let retry = TIMING().retry.as_millis() as u64;
            self.next_round = at + retry;
            if flight.lost {
                return;
            }
            match (flight.act, flight.outcome.expect("it arrived before")) {
                (None, Ok(record)) => {
                    self.election.saw(record, now);
                    match self.election.act(now) {
                        Act::Wait => {}
                        act => self.ask(at, Some(act), chance),
                    }
                }
                (Some(_), Ok(record)) => {
                    let record = record.expect("what was written");
                    self.election.wrote(record.version, flight.asked);
                }
                (_, Err(())) => self.ask(at, None, chance),
            }
        } else if at >= self.next_round {
            let now = self.clock(at);
            let act = self.election.leads(now).then(|| self.election.act(now));
            self.ask(at, act, chance);
        }
    }

    fn election_name(&self) -> String {
        format!("{}-{}", self.name, self.lives)
    }

    /// The process ends without a word, and another one starts in its place. What it had on the way
    /// still arrives.
    fn crash(&mut self, at: u64, world: &mut World) {
        let me = self.election_name();
        if let Some(flight) = self.flight.take().filter(|flight| flight.outcome.is_none()) {
            let _ = world.handle(&me, flight.act.as_ref());
        }
        self.lives += 1;
        self.election = Election::new(self.election_name(), TIMING());
        self.next_round = at;
    }
}

impl World {
    fn handle(&mut self, me: &str, act: Option<&Act>) -> Result<Option<Record>, ()> {
        let version = self.record.as_ref().map(|record| record.version.clone());
        match act {
            None => return Ok(self.record.clone()),
            Some(Act::Create) if version.is_none() => {}
            Some(Act::Replace(over)) if Some(over) == version.as_ref() => {}
            Some(_) => return Err(()),
        }
        self.version += 1;
        self.record = Some(record(me, &self.version.to_string()));
        Ok(self.record.clone())
    }
}

#[derive(Clone, Copy)]
struct Chance {
    there: u64,
    back: u64,
    lost: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn never_two_lead_at_once(
        seed in any::<u64>(),
        speeds in prop::collection::vec(85_u64..=115, 2..5),
        loss_percent in 0_u32..60,
        slowest in 1_u64..9_000,
        crashes in 0_u64..6,
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let base = Instant::now();
        let mut replicas: Vec<Replica> = speeds.iter().enumerate().map(|(index, &speed)| Replica {
            election: Election::new(format!("r{index}-0"), TIMING()),
            zero: base + Duration::from_secs(random.u64(0..1_000_000)),
            speed_percent: speed,
            flight: None,
            next_round: random.u64(0..5_000),
            name: format!("r{index}"),
            lives: 0,
        }).collect();
        let mut world = World { record: None, version: 0 };
        const END: u64 = 180_000;
        let crash_times: Vec<u64> = (0..crashes).map(|_| random.u64(0..END)).collect();
        let mut led = 0_u64;
        for at in 0..END {
            for replica in &mut replicas {
                let chance = Chance {
                    there: random.u64(0..slowest),
                    back: random.u64(0..slowest),
                    lost: random.u32(0..100) < loss_percent,
                };
                replica.turn(at, &mut world, chance);
            }
            if crash_times.contains(&at) {
                let index = random.usize(0..replicas.len());
                replicas[index].crash(at, &mut world);
            }
            let leaders = replicas.iter().filter(|replica| replica.election.leads(replica.clock(at)));
            let leaders = leaders.count();
            prop_assert!(leaders <= 1, "{leaders} lead at {at} ms");
            led += leaders as u64;
        }
        // With a network that mostly works somebody does lead, most of the time.
        if slowest < 500 && loss_percent < 10 && crashes == 0 {
            prop_assert!(led > END * 8 / 10, "only {led} ms of {END}");
        }
    }
}
