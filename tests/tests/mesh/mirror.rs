//! `split.mirror`: copies of requests, counted at the server that gets them, and originals that notice
//! nothing of it.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use weft_sandbox::Mesh;
use weft_sandbox::app::{Behavior, ID, Stats, body_hash};
use weft_sandbox::client::Http2;
use weft_sandbox::load::{Load, Protocol, Report, Shot};
use weft_sandbox::mesh::Builder;

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_all_served_once, assert_no_failure, client_and, http_app, metrics, percent,
    policy, request, send, service, stats, wait_for,
};

const COPIES: &str = "weft_mirrored_requests_total";
/// Copies that are on their way at once.
const IN_FLIGHT: u64 = 64;
/// Copies are waited for so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// After the last copy that is wanted, one too many would come within this.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Requests per second where each is to be copied: a shadow that gets no processor for half a second
/// still has fewer copies on their way than may be.
const RATE: f64 = 100.0;
const API: &str = "api-1";
const SHADOW: &str = "shadow-1";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("mirror::every_request_is_copied_once", copied_once);
    suite.add("mirror::a_share_is_copied", share);
    suite.add("mirror::a_shadow_is_in_nobodys_way", in_nobodys_way);
    suite.add("mirror::what_is_not_copied", not_copied);
    suite.add("mirror::copies_count_for_nothing", count_for_nothing);
}

/// A policy with nothing but a mirror: the service serves all its requests, over HTTP/1 and HTTP/2, and
/// the shadow sees each once, byte for byte, under the name that says what it is.
async fn copied_once(cx: Cx) -> anyhow::Result<()> {
    let builder = shadowed("copied", "split: {mirror: {name: shadow}}");
    cx.on(builder, async |mesh| {
        let all = cx.pick(300, 5_000);
        let load = |prefix: &str| {
            Load::new(mesh.addr("api", PORT))
                .authority("api.default:80")
                .clients(4)
                .rate(RATE)
                .requests(all)
                .id_prefix(prefix)
                .shot(Shot::get("/cart"))
                .shot(Shot::post("/orders", 100))
                .shot(Shot::post("/orders", 20_000))
        };
        let client = mesh.pod("client");
        let first = load("one").run(&client).await;
        let second = load("two").protocol(Protocol::Http2).run(&client).await;
        let both = 2 * all;
        let copies = shadow_saw(mesh, both).await?;
        assert_no_failure(&first);
        assert_no_failure(&second);
        let seen = stats(mesh, [API]).await?;
        assert_eq!(seen.requests, both);
        assert_eq!(seen.copies.len(), 0, "originals are no copies");
        assert_eq!(copies.ids, seen.ids, "each request once, here as there");
        assert_eq!(copies.repeated_ids(), 0);
        assert_eq!(copies.routes, seen.routes);
        assert_eq!(copies.bodies, seen.bodies);
        assert!(copies.bodies.len() as u64 > both / 2, "bodies differ");
        let marked = [("api.default-shadow:80".to_owned(), both)];
        assert_eq!(copies.copies, marked.into(), "marked, by authority");
        assert_eq!(counted(mesh, "answered").await?, both);

        // What an application says about itself is not believed.
        let mut lie = request(Method::GET, "/", "lie", "");
        let header = weft_proto::names::headers::MIRROR;
        lie.headers_mut()
            .insert(header, HeaderValue::from_static("true"));
        assert_eq!(
            send(&client, mesh.addr("api", PORT), lie).await?.status,
            200
        );
        let seen = stats(mesh, [API]).await?;
        assert_eq!((seen.requests, seen.copies.len()), (both + 1, 0));
        Ok(())
    })
    .await
}

