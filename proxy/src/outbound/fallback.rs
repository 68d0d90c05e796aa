//! What clients get where no server answered.
//!
//! A fallback lies outside of everything that can take time or fail, and keeps the outcome that
//! triggered it. Another backend is asked only while the request is still whole, within what is left
//! of its time, and once: where that fails too, the first failure stands. No trigger leads to it after
//! a try that must not be repeated: what breaker, empty backend or cap refused was not processed, and
//! exhausted retries are those that would have gone on.

use std::sync::Arc;

use ::http::request::Parts;
use ::http::{HeaderValue, Method, Response};

use super::course::Course;
use super::destination::Service;
use super::filters::Edits;
use super::tries::{Reply, Tries, discard};
use crate::exchange::Exchange;
use crate::http::body::{Progress, ResponseBody};
use crate::http::{Version, answer, headers};
use crate::outcome::{Failure, Origin, Outcome};
use crate::policy::{FallbackAnswer, FallbackPolicy, HeaderEdits, StaticResponse};
use crate::resilience::deadline::Deadline;
use crate::resilience::fallback;

/// One request's way, after its route is known.
pub(crate) struct Passage<'a> {
    pub(crate) service: &'a Arc<Service>,
    /// Index into the target's routes.
    pub(crate) route: usize,
    pub(crate) version: Version,
    /// By when a response's head must have come.
    pub(crate) deadline: Deadline,
    /// The client's own part of it, from its `grpc-timeout`.
    pub(crate) own_deadline: Deadline,
    pub(crate) progress: Option<Arc<Progress>>,
}

/// A server's response.
pub(crate) struct Answered {
    pub(crate) reply: Reply,
    /// A cookie to set, so that the user stays on this side of the split.
    pub(crate) cookie: Option<HeaderValue>,
    /// Which side of the split it came from; `None` where a fallback's backend gave it.
    pub(crate) side: Option<usize>,
    /// Another backend than the route's gave it.
    pub(crate) is_fallback: bool,
}

/// Why there is no server's response.
pub(crate) enum Unanswered {
    Failed(Failure),
    /// A response that the sidecar made, and its outcome: a fallback's has the one that triggered it.
    Instead(Box<Response<ResponseBody>>, Outcome),
}

/// A route's fallback.
pub(crate) struct Fallback<'a> {
    pub(crate) policy: &'a FallbackPolicy,
    pub(crate) passage: Passage<'a>,
}

impl Passage<'_> {
    /// The tries on one of the target's backends.
    /// `side` is what the side of the split that was chosen changes.
    pub(crate) fn tries<'t>(&'t self, backend: usize, side: Option<&'t HeaderEdits>) -> Tries<'t> {
        Tries {
            service: self.service,
            route: self.route,
            backend_index: backend,
            backend: &self.service.backends[backend],
            version: self.version,
            deadline: self.deadline,
            own_deadline: self.own_deadline,
            progress: self.progress.clone(),
            edits: Edits {
                route: self.service.target.routes[self.route].filters.as_deref(),
                side,
            },
        }
    }
}

impl Fallback<'_> {
    /// Whether what came leads to it.
    pub(crate) fn is_triggered(&self, came: &Result<Answered, Failure>, course: &Course) -> bool {
        let outcome = outcome_of(came);
        fallback::is_triggered(&self.policy.triggers, outcome, course.is_exhausted())
    }

    /// Stands in for what came.
    pub(crate) async fn stand_in(
        &self,
        came: Result<Answered, Failure>,
        exchange: &mut Exchange,
        head: &Parts,
        course: &mut Course,
    ) -> Result<Answered, Unanswered> {
        let outcome = outcome_of(&came);
        match &self.policy.answer {
            FallbackAnswer::Response(response) => {
                exchange.falls_back();
                Err(respond(came, response, head))
            }
            FallbackAnswer::Backend(backend) => {
                if !course.restart() {
                    return Ok(came?);
                }
                let account = exchange.account().clone();
                let tries = self.passage.tries(*backend, None);
                let Ok(mut reply) = tries.run(exchange, head, course).await else {
                    *exchange.account() = account;
                    return Ok(came?);
                };
                forget(came);
                exchange.falls_back();
                reply.outcome = outcome;
                Ok(Answered {
                    reply,
                    cookie: None,
                    side: None,
                    is_fallback: true,
                })
            }
        }
    }
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn outcome_of(came: &Result<Answered, Failure>) -> Outcome {
    match came {
        Ok(answered) => answered.reply.outcome,
        Err(failure) => failure.outcome,
    }
}

/// The response that the sidecar makes instead of what came.
fn respond(came: Result<Answered, Failure>, response: &StaticResponse, head: &Parts) -> Unanswered {
    let failure = match came {
        Err(failure) => failure,
        Ok(answered) => {
            let outcome = answered.reply.outcome;
            forget(Ok(answered));
            Failure::maybe(outcome, "a fallback stands in for the server's answer")
        }
    };
    tracing::debug!(
        outcome = failure.outcome.as_str(),
        requestId = headers::request_id(&head.headers),
        detail = %failure.detail,
        "fallback"
    );
    let is_grpc = headers::is_grpc(&head.headers);
    let wants_body = head.method != Method::HEAD;
    let answer = answer::answer_fallback(&failure, response, Origin::Outbound, is_grpc, wants_body);
    Unanswered::Instead(Box::new(answer), failure.outcome)
}

/// Gives an answer's connection back.
fn forget(came: Result<Answered, Failure>) {
    if let Ok(answered) = came {
        let place = answered.reply.permit.into_place();
        discard(answered.reply.response.into_body(), place);
    }
}
