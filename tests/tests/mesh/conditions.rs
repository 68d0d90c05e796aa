//! Each reason to try again by itself: what it repeats, what it does not, and how long it waits first,
//! counted at the server.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use weft_sandbox::app::{Behavior, Failure, ID};
use weft_sandbox::client::{Answer, Http2};
use weft_sandbox::mesh::Endpoint;
use weft_sandbox::{Mesh, Pod};

use crate::Suite;
use crate::common::{Cx, PORT, client_and, metrics, policy, request, send, stats, wait_for};
use crate::retries::warm_up;

/// The reasons, each a rule for what begins with its name: nothing else is repeated there.
const RULES: [(&str, &str); 9] = [
    ("connect", "conditions: [ConnectFailure]"),
    ("refused", "conditions: [RefusedStream]"),
    ("reset", "conditions: [Reset]"),
    ("slow", "conditions: [PerTryTimeout]"),
    ("status", "conditions: [], statusCodes: [503]"),
    ("grpc", "conditions: [], grpcCodes: [UNAVAILABLE]"),
    (
        "ignores",
        "conditions: [], statusCodes: [503], retryAfter: Ignore",
    ),
    ("fits", "conditions: [], statusCodes: [503]"),
    ("short", "conditions: [], statusCodes: [503]"),
];
const APP: &str = "api-1";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("conditions::each_repeats_what_it_names_and_no_more", each);
    suite.add("conditions::what_the_server_asks_for", asked);
    suite.add("conditions::no_connection", no_connection);
}

/// Connection broken, stream refused, try too slow, HTTP status, gRPC status: where the policy names it,
/// the same request is tried again and answered; where it names something else, once is all.
async fn each(cx: Cx) -> anyhow::Result<()> {
    cx.on(ruled("conditions"), async |mesh| {
        warm_up(mesh).await;
        type Change = fn(&mut Behavior);
        let ways: [(&str, Change); 7] = [
            ("refused", |b| b.refuse_next = 1),
            ("reset", |b| b.reset_next = 1),
            ("slow", |b| b.hang_next = 1),
            ("status", |b| b.fail_next = 1),
            ("grpc", |b| b.fail_next = 1),
            // The same in trailers, behind a head of their own.
            ("grpc trailers", |b| {
                (b.fail_next, b.failure.in_trailers) = (1, true);
            }),
            ("other status", |b| {
                (b.fail_next, b.fail_status, b.failure.grpc_code) = (1, 500, 13);
            }),
        ];
        for rule in ["refused", "reset", "slow", "status", "grpc"] {
            for (number, (way, change)) in ways.into_iter().enumerate() {
                // Of a 503 to a gRPC call its gRPC status is what counts, and it has none.
                let grpc = rule == "grpc";
                let for_others = if grpc { "status" } else { "grpc" };
                if way.starts_with(for_others) {
                    continue;
                }
                let mut behavior = Behavior::default();
                change(&mut behavior);
                mesh.app(APP).behave(&behavior).await?;
                let id = format!("{rule}-{number}");
                let answer = if grpc {
                    call_grpc(mesh, &id).await?
                } else {
                    // HTTP/2: only there can a stream be refused.
                    let get = Request::get(format!("http://api/{rule}")).header(ID, &id);
                    let get = get.body(Full::new(Bytes::new()))?;
                    Http2::connect(&mesh.pod("client"), mesh.addr("api", PORT))
                        .await?
                        .request(get)
                        .await?
                };
                let tries = stats(mesh, [APP]).await?.ids[&id];
                // What broke is UNAVAILABLE to a gRPC caller.
                let again = rule == way || (grpc && matches!(way, "reset" | "grpc trailers"));
                assert_eq!(
                    tries,
                    if again { 2 } else { 1 },
                    "rule {rule}, {way}: {answer:?}"
                );
                let ok =
                    answer.status == 200 && answer.header("grpc-status").is_none_or(|it| it == "0");
                assert_eq!(ok, again, "rule {rule}, {way}: {answer:?}");
            }
        }
        Ok(())
    })
    .await
}

