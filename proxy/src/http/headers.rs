//! Headers that a sidecar has an opinion about.
//!
//! Nothing here allocates for a message that needs no change. What is stripped is what RFC 9110
//! (7.6.1) reserves to one connection; stripping twice is the same as once.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use smallvec::SmallVec;

use weft_proto::names::headers as names;

use crate::outcome::{Failure, Outcome};

/// Concern one connection only, whatever `Connection` lists.
const HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("http2-settings"),
];
/// Never stripped because `Connection` lists them: they mean something to the far end, and a list
/// could be used to hide them from it.
const NEVER_LISTED: [HeaderName; 5] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::AUTHORIZATION,
    header::COOKIE,
    REQUEST_ID,
];
const REQUEST_ID: HeaderName = HeaderName::from_static(names::REQUEST_ID);
/// Bytes that each of our own headers' names fits in.
const OUR_NAME: usize = 32;
/// Of the greatest number of 64 bits.
const MAX_DIGITS: usize = 20;
/// `?watch=true` and its kin are looked for in this much of a query.
const MAX_QUERY: usize = 2_048;

/// In a request's extensions: the client sent its target in absolute form, and it is sent on so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsoluteForm;

/// Removes what concerns one connection only. While `upgrading`, `Upgrade` stays and is what
/// `Connection` lists. `TE` stays where it is exactly `trailers`.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, upgrading: bool) {
    // Most heads have nothing of it: going through their few names costs less than looking up each of
    // those that there could be.
    if upgrading || headers.keys().any(concerns_one_connection) {
        strip_what_is_there(headers, upgrading);
    }
}

fn concerns_one_connection(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TE
        || *name == header::UPGRADE
        || HOP_BY_HOP.contains(name)
}

fn strip_what_is_there(headers: &mut HeaderMap, upgrading: bool) {
    if headers.contains_key(header::CONNECTION) {
        strip_listed(headers, upgrading);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(te) = headers.get(header::TE)
        && (te != "trailers" || headers.get_all(header::TE).iter().nth(1).is_some())
    {
        headers.remove(header::TE);
    }
    if upgrading {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(header::UPGRADE);
    }
}

fn strip_listed(headers: &mut HeaderMap, upgrading: bool) {
    let mut listed: SmallVec<[HeaderName; 4]> = SmallVec::new();
    for token in tokens(headers, &header::CONNECTION) {
        // Names that are most often there are none.
        if token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(token) {
            listed.push(name);
        }
    }
    headers.remove(header::CONNECTION);
    for name in listed {
        let kept = name == header::TE
            || (upgrading && name == header::UPGRADE)
            || NEVER_LISTED.contains(&name);
        if !kept {
            headers.remove(name);
        }
    }
}

/// Removes `x-weft-*`: from what applications send, and from what an unverified peer sends.
pub fn strip_ours(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| name.as_str().starts_with(names::PREFIX);
    // Copied, as a clone of a name that came over the wire allocates; and once per name, so that a head
    // full of them costs no more than its length.
    let mut ours: SmallVec<[SmallVec<[u8; OUR_NAME]>; 2]> = SmallVec::new();
    for name in headers.keys().filter(is_ours) {
        ours.push(SmallVec::from_slice(name.as_str().as_bytes()));
    }
    for name in ours {
        if let Ok(name) = std::str::from_utf8(&name) {
            headers.remove(name);
        }
    }
}

/// The request's id, made where it is missing: 128 random bits in hex.
pub fn ensure_request_id(headers: &mut HeaderMap) -> HeaderValue {
    if let Some(id) = headers.get(REQUEST_ID)
        && !id.is_empty()
    {
        return id.clone();
    }
    let id = new_request_id(fastrand::u128(..));
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// The request's id as text, where it has one.
pub fn request_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(REQUEST_ID)?.to_str().ok()
}

fn new_request_id(random: u128) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut id = [0_u8; 32];
    for (index, digit) in id.iter_mut().enumerate() {
        *digit = HEX[(random >> (4 * index)) as usize & 0xf];
    }
    // One allocation for all of its clones: bytes that were copied would need a second one for the first.
    let id = Bytes::from_owner(id);
    HeaderValue::from_maybe_shared(id).expect("hex digits are a header value")
}

/// A number as a header's value.
pub fn number(mut number: u64) -> HeaderValue {
    let mut text = [0; MAX_DIGITS];
    let mut at = MAX_DIGITS;
    loop {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[at..]).expect("digits are a header value")
}

