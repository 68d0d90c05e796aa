use std::num::NonZeroU32;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::policy::Rate;
use crate::resilience::limiter::{KeyedLimiter, Limiter, MAX_KEYS, Place};

fn rate(per_second: u32, burst: u32) -> Rate {
    let some = |value| NonZeroU32::new(value).unwrap();
    Rate {
        per_second: some(per_second),
        burst: some(burst),
    }
}

/// The most that any window between two admissions may hold: `burst + per_second * window`.
fn assert_within(admitted: &[Instant], rate: Rate) {
    let (per_second, burst) = (
        f64::from(rate.per_second.get()),
        f64::from(rate.burst.get()),
    );
    for (first, from) in admitted.iter().enumerate() {
        for (last, to) in admitted.iter().enumerate().skip(first) {
            let count = (last - first + 1) as f64;
            let bound = burst + per_second * (*to - *from).as_secs_f64();
            assert!(count <= bound + 1e-6, "{count} admitted, bound {bound}");
        }
    }
}

proptest! {
    #[test]
    fn no_window_holds_more_than_the_burst_and_the_rate(
        gaps in prop::collection::vec(prop_oneof![Just(0), 0_u64..50_000_000, 0_u64..2_000_000_000], 1..150),
        per_second in prop_oneof![1_u32..20, 1_u32..=10_000_000],
        more in 0_u32..20,
    ) {
        let start = Instant::now();
        let (limiter, rate) = (Limiter::new(start), rate(per_second, 1 + more));
        let (mut now, mut admitted) = (start, Vec::new());
        for gap in gaps {
            now += Duration::from_nanos(gap);
            let expected = limiter.peek(now, rate);
            let taken = limiter.take(now, rate);
            prop_assert_eq!(expected, taken);
            match taken {
                Ok(()) => admitted.push(now),
                // What it says is when, and not much earlier.
                Err(wait) => {
                    prop_assert!(wait > Duration::ZERO);
                    prop_assert!(limiter.peek(now + wait, rate).is_ok());
                    let before = wait.saturating_sub(Duration::from_nanos(1));
                    prop_assert!(limiter.peek(now + before, rate).is_err());
                }
            }
        }
        assert_within(&admitted, rate);
    }

    #[test]
    fn whoever_keeps_to_the_rate_is_never_refused(
        per_second in 1_u32..=10_000_000,
        burst in 1_u32..100,
        jitter in prop::collection::vec(0_u64..1_000_000, 1..100),
    ) {
        let start = Instant::now();
        let (limiter, rate) = (Limiter::new(start), rate(per_second, burst));
        let mut now = start;
        for late in jitter {
            prop_assert!(limiter.take(now, rate).is_ok());
            // 0.1 % is what rounding may cost.
            let interval = 1_001_000_000 / u64::from(per_second) + 1;
            now += Duration::from_nanos(interval + late);
        }
    }

    #[test]
    fn keys_do_not_touch_each_other(
        asks in prop::collection::vec((0_u64..6, 0_u64..300_000_000), 1..200),
        per_second in 1_u32..50,
        more in 0_u32..5,
    ) {
        let start = Instant::now();
        let rate = rate(per_second, 1 + more);
        let keyed = KeyedLimiter::new(start);
        let alone: Vec<_> = (0..6).map(|_| Limiter::new(start)).collect();
        let mut now = start;
        for (key, gap) in asks {
            now += Duration::from_nanos(gap);
            let expected = alone[key as usize].take(now, rate);
            prop_assert_eq!(keyed.peek(key << 32, now, rate), expected);
            prop_assert_eq!(keyed.take(key << 32, now, rate), (Place::Own, expected));
        }
    }
}

#[test]
fn a_burst_then_the_rate() {
    let start = Instant::now();
    let (limiter, rate) = (Limiter::new(start), rate(10, 20));
    let at_once = (0..100).filter(|_| limiter.take(start, rate).is_ok());
    assert_eq!(at_once.count(), 20);
    assert_eq!(limiter.take(start, rate), Err(Duration::from_millis(100)));
    // A minute of ten times the rate.
    let over = (1..=6_000).map(|tick| start + Duration::from_millis(10 * tick));
    let admitted = over.filter(|now| limiter.take(*now, rate).is_ok()).count();
    assert_eq!(admitted, 600);
    // A rest gives the burst back, and no more than that.
    let rested = start + Duration::from_secs(3_600);
    let at_once = (0..100).filter(|_| limiter.take(rested, rate).is_ok());
    assert_eq!(at_once.count(), 20);
}

/// Threads race with times of their own; every one of them sees the others' takings.
#[test]
fn threads_share_one_rate() {
    const THREADS: usize = 4;
    let start = Instant::now();
    let (limiter, rate) = (Limiter::new(start), rate(1_000, 50));
    let barrier = Barrier::new(THREADS);
    let mut admitted: Vec<Instant> = std::thread::scope(|scope| {
        let run = || {
            barrier.wait();
            let mut own = Vec::new();
            // 200 ms of 100,000 requests per second and thread.
            for step in 0..20_000_u64 {
                let now = start + Duration::from_micros(10 * step);
                if limiter.take(now, rate).is_ok() {
                    own.push(now);
                }
            }
            own
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        let joined = threads.into_iter().flat_map(|it| it.join().unwrap());
        joined.collect()
    });
    admitted.sort_unstable();
    assert_within(&admitted, rate);
    // Nothing of it is lost either: whoever runs ahead takes what its time allows.
    assert_eq!(admitted.len(), 50 + 199);
}

#[test]
fn keys_are_bounded_and_those_at_rest_forgotten() {
    let start = Instant::now();
    let (keyed, rate) = (KeyedLimiter::new(start), rate(1, 1));
    // Far more keys than there are places, all at once.
    let spread = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let places: Vec<_> = (0..4 * MAX_KEYS as u64)
        .map(|number| keyed.take(spread(number), start, rate))
        .collect();
    assert!(keyed.len() <= MAX_KEYS);
    assert!(keyed.len() > MAX_KEYS * 9 / 10, "{}", keyed.len());
    let own = places.iter().filter(|(place, _)| *place == Place::Own);
    assert_eq!(own.count(), keyed.len());
    // The crowd has one rate for all of them.
    let crowd = places
        .iter()
        .filter(|(place, taken)| *place == Place::Crowd && taken.is_ok());
    assert_eq!(crowd.count(), 1);

    // What has a place keeps it, and its count.
    let (place, taken) = keyed.take(spread(0), start, rate);
    assert_eq!((place, taken.is_err()), (Place::Own, true));
    // A second later all are at rest: their places are for others.
    let later = start + Duration::from_secs(1);
    for number in 0..1_000 {
        let newcomer = spread(u64::MAX - number);
        assert_eq!(keyed.take(newcomer, later, rate), (Place::Own, Ok(())));
    }
    assert!(keyed.len() <= MAX_KEYS);
}
