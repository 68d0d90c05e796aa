//! Whom a `rateLimit` counts together: everybody, each caller, each value of a header; counted at the
//! server.

use std::time::Instant;

use http::{HeaderValue, Method};
use weft_sandbox::{Mesh, Workload};

use crate::Suite;
use crate::common::{Cx, PORT, http_app, mesh, policy, request, send, service, stats};

/// What passes at once, and every second after that.
const BURST: u64 = 5;
const RATE: f64 = 1.0;
/// Requests of each flood.
const FLOOD: u64 = 30;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("rates::who_is_counted_together", keys);
}

/// Floods by two callers and with two values of a header, to a service of each key; a whole burst
/// for each that is told apart, and one for all that are not.
async fn keys(cx: Cx) -> anyhow::Result<()> {
    let limit =
        |more: &str| format!("rateLimit: {{requestsPerSecond: {RATE}, burst: {BURST}, {more}}}");
    let services = [
        ("all", limit("key: Global")),
        ("caller", limit("key: ClientIdentity")),
        ("header", limit("key: Header, header: x-tenant")),
        (
            "known",
            limit(
                "key: ClientIdentity, overrides: [{identity: 'spiffe://weft.local/ns/default/sa/two', requestsPerSecond: 3}]",
            ),
        ),
    ];
    let mut builder = mesh("rates");
    for account in ["one", "two"] {
        builder = builder.workload(Workload::new(account).service_account(account));
    }
    for (name, limit) in &services {
        let app = format!("{name}-1");
        builder = builder
            .workload(http_app(&app))
            .service(service(name, [app.as_str()]))
            .policy(&policy(name, name, limit));
    }
    cx.on(builder, async |mesh| {
        let since = Instant::now();
        // By service: floods (caller, value of the header), and which of them share a count with the
        // first, as rates in relation to the stanza's.
        for (name, floods) in [
            ("all", [("one", "a", 1), ("two", "b", 0)]),
            ("caller", [("one", "a", 1), ("two", "a", 1)]),
            ("caller", [("one", "b", 0), ("two", "b", 0)]),
            ("header", [("one", "a", 1), ("one", "b", 1)]),
            ("header", [("two", "a", 0), ("two", "b", 0)]),
            ("header", [("one", "", 1), ("two", "", 0)]),
            // An override has a burst in the same proportion.
            ("known", [("one", "", 1), ("two", "", 3)]),
        ] {
            for (caller, tenant, times) in floods {
                let (passed, least, most) = flood(mesh, name, caller, tenant, times, since).await?;
                assert!(
                    (least..=most).contains(&passed),
                    "{name}, {caller}, {tenant:?}: {passed} seen by the server, not {least} to {most}"
                );
            }
        }
        Ok(())
    })
    .await
}

/// How many of a flood the server saw, and how many it may at least and at most.
async fn flood(
    mesh: &Mesh,
    name: &str,
    caller: &str,
    tenant: &'static str,
    times: u64,
    since: Instant,
) -> anyhow::Result<(u64, u64, u64)> {
    let app = format!("{name}-1");
    let before = stats(mesh, [app.as_str()]).await?.requests;
    let mut told = 0;
    for number in 0..FLOOD {
        let mut get = request(
            Method::GET,
            "/",
            &format!("{caller}-{tenant}-{before}-{number}"),
            "",
        );
        if !tenant.is_empty() {
            let value = HeaderValue::from_static(tenant);
            get.headers_mut().insert("x-tenant", value);
        }
        let answer = send(&mesh.pod(caller), mesh.addr(name, PORT), get).await?;
        match answer.status.as_u16() {
            200 => told += 1,
            429 => assert_eq!(answer.outcome(), Some("rate_limited")),
            other => anyhow::bail!("{other}: {}", answer.text()),
        }
    }
    let seen = stats(mesh, [app.as_str()]).await?;
    assert_eq!(seen.repeated_ids(), 0);
    let passed = seen.requests - before;
    assert_eq!(passed, told);
    // A count that is spent refills while other floods go on.
    let refilled = since.elapsed().as_secs_f64() * RATE * times.max(1) as f64 + 1.0;
    Ok((passed, BURST * times, BURST * times + refilled as u64))
}
