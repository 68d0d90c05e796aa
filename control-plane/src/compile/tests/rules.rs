use weft_proto::discovery::path_match::Kind as Path;
use weft_proto::discovery::{HeaderMatchKind, QueryMatch};

use super::*;

#[test]
fn every_kind_of_match_reaches_the_wire() {
    let model = mesh(&[policy(
        "a",
        "demo",
        "targetRefs: [{name: checkout}], rules: [{name: r, retries: {attempts: 0}, matches: [
           {path: {type: RegularExpression, value: '/a[0-9]'}, queryParams: [{name: q, value: v w}]},
           {grpc: {service: shop.Cart, method: Add}},
           {grpc: {service: shop.Cart}},
           {headers: [{name: X-A, type: Prefix, value: p}, {name: b, type: RegularExpression, value: r},
                      {name: c, type: Present}, {name: d, value: e}]}]}]",
    )]);
    let target = to_service(&model, outbound("10.96.0.10", 80));
    let [by_path, method, service, headers] = &*target.routes[0].matches else {
        panic!("{:?}", target.routes[0].matches);
    };
    let path = |rule: &weft_proto::discovery::RouteMatch| rule.path.clone().unwrap().kind;
    assert_eq!(path(by_path), Some(Path::Regex("/a[0-9]".into())));
    let query = QueryMatch {
        name: "q".into(),
        value: "v w".into(),
        regex: false,
    };
    assert_eq!(by_path.query, [query]);
    assert!(!by_path.grpc);
    assert_eq!(path(method), Some(Path::Exact("/shop.Cart/Add".into())));
    assert_eq!(path(service), Some(Path::Prefix("/shop.Cart".into())));
    assert!(method.grpc && service.grpc);
    let kinds: Vec<_> = headers
        .headers
        .iter()
        .map(|header| (&*header.name, &*header.value, header.kind()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("x-a", "p", HeaderMatchKind::Prefix),
            ("b", "r", HeaderMatchKind::Regex),
            ("c", "", HeaderMatchKind::Present),
            ("d", "e", HeaderMatchKind::Exact),
        ]
    );
}
