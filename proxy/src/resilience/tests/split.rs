use proptest::prelude::*;

use super::service;
use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::{CookieMatch, HeaderMatch, SplitMatch, ValueMatch, WeightedBackend};
use crate::resilience::split::{KeyHasher, choose, forced, next_when_empty};

fn backends(weights: &[u32]) -> Vec<WeightedBackend> {
    let side = |(backend, &weight)| WeightedBackend::plain(backend, weight);
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

fn header(name: &'static str, value: &'static str) -> HeaderMatch {
    HeaderMatch {
        name: HeaderName::from_static(name),
        value: ValueMatch::Exact(HeaderValue::from_static(value)),
    }
}

fn cookie(name: &str, value: Option<&str>) -> CookieMatch {
    CookieMatch {
        name: name.into(),
        value: value.map(Into::into),
    }
}

fn request(headers: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    map
}

#[test]
fn entries_are_alternatives_and_their_parts_are_not() {
    let mut sides = backends(&[1, 0]);
    sides[1].forced = vec![
        SplitMatch {
            headers: vec![header("x-canary", "always"), header("x-team", "shop")],
            cookies: vec![],
        },
        SplitMatch {
            headers: vec![header("x-canary", "always")],
            cookies: vec![cookie("beta", Some("1")), cookie("user", None)],
        },
    ];
    let side = |headers: &[(&'static str, &str)]| forced(&sides, &request(headers));
    assert_eq!(side(&[("x-canary", "always")]), None);
    assert_eq!(side(&[("x-canary", "always"), ("x-team", "shop")]), Some(1));
    assert_eq!(side(&[("x-team", "shop")]), None);
    let canary = ("x-canary", "always");
    assert_eq!(side(&[canary, ("cookie", "beta=1; user=u")]), Some(1));
    assert_eq!(
        side(&[
            canary,
            ("cookie", "user=\"\"; a=b"),
            ("cookie", " beta=\"1\"")
        ]),
        Some(1)
    );
    assert_eq!(side(&[canary, ("cookie", "beta=2; user=u")]), None);
    assert_eq!(side(&[canary, ("cookie", "beta=1")]), None);
    assert_eq!(side(&[("cookie", "beta=1; user=u")]), None);
    // The first cookie of a name is the one.
    assert_eq!(side(&[canary, ("cookie", "beta=2; beta=1; user=u")]), None);
}

proptest! {
    /// Against the plainest reading of "an entry is the AND of its parts, entries are alternatives, the
    /// first side that is forced wins".
    #[test]
    fn forcing_is_what_it_says(
        wanted in prop::collection::vec(
            prop::collection::vec(
                (prop::collection::vec((0_usize..3, 0_u8..2), 0..3),
                 prop::collection::vec((0_usize..3, prop::option::of(0_u8..2)), 0..3)),
                0..3,
            ),
            1..4,
        ),
        has_headers in prop::collection::vec(prop::option::of(0_u8..2), 3),
        has_cookies in prop::collection::vec(prop::option::of(0_u8..2), 3),
        one_line: bool,
    ) {
        const HEADERS: [&str; 3] = ["x-a", "x-b", "x-c"];
        const VALUES: [&str; 2] = ["0", "1"];
        let mut map = HeaderMap::new();
        for (name, value) in HEADERS.iter().zip(&has_headers) {
            if let Some(value) = value {
                map.append(*name, HeaderValue::from_static(VALUES[usize::from(*value)]));
            }
        }
        let pairs: Vec<_> = has_cookies
            .iter()
            .enumerate()
            .filter_map(|(at, value)| Some(format!("c{at}={}", (*value)?)))
            .collect();
        let lines = if one_line { vec![pairs.join("; ")] } else { pairs };
        for line in lines {
            map.append(COOKIE, HeaderValue::from_str(&line).unwrap());
        }
        let mut sides = backends(&vec![1; wanted.len()]);
        for (side, entries) in sides.iter_mut().zip(&wanted) {
            side.forced = entries
                .iter()
                .map(|(headers, cookies)| SplitMatch {
                    headers: headers
                        .iter()
                        .map(|(at, value)| header(HEADERS[*at], VALUES[usize::from(*value)]))
                        .collect(),
                    cookies: cookies
                        .iter()
                        .map(|(at, value)| {
                            let value = value.map(|value| VALUES[usize::from(value)]);
                            cookie(&format!("c{at}"), value)
                        })
                        .collect(),
                })
                .collect();
        }
        let mut expected = None;
        'sides: for (at, entries) in wanted.iter().enumerate() {
            for (headers, cookies) in entries {
                let headers = headers.iter().all(|(at, value)| has_headers[*at] == Some(*value));
                let cookies = cookies.iter().all(|(at, value)| match value {
                    Some(value) => has_cookies[*at] == Some(*value),
                    None => has_cookies[*at].is_some(),
                });
                if headers && cookies {
                    expected = Some(at);
                    break 'sides;
                }
            }
        }
        prop_assert_eq!(forced(&sides, &map), expected);
    }
}
