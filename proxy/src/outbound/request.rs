//! The stack of one outbound request. `Requests::stack` lists its layers, outermost first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{HOST, SET_COOKIE};
use ::http::request::Parts;
use ::http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::course::Course;
use super::destination::{Destination, Service, Target};
use super::fallback::{Answered, Fallback, Passage, Unanswered};
use super::filters::{self, Edits};
use super::mirror::Mirrored;
use super::tries::{GRPC_TIMEOUT, Reply, out_of_time};
use super::{DISCOVERY_WAIT, Outbound, Shared};
use crate::exchange::{Account, Exchange, grpc_status};
use crate::http::body::{Progress, ResponseBody};
use crate::http::client::BoxFuture;
use crate::http::deadline::before;
use crate::http::server::{Excess, Handler};
use crate::http::upgrade::{self, Wanted};
use crate::http::{Version, answer, headers, spare};
use crate::inbound::UNKNOWN;
use crate::net::closing::Closing;
use crate::outcome::{Failure, Origin, Outcome};
use crate::policy::{AccessLog, Sticky, Timeouts, WeightedBackend};
use crate::resilience::deadline::{Deadline, parse_grpc_timeout};
use crate::resilience::fault::Fault;
use crate::resilience::{route, split};
use crate::telemetry::trace::Tracer;
use crate::telemetry::trace::span::Kind;
use crate::telemetry::{PeerScopes, Tls};

/// The requests of one connection that the application made.
pub(crate) struct Requests {
    outbound: Arc<Outbound>,
    destination: Arc<Destination>,
    closing: Closing,
}

/// Answers every request of a connection with the same failure.
pub(crate) struct Refusal {
    account: Account,
    failure: Failure,
    log: Option<Arc<AccessLog>>,
}

/// Where a request goes.
struct Choice {
    /// Index into the split's sides.
    side: usize,
    /// Index into the target's backends.
    backend: usize,
    /// A cookie to set, so that the user stays on this side.
    cookie: Option<HeaderValue>,
}

impl Requests {
    pub(crate) fn new(
        outbound: Arc<Outbound>,
        destination: Arc<Destination>,
        closing: Closing,
    ) -> Self {
        Self {
            outbound,
            destination,
            closing,
        }
    }

    /// One request: request id and trace context, then its layers; whatever happens, an answer.
    async fn request(self: Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        let is_grpc = headers::is_grpc(request.headers());
        let (mut head, body) = request.into_parts();
        let request_id = headers::ensure_request_id(&mut head.headers);
        let service = match self.service(&head).await {
            Ok(service) => service,
            Err(failure) => {
                let account = Refusal::account(self.outbound.shared());
                let mut exchange = Exchange::begin(account, head.method.clone());
                exchange.identify(request_id);
                exchange.trace(self.tracer(), Kind::Client, &mut head);
                exchange.observe(&head);
                exchange.fail(&failure, is_grpc);
                return answer::answer(&failure, Origin::Outbound, is_grpc);
            }
        };
        let mut exchange = Exchange::begin(service.account(), head.method.clone());
        exchange.identify(request_id);
        exchange.trace(self.tracer(), Kind::Client, &mut head);
        exchange.observe(&head);
        if service.target.may_log() {
            exchange.log(&head, service.target.access_log.as_ref());
        }
        match self.stack(&service, &mut exchange, head, body).await {
            Ok(finished) => self.finish(&service, exchange, finished),
            Err(Unanswered::Failed(failure)) => {
                exchange.fail(&failure, is_grpc);
                answer::answer(&failure, Origin::Outbound, is_grpc)
            }
            Err(Unanswered::Instead(answer, outcome)) => {
                let grpc_status = grpc_status(answer.headers());
                exchange.finish(answer.status().as_u16(), grpc_status, outcome);
                *answer
            }
        }
    }

