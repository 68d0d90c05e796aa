//! Hands snapshots on.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::{Model, Objects};

/// The one writer of the model.
#[derive(Debug)]
pub struct Publisher {
    sender: watch::Sender<Arc<Model>>,
}

impl Publisher {
    /// Publishes the first snapshot, which must hold everything that the source has.
    pub fn start(objects: Objects) -> (Self, watch::Receiver<Arc<Model>>) {
        let model = Model::build(objects, next_revision(0, unix_micros()));
        let (sender, receiver) = watch::channel(Arc::new(model));
        (Self { sender }, receiver)
    }

    /// Publishes the next snapshot.
    pub fn publish(&self, objects: Objects) -> Arc<Model> {
        let before = Arc::clone(&self.sender.borrow());
        let revision = next_revision(before.revision(), unix_micros());
        let model = Arc::new(Model::build_after(&before, objects, revision));
        self.sender.send_replace(Arc::clone(&model));
        model
    }
}

/// Follows the clock, so that revisions rise over restarts, and rises even where the clock does not.
pub(super) fn next_revision(last: u64, unix_micros: u64) -> u64 {
    unix_micros.max(last.saturating_add(1))
}

fn unix_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}
