//! What a route changes of requests and responses.
//!
//! Requests are changed as they are sent, try by try: everything before that sees them as they came.
//! Nothing here runs for a route that changes nothing.

use std::fmt::Write as _;

use ::http::header::{HOST, LOCATION};
use ::http::request::Parts;
use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderName, HeaderValue, Response, Uri};
use weft_proto::names::headers as names;

use crate::http::body::ResponseBody;
use crate::http::headers;
use crate::outcome::{Failure, Origin, Outcome};
use crate::policy::{HeaderEdits, PathEdit, Redirect, Rewrite, Route, RouteFilters};
use crate::resilience::route::matches_prefix;

const OUTCOME: HeaderName = HeaderName::from_static(names::OUTCOME);
const ORIGIN: HeaderName = HeaderName::from_static(names::ORIGIN);

/// What is changed of one request: by its route, then by the side of the split that it takes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Edits<'a> {
    pub(crate) route: Option<&'a RouteFilters>,
    pub(crate) side: Option<&'a HeaderEdits>,
}

impl Edits<'_> {
    /// Whether nothing is changed.
    pub(crate) fn are_none(&self) -> bool {
        let changes = |filters: &&RouteFilters| {
            filters.rewrite.is_some() || filters.request_headers.is_some()
        };
        self.side.is_none() && self.route.as_ref().is_none_or(|route| !changes(route))
    }

    /// Changes a request on its way out.
    pub(crate) fn apply(&self, uri: &mut Uri, headers: &mut HeaderMap) {
        if let Some(filters) = self.route {
            if let Some(rewrite) = &filters.rewrite {
                rewrite_target(rewrite, uri, headers);
            }
            if let Some(edits) = &filters.request_headers {
                edit(edits, headers);
            }
        }
        if let Some(edits) = self.side {
            edit(edits, headers);
        }
    }
}

/// Changes a head: sets, then adds, then removes.
pub(crate) fn edit(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for (name, value) in &edits.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &edits.add {
        headers.append(name.clone(), value.clone());
    }
    for name in &edits.remove {
        headers.remove(name);
    }
}

/// Changes a response: as the side of the split wants it that it came from, then as the route does.
pub(crate) fn response(route: &Route, side: Option<usize>, headers: &mut HeaderMap) {
    let of_side = side.and_then(|side| route.split.backends[side].response_headers.as_deref());
    if let Some(edits) = of_side {
        edit(edits, headers);
    }
    let filters = route.filters.as_deref();
    if let Some(edits) = filters.and_then(|filters| filters.response_headers.as_ref()) {
        edit(edits, headers);
    }
}

/// The answer of a route that sends its requests nowhere. Its outcome is `ok`: the mesh did what it was
/// told to, and nothing failed; that a sidecar and no application answered is what `x-weft-origin` says.
pub(crate) fn redirected(
    redirect: &Redirect,
    filters: &RouteFilters,
    head: &Parts,
) -> Result<Response<ResponseBody>, Failure> {
    let location = location(redirect, head);
    let location = location.and_then(|location| HeaderValue::try_from(location).ok());
    let location = location.ok_or_else(|| {
        Failure::never(
            Outcome::BadRequest,
            "a request without a host cannot be redirected",
        )
    })?;
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = redirect.status;
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    if let Some(edits) = &filters.response_headers {
        edit(edits, headers);
    }
    headers.insert(OUTCOME, HeaderValue::from_static(Outcome::Ok.as_str()));
    headers.insert(ORIGIN, HeaderValue::from_static(Origin::Outbound.as_str()));
    Ok(response)
}

fn location(redirect: &Redirect, head: &Parts) -> Option<String> {
    let own = headers::authority(head).ok().flatten();
    let host = match &redirect.host {
        Some(host) => host,
        None => own.as_ref()?.host(),
    };
    let (scheme, default_port) = if redirect.https {
        ("https", 443)
    } else {
        ("http", 80)
    };
    let mut location = format!("{scheme}://{host}");
    if redirect.port != default_port {
        // A String takes everything.
        let _ = write!(location, ":{}", redirect.port);
    }
    let path = head.uri.path();
    match redirect
        .path
        .as_ref()
        .and_then(|path_edit| edited(path_edit, path))
    {
        Some(path) => location.push_str(&path),
        None => location.push_str(path),
    }
    if let Some(query) = head.uri.query() {
        location.push('?');
        location.push_str(query);
    }
    Some(location)
}

