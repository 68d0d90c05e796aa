//! What one sidecar bears in all: small limits, given by environment, and clients that go beyond each.
//! Counts are the application's own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_proto::names::env;
use weft_sandbox::app::Behavior;
use weft_sandbox::client::Answer;
use weft_sandbox::{Mesh, Pod, Workload};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, http_app, mesh, metrics, policy, request, send, service, stats,
};

/// What an answer or an end may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the application works on a request, where several are to be under way at once.
const WORK: Duration = Duration::from_secs(2);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("limits_of_process::heads_and_times", heads_and_times);
    suite.add("limits_of_process::connections", connections);
    suite.add("limits_of_process::requests_in_flight", requests);
    suite.add("limits_of_process::connections_to_servers", dialled);
    suite.add("limits_of_process::bodies_that_are_kept", bodies);
    suite.add("limits_of_process::a_wrong_limit_is_told", wrong);
}

/// Heads that are too big or too slow, and connections that are idle for too long.
async fn heads_and_times(cx: Cx) -> anyhow::Result<()> {
    let app = http_app("api-1")
        .env(env::MAX_HEADERS, "20")
        .env(env::MAX_HEADER_BYTES, "8Ki")
        .env(env::HEADER_TIMEOUT, "500ms")
        .env(env::IDLE_TIMEOUT, "2s");
    let builder = mesh("limits-heads").workload(app);
    cx.on(builder, async |mesh| {
        let (client, to) = stranger(mesh)?;
        let head = |fields: &str| format!("GET / HTTP/1.1\r\nhost: api\r\n{fields}\r\n");
        let cases = [
            (head(&"a: b\r\n".repeat(19)), "200"),
            (head(&"a: b\r\n".repeat(20)), "431"),
            (head(&format!("a: {}\r\n", "b".repeat(8_000))), "200"),
            (head(&format!("a: {}\r\n", "b".repeat(8_192))), "431"),
        ];
        let good = cases.iter().filter(|(_, status)| *status == "200").count();
        for (head, status) in cases {
            let mut raw = client.connect(to).await?;
            raw.write_all(head.as_bytes()).await?;
            let answer = one_head(&mut raw).await?;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            if status != "200" {
                assert_refused(&answer, "bad_request");
                assert!(ends(&mut raw).await);
            }
        }

        let mut slow = client.connect(to).await?;
        slow.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n").await?;
        let answer = one_head(&mut slow).await?;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_refused(&answer, "bad_request");
        assert!(ends(&mut slow).await);

        let mut idle = client.connect(to).await?;
        idle.write_all(head("").as_bytes()).await?;
        assert!(one_head(&mut idle).await?.starts_with("HTTP/1.1 200 "));
        assert!(ends(&mut idle).await);

        assert_eq!(stats(mesh, ["api-1"]).await?.requests, good as u64 + 1);
        assert_eq!(hits(mesh, "api-1", "headers").await?, 1.0);
        assert_eq!(hits(mesh, "api-1", "header_bytes").await?, 1.0);
        assert_eq!(hits(mesh, "api-1", "header_timeout").await?, 1.0);
        // Those that were answered 200 above are dropped by their clients before.
        assert_eq!(hits(mesh, "api-1", "idle_timeout").await?, 1.0);
        Ok(())
    })
    .await
}

/// More connections than are accepted.
async fn connections(cx: Cx) -> anyhow::Result<()> {
    const MOST: usize = 5;
    let app = http_app("api-1").env(env::MAX_CONNECTIONS, &MOST.to_string());
    let builder = mesh("limits-conns").workload(app);
    cx.on(builder, async |mesh| {
        let (client, to) = stranger(mesh)?;
        let mut kept = Vec::new();
        for _ in 0..MOST {
            let mut raw = client.connect(to).await?;
            ask(&mut raw).await?;
            kept.push(raw);
        }
        assert_eq!(hits(mesh, "api-1", "connections").await?, 0.0);
        let mut refused = client.connect(to).await?;
        let _ = refused
            .write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n")
            .await;
        assert!(ends(&mut refused).await, "closed without a word");
        assert_eq!(hits(mesh, "api-1", "connections").await?, 1.0);
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, MOST as u64);
        // Those that are there notice nothing; room for another comes when one leaves.
        for raw in &mut kept {
            ask(raw).await?;
        }
        kept.pop();
        tokio::time::sleep(Duration::from_millis(500)).await;
        ask(&mut client.connect(to).await?).await
    })
    .await
}

