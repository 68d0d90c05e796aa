//! Connections that are not the usual ones.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method};
use tokio::io::AsyncWriteExt as _;
use weft_sandbox::client::Http1;
use weft_sandbox::load::Load;
use weft_sandbox::{Mesh, Pod};
use weft_tests::tls::{self, End};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, assert_all_served_once, client_and, http_app, metrics, policy, request,
    send, stats, wait_for,
};

const STRICT: &str = "mtls: {mode: Strict}";
/// The beginning of a TLS 1.2-compatible ClientHello: enough to know what it is, and not its end.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
/// Clients that never finish.
const UNFINISHED: usize = 50;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("edges::a_self_call_through_the_own_cluster_ip", self_call);
    suite.add("edges::a_call_to_a_pod_ip", pod_ip);
    suite.add("edges::a_silent_client", silent);
    suite.add(
        "edges::a_tls_hello_that_never_ends_inbound",
        half_hello_inbound,
    );
    suite.add(
        "edges::a_tls_hello_that_never_ends_outbound",
        half_hello_outbound,
    );
}

/// "A self-call through the own cluster IP": "an endpoint that is this pod itself is dialled in
/// plaintext straight to the app (`tls="local"`)", under Strict too.
async fn self_call(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("self", ["api-1"]).policy(&policy("strict", "api", STRICT));
    cx.on(builder, async |mesh| {
        let pod = mesh.pod("api-1");
        for to in [mesh.addr("api", PORT), mesh.addr_v6("api", PORT)] {
            let answer = pod.post(to, "/self", "to myself").await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.served_by(), Some("api-1"));
        }
        let metrics = metrics(mesh, "api-1").await?;
        let local = [("direction", "outbound"), ("tls", "local")];
        assert_eq!(metrics.sum("weft_requests_total", &local), 2.0);
        assert_eq!(
            metrics.sum("weft_requests_total", &[("direction", "inbound")]),
            0.0
        );
        Ok(())
    })
    .await
}

/// "A call to a pod IP": (a) where the authority names a service that the pod backs, it is a call to
/// that service, balancing included; (b) else, where one service backs it, it goes to that pod, in
/// mutual TLS; (c) a pod behind no service is reached too.
async fn pod_ip(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("pod-ip", ["api-1", "api-2"])
        .workload(http_app("lonely"))
        .policy(&policy("strict", "api", STRICT));
    cx.on(builder, async |mesh| {
        let client = mesh.pod("client");
        let to = SocketAddr::new(mesh.pod("api-1").v4().into(), APP_PORT);
        let mut connection = Http1::connect(&client, to).await?;
        let mut by_name = [0, 0];
        for number in 0..60 {
            let id = format!("named-{number}");
            let answer = connection
                .request(request(Method::GET, "/", &id, ""))
                .await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
            match answer.served_by() {
                Some("api-1") => by_name[0] += 1,
                Some("api-2") => by_name[1] += 1,
                other => anyhow::bail!("served by {other:?}"),
            }
        }
        assert!(
            by_name.iter().all(|count| *count > 0),
            "balanced as {by_name:?}"
        );

        for number in 0..60 {
            let mut dialled = request(Method::GET, "/", &format!("dialled-{number}"), "");
            let host = HeaderValue::from_str(&to.to_string())?;
            dialled.headers_mut().insert(http::header::HOST, host);
            let answer = send(&client, to, dialled).await?;
            assert_eq!(answer.served_by(), Some("api-1"), "{}", answer.text());
        }

        let lonely = SocketAddr::new(mesh.pod("lonely").v4().into(), APP_PORT);
        let answer = client.get(lonely, "/").await?;
        assert_eq!(answer.served_by(), Some("lonely"), "{}", answer.text());

        let metrics = metrics(mesh, "client").await?;
        let mutual = [("direction", "outbound"), ("tls", "mutual")];
        assert_eq!(metrics.sum("weft_requests_total", &mutual), 121.0);
        cx.measured(format!(
            "by name {by_name:?}, by address all to the one that was dialled"
        ));
        Ok(())
    })
    .await
}

