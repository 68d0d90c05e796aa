//! Whether a failed try is repeated.
//!
//! What the application provably never saw may be tried again for any method; everything else only
//! where it is idempotent: its method is listed, it carries an `Idempotency-Key`, or policy lists
//! its gRPC code (gRPC has one method only, so the list of codes is the explicit policy there).
//!
//! The budget is asked afterwards, by the caller and only for a retry that is not free: a decision
//! against repeating must not cost anything.

use std::time::Duration;

use http::Method;

use super::attempt::{Answer, Pushback, TryResult, is_connect_failure};
use super::backoff;
use crate::outcome::{Outcome, Processed};
use crate::policy::RetryPolicy;

/// The longest `Retry-After` or pushback that is waited for when the request has no deadline.
pub const MAX_SERVER_WAIT: Duration = Duration::from_secs(10);

/// What is known of a request whose try has just ended.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Whether it carries an `Idempotency-Key`.
    pub idempotency_key: bool,
    /// Whether head and body are still at hand.
    pub replayable: bool,
    /// Tries made so far, those that were free left out; at least 1.
    pub attempt: u32,
    /// Whether the try was a breaker's probe ([`super::balance::PickKind::Probe`]) and its verdict
    /// a failure.
    pub failed_probe: bool,
    /// Whether this request has had its free try.
    pub free_used: bool,
    /// Time left; `None` without a deadline.
    pub remaining: Option<Duration>,
}

/// What to do after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again after `wait`.
    Retry {
        /// Counts neither against attempts nor against the budget; goes to a closed endpoint only.
        free: bool,
        /// How long to wait first.
        wait: Duration,
    },
    /// Pass on what there is.
    Stop(StopReason),
}

/// Why nothing is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// All attempts are used.
    AttemptsUsed,
    /// The deadline is over, or would be before the next try.
    Deadline,
    /// The application may have processed it, and it is not idempotent.
    NotIdempotent,
    /// Head or body are no longer at hand.
    NotReplayable,
    /// Policy does not list what happened, or there is no policy.
    NotRetried,
    /// The server asked not to.
    Pushback,
    /// It went well.
    Success,
}

impl StopReason {
    /// The word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsUsed => "attempts_used",
            Self::Deadline => "deadline",
            Self::NotIdempotent => "not_idempotent",
            Self::NotReplayable => "not_replayable",
            Self::NotRetried => "not_retried",
            Self::Pushback => "pushback",
            Self::Success => "success",
        }
    }
}

impl RetryDecision {
    /// Decides after a try. `policy` is the route's; without one only a probe is answered for.
    pub fn decide(
        policy: Option<&RetryPolicy>,
        request: &Request<'_>,
        result: &TryResult,
        rng: &mut fastrand::Rng,
    ) -> Self {
        if request
            .remaining
            .is_some_and(|remaining| remaining.is_zero())
        {
            return Self::Stop(StopReason::Deadline);
        }
        if is_freely_repeated(policy, request, result) {
            return Self::Retry {
                free: true,
                wait: Duration::ZERO,
            };
        }
        let Some(policy) = policy else {
            return Self::Stop(StopReason::NotRetried);
        };
        if let Err(reason) = permitted(policy, request, result) {
            return Self::Stop(reason);
        }
        match wait(policy, request, result, rng) {
            Ok(wait) => Self::Retry { free: false, wait },
            Err(reason) => Self::Stop(reason),
        }
    }
}

/// Whether sending a request twice does no harm: its method is safe (RFC 9110, 9.2.1) or listed in
/// the policy, or it carries an `Idempotency-Key`. This, together with a replayable body, makes a
/// request eligible for probing an endpoint.
pub fn is_idempotent(policy: Option<&RetryPolicy>, method: &Method, idempotency_key: bool) -> bool {
    idempotency_key
        || method.is_safe()
        || policy.is_some_and(|policy| policy.methods.contains(method))
}

