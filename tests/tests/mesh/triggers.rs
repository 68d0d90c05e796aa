//! What opens a breaker and what closes it, in both scopes and by both triggers, and what people can
//! force, counted at the servers.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde_json::Value;
use weft_proto::names::ports::ADMIN;
use weft_sandbox::app::Behavior;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Pod};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, client_and, metrics, open_breakers, policy, request, send, stats, wait_for,
};

/// Far longer than a test.
const FOREVER: &str = "openDuration: 10m, maxOpenDuration: 10m";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("triggers::a_row_of_failures_opens_the_backend", row);
    suite.add("triggers::a_share_of_failures_opens_the_backend", share);
    suite.add("triggers::a_share_of_failures_ejects_an_endpoint", ejected);
    suite.add("triggers::only_configured_statuses_are_failures", statuses);
    suite.add("triggers::people_force_and_reset", forced);
}

/// Scope `Backend`, failures in a row: each success begins anew; once open the server sees nothing,
/// then one probe at a time; `successThreshold` of them in a row close it, and one failure opens it
/// again.
async fn row(cx: Cx) -> anyhow::Result<()> {
    const OPEN: Duration = Duration::from_secs(1);
    let stanza = "consecutiveFailures: {threshold: 3}, openDuration: 1s, maxOpenDuration: 1s, \
                  halfOpen: {maxRequests: 1, successThreshold: 3}";
    cx.on(backend("row", stanza), async |mesh| {
        let mut calls = Calls::new(mesh);
        for _ in 0..3 {
            fail_next(mesh, 2).await?;
            assert_eq!(calls.made(3).await?, [500, 500, 200]);
        }
        fail_next(mesh, 3).await?;
        assert_eq!(
            calls.made(6).await?,
            [500, 500, 500, OPENED, OPENED, OPENED]
        );
        assert_eq!(calls.seen().await?, 12, "seen by the server");

        // Two of three successes are not enough.
        tokio::time::sleep(OPEN + OPEN / 2).await;
        assert_eq!(calls.made(2).await?, [200, 200]);
        assert_eq!(state(mesh, "half_open").await?, 1);
        fail_next(mesh, 1).await?;
        assert_eq!(calls.made(3).await?, [500, OPENED, OPENED]);
        assert_eq!(calls.seen().await?, 15, "seen by the server");

        tokio::time::sleep(OPEN + OPEN / 2).await;
        assert_eq!(calls.made(3).await?, [200, 200, 200]);
        assert_eq!(open_breakers(mesh, "client").await?, 0);
        fail_next(mesh, 2).await?;
        assert_eq!(calls.made(5).await?, [500, 500, 200, 200, 200]);
        assert_eq!(calls.seen().await?, 23, "seen by the server");
        Ok(())
    })
    .await
}

/// Scope `Backend`, share of failures: nothing before `minRequests`, and then at once.
async fn share(cx: Cx) -> anyhow::Result<()> {
    let stanza =
        format!("errorRate: {{thresholdPercent: 50, minRequests: 10, window: 1h}}, {FOREVER}");
    cx.on(backend("share", &stanza), async |mesh| {
        let mut calls = Calls::new(mesh);
        // Four of ten are below the share, five of eleven and six of twelve are not yet, and it.
        fail_next(mesh, 4).await?;
        assert_eq!(calls.made(10).await?[4..], [200; 6]);
        fail_next(mesh, 2).await?;
        assert_eq!(calls.made(4).await?, [500, 500, OPENED, OPENED]);
        assert_eq!(calls.seen().await?, 12, "seen by the server");
        Ok(())
    })
    .await
}

