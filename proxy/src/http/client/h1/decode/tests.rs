use bytes::BytesMut;
use http::{Method, Version};
use proptest::prelude::*;

use super::*;

const LIMITS: ProcessLimits = ProcessLimits {
    header_bytes: 512,
    headers: 8,
    ..ProcessLimits::DEFAULT
};

fn found(text: &str, method: &Method) -> Result<Found, Malformed> {
    head(&mut BytesMut::from(text), method, &LIMITS)
}

/// The head of an answer to GET, which is whole.
fn whole(text: &str) -> Result<Head, Malformed> {
    match found(text, &Method::GET)? {
        Found::Head(head) => Ok(head),
        other => panic!("{other:?} of {text:?}"),
    }
}

/// How the framing of an answer to `method` is read.
fn read_as(method: &Method, status: &str, fields: &str) -> Result<String, Malformed> {
    let text = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
    let Found::Head(head) = found(&text, method)? else {
        panic!("no head in {text:?}");
    };
    let framing = match head.framing {
        Framing::Length(length) => length.to_string(),
        Framing::Chunked(_) => "chunked".to_owned(),
        Framing::Close => "close".to_owned(),
    };
    let switches = if head.switches { " switches" } else { "" };
    let is_last = if head.is_last { " last" } else { "" };
    Ok(format!("{framing}{switches}{is_last}"))
}

#[test]
fn a_head_is_read_and_taken_away() {
    let mut bytes = BytesMut::from(
        "HTTP/1.1 200 Fine\r\nContent-Length: 3\r\nX-A: one\r\nx-a:  two \r\nx-empty:\r\n\r\nabcd",
    );
    let Found::Head(head) = head(&mut bytes, &Method::GET, &LIMITS).unwrap() else {
        panic!("no head");
    };
    assert_eq!(bytes, "abcd");
    let response = &head.response;
    assert_eq!(response.status(), 200);
    assert_eq!(response.version(), Version::HTTP_11);
    let all: Vec<_> = response.headers().get_all("x-a").iter().collect();
    assert_eq!(all, ["one", "two"]);
    assert_eq!(response.headers()["x-empty"], "");
    let reason = response.extensions().get::<ReasonPhrase>().unwrap();
    assert_eq!(reason.as_bytes(), b"Fine");
    assert!(matches!(head.framing, Framing::Length(3)));
    assert!(!head.is_last && !head.switches);
}

#[test]
fn the_usual_reason_is_not_kept() {
    let head = whole("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert!(head.response.extensions().get::<ReasonPhrase>().is_none());
    let head = whole("HTTP/1.1 404\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert_eq!(head.response.status(), 404);
}

#[test]
fn framing_is_read_in_one_way_or_not_at_all() {
    let get = &Method::GET;
    let ok = |read: &str| Ok(read.to_owned());
    for (method, status, fields, expected) in [
        (get, "200 OK", "content-length: 7\r\n", ok("7")),
        (get, "200 OK", "content-length: 7, 7\r\n", ok("7")),
        (
            get,
            "200 OK",
            "content-length: 7\r\nconnection: x, Close\r\n",
            ok("7 last"),
        ),
        (
            get,
            "200 OK",
            "transfer-encoding: Chunked\r\n",
            ok("chunked"),
        ),
        (get, "200 OK", "", ok("close last")),
        (get, "204 No Content", "", ok("0")),
        (get, "304 Not Modified", "content-length: 7\r\n", ok("0")),
        (&Method::HEAD, "200 OK", "content-length: 7\r\n", ok("0")),
        (
            &Method::HEAD,
            "200 OK",
            "transfer-encoding: chunked\r\n",
            ok("0"),
        ),
        (get, "101 Switching Protocols", "", ok("0 switches")),
        (&Method::CONNECT, "200 OK", "", ok("0 switches")),
        (
            &Method::CONNECT,
            "403 Forbidden",
            "content-length: 1\r\n",
            ok("1"),
        ),
        (
            get,
            "200 OK",
            "content-length: 7\r\ntransfer-encoding: chunked\r\n",
            Err(Malformed::TwoReadings),
        ),
        (
            get,
            "200 OK",
            "content-length: 7\r\ncontent-length: 8\r\n",
            Err(Malformed::TwoReadings),
        ),
        (
            get,
            "200 OK",
            "content-length: +7\r\n",
            Err(Malformed::TwoReadings),
        ),
        (
            get,
            "200 OK",
            "content-length: 99999999999999999999\r\n",
            Err(Malformed::TwoReadings),
        ),
        (
            get,
            "200 OK",
            "transfer-encoding: gzip, chunked\r\n",
            Err(Malformed::TwoReadings),
        ),
        (
            get,
            "200 OK",
            "content-length : 7\r\n",
            Err(Malformed::Syntax),
        ),
        (get, "200 OK", "x: a\r\n b\r\n", Err(Malformed::Syntax)),
        (get, "20 OK", "", Err(Malformed::Syntax)),
    ] {
        assert_eq!(
            read_as(method, status, fields),
            expected,
            "{method} {status} {fields:?}"
        );
    }
}

#[test]
fn http_1_0_is_not_kept_and_knows_no_chunks() {
    let head = whole("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\n");
    assert!(head.unwrap().is_last);
    let head = whole("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(head.unwrap_err(), Malformed::TwoReadings);
}

#[test]
fn interim_answers_are_passed_over() {
    let text = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    let mut bytes = BytesMut::from(text);
    let first = head(&mut bytes, &Method::GET, &LIMITS).unwrap();
    assert!(matches!(first, Found::Interim));
    let second = head(&mut bytes, &Method::GET, &LIMITS).unwrap();
    assert!(matches!(second, Found::Head(head) if head.response.status() == 200));
}

#[test]
fn heads_are_bounded() {
    let fields = |count: usize| "a: b\r\n".repeat(count);
    assert!(whole(&format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(8))).is_ok());
    let error = found(
        &format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(9)),
        &Method::GET,
    );
    assert_eq!(error.unwrap_err(), Malformed::Fields);
    let long = |len: usize| format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(len));
    let error = found(&(long(512) + "\r\n\r\n"), &Method::GET);
    assert_eq!(error.unwrap_err(), Malformed::Bytes);
    assert!(matches!(found(&long(400), &Method::GET), Ok(Found::More)));
    // Where more fields are allowed than the usual.
    let many = ProcessLimits {
        headers: 300,
        header_bytes: 1 << 16,
        ..LIMITS
    };
    let mut bytes = BytesMut::from(&*format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(300)));
    let found = head(&mut bytes, &Method::GET, &many).unwrap();
    assert!(matches!(found, Found::Head(head) if head.response.headers().len() == 300));
}

