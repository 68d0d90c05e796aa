//! `circuitBreaker.limits`: how much of one client a service gets at once, counted at the server.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_sandbox::app::Behavior;
use weft_sandbox::load::{Load, Protocol, Report, Shot};
use weft_sandbox::{AppSpec, Service, Workload};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, assert_accounted, assert_all_served_once, assert_no_failure, http_app,
    mesh, metrics, policy, request, send, service, stats, wait_for,
};

/// What the caps of these tests are.
const CAP: u64 = 4;
/// Clients that are served although they wait.
const PATIENT: usize = 12;
/// Many more clients than may wait.
const CROWD: usize = 48;
/// How long the applications work on a request.
const WORK: Duration = Duration::from_millis(20);
/// What "at once" means to a client.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("backend_limits::requests_at_once", requests_at_once);
    suite.add("backend_limits::a_full_queue_is_told_at_once", full_queue);
    suite.add("backend_limits::connections_at_once", connections_at_once);
    suite.add("backend_limits::opaque_connections", opaque);
}

/// A sidecar with two workers, whose caps hold for both together.
fn client() -> Workload {
    Workload::new("client").service_account("client").workers(2)
}

fn limits(stanza: &str) -> String {
    format!("circuitBreaker: {{limits: {{{stanza}}}}}")
}

/// However many clients there are, the server works on no more requests at once than the cap says,
/// over HTTP/1 and HTTP/2, also while the policy is edited. Who finds room in the queue is served,
/// once; all others are told `overflow` and nothing of theirs reaches the server.
async fn requests_at_once(cx: Cx) -> anyhow::Result<()> {
    let stanza = limits(&format!(
        "maxRequests: {CAP}, maxPendingRequests: {}",
        PATIENT as u64 - CAP
    ));
    let builder = mesh("caps")
        .workload(client())
        .workload(http_app("api-1"))
        .service(service("api", ["api-1"]))
        .named_policy("api", &policy("api", "api", &stanza));
    cx.on(builder, async |mesh| {
        let app = mesh.app("api-1");
        app.behave(&Behavior::latency(WORK)).await?;
        let pod = mesh.pod("client");
        let lasting = cx.pick(Duration::from_secs(2), Duration::from_secs(20));
        let load = |protocol, clients, prefix: &str| {
            Load::new(mesh.addr("api", PORT))
                .protocol(protocol)
                .clients(clients)
                .duration(lasting)
                .shot(Shot::post("/orders", 100))
                .id_prefix(prefix)
        };
        let mut overflows = 0;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            app.reset_stats().await?;
            let name = format!("{protocol:?}");
            let kept = load(protocol, PATIENT, &name).run(&pod).await;
            let seen = app.stats().await?;
            assert_all_served_once(&kept, &seen);
            assert_eq!(seen.most_in_flight, CAP, "{name}");

            app.reset_stats().await?;
            let edit = async {
                tokio::time::sleep(lasting / 2).await;
                let edited = format!("{stanza}, timeouts: {{request: {}s}}", 20 + overflows % 7);
                mesh.apply_policy("api", &policy("api", "api", &edited))
            };
            let crowd = load(protocol, CROWD, &format!("{name}-crowd"));
            let (flood, edited) = tokio::join!(crowd.run(&pod), edit);
            edited?;
            let seen = app.stats().await?;
            assert_flooded(&flood);
            assert_eq!(seen.repeated_ids(), 0);
            assert_eq!(seen.requests, flood.status(200), "{name}");
            assert_eq!(seen.most_in_flight, CAP, "{name}");
            overflows += flood.status(503);
            cx.measured(format!(
                "{name}: {} served, {} refused, {} at most at once",
                flood.status(200),
                flood.status(503),
                seen.most_in_flight
            ));
        }
        let counted = metrics(mesh, "client").await?;
        let labels = [("service", "default/api:80"), ("limit", "maxRequests")];
        let told = counted.sum("weft_backend_limit_overflow_total", &labels);
        assert_eq!(told as u64, overflows);
        let held = counted.sum("weft_backend_requests_in_flight", &[]);
        let pending = counted.sum("weft_backend_requests_pending", &[]);
        assert_eq!((held, pending), (0.0, 0.0), "something was not given back");
        Ok(())
    })
    .await
}

/// Everything was answered: served, or told that the queue is full.
fn assert_flooded(flood: &Report) {
    assert_accounted(flood);
    assert_eq!(flood.failed, 0, "{:?}", flood.failures);
    assert!(flood.status(200) > 0 && flood.status(503) > 0);
    assert_eq!(flood.not_ok(), flood.status(503));
    assert_eq!(flood.outcomes.len(), 1, "{:?}", flood.outcomes);
    assert_eq!(flood.outcomes["overflow"], flood.status(503));
}

