//! Rotations with time as an argument: whatever happens in which order, no phase is left out, and no leaf
//! that is good is ever one that somebody who heard of it does not trust.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use crate::identity::rotation::{
    CLOCK_SLACK, Heard, Kind, Next, Phase, Published, Rotation, Timing,
};

const MINUTE: Duration = Duration::from_secs(60);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

fn all_well(timing: &Timing) -> Heard {
    Heard {
        published: Published::Everywhere,
        in_step_for: Some(timing.settle),
        all_sign: true,
        former_until: None,
    }
}

#[test]
fn signing_waits_for_everybody_or_for_the_life_of_a_leaf() {
    let timing = Timing::of(60 * MINUTE);
    let rotation = Rotation::publish(start());
    let heard = all_well(&timing);
    let at = start() + 3 * MINUTE;
    assert_eq!(
        rotation.next(at, &heard, &timing),
        Next::Sign(timing.leaf_end(at))
    );
    let too_soon = Heard {
        in_step_for: Some(timing.settle / 2),
        ..heard
    };
    assert_eq!(rotation.next(at, &too_soon, &timing), Next::Wait);
    let lagging = Heard {
        in_step_for: None,
        ..heard
    };
    assert_eq!(rotation.next(at, &lagging, &timing), Next::Wait);
    let late = rotation.ends(&timing);
    assert_eq!(late, start() + 70 * MINUTE);
    assert_eq!(rotation.next(late - MINUTE, &lagging, &timing), Next::Wait);
    assert!(matches!(
        rotation.next(late, &lagging, &timing),
        Next::Sign(_)
    ));
    // Never with a root that nobody can boot from.
    let unpublished = Heard {
        published: Published::No,
        ..heard
    };
    assert_eq!(rotation.next(late, &unpublished, &timing), Next::Wait);
    let partly = Heard {
        published: Published::Partly,
        ..heard
    };
    assert_eq!(rotation.next(at, &partly, &timing), Next::Wait);
    assert!(matches!(
        rotation.next(late, &partly, &timing),
        Next::Sign(_)
    ));
}

#[test]
fn the_old_one_ends_after_its_last_leaf_by_every_clock() {
    let timing = Timing::of(60 * MINUTE);
    let until = start() + 63 * MINUTE;
    let rotation = Rotation::sign(Kind::Root, start(), until);
    let heard = all_well(&timing);
    let end = until + CLOCK_SLACK;
    assert_eq!(rotation.ends(&timing), end);
    assert_eq!(rotation.next(end - MINUTE, &heard, &timing), Next::Wait);
    assert_eq!(rotation.next(end, &heard, &timing), Next::Retire);

    // A replica that does not sign with the new one may sign with the old one, now and a moment later.
    let away = Heard {
        all_sign: false,
        ..heard
    };
    assert_eq!(
        rotation.next(end, &away, &timing),
        Next::Extend(end + timing.leaf + timing.margin)
    );
    // Or has done so, longer than was known.
    let said = Heard {
        former_until: Some(until + MINUTE),
        ..heard
    };
    assert_eq!(
        rotation.next(end, &said, &timing),
        Next::Extend(until + MINUTE)
    );
}

#[test]
fn short_leaves_have_short_waits() {
    let timing = Timing::of(Duration::from_secs(20));
    assert_eq!(timing.slack, Duration::from_secs(20));
    assert_eq!(timing.settle, Duration::from_secs(5));
    let day = Timing::of(1440 * MINUTE);
    assert_eq!((day.slack, day.settle), (CLOCK_SLACK, 2 * MINUTE));
}

/// A replica of the model: which generation it has, and its clock.
#[derive(Clone, Debug)]
struct Replica {
    /// Signs with the new one.
    signs_new: bool,
    /// Trusts the new one.
    trusts_new: bool,
    /// Its leaves by the old one, as it says.
    by_old_until: Option<SystemTime>,
    /// By how many seconds its clock is ahead.
    ahead: i64,
    /// Has not read the state: until it does, it goes on as it is.
    cut_off: bool,
}

/// A sidecar of the model.
#[derive(Clone, Debug)]
struct Sidecar {
    trusts_old: bool,
    trusts_new: bool,
    /// Its leaf: whether by the new one, and its end by the signer's clock.
    leaf: (bool, SystemTime),
    ahead: i64,
    connected: bool,
}