/// More requests than may be in flight: at the server's sidecar, and at the client's.
async fn requests(cx: Cx) -> anyhow::Result<()> {
    const MOST: usize = 2;
    let most = MOST.to_string();
    let builder = mesh("limits-requests")
        .workload(Workload::new("few").env(env::MAX_REQUESTS, &most))
        .workload(Workload::new("client"))
        .workload(http_app("api-1").env(env::MAX_REQUESTS, &most))
        .service(service("api", ["api-1"]))
        .policy(&policy("api", "api", "retries: {attempts: 0}"));
    cx.on(builder, async |mesh| {
        mesh.app("api-1").behave(&Behavior::latency(WORK)).await?;
        let cases = [
            ("client", "shed", "inbound", "api-1", "inbound_requests"),
            ("few", "overflow", "outbound", "few", "outbound_requests"),
        ];
        for (client, outcome, origin, sidecar, limit) in cases {
            let before = stats(mesh, ["api-1"]).await?.requests;
            let answers = at_once(mesh, client, 6).await?;
            let ok = answers.iter().filter(|answer| answer.status == 200).count();
            assert_eq!(ok, MOST, "{client}: {answers:?}");
            for refused in answers.iter().filter(|answer| answer.status != 200) {
                assert_eq!(refused.status, 503, "{client}: {refused:?}");
                assert_eq!(refused.outcome(), Some(outcome), "{client}: {refused:?}");
                assert_eq!(refused.headers["x-weft-origin"], origin, "{client}");
            }
            let seen = stats(mesh, ["api-1"]).await?.requests - before;
            assert_eq!(seen, MOST as u64, "{client}");
            assert_eq!(
                hits(mesh, sidecar, limit).await?,
                (6 - MOST) as f64,
                "{client}"
            );
        }
        Ok(())
    })
    .await
}

/// More connections than may be dialled.
async fn dialled(cx: Cx) -> anyhow::Result<()> {
    const MOST: usize = 2;
    let client = Workload::new("client").env(env::MAX_UPSTREAM_CONNECTIONS, &MOST.to_string());
    let builder = mesh("limits-dialled")
        .workload(client)
        .workload(http_app("api-1"))
        .workload(http_app("other-1"))
        .service(service("api", ["api-1"]))
        .service(service("other", ["other-1"]))
        .policy(&policy("api", "api", "retries: {attempts: 0}"));
    cx.on(builder, async |mesh| {
        mesh.app("api-1").behave(&Behavior::latency(WORK)).await?;
        let answers = at_once(mesh, "client", 6).await?;
        let ok = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(ok, MOST, "{answers:?}");
        let refused = answers.iter().filter(|answer| answer.status == 503);
        let overflown = refused.filter(|answer| answer.outcome() == Some("overflow"));
        assert_eq!(overflown.count(), 6 - MOST, "{answers:?}");
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, MOST as u64);
        let limit = "outbound_upstream_connections";
        assert_eq!(hits(mesh, "client", limit).await?, (6 - MOST) as f64);
        // Both connections are idle now, and one makes room for another server's.
        let to = mesh.addr("other", PORT);
        let elsewhere = request(Method::GET, "/", "elsewhere", "");
        let answer = send(&mesh.pod("client"), to, elsewhere).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(hits(mesh, "client", limit).await?, (6 - MOST + 1) as f64);
        assert_eq!(stats(mesh, ["other-1"]).await?.requests, 1);
        Ok(())
    })
    .await
}