/// None of the requests, half of them, and all of them for a backend that gets nothing otherwise.
async fn share(cx: Cx) -> anyhow::Result<()> {
    let rule = |name: &str, split: &str| {
        format!("{{name: {name}, matches: [{{path: {{value: /{name}}}}}], split: {{{split}}}}}")
    };
    let rules = [
        rule("none", "mirror: {name: shadow, percent: 0}"),
        rule("half", "mirror: {name: shadow, percent: 50}"),
        rule(
            "weightless",
            "backends: [{name: api}, {name: shadow, weight: 0}], mirror: {name: shadow}",
        ),
    ];
    let builder = shadowed("share", &format!("rules: [{}]", rules.join(", ")));
    cx.on(builder, async |mesh| {
        let (few, many) = (cx.pick(200, 5_000), cx.pick(400, 10_000));
        let load = async |path: &str, all: u64| {
            let load = Load::new(mesh.addr("api", PORT)).clients(4).rate(RATE);
            let load = load
                .requests(all)
                .shot(Shot::get(path))
                .id_prefix(&path[1..]);
            let report = load.run(&mesh.pod("client")).await;
            assert_all_served_once(&report, &taken(mesh, API).await?);
            anyhow::Ok(())
        };
        load("/none", few).await?;
        shadow_saw(mesh, 0).await?;
        load("/weightless", few).await?;
        shadow_saw(mesh, few).await?;
        mesh.app(SHADOW).reset_stats().await?;
        load("/half", many).await?;
        // Settled when as many came as were sent.
        let copies = wait_for("copies", PATIENCE, async || {
            let came = stats(mesh, [SHADOW]).await?;
            let answered = counted(mesh, "answered").await? - few;
            Ok((came.requests == answered && came.in_flight == 0).then_some(came.requests))
        })
        .await?;
        let share = percent(copies, many);
        cx.measured(format!("{share:.1} % of {many} copied"));
        // Six standard deviations.
        assert!((35.0..65.0).contains(&share), "{share:.1} % of {many}");
        Ok(())
    })
    .await
}

/// A shadow that is slow, hangs, or is dead: clients get every answer as quickly as ever; more copies
/// than may be on their way are dropped, and nothing of it is lost to the count.
async fn in_nobodys_way(cx: Cx) -> anyhow::Result<()> {
    const SLOW: Duration = Duration::from_millis(700);
    let builder = shadowed("nobody", "split: {mirror: {name: shadow}}");
    cx.on(builder, async |mesh| {
        let all = cx.pick(500, 5_000);
        let load = async |name: &str| {
            let load = Load::new(mesh.addr("api", PORT)).clients(4).requests(all);
            let load = load.shot(Shot::get("/")).shot(Shot::post("/orders", 2_000));
            let report = load.id_prefix(name).run(&mesh.pod("client")).await;
            assert_all_served_once(&report, &taken(mesh, API).await?);
            check_quick(&cx, name, &report);
            anyhow::Ok(())
        };

        mesh.app(SHADOW).behave(&Behavior::latency(SLOW)).await?;
        load("slow").await?;
        let (answered, others) = settled(mesh, all).await?;
        let slow = taken(mesh, SHADOW).await?;
        assert_eq!(slow.requests, answered, "seen by the shadow");
        assert!(slow.most_in_flight <= IN_FLIGHT, "{}", slow.most_in_flight);
        assert!(counted(mesh, "dropped").await? > 0);
        assert_eq!(counted(mesh, "dropped").await?, others);

        let hangs = Behavior {
            hang_next: u32::MAX,
            ..Behavior::default()
        };
        mesh.app(SHADOW).behave(&hangs).await?;
        load("hangs").await?;
        let hanging = stats(mesh, [SHADOW]).await?;
        assert_eq!(hanging.requests, IN_FLIGHT, "seen by the shadow");
        assert_eq!(hanging.in_flight, IN_FLIGHT);

        // In this order: a sidecar whose application is gone answers for it.
        mesh.kill_sidecar(SHADOW).await?;
        mesh.kill_app(SHADOW).await?;
        load("dead").await?;
        let (still, others) = settled(mesh, 3 * all).await?;
        assert_eq!(still, answered, "nobody was there to answer");
        assert!(counted(mesh, "failed").await? >= IN_FLIGHT);
        cx.measured(format!(
            "of {} copies {answered} answered, {others} dropped or failed",
            3 * all
        ));
        Ok(())
    })
    .await
}