#[derive(Clone, Debug)]
enum Event {
    /// So many seconds go by.
    Wait(u32),
    /// A sidecar hears the bundle, and confirms it.
    Hear(usize),
    /// A sidecar gets a leaf from a replica.
    Renew(usize, usize),
    /// A sidecar loses its connection, or has it again.
    Toggle(usize),
    /// A replica reads the state.
    Read(usize),
    /// A replica is cut off from the state, or no longer.
    Cut(usize),
    /// A replica starts again: what it has signed is forgotten.
    Restart(usize),
    /// Another one leads: what was in step is not known any more.
    Elect,
}

fn event() -> impl Strategy<Value = Event> {
    let few = 0..3_usize;
    prop_oneof![
        4 => (1..5_u32).prop_map(Event::Wait),
        3 => (60..2_000_u32).prop_map(Event::Wait),
        4 => few.clone().prop_map(Event::Hear),
        4 => (few.clone(), 0..2_usize).prop_map(|(who, by)| Event::Renew(who, by)),
        1 => few.clone().prop_map(Event::Toggle),
        4 => (0..2_usize).prop_map(Event::Read),
        1 => (0..2_usize).prop_map(Event::Cut),
        1 => (0..2_usize).prop_map(Event::Restart),
        1 => Just(Event::Elect),
    ]
}

fn clock(now: SystemTime, ahead: i64) -> SystemTime {
    let by = Duration::from_secs(ahead.unsigned_abs());
    if ahead < 0 { now - by } else { now + by }
}

/// The whole: state, replicas (the first one leads), sidecars.
struct World {
    now: SystemTime,
    timing: Timing,
    rotation: Option<Rotation>,
    replicas: Vec<Replica>,
    sidecars: Vec<Sidecar>,
    in_step_since: Option<SystemTime>,
    seen: Vec<Phase>,
}

