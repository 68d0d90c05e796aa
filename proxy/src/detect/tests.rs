use proptest::prelude::*;

use super::*;

#[test]
fn first_bytes_decide() {
    for (bytes, verdict) in [
        (&b""[..], Verdict::NeedMore),
        (b"G", Verdict::NeedMore),
        (b"GET / HTTP/1.", Verdict::Http1),
        (b"PROPFIND /a%20b HTTP/1.1\r\n", Verdict::Http1),
        (b"GET http://a/ HTTP/1.0\r\n\r\n", Verdict::Http1),
        (b"GET / HTTP/2", Verdict::Opaque),
        (b"get / HTTP/1.1", Verdict::Opaque),
        (b"GET\r\n", Verdict::Opaque),
        (b"PING\r\n", Verdict::Opaque),
        (b"P", Verdict::NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Verdict::NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Verdict::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nXX", Verdict::Opaque),
        (b"\x16\x03\x01\x02\x00\x01", Verdict::Tls),
        (b"\x16\x03", Verdict::NeedMore),
        (b"\x16\x02", Verdict::Opaque),
        (b"\x16\x03\x01\x02\x00\x02", Verdict::Opaque),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Verdict::Opaque),
        (b"*1\r\n$4\r\nPING\r\n", Verdict::Opaque),
    ] {
        assert_eq!(
            classify(bytes),
            verdict,
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
}

proptest! {
    #[test]
    fn a_verdict_never_changes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        decided_once(&bytes)?;
    }

    #[test]
    fn nor_on_nearly_http(text in "[A-Z]{1,8} [/a-z]{0,6} ?(HTTP)?/?[0-9. ]{0,6}") {
        decided_once(text.as_bytes())?;
    }
}

fn decided_once(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut decided = Verdict::NeedMore;
    for end in 0..=bytes.len() {
        let verdict = classify(&bytes[..end]);
        if decided == Verdict::NeedMore {
            decided = verdict;
        } else {
            prop_assert_eq!(verdict, decided, "at {}", end);
        }
    }
    Ok(())
}
