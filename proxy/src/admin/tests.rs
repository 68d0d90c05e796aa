use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::telemetry::{ProcessLabels, Telemetry};

const LOOPBACK: &str = "127.0.0.1:40000";
const MAPPED_LOOPBACK: &str = "[::ffff:127.0.0.1]:40000";
const ELSEWHERE: &str = "10.1.2.3:40000";

/// Answers what the tests set, and remembers what it was told to do.
#[derive(Default)]
struct State {
    missing: Mutex<Vec<String>>,
    actions: Mutex<Vec<(BreakerTarget, BreakerAction)>>,
    drained: Mutex<u32>,
    level: Mutex<String>,
}

impl AdminState for State {
    fn missing(&self) -> Vec<String> {
        self.missing.lock().clone()
    }

    fn health(&self) -> Value {
        json!({"status": "serving"})
    }

    fn config(&self) -> Value {
        json!({"services": []})
    }

    fn breakers(&self) -> Value {
        json!([])
    }

    fn breaker_action(
        &self,
        target: BreakerTarget,
        action: BreakerAction,
    ) -> Result<usize, String> {
        self.actions.lock().push((target, action));
        Ok(3)
    }

    fn render_metrics(&self) -> String {
        "# TYPE x counter\nx 1\n".to_owned()
    }

    fn drain(&self) {
        *self.drained.lock() += 1;
    }

    fn log_level(&self) -> String {
        self.level.lock().clone()
    }

    fn set_log_level(&self, level: &str) -> Result<String, String> {
        if level != "debug" {
            return Err("not a level".to_owned());
        }
        Ok(std::mem::replace(&mut *self.level.lock(), level.to_owned()))
    }

    fn probe(&self, port: u16) -> BoxFuture<'_, Result<(), String>> {
        async move {
            match port {
                80 => Ok(()),
                81 => std::future::pending().await,
                _ => Err("connection refused".to_owned()),
            }
        }
        .boxed()
    }
}

/// A status, the head and the body of an answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn server(state: &Arc<State>) -> (AdminServer, Arc<Telemetry>) {
    let telemetry = Telemetry::new(ProcessLabels {
        workload: "web-1".into(),
        namespace: "shop".into(),
    });
    let state: Arc<dyn AdminState> = Arc::<State>::clone(state);
    (AdminServer::new(state, Arc::clone(&telemetry)), telemetry)
}

/// Sends `request` as it is on a connection of its own, and reads until the end.
async fn exchange(state: &Arc<State>, peer: &str, request: &str) -> Answer {
    let (mut client, io) = tokio::io::duplex(64 * 1024);
    let (server, _) = server(state);
    let peer = peer.parse().unwrap();
    let talk = async {
        client.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    };
    let serve = async {
        let _ = server.serve_connection(io, peer).await;
    };
    tokio::join!(talk, serve).0
}

async fn ask(state: &Arc<State>, peer: &str, method: &str, target: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    exchange(state, peer, &request).await
}

#[tokio::test]
async fn everybody_may_ask_how_it_is() {
    let state = Arc::<State>::default();
    let live = ask(&state, ELSEWHERE, "GET", "/live", "").await;
    assert_eq!((live.status, live.body.as_str()), (200, "live\n"));
    assert!(live.head.contains("content-length: 5"));

    let ready = ask(&state, ELSEWHERE, "GET", "/ready", "").await;
    assert_eq!(
        (ready.status, ready.json()["ready"].clone()),
        (200, true.into())
    );
    *state.missing.lock() = vec!["certificate".to_owned(), "redirect".to_owned()];
    let ready = ask(&state, ELSEWHERE, "GET", "/ready", "").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["missing"], json!(["certificate", "redirect"]));

    let health = ask(&state, ELSEWHERE, "GET", "/health", "").await;
    assert_eq!(health.json()["status"], "serving");
    let metrics = ask(&state, ELSEWHERE, "GET", "/metrics?x=y", "").await;
    assert!(
        metrics
            .head
            .contains("content-type: text/plain; version=0.0.4")
    );
    assert!(metrics.body.ends_with("x 1\n"));
}

#[tokio::test]
async fn heads_have_no_body() {
    let state = Arc::<State>::default();
    let live = ask(&state, ELSEWHERE, "HEAD", "/live", "").await;
    assert_eq!((live.status, live.body.as_str()), (200, ""));
    assert!(live.head.contains("content-length: 5"));
}