/// Longer bodies than are kept, bodies that break off, and gRPC: not copied, and delivered as ever.
/// Requests that are tried again: copied once.
async fn not_copied(cx: Cx) -> anyhow::Result<()> {
    const LIMIT: usize = 1_024;
    let stanzas = format!(
        "retries: {{attempts: 3, statusCodes: [503], bodyLimitBytes: {LIMIT}, backoff: {{base: 1ms, max: 1ms}}}}, \
         split: {{mirror: {{name: shadow}}}}"
    );
    let builder = shadowed("nocopy", &stanzas);
    cx.on(builder, async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        let post = async |id: &str, body: &str| {
            let mut post = request(Method::POST, "/orders", id, body);
            let key = HeaderValue::from_static("again");
            post.headers_mut().insert("idempotency-key", key);
            let answer = send(&client, to, post).await?;
            assert_eq!(answer.status, 200, "{id}: {}", answer.text());
            anyhow::Ok(())
        };
        let (fits, too_long, longer) = (
            "f".repeat(LIMIT),
            "t".repeat(LIMIT + 1),
            "l".repeat(300_000),
        );
        post("fits", &fits).await?;
        post("too-long", &too_long).await?;
        post("longer", &longer).await?;
        let seen = taken(mesh, API).await?;
        let hashes = [&fits, &too_long, &longer].map(|body| (body_hash(body.as_bytes()), 1));
        assert_eq!(seen.bodies, hashes.clone().into(), "delivered");
        let copies = shadow_saw(mesh, 1).await?;
        assert_eq!(copies.bodies, hashes[..1].iter().cloned().collect());
        assert_eq!(counted(mesh, "too_big").await?, 2);

        // gRPC.
        let call = Request::post("http://api/weft.sandbox.v1.Echo/Unary")
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            .header(ID, "grpc")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))?;
        let answer = Http2::connect(&client, to).await?.request(call).await?;
        assert_eq!(answer.status, 200);
        assert_eq!(taken(mesh, API).await?.ids["grpc"], 1);
        shadow_saw(mesh, 1).await?;

        // A client that leaves in the middle of its body.
        let mut broken = client.connect(to).await?;
        let head = format!(
            "POST /broken HTTP/1.1\r\nhost: api\r\n{ID}: broken\r\ncontent-length: 100\r\n\r\nhalf"
        );
        broken.write_all(head.as_bytes()).await?;
        wait_for("half a request", PATIENCE, async || {
            let seen = stats(mesh, [API]).await?;
            Ok(seen.ids.contains_key("broken").then_some(()))
        })
        .await?;
        drop(broken);
        wait_for("its end", PATIENCE, async || {
            Ok((counted(mesh, "incomplete").await? == 1).then_some(()))
        })
        .await?;
        shadow_saw(mesh, 1).await?;

        // Tried three times, copied once.
        mesh.app(API).reset_stats().await?;
        let behavior = Behavior {
            fail_next: 2,
            ..Behavior::default()
        };
        mesh.app(API).behave(&behavior).await?;
        post("again", &fits).await?;
        assert_eq!(stats(mesh, [API]).await?.ids["again"], 3);
        let copies = shadow_saw(mesh, 2).await?;
        assert_eq!(copies.ids["again"], 1);
        assert_eq!(copies.bodies[&hashes[0].0], 2);
        Ok(())
    })
    .await
}

/// A shadow that fails every copy, with a breaker that opens at once and a rate that a second request
/// breaks: all copies come, none again, and neither breaker, rate nor request metric hears of them.
async fn count_for_nothing(cx: Cx) -> anyhow::Result<()> {
    let stanzas = "split: {mirror: {name: shadow}}, \
                   retries: {attempts: 3, statusCodes: [503], backoff: {base: 1ms, max: 1ms}}";
    let own = "circuitBreaker: {scope: Backend, openDuration: 60s, consecutiveFailures: {threshold: 1}}, \
               rateLimit: {requestsPerSecond: 1, burst: 1}, retries: {attempts: 0}";
    let builder =
        shadowed("nothing", stanzas).named_policy("shadow", &policy("shadow", "shadow", own));
    cx.on(builder, async |mesh| {
        mesh.app(SHADOW).behave(&Behavior::status(503)).await?;
        let all = 200;
        let load = Load::new(mesh.addr("api", PORT)).clients(4).rate(RATE);
        let load = load.requests(all);
        let client = mesh.pod("client");
        let report = load.shot(Shot::post("/orders", 500)).run(&client).await;
        assert_all_served_once(&report, &stats(mesh, [API]).await?);
        let copies = shadow_saw(mesh, all).await?;
        assert_eq!((copies.statuses[&503], copies.repeated_ids()), (all, 0));
        assert_eq!(counted(mesh, "answered").await?, all);

        let here = metrics(mesh, "client").await?;
        let sent = here.sum("weft_requests_total", &[("direction", "outbound")]);
        assert_eq!(sent as u64, all, "only originals are requests");
        assert_eq!(here.sum("weft_retries_total", &[]), 0.0);
        assert_eq!(here.sum("weft_circuit_breaker_transitions_total", &[]), 0.0);
        let there = metrics(mesh, SHADOW).await?;
        let received = there.sum("weft_mirrored_requests_received_total", &[]);
        assert_eq!(received as u64, all);
        let inbound = [("direction", "inbound")];
        assert_eq!(there.sum("weft_requests_total", &inbound), 0.0);

        // Nothing was taken of its rate, which holds for whom it is meant.
        mesh.app(SHADOW).behave(&Behavior::default()).await?;
        let to = mesh.addr("shadow", PORT);
        let first = send(&client, to, request(Method::GET, "/", "first", "")).await?;
        assert_eq!(first.status, 200, "{}", first.text());
        let second = send(&client, to, request(Method::GET, "/", "second", "")).await?;
        assert_eq!(second.status, 429, "{}", second.text());
        Ok(())
    })
    .await
}

