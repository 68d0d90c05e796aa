//! Cookies of a request (RFC 6265, section 4.2.1).

use http::HeaderMap;
use http::header::COOKIE;

/// The value of the first cookie `name`.
pub fn find<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    // By bytes: what other cookies hold, which need not be text, hides none.
    let values = headers.get_all(COOKIE).iter();
    let pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let value = pairs
        .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes()))
        .find_map(|rest| rest.strip_prefix(b"="))?;
    let value = std::str::from_utf8(value).ok()?;
    Some(value.trim_matches('"'))
}
