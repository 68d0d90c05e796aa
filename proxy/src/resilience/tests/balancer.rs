//! Keys, zones and newcomers, as requests meet them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Side, breaker_policy, endpoint, endpoints};
use crate::policy::{Balancer, BalancerPolicy, EndpointInfo, HashKey};
use crate::resilience::attempt::TryVerdict;
use crate::resilience::balance::{Pick, PickKind, PickRequest, ProbeEligibility, pick};
use crate::resilience::group::{Group, Target};
use crate::resilience::layout::Layout;
use crate::resilience::ring;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A backend as a sidecar of one zone has it.
struct Backend {
    group: Arc<Group>,
    balancer: Balancer,
    zone: &'static str,
    infos: Vec<EndpointInfo>,
    sides: Vec<Side>,
    layout: Layout,
    rng: fastrand::Rng,
}

impl Backend {
    fn new(now: Instant, balancer: impl Into<Balancer>, zone: &'static str) -> Self {
        let balancer = balancer.into();
        Self {
            group: Group::new(now, Some(breaker_policy()), balancer.clone()),
            balancer,
            zone,
            infos: Vec::new(),
            sides: Vec::new(),
            layout: Layout::default(),
            rng: fastrand::Rng::with_seed(9),
        }
    }

    fn tell(&mut self, now: Instant, mut infos: Vec<EndpointInfo>) {
        self.layout = Layout::arrange(&self.balancer, self.zone, &mut infos);
        let healths = self.group.set_endpoints(now, &infos);
        let side = |(health, info): (_, &EndpointInfo)| Side {
            health,
            weight: info.weight,
        };
        self.sides = healths.into_iter().zip(&infos).map(side).collect();
        self.infos = infos;
    }

    fn pick(&mut self, now: Instant, key: Option<u32>, tried: &[usize]) -> Pick {
        let request = PickRequest {
            now,
            probe: ProbeEligibility::Yes,
            closed_only: false,
            tried,
            layout: &self.layout,
            point: key.map(|key| ring::point(&key.to_be_bytes())),
        };
        pick(&self.group, &self.sides, &request, &mut self.rng).unwrap()
    }

    /// The port of the endpoint that a request goes to.
    fn port(&mut self, now: Instant, key: Option<u32>, tried: &[usize]) -> u16 {
        let index = self.pick(now, key, tried).index;
        self.infos[index].address.port()
    }

    /// How many of `count` requests, which take no time, each port gets.
    fn shares(&mut self, now: Instant, count: usize) -> Vec<usize> {
        let last = self.infos.iter().map(|info| info.address.port()).max();
        let mut shares = vec![0; usize::from(last.unwrap_or(0)) + 1];
        for _ in 0..count {
            shares[usize::from(self.port(now, None, &[]))] += 1;
        }
        shares
    }

    fn position(&self, port: u16) -> usize {
        let mut infos = self.infos.iter();
        infos.position(|info| info.address.port() == port).unwrap()
    }

    fn eject(&mut self, now: Instant, port: u16) {
        let target = Target::Endpoint(self.infos[self.position(port)].address);
        assert!(self.group.force_open(now, target));
    }
}

fn zoned(number: u16, zone: &str) -> EndpointInfo {
    EndpointInfo {
        zone: Arc::from(zone),
        ..endpoint(number, 1)
    }
}

fn hash() -> BalancerPolicy {
    BalancerPolicy::ConsistentHash(HashKey::SourceIp)
}

fn drawing() -> [BalancerPolicy; 4] {
    [
        BalancerPolicy::LeastRequest,
        BalancerPolicy::PeakEwma,
        BalancerPolicy::Random,
        BalancerPolicy::RoundRobin,
    ]
}

fn slowly(policy: BalancerPolicy) -> Balancer {
    Balancer {
        slow_start: Some(10 * SECOND),
        ..policy.into()
    }
}

fn by_zone(policy: BalancerPolicy) -> Balancer {
    Balancer {
        prefer_same_zone: true,
        ..policy.into()
    }
}