    /// The layers that a request passes, in order.
    async fn stack(
        &self,
        service: &Arc<Service>,
        exchange: &mut Exchange,
        mut head: Parts,
        body: Incoming,
    ) -> Result<Finished, Unanswered> {
        let version = Version::of(head.version);

        // What two readers could understand in two ways is refused.
        headers::one_authority(&head)?;
        headers::one_length(&head)?;

        // Headers that concern one connection only, or that only a sidecar may say.
        let mut request = Request::from_parts(head, ());
        let wanted = Wanted::take(&mut request);
        let streams = headers::request_streams(&request);
        headers::strip_hop_by_hop(request.headers_mut(), wanted.is_some());
        headers::strip_ours(request.headers_mut());
        headers::prepare(&mut request)?;
        (head, ()) = request.into_parts();

        // Route.
        let target = &service.target;
        let (path, query) = (head.uri.path(), head.uri.query());
        let route = route::match_route(&target.routes, &head.method, path, query, &head.headers)
            .ok_or_else(|| Failure::never(Outcome::NoRoute, "no route matches this request"))?;
        let timeouts = target.routes[route].timeouts;
        *exchange.account() = service.route_account(route);
        exchange.log_by(target.routes[route].access_log.as_ref());

        // Redirect: the route sends its requests nowhere.
        if let Some(filters) = &target.routes[route].filters
            && let Some(redirect) = &filters.redirect
        {
            let answer = filters::redirected(redirect, filters, &head)?;
            return Err(Unanswered::Instead(Box::new(answer), Outcome::Ok));
        }

        // Deadline: the policy's for the whole exchange, of a stream only for the response's head;
        // and the client's own, where it speaks gRPC.
        let started = exchange.started().into_std();
        let own_deadline = Deadline::after(started, grpc_timeout(&head));
        let deadline = Deadline::after(started, timeouts.request).min(own_deadline);

        // Mirror: whether there is to be a copy, and so how much of the body is kept. What streams has
        // none, but for gRPC, where that is wanted.
        let is_call = headers::is_grpc(&head.headers);
        let mirrored = if streams && !is_call {
            None
        } else {
            Mirrored::draw(service, route, is_call)
        };
        let copied = mirrored.as_deref().map(Mirrored::body_limit);
        let mut course = {
            let room = &self.outbound.shared().bounds.kept;
            Course::new(&target.routes[route], &head, body, copied, room)
        };

        // Fallback: around everything that follows.
        let passage = Passage {
            service,
            route,
            version,
            deadline,
            own_deadline,
            progress: timeouts.idle.map(|_| Arc::new(Progress::new())),
        };
        let passing = self.pass(&passage, exchange, &head, &mut course, mirrored);
        let answered = passing.await;
        let policy = target.routes[route].fallback.as_ref();
        let fallback = policy.map(|policy| Fallback { policy, passage });
        let answered = match fallback.filter(|it| it.is_triggered(&answered, &course)) {
            None => answered?,
            // Seldom, and with tries of its own: no other request carries the room for it.
            Some(fallback) => {
                Box::pin(fallback.stand_in(answered, exchange, &head, &mut course)).await?
            }
        };
        spare::give_fields(head.headers);
        if Wanted::is_unasked(wanted.as_ref(), &answered.reply.response) {
            return Err(upgrade::unasked().into());
        }
        Ok(Finished {
            answered,
            route,
            timeouts,
            deadline,
            own_deadline,
            streams,
            wanted,
        })
    }

