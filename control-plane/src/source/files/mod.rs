//! A directory of files as the mesh's source: `mesh.yaml`, and TrafficPolicy, HTTPRoute, GRPCRoute and
//! ReferenceGrant documents in every other `*.yaml` and `*.yml`.
//!
//! The unit of refusal is one object: it is refused with file, line and reason, and its last good
//! version stays in force. A YAML document that cannot be parsed keeps every object that it held.
//! Without a last good version, a bad policy that carries `authorization` denies its target, and one
//! that carries `mtls` makes it Strict; the rest of it is left out. What cannot even be read so far
//! that its target is known closes nothing, and says so. A vanished file takes its objects along, but `mesh.yaml`: a
//! mesh without it would let everything pass. A vanished or unreadable directory keeps everything.
//!
//! Starting is strict: without a directory and good mesh-wide settings there is no mesh.

mod entries;
mod lines;
mod once;
mod parse;
mod scan;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::index::{MeshSettings, Model, Publisher};
use crate::source::mesh_file::{FILE_NAME, MeshFile};
use crate::source::tell::tell;
pub use once::{Once, read_once};
pub use parse::documents;
use scan::Scanner;
use store::Store;

/// How often the directory is looked at.
const POLL: Duration = Duration::from_millis(150);

/// Why a directory cannot be a mesh's source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory cannot be read.
    #[error("{}: {error}", dir.display())]
    Unreadable {
        /// Which directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no file in it that could be read.
    #[error("{}: there is no *.yaml or *.yml in it", dir.display())]
    Empty {
        /// Which directory.
        dir: PathBuf,
    },
    /// There are no good mesh-wide settings, so nothing is known about anything.
    #[error("{}: no usable {FILE_NAME}: {reasons}", dir.display())]
    NoMesh {
        /// Which directory.
        dir: PathBuf,
        /// What is wrong with the file.
        reasons: String,
    },
    /// The runtime is ending.
    #[error("reading was cut short: {0}")]
    Interrupted(#[from] JoinError),
}

/// The mesh-wide settings of a file, which a cluster's come as too, or what is wrong with them.
pub(crate) fn settings(file: MeshFile) -> Result<MeshSettings, String> {
    entries::settings(file)
}

/// Reads everything in `dir` once, then keeps watching it until `shutdown`. The receiver holds the
/// newest model at any time.
pub async fn watch_dir(
    dir: PathBuf,
    shutdown: CancellationToken,
) -> Result<watch::Receiver<Arc<Model>>, SourceError> {
    let mut scanner = Scanner::new(dir.clone());
    let (scanner, read) = tokio::task::spawn_blocking(move || {
        let read = scanner.scan();
        (scanner, read)
    })
    .await?;
    if let Err(error) = read {
        return Err(SourceError::Unreadable { dir, error });
    }

    let mut store = Store::default();
    store.update(scanner.contents());
    let Some(objects) = store.objects() else {
        let refusals = store.refusals().iter();
        let reasons: Vec<_> = refusals
            .filter(|refusal| refusal.file == FILE_NAME)
            .map(ToString::to_string)
            .collect();
        return Err(SourceError::NoMesh {
            dir,
            reasons: reasons.join("; "),
        });
    };
    let (publisher, receiver) = Publisher::start(objects);
    let model = Arc::clone(&receiver.borrow());
    tell(&[], &model);
    tokio::spawn(watch(scanner, store, publisher, model, shutdown));
    Ok(receiver)
}

async fn watch(
    mut scanner: Scanner,
    mut store: Store,
    publisher: Publisher,
    mut model: Arc<Model>,
    shutdown: CancellationToken,
) {
    let mut readable = true;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
        let scan = tokio::task::spawn_blocking(move || {
            let read = scanner.scan();
            (scanner, read)
        });
        // The task panics with a bug of ours and is cancelled at the runtime's end: what is known
        // stays in force either way.
        let Ok((back, read)) = scan.await else {
            tracing::error!("the directory is not watched any longer");
            return;
        };
        scanner = back;
        match read {
            Ok(changed) => {
                if !readable {
                    tracing::info!("the directory can be read again");
                    readable = true;
                }
                if !changed {
                    continue;
                }
            }
            Err(error) => {
                if readable {
                    tracing::warn!(%error, "the directory cannot be read; everything stays in force");
                    readable = false;
                }
                continue;
            }
        }
        store.update(scanner.contents());
        let Some(objects) = store.objects() else {
            continue;
        };
        let next = publisher.publish(objects);
        tell(model.refusals(), &next);
        model = next;
    }
}

/// The model of files that are given as texts.
#[cfg(test)]
pub(crate) fn model_of(files: &[(&str, &str)]) -> Model {
    let files = files
        .iter()
        .map(|(file, text)| ((*file).to_owned(), parse::parse(file, text)));
    let mut store = Store::default();
    store.update(&files.collect());
    let objects = store.objects().expect("the mesh-wide settings are good");
    Model::build(objects, 1)
}

/// What [`read_once`] makes of files that are given as texts, by their names.
pub fn read_texts(files: &[(&str, &str)]) -> Once {
    let files = files
        .iter()
        .map(|(file, text)| ((*file).to_owned(), parse::parse(file, text)));
    once::together(&files.collect())
}
