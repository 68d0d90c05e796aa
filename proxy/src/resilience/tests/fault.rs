use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;

use crate::outcome::Outcome;
use crate::policy::{AbortStatus, FaultAbort, FaultDelay, FaultPolicy, HeaderMatch, ValueMatch};
use crate::resilience::fault::Fault;

fn policy(delay: u32, abort: u32) -> FaultPolicy {
    FaultPolicy {
        headers: Vec::new(),
        delay: Some(FaultDelay {
            duration: Duration::from_millis(5),
            percent: delay,
        }),
        abort: Some(FaultAbort {
            status: AbortStatus::Http(StatusCode::IM_A_TEAPOT),
            percent: abort,
        }),
    }
}

proptest! {
    /// Over every pair of draws each share is exact, and neither depends on the other.
    #[test]
    fn shares_are_exact(delay in 0u32..=100, abort in 0u32..=100) {
        let policy = policy(delay, abort);
        let (mut delayed, mut aborted, mut both) = (0, 0, 0);
        for first in 0..100 {
            for second in 0..100 {
                let mut draws = [first, second].into_iter();
                let fault = Fault::draw(&policy, &HeaderMap::new(), || draws.next().unwrap());
                delayed += u32::from(fault.delay.is_some());
                aborted += u32::from(fault.abort.is_some());
                both += u32::from(fault.delay.is_some() && fault.abort.is_some());
            }
        }
        prop_assert_eq!((delayed, aborted, both), (delay * 100, abort * 100, delay * abort));
    }
}

#[test]
fn only_requests_with_all_headers_meet_a_fault() {
    let header = |name: &'static str| HeaderMatch {
        name: HeaderName::from_static(name),
        value: ValueMatch::Exact(HeaderValue::from_static("1")),
    };
    let mut policy = policy(100, 100);
    policy.headers = vec![header("x-a"), header("x-b")];
    let mut headers = HeaderMap::new();
    for (name, met) in [("x-c", false), ("x-a", false), ("x-b", true)] {
        headers.insert(name, HeaderValue::from_static("1"));
        assert_eq!(
            Fault::draw(&policy, &headers, || 0) != Fault::default(),
            met
        );
    }
}

#[test]
fn the_answer_is_the_configured_one() {
    let fault = |status| Fault {
        delay: None,
        abort: Some(status),
    };
    assert!(Fault::default().failure().is_none());
    let http = fault(AbortStatus::Http(StatusCode::NOT_FOUND)).failure();
    let http = http.unwrap();
    assert_eq!(http.outcome, Outcome::FaultInjected);
    assert_eq!((http.http_status().as_u16(), http.grpc_code()), (404, 14));
    let grpc = fault(AbortStatus::Grpc(10)).failure().unwrap();
    assert_eq!((grpc.http_status().as_u16(), grpc.grpc_code()), (503, 10));
}
