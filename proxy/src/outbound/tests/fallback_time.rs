//! How long a fallback takes while a breaker is open.

use std::time::{Duration, Instant};

use ::bytes::Bytes;
use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::*;
use crate::http::body::ResponseBody;
use crate::http::client::BoxFuture;
use crate::http::server::{Excess, Handler};
use crate::http::{Version, server};
use crate::outbound::request::Requests;
use crate::outcome::Failure;
use crate::policy::{
    BreakerScope, FallbackAnswer, FallbackPolicy, FallbackTrigger, StaticResponse,
};
use crate::testing::policies::{breaker, target};
use crate::testing::servers::Act;

const SORRY: &str = "{\"success\":false,\"error\":\"Service temporarily unavailable\"}";
const REQUESTS: usize = 2_000;
/// "A fallback JSON 503 answered in under 1 ms of proxy time while open."
const LIMIT: Duration = Duration::from_millis(1);

/// The stack of a request, by the clock: from the request's head to the response's.
struct Timed {
    inner: Arc<Requests>,
    took: Mutex<Vec<Duration>>,
}

impl Handler for Timed {
    fn handle(self: &Arc<Self>, request: Request<Incoming>) -> BoxFuture<Response<ResponseBody>> {
        let this = Arc::clone(self);
        Box::pin(async move {
            let started = Instant::now();
            let response = this.inner.handle(request).await;
            this.took.lock().push(started.elapsed());
            response
        })
    }

    fn refuse(self: &Arc<Self>, failure: Failure) -> BoxFuture<Response<ResponseBody>> {
        self.inner.refuse(failure)
    }

    fn turn_away(
        self: &Arc<Self>,
        request: Request<Incoming>,
        excess: Excess,
    ) -> BoxFuture<Response<ResponseBody>> {
        self.inner.turn_away(request, excess)
    }
}

fn falling_back() -> ServiceTarget {
    let mut policy = target("api", &["api"]);
    policy.backends[0].circuit_breaker = Some(breaker(BreakerScope::Backend));
    let json = HeaderValue::from_static("application/json");
    policy.routes[0].fallback = Some(FallbackPolicy {
        triggers: vec![FallbackTrigger::CircuitOpen],
        answer: FallbackAnswer::Response(StaticResponse {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, json)]),
            body: Bytes::from_static(SORRY.as_bytes()),
        }),
    });
    policy
}

#[tokio::test]
async fn an_open_breaker_is_answered_for_in_under_a_millisecond() {
    let failing = Server::plain(|_, _| Act::status(500, "broken")).await;
    let sidecar = Sidecar::knowing(falling_back(), at(&[&failing]));
    let (tcp, accepted) = tcp_pair().await;
    let outbound = Arc::clone(&sidecar.outbound);
    let options = outbound.shared().server_options();
    let destination = outbound.destinations().at(api());
    let closing = sidecar.closing.subscribe();
    let timed = Arc::new(Timed {
        inner: Arc::new(Requests::new(outbound, destination, closing.clone())),
        took: Mutex::default(),
    });
    let serving = server::serve(
        accepted,
        Version::Http1,
        Arc::clone(&timed),
        closing,
        options,
    );
    let mut client = Http::over(tcp, false, tokio::spawn(serving)).await;

    assert_eq!(client.get("/").await.body, "broken");
    timed.took.lock().clear();
    for _ in 0..REQUESTS {
        let answer = client.get("/").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.body, SORRY);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-weft-fallback"), Some("true"));
    }
    assert_eq!(failing.requests(), 1, "nobody else was asked");

    let mut took = std::mem::take(&mut *timed.took.lock());
    assert_eq!(took.len(), REQUESTS);
    took.sort_unstable();
    let (median, p99) = (took[REQUESTS / 2], took[REQUESTS * 99 / 100]);
    println!("median {median:?}, p99 {p99:?} of {REQUESTS}");
    // The median: what the machine does beside this test shows in the rest.
    assert!(median < LIMIT, "median {median:?}, p99 {p99:?}");
}