/// Data, trailers, and what is left behind them.
type Read = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// Reads a body that comes in pieces.
fn read_chunks(pieces: &[&[u8]]) -> Result<Read, Malformed> {
    let mut chunked = Chunked::default();
    let mut bytes = BytesMut::new();
    let (mut data, mut trailers) = (Vec::new(), None);
    for piece in pieces {
        bytes.extend_from_slice(piece);
        loop {
            match chunked.read(&mut bytes, &LIMITS)? {
                Piece::Data(some) => data.extend_from_slice(&some),
                Piece::Trailers(some) => trailers = Some(some),
                Piece::More => break,
                Piece::End => return Ok((data, trailers, bytes.to_vec())),
            }
        }
    }
    panic!("no end of {pieces:?}");
}

#[test]
fn chunks_are_read_strictly_and_bounded() {
    let read = |text: &str| read_chunks(&[text.as_bytes()]).map(|(data, ..)| data.len());
    assert_eq!(read("3\r\nabc\r\n0\r\n\r\n"), Ok(3));
    assert_eq!(read("3;a=b\r\nabc\r\n0\r\n\r\n"), Ok(3));
    for broken in [
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n",
        "x\r\n",
        "-1\r\n",
        "ffffffffffffffffff\r\n",
        "0\r\n: x\r\n\r\n",
        "0\r\n folded\r\n\r\n",
    ] {
        assert_eq!(read(broken), Err(Malformed::Chunk), "{broken:?}");
    }
    let long = format!("3;{}", "x".repeat(MAX_CHUNK_LINE));
    assert_eq!(read(&long), Err(Malformed::Chunk));
    assert_eq!(read(&"0".repeat(MAX_CHUNK_LINE + 1)), Err(Malformed::Chunk));
    let trailers = format!("0\r\na: {}", "x".repeat(LIMITS.header_bytes));
    assert_eq!(read(&trailers), Err(Malformed::Chunk));
    let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(9));
    assert_eq!(read(&trailers), Err(Malformed::Chunk));
}

proptest! {
    /// What is read does not depend on how it is cut, and what comes behind is left alone.
    #[test]
    fn cuts_do_not_matter(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        with_trailers in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut text = Vec::new();
        for chunk in &chunks {
            text.extend_from_slice(format!("{:x};e\r\n", chunk.len()).as_bytes());
            text.extend_from_slice(chunk);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(if with_trailers { b"0\r\na: b\r\n\r\nHTTP" } else { b"0\r\n\r\nHTTP" });
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        at.push(0);
        at.push(text.len());
        at.sort_unstable();
        let pieces: Vec<_> = at.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        let (data, trailers, rest) = read_chunks(&pieces).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(trailers.map(|trailers| trailers["a"].clone()), with_trailers.then(|| "b".parse().unwrap()));
        prop_assert!(b"HTTP".starts_with(&rest[..]));
    }

    /// No head is seen before its last byte has come, and then the same.
    #[test]
    fn heads_are_whole_or_not_there(cut in 0..69_usize) {
        const TEXT: &str = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n";
        prop_assume!(cut < TEXT.len());
        prop_assert!(cut == 0 || !may_be_whole(&TEXT.as_bytes()[..cut], cut.min(1)));
        for tried in 1..cut {
            prop_assert!(may_be_whole(TEXT.as_bytes(), tried));
        }
        let more = found(&TEXT[..cut], &Method::GET);
        prop_assert!(matches!(more, Ok(Found::More)), "{:?}", more);
        prop_assert_eq!(whole(TEXT).unwrap().response.headers().len(), 3);
    }
}
