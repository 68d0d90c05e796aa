//! Which traffic a route is for: its parents, ports and consumers.

use std::time::Duration;

use http::Method;
use weft_sandbox::Workload;

use super::Wanted::{Server, Status};
use super::{
    CONSUMERS, ECHO, OTHER_PORT, V1, V2, assert_near, call, check, echo, manifest, route, seen_by,
    share_of_v2,
};
use crate::common::{Cx, PORT, request, send, wait_for};

pub(super) async fn basic(cx: Cx) -> anyhow::Result<()> {
    // No route at all: the service as it is.
    cx.on(echo("gw-basic", "# nothing\n"), async |mesh| {
        let share = share_of_v2(mesh, "basic").await?;
        assert!(share > 0.0 && share < 100.0, "{share} %");
        Ok(())
    })
    .await
}

pub(super) async fn simple(cx: Cx) -> anyhow::Result<()> {
    let rules = format!("{{{V1}}}");
    cx.on(echo("gw-simple", &route(ECHO, &rules)), async |mesh| {
        assert_near(share_of_v2(mesh, "simple").await?, 0.0);
        Ok(())
    })
    .await
}

pub(super) async fn traffic_split(cx: Cx) -> anyhow::Result<()> {
    let rules = "{matches: [{path: {type: Exact, value: /v1}}], backendRefs: [{name: echo-v1, port: 80}]}, \
                 {matches: [{path: {type: Exact, value: /v2}}], backendRefs: [{name: echo-v2, port: 80}]}";
    cx.on(echo("gw-split", &route(ECHO, rules)), async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/v1", &[], Server("v1")),
                (Method::GET, "/v2", &[], Server("v2")),
                // A route stands instead of everything else: what it does not match has no route.
                (Method::GET, "/", &[], Status(404)),
            ],
        )
        .await
    })
    .await
}

pub(super) async fn ports(cx: Cx) -> anyhow::Result<()> {
    let one = manifest(
        "HTTPRoute",
        "one",
        "default",
        "name: echo, port: 80",
        &format!("{{{V1}}}"),
    );
    let by_name = "name: echo, sectionName: http-alt";
    let two = manifest("HTTPRoute", "two", "default", by_name, &format!("{{{V2}}}"));
    cx.on(echo("gw-ports", &(one + &two)), async |mesh| {
        check(mesh, PORT, &[(Method::GET, "/", &[], Server("v1"))]).await?;
        check(mesh, OTHER_PORT, &[(Method::GET, "/", &[], Server("v2"))]).await
    })
    .await
}

pub(super) async fn consumer_route(cx: Cx) -> anyhow::Result<()> {
    let header = |value| {
        format!(
            "{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: \
             {{set: [{{name: X-Set, value: {value}}}]}}}}], backendRefs: \
             [{{name: echo-v1, namespace: default, port: 80}}]}}"
        )
    };
    let parent = "name: echo, namespace: default";
    let producer = manifest(
        "HTTPRoute",
        "producer",
        "default",
        parent,
        &header("producer"),
    );
    let consumer = manifest(
        "HTTPRoute",
        "consumer",
        CONSUMERS,
        parent,
        &header("consumer"),
    );
    let builder = echo("gw-consumer", &(producer + &consumer));
    let builder = builder.workload(Workload::new("client").namespace(CONSUMERS));
    cx.on(builder, async |mesh| {
        for (client, wanted) in [("client", "producer"), ("consumers/client", "consumer")] {
            let id = format!("of-{wanted}");
            let answer = call(mesh, client, "echo", PORT, Method::GET, "/", &[], &id).await?;
            assert_eq!(answer.header("x-set"), Some(wanted));
            assert_eq!(seen_by(mesh, &id).await?, ["v1"]);
        }
        // Without its own route, a consumer has the producer's.
        let parent = "name: echo, namespace: default";
        let alone = manifest(
            "HTTPRoute",
            "producer",
            "default",
            parent,
            &header("producer"),
        );
        mesh.apply_policy("route", &alone)?;
        wait_for("the producer's route", Duration::from_secs(5), async || {
            let client = "consumers/client";
            let answer = call(mesh, client, "echo", PORT, Method::GET, "/", &[], "again").await?;
            Ok((answer.header("x-set") == Some("producer")).then_some(()))
        })
        .await
    })
    .await
}

pub(super) async fn frontend(cx: Cx) -> anyhow::Result<()> {
    // What is sent to a service whose traffic goes elsewhere is not routed again there.
    let first = format!(
        "{{{V2}, filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: \
         {{set: [{{name: X-Set, value: first}}]}}}}]}}"
    );
    let first = manifest("HTTPRoute", "first", "default", ECHO, &first);
    let second = manifest(
        "HTTPRoute",
        "second",
        "default",
        "name: echo-v2",
        &format!("{{{V1}}}"),
    );
    cx.on(echo("gw-frontend", &(first + &second)), async |mesh| {
        let answer = call(mesh, "client", "echo", PORT, Method::GET, "/", &[], "front").await?;
        assert_eq!(answer.header("x-set"), Some("first"));
        assert_eq!(seen_by(mesh, "front").await?, ["v2"]);
        let answer = call(
            mesh,
            "client",
            "echo-v2",
            PORT,
            Method::GET,
            "/",
            &[],
            "back",
        )
        .await?;
        assert_eq!(answer.header("x-set"), None);
        assert_eq!(seen_by(mesh, "back").await?, ["v1"]);
        Ok(())
    })
    .await
}

/// Routes are for addresses of services, whatever host a request names.
pub(super) async fn frontend_hostname(cx: Cx) -> anyhow::Result<()> {
    let rules = format!(
        "{{{V2}, filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: \
         {{set: [{{name: X-Header-Set, value: set}}]}}}}]}}"
    );
    let route = manifest("HTTPRoute", "route", "default", "name: echo-v2", &rules);
    cx.on(echo("gw-hostname", &route), async |mesh| {
        for (to, host, wanted) in [
            ("echo-v2", "echo-v1", Some("set")),
            ("echo-v1", "echo-v2", None),
        ] {
            let id = format!("to-{to}");
            let mut call = request(Method::GET, "/", &id, "");
            call.headers_mut().insert("host", host.parse()?);
            let answer = send(&mesh.pod("client"), mesh.addr(to, PORT), call).await?;
            assert_eq!(answer.status, 200, "{to} as {host}: {answer:?}");
            assert_eq!(answer.header("x-header-set"), wanted, "{to} as {host}");
            assert_eq!(
                seen_by(mesh, &id).await?,
                [&to["echo-".len()..]],
                "{to} as {host}"
            );
        }
        Ok(())
    })
    .await
}
