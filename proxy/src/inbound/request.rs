//! The stack of one inbound request. `Requests::stack` lists its layers, outermost first.

use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ::http::request::Parts;
use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use weft_proto::names::headers as names;

use super::authorize::{Admission, Wish, admit, is_probe};
use super::limits::{Asker, Resolved};
use super::revoke::relay_while_welcome;
use super::{Inbound, Peer, Port};
use crate::exchange::{Account, Exchange};
use crate::http::body::{RequestBody, ResponseBody, UpstreamBody};
use crate::http::client::{BoxFuture, Outgoing};
use crate::http::cuts::{Cuts, Cuttable};
use crate::http::deadline::before;
use crate::http::server::{Excess, Handler};
use crate::http::upgrade::{self, Bridged, Wanted};
use crate::http::{Version, answer, forwarded, headers};
use crate::net::closing::Closing;
use crate::outcome::{Failure, Origin, Outcome, Processed};
use crate::policy::InboundPolicy;
use crate::resilience::deadline::{Deadline, parse_deadline_ms};
use crate::telemetry::edges::{EdgeTls, Visit};
use crate::telemetry::trace::span::Kind;
use crate::telemetry::{self, PeerScopes, access};

const DEADLINE_MS: HeaderName = HeaderName::from_static(names::DEADLINE_MS);
const MIRROR: HeaderName = HeaderName::from_static(names::MIRROR);
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// What is in flight may go on for this much longer than its caller's sidecar said that it waits. That one
/// answers its client at its deadline and cuts off what it asked for here, which is `client_gone` and no error
/// of this workload. The cut comes milliseconds after the deadline, more where the machine is busy: without a
/// margin many requests that are too slow would end as 504 here too. The deadline is for a caller whose cut
/// does not come. A container that has used up its share of the processor stands still for most of 100 ms.
pub(super) const CUT_MARGIN: Duration = Duration::from_millis(100);

/// The requests of one connection that was made to the application.
pub(crate) struct Requests {
    inbound: Arc<Inbound>,
    port: Port,
    peer: Peer,
    account: Account,
    visit: Visit,
    /// The limiters of the port, as far as a request has asked for them.
    limits: Resolved,
    /// What is added to `x-forwarded-for`.
    forwarded_for: Option<HeaderValue>,
    /// Those in flight.
    cuts: Arc<Cuts>,
    closing: Closing,
}

impl Requests {
    /// Of a connection from `client`, which has proved to be `peer`.
    pub(crate) fn new(
        inbound: Arc<Inbound>,
        port: Port,
        peer: Peer,
        client: Option<IpAddr>,
        cuts: Arc<Cuts>,
        closing: Closing,
    ) -> Self {
        let service = port.service_label();
        let account = Account {
            scopes: Arc::new(PeerScopes::new(
                Arc::clone(&inbound.telemetry),
                Origin::Inbound,
                Arc::clone(&service),
                "".into(),
                service,
            )),
            peer: Arc::clone(&peer.label),
            tls: peer.tls(),
        };
        let forwarded_for = inbound.forwarded_for.of(client);
        let visit = inbound.visit(&port, &peer, client);
        Self {
            inbound,
            port,
            peer,
            account,
            visit,
            limits: Resolved::default(),
            forwarded_for,
            cuts,
            closing,
        }
    }

    /// One request: request id and trace context, then its layers; whatever happens, an answer.
    async fn request(self: Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        let is_grpc = headers::is_grpc(request.headers());
        let mirrored = self.is_mirrored(&request);
        let mut exchange = self.begin(&request, mirrored);
        let (mut head, body) = request.into_parts();
        exchange.identify(headers::ensure_request_id(&mut head.headers));
        exchange.trace(self.inbound.telemetry.tracer(), Kind::Server, &mut head);
        exchange.observe(&head);
        match self.stack(&mut exchange, mirrored, head, body).await {
            Ok(answered) => self.finish(exchange, answered),
            Err(failure) => {
                exchange.fail(&failure, is_grpc);
                answer::answer(&failure, Origin::Inbound, is_grpc)
            }
        }
    }

