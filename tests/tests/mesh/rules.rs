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
    {grpc: {service: shop.Cart, method: Add}}, \
    {path: {type: Exact, value: /exactly}}, \
    {path: {type: PathPrefix, value: /items}, method: PUT}]}, \
    {name: elsewhere-too, split: {backends: [{name: alt}]}, matches: [\
    {headers: [{name: x-canary, value: 'yes'}, {name: x-user, value: me}]}, \
    {grpc: {service: shop.Prices}}]}]";

/// Requests, some with headers, and whether a rule is for them.
const REQUESTS: [(Method, &str, &str, &str, bool); 28] = [
    (Method::POST, "/orders/17", "", "", true),
    (Method::POST, "/orders/17?x=1", "", "", true),
    (Method::POST, "/orders/17/lines", "", "", false),
    (Method::POST, "/orders/x", "", "", false),
    (Method::POST, "/?v=2&tier=gold%20plus", "", "", true),
    (Method::POST, "/?tier=gold+plus&v=2", "", "", true),
    (Method::POST, "/?tier=gold+plus", "", "", false),
    (Method::POST, "/?tier=x&tier=gold+plus&v=2", "", "", false),
    (Method::POST, "/", "x-agent", "beta-7", true),
    (Method::POST, "/", "x-agent", "a beta-7", false),
    (Method::POST, "/", "x-team", "shop-a", true),
    (Method::POST, "/", "x-team", "my-shop-a", false),
    (Method::POST, "/", "x-debug", "whatever", true),
    (
        Method::POST,
        "/shop.Cart/Add",
        "content-type",
        "application/grpc",
        true,
    ),
    (
        Method::POST,
        "/shop.Cart/Del",
        "content-type",
        "application/grpc",
        false,
    ),
    (
        Method::POST,
        "/shop.Cart/Add",
        "content-type",
        "text/plain",
        false,
    ),
    (Method::GET, "/exactly", "", "", true),
    (Method::GET, "/exactly?x=1", "", "", true),
    (Method::GET, "/exactly/", "", "", false),
    (Method::PUT, "/items", "", "", true),
    (Method::PUT, "/items/7", "", "", true),
    (Method::PUT, "/items7", "", "", false),
    (Method::GET, "/items/7", "", "", false),
    (Method::GET, "/", "x-canary", "yes", false),
    (Method::GET, "/", "x-user", "me", false),
    (
        Method::POST,
        "/shop.Prices/Get",
        "content-type",
        "application/grpc+proto",
        true,
    ),
    (
        Method::POST,
        "/shop.Pricess/Get",
        "content-type",
        "application/grpc",
        false,
    ),
    (Method::GET, "/", "x-canary, x-user", "yes, me", true),
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
        for (number, (method, target, names, values, _)) in REQUESTS.into_iter().enumerate() {
            let mut call = request(method, target, &format!("match-{number}"), "");
            let names = names.split(", ").filter(|name| !name.is_empty());
            for (name, value) in names.zip(values.split(", ")) {
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
            let expected = if wanted.4 {
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
