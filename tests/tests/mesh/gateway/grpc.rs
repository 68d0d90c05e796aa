//! What routes change of calls: headers, and copies of them.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use weft_sandbox::Mesh;
use weft_sandbox::app::{ID, SEEN};
use weft_sandbox::client::{Answer, Http2};

use super::filters::assert_headers;
use super::{ECHO, V1, echo, manifest, seen_by};
use crate::common::{Cx, PORT, wait_for};

/// Method and headers sent, headers that the server sees; an empty value for none.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);

/// One call with an empty message, and that it went well.
async fn unary(mesh: &Mesh, headers: &[(&str, &str)], id: &str) -> anyhow::Result<Answer> {
    let connection = Http2::connect(&mesh.pod("client"), mesh.addr("echo", PORT)).await?;
    let mut call = Request::post("http://echo/weft.sandbox.v1.Echo/Unary")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(ID, id);
    for (name, value) in headers {
        call = call.header(*name, *value);
    }
    let call = call.body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))?;
    let answer = connection.request(call).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    Ok(answer)
}

fn seen(answer: &Answer) -> anyhow::Result<Vec<(String, String)>> {
    let seen = answer.header(SEEN).unwrap_or_default();
    Ok(serde_json::from_str(seen)?)
}

pub(super) async fn headers(cx: Cx) -> anyhow::Result<()> {
    let rule = |case: &str, edits: &str, to: &str| {
        format!(
            "{{matches: [{{method: {{service: weft.sandbox.v1.Echo, method: Unary}}, \
             headers: [{{name: x-test-case, value: {case}}}]}}], filters: \
             [{{type: RequestHeaderModifier, requestHeaderModifier: {{{edits}}}}}], \
             backendRefs: [{{name: {to}, port: 80}}]}}"
        )
    };
    let rules = [
        rule(
            "set",
            "set: [{name: X-Header-Set, value: set-overwrites-values}]",
            "echo-v1",
        ),
        rule(
            "add",
            "add: [{name: X-Header-Add, value: add-appends-values}]",
            "echo-v1",
        ),
        rule("remove", "remove: [X-Header-Remove]", "echo-v1"),
        rule(
            "multi",
            "set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], \
             add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}], \
             remove: [X-Header-Remove-1, X-Header-Remove-2]",
            "echo-v2",
        ),
    ];
    let route = manifest("GRPCRoute", "route", "default", ECHO, &rules.join(", "));
    let cases: [Case<'_>; 4] = [
        (
            "set",
            &[("some-other", "val"), ("x-header-set", "overwritten")],
            &[
                ("some-other", "val"),
                ("x-header-set", "set-overwrites-values"),
            ],
        ),
        (
            "add",
            &[("x-header-add", "first")],
            &[("x-header-add", "first,add-appends-values")],
        ),
        (
            "remove",
            &[("x-header-remove", "val")],
            &[("x-header-remove", "")],
        ),
        (
            "multi",
            &[
                ("x-header-set-2", "a"),
                ("x-header-add-2", "b"),
                ("x-header-remove-2", "c"),
            ],
            &[
                ("x-header-set-1", "header-set-1"),
                ("x-header-set-2", "header-set-2"),
                ("x-header-add-1", "header-add-1"),
                ("x-header-add-2", "b,header-add-2"),
                ("x-header-remove-1", ""),
                ("x-header-remove-2", ""),
            ],
        ),
    ];
    cx.on(echo("gw-grpc-headers", &route), async |mesh| {
        for (case, sent, wanted) in cases {
            let mut sent = sent.to_vec();
            sent.push(("x-test-case", case));
            let answer = unary(mesh, &sent, case).await?;
            let server = if case == "multi" { "v2" } else { "v1" };
            assert_eq!(seen_by(mesh, case).await?, [server], "{case}");
            assert_headers(&seen(&answer)?, wanted);
            assert_headers(&seen(&answer)?, &[("x-test-case", case)]);
        }
        Ok(())
    })
    .await
}

pub(super) async fn mirror(cx: Cx) -> anyhow::Result<()> {
    let copied = "{type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}}}";
    let edited = "{type: RequestHeaderModifier, requestHeaderModifier: \
                  {set: [{name: X-Header-Set, value: set}], \
                   add: [{name: X-Header-Add, value: one}, {name: X-Header-Append, value: two}], \
                   remove: [X-Header-Remove]}}";
    let rule = |case: &str, filters: &str| {
        format!(
            "{{matches: [{{headers: [{{name: {case}, value: 'true'}}]}}], filters: [{filters}], {V1}}}"
        )
    };
    let rules = [
        rule("x-mirror-only", copied),
        rule("x-mirror-and-modify", &format!("{edited}, {copied}")),
    ];
    let route = manifest("GRPCRoute", "route", "default", ECHO, &rules.join(", "));
    cx.on(echo("gw-grpc-mirror", &route), async |mesh| {
        let modified = [
            ("x-header-set", "set"),
            ("x-header-add", "one"),
            ("x-header-append", "zero,two"),
            ("x-header-remove", ""),
        ];
        let cases = [
            ("x-mirror-only", &[][..]),
            ("x-mirror-and-modify", &modified),
        ];
        for (copies, (case, wanted)) in (1..).zip(cases) {
            let sent = [
                (case, "true"),
                ("x-header-remove", "val"),
                ("x-header-append", "zero"),
            ];
            let answer = unary(mesh, &sent, case).await?;
            assert_headers(&seen(&answer)?, wanted);
            wait_for("the copy", Duration::from_secs(5), async || {
                let copied = mesh.app("echo-v2-1").stats().await?;
                Ok((copied.copies.values().sum::<u64>() == copies).then_some(()))
            })
            .await?;
            assert_eq!(seen_by(mesh, case).await?, ["v1", "v2"], "{case}");
        }
        Ok(())
    })
    .await
}
