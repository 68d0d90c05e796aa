//! Headers on their way through a sidecar.
//!
//! Input: lines of headers; then, behind a separator, a target; then, behind another, anything for a
//! message that is upgrading.

use std::collections::{BTreeMap, BTreeSet};

use http::header::{HOST, HeaderName, HeaderValue};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Uri, Version};
use weft_proxy::http::headers as ours;

use crate::input::part;

/// Values by name, in order.
type Fields = BTreeMap<String, Vec<Vec<u8>>>;

/// Of one connection only (RFC 9110, 7.6.1), and what came before that section.
const OF_ONE_CONNECTION: [&str; 7] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
];
/// What a list in `Connection` may not hide.
const NEVER_LISTED: [&str; 4] = ["authorization", "content-length", "cookie", "host"];

/// What concerns one connection goes, all else stays as it is; twice is once; nobody sends our headers.
pub fn target(data: &[u8]) {
    let headers = read(part(data, 0));
    stripping(&headers, !part(data, 2).is_empty());
    let without = {
        let mut headers = headers.clone();
        ours::strip_ours(&mut headers);
        fields(&headers)
    };
    let mut expected = fields(&headers);
    expected.retain(|name, _| !name.starts_with("x-weft-"));
    assert_eq!(without, expected);

    if let Ok(uri) = Uri::try_from(part(data, 1)) {
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            for method in [Method::GET, Method::OPTIONS, Method::CONNECT] {
                preparing(&headers, &uri, version, &method);
            }
        }
    }
}

fn stripping(headers: &HeaderMap, upgrading: bool) {
    let mut stripped = headers.clone();
    ours::strip_hop_by_hop(&mut stripped, upgrading);
    assert_eq!(fields(&stripped), stripped_slowly(headers, upgrading));

    let once = fields(&stripped);
    ours::strip_hop_by_hop(&mut stripped, upgrading);
    assert_eq!(fields(&stripped), once);
}

/// A request made fit for its own version and for HTTP/2 names whom it named before.
fn preparing(headers: &HeaderMap, uri: &Uri, version: Version, method: &Method) {
    let request = || {
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.version_mut() = version;
        *request.headers_mut() = headers.clone();
        request
    };
    let (head, ()) = request().into_parts();
    let _ = ours::one_length(&head);
    let Ok(authority) = ours::authority(&head) else {
        return;
    };
    let named = |request: &Request<()>| {
        let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
        let target = request.uri().authority().map(|it| it.as_str().as_bytes());
        target.or(host).map(<[u8]>::to_ascii_lowercase)
    };
    let asked = authority.map(|it| it.as_str().as_bytes().to_ascii_lowercase());

    let mut own = request();
    if ours::prepare(&mut own).is_ok() {
        if version != Version::HTTP_2 {
            assert_eq!(own.version(), Version::HTTP_11);
            let host = own.headers().contains_key(HOST);
            assert!(host || *method == Method::CONNECT, "a request without host");
        }
        if asked.is_some() {
            assert_eq!(named(&own), asked);
        }
        let mut kept = fields(own.headers());
        let mut had = fields(headers);
        kept.remove("host");
        had.remove("host");
        assert_eq!(kept, had);
    }
    let mut other = request();
    if ours::prepare_h2(&mut other, &Scheme::HTTP).is_ok() {
        assert_eq!(other.version(), Version::HTTP_2);
        assert!(!other.headers().contains_key(HOST));
        assert!(other.uri().authority().is_some());
        if asked.is_some() {
            assert_eq!(named(&other), asked);
        }
    }
}

fn read(text: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}

fn fields(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in headers {
        let values = fields.entry(name.as_str().to_owned()).or_default();
        values.push(value.as_bytes().to_vec());
    }
    fields
}

fn stripped_slowly(headers: &HeaderMap, upgrading: bool) -> Fields {
    let mut fields = fields(headers);
    let listed: BTreeSet<Vec<u8>> = fields
        .get("connection")
        .into_iter()
        .flatten()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|token| token.trim_ascii().to_ascii_lowercase())
        .collect();
    fields.retain(|name, values| match name.as_str() {
        "te" => values.len() == 1 && values[0] == b"trailers",
        "upgrade" => upgrading,
        name if OF_ONE_CONNECTION.contains(&name) => false,
        name => NEVER_LISTED.contains(&name) || !listed.contains(name.as_bytes()),
    });
    if upgrading {
        fields.insert("connection".to_owned(), vec![b"upgrade".to_vec()]);
    }
    fields
}
