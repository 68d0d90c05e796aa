//! A directory of files as the mesh's source.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::index::Model;

/// Why a directory cannot be a mesh's source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory cannot be read.
    #[error("{}: {error}", dir.display())]
    Unreadable {
        /// Which directory.
        dir: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Reads `dir` once, then keeps watching it until `shutdown`.
pub async fn watch_dir(
    dir: PathBuf,
    _shutdown: CancellationToken,
) -> Result<watch::Receiver<Arc<Model>>, SourceError> {
    Err(SourceError::Unreadable {
        dir,
        error: std::io::ErrorKind::Unsupported.into(),
    })
}
