use std::time::Duration;

use http::{Method, StatusCode};
use proptest::prelude::*;

use super::{breaker_policy, retry_policy};
use crate::outcome::{Outcome, Processed};
use crate::policy::{BreakerPolicy, RetryPolicy};
use crate::resilience::attempt::{Answer, Pushback, TryResult, TryVerdict, parse_retry_after};
use crate::resilience::retry::{Request, RetryDecision, StopReason};

const SECOND: Duration = Duration::from_secs(1);

fn request(method: &Method) -> Request<'_> {
    Request {
        method,
        idempotency_key: false,
        replayable: true,
        attempt: 1,
        failed_probe: false,
        free_used: false,
        remaining: Some(SECOND * 5),
    }
}

fn decide(policy: &RetryPolicy, request: &Request<'_>, result: TryResult) -> RetryDecision {
    RetryDecision::decide(
        Some(policy),
        request,
        &result,
        &mut fastrand::Rng::with_seed(1),
    )
}

fn retries(policy: &RetryPolicy, request: &Request<'_>, result: TryResult) -> bool {
    matches!(
        decide(policy, request, result),
        RetryDecision::Retry { free: false, .. }
    )
}

fn failed(outcome: Outcome, processed: Processed) -> TryResult {
    TryResult::Failed { outcome, processed }
}

fn answered(status: u16) -> Answer {
    Answer::plain(StatusCode::from_u16(status).unwrap())
}

/// No policy of a user's: never-processed tries only.
fn mesh_default() -> RetryPolicy {
    RetryPolicy {
        status_codes: Vec::new(),
        grpc_codes: Vec::new(),
        methods: Vec::new(),
        ..retry_policy()
    }
}

#[test]
fn what_was_never_processed_is_retried_for_every_method() {
    let policy = mesh_default();
    for outcome in [
        Outcome::ConnectRefused,
        Outcome::ConnectTimeout,
        Outcome::TlsFailed,
        Outcome::Reset,
    ] {
        let result = failed(outcome, Processed::Never);
        assert!(
            retries(&policy, &request(&Method::POST), result),
            "{outcome}"
        );
        assert!(!retries(
            &policy,
            &request(&Method::POST),
            failed(outcome, Processed::Maybe)
        ));
    }
    for outcome in [
        Outcome::CircuitOpen,
        Outcome::Overflow,
        Outcome::RateLimited,
        Outcome::NoEndpoints,
    ] {
        let result = failed(outcome, Processed::Never);
        assert!(
            !retries(&policy, &request(&Method::GET), result),
            "{outcome}"
        );
    }
}

#[test]
fn the_inbound_sidecar_says_what_its_application_never_saw() {
    for (outcome, expected) in [
        (Outcome::ConnectRefused, true),
        (Outcome::ConnectTimeout, true),
        (Outcome::Overflow, true),
        (Outcome::Shed, true),
        (Outcome::RateLimited, false),
        (Outcome::Reset, false),
        (Outcome::Unauthorized, false),
    ] {
        let result = TryResult::Answered(Answer {
            inbound: Some(outcome),
            ..answered(503)
        });
        assert_eq!(
            retries(&mesh_default(), &request(&Method::POST), result),
            expected,
            "{outcome}"
        );
    }
    // The application's own 503 says nothing of the kind.
    let own = TryResult::Answered(answered(503));
    assert!(!retries(&mesh_default(), &request(&Method::GET), own));
}

#[test]
fn a_reset_behind_the_inbound_sidecar_is_a_reset() {
    let policy = RetryPolicy {
        on_reset: true,
        ..retry_policy()
    };
    let reset = |grpc_status| {
        TryResult::Answered(Answer {
            inbound: Some(Outcome::Reset),
            grpc_status,
            ..answered(if grpc_status.is_some() { 200 } else { 502 })
        })
    };
    let unlisted = RetryPolicy {
        status_codes: Vec::new(),
        grpc_codes: Vec::new(),
        ..policy.clone()
    };
    let keyed = Request {
        idempotency_key: true,
        ..request(&Method::POST)
    };
    for grpc_status in [None, Some(14)] {
        let reset = reset(grpc_status);
        assert!(retries(&unlisted, &request(&Method::GET), reset));
        assert!(retries(&unlisted, &keyed, reset));
        // It may have been processed.
        assert!(!retries(&unlisted, &request(&Method::POST), reset));
        let otherwise = RetryPolicy {
            on_reset: false,
            ..unlisted.clone()
        };
        assert!(!retries(&otherwise, &keyed, reset));
    }
    // A listed gRPC code is a policy of its own.
    assert!(retries(&policy, &request(&Method::POST), reset(Some(14))));
}

