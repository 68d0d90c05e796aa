use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::resilience::cookie::find;

#[test]
fn cookies_are_found() {
    let mut map = HeaderMap::new();
    for line in ["a=1; weft-canary=\"x\"", "b=2"] {
        map.append(COOKIE, HeaderValue::from_static(line));
    }
    assert_eq!(find(&map, "a"), Some("1"));
    assert_eq!(find(&map, "b"), Some("2"));
    assert_eq!(find(&map, "weft-canary"), Some("x"));
    assert_eq!(find(&map, "c"), None);
    assert_eq!(find(&map, "weft"), None);

    // Another cookie that is no text hides none, and is none.
    let mut map = HeaderMap::new();
    let line = HeaderValue::from_bytes(b"name=J\xf6rg; a=1;b=\xff").unwrap();
    map.append(COOKIE, line);
    assert_eq!(find(&map, "a"), Some("1"));
    assert_eq!(find(&map, "b"), None);
}
