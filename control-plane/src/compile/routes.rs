//! Gateway API routes as wire messages: which requests, what is changed of them, and to whom they go.
//! What they do not say comes from policies; that is put together in [`super::outbound`].

use weft_proto::discovery as wire;
use weft_proto::discovery::path_edit::Kind as EditKind;
use weft_proto::discovery::path_match::Kind as PathKind;
use weft_proto::discovery::route_filters::Target;

use super::wire::{header_match, path_match, segments};
use crate::policy::{Backoff, PathMatch, PathMatchType, PolicyDuration, Retries};
use crate::route::{
    Filters, HeaderEdits, PathEdit, Redirect, Rewrite, RouteMatch, RoutePath, RouteRetry,
};

/// One of gRPC's names, whatever it is.
const ANY_NAME: &str = "[^/]+";
/// How much longer than the first the longest wait between tries may be, where the route gives the first.
const BACKOFF_RANGE: u32 = 10;

pub(super) fn route_match(entry: &RouteMatch) -> wire::RouteMatch {
    wire::RouteMatch {
        path: path(&entry.path),
        method: entry
            .method
            .map_or_else(String::new, |method| method.as_str().to_owned()),
        headers: entry.headers.iter().map(header_match).collect(),
        query: entry
            .query
            .iter()
            .map(|param| wire::QueryMatch {
                name: param.name.clone(),
                value: param.value.clone(),
                regex: param.regex,
            })
            .collect(),
        grpc: matches!(entry.path, RoutePath::Grpc { .. }),
    }
}

/// `None` for what matches every path.
fn path(path: &RoutePath) -> Option<wire::PathMatch> {
    let plain = |kind, value: &String| {
        path_match(&PathMatch {
            kind,
            value: value.clone(),
        })
    };
    let kind = match path {
        RoutePath::Exact(value) => return plain(PathMatchType::Exact, value),
        RoutePath::Prefix(value) => return plain(PathMatchType::PathPrefix, value),
        RoutePath::Regex(value) => return plain(PathMatchType::RegularExpression, value),
        RoutePath::Grpc {
            service: None,
            method: None,
            ..
        } => return None,
        RoutePath::Grpc {
            service: Some(service),
            method: Some(method),
            regex: false,
        } => PathKind::Exact(format!("/{service}/{method}")),
        RoutePath::Grpc {
            service: Some(service),
            method: None,
            regex: false,
        } => PathKind::Prefix(format!("/{service}")),
        RoutePath::Grpc {
            service: None,
            method: Some(method),
            regex: false,
        } => PathKind::Regex(format!("/{ANY_NAME}/{}", literally(method))),
        RoutePath::Grpc {
            service,
            method,
            regex: true,
        } => {
            let part = |part: &Option<String>| part.clone().unwrap_or_else(|| ANY_NAME.to_owned());
            PathKind::Regex(format!("/(?:{})/(?:{})", part(service), part(method)))
        }
    };
    Some(wire::PathMatch { kind: Some(kind) })
}

/// A regular expression that only this text matches.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_punctuation() && letter != '_' {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// `None` where nothing is changed. `matched` is the prefix that is replaced, where one is; `port` is the
/// one that clients address.
pub(super) fn filters(filters: &Filters, matched: &str, port: u32) -> Option<wire::RouteFilters> {
    let redirected = filters.redirect.as_ref();
    let redirected = redirected.map(|it| Target::Redirect(redirect(it, matched, port)));
    let rewritten = filters.rewrite.as_ref();
    let rewritten = rewritten.map(|it| Target::Rewrite(rewrite(it, matched)));
    let message = wire::RouteFilters {
        request_headers: header_edits(&filters.request_headers),
        response_headers: header_edits(&filters.response_headers),
        target: redirected.or(rewritten),
    };
    (message != wire::RouteFilters::default()).then_some(message)
}

/// `None` where nothing is changed.
pub(super) fn header_edits(edits: &HeaderEdits) -> Option<wire::HeaderEdits> {
    let headers = |headers: &[(String, String)]| {
        let headers = headers.iter();
        headers
            .map(|(name, value)| wire::Header {
                name: name.clone(),
                value: value.clone(),
            })
            .collect()
    };
    (!edits.is_empty()).then(|| wire::HeaderEdits {
        set: headers(&edits.set),
        add: headers(&edits.add),
        remove: edits.remove.clone(),
    })
}

/// What sidecars route is plain HTTP. A port that is not given is that of a given scheme, else the one that
/// the client addressed.
fn redirect(redirect: &Redirect, matched: &str, port: u32) -> wire::Redirect {
    let own_port = match redirect.scheme.as_deref() {
        Some("https") => 443,
        Some(_) => 80,
        None => port,
    };
    wire::Redirect {
        scheme: redirect.scheme.clone().unwrap_or_else(|| "http".to_owned()),
        host: redirect.hostname.clone().unwrap_or_default(),
        port: redirect.port.map_or(own_port, u32::from),
        path: redirect.path.as_ref().map(|path| path_edit(path, matched)),
        status: u32::from(redirect.status),
    }
}

fn rewrite(rewrite: &Rewrite, matched: &str) -> wire::Rewrite {
    wire::Rewrite {
        host: rewrite.hostname.clone().unwrap_or_default(),
        path: rewrite.path.as_ref().map(|path| path_edit(path, matched)),
    }
}

fn path_edit(edit: &PathEdit, matched: &str) -> wire::PathEdit {
    let kind = match edit {
        PathEdit::Full(full) if full.is_empty() => EditKind::Full("/".to_owned()),
        PathEdit::Full(full) => EditKind::Full(full.clone()),
        PathEdit::Prefix(replacement) => EditKind::Prefix(wire::PrefixEdit {
            prefix: segments(matched),
            replacement: replacement.clone(),
        }),
    };
    wire::PathEdit { kind: Some(kind) }
}

/// What a route says about retries over what policy says, or over what a policy's empty stanza would: the
/// Gateway API leaves the rest to implementations.
pub(super) fn retries(retry: &RouteRetry, policy: Option<&Retries>) -> Retries {
    let mut retries = policy.cloned().unwrap_or_default();
    if !retry.codes.is_empty() {
        retries.status_codes.clone_from(&retry.codes);
    }
    if let Some(attempts) = retry.attempts {
        retries.attempts = attempts;
    }
    if let Some(base) = retry.backoff {
        let longest = base.get() * BACKOFF_RANGE;
        let longest = PolicyDuration::from_millis(longest.as_millis() as u64);
        retries.backoff = Backoff {
            base,
            max: retries.backoff.max.max(longest),
        };
    }
    retries
}

/// A limit in time as a route gives it over what policy says; zero is none.
pub(super) fn limit(
    given: Option<PolicyDuration>,
    policy: Option<prost_types::Duration>,
) -> Option<prost_types::Duration> {
    match given {
        None => policy,
        Some(given) => (!given.is_zero()).then(|| super::wire::duration(given)),
    }
}
