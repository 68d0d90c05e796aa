//! What routes change of requests and responses: headers, redirects, rewrites, copies.

use std::time::Duration;

use http::Method;
use weft_sandbox::app::http::Seen;
use weft_sandbox::client::Answer;

use super::Wanted::Location;
use super::{ECHO, OTHER_PORT, V1, call, check, echo, route, seen_by};
use crate::common::{Cx, PORT, wait_for};

/// The conformance case's filters, by path; `at` puts them at the rule or at the backend.
fn header_rules(at: impl Fn(&str) -> String) -> String {
    let rule = |path: &str, edits: &str| {
        let filter =
            format!("[{{type: RequestHeaderModifier, requestHeaderModifier: {{{edits}}}}}]");
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], {}}}",
            at(&filter)
        )
    };
    [
        rule("/set", "set: [{name: X-Header-Set, value: set-overwrites-values}]"),
        rule("/add", "add: [{name: X-Header-Add, value: add-appends-values}]"),
        rule("/remove", "remove: [X-Header-Remove]"),
        rule(
            "/multiple",
            "set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], \
             add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}], \
             remove: [X-Header-Remove-1, X-Header-Remove-2]",
        ),
    ]
    .join(", ")
}

pub(super) async fn rule_headers(cx: Cx) -> anyhow::Result<()> {
    let rules = header_rules(|filters| format!("filters: {filters}, {V1}"));
    modified_headers(cx, "gw-headers", &rules).await
}

pub(super) async fn backend_headers(cx: Cx) -> anyhow::Result<()> {
    let rules = header_rules(|filters| {
        format!("backendRefs: [{{name: echo-v1, port: 80, filters: {filters}}}]")
    });
    modified_headers(cx, "gw-backend-headers", &rules).await
}

/// Path, headers sent, headers that the server sees; an empty value for none.
type HeaderCase = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
);

const HEADER_CASES: [HeaderCase; 6] = [
    (
        "/set",
        &[("some-other", "val")],
        &[
            ("some-other", "val"),
            ("x-header-set", "set-overwrites-values"),
        ],
    ),
    (
        "/set",
        &[("x-header-set", "other")],
        &[("x-header-set", "set-overwrites-values")],
    ),
    ("/add", &[], &[("x-header-add", "add-appends-values")]),
    (
        "/add",
        &[("X-Header-Add", "other")],
        &[("x-header-add", "other,add-appends-values")],
    ),
    (
        "/remove",
        &[("x-header-remove", "val")],
        &[("x-header-remove", "")],
    ),
    (
        "/multiple",
        &[
            ("x-header-set-2", "a"),
            ("x-header-add-2", "b"),
            ("x-header-remove-2", "c"),
            ("another", "d"),
        ],
        &[
            ("x-header-set-1", "header-set-1"),
            ("x-header-set-2", "header-set-2"),
            ("x-header-add-1", "header-add-1"),
            ("x-header-add-2", "b,header-add-2"),
            ("x-header-remove-1", ""),
            ("x-header-remove-2", ""),
            ("another", "d"),
        ],
    ),
];

async fn modified_headers(cx: Cx, name: &str, rules: &str) -> anyhow::Result<()> {
    cx.on(echo(name, &route(ECHO, rules)), async |mesh| {
        for (number, (path, sent, wanted)) in HEADER_CASES.into_iter().enumerate() {
            let id = format!("headers-{number}");
            let answer = call(mesh, "client", "echo", PORT, Method::GET, path, sent, &id).await?;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            assert_eq!(seen_by(mesh, &id).await?, ["v1"]);
            assert_headers(&seen(&answer)?.headers, wanted);
        }
        Ok(())
    })
    .await
}

/// What the server saw of a request, as it says in its answer.
fn seen(answer: &Answer) -> anyhow::Result<Seen> {
    Ok(serde_json::from_slice(&answer.body)?)
}

/// An empty value is for a header that is not there.
pub(super) fn assert_headers(seen: &[(String, String)], wanted: &[(&str, &str)]) {
    for (name, value) in wanted {
        let lines = seen.iter().filter(|(known, _)| known == name);
        let lines: Vec<_> = lines.map(|(_, value)| value.as_str()).collect();
        assert_eq!(lines.join(","), *value, "{name}: {seen:?}");
    }
}

/// A rule that redirects a path.
fn redirects(path: &str, redirect: &str) -> String {
    format!(
        "{{matches: [{{path: {{value: {path}}}}}], filters: \
         [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]}}"
    )
}

