//! Connections that one direction has dialled.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::outcome::{Failure, Outcome};

/// How long a dial waits for an idle connection that was closed to make room for it.
pub const RECLAIM_WAIT: Duration = Duration::from_secs(1);

/// Closes one idle connection; false where there is none.
type Reclaim = Box<dyn Fn() -> bool + Send + Sync>;

/// How many connections may be dialled and open at once.
pub struct Dials {
    places: Arc<Semaphore>,
    most: usize,
    hits: Counter,
    reclaim: OnceLock<Reclaim>,
}

/// The right to one dialled connection; to be dropped with the connection, not before.
#[derive(Debug)]
pub struct DialPlace {
    _permit: OwnedSemaphorePermit,
}

impl Dials {
    pub(super) fn new(most: usize, hits: Counter) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            hits,
            reclaim: OnceLock::new(),
        })
    }

    /// Where all places are taken, `reclaim` is asked to close an idle connection. Said once.
    pub fn reclaim_with(&self, reclaim: impl Fn() -> bool + Send + Sync + 'static) {
        // A second one would close the same connections.
        let _ = self.reclaim.set(Box::new(reclaim));
    }

    /// A place for one connection. Where all are taken that is counted, and an idle connection gives
    /// its own up if there is one; else it fails as `overflow`, at once.
    pub async fn place(&self) -> Result<DialPlace, Failure> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(DialPlace { _permit: permit });
        }
        self.hits.increment(1);
        if self.reclaim.get().is_some_and(|reclaim| reclaim()) {
            let freed = Arc::clone(&self.places).acquire_owned();
            if let Ok(Ok(permit)) = timeout(RECLAIM_WAIT, freed).await {
                return Ok(DialPlace { _permit: permit });
            }
        }
        Err(Failure::never(
            Outcome::Overflow,
            "this sidecar has as many connections to servers as it may",
        ))
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.most - self.places.available_permits()
    }
}

impl fmt::Debug for Dials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dials")
            .field("most", &self.most)
            .field("taken", &self.taken())
            .finish_non_exhaustive()
    }
}
