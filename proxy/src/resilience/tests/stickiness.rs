//! Ten thousand fixed keys of each kind through a canary's life. Counts and digests were computed
//! by another implementation of the hash and of the mapping; they never change.

use super::service;
use crate::policy::WeightedBackend;
use crate::resilience::split::{KeyHasher, choose};

const KEYS: u128 = 10_000;
/// FNV-1a, 64 bit: offset basis and prime.
const FNV: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0100_0000_01b3);

/// A canary that grows at the cost of one backend: the last row clears it.
const TWO: [&[u32]; 5] = [&[95, 5], &[80, 20], &[50, 50], &[0, 100], &[100, 0]];
/// The same with another version between: both of its borders only ever move down.
const THREE: [&[u32]; 5] = [
    &[85, 10, 5],
    &[60, 20, 20],
    &[20, 30, 50],
    &[0, 0, 100],
    &[50, 50, 0],
];

/// What one kind of key comes to.
struct Golden {
    kind: &'static str,
    key: fn(u128) -> String,
    /// Keys on each backend, step by step.
    two: [[usize; 2]; 5],
    three: [[usize; 3]; 5],
    /// Of every key's backend, step by step.
    digests: [u64; 2],
}

const GOLDEN: [Golden; 3] = [
    Golden {
        kind: "header",
        key: |number| format!("user-{number}"),
        two: [
            [9501, 499],
            [7961, 2039],
            [4913, 5087],
            [0, 10_000],
            [10_000, 0],
        ],
        three: [
            [8465, 1036, 499],
            [5936, 2025, 2039],
            [1927, 2986, 5087],
            [0, 0, 10_000],
            [4913, 5087, 0],
        ],
        digests: [0x561f_8272_f69c_dba6, 0x3e06_7bc7_4c58_c059],
    },
    Golden {
        kind: "cookie",
        // As long and as wild as what the sidecar makes.
        key: |number| {
            let wild = number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            format!("{wild:032x}")
        },
        two: [
            [9486, 514],
            [8003, 1997],
            [5077, 4923],
            [0, 10_000],
            [10_000, 0],
        ],
        three: [
            [8522, 964, 514],
            [6098, 1905, 1997],
            [2002, 3075, 4923],
            [0, 0, 10_000],
            [5077, 4923, 0],
        ],
        digests: [0x800b_5cc3_20e5_cd0f, 0x188c_2722_24ba_c288],
    },
    Golden {
        kind: "identity",
        key: |number| format!("shop/web-{number}"),
        two: [
            [9517, 483],
            [7933, 2067],
            [4938, 5062],
            [0, 10_000],
            [10_000, 0],
        ],
        three: [
            [8451, 1066, 483],
            [5953, 1980, 2067],
            [1970, 2968, 5062],
            [0, 0, 10_000],
            [4938, 5062, 0],
        ],
        digests: [0xab92_48e1_c11d_5c39, 0x7256_9d5a_0ed7_8bc3],
    },
];

fn backends(weights: &[u32]) -> Vec<WeightedBackend> {
    let side = |(backend, &weight)| WeightedBackend::plain(backend, weight);
    weights.iter().enumerate().map(side).collect()
}

/// Every key's backend at each step.
fn sides(key: fn(u128) -> String, steps: &[&[u32]]) -> Vec<Vec<usize>> {
    let hasher = KeyHasher::new(&service("checkout"));
    let points: Vec<u64> = (0..KEYS)
        .map(|number| hasher.hash(key(number).as_bytes()))
        .collect();
    let step = |weights: &&[u32]| {
        let backends = backends(weights);
        let side = |point: &u64| choose(&backends, *point).expect("some weight is not 0");
        points.iter().map(side).collect()
    };
    steps.iter().map(step).collect()
}

fn counts(sides: &[usize], backends: usize) -> Vec<usize> {
    let of = |backend| sides.iter().filter(|side| **side == backend).count();
    (0..backends).map(of).collect()
}

fn digest(steps: &[Vec<usize>]) -> u64 {
    steps.iter().flatten().fold(FNV.0, |digest, side| {
        (digest ^ *side as u64).wrapping_mul(FNV.1)
    })
}

/// While the canary grows, no key goes back to an earlier backend.
fn assert_nobody_goes_back(kind: &str, steps: &[Vec<usize>]) {
    for (step, pair) in steps.windows(2).enumerate() {
        let back = pair[0].iter().zip(&pair[1]).filter(|(old, new)| new < old);
        assert_eq!(back.count(), 0, "{kind}: step {step}");
    }
}

#[test]
fn a_growing_canary_loses_no_key_and_weight_0_clears_it() {
    for golden in GOLDEN {
        let kind = golden.kind;
        for (steps, digest_of_all) in [(TWO, golden.digests[0]), (THREE, golden.digests[1])] {
            let sides = sides(golden.key, &steps);
            let backends = steps[0].len();
            for (step, sides) in sides.iter().enumerate() {
                let expected = if backends == 2 {
                    golden.two[step].to_vec()
                } else {
                    golden.three[step].to_vec()
                };
                assert_eq!(
                    counts(sides, backends),
                    expected,
                    "{kind}: {:?}",
                    steps[step]
                );
            }
            assert_eq!(digest(&sides), digest_of_all, "{kind} of {backends}");
            let (growing, cleared) = sides.split_at(4);
            assert_nobody_goes_back(kind, growing);
            assert!(cleared[0].iter().all(|side| *side < backends - 1), "{kind}");
        }
    }
}

#[test]
fn a_way_back_is_the_way_there() {
    // Who was moved by a step is moved back by its undoing, and nobody else: an operator who
    // hesitates disturbs only those who had just changed.
    for golden in GOLDEN {
        let sides = sides(golden.key, &[TWO[1], TWO[2], TWO[1]]);
        assert_eq!(sides[0], sides[2], "{}", golden.kind);
        let moved = sides[0].iter().zip(&sides[1]).filter(|(a, b)| a != b);
        assert_eq!(moved.count(), golden.two[2][1] - golden.two[1][1]);
    }
}
