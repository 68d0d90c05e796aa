use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::endpoint;
use crate::policy::{Balancer, BalancerPolicy, EndpointInfo, HashKey};
use crate::resilience::layout::{Layout, stays};
use crate::resilience::ring;
use crate::resilience::slow_start::{FLOOR, share};

fn zoned(zones: &[&str]) -> Vec<EndpointInfo> {
    let of = |(number, zone): (u16, &&str)| EndpointInfo {
        zone: Arc::from(*zone),
        ..endpoint(number, 1)
    };
    (1..).zip(zones).map(of).collect()
}

fn by_zone(policy: BalancerPolicy) -> Balancer {
    Balancer {
        prefer_same_zone: true,
        ..policy.into()
    }
}

#[test]
fn the_own_zone_comes_first() {
    let mut infos = zoned(&["a", "b", "a", "", "b"]);
    let layout = Layout::arrange(&by_zone(BalancerPolicy::Random), "b", &mut infos);
    let ports: Vec<_> = infos.iter().map(|info| info.address.port()).collect();
    assert_eq!(ports, [2, 5, 1, 3, 4]);
    assert_eq!(layout.near(5).unwrap().range, 0..2);
    assert_eq!(layout.far(5).range, 2..5);
}

/// Nobody here, everybody here, here unknown, or not asked for: all are alike, in their order.
#[test]
fn where_zones_make_no_difference_nothing_is_arranged() {
    let random = || by_zone(BalancerPolicy::Random);
    for (balancer, own, zones) in [
        (random(), "c", ["a", "b", "a"]),
        (random(), "a", ["a", "a", "a"]),
        (random(), "", ["", "b", ""]),
        (BalancerPolicy::Random.into(), "b", ["a", "b", "a"]),
    ] {
        let mut infos = zoned(&zones);
        let before = infos.clone();
        let layout = Layout::arrange(&balancer, own, &mut infos);
        assert_eq!(infos, before, "{own:?} {zones:?}");
        assert_eq!(layout.near(3), None);
        assert_eq!(layout.far(3).range, 0..3);
    }
}

#[test]
fn each_side_has_its_own_ring() {
    let mut infos = zoned(&["a", "b", "a", "b", "a"]);
    let key = HashKey::SourceIp;
    let balancer = by_zone(BalancerPolicy::ConsistentHash(key));
    let layout = Layout::arrange(&balancer, "b", &mut infos);
    for key in 0..200_u32 {
        let point = ring::point(&key.to_be_bytes());
        for side in [layout.near(5).unwrap(), layout.far(5)] {
            assert!(
                layout
                    .owners(&side, point)
                    .all(|at| side.range.contains(&at))
            );
            assert!(layout.owners(&side, point).next().is_some());
        }
    }
}

/// The share that stays, from the whole range of points.
fn staying(count: usize, usable: usize) -> f64 {
    const DRAWS: u32 = 1 << 12;
    let step = u32::MAX / DRAWS;
    let stayed = (0..DRAWS).filter(|draw| stays(count, usable, draw * step));
    stayed.count() as f64 / f64::from(DRAWS)
}

#[test]
fn spill_over_by_usable_share() {
    for (count, usable, expected) in [
        (7, 7, 1.0),
        (7, 5, 1.0),
        (7, 4, 0.8),
        (10, 5, 0.7),
        (2, 1, 0.7),
        (4, 1, 0.35),
        (1, 0, 0.0),
        (7, 0, 0.0),
    ] {
        let share = staying(count, usable);
        assert!(
            (share - expected).abs() < 0.001,
            "{usable}/{count}: {share}"
        );
    }
}

#[test]
fn a_newcomer_rises_in_a_straight_line() {
    let at = Instant::now();
    let over = Duration::from_secs(10);
    for (seconds, expected) in [(0, 0.1), (5, 0.55), (9, 0.91), (10, 1.0), (1_000, 1.0)] {
        let share = share(at, at + Duration::from_secs(seconds), over);
        assert!((share - expected).abs() < 1e-6, "{seconds}: {share}");
    }
    // A clock of another thread may lie behind.
    assert!((share(at + over, at, over) - FLOOR).abs() < 1e-6);
}

proptest! {
    /// A request that stays with fewer usable endpoints stays with more.
    #[test]
    fn who_leaves_last_comes_back_first(count in 1_usize..200, usable in 0_usize..200, point: u32, other: u32) {
        let usable = usable.min(count);
        if stays(count, usable, point) {
            prop_assert!(usable > 0);
            prop_assert!(usable == count || stays(count, usable + 1, point));
            prop_assert!(stays(count, usable, point.min(other)));
        }
        prop_assert!(stays(count, count, point));
    }

    #[test]
    fn a_share_only_rises(over in 1_u64..900_000, first in 0_u64..1_000_000, second in 0_u64..1_000_000) {
        let at = Instant::now();
        let millis = Duration::from_millis;
        let (early, late) = (first.min(second), first.max(second));
        let early = share(at, at + millis(early), millis(over));
        let late = share(at, at + millis(late), millis(over));
        prop_assert!(FLOOR <= early && early <= late && late <= 1.0);
    }

    /// Whatever the zones: both sides together are all endpoints, each once.
    #[test]
    fn sides_are_a_partition(zones in prop::collection::vec(0_u8..3, 0..20)) {
        let names: Vec<_> = zones.iter().map(u8::to_string).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut infos = zoned(&names);
        let balancer = by_zone(BalancerPolicy::ConsistentHash(HashKey::SourceIp));
        let layout = Layout::arrange(&balancer, "1", &mut infos);
        let count = infos.len();
        let near = layout.near(count).map_or(0..0, |side| side.range);
        prop_assert_eq!(near.end, layout.far(count).range.start);
        prop_assert_eq!(layout.far(count).range.end, count);
        prop_assert!(infos[near.clone()].iter().all(|info| &*info.zone == "1"));
        if !near.is_empty() {
            prop_assert!(infos[near.end..].iter().all(|info| &*info.zone != "1"));
        }
        let mut ports: Vec<_> = infos.iter().map(|info| info.address.port()).collect();
        ports.sort_unstable();
        prop_assert!(ports.into_iter().eq(1..=count as u16));
    }
}