/// "A silent client": silence is never a verdict. A client that speaks late is served as what it
/// turns out to speak, outbound and inbound; and one that never speaks disturbs nobody.
async fn silent(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("silent", ["api-1"]), async |mesh| {
        let mute = mesh.pod("client").connect(mesh.addr("api", PORT)).await?;
        let stranger = mesh.stranger("stranger")?;
        let inbound = SocketAddr::new(mesh.pod("api-1").v4().into(), APP_PORT);
        for (pod, to) in [
            (mesh.pod("client"), mesh.addr("api", PORT)),
            (stranger, inbound),
        ] {
            let mut stream = pod.connect(to).await?;
            tokio::time::sleep(Duration::from_millis(1500)).await;
            stream
                .write_all(b"GET /late HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n")
                .await?;
            let heard = tls::read_to_end(&mut stream).await;
            assert!(heard.text().starts_with("HTTP/1.1 200 "), "{heard:?}");
        }
        for (workload, direction, wanted) in
            [("client", "outbound", 1.0), ("api-1", "inbound", 2.0)]
        {
            let metrics = metrics(mesh, workload).await?;
            let http = metrics.sum("weft_requests_total", &[("direction", direction)]);
            assert_eq!(
                http, wanted,
                "requests that were taken for HTTP, {direction}"
            );
        }
        let report = Load::new(mesh.addr("api", PORT))
            .requests(50)
            .run(&mesh.pod("client"))
            .await;
        assert_eq!(report.status(200), 50);
        drop(mute);
        Ok(())
    })
    .await
}

/// "A client that never finishes its TLS hello", inbound: it is cut off in time, the application
/// never hears of it, and others are served meanwhile.
async fn half_hello_inbound(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("hello-in", ["api-1"]).policy(&policy("strict", "api", STRICT));
    cx.on(builder, async |mesh| {
        let intruder = mesh.stranger("intruder")?;
        let to = SocketAddr::new(mesh.pod("api-1").v4().into(), APP_PORT);
        let mut streams = half_hellos(&intruder, to).await?;
        let begin = Instant::now();
        serve_others(mesh).await?;
        for stream in &mut streams {
            assert_eq!(tls::read_to_end(stream).await, End::Closed(Vec::new()));
        }
        cx.measured(format!(
            "{UNFINISHED} cut off after {:.1?}",
            begin.elapsed()
        ));
        Ok(())
    })
    .await
}

/// The same outbound: what the client says is handed on as bytes or held, others are served
/// meanwhile, and when it goes away nothing is left of it.
async fn half_hello_outbound(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("hello-out", ["api-1"]), async |mesh| {
        let client = mesh.pod("client");
        let streams = half_hellos(&client, mesh.addr("api", PORT)).await?;
        for stream in &mut half_hellos(&client, mesh.addr("api", PORT)).await? {
            stream.shutdown().await?;
        }
        serve_others(mesh).await?;
        drop(streams);
        wait_for(
            "an end of all relayed connections",
            Duration::from_secs(10),
            async || {
                let mut open = 0.0;
                for workload in ["client", "api-1"] {
                    open += metrics(mesh, workload)
                        .await?
                        .sum("weft_tcp_open_connections", &[]);
                }
                Ok((open == 0.0).then_some(()))
            },
        )
        .await
    })
    .await
}

async fn half_hellos(pod: &Pod, to: SocketAddr) -> anyhow::Result<Vec<tokio::net::TcpStream>> {
    let mut streams = Vec::new();
    for number in 0..UNFINISHED {
        let mut stream = pod.connect(to).await?;
        // Some end inside of the record's header, some inside of the message.
        let length = 1 + number % HALF_HELLO.len();
        stream.write_all(&HALF_HELLO[..length]).await?;
        streams.push(stream);
    }
    Ok(streams)
}

async fn serve_others(mesh: &Mesh) -> anyhow::Result<()> {
    let report = Load::new(mesh.addr("api", PORT))
        .clients(4)
        .requests(200)
        .run(&mesh.pod("client"))
        .await;
    assert_all_served_once(&report, &stats(mesh, ["api-1"]).await?);
    Ok(())
}