    fn begin(&self, request: &Request<Incoming>, mirrored: bool) -> Exchange {
        let (account, method) = (self.account.clone(), request.method().clone());
        if mirrored {
            self.inbound.telemetry.mirrored_received();
            return Exchange::uncounted(account, method);
        }
        Exchange::begin(account, method)
    }

    /// The layers that a request passes, in order.
    async fn stack(
        &self,
        exchange: &mut Exchange,
        mirrored: bool,
        head: Parts,
        body: Incoming,
    ) -> Result<Answered, Failure> {
        let version = Version::of(head.version);

        // Policy as it is now: an edit holds for the next request of an open connection, and ends those
        // in flight that it would refuse.
        let cuttable = self.cuts.begin(&head.method, &head.uri);
        let policy = self.port.policy.load().ok_or_else(|| {
            Failure::never(Outcome::ConfigUnavailable, "no policy for this port yet")
        })?;

        // Access log: by the policy that it is judged by.
        if !policy.access_logs.is_empty() {
            let asked = telemetry::record::Asked::from(&head);
            exchange.log(asked, access::most(&policy.access_logs, Some(asked)));
        }

        // mTLS, authorization and rate limits; declared probes pass by all of them, copies of other
        // requests by the rates.
        let admission = self.admit(&policy, &head, exchange.started())?;
        if admission != Admission::Exempt && policy.has_rate_limits() && !mirrored {
            self.limit(&policy, &head, exchange.started())?;
        }

        // Deadline: the caller's sidecar says how long it still waits.
        let deadline = self.deadline(exchange.started(), &head.headers);
        if deadline.is_over(Instant::now().into_std()) {
            return Err(Failure::never(
                Outcome::RequestTimeout,
                "the caller waits no longer",
            ));
        }
        let deadline = deadline.later(CUT_MARGIN);

        // Headers that concern one connection only, or that only a sidecar may say.
        headers::one_authority(&head)?;
        headers::one_length(&head)?;
        let mut request = Request::from_parts(head, RequestBody::from(body));
        let wanted = Wanted::take(&mut request);
        let wanted = wanted.filter(|_| self.may_change_over(&policy, admission, &request));
        let asked = wanted.as_ref().map(|_| Asked::of(&request, policy));
        let streams = headers::request_streams(&request);
        headers::strip_hop_by_hop(request.headers_mut(), wanted.is_some());
        headers::strip_ours(request.headers_mut());
        if mirrored {
            request.headers_mut().insert(MIRROR, TRUE);
        }
        if let Some(client) = &self.forwarded_for {
            forwarded::append(request.headers_mut(), client);
        }
        headers::prepare(&mut request)?;

        // The application.
        let apps = &self.inbound.apps;
        let mut request = Outgoing::new(request);
        let sending = apps.send(self.port.app, version, &mut request);
        let sending = pin!(before(deadline, sending));
        let mut response = match uncut(&cuttable, sending).await {
            None => return Err(revoked()),
            Some(Ok(Ok(response))) => response,
            Some(Ok(Err(error))) => return Err(not_handed_on(error.failure)),
            Some(Err(_)) => {
                return Err(Failure::maybe(
                    Outcome::RequestTimeout,
                    "no response within the caller's time",
                ));
            }
        };
        if Wanted::is_unasked(wanted.as_ref(), &response) {
            return Err(upgrade::unasked());
        }
        let body = response.body_mut();
        body.end_when_cut(cuttable, revoked().outcome);
        let until = if streams { Deadline::NONE } else { deadline };
        Ok(Answered {
            response,
            wanted: wanted.zip(asked),
            until,
        })
    }

