use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use crate::resilience::ring::{self, MAX_POINTS, MAX_STEPS, Member, POINTS_PER_WEIGHT, Ring};

const KEYS: u32 = 20_000;

fn address(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 8080))
}

/// Members by their number and weight, in this order.
fn ring(members: &[(u32, u32)]) -> Ring {
    let member = |(position, &(number, weight)): (u32, &(u32, u32))| Member {
        position,
        address: address(number),
        weight,
    };
    Ring::new((0..).zip(members).map(member).collect())
}

/// The number of the member that a key belongs to.
fn owner(ring: &Ring, members: &[(u32, u32)], key: &str) -> u32 {
    members[ring.owners(ring::point(key.as_bytes())).next().unwrap()].0
}

fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|key| format!("user-{key}"))
}

/// How many keys each member has.
fn shares(members: &[(u32, u32)]) -> BTreeMap<u32, u32> {
    let ring = ring(members);
    let mut shares = BTreeMap::new();
    for key in keys() {
        *shares.entry(owner(&ring, members, &key)).or_default() += 1;
    }
    shares
}

/// Frozen: a sidecar of another version must send every key to the same endpoint. The values come from
/// another program, which follows the documentation of the module and nothing else.
#[test]
fn golden_points_and_owners() {
    let points: Vec<u64> = ["", "a", "user-1", "user-2", "shop/web-1"]
        .map(|key| ring::point(key.as_bytes()))
        .to_vec();
    assert_eq!(points, GOLDEN_POINTS);
    assert_eq!(ring::spread(0), GOLDEN_SPREAD);
    let members = [(1, 1), (2, 1), (3, 2)];
    let of_v4 = ring(&members);
    let owners: Vec<u32> = (0..16)
        .map(|key| owner(&of_v4, &members, &format!("user-{key}")))
        .collect();
    assert_eq!(owners, GOLDEN_OWNERS);

    let v6 = |position, text: &str| Member {
        position,
        address: text.parse().unwrap(),
        weight: 1,
    };
    let of_v6 = Ring::new(vec![v6(0, "[fd42::1]:80"), v6(1, "[fd42::1]:81")]);
    let owners: Vec<usize> = (0..16)
        .map(|key| {
            let point = ring::point(format!("user-{key}").as_bytes());
            of_v6.owners(point).next().unwrap()
        })
        .collect();
    assert_eq!(owners, GOLDEN_V6);
}

const GOLDEN_POINTS: [u64; 5] = [
    16_708_062_277_760_672_289,
    5_366_122_995_683_542_741,
    11_068_567_427_358_659_382,
    14_335_107_002_834_210_752,
    1_186_267_967_203_539_454,
];
const GOLDEN_SPREAD: u32 = 3_338_596_622;
const GOLDEN_OWNERS: [u32; 16] = [3, 3, 1, 1, 1, 3, 2, 2, 2, 1, 3, 3, 3, 1, 2, 3];
const GOLDEN_V6: [usize; 16] = [0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1, 0];

/// Every share is within 30 % of what it should be: almost five standard deviations.
#[test]
fn keys_are_balanced() {
    for first in (0..4_000).step_by(200) {
        let members: Vec<_> = (first..first + 10).map(|number| (number, 1)).collect();
        let fair = KEYS / 10;
        for (number, share) in shares(&members) {
            let off = share.abs_diff(fair) * 100 / fair;
            assert!(off <= 30, "{share} keys of {fair} at {number}");
        }
    }
}

#[test]
fn weights_are_shares() {
    for first in (0..4_000).step_by(200) {
        let members = [(first, 1), (first + 1, 3), (first + 2, 6)];
        let shares = shares(&members);
        for (number, weight) in members {
            let fair = KEYS * weight / 10;
            let off = shares[&number].abs_diff(fair) * 100 / fair;
            assert!(off <= 30, "{} keys of {fair} at {number}", shares[&number]);
        }
    }
}