    /// The layers inside the fallback, in order.
    async fn pass(
        &self,
        passage: &Passage<'_>,
        exchange: &mut Exchange,
        head: &Parts,
        course: &mut Course,
        mirrored: Option<Box<Mirrored>>,
    ) -> Result<Answered, Failure> {
        let Passage {
            service,
            route,
            deadline,
            ..
        } = *passage;
        // Fault: delay and abort, within the request's time.
        if let Some(policy) = &service.target.routes[route].fault {
            let fault = Fault::draw(policy, &head.headers, || fastrand::u32(..100));
            if let Some(delay) = fault.delay {
                let waited = before(deadline, tokio::time::sleep(delay)).await;
                waited.map_err(|_| out_of_time())?;
            }
            if let Some(failure) = fault.failure() {
                return Err(failure);
            }
        }

        // Split: by force, sticky key or chance. An empty side is passed over only where it is known to
        // be empty: the first requests after a start wait for that and choose again, and each turn
        // makes one more side known.
        let split = &service.target.routes[route].split;
        let mut choice = self.split(service, route, head)?;
        while split.next_when_empty && !service.backends[choice.backend].is_known() {
            let known = before(deadline, service.backends[choice.backend].endpoints()).await;
            known.map_err(|_| out_of_time())??;
            choice = self.split(service, route, head)?;
        }

        // Mirror: the copy goes its own way.
        if let Some(mirrored) = mirrored {
            let mut head = head.clone();
            let edits = Edits {
                route: service.target.routes[route].filters.as_deref(),
                side: None,
            };
            edits.apply(&mut head.uri, &mut head.headers);
            mirrored.follow(head, passage.version, course.copied());
        }

        // Tries: the changes of route and side; attempts and budget; in each a place under the limits,
        // an endpoint by breakers and balancer (the hash key is one of its ways), its own time, pool,
        // connect.
        let side = &split.backends[choice.side];
        let tries = passage.tries(choice.backend, side.request_headers.as_deref());
        let reply = tries.run(exchange, head, course).await?;
        Ok(Answered {
            reply,
            cookie: choice.cookie,
            side: Some(choice.side),
            is_fallback: false,
        })
    }

    /// The response on its way to the application.
    fn finish(
        &self,
        service: &Service,
        exchange: Exchange,
        finished: Finished,
    ) -> Response<ResponseBody> {
        let Finished {
            answered,
            route,
            timeouts,
            deadline,
            own_deadline,
            streams,
            wanted,
        } = finished;
        let Answered {
            reply,
            cookie,
            side,
            is_fallback,
        } = answered;
        let Reply {
            mut response,
            trusted,
            outcome,
            permit,
        } = reply;
        let status = response.status();
        let granted = wanted.filter(|wanted| wanted.is_granted(&response));
        headers::strip_hop_by_hop(response.headers_mut(), granted.is_some());
        if !trusted {
            headers::strip_ours(response.headers_mut());
        }
        // What an application answered; what its sidecar refused instead stays as it is.
        if outcome == Outcome::Ok {
            filters::response(&service.target.routes[route], side, response.headers_mut());
        }
        if is_fallback {
            answer::mark_fallback(response.headers_mut());
        }
        if let Some(cookie) = cookie {
            response.headers_mut().append(SET_COOKIE, cookie);
        }

        let streams = streams || headers::response_streams(status, response.headers());
        let until = if streams {
            Deadline::after(exchange.started().into_std(), timeouts.stream).min(own_deadline)
        } else {
            deadline
        };
        if let Some(granted) = granted {
            upgrade::without_length(&mut response);
            let upstream = upgrade::Upstream::take(&mut response);
            let downstream = granted.into_downstream();
            let bridge = upgrade::bridge_upgrade(downstream, upstream, self.closing.clone(), until);
            let bridging = async move {
                let bridged = bridge.await;
                exchange.finish(status.as_u16(), None, bridged.outcome());
                drop(permit);
            };
            self.outbound.spawn_tracked("upgraded connection", bridging);
            return response.map(|_| ResponseBody::Empty);
        }

        let (parts, mut body) = response.into_parts();
        body.limit(until, timeouts.idle);
        let follow = exchange.follow(status.as_u16(), &parts.headers, outcome);
        body.observe(move |end| {
            permit.ended(&end);
            follow(end);
        });
        Response::from_parts(parts, body.into())
    }

    /// What makes spans, where traces are exported.
    fn tracer(&self) -> Option<&Tracer> {
        self.outbound.shared().telemetry.tracer()
    }

    /// What a request is counted under that nobody looks at closely.
    fn unrouted_account(&self) -> Account {
        match self.destination.target().as_deref() {
            Some(Target::Service(service) | Target::Endpoint { service, .. }) => service.account(),
            Some(Target::NotFound) | None => Refusal::account(self.outbound.shared()),
        }
    }

