//! Limits in time, counted at the server: what was given up is cancelled there, and what comes too late
//! never gets there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_proto::names::{alpn, ports};
use weft_sandbox::app::echo::EchoRequest;
use weft_sandbox::app::http::Seen;
use weft_sandbox::app::{Behavior, ID, Stats};
use weft_sandbox::client::Http2;
use weft_sandbox::mesh::{Builder, Endpoint};
use weft_sandbox::{AppSpec, Mesh, Pod, Workload};
use weft_tests::tls::{self, Credentials};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, assert_untouched, client_and, id, mesh, metrics, policy, request, send,
    service, stats, wait_for,
};
use crate::retries::warm_up;

const ECHO: &str = "weft.sandbox.v1.Echo";
const TICK: Duration = Duration::from_millis(100);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("deadlines::every_try_of_a_slow_call_is_cancelled", sleeping);
    suite.add("deadlines::idle_and_stream_end_exchanges", idle_and_stream);
    suite.add("deadlines::what_nobody_accepts_is_given_up", connect);
    suite.add("deadlines::time_left_travels_with_the_request", travels);
}

/// "request 1 s, perTry 400 ms, condition PerTryTimeout, 3 retries, a server that sleeps": the client has
/// its answer between 1.0 and 1.5 s, and the server sees every try cancelled, over HTTP/1 by the end of
/// its connection and over HTTP/2 by the reset of its stream.
async fn sleeping(cx: Cx) -> anyhow::Result<()> {
    let stanzas = "timeouts: {request: 1s, perTry: 400ms}, retries: {attempts: 3, \
                   conditions: [PerTryTimeout], statusCodes: [], grpcCodes: [], methods: [GET, POST], \
                   backoff: {base: 1ms, max: 5ms}}";
    let builder = client_and("sleeping", ["api-1"]).policy(&policy("slow", "api", stanzas));
    cx.on(builder, async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        warm_up(mesh).await;
        for grpc in [false, true] {
            let app = mesh.app("api-1");
            app.reset_stats().await?;
            app.behave(&Behavior {
                hang_next: 1_000,
                ..Behavior::default()
            })
            .await?;
            let began = Instant::now();
            let call = async {
                if grpc {
                    let call = grpc_call(&format!("/{ECHO}/Unary"), "slow", &[]);
                    Http2::connect(&client, to).await?.request(call).await
                } else {
                    send(&client, to, request(Method::GET, "/slow", "slow", "")).await
                }
            };
            let first_cancelled = async {
                wait_for("a cancelled try", Duration::from_secs(5), async || {
                    let seen = stats(mesh, ["api-1"]).await?;
                    Ok((seen.cancelled > 0).then(|| began.elapsed()))
                })
                .await
            };
            let timed = async { (call.await, began.elapsed()) };
            let ((answer, took), first) = tokio::join!(timed, first_cancelled);
            let (answer, first) = (answer?, first?);
            // By the end of its own time, not by that of the request.
            assert_between("the first try", first, 400, 950);
            assert_eq!(
                answer.outcome(),
                Some("request_timeout"),
                "{}",
                answer.text()
            );
            if grpc {
                assert_eq!(answer.header("grpc-status"), Some("4"));
            } else {
                assert_eq!(answer.status, 504);
            }
            assert_between("the answer", took, 1_000, 1_500);
            let seen = at_rest(mesh).await?;
            cx.measured(format!(
                "gRPC {grpc}: {took:.2?}, {} tries",
                seen.ids["slow"]
            ));
            assert_eq!(seen.ids["slow"], 3, "tries at 0, 0.4 and 0.8 s");
            assert_eq!((seen.requests, seen.cancelled), (3, 3));
        }
        let labels = [("direction", "outbound"), ("outcome", "request_timeout")];
        let counted = metrics(mesh, "client").await?;
        assert_eq!(counted.sum("weft_requests_total", &labels), 2.0);
        // To the server's sidecar its callers have left, also the one whose whole time was over.
        let labels = [("direction", "inbound"), ("outcome", "client_gone")];
        let counted = metrics(mesh, "api-1").await?;
        assert_eq!(counted.sum("weft_requests_total", &labels), 6.0);
        Ok(())
    })
    .await
}