    /// The response on its way to the caller.
    fn finish(&self, exchange: Exchange, answered: Answered) -> Response<ResponseBody> {
        let Answered {
            mut response,
            wanted,
            until,
        } = answered;
        let status = response.status();
        let granted = wanted.filter(|(wanted, _)| wanted.is_granted(&response));
        headers::strip_hop_by_hop(response.headers_mut(), granted.is_some());
        headers::strip_ours(response.headers_mut());

        if let Some((granted, asked)) = granted {
            upgrade::without_length(&mut response);
            let upstream = upgrade::Upstream::take(&mut response);
            let downstream = granted.into_downstream();
            let closing = self.closing.clone();
            let bridge = upgrade::bridge_upgrade(downstream, upstream, closing, Deadline::NONE);
            let (port, peer) = (self.port.clone(), self.peer.clone());
            let bridging = async move {
                let wish = asked.wish();
                let seen = Some(Arc::clone(&asked.policy));
                let bridged = relay_while_welcome(&port, &peer, wish, seen, pin!(bridge)).await;
                let outcome = bridged.map_or_else(|revoked| revoked, Bridged::outcome);
                exchange.finish(status.as_u16(), None, outcome);
            };
            self.inbound.spawn_tracked("upgraded connection", bridging);
            return response.map(|_| ResponseBody::Empty);
        }
        let (parts, mut body) = response.into_parts();
        if !headers::response_streams(status, &parts.headers) {
            body.limit(until, None);
        }
        body.observe(exchange.follow(status.as_u16(), &parts.headers, Outcome::Ok));
        Response::from_parts(parts, body.into())
    }

    /// Whether this is a copy of another request. Believed only of a verified peer.
    fn is_mirrored(&self, request: &Request<Incoming>) -> bool {
        self.peer.id.is_some() && request.headers().get(&MIRROR).is_some_and(|it| it == TRUE)
    }

    /// Whether this is a probe that the port declares, of whoever proved nothing.
    fn is_declared_probe<B>(&self, request: &Request<B>) -> bool {
        let wish = Wish::Request {
            method: request.method(),
            path: request.uri().path(),
        };
        let policy = self.port.policy.load();
        self.peer.id.is_none() && policy.is_some_and(|policy| is_probe(&policy, wish))
    }

    /// Whether the caller may make this request.
    fn admit(
        &self,
        policy: &InboundPolicy,
        head: &Parts,
        now: Instant,
    ) -> Result<Admission, Failure> {
        let wish = Wish::Request {
            method: &head.method,
            path: head.uri.path(),
        };
        let admission = admit(policy, self.peer.id.as_ref(), wish);
        let tls = match admission {
            Ok(Admission::Exempt) => EdgeTls::Exempt,
            Err(Outcome::MtlsRequired) => EdgeTls::Refused,
            Ok(_) | Err(_) => self.peer.edge_tls(),
        };
        self.visit.request(tls, now);
        let admission = admission.map_err(not_admitted)?;
        match admission {
            Admission::Exempt => self.inbound.telemetry.plaintext_exempt(),
            Admission::Audited => self.inbound.audited(&self.port, &self.peer),
            Admission::Allowed => {}
        }
        Ok(admission)
    }

    /// Whether the connection may change over to another protocol, of which nothing is seen any more.
    /// Nobody who may not send bytes may send requests that way: then only WebSocket is let through,
    /// which carries none, and for CONNECT what is said of it, which is a method.
    fn may_change_over(
        &self,
        policy: &InboundPolicy,
        admission: Admission,
        request: &Request<RequestBody>,
    ) -> bool {
        if admission == Admission::Exempt {
            return false;
        }
        *request.method() == Method::CONNECT
            || headers::upgrades_to_websocket(request.headers())
            || admit(policy, self.peer.id.as_ref(), Wish::Bytes).is_ok()
    }

    /// Whether the request is within every rate.
    fn limit(
        &self,
        policy: &Arc<InboundPolicy>,
        head: &Parts,
        now: Instant,
    ) -> Result<(), Failure> {
        let asker = Asker {
            caller: self.peer.id.as_ref(),
            head,
        };
        let limits = &self.inbound.limits;
        self.limits
            .take(limits, &self.port, policy, asker, now.into_std())
            .map_err(|wait| {
                Failure::never(Outcome::RateLimited, "over the rate limit of this port")
                    .with_retry_after(wait)
            })
    }

