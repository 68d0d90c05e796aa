//! The tries of one request: pick an endpoint, send, judge, and perhaps again.
//!
//! Every try is judged by the endpoint's breaker. Every try but the first counts against the
//! policy's attempts and the backend's budget, but for one: a request that lent itself to probing
//! an open endpoint, and failed by it, gets a free try on a closed one.

use std::sync::Arc;
use std::time::Duration;

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use futures_util::future::Either;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use weft_proto::names::headers as names;

use super::backend::{Backend, Caller, Chosen, Permits};
use super::course::Course;
use super::destination::Service;
use super::endpoint::Endpoint;
use super::filters::Edits;
use super::limits::{self, Search};
use crate::exchange::{Account, Exchange, grpc_status};
use crate::http::body::{Ending, ExchangeEnd, Progress, RequestBody, UpstreamBody};
use crate::http::client::{Outgoing, Queued, SendOptions, TryError};
use crate::http::deadline::before;
use crate::http::{Version, answer, headers};
use crate::outcome::{Failure, Origin, Outcome, Processed};
use crate::policy::RetryPolicy;
use crate::resilience::attempt::{Answer, Pushback, TryResult, TryVerdict, parse_retry_after};
use crate::resilience::balance::PickKind;
use crate::resilience::deadline::{Bound, Deadline};
use crate::resilience::limits::Place;
use crate::resilience::retry::{self, RetryDecision, StopReason};
use crate::telemetry::{RetryCounters, RetryResult, Tls};

const ATTEMPT: HeaderName = HeaderName::from_static(names::ATTEMPT);
const DEADLINE_MS: HeaderName = HeaderName::from_static(names::DEADLINE_MS);
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How long a gRPC client waits (gRPC over HTTP/2, "Timeout").
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The oldest idle connection to a peer that is no sidecar which a request takes that must not be
/// sent twice.
pub(super) const FRESH_ENOUGH: Duration = Duration::from_millis(500);
/// How long the head of a gRPC response is held back for what follows it, where its status may be a
/// reason to try again. A failure without a message follows its head at once.
const TRAILERS_WAIT: Duration = Duration::from_millis(10);
/// What is read at most of an answer that is given up for another try, and for how long.
const MAX_DISCARDED: usize = 64 * 1024;
const DISCARD_LIMIT: Duration = Duration::from_secs(1);

/// Where one request goes, and by when.
pub(crate) struct Tries<'a> {
    pub(crate) service: &'a Service,
    /// Index into the target's routes.
    pub(crate) route: usize,
    /// Index into the target's backends.
    pub(crate) backend_index: usize,
    pub(crate) backend: &'a Arc<Backend>,
    pub(crate) version: Version,
    /// By when a response's head must have come.
    pub(crate) deadline: Deadline,
    /// The client's own part of it, from its `grpc-timeout`.
    pub(crate) own_deadline: Deadline,
    pub(crate) progress: Option<Arc<Progress>>,
    /// What is changed of the request as it is sent.
    pub(crate) edits: Edits<'a>,
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
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the large one, and a box would cost each an allocation"
)]
enum Tried {
    Answered(Response<UpstreamBody>, Answer),
    Failed(TryError),
}

/// What follows a try.
enum Next {
    /// Its result is the request's.
    Settle,
    Again {
        free: bool,
        wait: Duration,
    },
}