/// A client, a service `api`, and one that gets copies.
fn shadowed(name: &str, stanzas: &str) -> Builder {
    client_and(name, [API])
        .workload(http_app(SHADOW))
        .service(service("shadow", [SHADOW]))
        .named_policy("api", &policy("api", "api", stanzas))
}

/// What an application has seen since the last time.
async fn taken(mesh: &Mesh, app: &str) -> anyhow::Result<Stats> {
    let seen = mesh.app(app).stats().await?;
    mesh.app(app).reset_stats().await?;
    Ok(seen)
}

/// What the shadow has seen: as many requests as `wanted`, soon, and no more.
async fn shadow_saw(mesh: &Mesh, wanted: u64) -> anyhow::Result<Stats> {
    let came = wait_for("copies", PATIENCE, async || {
        let seen = stats(mesh, [SHADOW]).await?;
        Ok((seen.requests >= wanted && seen.in_flight == 0).then_some(()))
    })
    .await;
    if let Err(error) = came {
        let seen = stats(mesh, [SHADOW]).await?;
        let metrics = metrics(mesh, "client").await?;
        let told: Vec<_> = metrics.matching(COPIES, &[]).collect();
        return Err(error.context(format!("{wanted} wanted, {} seen: {told:?}", seen.requests)));
    }
    tokio::time::sleep(AFTERWARDS).await;
    let seen = stats(mesh, [SHADOW]).await?;
    assert_eq!(seen.requests, wanted, "copies: {:?}", seen.routes);
    let marked: u64 = seen.copies.values().sum();
    assert_eq!(marked, seen.requests, "all are marked");
    Ok(seen)
}

/// What became of `all` copies, once that is known of each: answered, or not.
async fn settled(mesh: &Mesh, all: u64) -> anyhow::Result<(u64, u64)> {
    wait_for("the end of all copies", PATIENCE, async || {
        let metrics = metrics(mesh, "client").await?;
        let known = metrics.sum(COPIES, &[]) as u64;
        let answered = metrics.sum(COPIES, &[("result", "answered")]) as u64;
        assert!(known <= all, "{known} of {all} copies");
        Ok((known == all).then_some((answered, known - answered)))
    })
    .await
}

async fn counted(mesh: &Mesh, result: &str) -> anyhow::Result<u64> {
    let metrics = metrics(mesh, "client").await?;
    let labels = [
        ("service", "default/api:80"),
        ("backend", "default/shadow:80"),
        ("result", result),
    ];
    Ok(metrics.sum(COPIES, &labels) as u64)
}

/// Nobody waited for the shadow, which takes much longer.
fn check_quick(cx: &Cx, name: &str, report: &Report) {
    let (median, p99) = (report.latency(0.5), report.latency(0.99));
    cx.measured(format!("{name}: median {median:.0?}, p99 {p99:.0?}"));
    assert!(median < Duration::from_millis(50), "{name}: {median:?}");
    assert!(p99 < Duration::from_millis(350), "{name}: {p99:?}");
}