pub(super) async fn redirect_host(cx: Cx) -> anyhow::Result<()> {
    let rules = [
        redirects("/hostname-redirect", "hostname: example.org"),
        redirects("/host-and-status", "hostname: example.org, statusCode: 301"),
        redirects("/see-other", "hostname: example.org, statusCode: 303"),
        redirects("/temporary", "hostname: example.org, statusCode: 307"),
        redirects("/permanent", "hostname: example.org, statusCode: 308"),
    ];
    cx.on(
        echo("gw-redirect", &route(ECHO, &rules.join(", "))),
        async |mesh| {
            check(
                mesh,
                PORT,
                &[
                    (
                        Method::GET,
                        "/hostname-redirect",
                        &[],
                        Location(302, "http://example.org/hostname-redirect"),
                    ),
                    (
                        Method::GET,
                        "/host-and-status?q=1",
                        &[],
                        Location(301, "http://example.org/host-and-status?q=1"),
                    ),
                    (
                        Method::POST,
                        "/see-other",
                        &[],
                        Location(303, "http://example.org/see-other"),
                    ),
                    (
                        Method::POST,
                        "/temporary",
                        &[],
                        Location(307, "http://example.org/temporary"),
                    ),
                    (
                        Method::POST,
                        "/permanent",
                        &[],
                        Location(308, "http://example.org/permanent"),
                    ),
                ],
            )
            .await?;
            // The port that was addressed belongs to the URL.
            let own = "http://example.org:8080/hostname-redirect";
            check(
                mesh,
                OTHER_PORT,
                &[(Method::GET, "/hostname-redirect", &[], Location(302, own))],
            )
            .await
        },
    )
    .await
}

pub(super) async fn redirect_303(cx: Cx) -> anyhow::Result<()> {
    status_alone(cx, "gw-redirect-303", 303).await
}

pub(super) async fn redirect_307(cx: Cx) -> anyhow::Result<()> {
    status_alone(cx, "gw-redirect-307", 307).await
}

pub(super) async fn redirect_308(cx: Cx) -> anyhow::Result<()> {
    status_alone(cx, "gw-redirect-308", 308).await
}

/// A redirect that names a code and nothing else leads where the request went; with a host, there.
async fn status_alone(cx: Cx, name: &str, code: u16) -> anyhow::Result<()> {
    let rules = [
        redirects("/redirect", &format!("statusCode: {code}")),
        redirects(
            "/host",
            &format!("hostname: example.org, statusCode: {code}"),
        ),
    ];
    let rules = rules.join(", ");
    cx.on(echo(name, &route(ECHO, &rules)), async |mesh| {
        let (own, other) = ("http://echo/redirect", "http://example.org/host?q=1");
        let cases = [
            (Method::GET, "/redirect", &[][..], Location(code, own)),
            (Method::POST, "/host?q=1", &[], Location(code, other)),
        ];
        check(mesh, PORT, &cases).await
    })
    .await
}

pub(super) async fn redirect_path(cx: Cx) -> anyhow::Result<()> {
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}";
    let full = "path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}";
    let rules = [
        redirects("/original-prefix", prefix),
        redirects("/full", full),
        redirects(
            "/path-and-host",
            &format!("hostname: example.org, {prefix}"),
        ),
        redirects("/path-and-status", &format!("statusCode: 301, {prefix}")),
        redirects(
            "/full-path-and-host",
            &format!("hostname: example.org, {full}"),
        ),
    ];
    cx.on(
        echo("gw-redirect-path", &route(ECHO, &rules.join(", "))),
        async |mesh| {
            check(
                mesh,
                PORT,
                &[
                    (
                        Method::GET,
                        "/original-prefix/lemon",
                        &[],
                        Location(302, "http://echo/replacement-prefix/lemon"),
                    ),
                    (
                        Method::GET,
                        "/full/path/original",
                        &[],
                        Location(302, "http://echo/full-path-replacement"),
                    ),
                    (
                        Method::GET,
                        "/path-and-host",
                        &[],
                        Location(302, "http://example.org/replacement-prefix"),
                    ),
                    (
                        Method::GET,
                        "/path-and-status",
                        &[],
                        Location(301, "http://echo/replacement-prefix"),
                    ),
                    (
                        Method::GET,
                        "/full-path-and-host",
                        &[],
                        Location(302, "http://example.org/full-path-replacement"),
                    ),
                ],
            )
            .await
        },
    )
    .await
}

pub(super) async fn redirect_port(cx: Cx) -> anyhow::Result<()> {
    let rules = [
        redirects("/port", "port: 8083"),
        redirects("/port-and-host", "port: 8083, hostname: example.org"),
        redirects("/port-and-status", "port: 8083, statusCode: 301"),
    ];
    cx.on(
        echo("gw-redirect-port", &route(ECHO, &rules.join(", "))),
        async |mesh| {
            check(
                mesh,
                PORT,
                &[
                    (
                        Method::GET,
                        "/port",
                        &[],
                        Location(302, "http://echo:8083/port"),
                    ),
                    (
                        Method::GET,
                        "/port-and-host",
                        &[],
                        Location(302, "http://example.org:8083/port-and-host"),
                    ),
                    (
                        Method::GET,
                        "/port-and-status",
                        &[],
                        Location(301, "http://echo:8083/port-and-status"),
                    ),
                ],
            )
            .await
        },
    )
    .await
}