#[test]
fn a_newcomers_share_rises() {
    for policy in drawing() {
        let start = Instant::now();
        let mut backend = Backend::new(start, slowly(policy.clone()), "");
        backend.tell(start, endpoints(3));
        // All of them are new: none is slow.
        let even = backend.shares(start, 3_000);
        assert!(
            even[1..].iter().all(|share| *share > 850),
            "{policy:?} {even:?}"
        );

        backend.tell(start + 60 * SECOND, endpoints(4));
        let shares = [0, 5, 10, 60].map(|age| {
            let now = start + 60 * SECOND + age * SECOND;
            backend.shares(now, 4_000)[4]
        });
        // 0.1 / 3.1, 0.55 / 3.55, then a quarter; for two choices a comparison may double the first.
        let [first, half, whole, late] = shares;
        assert!((60..=300).contains(&first), "{policy:?} {shares:?}");
        assert!((400..=1_000).contains(&half), "{policy:?} {shares:?}");
        assert!((850..=1_150).contains(&whole), "{policy:?} {shares:?}");
        assert!((850..=1_150).contains(&late), "{policy:?} {shares:?}");
    }
}

#[test]
fn who_starts_slowly_is_known_across_updates() {
    let start = Instant::now();
    let mut backend = Backend::new(start, BalancerPolicy::Random, "");
    backend.tell(start, endpoints(2));
    backend.tell(start + SECOND, endpoints(3));
    let now = start + 2 * SECOND;
    assert!(backend.shares(now, 3_000)[3] > 850, "policy says nothing");

    // A policy that comes now holds for who has come by now.
    let balancer = slowly(BalancerPolicy::Random);
    backend
        .group
        .set_policy(now, Some(breaker_policy()), balancer.clone());
    assert!(backend.shares(now, 3_000)[3] < 500);
    // Neither the same set again nor another weight makes anybody new.
    backend.tell(
        start + 20 * SECOND,
        vec![endpoint(1, 1), endpoint(2, 1), endpoint(3, 2)],
    );
    let shares = backend.shares(start + 20 * SECOND, 4_000);
    assert!((1_850..=2_150).contains(&shares[3]), "{shares:?}");
    // Nobody stays: all are new.
    backend.tell(start + 30 * SECOND, vec![endpoint(4, 1), endpoint(5, 3)]);
    let shares = backend.shares(start + 30 * SECOND, 4_000);
    assert!((850..=1_150).contains(&shares[4]), "{shares:?}");
}

/// When all that are left have just come they share alike, however little they weigh.
#[test]
fn newcomers_alone_take_everything() {
    for policy in drawing() {
        let start = Instant::now();
        let mut backend = Backend::new(start, slowly(policy), "");
        backend.tell(start, endpoints(1));
        backend.tell(start, endpoints(3));
        backend.tell(start, vec![endpoint(2, 1), endpoint(3, 1)]);
        let shares = backend.shares(start, 2_000);
        assert!((850..=1_150).contains(&shares[2]), "{shares:?}");
    }
}

#[test]
fn a_key_belongs_to_a_newcomer_at_once() {
    let start = Instant::now();
    let mut slow = Backend::new(start, slowly(hash()), "");
    let mut quick = Backend::new(start, hash(), "");
    for backend in [&mut slow, &mut quick] {
        backend.tell(start, endpoints(2));
        backend.tell(start, endpoints(3));
    }
    let mut newcomers = 0;
    for key in 0..300 {
        let port = slow.port(start, Some(key), &[]);
        assert_eq!(port, quick.port(start, Some(key), &[]));
        newcomers += u32::from(port == 3);
    }
    assert!(newcomers > 60, "{newcomers}");
}

#[test]
fn a_heavy_one_beside_many_light_ones_has_its_share() {
    for policy in drawing() {
        let now = Instant::now();
        let mut backend = Backend::new(now, policy.clone(), "");
        let light = (1..=20).map(|number| endpoint(number, 1));
        backend.tell(now, light.chain([endpoint(21, 180)]).collect());
        let heavy = backend.shares(now, 10_000)[21];
        assert!((8_800..=9_200).contains(&heavy), "{policy:?}: {heavy}");
    }
}