/// `Retry-After` and gRPC's pushback: waited for, or not looked at, or too long to wait for; and a
/// server that wants no retry gets none.
async fn asked(cx: Cx) -> anyhow::Result<()> {
    cx.on(ruled("asked"), async |mesh| {
        warm_up(mesh).await;
        let pushback = "grpc-retry-pushback-ms";
        // Rule, what the server says, tries, milliseconds at least and at most.
        for (rule, name, value, tries, least, most) in [
            ("fits", "retry-after", "1", 2, 1_000, 1_900),
            ("fits", "retry-after", "soon", 2, 0, 900),
            ("ignores", "retry-after", "1", 2, 0, 900),
            // The answer is passed on instead: the request's time would be over.
            ("short", "retry-after", "1", 1, 0, 450),
            ("grpc", pushback, "400", 2, 400, 1_300),
            ("grpc", pushback, "-1", 1, 0, 900),
            ("grpc", pushback, "never", 1, 0, 900),
        ] {
            let failure = Failure {
                headers: vec![(name.to_owned(), value.to_owned())],
                ..Failure::default()
            };
            let behavior = Behavior {
                fail_next: 1,
                failure,
                ..Behavior::default()
            };
            mesh.app(APP).behave(&behavior).await?;
            let id = format!("{rule}-{value}");
            let began = Instant::now();
            let answer = if rule == "grpc" {
                call_grpc(mesh, &id).await?
            } else {
                let get = request(Method::GET, &format!("/{rule}"), &id, "");
                send(&mesh.pod("client"), mesh.addr("api", PORT), get).await?
            };
            let took = began.elapsed();
            let what = format!("{rule}, {name}: {value}: {took:?}, {answer:?}");
            assert_eq!(stats(mesh, [APP]).await?.ids[&id], tries, "{what}");
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            assert!(took >= least && took <= most, "{what}");
            if tries == 1 && rule != "grpc" {
                assert_eq!(
                    (answer.status.as_u16(), answer.outcome()),
                    (503, None),
                    "{what}"
                );
            }
        }
        Ok(())
    })
    .await
}

/// Where one of two endpoints cannot be connected to, a policy that names it loses no request and one
/// that does not loses those that met it.
async fn no_connection(cx: Cx) -> anyhow::Result<()> {
    cx.on(ruled("no-connection"), async |mesh| {
        warm_up(mesh).await;
        let nobody = mesh.stranger("nobody")?;
        let dead = Endpoint::Address(IpAddr::V4(nobody.v4()));
        mesh.set_endpoints("api", [Endpoint::from(APP), dead])?;
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        wait_for(
            "a request to the dead endpoint",
            Duration::from_secs(20),
            async || {
                let answer = post(&client, to, "reset", "lost").await?;
                anyhow::ensure!(matches!(answer.status.as_u16(), 200 | 503), "{answer:?}");
                let refused = answer.outcome() == Some("connect_refused");
                Ok(refused.then_some(()))
            },
        )
        .await?;
        let mut sent = 0;
        let patience = Duration::from_secs(30);
        wait_for("a second try", patience, async || {
            sent += 1;
            let id = format!("connect-{sent}");
            let answer = post(&client, to, "connect", &id).await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(stats(mesh, [APP]).await?.ids[&id], 1);
            let labels = [("result", "sent"), ("route", "connect")];
            let retried = metrics(mesh, "client")
                .await?
                .sum("weft_retries_total", &labels);
            Ok((retried > 0.0).then_some(()))
        })
        .await?;
        Ok(())
    })
    .await
}

/// A client and one application, behind all the rules.
fn ruled(name: &str) -> weft_sandbox::mesh::Builder {
    let rules: Vec<_> = RULES.iter().map(|(name, retries)| {
        let matched = match *name {
            "grpc" => "grpc: {service: weft.sandbox.v1.Echo}".to_owned(),
            name => format!("path: {{value: /{name}}}"),
        };
        let (request, per_try) = match *name {
                "short" => ("500ms", "400ms"),
                _ => ("10s", "2s"),
            };
        let codes = |list: &str| if retries.contains(list) { String::new() } else { format!("{list}: [], ") };
        let (status, grpc) = (codes("statusCodes"), codes("grpcCodes"));
        format!(
            "{{name: {name}, matches: [{{{matched}}}], timeouts: {{request: {request}, perTry: {per_try}}}, \
             retries: {{attempts: 2, {status}{grpc}{retries}, backoff: {{base: 1ms, max: 5ms}}}}}}"
        )
    }).collect();
    let stanzas = format!("rules: [{}]", rules.join(", "));
    client_and(name, [APP]).policy(&policy("conditions", "api", &stanzas))
}

async fn call_grpc(mesh: &Mesh, id: &str) -> anyhow::Result<Answer> {
    let call = Request::post("http://api/weft.sandbox.v1.Echo/Unary")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(ID, id);
    // One empty message.
    let call = call.body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))?;
    let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
    Http2::connect(&client, to).await?.request(call).await
}

async fn post(client: &Pod, to: SocketAddr, rule: &str, id: &str) -> anyhow::Result<Answer> {
    let order = request(Method::POST, &format!("/{rule}"), id, "an order");
    send(client, to, order).await
}
