//! The tries of one request: pick an endpoint, send, judge, and perhaps again.
//!
//! Every try is judged by the endpoint's breaker. Every try but the first counts against the
//! policy's attempts and the backend's budget, but for one: a request that lent itself to probing
//! an open endpoint, and failed by it, gets a free try on a closed one.

use std::sync::Arc;
use std::time::Duration;

use ::http::request::Parts;
use ::http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::Instant;
use weft_proto::names::headers as names;

use super::backend::{Backend, Chosen, Permits};
use super::destination::Service;
use super::endpoint::Endpoint;
use crate::exchange::{Account, Exchange, grpc_status};
use crate::http::body::{Ending, ExchangeEnd, Progress, RequestBody, UpstreamBody};
use crate::http::client::{SendOptions, TryError};
use crate::http::deadline::{before, earlier};
use crate::http::replay::{ReplayHandle, replayable};
use crate::http::{Version, answer, headers};
use crate::outcome::{Failure, Origin, Outcome, Processed};
use crate::policy::RetryPolicy;
use crate::resilience::attempt::{Answer, Pushback, TryResult, TryVerdict, parse_retry_after};
use crate::resilience::balance::{PickKind, ProbeEligibility};
use crate::resilience::retry::{self, RetryDecision, StopReason};
use crate::telemetry::{RetryResult, Tls};

const ATTEMPT: HeaderName = HeaderName::from_static(names::ATTEMPT);
const DEADLINE_MS: HeaderName = HeaderName::from_static(names::DEADLINE_MS);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Where one request goes, and by when.
pub(crate) struct Tries<'a> {
    pub(crate) service: &'a Service,
    /// Index into the target's routes.
    pub(crate) route: usize,
    /// Index into the target's backends.
    pub(crate) backend_index: usize,
    pub(crate) backend: &'a Arc<Backend>,
    pub(crate) version: Version,
    pub(crate) deadline: Option<Instant>,
    pub(crate) progress: Option<Arc<Progress>>,
}

/// A response's head, with everything that its end is told to.
pub(crate) struct Reply {
    pub(crate) response: Response<UpstreamBody>,
    /// The peer's mesh identity was verified: what it says in `x-weft-*` is believed.
    pub(crate) trusted: bool,
    /// `ok`, or what the server's sidecar said of an answer that it made itself.
    pub(crate) outcome: Outcome,
    pub(crate) permit: TryPermit,
}

/// The breakers' permits of the try that answered, until the response's body has ended.
pub(crate) struct TryPermit {
    permits: Permits,
    /// A gRPC response whose verdict stands in its trailers: to be judged with this latency.
    undecided: Option<(Duration, Arc<Backend>)>,
}

/// What one try came to.
enum Tried {
    Answered(Response<UpstreamBody>, Answer),
    Failed(TryError),
}