/// A failed probe of a request that lent itself to it is answered by one free try.
fn is_freely_repeated(
    policy: Option<&RetryPolicy>,
    request: &Request<'_>,
    result: &TryResult,
) -> bool {
    let over = matches!(
        result,
        TryResult::Failed {
            outcome: Outcome::RequestTimeout,
            ..
        }
    );
    let forbidden =
        matches!(result, TryResult::Answered(answer) if answer.pushback == Some(Pushback::Never));
    request.failed_probe
        && !request.free_used
        && request.replayable
        && is_idempotent(policy, request.method, request.idempotency_key)
        && !over
        && !forbidden
}

fn permitted(
    policy: &RetryPolicy,
    request: &Request<'_>,
    result: &TryResult,
) -> Result<(), StopReason> {
    listed(policy, result)?;
    if !result.never_processed() && !may_repeat(policy, request, result) {
        return Err(StopReason::NotIdempotent);
    }
    if !request.replayable {
        return Err(StopReason::NotReplayable);
    }
    if request.attempt > policy.attempts {
        return Err(StopReason::AttemptsUsed);
    }
    Ok(())
}

/// Whether policy lists what happened.
fn listed(policy: &RetryPolicy, result: &TryResult) -> Result<(), StopReason> {
    let listed = match result {
        TryResult::Answered(answer) => match answer.inbound {
            // The peer says that its application did not get the request, which is what a refused
            // stream says too.
            Some(_) if result.never_processed() => policy.on_refused_stream,
            // Its application's connection broke: to the client it is one connection.
            Some(Outcome::Reset) if policy.on_reset => true,
            _ => return listed_answer(policy, answer),
        },
        TryResult::Failed { outcome, processed } => match (outcome, processed) {
            (outcome, Processed::Never) if is_connect_failure(*outcome) => {
                policy.on_connect_failure
            }
            (Outcome::Reset, Processed::Never) => policy.on_refused_stream,
            (Outcome::Reset, Processed::Maybe) => policy.on_reset,
            (Outcome::TryTimeout, _) => policy.on_per_try_timeout,
            // One's own circuit_open, overflow and rate_limited among them.
            _ => false,
        },
    };
    listed.then_some(()).ok_or(StopReason::NotRetried)
}

fn listed_answer(policy: &RetryPolicy, answer: &Answer) -> Result<(), StopReason> {
    let listed = match answer.grpc_status {
        Some(code) => policy.grpc_codes.contains(&code),
        None => policy.status_codes.contains(&answer.status.as_u16()),
    };
    if listed {
        return Ok(());
    }
    Err(if answer.status.is_success() {
        StopReason::Success
    } else {
        StopReason::NotRetried
    })
}

/// Whether a request that may have been processed may be sent again.
fn may_repeat(policy: &RetryPolicy, request: &Request<'_>, result: &TryResult) -> bool {
    let listed = |code| policy.grpc_codes.contains(&code);
    let by_grpc_code = matches!(
        result,
        TryResult::Answered(answer) if answer.grpc_status.is_some_and(listed)
    );
    by_grpc_code || request.idempotency_key || policy.methods.contains(request.method)
}

fn wait(
    policy: &RetryPolicy,
    request: &Request<'_>,
    result: &TryResult,
    rng: &mut fastrand::Rng,
) -> Result<Duration, StopReason> {
    let own = backoff::delay(
        policy.backoff_base,
        policy.backoff_max,
        request.attempt.saturating_sub(1),
        rng,
    );
    let asked = match result {
        TryResult::Answered(answer) => asked_wait(policy, answer)?,
        TryResult::Failed { .. } => Duration::ZERO,
    };
    let wait = own.max(asked);
    let fits = match request.remaining {
        Some(remaining) => wait < remaining,
        None => asked <= MAX_SERVER_WAIT,
    };
    fits.then_some(wait).ok_or(StopReason::Deadline)
}

/// What the server asks to be waited for. Pushback speaks of this very call, so it goes first; a
/// server that says never is always heard.
fn asked_wait(policy: &RetryPolicy, answer: &Answer) -> Result<Duration, StopReason> {
    if answer.pushback == Some(Pushback::Never) {
        return Err(StopReason::Pushback);
    }
    if !policy.honor_retry_after {
        return Ok(Duration::ZERO);
    }
    Ok(match answer.pushback {
        Some(Pushback::After(wait)) => wait,
        _ => answer.retry_after.unwrap_or_default(),
    })
}