#[test]
fn turns_are_exact_by_weight() {
    let now = Instant::now();
    let mut backend = Backend::new(now, BalancerPolicy::RoundRobin, "");
    backend.tell(now, vec![endpoint(1, 1), endpoint(2, 3), endpoint(3, 1)]);
    assert_eq!(backend.shares(now, 500), [0, 100, 300, 100]);
}

#[test]
fn a_request_without_a_key_goes_by_chance() {
    let now = Instant::now();
    let mut backend = Backend::new(now, hash(), "");
    backend.tell(now, vec![endpoint(1, 1), endpoint(2, 3)]);
    let shares = backend.shares(now, 4_000);
    assert!((850..=1_150).contains(&shares[1]), "{shares:?}");
}

#[test]
fn only_a_key_of_its_own_probes_an_endpoint() {
    let start = Instant::now();
    let mut backend = Backend::new(start, hash(), "");
    backend.tell(start, endpoints(3));
    let owners: Vec<u16> = (0..60)
        .map(|key| backend.port(start, Some(key), &[]))
        .collect();
    for _ in 0..5 {
        let mut rng = fastrand::Rng::with_seed(1);
        let health = &backend.sides[0].health;
        health
            .admit()
            .finish(start, MS, TryVerdict::Failure, &mut rng);
    }
    assert_eq!(backend.group.away(), 1);
    // Its keys are with others, and with the same as if it had gone.
    let mut fewer = Backend::new(start, hash(), "");
    fewer.tell(start, vec![endpoint(2, 1), endpoint(3, 1)]);
    for (key, owner) in (0..).zip(&owners) {
        let stand_in = backend.port(start, Some(key), &[]);
        assert_eq!(stand_in, fewer.port(start, Some(key), &[]));
        assert!(*owner == 1 || *owner == stand_in);
    }
    // It is due.
    let now = start + 60 * SECOND;
    for (key, owner) in (0..).zip(&owners) {
        let pick = backend.pick(now, Some(key), &[]);
        let probes = pick.kind == PickKind::Probe;
        assert_eq!(probes, *owner == 1, "key {key} of {owner}");
        assert_eq!(pick.index == 0, *owner == 1);
    }
    assert!(owners.contains(&1) && owners.contains(&2));
}

#[test]
fn the_own_zone_gets_all_until_it_cannot() {
    for policy in drawing().into_iter().chain([hash()]) {
        let now = Instant::now();
        let mut backend = Backend::new(now, by_zone(policy.clone()), "b");
        let infos = [(1, "a"), (2, "b"), (3, "b"), (4, "c"), (5, "b"), (6, "b")];
        backend.tell(now, infos.map(|(port, zone)| zoned(port, zone)).to_vec());
        let near = |shares: &[usize]| shares[2] + shares[3] + shares[5] + shares[6];
        assert_eq!(near(&backend.shares(now, 500)), 500, "{policy:?}");

        // 3 of 4 bear everything; 2 of 4 bear 70 %.
        backend.eject(now, 2);
        assert_eq!(near(&backend.shares(now, 500)), 500, "{policy:?}");
        backend.eject(now, 3);
        let shares = backend.shares(now, 4_000);
        let stayed = near(&shares);
        assert!((2_650..=2_950).contains(&stayed), "{policy:?} {shares:?}");
        assert_eq!(shares[2] + shares[3], 0);
        // The others share what leaves.
        assert!(shares[1] > 450 && shares[4] > 450, "{policy:?} {shares:?}");

        backend.eject(now, 5);
        backend.eject(now, 6);
        assert_eq!(near(&backend.shares(now, 500)), 0, "{policy:?}");
    }
}

#[test]
fn a_retry_that_has_tried_the_own_zone_goes_elsewhere() {
    for policy in drawing().into_iter().chain([hash()]) {
        let now = Instant::now();
        let mut backend = Backend::new(now, by_zone(policy), "b");
        let infos = [(1, "a"), (2, "b"), (3, "b")];
        backend.tell(now, infos.map(|(port, zone)| zoned(port, zone)).to_vec());
        for key in 0..50 {
            let first = backend.pick(now, Some(key), &[]).index;
            let second = backend.pick(now, Some(key), &[first]).index;
            let mut zone = [first, second].map(|index| backend.infos[index].address.port());
            zone.sort_unstable();
            assert_eq!(zone, [2, 3]);
            assert_eq!(backend.port(now, Some(key), &[first, second]), 1);
            // All were tried: better again than not at all.
            assert_ne!(backend.port(now, Some(key), &[0, 1, 2]), 1);
        }
    }
}

