use proptest::prelude::*;

use super::*;

mod against_library;

const MAX_HEAD: usize = 64 * 1024;

impl Default for Guard {
    fn default() -> Self {
        Self::new(HeadLimits {
            bytes: MAX_HEAD,
            fields: 100,
        })
    }
}

/// What became of a stream: bytes cleared, heads cleared, and the last word.
#[derive(Debug, PartialEq, Eq)]
struct End {
    cleared: usize,
    heads: u64,
    verdict: Verdict,
}

/// Scans `bytes` as they come in reads of these sizes, and in one last one. `Wait` is taken for "no
/// upgrade".
fn scan(bytes: &[u8], reads: impl IntoIterator<Item = usize>) -> End {
    let mut guard = Guard::default();
    let mut reads = reads.into_iter();
    let (mut cleared, mut known) = (0, 0);
    loop {
        let read = reads.next().unwrap_or(bytes.len() - known);
        known = bytes.len().min(known + read);
        loop {
            let (more, verdict) = guard.scan(&bytes[cleared..known]);
            cleared += more;
            match verdict {
                Verdict::Wait => guard.go_on(),
                Verdict::More if known < bytes.len() => break,
                verdict => {
                    let heads = guard.heads();
                    return End {
                        cleared,
                        heads,
                        verdict,
                    };
                }
            }
        }
    }
}

fn whole(text: &str) -> End {
    scan(text.as_bytes(), [])
}

/// What a request with this head is refused for.
fn refused(text: &str) -> Option<Violation> {
    let end = whole(text);
    match end.verdict {
        Verdict::Refused(violation) => {
            assert_eq!((end.cleared, end.heads), (0, 0), "{text:?}");
            Some(violation)
        }
        Verdict::More => {
            assert_eq!(end.cleared, text.len(), "{text:?}");
            None
        }
        verdict => panic!("{verdict:?}: {text:?}"),
    }
}

/// A request with these fields.
fn with(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n")
}

