use std::time::{Duration, Instant};

use http::Method;
use proptest::prelude::*;

use super::retry_policy;
use crate::outcome::{Outcome, Processed};
use crate::policy::RetryPolicy;
use crate::resilience::attempt::TryResult;
use crate::resilience::backoff;
use crate::resilience::deadline::{Bound, Deadline, parse_deadline_ms, parse_grpc_timeout};
use crate::resilience::retry::{self, RetryDecision};

#[test]
fn grpc_timeouts_are_read_as_the_protocol_says() {
    for (text, expected) in [
        ("1H", Some(Duration::from_secs(3_600))),
        ("2M", Some(Duration::from_secs(120))),
        ("3S", Some(Duration::from_secs(3))),
        ("4m", Some(Duration::from_millis(4))),
        ("5u", Some(Duration::from_micros(5))),
        ("6n", Some(Duration::from_nanos(6))),
        ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
        ("0S", Some(Duration::ZERO)),
        ("100000000n", None),
        ("S", None),
        ("", None),
        ("+1S", None),
        ("-1S", None),
        ("1s", None),
        ("1.5S", None),
        ("1S ", None),
    ] {
        assert_eq!(parse_grpc_timeout(text.as_bytes()), expected, "{text:?}");
    }
    assert_eq!(
        parse_deadline_ms(b"1500"),
        Some(Duration::from_millis(1_500))
    );
    assert_eq!(parse_deadline_ms(b"-1"), None);
    assert_eq!(parse_deadline_ms(b""), None);
}

#[test]
fn a_try_ends_by_the_earlier_bound() {
    let now = Instant::now();
    let second = Duration::from_secs(1);
    let after = |seconds: u32| Deadline::after(now, Some(second * seconds));
    let request = after(3);
    assert_eq!(request.for_try(now, Some(second)), (after(1), Bound::Try));
    let late = request.for_try(now + second * 2, Some(second));
    assert_eq!(late, (request, Bound::Request));
    let none = Deadline::NONE.for_try(now, None);
    assert_eq!(none, (Deadline::NONE, Bound::Request));
    let own = Deadline::NONE.for_try(now, Some(second));
    assert_eq!(own, (after(1), Bound::Try));
    assert_eq!(request.remaining(now + second * 4), Some(Duration::ZERO));
    assert!(request.is_over(now + second * 3));
    assert!(!Deadline::NONE.is_over(now));
    assert_eq!(Deadline::after(now, Some(Duration::MAX)), Deadline::NONE);
    assert_eq!(request.later(second), after(4));
    assert_eq!(request.later(Duration::MAX), Deadline::NONE);
    assert_eq!(Deadline::NONE.later(second), Deadline::NONE);
    assert_eq!(request.header_ms(now + second * 4), Some(0));
    assert_eq!(Deadline::NONE.header_ms(now), None);
    assert_eq!(Deadline::NONE.grpc_timeout(now), None);
    let over = request.grpc_timeout(now + second * 4);
    assert_eq!(over.as_deref(), Some("1n"), "never nothing");
}

#[test]
fn tries_follow_each_other_by_policy_and_the_given_randomness() {
    let policy = RetryPolicy {
        attempts: 3,
        on_per_try_timeout: true,
        ..retry_policy()
    };
    let (base, max) = (policy.backoff_base, policy.backoff_max);
    let millis = Duration::from_millis;
    for seed in 0..1_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut same = rng.clone();
        let first = backoff::delay(base, max, 0, &mut same);
        let second = backoff::delay(base, max, 1, &mut same);
        let begins = [
            Duration::ZERO,
            millis(400) + first,
            millis(800) + first + second,
        ];
        let (begun, ended, bound) = timeline(&policy, millis(1_000), millis(400), &mut rng);
        assert_eq!(begun, begins);
        assert_eq!((ended, bound), (millis(1_000), Bound::Request));
    }
}

/// When the tries of a request begin that is never answered, when it ends, and by which bound.
fn timeline(
    policy: &RetryPolicy,
    request: Duration,
    per_try: Duration,
    rng: &mut fastrand::Rng,
) -> (Vec<Duration>, Duration, Bound) {
    let start = Instant::now();
    let deadline = Deadline::after(start, Some(request));
    let (mut now, mut begun) = (start, Vec::new());
    loop {
        begun.push(now - start);
        let (end, bound) = deadline.for_try(now, Some(per_try));
        now = end.instant().unwrap();
        let question = retry::Request {
            method: &Method::GET,
            idempotency_key: false,
            replayable: true,
            attempt: begun.len() as u32,
            failed_probe: false,
            free_used: false,
            remaining: deadline.remaining(now),
        };
        let result = TryResult::Failed {
            outcome: match bound {
                Bound::Request => Outcome::RequestTimeout,
                Bound::Try => Outcome::TryTimeout,
            },
            processed: Processed::Maybe,
        };
        match RetryDecision::decide(Some(policy), &question, &result, rng) {
            RetryDecision::Retry { free: false, wait } => now += wait,
            RetryDecision::Retry { free: true, .. } => panic!("no probe, and a free try"),
            RetryDecision::Stop(_) => return (begun, now - start, bound),
        }
    }
}