#[test]
fn memory_is_bounded() {
    let alone = ring(&[(1, 1)]);
    assert_eq!(alone.len() as u64, POINTS_PER_WEIGHT);
    let heavy = ring(&[(1, u32::MAX), (2, 1), (3, 1)]);
    assert!(heavy.len() as u64 <= MAX_POINTS, "{}", heavy.len());
    let many: Vec<_> = (0..10_000).map(|number| (number, 1)).collect();
    let many = ring(&many);
    let most = MAX_POINTS as usize;
    assert!((most / 4..=most).contains(&many.len()), "{}", many.len());
    assert!(ring(&[]).is_empty());
    assert!(ring(&[]).owners(7).next().is_none());
}

#[test]
fn the_walk_is_once_round_and_bounded() {
    let small = ring(&[(1, 1), (2, 1)]);
    let walk: Vec<_> = small.owners(u64::MAX).collect();
    assert_eq!(walk.len(), small.len());
    assert!(walk.contains(&0) && walk.contains(&1));
    let large: Vec<_> = (0..100).map(|number| (number, 1)).collect();
    assert_eq!(ring(&large).owners(0).count(), MAX_STEPS);
}

/// A set whose ring crosses the bound: about half of the keys stay.
#[test]
fn halving_moves_about_half_of_the_keys() {
    let mut members: Vec<_> = (0..1_024).map(|number| (number, 1)).collect();
    let before = ring(&members);
    assert_eq!(before.len() as u64, MAX_POINTS);
    members.push((1_024, 1));
    let after = ring(&members);
    assert!(after.len() as u64 <= MAX_POINTS / 2 + POINTS_PER_WEIGHT);
    let stayed = keys()
        .filter(|key| owner(&before, &members, key) == owner(&after, &members, key))
        .count();
    let percent = stayed * 100 / KEYS as usize;
    assert!((45..=55).contains(&percent), "{percent} %");
}

fn sets() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::btree_map(0_u32..100_000, 1_u32..5, 2..20)
        .prop_map(|members| members.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn order_makes_no_difference(members in sets(), seed: u64) {
        let mut shuffled = members.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let (one, other) = (ring(&members), ring(&shuffled));
        for key in keys().take(500) {
            prop_assert_eq!(owner(&one, &members, &key), owner(&other, &shuffled, &key));
        }
    }

    /// The keys of one that goes move, to others, and no other key does; and back when it comes again.
    #[test]
    fn only_keys_of_the_removed_move(members in sets(), which: prop::sample::Index) {
        let mut fewer = members.clone();
        let (gone, weight) = fewer.remove(which.index(members.len()));
        let (with, without) = (ring(&members), ring(&fewer));
        let mut moved = 0;
        for key in keys() {
            let before = owner(&with, &members, &key);
            let after = owner(&without, &fewer, &key);
            if before == gone {
                moved += 1;
                // Whoever comes next along the ring: as if it had only been ejected.
                let next = with
                    .owners(ring::point(key.as_bytes()))
                    .map(|position| members[position].0)
                    .find(|number| *number != gone);
                prop_assert_eq!(Some(after), next);
            } else {
                prop_assert_eq!(before, after);
            }
        }
        // Read backwards: a newcomer takes about its share.
        let total: u32 = members.iter().map(|(_, weight)| weight).sum();
        let fair = KEYS * weight / total;
        prop_assert!((fair / 2..=fair * 3 / 2).contains(&moved), "{} of {}", moved, fair);
    }

    /// More weight takes keys from others, and gives none away.
    #[test]
    fn a_growing_weight_only_takes(members in sets(), which: prop::sample::Index) {
        let mut grown = members.clone();
        let index = which.index(members.len());
        grown[index].1 += 2;
        let (before, after) = (ring(&members), ring(&grown));
        for key in keys().take(5_000) {
            let now = owner(&after, &grown, &key);
            prop_assert!(now == members[index].0 || now == owner(&before, &members, &key));
        }
    }
}
