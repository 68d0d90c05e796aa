//! What a keeper needs of wherever the state is kept.

use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

use crate::identity::rotation::{Kind, Published};
use crate::identity::{Document, TrustBundle};

/// Where the state is kept.
pub trait Store: Send + Sync + 'static {
    /// Where, for people.
    fn place(&self) -> String;
    /// Whether this process is the one that writes.
    fn leads(&self) -> bool;
    /// What is kept; `None` where it is gone.
    fn read(&self) -> BoxFuture<'_, Result<Option<Kept>, StoreError>>;
    /// Puts a state in the place of the one that was read, and with it takes away what was asked and said.
    fn write<'a>(
        &'a self,
        next: &'a Document,
        over: &'a Kept,
    ) -> BoxFuture<'a, Result<Written, StoreError>>;
    /// Takes away what was asked, and leaves the rest as it is.
    fn forget_asked<'a>(&'a self, kept: &'a Kept) -> BoxFuture<'a, Result<Written, StoreError>>;
    /// Says beside the state whom its rotation waits for, for whoever may look at what it is kept in and not
    /// inside; `None`: for nobody.
    fn say_waiting<'a>(
        &'a self,
        waiting_for: Option<&'a str>,
        kept: &'a Kept,
    ) -> BoxFuture<'a, Result<Written, StoreError>>;
    /// How far the bundle has come to where sidecars boot from.
    fn published<'a>(&'a self, bundle: &'a TrustBundle) -> BoxFuture<'a, Published>;
    /// Asks whoever leads for a rotation.
    fn ask(&self, kind: Kind) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// The state as it was read.
pub struct Kept {
    /// Secret.
    pub text: Zeroizing<Vec<u8>>,
    /// What a write must be over.
    pub version: String,
    /// A rotation that was asked for.
    pub asked: Option<Kind>,
    /// Whom a rotation waits for, as it was said last.
    pub waiting_for: Option<String>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there.
    Done,
    /// Something else is there than what was read.
    Overtaken,
}

/// The store cannot be reached, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);
