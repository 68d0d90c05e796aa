//! A body in chunks (RFC 9112, 7.1).
//!
//! Bodies stream: what came before a violation was handed on, and the body ends there, broken.

use super::Violation;

/// Where in a chunked body the next byte stands.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    place: Place,
    /// The size being read, then the bytes left of a chunk.
    size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before the first digit of a size.
    #[default]
    Start,
    Size,
    /// White space behind a size: no more digits.
    Padding,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the last, empty one.
    Line,
    Trailer,
    TrailerLf,
    EndLf,
}

/// How far a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framed {
    /// It took all bytes and goes on.
    More,
    /// It ended.
    End,
    /// The next byte must not be there.
    Broken(Violation),
}

impl Chunks {
    /// How many of `bytes` belong to the body, and what follows them.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> (usize, Framed) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.place == Place::Data {
                let left = bytes.len() - at;
                let len = usize::try_from(self.size).map_or(left, |size| size.min(left));
                at += len;
                self.size -= len as u64;
                if self.size == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            match self.step(*byte) {
                Ok(Some(place)) => self.place = place,
                Ok(None) => return (at + 1, Framed::End),
                Err(violation) => return (at, Framed::Broken(violation)),
            }
            at += 1;
        }
        (at, Framed::More)
    }

    /// Where the byte after `byte` stands; none behind the end.
    fn step(&mut self, byte: u8) -> Result<Option<Place>, Violation> {
        let next = match (self.place, byte) {
            (Place::Start | Place::Size, byte) if byte.is_ascii_hexdigit() => {
                self.push_digit(byte)?;
                Place::Size
            }
            (Place::Size | Place::Padding, b' ' | b'\t') => Place::Padding,
            (Place::Size | Place::Padding, b';') => Place::Extension,
            (Place::Size | Place::Padding | Place::Extension, b'\r') => Place::SizeLf,
            (Place::Extension, byte) if is_text(byte) => Place::Extension,
            (Place::SizeLf, b'\n') if self.size == 0 => Place::Line,
            (Place::SizeLf, b'\n') => Place::Data,
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Start,
            (Place::Line, b'\r') => Place::EndLf,
            (Place::EndLf, b'\n') => return Ok(None),
            // A folded line would hide a field.
            (Place::Line, byte) if is_text(byte) && byte != b' ' && byte != b'\t' => Place::Trailer,
            (Place::Trailer, b'\r') => Place::TrailerLf,
            (Place::Trailer, byte) if is_text(byte) => Place::Trailer,
            (Place::TrailerLf, b'\n') => Place::Line,
            _ => return Err(Violation::Chunk),
        };
        Ok(Some(next))
    }

    fn push_digit(&mut self, digit: u8) -> Result<(), Violation> {
        let digit = char::from(digit).to_digit(16).map_or(0, u64::from);
        let shifted = self.size.checked_mul(16).ok_or(Violation::ChunkSize)?;
        self.size = shifted + digit;
        Ok(())
    }
}

/// What a line may have between its ends.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
