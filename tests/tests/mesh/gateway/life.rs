//! Routes that lead nowhere, that leave things to policies, and that come and go.

use std::time::Duration;

use http::Method;

use super::Wanted::{Server, Status};
use super::{ECHO, V1, V2, call, check, echo, route, seen_by};
use crate::common::{Cx, PORT, http_app, policy, service, wait_for};

pub(super) async fn nowhere(cx: Cx) -> anyhow::Result<()> {
    let rules = format!(
        "{{matches: [{{path: {{value: /missing}}}}], backendRefs: [{{name: gone, port: 80}}]}}, \
         {{matches: [{{path: {{value: /no-port}}}}], backendRefs: [{{name: echo-v1, port: 81}}]}}, \
         {{matches: [{{path: {{value: /kind}}}}], backendRefs: [{{kind: Pod, name: echo-v1, port: 80}}]}}, \
         {{matches: [{{path: {{value: /none}}}}]}}, \
         {{matches: [{{path: {{value: /cleared}}}}], backendRefs: [{{name: echo-v1, port: 80, weight: 0}}]}}, \
         {{matches: [{{path: {{value: /elsewhere}}}}], backendRefs: [{{name: other, namespace: ops, port: 80}}]}}, \
         {{matches: [{{path: {{value: /cors}}}}], filters: [{{type: CORS, cors: {{}}}}], {V1}}}, \
         {{matches: [{{path: {{value: /fine}}}}], {V1}}}"
    );
    let builder = echo("gw-nowhere", &route(ECHO, &rules))
        .workload(http_app("other-1").namespace("ops"))
        .service(service("other", ["other-1"]).namespace("ops"));
    cx.on(builder, async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/missing", &[], Status(500)),
                (Method::GET, "/no-port", &[], Status(500)),
                (Method::GET, "/kind", &[], Status(500)),
                (Method::GET, "/none", &[], Status(500)),
                (Method::GET, "/cleared", &[], Status(500)),
                (Method::GET, "/elsewhere", &[], Status(500)),
                (Method::GET, "/cors", &[], Status(500)),
                (Method::GET, "/fine", &[], Server("v1")),
            ],
        )
        .await?;
        // With a grant, the other namespace is reached.
        let grant = "---\n\
            apiVersion: gateway.networking.k8s.io/v1\n\
            kind: ReferenceGrant\n\
            metadata: {name: grant, namespace: ops}\n\
            spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], \
                   to: [{group: '', kind: Service}]}\n";
        mesh.apply_policy("grant", grant)?;
        wait_for("the grant", Duration::from_secs(5), async || {
            let target = "/elsewhere";
            let answer = call(mesh, "client", "echo", PORT, Method::GET, target, &[], "granted").await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await?;
        assert_eq!(mesh.app("ops/other-1").stats().await?.requests, 1);
        Ok(())
    })
    .await
}

/// Timeouts and retries of a route go before a policy's, which supplies what the route leaves out; a
/// policy's stickiness applies to the route's weights, its own rules and backends do not.
pub(super) async fn the_rest(cx: Cx) -> anyhow::Result<()> {
    let rules = "{matches: [{path: {value: /slow}}], timeouts: {request: 300ms}, backendRefs: [{name: echo-v1, port: 80}]}, \
                 {matches: [{path: {value: /again}}], retry: {attempts: 2, codes: [503], backoff: 10ms}, backendRefs: [{name: echo-v1, port: 80}]}, \
                 {matches: [{path: {value: /user}}], backendRefs: [{name: echo-v1, port: 80, weight: 50}, {name: echo-v2, port: 80, weight: 50}]}";
    let stanzas = "timeouts: {request: 2s}, split: {backends: [{name: echo-v2}], sticky: {type: Header, name: x-user}}, \
                   rules: [{name: all, matches: [{}], faultInjection: {abort: {httpStatus: 418}}}]";
    let builder = echo("gw-rest", &route(ECHO, rules)).policy(&policy("rest", "echo", stanzas));
    cx.on(builder, async |mesh| {
        let get = async |target: &str, headers: &[(&str, &str)], id: &str| {
            call(
                mesh,
                "client",
                "echo",
                PORT,
                Method::GET,
                target,
                headers,
                id,
            )
            .await
        };
        let begin = std::time::Instant::now();
        let answer = get("/slow?delay_ms=1500", &[], "slow").await?;
        assert_eq!(answer.outcome(), Some("request_timeout"), "{answer:?}");
        assert!(
            begin.elapsed() < Duration::from_millis(1200),
            "{:?}",
            begin.elapsed()
        );
        // Only the policy limits this one.
        assert_eq!(
            get("/user?delay_ms=600", &[("x-user", "me")], "me")
                .await?
                .status,
            200
        );

        let failing = weft_sandbox::app::Behavior {
            fail_next: 2,
            ..weft_sandbox::app::Behavior::default()
        };
        mesh.app("echo-v1-1").behave(&failing).await?;
        let answer = get("/again", &[], "again").await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            mesh.app("echo-v1-1").stats().await?.ids.get("again"),
            Some(&3)
        );

        let mut sides = std::collections::BTreeSet::new();
        for user in 0..12 {
            let user = format!("user-{user}");
            let mut servers = std::collections::BTreeSet::new();
            for visit in 0..3 {
                let answer = get("/user", &[("x-user", &user)], &format!("{user}-{visit}")).await?;
                servers.extend(answer.served_by().map(str::to_owned));
            }
            assert_eq!(servers.len(), 1, "{user} was at {servers:?}");
            sides.extend(servers);
        }
        assert_eq!(sides.len(), 2, "everybody is at {sides:?}");
        Ok(())
    })
    .await
}

/// A route's coming and going, and a bad version of it, cost no request.
pub(super) async fn comes_and_goes(cx: Cx) -> anyhow::Result<()> {
    cx.on(echo("gw-live", "# nothing\n"), async |mesh| {
        let load = weft_sandbox::load::Load::new(mesh.addr("echo", PORT));
        let load = load.clients(4).rate(200.0).start(&mesh.pod("client"));
        let mut rounds = 0;
        let only = |backend: &str| route(ECHO, &format!("{{{backend}}}"));
        for (text, wanted) in [
            (only(V1), ["v1"]),
            (only(V2), ["v2"]),
            // Refused: the last good one stays in force.
            (route(ECHO, "{timeouts: {request: soon}}"), ["v2"]),
            (only(V1), ["v1"]),
        ] {
            mesh.apply_policy("route", &text)?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            rounds += 1;
            let id = format!("now-{rounds}");
            call(mesh, "client", "echo", PORT, Method::GET, "/", &[], &id).await?;
            assert_eq!(seen_by(mesh, &id).await?, wanted, "{text}");
        }
        mesh.remove_policy("route")?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = load.stop().await;
        crate::common::assert_no_failure(&report);
        assert!(report.served_by.len() == 2, "{:?}", report.served_by);
        Ok(())
    })
    .await
}