impl Tries<'_> {
    /// Tries until there is an answer, or no reason to go on.
    pub(crate) async fn run(
        self,
        exchange: &mut Exchange,
        head: Parts,
        body: Incoming,
    ) -> Result<Reply, Failure> {
        let policy = self.service.target.routes[self.route].retries.as_ref();
        let per_try = self.service.target.routes[self.route].timeouts.per_try;
        let idempotency_key = head.headers.contains_key(&IDEMPOTENCY_KEY);
        let idempotent = retry::is_idempotent(policy, &head.method, idempotency_key);
        self.backend.budget.deposit(Instant::now().into_std());

        let (first, replay) = self.bodies(policy, body);
        let mut next_body = Some(first);
        let mut tried = SmallVec::<[Arc<Endpoint>; 4]>::new();
        let mut attempt = 1;
        let mut free_used = false;
        let mut closed_only = false;
        loop {
            // Balance, breaker: the endpoint.
            let probe = if free_used {
                ProbeEligibility::No
            } else if idempotent && replay.as_ref().is_some_and(can_repeat) {
                ProbeEligibility::Yes
            } else {
                ProbeEligibility::Late
            };
            let choosing = self.backend.choose(probe, &tried, closed_only);
            let mut chosen = before(self.deadline, choosing)
                .await
                .map_err(|_| self.out_of_time())??;
            *exchange.account() = self.account(&chosen.endpoint);

            // The try itself, within its own time.
            let body = next_body
                .take()
                .expect("a try is made only with a body at hand");
            let request = self.dress(&head, body, &chosen.endpoint, attempt);
            let started = Instant::now();
            let try_deadline = earlier(
                self.deadline,
                per_try.and_then(|limit| started.checked_add(limit)),
            );
            let options = SendOptions {
                progress: self.progress.clone(),
                ..SendOptions::default()
            };
            let sending = chosen.endpoint.send(self.version, request, options);
            let tried_now = match before(try_deadline, sending).await {
                Ok(Ok(response)) => {
                    let trusted = chosen.endpoint.tls() == Tls::Mutual;
                    let answer = read(&response, trusted);
                    Tried::Answered(response, answer)
                }
                Ok(Err(error)) => Tried::Failed(error),
                Err(_) => Tried::Failed(self.timed_out(try_deadline).into()),
            };

            // Judge it.
            let result = tried_now.result();
            let verdict = self.backend.verdict(&result);
            let kept = tried_now.returns_the_request();
            let question = retry::Request {
                method: &head.method,
                idempotency_key,
                replayable: kept || replay.as_ref().is_some_and(can_repeat),
                attempt,
                failed_probe: chosen.kind == PickKind::Probe && verdict.is_failure(),
                free_used,
                remaining: self
                    .deadline
                    .map(|at| at.saturating_duration_since(Instant::now())),
            };
            let decision =
                RetryDecision::decide(policy, &question, &result, &mut fastrand::Rng::new());
            let (wait, free) = match decision {
                RetryDecision::Retry { free, wait } if free || self.may_retry(policy) => {
                    (wait, free)
                }
                RetryDecision::Retry { .. } => {
                    return self.settle(tried_now, chosen, started, verdict);
                }
                RetryDecision::Stop(reason) => {
                    self.count_stop(reason);
                    return self.settle(tried_now, chosen, started, verdict);
                }
            };

            // Again: on another endpoint where there is one.
            chosen.permits.observe(started.elapsed(), verdict);
            tried.push(Arc::clone(&chosen.endpoint));
            drop(chosen);
            next_body = match tried_now {
                Tried::Failed(TryError {
                    request: Some(request),
                    ..
                }) => Some(request.into_body()),
                // A response that is given up resets its stream, or closes its connection.
                Tried::Answered(..) | Tried::Failed(_) => {
                    replay.as_ref().and_then(ReplayHandle::another)
                }
            };
            if next_body.is_none() {
                let lost = "the request's body is no longer at hand";
                return Err(Failure::maybe(Outcome::Reset, lost));
            }
            if free {
                free_used = true;
                closed_only = true;
            } else {
                attempt += 1;
                closed_only = false;
            }
            self.counters().record(RetryResult::Sent);
            if !wait.is_zero() {
                let waited = before(self.deadline, tokio::time::sleep(wait)).await;
                waited.map_err(|_| self.out_of_time())?;
            }
        }
    }

    /// The first try's body, and the handle for further ones where the route retries.
    fn bodies(
        &self,
        policy: Option<&RetryPolicy>,
        body: Incoming,
    ) -> (RequestBody, Option<ReplayHandle>) {
        match policy {
            Some(policy) if policy.attempts > 0 => {
                let (body, handle) = replayable(body, policy.body_limit_bytes);
                (body, Some(handle))
            }
            _ => {
                let body = RequestBody::from(body);
                // A request without a body can always be sent again: a probe may need it.
                let empty = matches!(body, RequestBody::Empty);
                (
                    body,
                    empty.then(|| ReplayHandle::whole(::bytes::Bytes::new())),
                )
            }
        }
    }

    /// The head of one try.
    fn dress(
        &self,
        head: &Parts,
        body: RequestBody,
        endpoint: &Endpoint,
        attempt: u32,
    ) -> Request<RequestBody> {
        let mut request = Request::from_parts(head.clone(), body);
        if endpoint.tls() == Tls::Mutual {
            if attempt > 1 {
                request.headers_mut().insert(ATTEMPT, attempt.into());
            }
            if let Some(deadline) = self.deadline {
                // Rounded up: the receiver must not give up before the sender does.
                let left = deadline.saturating_duration_since(Instant::now());
                let millis = left.as_nanos().div_ceil(1_000_000) as u64;
                request
                    .headers_mut()
                    .insert(DEADLINE_MS, HeaderValue::from(millis));
            }
        }
        request
    }

    /// The last try's result is the request's.
    fn settle(
        &self,
        tried: Tried,
        mut chosen: Chosen,
        started: Instant,
        verdict: TryVerdict,
    ) -> Result<Reply, Failure> {
        let (response, answer) = match tried {
            Tried::Failed(error) => {
                chosen.permits.observe(started.elapsed(), verdict);
                return Err(error.failure);
            }
            Tried::Answered(response, answer) => (response, answer),
        };
        let awaits_trailers = headers::is_grpc(response.headers()) && answer.grpc_status.is_none();
        let latency = started.elapsed();
        let undecided = if awaits_trailers {
            chosen.permits.head_received(latency);
            Some((latency, Arc::clone(self.backend)))
        } else {
            chosen.permits.observe(latency, verdict);
            None
        };
        Ok(Reply {
            response,
            trusted: chosen.endpoint.tls() == Tls::Mutual,
            outcome: answer.inbound.unwrap_or(Outcome::Ok),
            permit: TryPermit {
                permits: chosen.permits,
                undecided,
            },
        })
    }

    /// Asks the budget for one retry.
    fn may_retry(&self, policy: Option<&RetryPolicy>) -> bool {
        let allowed = policy.is_some_and(|policy| {
            self.backend
                .budget
                .withdraw(Instant::now().into_std(), &policy.budget)
        });
        if !allowed {
            self.counters().record(RetryResult::BudgetExhausted);
        }
        allowed
    }

    fn count_stop(&self, reason: StopReason) {
        match reason {
            StopReason::Deadline => self.counters().record(RetryResult::Deadline),
            StopReason::NotReplayable => self.counters().record(RetryResult::NotReplayable),
            _ => {}
        }
    }

    fn counters(&self) -> &crate::telemetry::RetryCounters {
        self.service.retry_counters(self.route, self.backend_index)
    }

    fn account(&self, endpoint: &Endpoint) -> Account {
        Account {
            scopes: Arc::clone(self.service.backend_scopes(self.route, self.backend_index)),
            peer: Arc::clone(endpoint.peer()),
            tls: endpoint.tls(),
        }
    }

    fn timed_out(&self, try_deadline: Option<Instant>) -> Failure {
        if self.deadline.is_some() && try_deadline == self.deadline {
            return Failure::maybe(
                Outcome::RequestTimeout,
                "no response within the request's time",
            );
        }
        Failure::maybe(Outcome::TryTimeout, "no response within the try's time")
    }

    fn out_of_time(&self) -> Failure {
        Failure::maybe(Outcome::RequestTimeout, "the request's time is over")
    }
}

