//! Concurrency caps of a backend, and waiting under them. Counts are the servers' own.

use std::time::{Duration, Instant};

use ::bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::advance;

use super::gated::Gated;
use super::*;
use crate::http::Version;
use crate::http::client::Full;
use crate::outbound::limits::Search;
use crate::outcome::Outcome;
use crate::policy::{
    BreakerPolicy, BreakerScope, FallbackAnswer, FallbackPolicy, FallbackTrigger, Limits, Protocol,
    StaticResponse,
};
use crate::resilience::limits::Limit;
use crate::telemetry::Exposition;
use crate::testing::clients::Answer;
use crate::testing::policies::{breaker, endpoint, retries, target};
use crate::testing::servers::{Act, Refusing};
use crate::testing::{hold_clock, settle, soon, until};

/// Long enough for everything that does not wait to have happened.
const MOMENT: Duration = Duration::from_millis(50);

fn requests(max: u32, pending: u32) -> Limits {
    Limits {
        max_connections: None,
        max_pending_requests: pending,
        max_requests: Some(max),
    }
}

fn connections(max: u32, pending: u32) -> Limits {
    Limits {
        max_connections: Some(max),
        max_pending_requests: pending,
        max_requests: None,
    }
}

/// Limits and no trigger.
fn only(limits: Limits) -> BreakerPolicy {
    BreakerPolicy {
        consecutive_failures: None,
        limits: Some(limits),
        ..breaker(BreakerScope::Endpoint)
    }
}

fn limited(limits: Limits) -> ServiceTarget {
    let mut target = target("api", &["api"]);
    target.backends[0].circuit_breaker = Some(only(limits));
    target
}

impl Sidecar {
    /// A request on a connection of its own, under way.
    async fn getting(&self, path: &str) -> JoinHandle<Answer> {
        let (mut client, path) = (self.http1().await, path.to_owned());
        tokio::spawn(async move { client.get(&path).await })
    }

    async fn getting_h2(&self, path: &str) -> JoinHandle<Answer> {
        let (mut client, path) = (self.http2().await, path.to_owned());
        tokio::spawn(async move { client.get(&path).await })
    }

    /// Places taken, and those that wait for one.
    fn held(&self, limit: Limit) -> (usize, usize) {
        let backend = &self.outbound.destinations().backends().all()[0];
        let view = backend.group.limits().views()[limit as usize];
        (view.held, view.waiting)
    }

    async fn waits(&self, limit: Limit, waiting: usize) {
        until("the line", || self.held(limit).1 == waiting).await;
    }

    async fn nothing_is_held(&self) {
        until("the end", || self.held(Limit::Requests) == (0, 0)).await;
        let backend = &self.outbound.destinations().backends().all()[0];
        assert_eq!(backend.group.limits().pending().1, 0);
    }
}

/// What came of a request, without letting time pass.
async fn ended(request: JoinHandle<Answer>) -> Answer {
    until("the answer", || request.is_finished()).await;
    request.await.unwrap()
}

