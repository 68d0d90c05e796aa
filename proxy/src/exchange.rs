//! One request and its response, as they are accounted for: in the metrics, in the log, in traces and for
//! whoever looks.
//!
//! Every exchange is counted exactly once, whatever becomes of it, but for copies of requests, which are
//! counted elsewhere. Whoever answers it calls
//! [`Exchange::finish`], or hands the exchange to the response's body with [`Exchange::follow`]; one
//! that is dropped before (the client went away, and with it the whole future) is `client_gone`.

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderValue, Method, Version};
use tokio::time::Instant;

use crate::http::body::{Ending, ExchangeEnd};
use crate::outcome::{Failure, Outcome};
use crate::policy::AccessLog;
use crate::resilience::attempt::TryResult;
use crate::telemetry::record::{Asked, Draft, Place};
use crate::telemetry::trace::Tracer;
use crate::telemetry::trace::span::{End, Kind, Span};
use crate::telemetry::{LabelValue, PeerScopes, Tls};

/// The status in log and metric of an exchange whose client went away first.
const CLIENT_GONE_STATUS: u16 = 499;

/// What an exchange is counted under.
#[derive(Clone)]
pub struct Account {
    /// The metrics of its route and backend.
    pub scopes: Arc<PeerScopes>,
    /// The other side, as the `peer` label.
    pub peer: Arc<str>,
    /// How the bytes between the sidecars were protected.
    pub tls: Tls,
}

/// One exchange in flight.
pub struct Exchange {
    account: Account,
    method: Method,
    started: Instant,
    counted: bool,
    request_id: Option<HeaderValue>,
    /// Of the further label that requests may have.
    label_value: LabelValue,
    /// Where it is sampled.
    span: Option<Box<Span>>,
    /// Where somebody looks.
    draft: Option<Box<Draft>>,
}

impl Exchange {
    /// An exchange whose request head has just come.
    pub fn begin(account: Account, method: Method) -> Self {
        Self {
            account,
            method,
            started: Instant::now(),
            counted: false,
            request_id: None,
            label_value: LabelValue::default(),
            span: None,
            draft: None,
        }
    }

    /// An exchange that is nobody's business: a copy of another, which was counted where it belongs.
    pub fn uncounted(account: Account, method: Method) -> Self {
        let mut exchange = Self::begin(account, method);
        exchange.counted = true;
        exchange
    }

    /// An exchange whose request was not read at all, so that not even its method is known. `log` says
    /// whether there is a line about it.
    pub fn refused(account: Account, failure: &Failure, log: Option<&Arc<AccessLog>>) {
        let method = Method::from_bytes(b"UNREAD").expect("letters make a method");
        let mut exchange = Self::begin(account, method.clone());
        let asked = Asked {
            method: &method,
            uri: None,
            version: Version::HTTP_11,
            headers: &HeaderMap::new(),
        };
        exchange.observe(asked);
        if log.is_some() {
            exchange.log(asked, log);
        }
        exchange.fail(failure, false);
    }

    /// Its `x-request-id`, for log and trace.
    pub fn identify(&mut self, request_id: HeaderValue) {
        self.request_id = Some(request_id);
    }

    /// Makes a span of it, where there are traces and it is sampled; the request's trace headers say so.
    pub fn trace(&mut self, tracer: Option<&Tracer>, kind: Kind, head: &mut Parts) {
        if let Some(tracer) = tracer {
            self.span = tracer.begin(kind, head);
        }
    }

