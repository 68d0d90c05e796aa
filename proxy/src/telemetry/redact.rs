//! What people may see of requests that are not theirs. Pure.
//!
//! Headers are shown by a short list of names that carry nothing secret; of every other header only that it
//! was there. There is no switch for more: who needs a credential has other ways to it. Values in a query
//! are hidden unless somebody asks for them, since links with tokens in them are common; names stay.

use std::borrow::Cow;

use http::HeaderName;

/// What stands where something was.
pub const REDACTED: &str = "<redacted>";

/// Headers whose values are shown.
const HARMLESS: [&str; 22] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "b3",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "grpc-timeout",
    "host",
    "range",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-request-id",
    "x-weft-attempt",
];

/// A header's value as it is shown.
pub fn header<'v>(name: &HeaderName, value: &'v str) -> &'v str {
    match name.as_str() {
        "host" => without_userinfo(value),
        name if HARMLESS.binary_search(&name).is_ok() => value,
        _ => REDACTED,
    }
}

/// An authority without the name and password that may stand before its host.
pub fn without_userinfo(authority: &str) -> &str {
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

/// A path with its query, whose values are hidden: `/a?b=c&d` is `/a?b=<redacted>&<redacted>`.
pub fn query(path: &str) -> Cow<'_, str> {
    let Some((path, query)) = path.split_once('?') else {
        return Cow::Borrowed(path);
    };
    let hidden = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, "")) => format!("{name}="),
        Some((name, _)) => format!("{name}={REDACTED}"),
        // What has no name is a value.
        None if pair.is_empty() => String::new(),
        None => REDACTED.to_owned(),
    });
    let hidden: Vec<String> = hidden.collect();
    Cow::Owned(format!("{path}?{}", hidden.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_harmless_is_shown() {
        assert!(HARMLESS.is_sorted(), "searched by halves");
        for (name, shown) in [
            ("accept", "secret"),
            ("authorization", REDACTED),
            ("cookie", REDACTED),
            ("proxy-authorization", REDACTED),
            ("user-agent", "secret"),
            ("x-api-key", REDACTED),
            ("x-request-id", "secret"),
        ] {
            let name = HeaderName::from_static(name);
            assert_eq!(header(&name, "secret"), shown, "{name}");
        }
        let host = HeaderName::from_static("host");
        assert_eq!(header(&host, "ann:secret@shop:80"), "shop:80");
    }

    #[test]
    fn values_of_a_query_are_hidden() {
        for (path, shown) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?b=c", "/a?b=<redacted>"),
            ("/a?b=c=d&e=&f", "/a?b=<redacted>&e=&<redacted>"),
            ("/a?b=c?d=e", "/a?b=<redacted>"),
            ("", ""),
        ] {
            assert_eq!(query(path), shown, "{path}");
        }
    }
}
