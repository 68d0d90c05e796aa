//! The state in a directory. One process writes: the first that serves it.

use std::path::{Path, PathBuf};

use futures_util::future::{BoxFuture, ready};
use zeroize::Zeroizing;

use super::{Giver, Kept, Store, StoreError, Written};
use crate::identity::rotation::{Kind, Published};
use crate::identity::{Directory, Document, GivenText, StateError, TrustBundle};

/// The longest file of a given issuer, in bytes.
const MAX_GIVEN: u64 = 256 * 1024;

/// Keeps the state in files.
pub struct DirectoryStore(Directory);

impl DirectoryStore {
    /// In this directory.
    pub fn new(directory: Directory) -> Self {
        Self(directory)
    }

    fn kept(&self) -> Result<Option<Kept>, StoreError> {
        let read = self.0.read().map_err(said)?;
        Ok(read.map(|text| Kept {
            text,
            // What was read is what a write is compared with.
            version: String::new(),
            asked: None,
            waiting_for: None,
        }))
    }
}

impl Store for DirectoryStore {
    fn place(&self) -> String {
        self.0.authority_file().display().to_string()
    }

    fn leads(&self) -> bool {
        self.0.is_ours()
    }

    fn read(&self) -> BoxFuture<'_, Result<Option<Kept>, StoreError>> {
        Box::pin(ready(self.kept()))
    }

    fn write<'a>(
        &'a self,
        next: &'a Document,
        over: &'a Kept,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        let replaced = self.0.replace(&next.to_text(), &over.text).map_err(said);
        let written = replaced.map(|done| {
            if done {
                Written::Done
            } else {
                Written::Overtaken
            }
        });
        Box::pin(ready(written))
    }

    fn forget_asked<'a>(&'a self, _: &'a Kept) -> BoxFuture<'a, Result<Written, StoreError>> {
        // Nothing is asked by file.
        Box::pin(ready(Ok(Written::Done)))
    }

    fn say_waiting<'a>(
        &'a self,
        _: Option<&'a str>,
        _: &'a Kept,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        // Whoever may read the directory may ask the process.
        Box::pin(ready(Ok(Written::Done)))
    }

    fn published<'a>(&'a self, bundle: &'a TrustBundle) -> BoxFuture<'a, Published> {
        let published = match self.0.publish(bundle) {
            Ok(()) => Published::Everywhere,
            Err(error) => {
                tracing::warn!(%error, "the trust bundle is not where sidecars boot from");
                Published::No
            }
        };
        Box::pin(ready(published))
    }

    fn ask(&self, _: Kind) -> BoxFuture<'_, Result<(), StoreError>> {
        let why = "another process serves this state directory: ask that one";
        Box::pin(ready(Err(StoreError(why.to_owned()))))
    }
}

/// An issuer that is given in files, and the bundle in a state directory.
pub struct FilesGiver {
    files: GivenFiles,
    directory: Directory,
}

/// Where an issuer's files are.
#[derive(Clone, Debug)]
pub struct GivenFiles {
    /// The issuer's certificate, then those between it and its root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whom the mesh trusts.
    pub roots: PathBuf,
}

impl GivenFiles {
    /// Reads them. They are small: whatever is longer is none of them.
    pub fn read(&self) -> Result<GivenText, StoreError> {
        let read = |path: &Path| {
            let said =
                |error: &dyn std::fmt::Display| StoreError(format!("{}: {error}", path.display()));
            let length = std::fs::metadata(path).map_err(|e| said(&e))?.len();
            if length > MAX_GIVEN {
                return Err(said(&"longer than 256 KiB"));
            }
            std::fs::read(path).map_err(|e| said(&e))
        };
        Ok(GivenText {
            certificate: read(&self.certificate)?,
            key: Zeroizing::new(read(&self.key)?),
            roots: read(&self.roots)?,
        })
    }
}

impl FilesGiver {
    /// In these files.
    pub fn new(files: GivenFiles, directory: Directory) -> Self {
        Self { files, directory }
    }
}

impl Giver for FilesGiver {
    fn place(&self) -> String {
        self.files.certificate.display().to_string()
    }

    fn read(&self) -> BoxFuture<'_, Result<Option<GivenText>, StoreError>> {
        // A file that is gone is nothing to wait for: it is said as such.
        Box::pin(ready(Ok(self.files.read().ok())))
    }

    fn published(&self, bundle: &TrustBundle) -> Published {
        match self.directory.publish(bundle) {
            Ok(()) => Published::Everywhere,
            Err(_) => Published::No,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: StateError) -> StoreError {
    StoreError(error.to_string())
}
