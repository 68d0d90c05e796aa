//! The state in a directory. One process writes: the first that serves it.

use futures_util::future::{BoxFuture, ready};

use super::{Kept, Kind, Published, Store, StoreError, Written};
use crate::identity::{Directory, StateError, TrustBundle};

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
        text: &'a str,
        over: &'a Kept,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        let replaced = self.0.replace(text, &over.text).map_err(said);
        let written = replaced.map(|done| match done {
            true => Written::Done,
            false => Written::Overtaken,
        });
        Box::pin(ready(written))
    }

    fn forget_asked<'a>(&'a self, _: &'a Kept) -> BoxFuture<'a, Result<Written, StoreError>> {
        // Nothing is asked by file.
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

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: StateError) -> StoreError {
    StoreError(error.to_string())
}
