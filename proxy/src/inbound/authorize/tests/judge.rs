//! Paths against an independent judge: a path is below a prefix if it is so for every naive server
//! that these lines describe, each of which reads in its own way.

use proptest::prelude::*;

use super::super::paths::always_below;

/// Whether all of the servers find `path` below `prefix`.
pub(super) fn all_find_it_below(prefix: &str, path: &str) -> bool {
    (0..1 << 9).all(|server| {
        let read = read(path, server);
        read.strip_prefix(prefix.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// What one server takes a path for; its habits are bits.
fn read(path: &str, server: u32) -> Vec<u8> {
    let has = |habit: u32| server >> habit & 1 == 1;
    let mut text = path.as_bytes().to_vec();
    if has(0) {
        text = each_segment(&text, |segment| segment.split(|b| *b == b';').next());
    }
    for _ in 0..(server >> 1 & 3) {
        text = unescape(&text);
    }
    if has(3) {
        text = each_segment(&text, |segment| segment.split(|b| *b == b';').next());
    }
    if has(4) {
        text = replace(&replace(&text, b"\xc0\xae", b"."), b"\xc0\xaf", b"/");
    }
    if has(5) {
        text = replace(&text, b"\\", b"/");
    }
    if has(6) {
        text.truncate(text.iter().position(|b| b"?#\0".contains(b)).unwrap_or(text.len()));
    }
    if has(7) {
        text = each_segment(&text, |segment| (!segment.is_empty()).then_some(segment));
    }
    if has(8) {
        text = resolve(&text);
    }
    text
}

fn each_segment(text: &[u8], keep: impl Fn(&[u8]) -> Option<&[u8]>) -> Vec<u8> {
    let segments = text[1..].split(|b| *b == b'/').filter_map(keep);
    segments.flat_map(|segment| [b"/", segment].concat()).collect()
}

fn resolve(text: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in text.strip_prefix(b"/").unwrap_or(text).split(|b| *b == b'/') {
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    kept.iter().flat_map(|segment| [b"/", *segment].concat()).collect()
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let Some(at) = text.iter().position(|b| *b == b'%') else {
        return text.to_vec();
    };
    let (before, after) = text.split_at(at);
    let hex = after.get(1..3).and_then(|hex| std::str::from_utf8(hex).ok());
    match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(octet) => [before, &[octet], &unescape(&after[3..])].concat(),
        None => [before, b"%", &unescape(&after[1..])].concat(),
    }
}

fn replace(text: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    match text.windows(what.len()).position(|window| window == what) {
        Some(at) => {
            let rest = replace(&text[at + what.len()..], what, by);
            [&text[..at], by, &rest].concat()
        }
        None => text.to_vec(),
    }
}

/// What tricks are made of.
fn tricky() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "/", "/", ".", "..", "a", "public", "admin", "/public", "/..", "%2e", "%2E%2e",
        "%2f", "%5c", "\\", ";", ";x=1", "%3b", "?", "%3f", "%23", "%00", "%25", "%252e", "%252f",
        "%25252e", "%c0%ae", "%c0%af", "%", "%zz", "%20", "%09", " ", "é", "%c3%a9", "...",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/public{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Nothing is let through that any server takes for something else.
    #[test]
    fn no_server_is_led_out(path in tricky()) {
        if always_below("/public", &path) {
            prop_assert!(all_find_it_below("/public", &path), "{path}");
        }
        if always_below("/public/a", &path) {
            prop_assert!(all_find_it_below("/public/a", &path), "{path}");
        }
    }

    /// What nobody can read in two ways is decided as everybody reads it.
    #[test]
    fn plain_paths_are_decided_exactly(
        path in "(/(a|b|public|publicly|x\\.y|[A-Za-z0-9_~$&+,=:@!'()*-]{1,8})){1,5}/?",
    ) {
        for prefix in ["/public", "/a/b", "/a"] {
            prop_assert_eq!(
                always_below(prefix, &path),
                all_find_it_below(prefix, &path),
                "{} {}", prefix, path
            );
        }
    }
}

/// The judge itself knows a server for each of the tricks.
#[test]
fn the_judge_knows_the_tricks() {
    for path in [
        "/admin",
        "/publicly",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/..%2fadmin",
        "/public/%252e%252e/admin",
        "/public/..;/admin",
        "/public/..;x=1/admin",
        "/public/..%3bx/admin",
        "/public/..\\admin",
        "/public/..%5cadmin",
        "/public/%c0%ae%c0%ae/admin",
        "/public//../admin",
        "/public/x/../..%3f",
        "/public/a%2fb/../..",
        "/public/a%2fb\\../..",
        "/x/../public",
        "//public",
        "/%70ublic",
    ] {
        assert!(!all_find_it_below("/public", path), "{path}");
        assert!(!always_below("/public", path), "{path}");
    }
    for path in ["/public", "/public/", "/public/x/../y", "/public/é", "/public/a;v=1/b"] {
        assert!(all_find_it_below("/public", path), "{path}");
        assert!(always_below("/public", path), "{path}");
    }
}