fn rewrite_target(rewrite: &Rewrite, uri: &mut Uri, headers: &mut HeaderMap) {
    let path = rewrite.path.as_ref();
    let path = path.and_then(|path| edited(path, uri.path()));
    if let Some((_, host)) = &rewrite.host {
        // HTTP/2 says it in its target only.
        if headers.contains_key(HOST) {
            headers.insert(HOST, host.clone());
        }
    }
    if path.is_none() && rewrite.host.is_none() {
        return;
    }
    let mut parts = uri.clone().into_parts();
    if let Some((authority, _)) = &rewrite.host
        && parts.authority.is_some()
    {
        parts.authority = Some(authority.clone());
    }
    if let Some(mut path) = path {
        if let Some(query) = uri.query() {
            path.push('?');
            path.push_str(query);
        }
        // Both halves are paths: what a request brought and what decoding let in.
        if let Ok(path) = PathAndQuery::try_from(path) {
            parts.path_and_query = Some(path);
        }
    }
    if let Ok(changed) = Uri::from_parts(parts) {
        *uri = changed;
    }
}

/// What a path becomes; `None` where it stays.
fn edited(edit: &PathEdit, path: &str) -> Option<String> {
    match edit {
        PathEdit::Full(full) => Some(full.to_string()),
        PathEdit::Prefix {
            prefix,
            replacement,
        } => {
            if !matches_prefix(prefix, path) {
                return None;
            }
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            let rest = path.strip_prefix(prefix)?;
            let replacement = replacement.strip_suffix('/').unwrap_or(replacement);
            Some(match (replacement, rest) {
                ("", "") => "/".to_owned(),
                (replacement, rest) => format!("{replacement}{rest}"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(prefix: &str, replacement: &str) -> PathEdit {
        PathEdit::Prefix {
            prefix: prefix.into(),
            replacement: replacement.into(),
        }
    }

    #[test]
    fn whole_segments_are_replaced() {
        // The Gateway API's own table of ReplacePrefixMatch.
        for (path, matched, replacement, wanted) in [
            ("/foo/bar", "/foo", "/xyz", Some("/xyz/bar")),
            ("/foo/bar", "/foo", "/xyz/", Some("/xyz/bar")),
            ("/foo/bar", "/foo/", "/xyz", Some("/xyz/bar")),
            ("/foo/bar", "/foo/", "/xyz/", Some("/xyz/bar")),
            ("/foo", "/foo", "/xyz", Some("/xyz")),
            ("/foo/", "/foo", "/xyz", Some("/xyz/")),
            ("/foo/bar", "/foo", "", Some("/bar")),
            ("/foo/", "/foo", "", Some("/")),
            ("/foo", "/foo", "", Some("/")),
            ("/foo/", "/foo", "/", Some("/")),
            ("/foo", "/foo", "/", Some("/")),
            ("/a", "/", "/b", Some("/b/a")),
            ("/food", "/foo", "/xyz", None),
        ] {
            let edited = edited(&prefix(matched, replacement), path);
            assert_eq!(edited.as_deref(), wanted, "{path} {matched} {replacement}");
        }
    }

    #[test]
    fn a_rewrite_keeps_the_query() {
        let rewrite = Rewrite {
            host: Some((
                "new.host".parse().unwrap(),
                HeaderValue::from_static("new.host"),
            )),
            path: Some(prefix("/a", "/b")),
        };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("old"));
        let mut uri = Uri::from_static("/a/c?x=1");
        rewrite_target(&rewrite, &mut uri, &mut headers);
        assert_eq!(uri, "/b/c?x=1");
        assert_eq!(headers[HOST], "new.host");

        let mut uri = Uri::from_static("http://old:80/a?x=1");
        rewrite_target(&rewrite, &mut uri, &mut HeaderMap::new());
        assert_eq!(uri, "http://new.host/b?x=1");
    }
}
