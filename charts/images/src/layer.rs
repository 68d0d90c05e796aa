//! Files as a layer: a tar archive, compressed.

use std::fmt;
use std::io::{self, Write};

use aws_lc_rs::digest::{SHA256, digest};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::root::{DIRECTORY_MODE, Entry, Root};
use crate::tar::Writer;

/// The highest takes four times as long and saves one byte in a hundred.
const COMPRESSION: Compression = Compression::new(6);

/// A compressed layer with its digests.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What it is for, as its history says.
    pub what: &'static str,
    /// The compressed archive.
    pub blob: Vec<u8>,
    /// Digest of [`Self::blob`].
    pub digest: Digest,
    /// Digest of the archive before it was compressed.
    pub diff_id: Digest,
    /// Bytes of its files together.
    pub unpacked: u64,
}

/// A SHA-256 digest; displayed as images spell it, `sha256:` and hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest(String);

impl Layer {
    /// The layer of these files.
    ///
    /// # Errors
    /// When a path is too long for an archive.
    pub fn new(what: &'static str, root: &Root) -> io::Result<Self> {
        let mut archive = Writer::new(Vec::new());
        for (path, entry) in root.entries() {
            match entry {
                Entry::Directory => archive.directory(path, DIRECTORY_MODE)?,
                Entry::File { mode, content } => archive.file(path, *mode, content)?,
            }
        }
        let archive = archive.finish()?;
        // Its header has neither a name nor a time.
        let mut compressed = GzEncoder::new(Vec::new(), COMPRESSION);
        compressed.write_all(&archive)?;
        let blob = compressed.finish()?;
        Ok(Self {
            what,
            digest: Digest::of(&blob),
            diff_id: Digest::of(&archive),
            unpacked: root.bytes(),
            blob,
        })
    }
}

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = digest(&SHA256, bytes);
        let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Self(digits.collect())
    }

    /// The hexadecimal digits alone.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}