/// `idle` ends an exchange in which nothing moves, and none in which something does. `stream` ends a
/// stream, whose `request` ends with its head; of anything else `request` covers the body too.
async fn idle_and_stream(cx: Cx) -> anyhow::Result<()> {
    let stanzas = format!(
        "rules: [{{name: idle, matches: [{{path: {{value: /idle}}}}], timeouts: {{idle: 500ms}}}}, \
         {{name: stream, matches: [{{path: {{value: /stream}}}}, {{grpc: {{service: {ECHO}}}}}], \
         timeouts: {{request: 400ms, stream: 1s}}}}]"
    );
    let builder = client_and("streams", ["api-1"]).policy(&policy("streams", "api", &stanzas));
    cx.on(builder, async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        let get = async |target: &str, events: bool| {
            let mut get = request(Method::GET, target, target, "");
            if events {
                let accepted = HeaderValue::from_static("text/event-stream");
                get.headers_mut().insert(http::header::ACCEPT, accepted);
            }
            let began = Instant::now();
            let answer = send(&client, to, get).await;
            (answer, began.elapsed())
        };
        // Twice as long as `idle`, but never idle.
        let (answer, took) = get("/idle?chunks=10&every_ms=100", false).await;
        assert_eq!(answer?.text().lines().count(), 10);
        assert!(took >= TICK * 10, "{took:?}");
        cancelled(mesh, 0).await?;
        let (answer, took) = get("/idle?chunks=2&every_ms=5000", false).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_between("the idle exchange", took, 500, 1_500);
        cancelled(mesh, 1).await?;

        let (answer, took) = get("/stream?chunks=50&every_ms=100", true).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_between("the events", took, 1_000, 1_800);
        cancelled(mesh, 2).await?;
        let (answer, took) = get("/stream?chunks=50&every_ms=101", false).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_between("no stream", took, 400, 1_000);
        cancelled(mesh, 3).await?;
        let (messages, took) = grpc_stream(&client, to).await?;
        assert_between("the gRPC stream", took, 1_000, 1_800);
        assert!(
            (5..=12).contains(&messages),
            "{messages} messages in {took:?}"
        );

        cancelled(mesh, 4).await?;
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, 5);
        let counted = metrics(mesh, "client").await?;
        for (outcome, times) in [("idle_timeout", 1.0), ("request_timeout", 3.0), ("ok", 1.0)] {
            let labels = [("direction", "outbound"), ("outcome", outcome)];
            assert_eq!(
                counted.sum("weft_requests_total", &labels),
                times,
                "{outcome}"
            );
        }
        Ok(())
    })
    .await
}

/// Behind the service's address is nobody who would even refuse.
async fn connect(cx: Cx) -> anyhow::Result<()> {
    let stanzas = "timeouts: {connect: 300ms}, retries: {attempts: 0}";
    let builder = client_and("connect", ["api-1"]).policy(&policy("connect", "api", stanzas));
    cx.on(builder, async |mesh| {
        let pod = mesh.pod("api-1").v4().octets();
        let nobody = std::net::Ipv4Addr::new(pod[0], pod[1], pod[2], 250);
        mesh.set_endpoints("api", [Endpoint::Address(nobody.into())])?;
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let began = Instant::now();
        let answer = send(&client, to, request(Method::GET, "/", "nobody", "")).await?;
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert_eq!(answer.outcome(), Some("connect_timeout"));
        assert_between("giving up", began.elapsed(), 300, 1_300);
        assert_untouched(&stats(mesh, ["api-1"]).await?);
        Ok(())
    })
    .await
}