/// One in flight, one in the queue: the third is refused at once, without a retry, and answered for
/// by the fallback where there is one. The one in the queue is served when its time comes.
async fn full_queue(cx: Cx) -> anyhow::Result<()> {
    let stanza = format!(
        "{}, retries: {{statusCodes: [503]}}",
        limits("maxRequests: 1, maxPendingRequests: 1")
    );
    let builder = mesh("queue")
        .workload(client())
        .workload(http_app("api-1"))
        .service(service("api", ["api-1"]))
        .named_policy("api", &policy("api", "api", &stanza));
    cx.on(builder, async |mesh| {
        let app = mesh.app("api-1");
        app.behave(&Behavior {
            hang_next: 1,
            ..Behavior::default()
        })
        .await?;
        let (pod, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        let post = |id: &str| {
            let (pod, post) = (pod.clone(), request(Method::POST, "/", id, "one book"));
            async move { send(&pod, to, post).await }
        };
        let hangs = tokio::task::spawn_local(post("hangs"));
        wait_for("the first request", AT_ONCE * 10, async || {
            Ok((app.stats().await?.in_flight == 1).then_some(()))
        })
        .await?;
        let waits = tokio::task::spawn_local(post("waits"));
        wait_for("a request in the queue", AT_ONCE * 10, async || {
            let metrics = metrics(mesh, "client").await?;
            let pending = metrics.sum("weft_backend_requests_pending", &[]);
            Ok((pending == 1.0).then_some(()))
        })
        .await?;

        let began = Instant::now();
        let refused = post("refused").await?;
        let took = began.elapsed();
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.outcome(), Some("overflow"));
        assert_eq!(refused.headers["x-weft-origin"], "outbound");
        assert!(took < AT_ONCE, "refused after {took:?}");
        cx.measured(format!("refused after {took:?}"));
        let shown = mesh.admin_get("client", "/circuit-breakers").await?.text();
        assert!(shown.contains("\"maxPendingRequests\": 1"), "{shown}");

        let fallback = "fallback: {triggers: [Overload], response: {status: 503, \
                        contentType: application/json, body: '{\"success\":false}'}}";
        let edited = format!("{stanza}, {fallback}");
        mesh.apply_policy("api", &policy("api", "api", &edited))?;
        let mut number = 0;
        wait_for("the fallback", AT_ONCE * 10, async || {
            number += 1;
            let answer = post(&format!("stood-in-{number}")).await?;
            assert_eq!(answer.outcome(), Some("overflow"));
            let stood_in = answer.headers.contains_key("x-weft-fallback");
            assert!(!stood_in || answer.text() == "{\"success\":false}");
            Ok(stood_in.then_some(()))
        })
        .await?;

        // The application ends, and with it the request that hangs.
        assert_eq!(app.stats().await?.requests, 1, "seen by the server");
        mesh.kill_app("api-1").await?;
        mesh.start_app("api-1").await?;
        let hung = hangs.await??;
        assert_ne!(hung.status, 200);
        let served = waits.await??;
        let seen = stats(mesh, ["api-1"]).await?;
        // It was sent while nobody listened, or answered; never twice.
        assert!(seen.repeated_ids() == 0 && seen.requests <= 1);
        assert_ne!(served.outcome(), Some("overflow"), "{}", served.text());
        let after = post("after").await?;
        assert_eq!(after.status, 200, "{}", after.text());
        Ok(())
    })
    .await
}