    /// Takes of the request's head what it is counted by, and makes a record of it, where somebody wants one.
    /// Before the head is changed by anybody but [`Self::trace`].
    pub fn observe<'a>(&mut self, asked: impl Into<Asked<'a>>) {
        let asked = asked.into();
        let telemetry = self.account.scopes.telemetry();
        self.label_value = telemetry.label_value(asked.headers);
        let watchers = telemetry.watchers();
        if !watchers.any() {
            return;
        }
        self.draft = watchers.draft(asked, self.place());
    }

    /// Makes a line about it by `policy`, or by what [`Self::log_by`] says later. To be asked for only where
    /// some policy wants lines, after [`Self::observe`] and before the head is changed.
    pub fn log<'a>(&mut self, asked: impl Into<Asked<'a>>, policy: Option<&Arc<AccessLog>>) {
        let draft = self.draft.take();
        let scopes = Arc::clone(&self.account.scopes);
        let watchers = scopes.telemetry().watchers();
        self.draft = watchers.logged(draft, (asked.into(), self.place()), policy);
    }

    /// The line about it is written by `policy` instead, as its route is known.
    pub fn log_by(&mut self, policy: Option<&Arc<AccessLog>>) {
        if let Some(draft) = &mut self.draft {
            draft.log_by(policy);
        }
    }

    fn place(&self) -> Place<'_> {
        let scopes = &self.account.scopes;
        Place {
            direction: scopes.direction(),
            service: scopes.place()[0],
            peer: &self.account.peer,
        }
    }

    /// A try goes to this endpoint.
    pub fn goes_to(&mut self, address: SocketAddr) {
        if let Some(span) = &mut self.span {
            span.goes_to(address);
        }
        if let Some(draft) = &mut self.draft {
            draft.goes_to(address);
        }
    }

    /// That try came to `result`, and another one follows.
    pub fn retries(&mut self, result: &TryResult) {
        if let Some(span) = &mut self.span {
            span.tried(result);
        }
        if let Some(draft) = &mut self.draft {
            draft.retries();
        }
    }

    /// A fallback answers it.
    pub fn falls_back(&mut self) {
        if let Some(draft) = &mut self.draft {
            draft.falls_back();
        }
    }

    /// When the request head came.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it is counted under from now on, as its route, backend and endpoint become known.
    pub fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    /// It is over: `status` went to the client.
    pub fn finish(mut self, status: u16, grpc_status: Option<u8>, outcome: Outcome) {
        self.count(status, grpc_status, outcome);
    }

    /// It is over: this sidecar answered it.
    pub fn fail(self, failure: &Failure, is_grpc: bool) {
        let (status, grpc_status) = if is_grpc {
            (200, Some(failure.grpc_code()))
        } else {
            (failure.http_status().as_u16(), None)
        };
        tracing::debug!(
            outcome = failure.outcome.as_str(),
            method = %self.method,
            requestId = self.request_id.as_ref().and_then(|id| id.to_str().ok()),
            detail = %failure.detail,
            source = failure.source.as_ref().map(tracing::field::display),
            "request failed"
        );
        self.finish(status, grpc_status, failure.outcome);
    }

    /// It goes on until the response's body ends. `head` is the response's.
    ///
    /// `outcome` is what holds when the body ends as it should: `ok`, or what the other sidecar
    /// said of an answer that it made itself.
    pub fn follow(
        mut self,
        status: u16,
        head: &HeaderMap,
        outcome: Outcome,
    ) -> impl FnOnce(ExchangeEnd) + Send + use<> {
        let head_grpc_status = grpc_status(head);
        move |end| {
            let grpc_status = end.grpc_status.map(|code| code as u8).or(head_grpc_status);
            if let Some(draft) = &mut self.draft {
                draft.responded(end.bytes);
            }
            match end.ending {
                Ending::Complete => self.finish(status, grpc_status, outcome),
                Ending::Failed(outcome) => self.finish(status, grpc_status, outcome),
                Ending::Dropped => self.finish(status, grpc_status, Outcome::ClientGone),
            }
        }
    }

    fn count(&mut self, status: u16, grpc_status: Option<u8>, outcome: Outcome) {
        let (span, draft) = (self.span.take(), self.draft.take());
        let counted = std::mem::replace(&mut self.counted, true);
        if counted && span.is_none() && draft.is_none() {
            return;
        }
        let elapsed = self.started.elapsed();
        let account = &self.account;
        if span.is_some() || draft.is_some() {
            let [service, route, backend] = account.scopes.place().map(Arc::clone);
            let end = End {
                elapsed,
                status,
                grpc_status,
                outcome,
                // Of those nobody counts, only copies are looked at.
                is_copy: counted,
                request_id: self.request_id.take(),
                service,
                route,
                backend,
                peer: Arc::clone(&account.peer),
                tls: account.tls,
            };
            if let Some(draft) = draft {
                draft.end(end.clone());
            }
            if let Some(span) = span {
                span.end(end);
            }
        }
        if counted {
            return;
        }
        account.scopes.with(&account.peer, account.tls, |scope| {
            let (method, value) = (&self.method, self.label_value);
            scope.record_of(value, method, status, grpc_status, outcome, elapsed);
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.count(CLIENT_GONE_STATUS, None, Outcome::ClientGone);
    }
}

/// The `grpc-status` of a head (trailers-only responses carry it there).
pub fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