#[tokio::test]
async fn probes_dial_the_application() {
    let state = Arc::<State>::default();
    assert_eq!(
        ask(&state, ELSEWHERE, "GET", "/probe/80", "").await.status,
        200
    );
    let refused = ask(&state, ELSEWHERE, "GET", "/probe/82", "").await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"], "connection refused");
    for bad in [
        "/probe/0",
        "/probe/",
        "/probe/http",
        "/probe/65536",
        "/probe/80/x",
    ] {
        assert_eq!(
            ask(&state, ELSEWHERE, "GET", bad, "").await.status,
            400,
            "{bad}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_time() {
    let state = Arc::<State>::default();
    let start = Instant::now();
    let stuck = ask(&state, ELSEWHERE, "GET", "/probe/81", "").await;
    assert_eq!(stuck.status, 504);
    assert_eq!(start.elapsed().as_secs(), REQUEST_TIMEOUT.as_secs());
}

#[tokio::test]
async fn operating_is_for_loopback() {
    let state = Arc::<State>::default();
    for (method, target) in [
        ("GET", "/config"),
        ("GET", "/circuit-breakers"),
        ("POST", "/circuit-breakers/reset-all"),
        ("POST", "/circuit-breakers/reset?backend=shop/cart:80"),
        (
            "POST",
            "/circuit-breakers/force?state=open&backend=shop/cart:80",
        ),
        ("GET", "/log-level"),
        ("POST", "/drain"),
    ] {
        let refused = ask(&state, ELSEWHERE, method, target, "").await;
        assert_eq!(refused.status, 403, "{target}");
        assert!(refused.json()["error"].is_string());
        for peer in [LOOPBACK, MAPPED_LOOPBACK, "[::1]:9"] {
            let answer = ask(&state, peer, method, target, "").await;
            assert!(matches!(answer.status, 200 | 202), "{target} {peer}");
        }
    }
    assert_eq!(*state.drained.lock(), 3);
}

#[tokio::test]
async fn web_pages_operate_nothing() {
    let state = Arc::<State>::default();
    let request = "POST /drain HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\n\
                   connection: close\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(exchange(&state, LOOPBACK, request).await.status, 403);
    assert_eq!(*state.drained.lock(), 0);
}

#[tokio::test]
async fn breakers_are_operated() {
    let state = Arc::<State>::default();
    let cart = ServiceRef {
        namespace: "shop".into(),
        name: "cart".into(),
        port: 80,
    };
    for target in [
        "/circuit-breakers/reset?backend=shop/cart:80",
        "/circuit-breakers/reset?endpoint=10.0.0.1:8080&backend=shop%2Fcart%3A80",
        "/circuit-breakers/reset-all",
        "/circuit-breakers/force?state=open&backend=shop/cart:80&endpoint=[fd00::1]:80",
        "/circuit-breakers/force?state=closed&backend=shop/cart:80",
        "/circuit-breakers/force?state=auto&backend=shop/cart:80",
    ] {
        let answer = ask(&state, LOOPBACK, "POST", target, "").await;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"breakers": 3})),
            "{target}"
        );
    }
    let backend = BreakerTarget::Backend(cart.clone());
    let endpoint = |address: &str| BreakerTarget::Endpoint(cart.clone(), address.parse().unwrap());
    assert_eq!(
        *state.actions.lock(),
        [
            (backend.clone(), BreakerAction::Reset),
            (endpoint("10.0.0.1:8080"), BreakerAction::Reset),
            (BreakerTarget::All, BreakerAction::Reset),
            (endpoint("[fd00::1]:80"), BreakerAction::ForceOpen),
            (backend.clone(), BreakerAction::ForceClosed),
            (backend, BreakerAction::Auto),
        ]
    );
}

#[tokio::test]
async fn mistakes_are_told_and_change_nothing() {
    let state = Arc::<State>::default();
    for target in [
        "/circuit-breakers/reset",
        "/circuit-breakers/reset?backend=cart:80",
        "/circuit-breakers/reset?backend=shop/cart",
        "/circuit-breakers/reset?backend=shop/cart:0",
        "/circuit-breakers/reset?backend=/:80",
        "/circuit-breakers/reset?backend=shop/cart:80&backend=shop/web:80",
        "/circuit-breakers/reset?backend=shop/cart:80&endpoint=cart-1",
        "/circuit-breakers/reset?backend=shop/cart:80&endpont=10.0.0.1:80",
        "/circuit-breakers/reset?backend=shop%2/cart:80",
        "/circuit-breakers/reset?backend=%ff/cart:80",
        "/circuit-breakers/force?backend=shop/cart:80",
        "/circuit-breakers/force?backend=shop/cart:80&state=ajar",
    ] {
        let answer = ask(&state, LOOPBACK, "POST", target, "").await;
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.json()["error"].is_string());
    }
    assert!(state.actions.lock().is_empty());
}