impl Tries<'_> {
    /// Tries until there is an answer, or no reason to go on.
    pub(crate) async fn run(
        self,
        exchange: &mut Exchange,
        head: &Parts,
        course: &mut Course,
    ) -> Result<Reply, Failure> {
        let policy = self.service.target.routes[self.route].retries.as_ref();
        self.backend.budget.deposit(Instant::now().into_std());
        loop {
            // Limits, balance, breaker, pool: a place, an endpoint and what came of it.
            let (mut chosen, started, tried) = self.attempt(exchange, head, course).await?;
            let result = tried.result();
            let verdict = self.backend.verdict(&result);

            // Again, or not.
            let failed_probe = chosen.kind == PickKind::Probe && verdict.is_failure();
            let (free, wait) = match self.next(policy, head, course, &tried, failed_probe) {
                Next::Again { free, wait } => (free, wait),
                Next::Settle => return self.settle(course, tried, chosen, started, verdict),
            };
            chosen.permits.observe(started.elapsed(), verdict);
            exchange.retries(&result);
            course.tried.push(Arc::clone(&chosen.endpoint));
            let place = chosen.permits.place.take();
            drop(chosen);
            let (unwritten, unwanted) = tried.give_up();
            let going_on = course.go_on(unwritten, free);
            if let Some(answer) = unwanted {
                // Its place stays taken for as long as the rest still comes.
                discard(answer, place);
            }
            going_on?;
            if !wait.is_zero() {
                let waited = before(self.deadline, tokio::time::sleep(wait)).await;
                waited.map_err(|_| out_of_time())?;
            }
            self.counters().record(RetryResult::Sent);
        }
    }

    /// One try: waits for a place under the backend's limits, chooses an endpoint and sends.
    ///
    /// An endpoint whose connections are all taken costs the request nothing but another look around:
    /// nothing was sent, and no try was made.
    async fn attempt(
        &self,
        exchange: &mut Exchange,
        head: &Parts,
        course: &mut Course,
    ) -> Result<(Chosen, Instant, Tried), Failure> {
        let place = limits::request_place(self.backend, self.deadline).await?;
        let mut search = Search::default();
        loop {
            search.turn(self.backend, self.deadline).await?;
            let choosing = self.choose(head, course, &search);
            let mut chosen = before(self.deadline, choosing)
                .await
                .map_err(|_| out_of_time())??;
            *exchange.account() = self.account(&chosen.endpoint);
            exchange.goes_to(chosen.endpoint.info().address);

            // The try itself, within its own time.
            let started = Instant::now();
            let endpoint = &chosen.endpoint;
            let tried = self.send(head, course, endpoint, &search, started).await;
            let (full, request) = match tried {
                Tried::Failed(TryError {
                    full: Some(full),
                    request: Some(request),
                    ..
                }) => (full, request),
                tried => {
                    chosen.endpoint.called().request(started);
                    chosen.permits.place = place;
                    return Ok((chosen, started, tried));
                }
            };
            course.body = Some(request.into_body());
            let seeks = |one: &Endpoint| {
                let options = self.options(course, one, None);
                one.has_spare(self.version, &options)
            };
            let tried = &course.tried;
            let backend = self.backend;
            search.refused(full, backend, &chosen.endpoint, tried, seeks, self.version)?;
        }
    }

    /// The endpoint of the try to come.
    async fn choose(
        &self,
        head: &Parts,
        course: &Course,
        search: &Search,
    ) -> Result<Chosen, Failure> {
        let caller = Caller::Headers(&head.headers);
        let (probe, closed_only) = (course.probe(), course.free);
        let avoided = search.avoided(self.backend, &course.tried);
        let choosing = self.backend.choose(caller, probe, &avoided, closed_only);
        choosing.await
    }

    fn options(
        &self,
        course: &Course,
        endpoint: &Endpoint,
        queued: Option<Arc<dyn Queued>>,
    ) -> SendOptions {
        // A peer that is no sidecar may close an idle connection at any moment, and nobody can tell
        // whether it saw the request: what must not be sent twice takes a connection used just now.
        let must_be_sent_once = endpoint.tls() != Tls::Mutual && !course.idempotent;
        SendOptions {
            max_idle_age: must_be_sent_once.then_some(FRESH_ENOUGH),
            probe_before_write: must_be_sent_once,
            progress: self.progress.clone(),
            queued,
        }
    }

    /// One try on one endpoint.
    async fn send(
        &self,
        head: &Parts,
        course: &mut Course,
        endpoint: &Endpoint,
        search: &Search,
        started: Instant,
    ) -> Tried {
        let body = course
            .body
            .take()
            .expect("a try is made only with a body at hand");
        let mut request = self.dress(head, body, endpoint, course.attempt, started);
        let options = self.options(course, endpoint, search.queued());
        let per_try = self.service.target.routes[self.route].timeouts.per_try;
        let (deadline, bound) = self.deadline.for_try(started.into_std(), per_try);
        let sending = if search.is_narrowed() {
            let sending = endpoint.send_from_anywhere(self.version, &mut request, &options);
            Either::Left(Box::pin(sending))
        } else {
            Either::Right(endpoint.send(self.version, &mut request, &options))
        };
        match before(deadline, sending).await {
            Ok(Ok(mut response)) => {
                let mut answer = read(&response, endpoint.tls() == Tls::Mutual);
                if self.may_fail_in_trailers(course, &response, &answer) {
                    let now = Instant::now().into_std();
                    let wait = Deadline::after(now, Some(TRAILERS_WAIT)).min(deadline);
                    let ahead = before(wait, response.body_mut().trailers_ahead()).await;
                    if let Ok(Some(trailers)) = ahead {
                        answer.grpc_status = grpc_status(trailers);
                        answer.pushback = answer.pushback.or_else(|| pushback(trailers));
                    }
                }
                Tried::Answered(response, answer)
            }
            Ok(Err(mut error)) => {
                // A kept connection of a peer that is no sidecar, which may have closed it as idle
                // just then: for what may be sent twice that is as good as never sent.
                let stale = error.reused && endpoint.tls() != Tls::Mutual;
                if stale && course.idempotent && error.failure.outcome == Outcome::Reset {
                    error.failure.processed = Processed::Never;
                }
                Tried::Failed(error)
            }
            Err(_) => Tried::Failed(match bound {
                Bound::Request => out_of_time().into(),
                Bound::Try => {
                    let late = "no response within the try's time";
                    Failure::maybe(Outcome::TryTimeout, late).into()
                }
            }),
        }
    }

    /// Whether a gRPC response may say only behind its head that it failed, where that would be a reason
    /// to try again.
    fn may_fail_in_trailers(
        &self,
        course: &Course,
        response: &Response<UpstreamBody>,
        answer: &Answer,
    ) -> bool {
        let policy = self.service.target.routes[self.route].retries.as_ref();
        let may_repeat = |policy: &RetryPolicy| {
            !policy.grpc_codes.is_empty() && course.attempt <= policy.attempts
        };
        policy.is_some_and(may_repeat)
            && answer.grpc_status.is_none()
            && headers::is_grpc(response.headers())
            && course.can_repeat()
    }

    /// The request of one try.
    fn dress<'h>(
        &self,
        head: &'h Parts,
        body: RequestBody,
        endpoint: &Endpoint,
        attempt: u32,
        started: Instant,
    ) -> Outgoing<'h> {
        let mut request = if self.edits.are_none() {
            Outgoing::lent(head, body)
        } else {
            let mut head = head.clone();
            self.edits.apply(&mut head.uri, &mut head.headers);
            Outgoing::new(Request::from_parts(head, body))
        };
        let now = started.into_std();
        // A client's own limit is passed on less the time that is gone.
        if let Some(left) = self.own_deadline.grpc_timeout(now)
            && let Ok(left) = HeaderValue::try_from(left)
        {
            request.set(GRPC_TIMEOUT, left);
        }
        if endpoint.tls() != Tls::Mutual {
            return request;
        }
        if attempt > 1 {
            request.set(ATTEMPT, attempt.into());
        }
        if let Some(millis) = self.deadline.header_ms(now) {
            request.set(DEADLINE_MS, headers::number(millis));
        }
        request
    }

    /// Decides what follows a try; asks the budget for what is not free.
    fn next(
        &self,
        policy: Option<&RetryPolicy>,
        head: &Parts,
        course: &mut Course,
        tried: &Tried,
        failed_probe: bool,
    ) -> Next {
        let question = retry::Request {
            method: &head.method,
            idempotency_key: course.idempotency_key,
            replayable: tried.returns_the_request() || course.can_repeat(),
            attempt: course.attempt,
            failed_probe,
            free_used: course.free_used,
            remaining: self.deadline.remaining(Instant::now().into_std()),
        };
        let mut rng = fastrand::Rng::new();
        match RetryDecision::decide(policy, &question, &tried.result(), &mut rng) {
            RetryDecision::Retry { free: true, wait } => {
                self.backend.budget.charge();
                Next::Again { free: true, wait }
            }
            RetryDecision::Retry { free: false, wait } => {
                let now = Instant::now().into_std();
                let budget = policy.map(|policy| &policy.budget);
                if budget.is_some_and(|budget| self.backend.budget.withdraw(now, budget)) {
                    return Next::Again { free: false, wait };
                }
                self.counters().record(RetryResult::BudgetExhausted);
                course.exhausted = true;
                Next::Settle
            }
            RetryDecision::Stop(reason) => {
                match reason {
                    StopReason::Deadline => self.counters().record(RetryResult::Deadline),
                    StopReason::NotReplayable => {
                        self.counters().record(RetryResult::NotReplayable);
                    }
                    StopReason::AttemptsUsed => course.exhausted = true,
                    _ => {}
                }
                Next::Settle
            }
        }
    }

    /// The last try's result is the request's.
    fn settle(
        &self,
        course: &mut Course,
        tried: Tried,
        mut chosen: Chosen,
        started: Instant,
        verdict: TryVerdict,
    ) -> Result<Reply, Failure> {
        let latency = started.elapsed();
        let (response, answer) = match tried {
            Tried::Failed(error) => {
                chosen.permits.observe(latency, verdict);
                // What was never written is whole: a fallback can still send it.
                course.body = error.request.map(|request| request.into_body());
                return Err(error.failure);
            }
            Tried::Answered(response, answer) => (response, answer),
        };
        let awaits_trailers = headers::is_grpc(response.headers()) && answer.grpc_status.is_none();
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

    fn counters(&self) -> &RetryCounters {
        self.service.retry_counters(self.route, self.backend_index)
    }

    fn account(&self, endpoint: &Endpoint) -> Account {
        Account {
            scopes: Arc::clone(self.service.backend_scopes(self.route, self.backend_index)),
            peer: Arc::clone(endpoint.peer()),
            tls: endpoint.tls(),
        }
    }
}