/// A body that finds no room among those that are kept is sent once, whole, and not again.
async fn bodies(cx: Cx) -> anyhow::Result<()> {
    let builder = mesh("limits-bodies")
        .workload(Workload::new("poor").env(env::BODY_BUFFER, "8"))
        .workload(Workload::new("rich"))
        .workload(http_app("api-1"))
        .service(service("api", ["api-1"]))
        .policy(&policy(
            "api",
            "api",
            "retries: {attempts: 1, statusCodes: [503], methods: [POST]}",
        ));
    cx.on(builder, async |mesh| {
        mesh.app("api-1").behave(&Behavior::status(503)).await?;
        let to = mesh.addr("api", PORT);
        for (client, body, tries) in [
            ("rich", "longer than eight", 2),
            ("poor", "short", 2),
            ("poor", "longer than eight", 1),
        ] {
            let before = stats(mesh, ["api-1"]).await?.requests;
            let post = request(Method::POST, "/", client, body);
            let answer = send(&mesh.pod(client), to, post).await?;
            assert_eq!(answer.status, 503, "{client}: {answer:?}");
            let seen = stats(mesh, ["api-1"]).await?.requests - before;
            assert_eq!(seen, tries, "{client}, {body:?}");
        }
        assert_eq!(hits(mesh, "rich", "body_buffer").await?, 0.0);
        assert_eq!(hits(mesh, "poor", "body_buffer").await?, 1.0);
        Ok(())
    })
    .await
}

/// A limit out of its bounds ends the sidecar at once, and says which and why.
async fn wrong(_: Cx) -> anyhow::Result<()> {
    let sidecar = std::process::Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(["internal", "proxy"])
        .env_clear()
        .env(env::MAX_HEADER_BYTES, "1")
        .env(env::HTTP2_STREAM_WINDOW, "2Mi")
        .env(env::HTTP2_CONNECTION_WINDOW, "1Mi")
        .output()
        .context("weft internal proxy")?;
    assert_eq!(sidecar.status.code(), Some(64));
    let said = String::from_utf8_lossy(&sidecar.stderr);
    for line in [
        "WEFT_MAX_HEADER_BYTES=\"1\": expected a size from 8Ki to 1Mi",
        "WEFT_HTTP2_CONNECTION_WINDOW=\"1Mi\": expected no less than WEFT_HTTP2_STREAM_WINDOW",
    ] {
        assert!(said.contains(line), "{said}");
    }
    Ok(())
}

/// Somebody outside of the mesh, and the application's port.
fn stranger(mesh: &Mesh) -> anyhow::Result<(Pod, SocketAddr)> {
    let to = SocketAddr::new(mesh.pod("api-1").v4().into(), APP_PORT);
    Ok((mesh.stranger("stranger")?, to))
}

/// So many requests to `api` that are under way together.
async fn at_once(mesh: &Mesh, client: &str, count: usize) -> anyhow::Result<Vec<Answer>> {
    let (pod, to) = (mesh.pod(client), mesh.addr("api", PORT));
    let one = |number: usize| {
        let pod = &pod;
        async move {
            let id = format!("{client}-{number}");
            send(pod, to, request(Method::GET, "/", &id, "")).await
        }
    };
    join_all((0..count).map(one)).await.into_iter().collect()
}

async fn hits(mesh: &Mesh, workload: &str, limit: &str) -> anyhow::Result<f64> {
    let metrics = metrics(mesh, workload).await?;
    let shown = metrics.value("weft_limit_hits_total", &[("limit", limit)]);
    shown.with_context(|| format!("no limit {limit} in the metrics of {workload}"))
}

/// One request that is answered.
async fn ask(raw: &mut TcpStream) -> anyhow::Result<()> {
    raw.write_all(b"HEAD / HTTP/1.1\r\nhost: api\r\n\r\n")
        .await?;
    let answer = one_head(raw).await?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}

/// The head of the next answer; of what follows it, what came with it.
async fn one_head(raw: &mut TcpStream) -> anyhow::Result<String> {
    let mut heard = Vec::new();
    timeout(PATIENCE, async {
        while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = raw.read_buf(&mut heard).await?;
            anyhow::ensure!(
                read > 0,
                "ended after {:?}",
                String::from_utf8_lossy(&heard)
            );
        }
        Ok(String::from_utf8_lossy(&heard).into_owned())
    })
    .await
    .context("no answer")?
}

/// Whether the peer ends the connection; the rest of a body may come before.
async fn ends(raw: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(PATIENCE, raw.read_to_end(&mut rest)).await.is_ok()
}

fn assert_refused(answer: &str, outcome: &str) {
    assert!(
        answer.contains(&format!("x-weft-outcome: {outcome}\r\n")),
        "{answer}"
    );
    assert!(answer.contains("x-weft-origin: inbound\r\n"), "{answer}");
}