/// Whether an HTTP/1.1 request asks to change to another protocol. A wish for HTTP/2 (`h2c`) is none:
/// every request in it would pass by what is decided per request (RFC 9110, 7.8 lets it be ignored).
pub fn upgrade_wanted<B>(request: &Request<B>) -> bool {
    let is_http2 = |token: &[u8]| {
        ["h2c", "h2", "http/2", "http/2.0"]
            .iter()
            .any(|name| token.eq_ignore_ascii_case(name.as_bytes()))
    };
    request.version() == Version::HTTP_11
        && request.headers().contains_key(header::UPGRADE)
        && !tokens(request.headers(), &header::UPGRADE).any(is_http2)
        && tokens(request.headers(), &header::CONNECTION)
            .any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether the only protocol that a request would change to is WebSocket.
pub fn upgrades_to_websocket(headers: &HeaderMap) -> bool {
    let mut wanted = tokens(headers, &header::UPGRADE).peekable();
    wanted.peek().is_some() && wanted.all(|token| token.eq_ignore_ascii_case(b"websocket"))
}

/// Whether an HTTP/1 response says in one way only how long it is: chunked and nothing else, or one
/// length, or nothing (RFC 9112, 6.3). The same length said several times becomes one: whoever reads it
/// next may know no lists.
pub fn frame_once(headers: &mut HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        return coding.as_bytes().eq_ignore_ascii_case(b"chunked")
            && codings.next().is_none()
            && !headers.contains_key(header::CONTENT_LENGTH);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else {
        return true;
    };
    if lengths.next().is_none() && is_number(first.as_bytes()) {
        return true;
    }
    match the_same(tokens(headers, &header::CONTENT_LENGTH)) {
        Some(length) => {
            headers.insert(header::CONTENT_LENGTH, length);
            true
        }
        None => false,
    }
}

/// The number that all of these are.
fn the_same<'h>(mut said: impl Iterator<Item = &'h [u8]>) -> Option<HeaderValue> {
    let first = said.next().filter(|first| is_number(first))?;
    let length = HeaderValue::from_bytes(first).ok()?;
    said.all(|other| other == first).then_some(length)
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Refuses a head whose body's length is told more than once: two readers could believe two of them.
///
/// # Errors
///
/// `bad_request`.
pub fn one_length(head: &Parts) -> Result<(), Failure> {
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.nth(1).is_some() {
        return Err(bad_request("more than one content-length"));
    }
    Ok(())
}

/// The authority that a request names: that of its target, else `Host`. None where an HTTP/1.0
/// request names none.
///
/// # Errors
///
/// `bad_request` where there are two hosts, a target and a `Host` that differ, a `Host` that is no
/// authority, or none in an HTTP/1.1 request (RFC 9112, 3.2).
pub fn authority(head: &Parts) -> Result<Option<Authority>, Failure> {
    match named(head)? {
        Named::Nobody => Ok(None),
        Named::Target(target) => Ok(Some(target.clone())),
        Named::Host(host) => parse_host(host).map(Some),
    }
}

/// Refuses what [`authority`] refuses. Hosts of the common form, a name or an IPv4 address with or without a
/// port, cost no allocation.
///
/// # Errors
///
/// As [`authority`].
pub fn one_authority(head: &Parts) -> Result<(), Failure> {
    match named(head)? {
        Named::Host(host) if !is_plain_host(host.as_bytes()) => parse_host(host).map(drop),
        Named::Host(_) | Named::Target(_) | Named::Nobody => Ok(()),
    }
}

/// Who names the authority of a request.
enum Named<'h> {
    Nobody,
    Target(&'h Authority),
    Host(&'h HeaderValue),
}

fn named(head: &Parts) -> Result<Named<'_>, Failure> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad_request("more than one host"));
    }
    let target = head.uri.authority();
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        if target.is_none() && head.version == Version::HTTP_11 && host.is_none() {
            return Err(bad_request("no host"));
        }
        return Ok(target.map_or(Named::Nobody, Named::Target));
    };
    let Some(target) = target else {
        return Ok(Named::Host(host));
    };
    if !target
        .as_str()
        .as_bytes()
        .eq_ignore_ascii_case(host.as_bytes())
    {
        return Err(bad_request("the target and the host differ"));
    }
    Ok(Named::Target(target))
}

fn parse_host(host: &HeaderValue) -> Result<Authority, Failure> {
    let host = Authority::try_from(host.as_bytes()).map_err(|_| bad_request("not a host"))?;
    if host.as_str().contains('@') {
        return Err(bad_request("not a host"));
    }
    Ok(host)
}

/// Letters, digits, dots and hyphens, and perhaps a port: certainly an authority.
fn is_plain_host(host: &[u8]) -> bool {
    let colon = host.iter().position(|byte| *byte == b':');
    let (name, port) = host.split_at(colon.unwrap_or(host.len()));
    let is_port = match port {
        [] => true,
        [_, digits @ ..] => matches!(digits.len(), 1..=5) && is_number(digits),
    };
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    !name.is_empty() && name.iter().all(is_plain) && is_port
}

/// Makes a head as it came in fit a connection of its own version.
///
/// # Errors
///
/// As [`prepare_h2`].
pub fn prepare<B>(request: &mut Request<B>) -> Result<(), Failure> {
    if request.version() == Version::HTTP_2 {
        return prepare_h2(request, &Scheme::HTTP);
    }
    remember_form(request);
    prepare_h1(request);
    Ok(())
}

