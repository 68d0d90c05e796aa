//! Which route a request takes: the first in the list that matches. Nothing is allocated.
//!
//! Paths are compared as they are on the wire, without their query and without decoding: what the
//! application would decode differently must not pass as something else.

use http::{HeaderMap, Method};

use crate::policy::{HeaderMatch, PathMatch, Route, RouteMatch};

/// The position of the first route that matches; `path` is without its query.
pub fn match_route(
    routes: &[Route],
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Option<usize> {
    routes.iter().position(|route| {
        route.matches.is_empty()
            || route
                .matches
                .iter()
                .any(|rule| matches_rule(rule, method, path, headers))
    })
}

/// Whether a header has this value, on any of its lines.
pub fn matches_header(rule: &HeaderMatch, headers: &HeaderMap) -> bool {
    headers
        .get_all(&rule.name)
        .iter()
        .any(|value| value == rule.value)
}

/// Whether `path` begins with the whole segments of `prefix`: `/a` matches `/a` and `/a/b`, not
/// `/ab`; a slash at the prefix's end means nothing.
pub fn matches_prefix(prefix: &str, path: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix)
        .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

fn matches_rule(rule: &RouteMatch, method: &Method, path: &str, headers: &HeaderMap) -> bool {
    if rule.method.as_ref().is_some_and(|wanted| wanted != method) {
        return false;
    }
    let path_fits = match &rule.path {
        None => true,
        Some(PathMatch::Exact(exact)) => **exact == *path,
        Some(PathMatch::Prefix(prefix)) => matches_prefix(prefix, path),
    };
    path_fits
        && rule
            .headers
            .iter()
            .all(|header| matches_header(header, headers))
}
