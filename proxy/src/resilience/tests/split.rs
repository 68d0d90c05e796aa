use proptest::prelude::*;

use super::service;
use crate::policy::WeightedBackend;
use crate::resilience::split::{KeyHasher, choose, next_when_empty};

fn backends(weights: &[u32]) -> Vec<WeightedBackend> {
    let side = |(backend, &weight)| WeightedBackend {
        backend,
        weight,
        matches: Vec::new(),
    };
    weights.iter().enumerate().map(side).collect()
}

/// Whether the sum of weights from `position` to the end shrinks as a share of the total.
fn share_shrinks(before: &[u32], after: &[u32], position: usize) -> bool {
    let sum = |weights: &[u32]| weights.iter().map(|&w| u128::from(w)).sum::<u128>();
    sum(&after[position..]) * sum(before) < sum(&before[position..]) * sum(after)
}

#[test]
fn hashes_are_frozen() {
    let hasher = KeyHasher::new(&service("checkout"));
    assert_eq!(hasher.hash(b""), GOLDEN[0]);
    assert_eq!(hasher.hash(b"user-1"), GOLDEN[1]);
    assert_eq!(hasher.hash(b"user-2"), GOLDEN[2]);
    assert_eq!(KeyHasher::new(&service("cart")).hash(b"user-1"), GOLDEN[3]);
}

/// Computed by another implementation of SipHash-1-3.
const GOLDEN: [u64; 4] = [
    0xd390_e451_5f81_4ca7,
    0xdf47_da32_d5a8_29f1,
    0x7fcb_1c32_ff33_2d75,
    0xff0d_cd1e_9e60_21ad,
];

#[test]
fn the_mapping_is_frozen() {
    let half = 1 << 63;
    let cases: [(&[u32], u64, Option<usize>); 9] = [
        (&[1, 1], half - 1, Some(0)),
        (&[1, 1], half, Some(1)),
        (&[90, 10], u64::MAX, Some(1)),
        (&[90, 10], 0, Some(0)),
        (&[0, 10], 0, Some(1)),
        (&[10, 0], u64::MAX, Some(0)),
        (&[1, 0, 1], half, Some(2)),
        (&[0, 0], half, None),
        (&[u32::MAX, u32::MAX], half, Some(1)),
    ];
    for (weights, point, expected) in cases {
        assert_eq!(choose(&backends(weights), point), expected, "{weights:?}");
    }
}

#[test]
fn keys_spread_by_weight() {
    let (hasher, sides) = (KeyHasher::new(&service("checkout")), backends(&[90, 10]));
    let second = (0..10_000)
        .filter(|user| choose(&sides, hasher.hash(format!("user-{user}").as_bytes())) == Some(1))
        .count();
    assert!((850..=1_150).contains(&second), "{second}");
}

#[test]
fn an_empty_side_is_skipped_for_the_next() {
    let sides = backends(&[1, 1, 0, 1]);
    assert_eq!(next_when_empty(&sides, 1, |_| true), Some(3));
    assert_eq!(
        next_when_empty(&sides, 3, |side| side.backend != 0),
        Some(1)
    );
    assert_eq!(next_when_empty(&sides, 0, |_| false), None);
    assert_eq!(next_when_empty(&sides[..1], 0, |_| true), None);
}

proptest! {
    #[test]
    fn no_key_moves_to_an_earlier_backend(
        (before, after) in (1_usize..6).prop_flat_map(|n| {
            let weights = || prop::collection::vec(0_u32..200, n);
            (weights(), weights())
        }),
        points in prop::collection::vec(any::<u64>(), 32),
    ) {
        let (old, new) = (backends(&before), backends(&after));
        for point in points {
            let (Some(from), Some(to)) = (choose(&old, point), choose(&new, point)) else {
                continue;
            };
            for position in 0..=from {
                prop_assert!(to >= position || share_shrinks(&before, &after, position));
            }
        }
    }

    #[test]
    fn two_backends_never_flip_back(mut steps in prop::collection::vec(0_u32..=100, 2..8), point: u64) {
        steps.sort_unstable();
        let sides = steps.iter().map(|&w| choose(&backends(&[100 - w, w]), point));
        prop_assert!(sides.collect::<Vec<_>>().is_sorted());
    }

    #[test]
    fn weight_zero_clears(weights in prop::collection::vec(0_u32..3, 1..6), point: u64) {
        match choose(&backends(&weights), point) {
            Some(index) => prop_assert!(weights[index] > 0),
            None => prop_assert!(weights.iter().all(|&weight| weight == 0)),
        }
    }
}