/// A gRPC client's own limit reaches the application less the time that is gone. The policy's travels
/// between sidecars only, and is believed of a verified one only: what comes too late never reaches the
/// application, and what it has not answered in time is cancelled there.
async fn travels(cx: Cx) -> anyhow::Result<()> {
    cx.on(one_api("travels", "timeouts: {request: 5s}"), async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        let forged = [("grpc-timeout", "60S"), ("x-weft-deadline-ms", "0")];
        let call = grpc_call("/seen", "seen", &forged);
        let answer = Http2::connect(&client, to).await?.request(call).await?;
        let seen: Seen = serde_json::from_slice(&answer.body)?;
        let header = |name: &str| {
            let found = seen.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        let told = header("grpc-timeout").unwrap_or_default();
        let micros: u64 = told.trim_end_matches('u').parse()?;
        assert!((50_000_000..60_000_000).contains(&micros), "{told}");
        assert_eq!(header("x-weft-deadline-ms"), None, "{:?}", seen.headers);

        // Past the client's sidecar: first as somebody who proves nothing, then as the sidecar itself.
        let stranger = mesh.stranger("stranger")?;
        let port = SocketAddr::new(mesh.pod("api-1").v4().into(), APP_PORT);
        let late = |id: &str, left: &str| {
            let mut late = request(Method::GET, "/late", id, "");
            let left = HeaderValue::try_from(left).expect("a number");
            late.headers_mut().insert("x-weft-deadline-ms", left);
            late
        };
        let answer = send(&stranger, port, late("unproved", "0")).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let credentials = Credentials::good(&mesh.state_dir(), &id("client"))?;
        let exchange = async |id: &str, left: &str| -> anyhow::Result<String> {
            let stream = stranger.connect(port).await?;
            let mut stream = tls::connect(stream, Some(&credentials), &[alpn::HTTP1]).await?;
            let head = format!(
                "GET /late HTTP/1.1\r\nhost: api\r\n{ID}: {id}\r\nx-weft-deadline-ms: {left}\r\n\
                 connection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            Ok(tls::read_to_end(&mut stream).await.text())
        };
        let is_late = |text: &str| {
            text.starts_with("HTTP/1.1 504 ")
                && text.contains("x-weft-outcome: request_timeout")
                && text.contains("x-weft-origin: inbound")
        };
        let answer = exchange("late", "0").await?;
        assert!(is_late(&answer), "{answer}");
        let answer = exchange("in-time", "5000").await?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        mesh.app("api-1").behave(&Behavior { hang_next: 1, ..Behavior::default() }).await?;
        let began = Instant::now();
        let answer = exchange("slow", "300").await?;
        assert!(is_late(&answer), "{answer}");
        assert_between("the inbound sidecar's end of it", began.elapsed(), 300, 1_300);
        let seen = at_rest(mesh).await?;
        let ids: Vec<_> = seen.ids.keys().map(String::as_str).collect();
        assert_eq!(ids, ["in-time", "seen", "slow", "unproved"]);
        assert_eq!((seen.requests, seen.cancelled), (4, 1));

        // What the client's sidecar says to the other.
        mesh.kill_sidecar("api-1").await?;
        let heard = listen_as_sidecar(mesh, &mesh.pod("api-1"))?;
        let answer = send(&client, to, request(Method::GET, "/", "told", "")).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let head = heard.await??;
        let left = head.split("x-weft-deadline-ms: ").nth(1);
        let left: u64 = left.and_then(|rest| rest.lines().next()).unwrap_or_default().parse()?;
        assert!((4_000..=5_000).contains(&left), "{head}");
        Ok(())
    })
    .await
}

/// A client, and a service with one application that has an identity of its own.
fn one_api(name: &str, stanzas: &str) -> Builder {
    mesh(name)
        .workload(Workload::new("client").service_account("client"))
        .workload(
            Workload::new("api-1")
                .service_account("api")
                .port(APP_PORT, AppSpec::http()),
        )
        .service(service("api", ["api-1"]))
        .policy(&policy("api", "api", stanzas))
}

fn grpc_call(path: &str, id: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut call = Request::post(format!("http://api{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(ID, id);
    for (name, value) in headers {
        call = call.header(*name, *value);
    }
    // One empty message.
    let message = Bytes::from_static(b"\0\0\0\0\0");
    call.body(Full::new(message)).expect("all parts are valid")
}

/// A server's stream that would last: how many messages came until it ended, and when that was.
async fn grpc_stream(client: &Pod, to: SocketAddr) -> anyhow::Result<(usize, Duration)> {
    let mut echo = client.echo_client(to, "api").await?;
    let began = Instant::now();
    let asked = EchoRequest {
        repeat: 50,
        delay_ms: 100,
        ..EchoRequest::default()
    };
    let mut answers = echo.server_stream(asked).await?.into_inner();
    let mut messages = 0;
    while let Ok(Some(_)) = answers.message().await {
        messages += 1;
    }
    Ok((messages, began.elapsed()))
}

/// So many requests have been cancelled at the application, and none is in flight.
async fn cancelled(mesh: &Mesh, times: u64) -> anyhow::Result<()> {
    let seen = at_rest(mesh).await?;
    anyhow::ensure!(
        seen.cancelled == times,
        "{} cancelled, not {times}",
        seen.cancelled
    );
    Ok(())
}

/// What the application has seen when nothing is in flight any more.
async fn at_rest(mesh: &Mesh) -> anyhow::Result<Stats> {
    let patience = Duration::from_secs(3);
    wait_for("the end of what is in flight", patience, async || {
        let seen = stats(mesh, ["api-1"]).await?;
        Ok((seen.in_flight == 0).then_some(seen))
    })
    .await
}

/// Stands where the sidecar's inbound listener should, with its identity; the first head that comes.
fn listen_as_sidecar(
    mesh: &Mesh,
    pod: &Pod,
) -> anyhow::Result<tokio::task::JoinHandle<anyhow::Result<String>>> {
    let listener = pod.listen(SocketAddr::new(pod.v4().into(), ports::INBOUND))?;
    let credentials = Credentials::good(&mesh.state_dir(), &id("api"))?;
    Ok(tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = tls::accept(stream, &credentials, &[alpn::HTTP1]).await?;
        let mut head = vec![0; 4096];
        let length = stream.read(&mut head).await?;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        Ok(String::from_utf8_lossy(&head[..length]).into_owned())
    }))
}

#[track_caller]
fn assert_between(what: &str, took: Duration, least: u64, most: u64) {
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    assert!(took >= least && took <= most, "{what} took {took:?}");
}
