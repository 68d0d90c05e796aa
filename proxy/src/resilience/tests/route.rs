use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use std::sync::Arc;

use crate::policy::{HeaderMatch, PathMatch, Route, RouteMatch, Split, Timeouts};
use crate::resilience::route::{match_route, matches_prefix};

fn route(matches: Vec<RouteMatch>) -> Route {
    Route {
        name: Arc::from("r"),
        matches,
        timeouts: Timeouts::default(),
        retries: None,
        split: Split {
            backends: Vec::new(),
            sticky: None,
            next_when_empty: false,
        },
        fault: None,
        fallback: None,
    }
}

#[test]
fn prefixes_end_at_segments() {
    for (prefix, path, expected) in [
        ("/", "/", true),
        ("/", "/a", true),
        ("/a", "/a", true),
        ("/a", "/a/", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a/", "/a", true),
        ("/a/", "/ab", false),
        ("/a/b", "/a", false),
    ] {
        assert_eq!(matches_prefix(prefix, path), expected, "{prefix} {path}");
    }
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{0,2}", 1..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn rule() -> impl Strategy<Value = RouteMatch> {
    let path = prop::option::of(prop_oneof![
        path().prop_map(|path| PathMatch::Exact(path.into())),
        path().prop_map(|path| PathMatch::Prefix(path.into())),
    ]);
    let method = prop::option::of(method());
    let headers = prop::collection::vec(("x-[ab]", "[01]"), 0..2);
    (path, method, headers).prop_map(|(path, method, headers)| RouteMatch {
        path,
        method,
        headers: headers
            .into_iter()
            .map(|(name, value)| HeaderMatch {
                name: HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value: HeaderValue::from_str(&value).unwrap(),
            })
            .collect(),
    })
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::POST])
}

/// Says what the code should, by splitting into segments.
fn reference(rule: &RouteMatch, method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let segments = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let by_path = match &rule.path {
        None => true,
        Some(PathMatch::Exact(exact)) => **exact == *path,
        Some(PathMatch::Prefix(prefix)) => {
            let mut wanted = segments(prefix);
            if wanted.last().is_some_and(String::is_empty) {
                wanted.pop();
            }
            segments(path).starts_with(&wanted)
        }
    };
    let by_method = rule.method.is_none() || rule.method.as_ref() == Some(method);
    let by_headers = rule.headers.iter().all(|wanted| {
        headers
            .iter()
            .any(|(name, value)| *name == wanted.name && *value == wanted.value)
    });
    by_path && by_method && by_headers
}

proptest! {
    #[test]
    fn agrees_with_the_reference(
        rules in prop::collection::vec(prop::collection::vec(rule(), 0..3), 0..5),
        method in method(),
        path in path(),
        lines in prop::collection::vec(("x-[ab]", "[01]"), 0..4),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(&value).unwrap(),
            );
        }
        let routes: Vec<Route> = rules.into_iter().map(route).collect();
        let expected = routes.iter().position(|route| {
            route.matches.is_empty()
                || route.matches.iter().any(|rule| reference(rule, &method, &path, &headers))
        });
        prop_assert_eq!(match_route(&routes, &method, &path, &headers), expected);
    }
}