impl TryPermit {
    /// Nobody wants the answer any more, whose rest still takes this place.
    pub(crate) fn into_place(self) -> Option<Place> {
        self.permits.place
    }

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

    /// The request's body where nothing of it was written, and that of an answer which nobody wants.
    fn give_up(self) -> (Option<RequestBody>, Option<UpstreamBody>) {
        match self {
            Self::Failed(error) => (error.request.map(|request| request.into_body()), None),
            Self::Answered(response, _) => (None, Some(response.into_body())),
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

/// Reads the rest of an answer that nobody wants, so that its connection can be used again. A long
/// or slow one is not worth it.
/// `held` is let go of with it.
pub(crate) fn discard(body: UpstreamBody, held: impl Send + 'static) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(async move {
        let deadline = Deadline::after(Instant::now().into_std(), Some(DISCARD_LIMIT));
        let limited = http_body_util::Limited::new(body, MAX_DISCARDED);
        // Whatever comes of it: dropping the body gives the connection back, or closes it.
        let _ = before(deadline, limited.collect()).await;
        drop(held);
    });
}

/// The request's whole time is over.
pub(crate) fn out_of_time() -> Failure {
    Failure::maybe(
        Outcome::RequestTimeout,
        "no response within the request's time",
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
        pushback: pushback(headers),
    }
}

/// What a gRPC server says about retrying, in its trailers or, where those are all, in the head.
fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    let value = headers.get(&GRPC_PUSHBACK)?;
    Some(Pushback::parse(value.as_bytes()))
}
