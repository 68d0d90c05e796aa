//! Which protocol the first bytes speak.

use weft_proxy::detect::{Verdict, classify};

/// A verdict never changes as more bytes come, and says what a slow reading of the whole says.
pub fn target(data: &[u8]) {
    let mut decided = Verdict::NeedMore;
    for end in 0..=data.len() {
        let verdict = classify(&data[..end]);
        if decided == Verdict::NeedMore {
            decided = verdict;
        } else {
            assert_eq!(verdict, decided, "after {end} bytes");
        }
        // Each read may bring any number of bytes: beyond a head's first line nothing is new.
        if end > 64 && decided != Verdict::NeedMore {
            break;
        }
    }
    let whole = classify(data);
    assert_eq!(whole, decided);
    match whole {
        Verdict::Http1 => assert!(is_like_http1(data)),
        Verdict::Http2 => assert!(data.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        Verdict::Tls => assert!(matches!(data, [22, 3, 0..=4, _, _, 1, ..])),
        Verdict::Opaque => assert!(!is_request_line(data)),
        Verdict::NeedMore => assert!(data.len() <= 16 * 1024),
    }
}

fn is_like_http1(data: &[u8]) -> bool {
    let words = data.split(|byte| *byte == b' ').count();
    let upper = |byte: &u8| byte.is_ascii_uppercase() || b"-_".contains(byte);
    let method = data.split(|byte| *byte == b' ').next().unwrap_or_default();
    let long = data.len() > 16 * 1024;
    !method.is_empty() && method.iter().all(upper) && (words > 2 || long)
}

/// A whole first line as the RFC has it (RFC 9112, 3), with methods that are in use.
fn is_request_line(data: &[u8]) -> bool {
    let Some(line) = data.split(|byte| *byte == b'\n').next() else {
        return false;
    };
    let Ok(line) = std::str::from_utf8(line) else {
        return false;
    };
    let parts: Vec<&str> = line.trim_end_matches('\r').split(' ').collect();
    let [method, target, version] = parts[..] else {
        return false;
    };
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT"];
    METHODS.contains(&method)
        && !target.is_empty()
        && target.bytes().all(|byte| byte > b' ')
        && version.starts_with("HTTP/1.")
}