    /// When the caller's sidecar gives up. Believed only of a verified peer.
    fn deadline(&self, started: Instant, headers: &HeaderMap) -> Deadline {
        let said = headers.get(&DEADLINE_MS).filter(|_| self.peer.id.is_some());
        let left = said.and_then(|said| parse_deadline_ms(said.as_bytes()));
        Deadline::after(started.into_std(), left)
    }
}

impl Handler for Requests {
    fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<Response<ResponseBody>> {
        Box::pin(Arc::clone(self).request(request))
    }

    fn refuse(self: &Arc<Self>, failure: Failure) -> BoxFuture<Response<ResponseBody>> {
        let policy = self.port.policy.load();
        let logs = policy.as_ref().map_or(&[][..], |it| &it.access_logs);
        Exchange::refused(self.account.clone(), &failure, access::most(logs, None));
        let response = answer::answer(&failure, Origin::Inbound, false);
        Box::pin(std::future::ready(response))
    }

    /// A declared probe is served however many requests there are: a workload that is busy is not to be
    /// taken for one that has failed.
    fn turn_away(
        self: &Arc<Self>,
        request: Request<Incoming>,
        excess: Excess,
    ) -> BoxFuture<Response<ResponseBody>> {
        if excess == Excess::Requests && self.is_declared_probe(&request) {
            return self.handle(request);
        }
        let failure = excess.failure(Outcome::Shed);
        let is_grpc = headers::is_grpc(request.headers());
        let mut exchange = self.begin(&request, self.is_mirrored(&request));
        exchange.observe(&request);
        let policy = self.port.policy.load();
        let logs = policy.as_ref().map_or(&[][..], |it| &it.access_logs);
        if !logs.is_empty() {
            let asked = telemetry::record::Asked::from(&request);
            exchange.log(asked, access::most(logs, Some(asked)));
        }
        exchange.fail(&failure, is_grpc);
        let response = answer::answer(&failure, Origin::Inbound, is_grpc);
        Box::pin(std::future::ready(response))
    }
}

/// A response, and what of its request still matters.
struct Answered {
    response: Response<UpstreamBody>,
    wanted: Option<(Wanted, Asked)>,
    until: Deadline,
}

/// What was asked for and admitted, for as long as what follows it lasts.
struct Asked {
    method: Method,
    target: Option<PathAndQuery>,
    policy: Arc<InboundPolicy>,
}

impl Asked {
    fn of(request: &Request<RequestBody>, policy: Arc<InboundPolicy>) -> Self {
        Self {
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            policy,
        }
    }

    fn wish(&self) -> Wish<'_> {
        Wish::Request {
            method: &self.method,
            path: self.target.as_ref().map_or("", PathAndQuery::path),
        }
    }
}

/// What an exchange ends with that would not be admitted any more.
fn revoked() -> Failure {
    Failure::maybe(Outcome::Unauthorized, "authorization was revoked")
}

/// What `future` makes, unless the exchange is cut before.
async fn uncut<F: Future>(exchange: &Cuttable, mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(made) => Poll::Ready(Some(made)),
        Poll::Pending => exchange.poll_cut(cx).map(|()| None),
    })
    .await
}

/// A caller is told what was decided.
fn not_admitted(outcome: Outcome) -> Failure {
    let detail = match outcome {
        Outcome::MtlsRequired => "this port takes mesh TLS only",
        _ => "the caller may not make this request",
    };
    Failure::never(outcome, detail)
}

/// A connection to the application that broke before it took the request is, to the caller, one that
/// did not come about: only so its sidecar learns that any method may be tried elsewhere.
fn not_handed_on(failure: Failure) -> Failure {
    if failure.outcome == Outcome::Reset && failure.processed == Processed::Never {
        return Failure {
            outcome: Outcome::ConnectRefused,
            ..failure
        };
    }
    failure
}

#[cfg(test)]
mod tests;