#[test]
fn the_rest_needs_to_be_idempotent_and_listed() {
    let policy = retry_policy();
    let answer = |status| TryResult::Answered(answered(status));
    assert!(retries(&policy, &request(&Method::GET), answer(503)));
    assert!(!retries(&policy, &request(&Method::POST), answer(503)));
    let keyed = Request {
        idempotency_key: true,
        ..request(&Method::POST)
    };
    assert!(retries(&policy, &keyed, answer(503)));
    assert!(!retries(&policy, &request(&Method::GET), answer(501)));
    let reset = failed(Outcome::Reset, Processed::Maybe);
    assert!(!retries(&policy, &request(&Method::GET), reset));
    let on_reset = RetryPolicy {
        on_reset: true,
        ..retry_policy()
    };
    assert!(retries(&on_reset, &request(&Method::GET), reset));
    assert!(!retries(&on_reset, &request(&Method::POST), reset));
    // An application's connection that broke behind its sidecar is one that broke.
    let behind = |grpc_status| {
        TryResult::Answered(Answer {
            inbound: Some(Outcome::Reset),
            grpc_status,
            ..answered(502)
        })
    };
    let only_reset = RetryPolicy {
        status_codes: Vec::new(),
        grpc_codes: Vec::new(),
        ..on_reset.clone()
    };
    assert!(retries(&only_reset, &request(&Method::GET), behind(None)));
    assert!(!retries(&only_reset, &request(&Method::POST), behind(None)));
    assert!(!retries(
        &only_reset,
        &request(&Method::POST),
        behind(Some(14))
    ));
    assert!(!retries(
        &mesh_default(),
        &request(&Method::GET),
        behind(None)
    ));
    let lost = Request {
        replayable: false,
        ..request(&Method::GET)
    };
    assert_eq!(
        decide(&policy, &lost, answer(503)),
        RetryDecision::Stop(StopReason::NotReplayable)
    );
    assert_eq!(
        decide(&policy, &request(&Method::GET), answer(200)),
        RetryDecision::Stop(StopReason::Success)
    );
    let grpc = |code| {
        TryResult::Answered(Answer {
            grpc_status: Some(code),
            ..answered(200)
        })
    };
    assert!(retries(&policy, &request(&Method::POST), grpc(14)));
    assert!(!retries(&policy, &request(&Method::POST), grpc(13)));
    assert!(!retries(&mesh_default(), &request(&Method::POST), grpc(14)));
}

#[test]
fn servers_are_heard_within_the_deadline() {
    let policy = retry_policy();
    let wait = |answer, remaining| {
        let request = Request {
            remaining,
            ..request(&Method::GET)
        };
        match decide(&policy, &request, TryResult::Answered(answer)) {
            RetryDecision::Retry { wait, .. } => Ok(wait),
            RetryDecision::Stop(reason) => Err(reason),
        }
    };
    let after = |seconds| Answer {
        retry_after: Some(SECOND * seconds),
        ..answered(503)
    };
    assert_eq!(wait(after(1), Some(SECOND * 5)), Ok(SECOND));
    assert_eq!(wait(after(5), Some(SECOND * 5)), Err(StopReason::Deadline));
    assert_eq!(wait(after(10), None), Ok(SECOND * 10));
    assert_eq!(wait(after(11), None), Err(StopReason::Deadline));
    assert_eq!(
        wait(answered(503), Some(Duration::ZERO)),
        Err(StopReason::Deadline)
    );
    let pushback = |pushback| Answer {
        pushback: Some(pushback),
        ..answered(503)
    };
    let two = Pushback::parse(b"2000");
    assert_eq!(wait(pushback(two), Some(SECOND * 5)), Ok(SECOND * 2));
    let never = Pushback::parse(b"-1");
    assert_eq!(
        wait(pushback(never), Some(SECOND * 5)),
        Err(StopReason::Pushback)
    );
    assert_eq!(Pushback::parse(b"soon"), Pushback::Never);
    assert_eq!(parse_retry_after(b" 120 "), Some(SECOND * 120));
    assert_eq!(parse_retry_after(b"Fri, 31 Dec 1999 23:59:59 GMT"), None);
    assert_eq!(parse_retry_after(b"-1"), None);
}

