//! Shares of backends.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use weft_sandbox::app::ID;
use weft_sandbox::client::Http2;

use super::Wanted::Status;
use super::{ECHO, MANY, V2, assert_near, check, echo, manifest, route, share_of_v2};
use crate::common::{Cx, PORT, percent, stats};

pub(super) async fn weight(cx: Cx) -> anyhow::Result<()> {
    let rules = |v1, v2| {
        let refs = format!(
            "{{backendRefs: [{{name: echo-v1, port: 80, weight: {v1}}}, \
             {{name: echo-v2, port: 80, weight: {v2}}}]}}"
        );
        route(ECHO, &refs)
    };
    cx.on(echo("gw-weight", &rules(70, 30)), async |mesh| {
        let share = share_of_v2(mesh, "weight").await?;
        cx.measured(format!("{share:.1} % of 30 %"));
        assert_near(share, 30.0);
        mesh.apply_policy("route", &rules(0, 1))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_near(share_of_v2(mesh, "zero").await?, 100.0);
        Ok(())
    })
    .await
}

pub(super) async fn grpc_weight(cx: Cx) -> anyhow::Result<()> {
    let rules = "{matches: [{method: {service: weft.sandbox.v1.Echo}}], backendRefs: \
                 [{name: echo-v1, port: 80, weight: 70}, {name: echo-v2, port: 80, weight: 30}]}";
    // Beside a GRPCRoute no HTTPRoute is heard.
    let other = manifest("HTTPRoute", "other", "default", ECHO, &format!("{{{V2}}}"));
    let grpc = manifest("GRPCRoute", "grpc", "default", ECHO, rules);
    cx.on(echo("gw-grpc", &(grpc + &other)), async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("echo", PORT));
        let connection = Http2::connect(&client, to).await?;
        for number in 0..MANY {
            let call = Request::post("http://echo/weft.sandbox.v1.Echo/Unary")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header(ID, format!("grpc-{number}"));
            // One empty message.
            let call = call.body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))?;
            let answer = connection.request(call).await?;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let all = stats(mesh, ["echo-v1-1", "echo-v2-1"]).await?;
        assert_eq!((all.requests, all.repeated_ids()), (MANY, 0));
        let seen = mesh.app("echo-v2-1").stats().await?;
        assert_near(percent(seen.requests, MANY), 30.0);
        // No gRPC, no route; and none for another service of gRPC.
        check(mesh, PORT, &[(Method::GET, "/", &[], Status(404))]).await?;
        let call = Request::post("http://echo/other.Service/Unary");
        let call = call
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let answer = connection.request(call.body(Full::default())?).await?;
        assert_eq!(answer.header("grpc-status"), Some("12"));
        assert_eq!(answer.outcome(), Some("no_route"));
        Ok(())
    })
    .await
}
