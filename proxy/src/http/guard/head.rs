//! One request head, line by line.
//!
//! Most lines are whole when they are looked at and have nothing unusual about them. These are taken in
//! one pass ([`Head::plain_request_line`], [`Head::plain_field`]), which knows no errors: whatever
//! else there is goes the long way, where a line's end is found first and every violation has its
//! name.

use http::Uri;
use http::uri::Authority;

use super::{HeadLimits, Violation};

/// Empty lines before a request line: some clients end a body with one more line end (RFC 9112, 2.2).
const MAX_EMPTY_LINES: u8 = 2;
/// Bytes looked at in one go.
const WORD: usize = 8;
/// One in each byte of a word, and seven bits in each.
const ONES: u64 = u64::from_ne_bytes([1; WORD]);
const LOW: u64 = ONES * 0x7f;

/// What is known of a head so far.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the line begins that has no end yet, from the head's first byte.
    line: usize,
    /// Up to here there is no line end in it.
    searched: usize,
    empty_lines: u8,
    fields: u16,
    began: bool,
    http10: bool,
    connect: bool,
    upgrade: bool,
    chunked: bool,
    length: Option<u64>,
}

/// How far a head is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    More,
    /// It ends after `len` bytes. `wait`: what follows the request may not be HTTP.
    End {
        len: usize,
        body: Body,
        wait: bool,
    },
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunked,
}