#[tokio::test]
async fn requests_wait_in_order_and_one_too_many_is_refused_at_once() {
    let server = Gated::start().await;
    let sidecar = Sidecar::knowing(limited(requests(2, 2)), vec![server.endpoint()]);
    let mut answers = Vec::new();
    for (path, working, waiting) in [("/1", 1, 0), ("/2", 2, 0), ("/3", 2, 1), ("/4", 2, 2)] {
        answers.push(sidecar.getting(path).await);
        server.working_on(working).await;
        sidecar.waits(Limit::Requests, waiting).await;
    }
    let refused = soon(sidecar.getting("/5").await).await.unwrap();
    refused.assert_made_by("outbound", Outcome::Overflow);
    assert_eq!(refused.status, 503);
    let refused = sidecar.http2().await.grpc("/shop.Cart/Get").await;
    refused.assert_made_by("outbound", Outcome::Overflow);
    assert_eq!(refused.header("grpc-status"), Some("8"));
    assert_eq!(server.paths(), ["/1", "/2"]);

    for (step, answer) in answers.into_iter().enumerate() {
        server.let_through(1);
        soon(answer).await.unwrap().assert_ok("fine");
        let next = (3 + step).min(4);
        soon(async {
            while server.paths().len() < next {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    assert_eq!(server.paths(), ["/1", "/2", "/3", "/4"]);
    assert_eq!(server.most(), 2);
    sidecar.nothing_is_held().await;
}

#[tokio::test]
async fn a_place_is_held_until_the_body_has_ended() {
    let server = Server::plain(|_, _| Act::slow(&[], MOMENT * 4)).await;
    let sidecar = Sidecar::knowing(limited(requests(1, 8)), at(&[&server]));
    let first = sidecar.getting("/1").await;
    tokio::time::sleep(MOMENT).await;
    // The head is there by now.
    assert_eq!(sidecar.held(Limit::Requests), (1, 0));
    let second = sidecar.getting("/2").await;
    sidecar.waits(Limit::Requests, 1).await;
    assert_eq!(server.requests(), 1);
    soon(first).await.unwrap().assert_ok("late");
    soon(second).await.unwrap().assert_ok("late");
    sidecar.nothing_is_held().await;
}

#[tokio::test]
async fn who_leaves_the_line_leaves_nothing_behind() {
    let server = Gated::start().await;
    let sidecar = Sidecar::knowing(limited(requests(1, 1)), vec![server.endpoint()]);
    let first = sidecar.getting("/1").await;
    server.working_on(1).await;
    let gone = sidecar.getting_h2("/gone").await;
    sidecar.waits(Limit::Requests, 1).await;
    gone.abort();
    sidecar.waits(Limit::Requests, 0).await;
    let second = sidecar.getting("/2").await;
    sidecar.waits(Limit::Requests, 1).await;
    server.let_through(2);
    soon(first).await.unwrap().assert_ok("fine");
    soon(second).await.unwrap().assert_ok("fine");
    assert_eq!(server.paths(), ["/1", "/2"]);
    sidecar.nothing_is_held().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_counts_for_the_request_and_not_for_the_try() {
    let _held = hold_clock();
    let server = Gated::start().await;
    let mut policy = limited(requests(1, 8));
    policy.routes[0].timeouts.request = Some(MOMENT * 6);
    policy.routes[0].timeouts.per_try = Some(MOMENT * 5);
    let sidecar = Sidecar::knowing(policy.clone(), vec![server.endpoint()]);
    let works_on = |path| server.now() == 1 && server.paths().last().is_some_and(|it| it == path);
    let hangs = sidecar.getting("/1").await;
    until("the first try", || works_on("/1")).await;
    advance(MOMENT * 3).await;
    let second = sidecar.getting("/2").await;
    sidecar.waits(Limit::Requests, 1).await;
    // The first one's try ends; the second has waited, and its try begins only now.
    advance(MOMENT * 2).await;
    let answer = ended(hangs).await;
    answer.assert_made_by("outbound", Outcome::TryTimeout);
    until("the second's try", || works_on("/2")).await;
    // It has been there for longer than a try may take.
    advance(MOMENT * 7 / 2).await;
    settle().await;
    assert!(works_on("/2") && !second.is_finished());
    server.let_through(1);
    ended(second).await.assert_ok("fine");

    policy.routes[0].timeouts.per_try = None;
    policy.routes[0].timeouts.request = Some(MOMENT * 4);
    sidecar.tell(policy.clone());
    let hangs = sidecar.getting("/3").await;
    until("the third try", || works_on("/3")).await;
    policy.routes[0].timeouts.request = Some(MOMENT);
    sidecar.tell(policy);
    let late = sidecar.getting("/4").await;
    sidecar.waits(Limit::Requests, 1).await;
    advance(MOMENT).await;
    let late = ended(late).await;
    late.assert_made_by("outbound", Outcome::RequestTimeout);
    assert!(!hangs.is_finished());
    advance(MOMENT * 3).await;
    let answer = ended(hangs).await;
    answer.assert_made_by("outbound", Outcome::RequestTimeout);
    assert_eq!(server.paths(), ["/1", "/2", "/3"]);
    sidecar.nothing_is_held().await;
}

#[tokio::test]
async fn those_who_wait_hear_that_the_breaker_opened() {
    let server = Server::plain(|nth, _| {
        if nth == 1 {
            Act::Hang
        } else {
            Act::status(500, "")
        }
    })
    .await;
    let mut policy = target("api", &["api"]);
    policy.backends[0].circuit_breaker = Some(BreakerPolicy {
        limits: Some(requests(2, 8)),
        consecutive_failures: Some(1),
        ..breaker(BreakerScope::Backend)
    });
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let hangs = sidecar.getting_h2("/1").await;
    soon(async {
        while server.requests() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let backend = Arc::clone(&sidecar.outbound.destinations().backends().all()[0]);
    let place = backend.group.limits().take(Limit::Requests).unwrap();
    let waits = [sidecar.getting("/2").await, sidecar.getting("/3").await];
    sidecar.waits(Limit::Requests, 2).await;
    // One fails and opens the breaker; the other one, and whoever comes, need not wait for the
    // request that hangs.
    drop(place);
    let [failed, told] = waits;
    assert_eq!(soon(failed).await.unwrap().status, 500);
    let told = soon(told).await.unwrap();
    told.assert_made_by("outbound", Outcome::CircuitOpen);
    let place = backend.group.limits().take(Limit::Requests).unwrap();
    let told = soon(sidecar.getting("/4").await).await.unwrap();
    told.assert_made_by("outbound", Outcome::CircuitOpen);
    assert_eq!(server.requests(), 2);
    drop(place);
    hangs.abort();
    sidecar.nothing_is_held().await;
}

#[tokio::test]
async fn a_retry_holds_no_place_while_it_backs_off_and_overflow_is_not_retried() {
    let server = Server::plain(|_, seen| {
        if seen.path == "/fails" {
            Act::status(503, "busy")
        } else {
            Act::ok("fine")
        }
    })
    .await;
    let mut policy = limited(requests(1, 0));
    let mut patient = retries();
    patient.attempts = 1;
    (patient.backoff_base, patient.backoff_max) = (MOMENT * 40, MOMENT * 40);
    policy.routes[0].retries = Some(patient);
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    let fails = sidecar.getting("/fails").await;
    soon(async {
        while server.requests() == 0 || sidecar.held(Limit::Requests).0 > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    sidecar.http1().await.get("/").await.assert_ok("fine");
    fails.abort();

    let backend = Arc::clone(&sidecar.outbound.destinations().backends().all()[0]);
    let _place = backend.group.limits().take(Limit::Requests).unwrap();
    let began = Instant::now();
    let refused = sidecar.http1().await.get("/").await;
    refused.assert_made_by("outbound", Outcome::Overflow);
    assert!(began.elapsed() < MOMENT * 20, "it was tried again");
    let outbound = Arc::clone(&sidecar.outbound);
    let collect = move |exposition: &mut Exposition| outbound.collect(exposition);
    sidecar.telemetry.register_collector(Arc::new(collect));
    let labels = [
        ("service", "shop/api:80"),
        ("backend", "shop/api:80"),
        ("limit", "maxRequests"),
    ];
    let shown = |family, labels| count(&sidecar.telemetry, family, labels);
    assert_eq!(shown("weft_backend_limit_overflow_total", &labels), 1);
    assert_eq!(shown("weft_backend_limit_overflow_total", &[]), 1);
    assert_eq!(shown("weft_backend_requests_in_flight", &labels[..2]), 1);
    assert_eq!(shown("weft_backend_requests_pending", &labels[..2]), 0);
    assert_eq!(shown("weft_backend_connections", &labels[..2]), 1);
    let breakers = sidecar.outbound.breakers_json();
    let caps = &breakers["backends"][0]["limits"]["caps"];
    assert_eq!(caps[0]["limit"], "maxRequests");
    assert_eq!((&caps[0]["max"], &caps[0]["now"]), (&1.into(), &1.into()));
    assert_eq!(caps[0]["overflows"], 1);
}

#[tokio::test]
async fn caps_change_under_those_who_wait() {
    let server = Gated::start().await;
    let sidecar = Sidecar::knowing(limited(requests(1, 8)), vec![server.endpoint()]);
    let mut answers = Vec::new();
    for path in ["/1", "/2", "/3", "/4"] {
        answers.push(sidecar.getting(path).await);
    }
    sidecar.waits(Limit::Requests, 3).await;
    sidecar.tell(limited(requests(3, 8)));
    server.working_on(3).await;
    sidecar.waits(Limit::Requests, 1).await;
    // What is over the new cap drains, and the line waits for it.
    sidecar.tell(limited(requests(1, 8)));
    server.let_through(2);
    server.working_on(1).await;
    tokio::time::sleep(MOMENT).await;
    assert_eq!((server.paths().len(), server.now()), (3, 1));
    server.let_through(1);
    server.working_on(1).await;
    // Without a cap nobody waits, and nobody is counted.
    answers.push(sidecar.getting("/5").await);
    sidecar.waits(Limit::Requests, 1).await;
    sidecar.tell(target("api", &["api"]));
    server.working_on(2).await;
    server.let_through(2);
    for answer in answers {
        soon(answer).await.unwrap().assert_ok("fine");
    }
    assert_eq!(server.most(), 3);
    sidecar.nothing_is_held().await;
}

#[tokio::test]
async fn connections_are_shared_in_turn() {
    let server = Gated::start().await;
    let sidecar = Sidecar::knowing(limited(connections(2, 4)), vec![server.endpoint()]);
    let mut answers = Vec::new();
    for path in ["/1", "/2", "/3", "/4", "/5", "/6"] {
        answers.push(sidecar.getting(path).await);
        tokio::time::sleep(MOMENT / 5).await;
    }
    server.working_on(2).await;
    sidecar.waits(Limit::Connections, 4).await;
    let refused = soon(sidecar.getting("/7").await).await.unwrap();
    refused.assert_made_by("outbound", Outcome::Overflow);
    for answer in answers {
        server.let_through(1);
        soon(answer).await.unwrap().assert_ok("fine");
    }
    assert_eq!(server.paths(), ["/1", "/2", "/3", "/4", "/5", "/6"]);
    assert_eq!((server.most(), server.connections()), (2, 2));
    assert_eq!(sidecar.held(Limit::Connections), (2, 0));
    sidecar.nothing_is_held().await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_another_endpoint() {
    let (one, two) = (Gated::start().await, Gated::start().await);
    let endpoints = vec![one.endpoint(), two.endpoint()];
    // Nobody may wait; taking the room of an idle connection is no waiting.
    let sidecar = Sidecar::knowing(limited(connections(1, 0)), endpoints);
    one.let_through(10);
    two.let_through(10);
    let mut client = sidecar.http1().await;
    for _ in 0..6 {
        client.post("/", "x").await.assert_ok("fine");
        assert_eq!(sidecar.held(Limit::Connections), (1, 0));
    }
    assert_eq!((one.paths().len(), two.paths().len()), (3, 3));
    assert_eq!((one.connections(), two.connections()), (3, 3));
    // One that works makes no room.
    let busy = Gated::start().await;
    sidecar.tell_endpoints("api", vec![busy.endpoint()]);
    let works = sidecar.getting("/works").await;
    busy.working_on(1).await;
    let refused = client.get("/").await;
    refused.assert_made_by("outbound", Outcome::Overflow);
    busy.let_through(1);
    soon(works).await.unwrap().assert_ok("fine");
}

#[tokio::test]
async fn streams_share_the_connection_that_is_open() {
    let (one, two) = (Gated::start().await, Gated::start().await);
    let endpoints = vec![one.endpoint(), two.endpoint()];
    let sidecar = Sidecar::knowing(limited(connections(1, 0)), endpoints);
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(sidecar.getting_h2("/").await);
    }
    soon(async {
        while one.now() + two.now() < 8 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(one.connections() + two.connections(), 1);
    // A connection that carries something makes no room for another protocol.
    let refused = sidecar.http1().await.get("/").await;
    refused.assert_made_by("outbound", Outcome::Overflow);
    one.let_through(9);
    two.let_through(9);
    for answer in answers {
        soon(answer).await.unwrap().assert_ok("fine");
    }
    // One that carries nothing does.
    sidecar.http1().await.get("/").await.assert_ok("fine");
    assert_eq!(one.connections() + two.connections(), 2);
    assert_eq!(sidecar.held(Limit::Connections), (1, 0));
}

#[tokio::test]
async fn a_connection_that_fails_gives_its_place_to_the_next() {
    let (refusing, server) = (Refusing::new(), Gated::start().await);
    let endpoints = vec![endpoint(refusing.address, None)];
    let sidecar = Sidecar::knowing(limited(connections(1, 8)), endpoints);
    let mut client = sidecar.http1().await;
    let refused = client.get("/").await;
    refused.assert_made_by("outbound", Outcome::ConnectRefused);
    assert_eq!(sidecar.held(Limit::Connections), (0, 0));
    // The stanza has no trigger: endpoints keep their reconnect backoff.
    let breakers = sidecar.outbound.breakers_json();
    let breaker = &breakers["backends"][0]["breakers"][0];
    assert_eq!(breaker["kind"], "reconnect_backoff");

    sidecar.tell_endpoints("api", vec![server.endpoint()]);
    server.let_through(3);
    for _ in 0..3 {
        client.get("/").await.assert_ok("fine");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn bytes_wait_for_a_connection_as_long_as_connecting_may_take() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut policy = limited(connections(1, 8));
    policy.protocol = Protocol::Opaque;
    policy.backends[0].connect_timeout = MOMENT * 4;
    let endpoints = vec![endpoint(listener.local_addr().unwrap(), None)];
    let sidecar = Sidecar::knowing(policy, endpoints);
    let mut first = sidecar.dial(api()).await;
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    first.tcp.write_all(b"one").await.unwrap();
    let mut heard = [0; 3];
    soon(server.read_exact(&mut heard)).await.unwrap();

    let mut second = sidecar.dial(api()).await;
    let mut rest = Vec::new();
    let _ = soon(second.tcp.read_to_end(&mut rest)).await;
    soon(second.served).await.unwrap();
    assert_eq!(rest, b"");
    assert_eq!(sidecar.connections(&[("outcome", "overflow")]), 1);

    // One that ends in time makes room.
    let mut third = sidecar.dial(api()).await;
    sidecar.waits(Limit::Connections, 1).await;
    drop((first.tcp, server));
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    third.tcp.write_all(b"two").await.unwrap();
    soon(server.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"two");
    assert_eq!(sidecar.held(Limit::Connections), (1, 0));
}

#[tokio::test]
async fn a_fallback_stands_in_for_an_overload() {
    let (server, spare) = (Gated::start().await, Gated::start().await);
    spare.let_through(10);
    let mut policy = target("api", &["api", "spare"]);
    policy.routes[0].split.backends.truncate(1);
    policy.backends[0].circuit_breaker = Some(only(requests(1, 0)));
    policy.routes[0].fallback = Some(FallbackPolicy {
        triggers: vec![FallbackTrigger::Overload],
        answer: FallbackAnswer::Backend(1),
    });
    let sidecar = Sidecar::knowing(policy.clone(), vec![server.endpoint()]);
    sidecar.tell_endpoints("spare", vec![spare.endpoint()]);
    let first = sidecar.getting("/1").await;
    server.working_on(1).await;
    let answer = sidecar.http1().await.post("/2", "body").await;
    answer.assert_ok("fine");
    assert_eq!(answer.header("x-weft-fallback"), Some("true"));
    assert_eq!(spare.paths(), ["/2"]);

    policy.routes[0].fallback = Some(FallbackPolicy {
        triggers: vec![FallbackTrigger::Overload],
        answer: FallbackAnswer::Response(StaticResponse {
            status: ::http::StatusCode::SERVICE_UNAVAILABLE,
            headers: ::http::HeaderMap::new(),
            body: Bytes::from_static(b"{}"),
        }),
    });
    sidecar.tell(policy);
    let answer = sidecar.http1().await.post("/3", "body").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (503, &b"{}"[..]));
    assert_eq!(answer.header("x-weft-outcome"), Some("overflow"));
    server.let_through(1);
    soon(first).await.unwrap().assert_ok("fine");
    assert_eq!(server.paths(), ["/1"]);
}

#[tokio::test]
async fn a_full_pool_is_final_only_when_all_are_full() {
    let (one, two) = (Gated::start().await, Gated::start().await);
    let sidecar = Sidecar::knowing(
        target("api", &["api"]),
        vec![one.endpoint(), two.endpoint()],
    );
    one.let_through(1);
    two.let_through(1);
    sidecar.http1().await.get("/").await.assert_ok("fine");
    let backend = Arc::clone(&sidecar.outbound.destinations().backends().all()[0]);
    let endpoints = backend.known_endpoints();
    let mut search = Search::default();
    let mut refuse = |at: usize| {
        let nowhere = |_: &crate::outbound::endpoint::Endpoint| false;
        let endpoint = &endpoints.as_slice()[at];
        search.refused(Full::Pool, &backend, endpoint, &[], nowhere, Version::Http1)
    };
    assert!(refuse(0).is_ok());
    assert!(refuse(1).is_ok());
    assert_eq!(refuse(0).unwrap_err().outcome, Outcome::Overflow);
    assert_eq!(search.full.len(), 2);
}
