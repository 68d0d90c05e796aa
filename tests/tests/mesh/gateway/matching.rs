//! Which requests a rule is for.

use http::Method;

use super::Wanted::{Server, Status};
use super::{ECHO, V1, V2, check, echo, route};
use crate::common::{Cx, PORT};

pub(super) async fn matching(cx: Cx) -> anyhow::Result<()> {
    let rules = format!(
        "{{matches: [{{path: {{type: PathPrefix, value: /}}}}, {{headers: [{{name: version, value: one}}]}}], {V1}}}, \
         {{matches: [{{path: {{type: PathPrefix, value: /v2}}}}, {{headers: [{{name: version, value: two}}]}}], {V2}}}, \
         {{matches: [{{path: {{type: RegularExpression, value: '/items/[0-9]+'}}}}, \
                     {{path: {{value: /orders}}, method: PUT}}], {V2}}}"
    );
    cx.on(echo("gw-matching", &route(ECHO, &rules)), async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/", &[], Server("v1")),
                (Method::GET, "/example", &[], Server("v1")),
                (Method::GET, "/", &[("Version", "one")], Server("v1")),
                (Method::GET, "/v2", &[], Server("v2")),
                (Method::GET, "/v2/example", &[], Server("v2")),
                (Method::GET, "/", &[("Version", "two")], Server("v2")),
                (Method::GET, "/v2/", &[], Server("v2")),
                (Method::GET, "/v2example", &[], Server("v1")),
                (Method::GET, "/foo/v2/example", &[], Server("v1")),
                (Method::GET, "/items/7", &[], Server("v2")),
                (Method::GET, "/items/x", &[], Server("v1")),
                (Method::PUT, "/orders/7", &[], Server("v2")),
                (Method::GET, "/orders/7", &[], Server("v1")),
                // The longer prefix goes before the header.
                (Method::GET, "/v2", &[("Version", "one")], Server("v2")),
            ],
        )
        .await
    })
    .await
}

pub(super) async fn query_params(cx: Cx) -> anyhow::Result<()> {
    let param = |value| format!("queryParams: [{{name: animal, value: {value}}}]");
    let rules = format!(
        "{{matches: [{{{whale}}}], {V1}}}, {{matches: [{{{dolphin}}}], {V2}}}, \
         {{matches: [{{{dolphin}, path: {{value: /path1}}}}, {{{whale}, path: {{value: /path1}}}}], {V1}}}, \
         {{matches: [{{{whale}, headers: [{{name: version, value: one}}]}}], {V2}}}, \
         {{matches: [{{{shark}, path: {{value: /path3}}}}, \
                     {{{kraken}, path: {{value: /path4}}, headers: [{{name: version, value: three}}]}}], {V1}}}, \
         {{matches: [{{queryParams: [{{type: RegularExpression, name: animal, value: 'sea-.*'}}]}}], {V2}}}, \
         {{matches: [{{{hydra}}}], {V2}}}, {{matches: [{{path: {{value: /path5}}}}], {V1}}}",
        whale = param("whale"),
        dolphin = param("dolphin"),
        shark = param("shark"),
        kraken = param("kraken"),
        hydra = param("hydra"),
    );
    cx.on(echo("gw-query", &route(ECHO, &rules)), async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/?animal=whale", &[], Server("v1")),
                (Method::GET, "/?animal=dolphin", &[], Server("v2")),
                (
                    Method::GET,
                    "/?animal=whale&other=irrelevant",
                    &[],
                    Server("v1"),
                ),
                (
                    Method::GET,
                    "/?animal=dolphin&color=yellow",
                    &[],
                    Server("v2"),
                ),
                (Method::GET, "/?color=blue", &[], Status(404)),
                (Method::GET, "/?animal=dog", &[], Status(404)),
                (Method::GET, "/?animal=whaledolphin", &[], Status(404)),
                (Method::GET, "/", &[], Status(404)),
                (Method::GET, "/path1?animal=whale", &[], Server("v1")),
                (
                    Method::GET,
                    "/?animal=whale",
                    &[("version", "one")],
                    Server("v2"),
                ),
                (Method::GET, "/path3?animal=shark", &[], Server("v1")),
                (
                    Method::GET,
                    "/path4?animal=kraken",
                    &[("version", "three")],
                    Server("v1"),
                ),
                (Method::GET, "/?animal=shark", &[], Status(404)),
                (Method::GET, "/path4?animal=kraken", &[], Status(404)),
                (Method::GET, "/path5?animal=hydra", &[], Server("v1")),
                (Method::GET, "/?animal=sea-cow", &[], Server("v2")),
            ],
        )
        .await
    })
    .await
}

pub(super) async fn named_rule(cx: Cx) -> anyhow::Result<()> {
    let rules = format!(
        "{{name: first, matches: [{{path: {{value: /named}}}}], {V1}}}, \
         {{matches: [{{path: {{value: /unnamed}}}}], {V2}}}"
    );
    cx.on(echo("gw-named", &route(ECHO, &rules)), async |mesh| {
        check(
            mesh,
            PORT,
            &[
                (Method::GET, "/named", &[], Server("v1")),
                (Method::GET, "/unnamed", &[], Server("v2")),
            ],
        )
        .await?;
        let metrics = crate::common::metrics(mesh, "client").await?;
        for name in ["first", "route"] {
            let labels = [("direction", "outbound"), ("route", name)];
            assert_eq!(metrics.sum("weft_requests_total", &labels), 1.0, "{name}");
        }
        Ok(())
    })
    .await
}