#[test]
fn a_failed_probe_is_answered_by_one_free_try() {
    let probe = Request {
        attempt: 3,
        failed_probe: true,
        ..request(&Method::GET)
    };
    let result = TryResult::Answered(answered(500));
    let free = RetryDecision::Retry {
        free: true,
        wait: Duration::ZERO,
    };
    let rng = &mut fastrand::Rng::with_seed(1);
    assert_eq!(RetryDecision::decide(None, &probe, &result, rng), free);
    for (request, expected) in [
        (
            Request {
                free_used: true,
                ..probe
            },
            StopReason::NotRetried,
        ),
        (
            Request {
                method: &Method::POST,
                ..probe
            },
            StopReason::NotRetried,
        ),
        (
            Request {
                replayable: false,
                ..probe
            },
            StopReason::NotRetried,
        ),
        (
            Request {
                remaining: Some(Duration::ZERO),
                ..probe
            },
            StopReason::Deadline,
        ),
    ] {
        let decision = RetryDecision::decide(None, &request, &result, rng);
        assert_eq!(decision, RetryDecision::Stop(expected));
    }
}

#[test]
fn verdicts_follow_the_table() {
    let verdict = |result: TryResult| result.verdict(None);
    assert_eq!(
        verdict(TryResult::Answered(answered(500))),
        TryVerdict::Failure
    );
    assert_eq!(
        verdict(TryResult::Answered(answered(404))),
        TryVerdict::Success
    );
    let listed = BreakerPolicy {
        failure_status_codes: vec![429],
        ..breaker_policy()
    };
    assert_eq!(
        TryResult::Answered(answered(500)).verdict(Some(&listed)),
        TryVerdict::Success
    );
    assert_eq!(
        TryResult::Answered(answered(429)).verdict(Some(&listed)),
        TryVerdict::Failure
    );
    for (code, expected) in [
        (0, TryVerdict::Success),
        (5, TryVerdict::Success),
        (2, TryVerdict::Failure),
        (14, TryVerdict::Failure),
    ] {
        let answer = Answer {
            grpc_status: Some(code),
            ..answered(200)
        };
        assert_eq!(verdict(TryResult::Answered(answer)), expected, "{code}");
    }
    for (outcome, expected) in [
        (Outcome::ConnectRefused, TryVerdict::ConnectFailed),
        (Outcome::Overflow, TryVerdict::Neutral),
        (Outcome::Unauthorized, TryVerdict::Neutral),
    ] {
        let answer = Answer {
            inbound: Some(outcome),
            ..answered(503)
        };
        assert_eq!(verdict(TryResult::Answered(answer)), expected, "{outcome}");
    }
    let gone = failed(Outcome::ClientGone, Processed::Maybe);
    assert_eq!(verdict(gone), TryVerdict::Neutral);
    let refused = failed(Outcome::ConnectRefused, Processed::Never);
    assert_eq!(verdict(refused), TryVerdict::ConnectFailed);
}

fn result() -> impl Strategy<Value = TryResult> {
    let outcome = || prop::sample::select(Outcome::ALL.to_vec());
    let processed = prop::sample::select(vec![Processed::Maybe, Processed::Never]);
    let answer = (
        200_u16..600,
        prop::option::of(0_u8..17),
        prop::option::of(outcome()),
        0_u64..20,
    );
    prop_oneof![
        (outcome(), processed).prop_map(|(outcome, processed)| failed(outcome, processed)),
        answer.prop_map(
            |(status, grpc_status, inbound, after)| TryResult::Answered(Answer {
                grpc_status,
                inbound,
                retry_after: Some(SECOND * after as u32),
                ..answered(status)
            })
        ),
    ]
}

proptest! {
    #[test]
    fn no_retry_breaks_a_promise(
        result in result(),
        method in prop::sample::select(vec![Method::GET, Method::POST, Method::PUT]),
        idempotency_key: bool,
        replayable: bool,
        attempt in 1_u32..5,
        failed_probe: bool,
        free_used: bool,
        remaining in prop::option::of(0_u64..20),
    ) {
        let policy = RetryPolicy { on_reset: true, on_per_try_timeout: true, ..retry_policy() };
        let request = Request {
            method: &method, idempotency_key, replayable, attempt, failed_probe, free_used,
            remaining: remaining.map(|seconds| SECOND * seconds as u32),
        };
        if let RetryDecision::Retry { free, wait } = decide(&policy, &request, result) {
            prop_assert!(replayable);
            prop_assert!(request.remaining.is_none_or(|remaining| wait < remaining));
            prop_assert!(free || attempt <= policy.attempts);
            prop_assert!(!free || (failed_probe && !free_used));
            let by_code = matches!(result, TryResult::Answered(answer) if answer.grpc_status == Some(14));
            let idempotent = idempotency_key || method == Method::GET;
            prop_assert!(result.never_processed() || idempotent || by_code);
        }
    }
}