/// Makes a head fit an HTTP/1 connection: version 1.1, `Host`, one `Cookie`, and the target in origin
/// form, or in absolute form where [`AbsoluteForm`] says so. CONNECT keeps its authority.
///
/// Where HTTP/1 comes in and goes out nothing is to be done but for absolute forms.
pub fn prepare_h1<B>(request: &mut Request<B>) {
    let from_http2 = request.version() == Version::HTTP_2;
    let from_http10 = request.version() == Version::HTTP_10;
    *request.version_mut() = Version::HTTP_11;
    if from_http2 {
        join_cookies(request.headers_mut());
    }
    if let Some(authority) = request.uri().authority()
        && !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    // HTTP/1.1 has to name one; it is empty where nobody knows it (RFC 9112, 3.2).
    if from_http10 && !request.headers().contains_key(header::HOST) {
        let nobody = HeaderValue::from_static("");
        request.headers_mut().insert(header::HOST, nobody);
    }
    let absolute = request.uri().scheme().is_some();
    if *request.method() == Method::CONNECT || !absolute {
        return;
    }
    if request.extensions().get::<AbsoluteForm>().is_some() && !from_http2 {
        return;
    }
    let path = request.uri().path_and_query().cloned();
    let asterisk = *request.method() == Method::OPTIONS && request.uri().path() == "*";
    let path = path.unwrap_or_else(|| PathAndQuery::from_static(if asterisk { "*" } else { "/" }));
    *request.uri_mut() = Uri::from(path);
}

/// Notes in the extensions of an HTTP/1 request as it came in that its target is in absolute form.
pub fn remember_form<B>(request: &mut Request<B>) {
    let absolute = request.version() != Version::HTTP_2
        && request.uri().scheme().is_some()
        && *request.method() != Method::CONNECT;
    if absolute {
        request.extensions_mut().insert(AbsoluteForm);
    }
}

/// Makes a head fit an HTTP/2 connection: scheme and authority in its target, no `Host`.
///
/// # Errors
///
/// `bad_request` where no authority is named, or as [`authority`] says.
pub fn prepare_h2<B>(request: &mut Request<B>, scheme: &Scheme) -> Result<(), Failure> {
    let whole = request.uri().scheme().is_some() && request.uri().authority().is_some();
    let connect = *request.method() == Method::CONNECT && request.uri().authority().is_some();
    if request.version() == Version::HTTP_2 && (whole || connect) {
        request.headers_mut().remove(header::HOST);
        return Ok(());
    }
    let host = request.headers_mut().remove(header::HOST);
    let authority = match (request.uri().authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| bad_request("not a host"))?
        }
        (None, None) => return Err(bad_request("no host")),
    };
    *request.version_mut() = Version::HTTP_2;
    if connect {
        return Ok(());
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::builder()
        .scheme(scheme.clone())
        .authority(authority)
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build()
        .map_err(|_| bad_request("not a target"))?;
    Ok(())
}

/// Whether a message is gRPC, by its content type. (gRPC-Web is not: its trailers are body.)
pub fn is_grpc(headers: &HeaderMap) -> bool {
    content_type(headers)
        .and_then(|value| strip_prefix_ignore_case(value, b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Whether an exchange streams, as far as its request tells: an upgrade, CONNECT, gRPC, a client
/// that accepts events, or a watch (`?watch=true`). For such, the request timeout ends with the
/// response head.
pub fn request_streams<B>(request: &Request<B>) -> bool {
    *request.method() == Method::CONNECT
        || upgrade_wanted(request)
        || streaming_type(content_type(request.headers()))
        || accepts_events(request.headers())
        || is_watch(request.uri())
}

/// Whether an exchange streams, as far as its response tells.
pub fn response_streams(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || streaming_type(content_type(headers))
}

fn content_type(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes)
}

fn streaming_type(content_type: Option<&[u8]>) -> bool {
    const WHOLE: [&[u8]; 3] = [
        b"text/event-stream",
        b"multipart/x-mixed-replace",
        b"application/x-ndjson",
    ];
    let Some(value) = content_type else {
        return false;
    };
    strip_prefix_ignore_case(value, b"application/grpc").is_some()
        || WHOLE.iter().any(|known| {
            strip_prefix_ignore_case(value, known)
                .is_some_and(|rest| matches!(rest.first(), None | Some(b';' | b' ')))
        })
}

fn accepts_events(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|accept| {
        strip_prefix_ignore_case(accept.as_bytes(), b"text/event-stream").is_some()
    })
}

fn is_watch(uri: &Uri) -> bool {
    uri.query()
        .filter(|query| query.len() <= MAX_QUERY)
        .is_some_and(|query| {
            query
                .split('&')
                .any(|pair| matches!(pair, "watch=true" | "watch=1"))
        })
}

fn strip_prefix_ignore_case<'v>(value: &'v [u8], prefix: &[u8]) -> Option<&'v [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// HTTP/2 may send crumbs; HTTP/1 wants one `Cookie` (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(header::COOKIE, joined);
    }
}

/// The members of a list, whatever stands beside them: a byte that is no text hides no other member.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

fn bad_request(detail: &'static str) -> Failure {
    Failure::never(Outcome::BadRequest, detail)
}

#[cfg(test)]
mod tests;