pub(super) async fn redirect_scheme(cx: Cx) -> anyhow::Result<()> {
    let rules = [
        redirects("/scheme", "scheme: https"),
        redirects("/scheme-and-host", "scheme: https, hostname: example.org"),
        redirects(
            "/scheme-and-port",
            "scheme: https, port: 8443, statusCode: 301",
        ),
        redirects("/plain", "scheme: http"),
    ];
    cx.on(
        echo("gw-redirect-scheme", &route(ECHO, &rules.join(", "))),
        async |mesh| {
            check(
                mesh,
                PORT,
                &[
                    (
                        Method::GET,
                        "/scheme",
                        &[],
                        Location(302, "https://echo/scheme"),
                    ),
                    (
                        Method::GET,
                        "/scheme-and-host",
                        &[],
                        Location(302, "https://example.org/scheme-and-host"),
                    ),
                    (
                        Method::GET,
                        "/scheme-and-port",
                        &[],
                        Location(301, "https://echo:8443/scheme-and-port"),
                    ),
                    (
                        Method::GET,
                        "/plain",
                        &[],
                        Location(302, "http://echo/plain"),
                    ),
                ],
            )
            .await
        },
    )
    .await
}

pub(super) async fn rewrite_path(cx: Cx) -> anyhow::Result<()> {
    let rewrites = |path: &str, rewrite: &str, more: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: \
             [{{type: URLRewrite, urlRewrite: {{{rewrite}}}}}{more}], {V1}}}"
        )
    };
    let prefix = |to| format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}");
    let headers = ", {type: RequestHeaderModifier, requestHeaderModifier: \
                   {set: [{name: X-Header-Set, value: set}], remove: [X-Header-Remove]}}";
    let rules = [
        rewrites("/prefix/one", &prefix("/one"), ""),
        rewrites("/strip-prefix", &prefix("/"), ""),
        rewrites(
            "/full/one",
            "path: {type: ReplaceFullPath, replaceFullPath: /one}",
            "",
        ),
        rewrites("/host", "hostname: one.example.org", ""),
        rewrites("/prefix/and-headers", &prefix("/prefix"), headers),
    ];
    cx.on(
        echo("gw-rewrite", &route(ECHO, &rules.join(", "))),
        async |mesh| {
            for (number, (target, wanted, authority)) in [
                ("/prefix/one/two?q=1", "/one/two?q=1", "echo"),
                ("/strip-prefix/three", "/three", "echo"),
                ("/strip-prefix", "/", "echo"),
                ("/full/one/two", "/one", "echo"),
                ("/host", "/host", "one.example.org"),
                ("/prefix/and-headers/one", "/prefix/one", "echo"),
            ]
            .into_iter()
            .enumerate()
            {
                let id = format!("rewrite-{number}");
                let sent = &[("x-header-set", "other"), ("x-header-remove", "val")];
                let answer =
                    call(mesh, "client", "echo", PORT, Method::GET, target, sent, &id).await?;
                assert_eq!(answer.status, 200, "{target}: {answer:?}");
                assert_eq!(seen_by(mesh, &id).await?, ["v1"]);
                let seen = seen(&answer)?;
                assert_eq!(
                    (&*seen.target, &*seen.authority),
                    (wanted, authority),
                    "{target}"
                );
                if target.contains("and-headers") {
                    assert_headers(
                        &seen.headers,
                        &[("x-header-set", "set"), ("x-header-remove", "")],
                    );
                }
            }
            Ok(())
        },
    )
    .await
}

pub(super) async fn mirror(cx: Cx) -> anyhow::Result<()> {
    let rules = format!(
        "{{filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: echo-v2, port: 80}}}}}}], {V1}}}"
    );
    cx.on(echo("gw-mirror", &route(ECHO, &rules)), async |mesh| {
        for number in 0..20 {
            let id = format!("mirror-{number}");
            let answer = call(mesh, "client", "echo", PORT, Method::GET, "/", &[], &id).await?;
            assert_eq!(answer.served_by(), Some("echo-v1-1"));
        }
        wait_for("all copies", Duration::from_secs(5), async || {
            let copied = mesh.app("echo-v2-1").stats().await?;
            Ok((copied.requests == 20).then_some(()))
        })
        .await?;
        let seen = mesh.app("echo-v1-1").stats().await?;
        assert_eq!((seen.requests, seen.repeated_ids()), (20, 0));
        Ok(())
    })
    .await
}
