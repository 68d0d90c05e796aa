use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::resilience::backoff;
use crate::resilience::deadline::{
    Bound, Deadline, format_grpc_timeout, parse_deadline_ms, parse_grpc_timeout, reduce,
};

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
    let request = Deadline::after(now, Some(second * 3));
    assert_eq!(
        request.for_try(now, Some(second)),
        Some((now + second, Bound::Try))
    );
    assert_eq!(
        request.for_try(now + second * 2, Some(second)),
        Some((now + second * 3, Bound::Request))
    );
    assert_eq!(Deadline::NONE.for_try(now, None), None);
    assert_eq!(request.remaining(now + second * 4), Some(Duration::ZERO));
    assert!(request.is_over(now + second * 3));
    assert_eq!(Deadline::after(now, Some(Duration::MAX)), Deadline::NONE);
    assert_eq!(request.min(Deadline::NONE), request);
    assert_eq!(
        request.header_ms(now + Duration::from_nanos(1)),
        Some(3_000)
    );
    assert_eq!(Deadline::NONE.header_ms(now), None);
    assert_eq!(reduce(second, second), None);
    assert_eq!(reduce(second * 2, second), Some(second));
}

proptest! {
    #[test]
    fn a_grpc_timeout_never_grows(seconds in 0_u64..10_000_000_000, nanos in 0_u32..1_000_000_000) {
        let timeout = Duration::new(seconds, nanos);
        let text = format_grpc_timeout(timeout);
        prop_assert!(text.len() <= 9);
        let read = parse_grpc_timeout(text.as_bytes()).unwrap();
        prop_assert!(read <= timeout);
        // The finest unit that fits loses at most one part in a hundred thousand.
        prop_assert!(timeout <= read + timeout / 100_000 + Duration::from_nanos(1));
        prop_assert_eq!(format_grpc_timeout(read), text);
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
