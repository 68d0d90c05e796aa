//! Which route a request takes: the first in the list that matches. But for what regular expressions
//! need, nothing is allocated.
//!
//! Paths are compared as they are on the wire, without their query and without decoding: what the
//! application would decode differently must not pass as something else. Query parameters are
//! compared decoded, as forms encode them; the first of a name counts.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};

use crate::policy::{HeaderMatch, PathMatch, QueryMatch, Route, RouteMatch, ValueMatch};

/// The position of the first route that matches; `path` is without its `query`.
pub fn match_route(
    routes: &[Route],
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Option<usize> {
    routes
        .iter()
        .position(|route| matches_any(&route.matches, method, path, query, headers))
}

/// Whether a request matches any of these; none means every request.
pub fn matches_any(
    rules: &[RouteMatch],
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> bool {
    let matches = |rule| matches_rule(rule, method, path, query, headers);
    rules.is_empty() || rules.iter().any(matches)
}

/// Whether a header has such a value, on any of its lines.
pub fn matches_header(rule: &HeaderMatch, headers: &HeaderMap) -> bool {
    headers
        .get_all(&rule.name)
        .iter()
        .any(|value| match &rule.value {
            ValueMatch::Exact(exact) => value == exact,
            ValueMatch::Prefix(prefix) => value.as_bytes().starts_with(prefix),
            ValueMatch::Regex(pattern) => value.to_str().is_ok_and(|text| pattern.matches(text)),
            ValueMatch::Present => true,
        })
}

/// Whether `path` begins with the whole segments of `prefix`: `/a` matches `/a` and `/a/b`, not
/// `/ab`; a slash at the prefix's end means nothing.
pub fn matches_prefix(prefix: &str, path: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix)
        .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// Whether the first parameter of this name has this value, both decoded.
pub fn matches_query(rule: &QueryMatch, query: &str) -> bool {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| decoded(name).eq(rule.name.bytes()))
        .is_some_and(|(_, value)| match &rule.pattern {
            None => decoded(value).eq(rule.value.bytes()),
            Some(pattern) => {
                let value: Vec<u8> = decoded(value).collect();
                std::str::from_utf8(&value).is_ok_and(|value| pattern.matches(value))
            }
        })
}

/// Whether a request says that it is gRPC's, of whatever encoding.
fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let start = value.as_bytes().get(..GRPC.len());
        let rest = value.as_bytes().get(GRPC.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
            && matches!(rest, None | Some(b'+' | b';' | b' '))
    })
}

/// A part of a query as forms encode it; a broken escape stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = after;
            return Some((high * 16 + low) as u8);
        }
        let (first, after) = rest.split_first()?;
        rest = after;
        Some(if *first == b'+' { b' ' } else { *first })
    })
}

fn matches_rule(
    rule: &RouteMatch,
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> bool {
    if rule.method.as_ref().is_some_and(|wanted| wanted != method) {
        return false;
    }
    let path_fits = match &rule.path {
        None => true,
        Some(PathMatch::Exact(exact)) => **exact == *path,
        Some(PathMatch::Prefix(prefix)) => matches_prefix(prefix, path),
        Some(PathMatch::Regex(pattern)) => pattern.matches(path),
    };
    path_fits
        && (!rule.grpc || is_grpc(headers))
        && rule
            .query
            .iter()
            .all(|wanted| matches_query(wanted, query.unwrap_or_default()))
        && rule
            .headers
            .iter()
            .all(|header| matches_header(header, headers))
}