    /// Whether there is a line about such a request.
    fn unrouted_log(&self) -> Option<Arc<AccessLog>> {
        match self.destination.target().as_deref() {
            Some(Target::Service(service) | Target::Endpoint { service, .. }) => {
                service.target.access_log.clone()
            }
            Some(Target::NotFound) | None => None,
        }
    }

    /// The service that a request is for: the connection's destination; where that is a workload's
    /// own address, the service that the request's authority names, if the workload backs it.
    async fn service(&self, head: &Parts) -> Result<Arc<Service>, Failure> {
        let target = self.destination.known(DISCOVERY_WAIT).await?;
        match &*target {
            Target::Service(service) => Ok(Arc::clone(service)),
            Target::Endpoint { service, aliases } => {
                let Some(authority) = named_authority(head) else {
                    return Ok(Arc::clone(service));
                };
                let named = aliases
                    .iter()
                    .any(|(_, names)| names.iter().any(|n| **n == *authority));
                if !named {
                    return Ok(Arc::clone(service));
                }
                let named = self.outbound.destinations().named(&authority);
                match &*named.known(DISCOVERY_WAIT).await? {
                    Target::Service(service) => Ok(Arc::clone(service)),
                    Target::Endpoint { .. } | Target::NotFound => Ok(Arc::clone(service)),
                }
            }
            Target::NotFound => Err(Failure::never(
                Outcome::NoRoute,
                "the destination is no longer known to the mesh",
            )),
        }
    }

    /// Chooses the backend: by force, by the hash of the sticky key, or by chance.
    fn split(&self, service: &Service, route: usize, head: &Parts) -> Result<Choice, Failure> {
        let split = &service.target.routes[route].split;
        let chosen = |side: usize, cookie| match &split.backends[side].unusable {
            None => Ok(Choice {
                side,
                backend: split.backends[side].backend,
                cookie,
            }),
            Some(why) => Err(leads_nowhere(why)),
        };
        if let [_] = &split.backends[..] {
            return chosen(0, None);
        }
        if let Some(side) = split::forced(&split.backends, &head.headers) {
            return chosen(side, None);
        }

        let (point, cookie) = self.point(service, split.sticky.as_ref(), head);
        let side = split::choose(&split.backends, point).ok_or_else(|| {
            Failure::never(
                Outcome::NoEndpoints,
                "every backend of this split has weight 0",
            )
        })?;
        let is_unusable = split.backends[side].unusable.is_some();
        let has_endpoints = |side: &WeightedBackend| {
            side.unusable.is_none() && !service.backends[side.backend].is_empty()
        };
        if !split.next_when_empty || is_unusable || has_endpoints(&split.backends[side]) {
            return chosen(side, cookie);
        }
        let next = split::next_when_empty(&split.backends, side, has_endpoints);
        chosen(next.unwrap_or(side), cookie)
    }

    /// Where a request falls on the line that backends lie on; a cookie that pins it there, where
    /// the user has none yet.
    fn point(
        &self,
        service: &Service,
        sticky: Option<&Sticky>,
        head: &Parts,
    ) -> (u64, Option<HeaderValue>) {
        let Some(sticky) = sticky else {
            return (fastrand::u64(..), None);
        };
        let hash = |key: &[u8]| split::KeyHasher::new(&service.target.service).hash(key);
        if let Some(key) = split::key(sticky, &head.headers, &self.outbound.shared().workload) {
            return (hash(key), None);
        }
        let Sticky::Cookie { name, ttl } = sticky else {
            return (fastrand::u64(..), None);
        };
        let key = format!("{:032x}", fastrand::u128(..));
        let age = ttl.map_or_else(String::new, |ttl| format!("; Max-Age={}", ttl.as_secs()));
        let cookie = format!("{name}={key}; Path=/; HttpOnly; SameSite=Lax{age}");
        // A cookie's name is checked where policy is decoded.
        (hash(key.as_bytes()), HeaderValue::try_from(cookie).ok())
    }
}

