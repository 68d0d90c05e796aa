//! A body in chunks (RFC 9112, 7.1), read strictly.
//!
//! Bodies stream: what came before a violation was handed on, and the body ends there, broken.
//! [`Chunks`] says which bytes are what; who uses it bounds how many may not be data.

use super::guard::Violation;

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
            if self.data_left() > 0 {
                at += self.take_data(bytes.len() - at);
                continue;
            }
            match self.frame(*byte) {
                Ok(false) => {}
                Ok(true) => return (at + 1, Framed::End),
                Err(violation) => return (at, Framed::Broken(violation)),
            }
            at += 1;
        }
        (at, Framed::More)
    }

    /// How many of the next bytes are data; none where the next one is framing.
    pub(super) fn data_left(&self) -> u64 {
        if self.place == Place::Data {
            self.size
        } else {
            0
        }
    }

    /// Takes up to `available` bytes of data, and says how many.
    pub(super) fn take_data(&mut self, available: usize) -> usize {
        let left = self.data_left();
        let len = usize::try_from(left).map_or(available, |left| left.min(available));
        self.size -= len as u64;
        if len > 0 && self.size == 0 {
            self.place = Place::DataCr;
        }
        len
    }

    /// Takes a byte that is no data; true where it was the body's last one.
    pub(super) fn frame(&mut self, byte: u8) -> Result<bool, Violation> {
        match self.step(byte)? {
            Some(place) => {
                self.place = place;
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// Whether the next byte is one of the trailer section, or of the empty line behind it.
    pub(super) fn is_in_trailers(&self) -> bool {
        matches!(
            self.place,
            Place::Line | Place::Trailer | Place::TrailerLf | Place::EndLf
        )
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
