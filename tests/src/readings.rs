//! A judge of paths that knows nothing of how Weft decides: a path is below a prefix if it is so for
//! every naive server that these lines describe, each of which reads in its own way.

/// Whether all of the servers find `path` below `prefix`.
pub fn all_find_it_below(prefix: &str, path: &str) -> bool {
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
        text.truncate(
            text.iter()
                .position(|b| b"?#\0".contains(b))
                .unwrap_or(text.len()),
        );
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
    segments
        .flat_map(|segment| [b"/", segment].concat())
        .collect()
}

fn resolve(text: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in text
        .strip_prefix(b"/")
        .unwrap_or(text)
        .split(|b| *b == b'/')
    {
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    kept.iter()
        .flat_map(|segment| [b"/", *segment].concat())
        .collect()
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let Some(at) = text.iter().position(|b| *b == b'%') else {
        return text.to_vec();
    };
    let (before, after) = text.split_at(at);
    let hex = after
        .get(1..3)
        .and_then(|hex| std::str::from_utf8(hex).ok());
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
