//! Tar archives (POSIX ustar) that depend on nothing but what is put in: every owner is 0:0, every time
//! is zero (1970), and there are no extensions, so that every reader understands them.

use std::io::{self, Write};

const BLOCK: usize = 512;
/// Bytes of a name: the header's first field alone. Names in images are short; longer ones are refused.
const MAX_NAME: usize = 100;
const DIRECTORY: u8 = b'5';
const FILE: u8 = b'0';

/// Writes one archive.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// An archive with nothing in it yet.
    pub fn new(to: W) -> Self {
        Self { to }
    }

    /// Adds a directory; its name has no slash at its ends.
    ///
    /// # Errors
    /// When the name is too long, or writing fails.
    pub fn directory(&mut self, name: &str, mode: u32) -> io::Result<()> {
        self.header(&format!("{name}/"), mode, 0, DIRECTORY)
    }

    /// Adds a file; its name has no slash at its beginning.
    ///
    /// # Errors
    /// When the name is too long, or writing fails.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.header(name, mode, content.len() as u64, FILE)?;
        self.to.write_all(content)?;
        let rest = content.len().next_multiple_of(BLOCK) - content.len();
        self.to.write_all(&[0; BLOCK][..rest])
    }

    /// Ends the archive and gives back what it was written to.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        Ok(self.to)
    }

    fn header(&mut self, name: &str, mode: u32, size: u64, kind: u8) -> io::Result<()> {
        if name.len() > MAX_NAME {
            let why = format!("{name}: an archive's names have at most {MAX_NAME} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        octal(&mut block[100..108], u64::from(mode))?;
        octal(&mut block[108..116], 0)?;
        octal(&mut block[116..124], 0)?;
        octal(&mut block[124..136], size)?;
        octal(&mut block[136..148], 0)?;
        // The checksum is taken as if its own field were blanks.
        block[148..156].fill(b' ');
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut block[148..155], sum)?;
        self.to.write_all(&block)
    }
}

/// Digits that fill the field but for its last byte, which stays zero.
fn octal(field: &mut [u8], value: u64) -> io::Result<()> {
    let width = field.len() - 1;
    let digits = format!("{value:0width$o}");
    if digits.len() > width {
        let why = format!("{value} does not fit {width} octal digits of a tar header");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    field[..width].copy_from_slice(digits.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests;