impl Head {
    /// Looks at the head so far, from its first byte.
    pub(super) fn scan(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Found, Violation> {
        // Where the last line end of the longest head begins.
        let last_cr = limits.bytes.saturating_sub(2);
        if self.searched == 0
            && let Some(end) = self.plain_request_line(bytes, limits)
        {
            self.next_line(end);
        }
        loop {
            while self.began
                && self.searched == self.line
                && let Some(end) = self.plain_field(bytes, limits)?
            {
                self.next_line(end);
            }
            let Some(at) = control(&bytes[self.searched..]) else {
                self.searched = bytes.len();
                // Not even a line end would fit any more.
                return if bytes.len() > last_cr {
                    Err(Violation::HeadTooLarge)
                } else {
                    Ok(Found::More)
                };
            };
            let at = self.searched + at;
            if at > last_cr {
                return Err(Violation::HeadTooLarge);
            }
            match (bytes[at], bytes.get(at + 1)) {
                (b'\r', Some(b'\n')) => {}
                (b'\t', _) => {
                    self.searched = at + 1;
                    continue;
                }
                (b'\r', None) => {
                    self.searched = at;
                    return Ok(Found::More);
                }
                (b'\r', Some(_)) => return Err(Violation::BareCarriageReturn),
                (b'\n', _) => return Err(Violation::BareLineFeed),
                _ => return Err(Violation::ControlCharacter),
            }
            let line = &bytes[self.line..at];
            let len = at + 2;
            self.next_line(len);
            if !line.is_empty() {
                self.line(line, limits.fields)?;
            } else if self.began {
                return self.end(len);
            } else {
                self.empty_lines += 1;
                if self.empty_lines > MAX_EMPTY_LINES {
                    return Err(Violation::RequestLine);
                }
            }
        }
    }

    /// The next line begins there.
    fn next_line(&mut self, begin: usize) {
        self.line = begin;
        self.searched = begin;
    }

    /// Takes a request line of letters, a path, perhaps a query, and a version. Where it ends.
    fn plain_request_line(&mut self, bytes: &[u8], limits: HeadLimits) -> Option<usize> {
        let method = plain_len(bytes);
        let (b' ', rest) = bytes.get(method..)?.split_first()? else {
            return None;
        };
        if method == 0 || rest.first() != Some(&b'/') || &bytes[..method] == b"CONNECT" {
            return None;
        }
        let first_not_in = |bytes: &[u8], class: &[bool; 256]| {
            bytes.iter().position(|byte| !class[usize::from(*byte)])
        };
        let mut target = first_not_in(rest, &PLAIN_PATH)?;
        if rest[target] == b'?' {
            target += first_not_in(&rest[target..], &PLAIN_QUERY)?;
        }
        let http10 = match rest[target..].first_chunk()? {
            b" HTTP/1.1\r\n" => false,
            b" HTTP/1.0\r\n" => true,
            _ => return None,
        };
        let end = method + 1 + target + b" HTTP/1.1\r\n".len();
        if end > limits.bytes {
            return None;
        }
        self.began = true;
        self.http10 = http10;
        Some(end)
    }

    /// Takes a field whose name is letters and dashes and whose value has no tab. Where its line ends.
    fn plain_field(
        &mut self,
        bytes: &[u8],
        limits: HeadLimits,
    ) -> Result<Option<usize>, Violation> {
        let (name, rest) = bytes[self.line..].split_at(plain_len(&bytes[self.line..]));
        let Some((b':', value)) = rest.split_first() else {
            return Ok(None);
        };
        let Some(value_len) = control(value) else {
            return Ok(None);
        };
        let (value, end) = value.split_at(value_len);
        let at = self.line + name.len() + 1 + value_len;
        if name.is_empty() || !end.starts_with(b"\r\n") || at > limits.bytes.saturating_sub(2) {
            return Ok(None);
        }
        self.count_field(limits.fields)?;
        self.named(name, value)?;
        Ok(Some(at + 2))
    }

    fn line(&mut self, line: &[u8], most: u16) -> Result<(), Violation> {
        if !self.began {
            self.began = true;
            return self.request_line(line);
        }
        self.count_field(most)?;
        self.field(line)
    }

    fn count_field(&mut self, most: u16) -> Result<(), Violation> {
        if self.fields == most {
            return Err(Violation::TooManyFields);
        }
        self.fields += 1;
        Ok(())
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let method_len = token_len(line);
        let (method, rest) = line.split_at(method_len);
        let Some((b' ', rest)) = rest.split_first() else {
            return Err(Violation::RequestLine);
        };
        let (target_len, is_path) = target_len(rest);
        let (target, version) = rest.split_at(target_len);
        if method.is_empty() || target.is_empty() {
            return Err(Violation::RequestLine);
        }
        self.http10 = match version {
            b" HTTP/1.1" => false,
            b" HTTP/1.0" => true,
            // A space more is in the target, or nobody knows where.
            [b' ', rest @ ..] if rest.contains(&b' ') => return Err(Violation::RequestLine),
            [] => return Err(Violation::RequestLine),
            _ => return Err(Violation::Version),
        };
        self.connect = method == b"CONNECT";
        if (is_path && !self.connect) || target_fits(method, target) {
            Ok(())
        } else {
            Err(Violation::Target)
        }
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let name_len = token_len(line);
        let (name, rest) = line.split_at(name_len);
        let value = match rest {
            [b':', value @ ..] if name_len > 0 => value,
            [b' ' | b'\t', ..] if name_len == 0 => return Err(Violation::FoldedLine),
            [b' ' | b'\t', ..] => return Err(Violation::SpaceBeforeColon),
            _ => return Err(Violation::FieldName),
        };
        self.named(name, value)
    }

    fn named(&mut self, name: &[u8], value: &[u8]) -> Result<(), Violation> {
        // The names that matter differ in length.
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Violation::RepeatedContentLength);
                }
                self.length = Some(number(trimmed(value)).ok_or(Violation::ContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !trimmed(value).eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::UnknownCoding);
                }
                if self.chunked {
                    return Err(Violation::RepeatedCoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&self, len: usize) -> Result<Found, Violation> {
        let body = match (self.chunked, self.length) {
            (true, _) if self.http10 => return Err(Violation::CodingInHttp10),
            (true, Some(_)) => return Err(Violation::LengthAndCoding),
            (false, None | Some(0)) => Body::None,
            _ if self.connect => return Err(Violation::BodyOfConnect),
            (true, None) => Body::Chunked,
            (false, Some(length)) => Body::Length(length),
        };
        let wait = self.connect || (self.upgrade && !self.http10);
        Ok(Found::End { len, body, wait })
    }
}

/// Where the first control character is: a line end, or what no head may have.
///
/// A word at a time: heads are most of what a guard has to look at.
fn control(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<WORD>();
    for (index, word) in words.iter().enumerate() {
        let found = controls(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(index * WORD + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| *byte < b' ' || *byte == 0x7f)?;
    Some(words.len() * WORD + at)
}

/// The highest bit of each byte that is a control character.
fn controls(word: u64) -> u64 {
    // One more, and in seven bits: DEL becomes 0 and so the least of them. Nothing carries over.
    let turned = ((word & LOW) + ONES) & LOW;
    let is_above = turned + ONES * (0x80 - 0x21);
    !(is_above | word) & !LOW
}

/// How many of the first bytes are letters and dashes; of the last few bytes nothing is said.
fn plain_len(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<WORD>();
    let mut len = 0;
    for word in words {
        let found = not_plain(u64::from_le_bytes(*word));
        if found != 0 {
            return len + found.trailing_zeros() as usize / 8;
        }
        len += WORD;
    }
    len
}

/// How many of the first bytes make a token (RFC 9110, 5.6.2). Most have letters and dashes only.
fn token_len(bytes: &[u8]) -> usize {
    let len = plain_len(bytes);
    let rest = &bytes[len..];
    let other = rest.iter().position(|byte| !TOKEN[usize::from(*byte)]);
    len + other.unwrap_or(rest.len())
}

/// The highest bit of each byte that is neither a letter nor a dash.
fn not_plain(word: u64) -> u64 {
    let low = word & LOW;
    let lower = low | (ONES * 0x20);
    // Sums that reach the highest bit of their byte, and carry no further.
    let from_a = lower + ONES * (0x80 - u64::from(b'a'));
    let beyond_z = lower + ONES * (0x7f - u64::from(b'z'));
    let not_dash = (low ^ (ONES * u64::from(b'-'))) + LOW;
    ((!from_a | beyond_z) & not_dash | word) & !LOW
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

/// Without the white space that may stand around a value.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A decimal number: digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    /// What the library keeps for itself.
    const RESERVED: u64 = 2;
    if digits.is_empty() {
        return None;
    }
    let mut number = 0_u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
    }
    (number < u64::MAX - RESERVED).then_some(number)
}

/// How long the target is that `rest` of a request line begins with, and whether it is a path and query
/// as the library takes them. Fragments are none: they never go over the wire, and the library would cut
/// them off.
fn target_len(rest: &[u8]) -> (usize, bool) {
    let mut place = IN_PATH;
    let mut all = 0;
    let mut fits = rest.first() == Some(&b'/');
    for (len, byte) in rest.iter().enumerate() {
        let class = TARGET[usize::from(*byte)];
        if class & place == 0 {
            if *byte <= b' ' {
                let is_text = all & HIGH == 0 || std::str::from_utf8(&rest[..len]).is_ok();
                return (len, fits && is_text);
            }
            fits = false;
        }
        if *byte == b'?' {
            place = IN_QUERY;
        }
        all |= class;
    }
    // Nothing follows it: no version.
    (rest.len(), fits)
}

/// Whether `target`, which is no path, is one that a request with this method may have (RFC 9112, 3.2).
fn target_fits(method: &[u8], target: &[u8]) -> bool {
    if method == b"CONNECT" {
        let authority = Authority::try_from(target);
        return authority.is_ok_and(|authority| !authority.as_str().contains('@'));
    }
    if target == b"*" {
        return method == b"OPTIONS";
    }
    !target.contains(&b'#')
        && Uri::try_from(target)
            .is_ok_and(|uri| uri.scheme().is_some() && uri.authority().is_some())
}

const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;
const HIGH: u8 = 4;

const TARGET: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            0..=b' ' | b'#' | b'<' | b'>' | 0x7f => 0,
            b'`' => IN_QUERY,
            b'"' => IN_PATH,
            0x80.. => IN_PATH | IN_QUERY | HIGH,
            _ => IN_PATH | IN_QUERY,
        };
        byte += 1;
    }
    table
};

/// What a path may have of which nothing more need be known.
const PLAIN_PATH: [bool; 256] = plain(IN_PATH, b'?');
/// The same of a query.
const PLAIN_QUERY: [bool; 256] = plain(IN_QUERY, b' ');

const fn plain(place: u8, but: u8) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = TARGET[byte] & (place | HIGH) == place && byte as u8 != but;
        byte += 1;
    }
    table
}
