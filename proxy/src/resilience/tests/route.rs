use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use std::sync::Arc;

use weft_proto::pattern::Pattern;

use crate::policy::{
    HeaderMatch, PathMatch, QueryMatch, Route, RouteMatch, Split, Timeouts, ValueMatch,
};
use crate::resilience::route::{match_route, matches_header, matches_prefix, matches_query};

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
            mirror: None,
        },
        fault: None,
        fallback: None,
        filters: None,
        access_log: None,
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
        path().prop_map(|path| PathMatch::Regex(Pattern::new(&format!("{path}[ab]*")).unwrap())),
    ]);
    let method = prop::option::of(method());
    let headers = prop::collection::vec(("x-[ab]", "[01]"), 0..2);
    let query = prop::collection::vec(("[ab]", "[01 ]"), 0..2);
    let grpc = prop::bool::weighted(0.2);
    let parts = (path, method, headers, query, grpc);
    parts.prop_map(|(path, method, headers, query, grpc)| RouteMatch {
        path,
        method,
        headers: headers
            .into_iter()
            .map(|(name, value)| HeaderMatch {
                name: HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value: ValueMatch::Exact(HeaderValue::from_str(&value).unwrap()),
            })
            .collect(),
        query: query
            .into_iter()
            .map(|(name, value)| QueryMatch {
                name: name.into(),
                value: value.into(),
                pattern: None,
            })
            .collect(),
        grpc,
    })
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::POST])
}

/// Says what the code should, by splitting into segments.
fn reference(
    rule: &RouteMatch,
    method: &Method,
    path: &str,
    query: &[(String, String)],
    headers: &HeaderMap,
) -> bool {
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
        // Of the one form that is made here.
        Some(PathMatch::Regex(pattern)) => {
            let text = pattern.to_string();
            let start = text.strip_suffix("[ab]*").unwrap();
            path.strip_prefix(start)
                .is_some_and(|rest| !rest.contains('/'))
        }
    };
    let by_method = rule.method.is_none() || rule.method.as_ref() == Some(method);
    let by_headers = rule.headers.iter().all(|wanted| {
        headers.iter().any(|(name, value)| {
            *name == wanted.name && ValueMatch::Exact(value.clone()) == wanted.value
        })
    });
    let by_query = rule.query.iter().all(|wanted| {
        let found = query.iter().find(|(name, _)| **name == *wanted.name);
        found.is_some_and(|(_, value)| **value == *wanted.value)
    });
    let by_kind = !rule.grpc || headers.contains_key("content-type");
    by_path && by_method && by_headers && by_query && by_kind
}

proptest! {
    #[test]
    fn agrees_with_the_reference(
        rules in prop::collection::vec(prop::collection::vec(rule(), 0..3), 0..5),
        method in method(),
        path in path(),
        lines in prop::collection::vec(("x-[ab]", "[01]"), 0..4),
        query in prop::collection::vec(("[ab]", "[01 ]"), 0..4),
        grpc in prop::bool::ANY,
    ) {
        let mut headers = HeaderMap::new();
        if grpc {
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        }
        let encoded: Vec<_> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", value.replace(' ', "%20")))
            .collect();
        let encoded = encoded.join("&");
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(&value).unwrap(),
            );
        }
        let routes: Vec<Route> = rules.into_iter().map(route).collect();
        let expected = routes.iter().position(|route| {
            route.matches.is_empty()
                || route.matches.iter().any(|rule| reference(rule, &method, &path, &query, &headers))
        });
        prop_assert_eq!(match_route(&routes, &method, &path, Some(&encoded), &headers), expected);
    }
}

#[test]
fn query_parameters_are_compared_decoded_and_the_first_counts() {
    let rule = QueryMatch {
        name: "a b".into(),
        value: "1%".into(),
        pattern: None,
    };
    for (query, expected) in [
        ("a+b=1%25", true),
        ("x&a%20b=1%", true),
        ("a%20b=2&a+b=1%25", false),
        ("a b", false),
        ("A+b=1%25", false),
        ("", false),
    ] {
        assert_eq!(matches_query(&rule, query), expected, "{query}");
    }
}

#[test]
fn header_values_match_on_any_line() {
    let mut headers = HeaderMap::new();
    headers.append("x-a", HeaderValue::from_bytes(b"\xff").unwrap());
    headers.append("x-a", HeaderValue::from_static("beta-17"));
    let pattern = |text| ValueMatch::Regex(Pattern::new(text).unwrap());
    for (name, value, expected) in [
        ("x-a", ValueMatch::Prefix(b"beta".as_slice().into()), true),
        ("x-a", ValueMatch::Prefix(b"eta".as_slice().into()), false),
        ("x-a", pattern("beta-[0-9]+"), true),
        ("x-a", pattern("beta"), false),
        ("x-a", ValueMatch::Present, true),
        ("x-b", ValueMatch::Present, false),
    ] {
        let rule = HeaderMatch {
            name: HeaderName::from_static(name),
            value,
        };
        assert_eq!(matches_header(&rule, &headers), expected, "{rule:?}");
    }
}