impl World {
    fn new(leaf: Duration, clocks: &[i64]) -> Self {
        let now = start();
        let timing = Timing::of(leaf);
        let replicas: Vec<Replica> = (0..2)
            .map(|at| Replica {
                signs_new: false,
                trusts_new: false,
                by_old_until: None,
                ahead: clocks[at],
                cut_off: false,
            })
            .collect();
        let sidecars = (0..3)
            .map(|at| Sidecar {
                trusts_old: true,
                trusts_new: false,
                leaf: (false, clock(now, clocks[0]) + leaf),
                ahead: clocks[2 + at],
                connected: true,
            })
            .collect();
        let rotation = Rotation::publish(clock(now, clocks[0]));
        Self {
            now,
            timing,
            rotation: Some(rotation),
            replicas,
            sidecars,
            in_step_since: None,
            seen: vec![Phase::Publish],
        }
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            // The leader looks every other second, whatever goes by.
            Event::Wait(seconds) => {
                for _ in 0..seconds.div_ceil(4) {
                    self.now += Duration::from_secs(4);
                    self.lead();
                    self.renew_what_must_be();
                    self.holds();
                }
            }
            Event::Hear(who) => self.hear(who),
            Event::Renew(who, by) => self.renew(who, by),
            Event::Toggle(who) => self.sidecars[who].connected ^= true,
            Event::Read(who) => self.read(who),
            Event::Cut(who) => self.replicas[who].cut_off ^= true,
            Event::Restart(who) => {
                // It starts only where it can read the state.
                if !self.replicas[who].cut_off {
                    self.replicas[who].by_old_until = None;
                    self.read(who);
                }
            }
            Event::Elect => self.in_step_since = None,
        }
        self.lead();
        self.holds();
    }

    fn hear(&mut self, who: usize) {
        let sidecar = &mut self.sidecars[who];
        if sidecar.connected {
            sidecar.trusts_new |= self.replicas[0].trusts_new;
            sidecar.trusts_old = self.rotation.is_some();
        }
    }

    fn renew(&mut self, who: usize, by: usize) {
        let replica = &mut self.replicas[by];
        let sidecar = &mut self.sidecars[who];
        if !sidecar.connected {
            return;
        }
        let signed = clock(self.now, replica.ahead) + self.timing.leaf;
        if !replica.signs_new {
            replica.by_old_until = replica.by_old_until.max(Some(signed));
        }
        sidecar.leaf = (replica.signs_new, signed);
    }

    /// A sidecar that is connected renews before its leaf ends by its own clock; one that was away gets
    /// what it boots from, and a new leaf.
    fn renew_what_must_be(&mut self) {
        for who in 0..self.sidecars.len() {
            let own = clock(self.now, self.sidecars[who].ahead);
            let half = self.sidecars[who].leaf.1 - self.timing.leaf / 2;
            if self.sidecars[who].connected && own >= half {
                self.renew(who, 0);
            }
        }
    }

    fn read(&mut self, who: usize) {
        let replica = &mut self.replicas[who];
        if replica.cut_off {
            return;
        }
        replica.trusts_new = true;
        replica.signs_new = self.rotation.is_none_or(|it| it.phase == Phase::Sign);
    }

    /// What the leader does: the first replica, which has what it writes.
    fn lead(&mut self) {
        let Some(rotation) = self.rotation else {
            return;
        };
        self.replicas[0].cut_off = false;
        self.read(0);
        let own = clock(self.now, self.replicas[0].ahead);
        let sidecars = self.sidecars.iter();
        let mut connected = sidecars.filter(|it| it.connected);
        let in_step =
            connected.all(|it| it.trusts_new) && self.replicas.iter().all(|it| it.trusts_new);
        self.in_step_since = in_step.then(|| self.in_step_since.unwrap_or(self.now));
        let heard = Heard {
            published: Published::Everywhere,
            in_step_for: self
                .in_step_since
                .map(|since| self.now.duration_since(since).unwrap()),
            all_sign: self.replicas.iter().all(|it| it.signs_new),
            former_until: self
                .replicas
                .iter()
                .filter(|it| it.signs_new)
                .filter_map(|it| it.by_old_until)
                .max(),
        };
        match rotation.next(own, &heard, &self.timing) {
            Next::Wait => {}
            Next::Sign(until) => {
                assert_eq!(rotation.phase, Phase::Publish);
                self.seen.push(Phase::Sign);
                self.rotation = Some(Rotation::sign(Kind::Root, own, until));
                self.read(0);
            }
            Next::Extend(until) => {
                assert!(until > rotation.old_until);
                assert_eq!(rotation.phase, Phase::Sign);
                self.rotation = Some(Rotation {
                    old_until: until,
                    ..rotation
                });
            }
            Next::Retire => {
                assert_eq!(rotation.phase, Phase::Sign);
                assert_eq!(self.seen, [Phase::Publish, Phase::Sign]);
                self.rotation = None;
            }
        }
    }

    /// Nobody who is connected and has heard of the bundle meets a good leaf that it does not trust; and
    /// what is retired nobody has any more.
    fn holds(&self) {
        for (at, holder) in self.sidecars.iter().enumerate() {
            let (by_new, end) = holder.leaf;
            for (of, peer) in self.sidecars.iter().enumerate() {
                let is_good = clock(self.now, peer.ahead) < end;
                let heard = peer.connected && peer.trusts_new;
                let trusted = if by_new {
                    peer.trusts_new
                } else {
                    peer.trusts_old
                };
                assert!(
                    !is_good || !heard || trusted,
                    "sidecar {of} does not trust the leaf of {at} at {:?}, {:?}",
                    self.now.duration_since(start()),
                    self.rotation,
                );
            }
            let is_good = self
                .sidecars
                .iter()
                .any(|peer| clock(self.now, peer.ahead) < end);
            assert!(
                self.rotation.is_some() || by_new || !is_good,
                "the old one was forgotten while sidecar {at} had a good leaf of it"
            );
        }
    }
}

proptest! {
    /// Leaves of an hour, clocks up to ten minutes apart, two replicas, anything in any order.
    #[test]
    fn no_good_leaf_is_without_trust(
        clocks in prop::collection::vec(-300..=300_i64, 5),
        events in prop::collection::vec(event(), 1..60),
        minutes in prop_oneof![Just(60_u32), 20..600_u32],
    ) {
        let mut world = World::new(minutes * MINUTE, &clocks);
        world.lead();
        for event in &events {
            world.happens(event);
        }
    }

    /// Once everybody is reached, it ends, and no later than it says.
    #[test]
    fn it_ends(clocks in prop::collection::vec(-300..=300_i64, 5)) {
        let mut world = World::new(60 * MINUTE, &clocks);
        world.read(1);
        for who in 0..3 {
            world.hear(who);
        }
        for _ in 0..60 * 4 {
            world.read(1);
            for who in 0..3 {
                world.hear(who);
            }
            world.happens(&Event::Wait(60));
        }
        prop_assert!(world.rotation.is_none(), "{:?}", world.rotation);
        prop_assert!(world.sidecars.iter().all(|it| it.leaf.0));
    }
}