/// Keys leave a zone by a hash, so that all sidecars of the zone agree; and come back to it.
#[test]
fn the_same_keys_leave_and_come_back() {
    let now = Instant::now();
    let infos = || {
        let infos = [(1, "a"), (2, "b"), (3, "b"), (4, "a")];
        infos.map(|(port, zone)| zoned(port, zone))
    };
    let mut one = Backend::new(now, by_zone(hash()), "b");
    let mut other = Backend::new(now, by_zone(hash()), "b");
    one.tell(now, infos().to_vec());
    other.tell(now, infos().into_iter().rev().collect());
    let owners = |backend: &mut Backend| -> Vec<u16> {
        (0..1_000)
            .map(|key| backend.port(now, Some(key), &[]))
            .collect()
    };
    let whole = owners(&mut one);
    assert_eq!(whole, owners(&mut other));
    assert!(whole.iter().all(|port| [2, 3].contains(port)));

    one.eject(now, 3);
    other.eject(now, 3);
    let spilled = owners(&mut one);
    assert_eq!(spilled, owners(&mut other));
    let left = spilled.iter().filter(|port| **port != 2).count();
    assert!((250..=350).contains(&left), "{left} of 1000 left");
    assert!(spilled.contains(&1) && spilled.contains(&4) && !spilled.contains(&3));

    one.group.reset(now, Target::All);
    assert_eq!(whole, owners(&mut one));
}

/// A zone that is away entirely gets none of its keys, and is probed by them all the same.
#[test]
fn a_zone_that_is_away_is_probed() {
    let start = Instant::now();
    let mut backend = Backend::new(start, by_zone(hash()), "b");
    let infos = [(1, "a"), (2, "b"), (3, "a"), (4, "a")];
    backend.tell(start, infos.map(|(port, zone)| zoned(port, zone)).to_vec());
    for _ in 0..5 {
        let health = &backend.sides[0].health;
        health
            .admit()
            .finish(start, MS, TryVerdict::Failure, &mut backend.rng);
    }
    assert_ne!(backend.port(start, Some(1), &[]), 2);
    let pick = backend.pick(start + 60 * SECOND, Some(1), &[]);
    assert_eq!((pick.kind, pick.index), (PickKind::Probe, 0));
}

proptest! {
    /// Whatever is away or was tried: a key goes to the first that is neither, along the ring of all;
    /// two sidecars that know the same agree, in whatever order they were told.
    #[test]
    fn two_sidecars_agree(
        count in 1_u16..12,
        away in prop::collection::btree_set(1_u16..12, 0..6),
        key: u32,
        tried in prop::collection::btree_set(1_u16..12, 0..4),
        seed: u64,
    ) {
        let now = Instant::now();
        let mut shuffled = endpoints(count);
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let mut one = Backend::new(now, hash(), "a");
        let mut other = Backend::new(now, hash(), "b");
        one.tell(now, endpoints(count));
        other.tell(now, shuffled);
        let gone: Vec<u16> = away.into_iter().filter(|port| *port < count).collect();
        let untried: Vec<u16> = tried.into_iter().filter(|port| *port <= count).collect();
        let port = [&mut one, &mut other].map(|backend| {
            for port in &gone {
                backend.eject(now, *port);
            }
            let tried: Vec<_> = untried.iter().map(|port| backend.position(*port)).collect();
            backend.port(now, Some(key), &tried)
        });
        prop_assert_eq!(port[0], port[1]);
        prop_assert!(!gone.contains(&port[0]));
        let another = (1..=count).any(|port| !gone.contains(&port) && !untried.contains(&port));
        prop_assert!(!another || !untried.contains(&port[0]));
    }
}