/// Two workers and two servers without sidecars, so that what they see are the client sidecar's own
/// connections: never more than the cap, whatever the protocol, and everybody is served.
async fn connections_at_once(cx: Cx) -> anyhow::Result<()> {
    let stanza = limits(&format!("maxConnections: {CAP}, maxPendingRequests: 100"));
    let app = |name: &str| http_app(name).unmeshed();
    let builder = mesh("connections")
        .workload(client())
        .workload(app("one-1"))
        .workload(app("two-1"))
        .workload(app("pair-1"))
        .workload(app("pair-2"))
        .service(service("one", ["one-1"]))
        .service(service("two", ["two-1"]))
        .service(service("pair", ["pair-1", "pair-2"]))
        .named_policy("one", &policy("one", "one", &stanza))
        .named_policy("two", &policy("two", "two", &stanza))
        .named_policy("pair", &policy("pair", "pair", &stanza));
    cx.on(builder, async |mesh| {
        let pod = mesh.pod("client");
        let lasting = cx.pick(Duration::from_secs(2), Duration::from_secs(20));
        for (service, protocol) in [("one", Protocol::Http1), ("two", Protocol::Http2)] {
            let app = mesh.app(&format!("{service}-1"));
            app.behave(&Behavior::latency(WORK)).await?;
            let load = Load::new(mesh.addr(service, PORT))
                .protocol(protocol)
                .clients(PATIENT)
                .duration(lasting)
                .shot(Shot::get("/"))
                .shot(Shot::post("/orders", 100));
            let report = load.run(&pod).await;
            let seen = app.stats().await?;
            assert_all_served_once(&report, &seen);
            assert!(seen.most_connections <= CAP, "{}", seen.most_connections);
            if protocol == Protocol::Http1 {
                assert_eq!(seen.most_in_flight, CAP, "the cap is there to be used");
            } else {
                assert!(seen.most_in_flight > CAP, "streams are no connections");
            }
            cx.measured(format!(
                "{protocol:?}: {} served over {} connections, at most {} at once",
                report.sent, seen.connections, seen.most_connections
            ));
        }

        // Many more than may wait: nothing is sent twice or lost, and the cap holds.
        let tight = limits(&format!("maxConnections: {CAP}, maxPendingRequests: 2"));
        mesh.apply_policy("one", &policy("one", "one", &tight))?;
        let app = mesh.app("one-1");
        let to = mesh.addr("one", PORT);
        wait_for("the smaller queue", AT_ONCE * 20, async || {
            let load = Load::new(to).clients(CROWD).requests(CROWD as u64 * 2);
            Ok((load.run(&pod).await.status(503) > 0).then_some(()))
        })
        .await?;
        app.reset_stats().await?;
        let load = Load::new(to).clients(CROWD).duration(lasting / 2);
        let flood = load.shot(Shot::post("/orders", 100)).run(&pod).await;
        let seen = app.stats().await?;
        assert_flooded(&flood);
        assert_eq!(seen.repeated_ids(), 0);
        assert_eq!(seen.requests, flood.status(200));
        assert!(seen.most_connections <= CAP, "{}", seen.most_connections);

        // Two endpoints share the cap.
        for app in ["pair-1", "pair-2"] {
            mesh.app(app).behave(&Behavior::latency(WORK)).await?;
        }
        let load = Load::new(mesh.addr("pair", PORT)).clients(PATIENT);
        let report = load.duration(lasting).run(&pod).await;
        assert_no_failure(&report);
        let seen = [
            mesh.app("pair-1").stats().await?,
            mesh.app("pair-2").stats().await?,
        ];
        assert_eq!(seen[0].requests + seen[1].requests, report.sent);
        assert!(seen.iter().all(|seen| seen.most_connections <= CAP));
        let open = seen[0].open_connections + seen[1].open_connections;
        assert!(open <= CAP, "{open} open");
        let counted = metrics(mesh, "client").await?;
        for service in ["default/two:80", "default/pair:80"] {
            let labels = [("service", service)];
            let overflows = counted.sum("weft_backend_limit_overflow_total", &labels);
            assert_eq!(overflows, 0.0);
        }
        let pending = counted.sum("weft_backend_requests_pending", &[]);
        assert_eq!(pending, 0.0, "something was not given back");
        cx.measured(format!(
            "two endpoints: {} and {} served",
            seen[0].requests, seen[1].requests
        ));
        Ok(())
    })
    .await
}

/// Connections that are bytes to the sidecar count as well: one too many is closed after the connect
/// timeout; one that ends makes room.
async fn opaque(cx: Cx) -> anyhow::Result<()> {
    let stanza = format!(
        "{}, timeouts: {{connect: 500ms}}",
        limits("maxConnections: 2")
    );
    let builder = mesh("opaque")
        .workload(client())
        .workload(
            Workload::new("bytes-1")
                .unmeshed()
                .port(APP_PORT, AppSpec::tcp()),
        )
        .service(
            Service::new("bytes")
                .port(PORT, APP_PORT)
                .app_protocol("tcp")
                .endpoints(["bytes-1"]),
        )
        .named_policy("bytes", &policy("bytes", "bytes", &stanza));
    cx.on(builder, async |mesh| {
        let (pod, to) = (mesh.pod("client"), mesh.addr("bytes", PORT));
        let echo = async || {
            let mut stream = pod.connect(to).await?;
            stream.write_all(b"ping").await?;
            let mut heard = [0; 4];
            let reading = stream.read_exact(&mut heard);
            let patience = Duration::from_secs(10);
            let read = tokio::time::timeout(patience, reading).await;
            read.context("neither an echo nor an end")??;
            anyhow::Ok(stream)
        };
        let (first, second) = (echo().await?, echo().await?);
        let began = Instant::now();
        assert!(echo().await.is_err(), "a third connection came about");
        let waited = began.elapsed();
        assert!(waited >= Duration::from_millis(400), "{waited:?}");
        assert!(waited < Duration::from_secs(5), "{waited:?}");
        drop(first);
        let third = echo().await?;
        let seen = stats(mesh, ["bytes-1"]).await?;
        assert_eq!((seen.connections, seen.most_connections), (3, 2));
        drop((second, third));
        let counted = metrics(mesh, "client").await?;
        let labels = [("direction", "outbound"), ("outcome", "overflow")];
        assert_eq!(counted.sum("weft_tcp_connections_total", &labels), 1.0);
        let labels = [("limit", "maxConnections")];
        let told = counted.sum("weft_backend_limit_overflow_total", &labels);
        assert_eq!(told, 1.0);
        cx.measured(format!("one too many is closed after {waited:?}"));
        Ok(())
    })
    .await
}