impl Handler for Requests {
    fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<Response<ResponseBody>> {
        Box::pin(Arc::clone(self).request(request))
    }

    fn refuse(self: &Arc<Self>, failure: Failure) -> BoxFuture<Response<ResponseBody>> {
        let log = self.unrouted_log();
        Exchange::refused(self.unrouted_account(), &failure, log.as_ref());
        let response = answer::answer(&failure, Origin::Outbound, false);
        Box::pin(std::future::ready(response))
    }

    fn turn_away(
        self: &Arc<Self>,
        request: Request<Incoming>,
        excess: Excess,
    ) -> BoxFuture<Response<ResponseBody>> {
        let refusal = Refusal {
            account: self.unrouted_account(),
            failure: excess.failure(Outcome::Overflow),
            log: self.unrouted_log(),
        };
        Arc::new(refusal).handle(request)
    }
}

impl Refusal {
    pub(crate) fn new(shared: &Arc<Shared>, failure: Failure) -> Self {
        Self {
            account: Self::account(shared),
            failure,
            log: None,
        }
    }

    fn account(shared: &Arc<Shared>) -> Account {
        let unknown: Arc<str> = UNKNOWN.into();
        Account {
            scopes: Arc::new(PeerScopes::new(
                Arc::clone(&shared.telemetry),
                Origin::Outbound,
                Arc::clone(&unknown),
                "".into(),
                "".into(),
            )),
            peer: unknown,
            tls: Tls::None,
        }
    }
}

impl Handler for Refusal {
    fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<Response<ResponseBody>> {
        let is_grpc = headers::is_grpc(request.headers());
        let mut exchange = Exchange::begin(self.account.clone(), request.method().clone());
        exchange.observe(&request);
        if self.log.is_some() {
            exchange.log(&request, self.log.as_ref());
        }
        exchange.fail(&self.failure, is_grpc);
        let response = answer::answer(&self.failure, Origin::Outbound, is_grpc);
        Box::pin(std::future::ready(response))
    }

    fn refuse(self: &Arc<Self>, failure: Failure) -> BoxFuture<Response<ResponseBody>> {
        Exchange::refused(self.account.clone(), &failure, self.log.as_ref());
        let response = answer::answer(&failure, Origin::Outbound, false);
        Box::pin(std::future::ready(response))
    }

    /// All requests get the same answer anyway.
    fn turn_away(
        self: &Arc<Self>,
        request: Request<Incoming>,
        _: Excess,
    ) -> BoxFuture<Response<ResponseBody>> {
        self.handle(request)
    }
}

/// A response, and what of its request still matters.
struct Finished {
    answered: Answered,
    /// Index into the target's routes.
    route: usize,
    timeouts: Timeouts,
    deadline: Deadline,
    /// The client's own, which holds for streams too.
    own_deadline: Deadline,
    /// The request alone says that the exchange is a stream.
    streams: bool,
    wanted: Option<Wanted>,
}

/// A route whose requests cannot be sent where it says. As the Gateway API asks for: 500, and to gRPC
/// callers UNAVAILABLE.
fn leads_nowhere(why: &str) -> Failure {
    const UNAVAILABLE: u8 = 14;
    Failure::never(Outcome::NoRoute, why.to_owned())
        .with_status(StatusCode::INTERNAL_SERVER_ERROR)
        .with_grpc_code(UNAVAILABLE)
}

/// How long a gRPC client waits, as it says.
fn grpc_timeout(head: &Parts) -> Option<Duration> {
    if !headers::is_grpc(&head.headers) {
        return None;
    }
    parse_grpc_timeout(head.headers.get(&GRPC_TIMEOUT)?.as_bytes())
}

/// The authority that a request names by a host name; an address names no service.
fn named_authority(head: &Parts) -> Option<String> {
    let authority = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(HOST)?.to_str().ok()?,
    };
    let is_address =
        authority.parse::<SocketAddr>().is_ok() || authority.parse::<std::net::IpAddr>().is_ok();
    (!is_address).then(|| authority.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