/// A bound as policy or a client may say it: none, short or long.
fn bound() -> impl Strategy<Value = Option<Duration>> {
    let nanos = prop_oneof![0_u64..3_000_000, 0_u64..3_600_000_000_000, any::<u64>()];
    proptest::option::of(nanos.prop_map(Duration::from_nanos))
}

/// No bound is later than every other.
fn or_never(deadline: Deadline, start: Instant) -> Duration {
    let at = deadline.instant();
    at.map_or(Duration::MAX, |at| at - start)
}

proptest! {
    #[test]
    fn no_try_ends_later_than_any_of_its_bounds(
        policy in bound(), own in bound(), per_try in bound(), spent in 0_u64..3_600_000_000_000,
    ) {
        let start = Instant::now();
        let (policy, own) = (Deadline::after(start, policy), Deadline::after(start, own));
        let request = policy.min(own);
        let now = start + Duration::from_nanos(spent);
        let (end, bound) = request.for_try(now, per_try);
        let bounds = [policy, own, Deadline::after(now, per_try)];
        let earliest = bounds.map(|bound| or_never(bound, start)).into_iter().min();
        prop_assert_eq!(Some(or_never(end, start)), earliest);
        prop_assert_eq!(bound == Bound::Request, end == request);
        // In whichever order bounds are put together.
        prop_assert_eq!(own.min(policy), request);
        prop_assert_eq!(request.min(request), request);
        prop_assert_eq!(request.is_over(now), request.remaining(now) == Some(Duration::ZERO));
    }

    #[test]
    fn a_grpc_timeout_that_is_passed_on_never_ends_later_than_the_clients(
        seconds in 0_u64..1_000_000_000, nanos in 0_u32..1_000_000_000, spent in any::<u32>(),
    ) {
        let start = Instant::now();
        let (timeout, spent) = (Duration::new(seconds, nanos), Duration::from_micros(spent.into()));
        let outer = Deadline::after(start, Some(timeout));
        let now = start + spent;
        let text = outer.grpc_timeout(now).unwrap();
        let (digits, unit) = text.split_at(text.len() - 1);
        prop_assert!((1..=8).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_digit()));
        prop_assert!("numSMH".contains(unit));
        let told = parse_grpc_timeout(text.as_bytes()).unwrap();
        prop_assert!(told > Duration::ZERO);
        if outer.is_over(now) {
            prop_assert_eq!(told, Duration::from_nanos(1));
            return Ok(());
        }
        let inner = Deadline::after(now, Some(told));
        prop_assert!(or_never(inner, start) <= or_never(outer, start));
        // The finest unit that fits loses at most one part in a hundred thousand.
        let left = timeout.checked_sub(spent).unwrap();
        prop_assert!(left <= told + left / 100_000 + Duration::from_nanos(1));
        // What is exact already stays so.
        prop_assert_eq!(inner.grpc_timeout(now), Some(text));
    }

    #[test]
    fn a_receiver_never_gives_up_before_the_sender_and_at_most_a_millisecond_after(
        timeout in 0_u64..4_000_000_000_000, spent in 0_u64..4_000_000_000_000,
    ) {
        let start = Instant::now();
        let outer = Deadline::after(start, Some(Duration::from_nanos(timeout)));
        let now = start + Duration::from_nanos(spent);
        let text = outer.header_ms(now).unwrap().to_string();
        let inner = Deadline::after(now, parse_deadline_ms(text.as_bytes()));
        let (inner, left) = (inner.remaining(now).unwrap(), outer.remaining(now).unwrap());
        prop_assert!(inner >= left && inner < left + Duration::from_millis(1));
        // What is over for the one is over for the other.
        prop_assert_eq!(inner.is_zero(), outer.is_over(now));
    }

    #[test]
    fn backoff_stays_within_its_bound(base in 1_u64..60_000, max in 1_u64..600_000, index: u32, seed: u64) {
        let (base, max) = (Duration::from_millis(base), Duration::from_millis(max));
        let wait = backoff::delay(base, max, index, &mut fastrand::Rng::with_seed(seed));
        prop_assert!(wait <= backoff::bound(base, max, index));
        prop_assert!(wait <= max);
        prop_assert!(backoff::bound(base, max, index) <= backoff::bound(base, max, index.saturating_add(1)));
    }
}

#[test]
fn backoff_uses_its_whole_window() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (base, max) = (Duration::from_millis(25), Duration::from_millis(250));
    let waits: Vec<_> = (0..1_000)
        .map(|_| backoff::delay(base, max, 2, &mut rng))
        .collect();
    assert!(waits.iter().any(|wait| *wait < Duration::from_millis(10)));
    assert!(waits.iter().any(|wait| *wait > Duration::from_millis(90)));
}
