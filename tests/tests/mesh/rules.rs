//! Which requests a rule is for, counted at the servers.

use http::{HeaderName, HeaderValue, Method};

use crate::Suite;
use crate::common::{Cx, PORT, client_and, http_app, policy, request, send, service, stats};

/// Any of these requests goes to another service.
const RULE: &str = "rules: [{name: elsewhere, split: {backends: [{name: alt}]}, matches: [\
    {path: {type: RegularExpression, value: '/orders/[0-9]+'}}, \
    {queryParams: [{name: tier, value: 'gold plus'}, {name: v, value: '2'}]}, \
    {headers: [{name: x-agent, type: RegularExpression, value: 'beta-.*'}]}, \
    {headers: [{name: x-team, type: Prefix, value: 'shop-'}]}, \
    {headers: [{name: x-debug, type: Present}]}, \
    {grpc: {service: shop.Cart, method: Add}}]}]";

/// Requests, each with a header, and whether the rule is for it.
const REQUESTS: [(&str, &str, &str, bool); 16] = [
    ("/orders/17", "", "", true),
    ("/orders/17?x=1", "", "", true),
    ("/orders/17/lines", "", "", false),
    ("/orders/x", "", "", false),
    ("/?v=2&tier=gold%20plus", "", "", true),
    ("/?tier=gold+plus&v=2", "", "", true),
    ("/?tier=gold+plus", "", "", false),
    ("/?tier=x&tier=gold+plus&v=2", "", "", false),
    ("/", "x-agent", "beta-7", true),
    ("/", "x-agent", "a beta-7", false),
    ("/", "x-team", "shop-a", true),
    ("/", "x-team", "my-shop-a", false),
    ("/", "x-debug", "whatever", true),
    ("/shop.Cart/Add", "content-type", "application/grpc", true),
    ("/shop.Cart/Del", "content-type", "application/grpc", false),
    ("/shop.Cart/Add", "content-type", "text/plain", false),
];

pub(crate) fn register(suite: &mut Suite) {
    suite.add("rules::each_kind_of_match_finds_its_requests", matches);
}

async fn matches(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("rules", ["api-1"])
        .workload(http_app("alt-1"))
        .service(service("alt", ["alt-1"]))
        .policy(&policy("api", "api", RULE));
    cx.on(builder, async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        for (number, (target, name, value, _)) in REQUESTS.into_iter().enumerate() {
            let mut call = request(Method::POST, target, &format!("match-{number}"), "");
            if !name.is_empty() {
                let name = HeaderName::from_static(name);
                let value = HeaderValue::from_static(value);
                call.headers_mut().insert(name, value);
            }
            send(&client, to, call).await?;
        }
        let (api, alt) = (stats(mesh, ["api-1"]).await?, stats(mesh, ["alt-1"]).await?);
        for (number, wanted) in REQUESTS.into_iter().enumerate() {
            let id = format!("match-{number}");
            let seen = |ids: &std::collections::BTreeMap<String, u64>| ids.get(&id).copied();
            let (here, there) = (seen(&api.ids), seen(&alt.ids));
            let expected = if wanted.3 {
                (None, Some(1))
            } else {
                (Some(1), None)
            };
            assert_eq!((here, there), expected, "{wanted:?}");
        }
        assert_eq!(api.requests + alt.requests, REQUESTS.len() as u64);
        Ok(())
    })
    .await
}
