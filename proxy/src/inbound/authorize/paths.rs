//! Whether a path is below a prefix, whichever way the server reads it.
//!
//! Servers differ in what they make of a path. Some take it as it is written, some decode it, a few
//! twice; some resolve dot segments before decoding, some after, some never; some merge empty
//! segments; some leave out what follows a `;`, `?` or `#` that was encoded; some take `\` for `/`.
//! Which of them stands behind a policy is not known. So a path is below a prefix only where no
//! reading leads out of it:
//!
//! * as it is written, it begins with the segments of the prefix, and
//! * in what follows, no reading ever climbs above where it began. Every segment counts for as little
//!   as any reading makes of it.
//!
//! What no two servers agree on is below nothing: broken or too often repeated percent-encoding,
//! control characters, what is not UTF-8 (overlong forms among it), and characters that some turn
//! into dots or slashes. The answer errs towards no; it takes time in proportion to the path, and
//! paths of plain characters, which is nearly all, cost a comparison and a scan.

use std::borrow::Cow;

/// How many times a path may be encoded over; what is encoded more often is below nothing.
const MAX_DECODINGS: usize = 3;
/// What Unicode normalisation, or a fit to an older character set, turns into `.`, `/` or `\`.
const CONFUSABLE: [char; 12] = [
    '\u{2024}', '\u{2025}', '\u{2026}', '\u{2044}', '\u{2215}', '\u{2216}', '\u{29f8}', '\u{fe52}',
    '\u{fe68}', '\u{ff0e}', '\u{ff0f}', '\u{ff3c}',
];

/// Whether `path` is `prefix` or below it in every reading. A trailing slash of the prefix says
/// nothing; below `/` is every path.
pub(super) fn always_below(prefix: &str, path: &str) -> bool {
    if !path.starts_with('/') {
        return false;
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if prefix.is_empty() {
        return true;
    }
    match strip_as_sent(prefix, path) {
        Some("") => true,
        Some(rest) => rest.starts_with('/') && (is_plain(rest) || never_climbs(rest)),
        None => false,
    }
}

/// What follows `prefix` in a path as clients send it: what a path may not carry as it is may stand
/// in the prefix, and is encoded in the path.
fn strip_as_sent<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    if let Some(rest) = path.strip_prefix(prefix) {
        return Some(rest);
    }
    let sent = path.as_bytes();
    let mut at = 0;
    let mut wanted = prefix.bytes();
    while let Some(byte) = wanted.next() {
        let here = *sent.get(at)?;
        if here == byte && byte != b'%' {
            at += 1;
            continue;
        }
        let octet = escape(sent.get(at..)?)?;
        let same = match byte {
            b'%' => escape(&[b'%', wanted.next()?, wanted.next()?]) == Some(octet),
            _ => octet == byte && !is_plain_byte(byte),
        };
        if !same {
            return None;
        }
        at += 3;
    }
    path.get(at..)
}

/// Whether nothing in `rest` can be read in two ways that matter.
fn is_plain(rest: &str) -> bool {
    let bytes = rest.as_bytes();
    bytes.iter().copied().all(is_plain_byte) && !bytes.windows(2).any(|pair| pair == b"/.")
}

fn is_plain_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\' | b';' | b'?' | b'#')
}

/// Whether `rest`, which begins with a slash, stays at or below where it began.
fn never_climbs(rest: &str) -> bool {
    let mut depth = 0_i64;
    for segment in rest.split('/').skip(1) {
        match least(segment) {
            Some(least) => depth += least,
            None => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

/// By how many levels a segment leads down at least, where it is negative: up at most; `None` where
/// nobody knows.
///
/// A reading may see several segments in it, decode any part of it once or more, and be right. The
/// ways up that any stage of decoding shows are all counted; a way down is counted only where every
/// reading sees one.
fn least(segment: &str) -> Option<i64> {
    let mut text = Cow::Borrowed(segment);
    let mut least = i64::MAX;
    for decoded in 0.. {
        let known = |c: char| !c.is_control() && !CONFUSABLE.contains(&c);
        if !text.chars().all(known) {
            return None;
        }
        least = least.min(least_as_decoded(&text));
        // What is no escape is one of nothing after the first decoding: a per cent sign was meant.
        let Some(further) = decode(&text, decoded > 0)? else {
            return Some(least);
        };
        if decoded == MAX_DECODINGS {
            return None;
        }
        text = Cow::Owned(further);
    }
    None
}

fn least_as_decoded(text: &str) -> i64 {
    let mut up = 0;
    for piece in text.split(['/', '\\']) {
        up += step(piece).min(0);
    }
    if up < 0 {
        return up;
    }
    // However it is split, its first segment begins with the first piece.
    let first = text.split(['/', '\\']).next().unwrap_or_default();
    step(first)
}

/// One segment by itself: a name leads down, an empty one and a dot nowhere, dots up. Names are
/// told from dots as lenient file systems do it, which leave out spaces.
fn step(segment: &str) -> i64 {
    let seen = segment.split([';', '?', '#']).next().unwrap_or_default();
    if seen.chars().any(|c| !matches!(c, '.' | ' ')) {
        return 1;
    }
    let dots = seen.bytes().filter(|byte| *byte == b'.').count() as i64;
    (1 - dots).min(0)
}

/// Decodes every escape once: `Some(None)` where there is none. `None` where an escape is broken,
/// unless `lenient`, or where what comes out is not UTF-8.
#[expect(clippy::option_option, reason = "nothing to do, and impossible")]
fn decode(text: &str, lenient: bool) -> Option<Option<String>> {
    if !text.contains('%') {
        return Some(None);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let (mut at, mut any) = (0, false);
    while at < bytes.len() {
        match escape(&bytes[at..]) {
            Some(octet) => {
                decoded.push(octet);
                at += 3;
                any = true;
            }
            None if bytes[at] == b'%' && !lenient => return None,
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    if !any {
        return Some(None);
    }
    String::from_utf8(decoded).ok().map(Some)
}

/// The octet that an escape at the beginning of `bytes` stands for.
fn escape(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else {
        return None;
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}