/// Scope `Endpoint`, share of failures: the endpoint that fails half of the time gets no more.
async fn ejected(cx: Cx) -> anyhow::Result<()> {
    const SICK: &str = "api-2";
    let stanza = format!(
        "circuitBreaker: {{errorRate: {{thresholdPercent: 40, minRequests: 20, window: 1h}}, {FOREVER}}}, \
         loadBalancer: {{policy: RoundRobin}}"
    );
    let builder =
        client_and("ejected", ["api-1", SICK, "api-3"]).policy(&policy("api", "api", &stanza));
    cx.on(builder, async |mesh| {
        let sick = Behavior {
            status: 500,
            status_percent: 70.0,
            ..Behavior::default()
        };
        mesh.app(SICK).behave(&sick).await?;
        let mut calls = Calls::new(mesh);
        calls.made(150).await?;
        let seen = stats(mesh, [SICK]).await?.requests;
        assert!(
            (20..40).contains(&seen),
            "{seen} seen by the endpoint that fails"
        );
        assert_eq!(state(mesh, "open").await?, 1);

        assert_eq!(calls.made(50).await?, [200; 50]);
        assert_eq!(
            stats(mesh, [SICK]).await?.requests,
            seen,
            "seen after the trip"
        );
        assert_eq!(calls.total(["api-1", SICK, "api-3"]).await?, 200);
        cx.measured(format!("ejected after {seen} requests"));
        Ok(())
    })
    .await
}

/// `failureStatusCodes`: others, 5xx too, are no failures, and are none in a row.
async fn statuses(cx: Cx) -> anyhow::Result<()> {
    let stanza =
        format!("failureStatusCodes: [404, 429], consecutiveFailures: {{threshold: 3}}, {FOREVER}");
    cx.on(backend("statuses", &stanza), async |mesh| {
        let mut calls = Calls::new(mesh);
        mesh.app("api-1").behave(&Behavior::status(500)).await?;
        assert_eq!(calls.made(10).await?, [500; 10]);
        mesh.app("api-1").behave(&Behavior::status(404)).await?;
        assert_eq!(calls.made(2).await?, [404; 2]);
        mesh.app("api-1").behave(&Behavior::status(500)).await?;
        assert_eq!(calls.made(1).await?, [500]);
        mesh.app("api-1").behave(&Behavior::status(429)).await?;
        assert_eq!(calls.made(5).await?, [429, 429, 429, OPENED, OPENED]);
        assert_eq!(calls.seen().await?, 16, "seen by the server");
        Ok(())
    })
    .await
}

/// The sidecar's admin page: forced open, forced closed, left to itself, reset; of a backend and of
/// one endpoint.
async fn forced(cx: Cx) -> anyhow::Result<()> {
    const APPS: [&str; 2] = ["api-1", "api-2"];
    let stanza = format!(
        "circuitBreaker: {{scope: Backend, consecutiveFailures: {{threshold: 3}}, {FOREVER}}}, \
         loadBalancer: {{policy: RoundRobin}}"
    );
    let builder = client_and("forced", APPS).policy(&policy("api", "api", &stanza));
    cx.on(builder, async |mesh| {
        let client = mesh.pod("client");
        let admin = async |query: &str| {
            let breakers = admin(&client, query).await?;
            anyhow::ensure!(breakers > 0, "{query} met no breaker");
            Ok(())
        };
        let mut calls = Calls::new(mesh);
        assert_eq!(calls.made(2).await?, [200; 2]);

        admin("force?state=open&backend=default/api:80").await?;
        assert_eq!(calls.made(5).await?, [OPENED; 5]);
        assert_eq!(calls.total(APPS).await?, 2, "seen by servers");
        admin("force?state=closed&backend=default/api:80").await?;
        for app in APPS {
            mesh.app(app).behave(&Behavior::status(500)).await?;
        }
        assert_eq!(calls.made(10).await?, [500; 10]);
        admin("force?state=auto&backend=default/api:80").await?;
        assert_eq!(calls.made(5).await?, [500, 500, 500, OPENED, OPENED]);
        admin("reset?backend=default/api:80").await?;
        assert_eq!(calls.made(1).await?, [500]);
        admin("reset-all").await?;
        assert_eq!(calls.made(4).await?, [500, 500, 500, OPENED]);
        assert_eq!(calls.total(APPS).await?, 19, "seen by servers");

        // One endpoint: the other has everything.
        for app in APPS {
            mesh.app(app).behave(&Behavior::default()).await?;
        }
        admin("reset-all").await?;
        let endpoint = format!(
            "backend=default/api:80&endpoint={}:{APP_PORT}",
            mesh.pod("api-1").v4()
        );
        admin(&format!("force?state=open&{endpoint}")).await?;
        let before = stats(mesh, ["api-1"]).await?.requests;
        assert_eq!(calls.made(10).await?, [200; 10]);
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, before);
        admin(&format!("force?state=auto&{endpoint}")).await?;
        assert_eq!(calls.made(10).await?, [200; 10]);
        assert!(stats(mesh, ["api-1"]).await?.requests > before);

        // Nobody outside of the pod may.
        let stranger = mesh.stranger("stranger")?;
        let to = (mesh.pod("client").v4(), ADMIN).into();
        let answer = stranger.post(to, "/circuit-breakers/reset-all", "").await?;
        assert_eq!(answer.status, 403, "{}", answer.text());
        Ok(())
    })
    .await
}

