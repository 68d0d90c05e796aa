//! What routes may change, and what they may not.

use super::*;

fn first_route(message: &mut wire::ServiceTarget) -> &mut wire::Route {
    &mut message.routes[0]
}

#[test]
fn filters_touch_no_header_of_the_connection() {
    let edits = |name: &str| wire::HeaderEdits {
        remove: vec![name.into()],
        ..Default::default()
    };
    for (name, allowed) in [
        ("x-user", true),
        ("X-User", false),
        ("x-weft-outcome", false),
        ("connection", false),
        ("content-length", false),
        ("host", false),
    ] {
        let mut by_route = target();
        first_route(&mut by_route).filters = Some(wire::RouteFilters {
            request_headers: Some(edits(name)),
            ..Default::default()
        });
        assert_eq!(decode_target(by_route).is_ok(), allowed, "{name}");

        let mut by_side = target();
        let split = first_route(&mut by_side).split.as_mut().unwrap();
        split.backends[0].response_headers = Some(edits(name));
        assert_eq!(decode_target(by_side).is_ok(), allowed, "{name}");
    }
}

#[test]
fn redirects_are_whole() {
    let redirect = |change: &dyn Fn(&mut wire::Redirect)| {
        let mut redirect = wire::Redirect {
            scheme: "https".into(),
            host: "example.org".into(),
            port: 443,
            path: None,
            status: 302,
        };
        change(&mut redirect);
        let mut target = target();
        first_route(&mut target).filters = Some(wire::RouteFilters {
            target: Some(wire::route_filters::Target::Redirect(redirect)),
            ..Default::default()
        });
        decode_target(target).err()
    };
    assert_eq!(redirect(&|_| {}), None);
    let bad = |change: &dyn Fn(&mut wire::Redirect)| redirect(change).unwrap_or_default();
    assert!(bad(&|it| it.port = 0).contains("filters.redirect.port"));
    assert!(bad(&|it| it.scheme = "ftp".into()).contains("filters.redirect.scheme"));
    assert!(bad(&|it| it.status = 200).contains("filters.redirect.status"));
    assert!(bad(&|it| it.host = "a b".into()).contains("filters.redirect.host"));
}

#[test]
fn a_side_that_leads_nowhere_has_no_backend_and_bytes_make_routes_optional() {
    let mut message = target();
    let split = first_route(&mut message).split.as_mut().unwrap();
    split.backends[0].backend = 7;
    assert!(decode_target(message.clone()).is_err());
    let split = first_route(&mut message).split.as_mut().unwrap();
    split.backends[0].unusable = "there is no service a".into();
    assert!(decode_target(message).is_ok());

    let mut message = target();
    let bytes = message.routes.remove(0).split;
    assert!(decode_target(message.clone()).is_err());
    message.bytes = bytes;
    assert!(decode_target(message).is_ok());
}
