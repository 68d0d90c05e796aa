//! Bytes as several parts.

/// Separates parts. No text in UTF-8 has it, so that files of a corpus stay readable.
const SEPARATOR: u8 = 0xff;

/// The part of this number, from 0; empty where there is none.
pub(crate) fn part(data: &[u8], number: usize) -> &[u8] {
    data.split(|byte| *byte == SEPARATOR)
        .nth(number)
        .unwrap_or_default()
}

/// `bytes` in pieces: each of `sizes` is the length of one, and they are used over and over. 0, and
/// having none, means everything that is left.
pub(crate) fn pieces<'a>(bytes: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let size = match sizes.next() {
            None | Some(0) => rest.len(),
            Some(size) => usize::from(*size).min(rest.len()),
        };
        let (piece, after) = rest.split_at(size);
        pieces.push(piece);
        rest = after;
    }
    pieces
}