#[tokio::test]
async fn the_log_level_is_changed() {
    let state = Arc::<State>::default();
    *state.level.lock() = "info".to_owned();
    let changed = ask(&state, LOOPBACK, "POST", "/log-level", "debug\n").await;
    assert_eq!(
        changed.json(),
        json!({"level": "debug", "previous": "info"})
    );
    assert_eq!(
        ask(&state, LOOPBACK, "POST", "/log-level", "loud")
            .await
            .status,
        400
    );
    let long = "x".repeat(MAX_BODY + 1);
    assert_eq!(
        ask(&state, LOOPBACK, "POST", "/log-level", &long)
            .await
            .status,
        413
    );
    let now = ask(&state, LOOPBACK, "GET", "/log-level", "").await;
    assert_eq!(now.json()["level"], "debug");
}

#[tokio::test]
async fn unknown_paths_list_the_known() {
    let state = Arc::<State>::default();
    for target in ["/", "/stats", "/live/", "/probes"] {
        let answer = ask(&state, ELSEWHERE, "GET", target, "").await;
        assert_eq!(answer.status, 404, "{target}");
        let paths = answer.json()["paths"].clone();
        assert!(paths.as_array().unwrap().contains(&json!("GET /metrics")));
    }
    let answer = ask(&state, LOOPBACK, "GET", "/drain", "").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: post"));
    assert_eq!(ask(&state, LOOPBACK, "POST", "/live", "").await.status, 405);
}

#[tokio::test(start_paused = true)]
async fn slow_heads_and_long_lives_end() {
    let state = Arc::<State>::default();
    let (server, _) = server(&state);
    let peer: SocketAddr = ELSEWHERE.parse().unwrap();

    let (mut client, io) = tokio::io::duplex(1024);
    client.write_all(b"GET /live HT").await.unwrap();
    let start = Instant::now();
    assert!(server.serve_connection(io, peer).await.is_err());
    assert_eq!(start.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());

    // One request every four seconds keeps within the head's time, but not for ever.
    let (mut client, io) = tokio::io::duplex(1024);
    let talk = async {
        let mut answers = 0;
        let mut buffer = [0; 1024];
        loop {
            if client
                .write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .is_err()
            {
                return answers;
            }
            if client.read(&mut buffer).await.unwrap_or(0) == 0 {
                return answers;
            }
            answers += 1;
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    };
    let start = Instant::now();
    let (served, answers) = tokio::join!(server.serve_connection(io, peer), talk);
    assert!(served.is_ok());
    assert_eq!(answers, 8);
    assert!(start.elapsed() <= CONNECTION_LIFE + Duration::from_secs(3));

    // Somebody who asks but never reads is cut.
    let (mut client, io) = tokio::io::duplex(64);
    let requests = "GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n".repeat(4);
    let ask = async {
        let _ = client.write_all(requests.as_bytes()).await;
        std::future::pending::<()>().await;
    };
    let start = Instant::now();
    tokio::select! {
        served = server.serve_connection(io, peer) => assert!(served.is_err()),
        () = ask => unreachable!("never ends"),
    }
    assert_eq!(start.elapsed(), CONNECTION_LIFE + CONNECTION_GRACE);
}

#[tokio::test]
async fn connections_are_bounded_over_loopback() {
    let state = Arc::<State>::default();
    let (server, telemetry) = server(&state);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(server.serve(listener));
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Answered, so it has its place.
        stream
            .write_all(b"GET /config HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        held.push(stream);
    }
    let mut refused = TcpStream::connect(address).await.unwrap();
    assert_eq!(refused.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let hits = "weft_limit_hits_total{limit=\"admin_connections\"} 1";
    assert!(telemetry.render().contains(hits));
    serving.abort();
}

proptest! {
    /// Whatever the query, an answer of ours and never a panic; only well-formed ones act.
    #[test]
    fn no_query_is_too_strange(query in "[!-~]{0,60}|backend=[a-z/:0-9%]{0,20}(&[a-z]{0,8}=[!-~]{0,20})?") {
        let query = query.replace(['#', '"', '<', '>', '\\', '^', '`', '{', '|', '}'], "%");
        let state = Arc::<State>::default();
        let request = http::Request::post(format!("/circuit-breakers/reset?{query}"))
            .body(http_body_util::Empty::new());
        let Ok(request) = request else { return Ok(()) };
        let peer = "127.0.0.1".parse().unwrap();
        let answer = routes::answer(&*state, peer, request).now_or_never().unwrap();
        prop_assert_eq!(answer.status().as_u16() == 200, !state.actions.lock().is_empty());
        prop_assert!(matches!(answer.status().as_u16(), 200 | 400));
    }
}