#[test]
fn each_violation_by_name() {
    use Violation as V;
    let many = |count: usize| vec!["x: y"; count].join("\r\n");
    let long = |len: usize| format!("x: {}", "y".repeat(len));
    let cases = [
        (with("a: b\nc: d"), V::BareLineFeed),
        ("GET / HTTP/1.1\nhost: a\n\n".into(), V::BareLineFeed),
        (with("a: b\rc: d"), V::BareCarriageReturn),
        (with("a: b\r\r\nc: d"), V::BareCarriageReturn),
        (with("a: b\0"), V::ControlCharacter),
        (with("a: \u{b}b"), V::ControlCharacter),
        (with("a: \u{7f}b"), V::ControlCharacter),
        ("GET  / HTTP/1.1\r\n\r\n".into(), V::RequestLine),
        ("GET /\r\n\r\n".into(), V::RequestLine),
        ("GET\r\n\r\n".into(), V::RequestLine),
        (" GET / HTTP/1.1\r\n\r\n".into(), V::RequestLine),
        ("G(T / HTTP/1.1\r\n\r\n".into(), V::RequestLine),
        ("GET\t/ HTTP/1.1\r\n\r\n".into(), V::RequestLine),
        ("GET /a b HTTP/1.1\r\n\r\n".into(), V::RequestLine),
        ("\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n".into(), V::RequestLine),
        ("GET / HTTP/1.1 \r\n\r\n".into(), V::RequestLine),
        ("GET / HTTP/2.0\r\n\r\n".into(), V::Version),
        ("GET / http/1.1\r\n\r\n".into(), V::Version),
        ("GET / HTTP/1.10\r\n\r\n".into(), V::Version),
        ("GET / HTTP/1.2\r\n\r\n".into(), V::Version),
        ("GET a HTTP/1.1\r\n\r\n".into(), V::Target),
        ("GET * HTTP/1.1\r\n\r\n".into(), V::Target),
        ("GET /a#b HTTP/1.1\r\n\r\n".into(), V::Target),
        ("GET http://a/b#c HTTP/1.1\r\n\r\n".into(), V::Target),
        ("GET /<a> HTTP/1.1\r\n\r\n".into(), V::Target),
        ("CONNECT /a HTTP/1.1\r\n\r\n".into(), V::Target),
        ("CONNECT u@a:1 HTTP/1.1\r\n\r\n".into(), V::Target),
        (with(" a: b"), V::FoldedLine),
        (with("a: b\r\n c"), V::FoldedLine),
        (with("a: b\r\n\tc"), V::FoldedLine),
        (with("a : b"), V::SpaceBeforeColon),
        (with("transfer-encoding : chunked"), V::SpaceBeforeColon),
        (with("content-length\t: 3"), V::SpaceBeforeColon),
        (with("a"), V::FieldName),
        (with(": a"), V::FieldName),
        (with("a(b: c"), V::FieldName),
        (with("a\u{e9}: c"), V::FieldName),
        (with("content-length: "), V::ContentLength),
        (with("content-length: +2"), V::ContentLength),
        (with("content-length: -2"), V::ContentLength),
        (with("content-length: 0x2"), V::ContentLength),
        (with("content-length: 2, 2"), V::ContentLength),
        (with("content-length: 2 2"), V::ContentLength),
        (
            with("content-length: 18446744073709551616"),
            V::ContentLength,
        ),
        (
            with("content-length: 18446744073709551615"),
            V::ContentLength,
        ),
        (
            with("content-length: 2\r\nContent-Length: 2"),
            V::RepeatedContentLength,
        ),
        (
            with("content-length: 2\r\ncontent-length: 3"),
            V::RepeatedContentLength,
        ),
        (
            with("content-length: 2\r\ntransfer-encoding: chunked"),
            V::LengthAndCoding,
        ),
        (
            with("Transfer-Encoding: chunked\r\ncontent-length: 0"),
            V::LengthAndCoding,
        ),
        (
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n".into(),
            V::CodingInHttp10,
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".into(),
            V::BodyOfConnect,
        ),
        (
            "CONNECT a:1 HTTP/1.0\r\ncontent-length: 1\r\n\r\n".into(),
            V::BodyOfConnect,
        ),
        (
            with("transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
            V::RepeatedCoding,
        ),
        (with("transfer-encoding: xchunked"), V::UnknownCoding),
        (
            with("transfer-encoding: chunked, identity"),
            V::UnknownCoding,
        ),
        (with("transfer-encoding: gzip, chunked"), V::UnknownCoding),
        (
            with("transfer-encoding: chunked, chunked"),
            V::UnknownCoding,
        ),
        (
            with("transfer-encoding: identity\r\ntransfer-encoding: chunked"),
            V::UnknownCoding,
        ),
        (with("transfer-encoding: \"chunked\""), V::UnknownCoding),
        (with("transfer-encoding: chunked;a=b"), V::UnknownCoding),
        (with("transfer-encoding:"), V::UnknownCoding),
        (with(&many(100)), V::TooManyFields),
        (with(&long(MAX_HEAD)), V::HeadTooLarge),
        (format!("GET /{}", "a".repeat(MAX_HEAD)), V::HeadTooLarge),
    ];
    let mut seen: Vec<Violation> = Vec::new();
    for (text, violation) in cases {
        let shown = &text[..text.len().min(100)];
        assert_eq!(refused(&text), Some(violation), "{shown:?}");
        let bytewise = scan(text.as_bytes(), std::iter::repeat(1));
        assert_eq!(bytewise, whole(&text), "{shown:?}");
        seen.push(violation);
    }
    seen.extend([Violation::Chunk, Violation::ChunkSize]);
    for violation in Violation::ALL {
        assert!(seen.contains(&violation), "nothing shows {violation:?}");
        assert!(violation.status().is_client_error() || violation.status().is_server_error());
    }
}

#[test]
fn what_is_unusual_and_clear() {
    let many = vec!["x: y"; 99].join("\r\n");
    let cases = [
        "\r\nGET / HTTP/1.1\r\n\r\n".into(),
        "GET / HTTP/1.0\r\n\r\n".into(),
        "get / HTTP/1.1\r\n\r\n".into(),
        "M-SEARCH / HTTP/1.1\r\n\r\n".into(),
        "OPTIONS * HTTP/1.1\r\n\r\n".into(),
        "CONNECT a:1 HTTP/1.1\r\n\r\n".into(),
        "CONNECT a:1 HTTP/1.1\r\ncontent-length: 0\r\n\r\n".into(),
        "GET http://a/b?c HTTP/1.1\r\n\r\n".into(),
        "GET /../a\"//b/%2e?c=d?e&{}|^` HTTP/1.1\r\n\r\n".into(),
        "GET /\u{e9} HTTP/1.1\r\n\r\n".into(),
        with("a:"),
        with("a: \t b\tc \t"),
        with("a: \u{e9}"),
        with("a_b: c"),
        with("content-length: 0"),
        with("content-length: 00\r\nexpect: 100-continue"),
        with("transfer-encoding: \tChUnKeD \r\nx: y") + "0\r\n\r\n",
        with(&many),
    ];
    for text in cases {
        assert_eq!(refused(&text), None, "{text:?}");
    }
}

#[test]
fn a_head_may_be_as_long_as_it_may() {
    let around = with("x: ").len();
    let of = |len: usize| with(&format!("x: {}", "y".repeat(len - around)));
    assert_eq!(refused(&of(MAX_HEAD)), None);
    for len in [MAX_HEAD + 1, MAX_HEAD + 2] {
        assert_eq!(refused(&of(len)), Some(Violation::HeadTooLarge), "{len}");
    }
    for cut in MAX_HEAD - 4..=MAX_HEAD + 2 {
        for len in [MAX_HEAD, MAX_HEAD + 1] {
            let text = of(len);
            assert_eq!(
                scan(text.as_bytes(), [cut.min(len)]),
                whole(&text),
                "{cut} of {len}"
            );
        }
    }
}

#[test]
fn each_byte_at_each_place_of_a_word() {
    for byte in 0..=255_u8 {
        for before in 0..20 {
            let mut text = with(&"x".repeat(before + 1)).into_bytes();
            let at = text.len() - 4;
            text.splice(at..at, [b':', byte]);
            let good = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
            let verdict = scan(&text, []).verdict;
            assert_eq!(
                verdict == Verdict::More,
                good,
                "{byte} after {before}: {verdict:?}"
            );
        }
    }
}

#[test]
fn each_byte_at_each_place_of_a_name() {
    for byte in 0..=255_u8 {
        for before in 0..20 {
            let mut text = with(&format!("{}Y-z: a", "x".repeat(before + 1))).into_bytes();
            let at = text.len() - "Y-z: a\r\n\r\n".len();
            text.insert(at, byte);
            // A colon ends the name, and what follows is a value.
            let good = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&byte);
            let verdict = scan(&text, []).verdict;
            assert_eq!(
                verdict == Verdict::More,
                good,
                "{byte} after {before}: {verdict:?}"
            );
        }
    }
}