/// What [`Calls`] writes for 503 `circuit_open`.
const OPENED: u16 = 0;

/// Requests one after the other, by their statuses.
struct Calls<'a> {
    mesh: &'a Mesh,
    sent: u64,
}

impl<'a> Calls<'a> {
    fn new(mesh: &'a Mesh) -> Self {
        Self { mesh, sent: 0 }
    }

    async fn made(&mut self, count: usize) -> anyhow::Result<Vec<u16>> {
        let mut told = Vec::new();
        for _ in 0..count {
            self.sent += 1;
            let post = request(Method::GET, "/", &format!("call-{}", self.sent), "");
            let answer = send(&self.mesh.pod("client"), self.mesh.addr("api", PORT), post).await?;
            told.push(match answer.outcome() {
                Some("circuit_open") => OPENED,
                Some(other) => anyhow::bail!("{other}"),
                None => answer.status.as_u16(),
            });
        }
        Ok(told)
    }

    async fn seen(&self) -> anyhow::Result<u64> {
        self.total(["api-1"]).await
    }

    /// What servers saw, each request at most once.
    async fn total<const N: usize>(&self, apps: [&str; N]) -> anyhow::Result<u64> {
        let seen = stats(self.mesh, apps).await?;
        assert_eq!(seen.repeated_ids(), 0, "nothing is to be tried twice");
        Ok(seen.requests)
    }
}

/// A service with one endpoint and a breaker of scope `Backend`, and nothing else that would try.
fn backend(name: &str, stanza: &str) -> Builder {
    let stanzas = format!("retries: {{attempts: 0}}, circuitBreaker: {{scope: Backend, {stanza}}}");
    client_and(name, ["api-1"]).policy(&policy("api", "api", &stanzas))
}

async fn fail_next(mesh: &Mesh, count: u32) -> anyhow::Result<()> {
    let behavior = Behavior {
        fail_next: count,
        fail_status: 500,
        ..Behavior::default()
    };
    mesh.app("api-1").behave(&behavior).await
}

/// Breakers of the client's sidecar in a state.
async fn state(mesh: &Mesh, state: &str) -> anyhow::Result<usize> {
    // A try is counted when its answer has ended.
    wait_for("the breakers' states", Duration::from_secs(2), async || {
        let metrics = metrics(mesh, "client").await?;
        let count = metrics.sum("weft_circuit_breaker_state", &[("state", state)]);
        Ok((count > 0.0).then_some(count as usize))
    })
    .await
}

/// How many breakers a command met.
async fn admin(client: &Pod, query: &str) -> anyhow::Result<u64> {
    let to = (Ipv4Addr::LOCALHOST, ADMIN).into();
    let target = format!("/circuit-breakers/{query}");
    let answer = client.post(to, &target, "").await?;
    anyhow::ensure!(answer.status == 200, "{target}: {}", answer.text());
    let object: Value = serde_json::from_slice(&answer.body)?;
    object["breakers"].as_u64().context("a count of breakers")
}
