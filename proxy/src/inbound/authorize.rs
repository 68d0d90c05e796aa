//! Who may do what: a pure decision over what policy allows.
//!
//! Several services may lead to one port, each with a list; every list must allow. An entry with
//! methods or paths never matches what is not HTTP. Paths are compared in a normalised form
//! (RFC 3986 section 6.2.2), by whole segments; the request itself is forwarded as it came.

use std::borrow::Cow;

use http::Method;
use weft_proto::spiffe::SpiffeId;

use crate::policy::{AllowEntry, AllowList, Principal};

/// What a caller wants.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'a> {
    /// To send bytes.
    Bytes,
    /// To make a request.
    Request {
        /// Its method.
        method: &'a Method,
        /// Its path, without the query.
        path: &'a str,
    },
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every list allows it.
    Allow,
    /// Only lists that merely audit would deny it.
    AllowAudited,
    /// A list denies it.
    Deny,
}

/// Decides on `wish` of `caller` (`None`: nobody proved to be anybody).
pub fn authorize(lists: &[AllowList], caller: Option<&SpiffeId>, wish: Wish<'_>) -> Decision {
    if lists.is_empty() {
        return Decision::Allow;
    }
    let wish = match wish {
        Wish::Bytes => None,
        Wish::Request { method, path } => match normalise(path) {
            Some(path) => Some((method, path)),
            // A path that climbs above its root means nothing that could be allowed.
            None => return deny(lists.iter()),
        },
    };
    let allows = |list: &&AllowList| {
        let matches = |entry| entry_matches(entry, caller, wish.as_ref());
        list.entries.iter().any(matches)
    };
    deny(lists.iter().filter(|list| !allows(list)))
}

/// Whether a policy looks into requests, so that bytes that hide them must not pass unseen.
pub fn has_request_rules(lists: &[AllowList]) -> bool {
    let looks = |entry: &AllowEntry| !entry.methods.is_empty() || !entry.paths.is_empty();
    lists.iter().flat_map(|list| &list.entries).any(looks)
}

/// The decision, given the lists that do not allow.
fn deny<'a>(unwilling: impl Iterator<Item = &'a AllowList>) -> Decision {
    let mut decision = Decision::Allow;
    for list in unwilling {
        if !list.audit {
            return Decision::Deny;
        }
        decision = Decision::AllowAudited;
    }
    decision
}

fn entry_matches(
    entry: &AllowEntry,
    caller: Option<&SpiffeId>,
    request: Option<&(&Method, Cow<'_, str>)>,
) -> bool {
    let Some(caller) = caller else {
        return false;
    };
    if !entry
        .principals
        .iter()
        .any(|principal| principal_matches(principal, caller))
    {
        return false;
    }
    match request {
        None => entry.methods.is_empty() && entry.paths.is_empty(),
        Some((method, path)) => {
            let method_fits = entry.methods.is_empty() || entry.methods.contains(method);
            let path_fits =
                entry.paths.is_empty() || entry.paths.iter().any(|prefix| is_below(prefix, path));
            method_fits && path_fits
        }
    }
}

fn principal_matches(principal: &Principal, caller: &SpiffeId) -> bool {
    match principal {
        Principal::Exact(id) => **id == *caller.as_str(),
        Principal::Prefix(start) => caller.as_str().starts_with(&**start),
    }
}

/// Whether `path` is `prefix` or lies below it.
fn is_below(prefix: &str, path: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path as servers commonly read it: percent-encoding decoded once, empty and dot segments
/// resolved. `None` when it climbs above the root or is no path.
fn normalise(path: &str) -> Option<Cow<'_, str>> {
    let plain = !path.contains('%') && !path.contains("//") && !path.contains("/.");
    if plain && path.starts_with('/') {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.strip_prefix('/')?.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop()?;
            }
            other => segments.push(other),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if normal.is_empty() || decoded.ends_with('/') {
        normal.push('/');
    }
    Some(Cow::Owned(normal))
}

/// Decodes percent-encoding once; `None` where it is broken, hides a NUL or is not UTF-8.
fn decode(path: &str) -> Option<String> {
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        decoded.push((high * 16 + low) as u8);
    }
    if decoded.contains(&0) {
        return None;
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(principal: &str, methods: &[Method], paths: &[&str]) -> AllowList {
        let principal = match principal.strip_suffix('*') {
            Some(start) => Principal::Prefix(start.into()),
            None => Principal::Exact(principal.into()),
        };
        AllowList {
            entries: vec![AllowEntry {
                principals: vec![principal],
                methods: methods.to_vec(),
                paths: paths.iter().map(|path| (*path).into()).collect(),
            }],
            audit: false,
        }
    }

    fn get(path: &str) -> Wish<'_> {
        Wish::Request {
            method: &Method::GET,
            path,
        }
    }

    #[test]
    fn every_list_must_allow() {
        let web = SpiffeId::new("t", "shop", "web").unwrap();
        let job = SpiffeId::new("t", "shop", "job").unwrap();
        let shop = list("spiffe://t/ns/shop/sa/*", &[], &[]);
        let only_web = list("spiffe://t/ns/shop/sa/web", &[], &[]);
        let both = [shop.clone(), only_web.clone()];
        assert_eq!(authorize(&both, Some(&web), Wish::Bytes), Decision::Allow);
        assert_eq!(authorize(&both, Some(&job), Wish::Bytes), Decision::Deny);
        assert_eq!(authorize(&both, None, Wish::Bytes), Decision::Deny);
        assert_eq!(authorize(&[], None, Wish::Bytes), Decision::Allow);
        let audited = [
            shop,
            AllowList {
                audit: true,
                ..only_web
            },
        ];
        assert_eq!(
            authorize(&audited, Some(&job), Wish::Bytes),
            Decision::AllowAudited
        );
    }

    #[test]
    fn what_looks_into_requests_never_matches_bytes() {
        let web = SpiffeId::new("t", "shop", "web").unwrap();
        let lists = [list(
            "spiffe://t/ns/shop/sa/web",
            &[Method::GET],
            &["/cart"],
        )];
        assert!(has_request_rules(&lists));
        assert_eq!(authorize(&lists, Some(&web), Wish::Bytes), Decision::Deny);
        assert_eq!(
            authorize(&lists, Some(&web), get("/cart/1")),
            Decision::Allow
        );
        let post = Wish::Request {
            method: &Method::POST,
            path: "/cart",
        };
        assert_eq!(authorize(&lists, Some(&web), post), Decision::Deny);
    }

    #[test]
    fn paths_are_compared_as_servers_read_them() {
        let web = SpiffeId::new("t", "shop", "web").unwrap();
        let lists = [list("spiffe://t/ns/shop/sa/web", &[], &["/cart"])];
        for allowed in [
            "/cart",
            "/cart/",
            "//cart",
            "/x/../cart/1",
            "/%63art",
            "/cart/.hidden",
        ] {
            assert_eq!(
                authorize(&lists, Some(&web), get(allowed)),
                Decision::Allow,
                "{allowed}"
            );
        }
        for denied in [
            "/cartoon",
            "/",
            "/cart/../admin",
            "/cart/%2e%2e/admin",
            "/cart/..%2fadmin",
            "/../cart",
            "/cart/%zz",
            "/cart/%00",
            "*",
            "",
        ] {
            assert_eq!(
                authorize(&lists, Some(&web), get(denied)),
                Decision::Deny,
                "{denied}"
            );
        }
    }
}