/// What is taken at one glance is what is taken byte by byte.
#[test]
fn each_byte_at_each_place_of_a_request_line() {
    for line in ["GET /a/b?c=d HTTP/1.1", "M-SEARCH / HTTP/1.0"] {
        for at in 0..line.len() {
            for byte in 0..=255_u8 {
                let mut text = format!("{line}\r\nhost: a\r\n\r\n").into_bytes();
                text.splice(at..=at, [byte]);
                let glance = scan(&text, []);
                let bytewise = scan(&text, std::iter::repeat(1));
                assert_eq!(glance, bytewise, "{:?}", String::from_utf8_lossy(&text));
            }
        }
    }
}

#[test]
fn requests_follow_one_another() {
    let text = "GET /1 HTTP/1.1\r\n\r\n\
                POST /2 HTTP/1.1\r\ncontent-length: 22\r\n\r\nGET /no HTTP/1.1\r\n\r\n\0\0\
                POST /3 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\
                3;a=\"b\"\r\n\0\r\n\r\n0a  \r\n0123456789\r\n0\r\nx: y\r\n\r\n\
                \r\nGET /4 HTTP/1.1\r\nupgrade: x\r\n\r\n\
                GET /5 HT";
    let end = whole(text);
    let behind = "GET /5 HT".len();
    assert_eq!((end.heads, end.cleared), (4, text.len() - behind));
    let bad = text.replace("GET /5 HT", "GET /5 HTTP/1.1\r\na : b\r\n\r\n");
    let end = whole(&bad);
    assert_eq!((end.heads, end.cleared), (4, text.len() - behind));
    assert_eq!(end.verdict, Verdict::Refused(Violation::SpaceBeforeColon));
}