impl TryPermit {
    /// The response's body has ended.
    pub(crate) fn ended(mut self, end: &ExchangeEnd) {
        let Some((latency, backend)) = self.undecided else {
            return;
        };
        let verdict = match end.ending {
            Ending::Complete => backend.verdict(&TryResult::Answered(Answer {
                grpc_status: end.grpc_status.map(|code| code as u8),
                ..Answer::plain(::http::StatusCode::OK)
            })),
            Ending::Failed(outcome) => backend.verdict(&TryResult::Failed {
                outcome,
                processed: Processed::Maybe,
            }),
            Ending::Dropped => TryVerdict::Neutral,
        };
        self.permits.observe(latency, verdict);
    }
}

impl Tried {
    fn result(&self) -> TryResult {
        match self {
            Self::Answered(_, answer) => TryResult::Answered(*answer),
            Self::Failed(error) => TryResult::failed(&error.failure),
        }
    }

    fn returns_the_request(&self) -> bool {
        matches!(
            self,
            Self::Failed(TryError {
                request: Some(_),
                ..
            })
        )
    }
}

fn can_repeat(handle: &ReplayHandle) -> bool {
    use crate::http::replay::ReplayState;
    matches!(
        handle.state(),
        ReplayState::Replayable | ReplayState::InProgress { .. }
    )
}

/// What of a response matters for judging it.
fn read(response: &Response<UpstreamBody>, trusted: bool) -> Answer {
    let headers = response.headers();
    let inbound = trusted
        .then(|| answer::read_answer(headers))
        .flatten()
        .and_then(|(outcome, origin)| (origin == Origin::Inbound).then_some(outcome));
    Answer {
        status: response.status(),
        grpc_status: grpc_status(headers),
        inbound,
        retry_after: headers
            .get(::http::header::RETRY_AFTER)
            .and_then(|value| parse_retry_after(value.as_bytes())),
        pushback: headers
            .get(&GRPC_PUSHBACK)
            .map(|value| Pushback::parse(value.as_bytes())),
    }
}
