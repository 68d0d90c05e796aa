use http_body_util::BodyExt;

use http::Request;

use super::*;
use crate::http::body::RequestBody;

fn request(
    method: &str,
    uri: &str,
    fields: &[(&str, &str)],
    body: RequestBody,
) -> Request<RequestBody> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// All that is written of a request whose body is at hand.
fn written(request: Request<RequestBody>) -> Result<String, BodyError> {
    let mut request = Outgoing::new(request);
    let mut out = Out::default();
    let mut framing = head(&request, &mut out)?.framing;
    let ((head, _), body) = request.split();
    let (parts, body) = (
        head.headers.clone(),
        std::mem::replace(body, RequestBody::Empty),
    );
    let data = futures_util::FutureExt::now_or_never(body.collect())
        .unwrap()?
        .to_bytes();
    let mut all = Vec::new();
    framing.data(data, &mut out)?;
    drain(&mut out, &mut all);
    framing.end(&parts, None, &mut out)?;
    drain(&mut out, &mut all);
    Ok(String::from_utf8(all).unwrap())
}

/// Writes all that waits, three bytes at a time.
fn drain(out: &mut Out, all: &mut Vec<u8>) {
    while !out.is_empty() {
        let [short, long] = out.pieces();
        let some: Vec<u8> = short.iter().chain(long.iter()).copied().take(3).collect();
        all.extend_from_slice(&some);
        out.advance(some.len());
    }
}

#[test]
fn each_body_is_framed_in_one_way() {
    let full = || RequestBody::full("body");
    for (request, expected) in [
        (
            request(
                "GET",
                "/a?b",
                &[("host", "h"), ("x", "y")],
                RequestBody::Empty,
            ),
            "GET /a?b HTTP/1.1\r\nhost: h\r\nx: y\r\n\r\n",
        ),
        (
            request("GET", "http://h/a", &[("host", "h")], RequestBody::Empty),
            "GET http://h/a HTTP/1.1\r\nhost: h\r\n\r\n",
        ),
        (
            request("OPTIONS", "*", &[], RequestBody::Empty),
            "OPTIONS * HTTP/1.1\r\n\r\n",
        ),
        (
            request("CONNECT", "h:1", &[], RequestBody::Empty),
            "CONNECT h:1 HTTP/1.1\r\n\r\n",
        ),
        (
            request("POST", "/", &[], full()),
            "POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody",
        ),
        (
            request("POST", "/", &[("content-length", "4")], full()),
            "POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody",
        ),
        (
            request("POST", "/", &[("content-length", "0")], RequestBody::Empty),
            "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            request(
                "POST",
                "/",
                &[("transfer-encoding", "chunked")],
                RequestBody::Empty,
            ),
            "POST / HTTP/1.1\r\n\r\n",
        ),
        (
            request(
                "POST",
                "/",
                &[("transfer-encoding", "chunked"), ("content-length", "4")],
                full(),
            ),
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ),
        (
            request("POST", "/", &[("transfer-encoding", "gzip")], full()),
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ),
    ] {
        assert_eq!(written(request).unwrap(), expected);
    }
}

#[test]
fn a_length_that_the_body_does_not_keep_is_an_error() {
    for length in ["3", "5", "4, 4", "four", "+4", ""] {
        let request = request(
            "POST",
            "/",
            &[("content-length", length)],
            RequestBody::full("body"),
        );
        assert!(written(request).is_err(), "{length}");
    }
    let twice = [("content-length", "4"), ("content-length", "4")];
    assert!(written(request("POST", "/", &twice, RequestBody::full("body"))).is_err());
    let none = request("POST", "/", &[("content-length", "1")], RequestBody::Empty);
    assert!(written(none).is_err());
}

#[test]
fn long_chunks_are_not_copied_and_end_as_they_should() {
    let long = Bytes::from(vec![b'x'; 2 * SHORT]);
    let mut out = Out::default();
    let mut framing = Framing::Chunked;
    framing.data(long.clone(), &mut out).unwrap();
    assert!(!out.is_short());
    assert_eq!(out.pieces()[1].as_ptr(), long.as_ptr());
    let mut all = Vec::new();
    drain(&mut out, &mut all);
    framing.end(&HeaderMap::new(), None, &mut out).unwrap();
    drain(&mut out, &mut all);
    let expected = format!("{:x}\r\n{}\r\n0\r\n\r\n", 2 * SHORT, "x".repeat(2 * SHORT));
    assert_eq!(String::from_utf8(all).unwrap(), expected);
}

#[test]
fn trailers_are_sent_where_the_head_announced_them() {
    let mut announced = HeaderMap::new();
    announced.insert(
        header::TRAILER,
        HeaderValue::from_static("x-sum, Content-Length"),
    );
    let mut trailers = HeaderMap::new();
    for name in ["x-sum", "x-other", "content-length"] {
        trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    let mut out = Out::default();
    Framing::Chunked
        .end(&announced, Some(&trailers), &mut out)
        .unwrap();
    assert_eq!(&*out.pieces()[0], b"0\r\nx-sum: 1\r\n\r\n");
}

#[test]
fn a_request_that_says_close_is_the_last_one() {
    for (value, is_last) in [("close", true), ("a, CLOSE", true), ("upgrade", false)] {
        let request = request("GET", "/", &[("connection", value)], RequestBody::Empty);
        let written = head(&Outgoing::new(request), &mut Out::default()).unwrap();
        assert_eq!(written.is_last, is_last);
    }
}

#[test]
fn fields_of_one_try_stand_for_the_heads_own() {
    let (parts, body) = request(
        "GET",
        "/",
        &[("a", "1"), ("b", "2"), ("a", "3")],
        RequestBody::Empty,
    )
    .into_parts();
    let mut lent = Outgoing::lent(&parts, body);
    lent.set(HeaderName::from_static("a"), HeaderValue::from_static("4"));
    let mut out = Out::default();
    head(&lent, &mut out).unwrap();
    assert_eq!(&*out.pieces()[0], b"GET / HTTP/1.1\r\nb: 2\r\na: 4\r\n\r\n");
    let taken = lent.take();
    let all: Vec<_> = taken.headers().get_all("a").iter().collect();
    assert_eq!(all, ["4"]);
}