#[test]
fn chunks_that_are_none() {
    let head = with("transfer-encoding: chunked");
    let cases = [
        ("0x2\r\n", 1, Violation::Chunk),
        ("+2\r\n", 0, Violation::Chunk),
        ("-2\r\n", 0, Violation::Chunk),
        (" 2\r\n", 0, Violation::Chunk),
        ("\r\n", 0, Violation::Chunk),
        (";a\r\n", 0, Violation::Chunk),
        ("2 2\r\n", 2, Violation::Chunk),
        ("2\n", 1, Violation::Chunk),
        ("2\rx", 2, Violation::Chunk),
        ("2;a\nb\r\n", 3, Violation::Chunk),
        ("2;a\0b\r\n", 3, Violation::Chunk),
        ("2\r\nabc\r\n", 5, Violation::Chunk),
        ("2\r\nab\n", 5, Violation::Chunk),
        ("2\r\nab\rx", 6, Violation::Chunk),
        ("0\r\na: b\n\r\n", 7, Violation::Chunk),
        ("0\r\na: b\0\r\n", 7, Violation::Chunk),
        ("0\r\n a: b\r\n\r\n", 3, Violation::Chunk),
        ("0\r\n\rx", 4, Violation::Chunk),
        ("0\r\n\nGET", 3, Violation::Chunk),
        ("fffffffffffffffff\r\n", 16, Violation::ChunkSize),
        (
            "00000000000000000010000000000000000",
            34,
            Violation::ChunkSize,
        ),
    ];
    for (chunks, good, violation) in cases {
        let text = format!("{head}{chunks}");
        let end = whole(&text);
        assert_eq!(end.verdict, Verdict::Broken(violation), "{chunks:?}");
        assert_eq!(end.cleared, head.len() + good, "{chunks:?}");
        assert_eq!(
            scan(text.as_bytes(), std::iter::repeat(1)),
            end,
            "{chunks:?}"
        );
    }
}

#[test]
fn nothing_is_cleared_behind_a_wish_to_leave() {
    for (head, waits) in [
        ("CONNECT a:1 HTTP/1.1\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nupgrade: websocket\r\n\r\n", false),
        (
            "POST / HTTP/1.1\r\nupgrade: x\r\ncontent-length: 2\r\n\r\nab",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nupgrade: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            true,
        ),
    ] {
        let mut guard = Guard::default();
        let text = format!("{head}GET /next HTTP/1.1\r\n\r\n");
        let (cleared, verdict) = guard.scan(text.as_bytes());
        assert_eq!(guard.waits(), waits, "{head:?}");
        if !waits {
            assert_eq!(cleared, text.len());
            continue;
        }
        assert_eq!((cleared, verdict), (head.len(), Verdict::Wait), "{head:?}");
        let behind = &text.as_bytes()[cleared..];
        assert_eq!(guard.scan(behind), (0, Verdict::Wait));
        guard.go_on();
        assert_eq!(guard.scan(behind), (behind.len(), Verdict::More));
        assert_eq!(guard.heads(), 2);
    }
}

/// Streams that are nearly requests.
pub(in crate::http) fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        8 => prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /a?b HTTP/1.1\r\n", "GET / HTTP/1.0\r\n", "CONNECT a:1 HTTP/1.1\r\n",
            "GET http://a/b HTTP/1.1\r\n", "OPTIONS * HTTP/1.1\r\n", "host: a\r\n", "x: y\r\n", "\r\n", "\r\n\r\n",
            "content-length: 3\r\n\r\nabc", "content-length: 3\r\n", "transfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "0\r\n\r\n", "2;x\r\nab\r\n", "f\r\n",
            "upgrade: x\r\n", "connection: close\r\n", "expect: 100-continue\r\n", "trailer: a\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::sample::select(vec!["\r", "\n", " ", ":", "\t", "\0", "/", "HTTP/1.1", "transfer-encoding : x"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn the_verdict_does_not_depend_on_reads(
        bytes in stream(),
        reads in prop::collection::vec(0_usize..20, 0..40),
    ) {
        let whole = scan(&bytes, []);
        prop_assert_eq!(&scan(&bytes, reads), &whole);
        prop_assert_eq!(&scan(&bytes, std::iter::repeat(1)), &whole);
        prop_assert!(whole.cleared <= bytes.len());
    }

    #[test]
    fn any_bytes_have_an_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let end = scan(&bytes, []);
        prop_assert_eq!(scan(&bytes, std::iter::repeat(1)), end);
    }
}
