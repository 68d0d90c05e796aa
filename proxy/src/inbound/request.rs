//! The stack of one inbound request. `Requests::stack` lists its layers, outermost first.

use std::net::IpAddr;
use std::sync::Arc;

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use weft_proto::names::headers as names;

use super::authorize::{Decision, Wish, authorize};
use super::limits::{Asker, Resolved};
use super::{Inbound, Peer, Port};
use crate::exchange::{Account, Exchange};
use crate::http::body::{RequestBody, ResponseBody, UpstreamBody};
use crate::http::client::BoxFuture;
use crate::http::deadline::before;
use crate::http::server::{Excess, Handler};
use crate::http::upgrade::{self, Wanted};
use crate::http::{Version, answer, forwarded, headers};
use crate::net::closing::Closing;
use crate::outcome::{Failure, Origin, Outcome, Processed};
use crate::policy::{InboundPolicy, MtlsMode, Probe};
use crate::resilience::deadline::{Deadline, parse_deadline_ms};
use crate::telemetry::PeerScopes;

const DEADLINE_MS: HeaderName = HeaderName::from_static(names::DEADLINE_MS);
const MIRROR: HeaderName = HeaderName::from_static(names::MIRROR);
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The requests of one connection that was made to the application.
pub(crate) struct Requests {
    inbound: Arc<Inbound>,
    port: Port,
    peer: Peer,
    account: Account,
    /// The limiters of the port, as far as a request has asked for them.
    limits: Resolved,
    /// What is added to `x-forwarded-for`.
    forwarded_for: Option<HeaderValue>,
    closing: Closing,
}

impl Requests {
    /// Of a connection from `client`, which has proved to be `peer`.
    pub(crate) fn new(
        inbound: Arc<Inbound>,
        port: Port,
        peer: Peer,
        client: Option<IpAddr>,
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
        Self {
            inbound,
            port,
            peer,
            account,
            limits: Resolved::default(),
            forwarded_for,
            closing,
        }
    }

    /// One request: whatever happens, an answer.
    async fn request(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let is_grpc = headers::is_grpc(request.headers());
        let mirrored = self.is_mirrored(&request);
        let exchange = self.begin(&request, mirrored);
        match self.stack(&exchange, mirrored, request).await {
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
        exchange: &Exchange,
        mirrored: bool,
        request: Request<Incoming>,
    ) -> Result<Answered, Failure> {
        let version = Version::of(request.version());
        let (head, body) = request.into_parts();

        // Policy as it is now: an edit holds for the next request of an open connection.
        let policy = self.port.policy.load().ok_or_else(|| {
            Failure::never(Outcome::ConfigUnavailable, "no policy for this port yet")
        })?;

        // mTLS, authorization and rate limits; declared probes pass by all of them, copies of other
        // requests by the rates.
        if !self.is_exempt(&policy, &head) {
            self.admit(&policy, &head)?;
            if policy.has_rate_limits() && !mirrored {
                self.limit(&policy, &head, exchange.started())?;
            }
        }

        // Deadline: the caller's sidecar says how long it still waits.
        let deadline = self.deadline(exchange.started(), &head.headers);
        if deadline.is_over(Instant::now().into_std()) {
            return Err(Failure::never(
                Outcome::RequestTimeout,
                "the caller waits no longer",
            ));
        }

        // Headers that concern one connection only, or that only a sidecar may say.
        headers::authority(&head)?;
        headers::one_length(&head)?;
        let mut request = Request::from_parts(head, RequestBody::from(body));
        let wanted = Wanted::take(&mut request);
        let streams = headers::request_streams(&request);
        headers::strip_hop_by_hop(request.headers_mut(), wanted.is_some());
        headers::strip_ours(request.headers_mut());
        if mirrored {
            request.headers_mut().insert(MIRROR, TRUE);
        }
        if let Some(client) = &self.forwarded_for {
            forwarded::append(request.headers_mut(), client);
        }
        headers::ensure_request_id(request.headers_mut());
        headers::prepare(&mut request)?;

        // The application.
        let sending = self.inbound.apps.send(self.port.app, version, request);
        let response = match before(deadline, sending).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(not_handed_on(error.failure)),
            Err(_) => {
                return Err(Failure::maybe(
                    Outcome::RequestTimeout,
                    "no response within the caller's time",
                ));
            }
        };
        if Wanted::is_unasked(wanted.as_ref(), &response) {
            return Err(upgrade::unasked());
        }
        let until = if streams { Deadline::NONE } else { deadline };
        Ok(Answered {
            response,
            wanted,
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
        let granted = wanted.filter(|wanted| wanted.is_granted(&response));
        headers::strip_hop_by_hop(response.headers_mut(), granted.is_some());
        headers::strip_ours(response.headers_mut());

        if let Some(granted) = granted {
            upgrade::without_length(&mut response);
            let upstream = hyper::upgrade::on(&mut response);
            let downstream = granted.into_downstream();
            let closing = self.closing.clone();
            let bridge = upgrade::bridge_upgrade(downstream, upstream, closing, Deadline::NONE);
            let bridging = async move {
                let bridged = bridge.await;
                exchange.finish(status.as_u16(), None, bridged.outcome());
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

    /// Whether a request passes without identity: plaintext, and exactly a declared probe.
    fn is_exempt(&self, policy: &InboundPolicy, head: &Parts) -> bool {
        if self.peer.id.is_some() {
            return false;
        }
        let exempt = is_probe(policy, &head.method, head.uri.path());
        if exempt {
            self.inbound.telemetry.plaintext_exempt();
        }
        exempt
    }

    /// Whether this is a probe that the port declares, of whoever proved nothing.
    fn is_declared_probe<B>(&self, request: &Request<B>) -> bool {
        let policy = self.port.policy.load();
        self.peer.id.is_none()
            && policy.is_some_and(|it| is_probe(&it, request.method(), request.uri().path()))
    }

    /// Whether the caller may make this request.
    fn admit(&self, policy: &InboundPolicy, head: &Parts) -> Result<(), Failure> {
        if policy.mtls == MtlsMode::Strict && self.peer.id.is_none() {
            return Err(Failure::never(
                Outcome::MtlsRequired,
                "this port takes mesh TLS only",
            ));
        }
        let wish = Wish::Request {
            method: &head.method,
            path: head.uri.path(),
        };
        match authorize(&policy.authorization, self.peer.id.as_ref(), wish) {
            Decision::Allow => Ok(()),
            Decision::AllowAudited => {
                tracing::info!(peer = &*self.peer.label, "would be unauthorized (audit)");
                Ok(())
            }
            Decision::Deny => Err(Failure::never(
                Outcome::Unauthorized,
                "the caller may not make this request",
            )),
        }
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
        let this = Arc::clone(self);
        Box::pin(async move { this.request(request).await })
    }

    fn refuse(self: &Arc<Self>, failure: Failure) -> BoxFuture<Response<ResponseBody>> {
        Exchange::refused(self.account.clone(), &failure);
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
        let exchange = self.begin(&request, self.is_mirrored(&request));
        exchange.fail(&failure, is_grpc);
        let response = answer::answer(&failure, Origin::Inbound, is_grpc);
        Box::pin(std::future::ready(response))
    }
}

/// A response, and what of its request still matters.
struct Answered {
    response: Response<UpstreamBody>,
    wanted: Option<Wanted>,
    until: Deadline,
}

fn is_probe(policy: &InboundPolicy, method: &Method, path: &str) -> bool {
    let declared = |probe: &Probe| *probe.path == *path && probe.method == *method;
    policy.probes.iter().any(declared)
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
