//! Listeners that stand for services, where nothing is intercepted.
//!
//! The control plane names them and may name more at any time; a listener stays until the end. One
//! that cannot be bound is named by `/ready`, and tried again until it can.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::listen::{self, Listener};
use super::readiness::Readiness;
use super::sidecar::serve_outbound;
use super::threads::Workers;
use crate::discovery::Watched;
use crate::net::closing::{Closing, Phase};
use crate::net::socket::{self, Fixed};
use crate::outbound::Outbound;
use crate::policy::{ExplicitListener, MeshInfo};
use crate::telemetry::Telemetry;

/// How often a listener that could not be bound is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What the listeners stand on.
pub(super) struct ServiceListeners {
    pub(super) mesh: Watched<MeshInfo>,
    pub(super) outbound: Arc<Outbound>,
    pub(super) workers: Workers,
    pub(super) closing: Closing,
    pub(super) accepting: TaskTracker,
    pub(super) connections: TaskTracker,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) readiness: Arc<Readiness>,
    /// Of all listeners together.
    pub(super) max_connections: usize,
}

impl ServiceListeners {
    /// Binds what the control plane names, as it names more.
    pub(super) async fn run(self) {
        let mut bound = HashSet::new();
        let mut missing = Vec::new();
        let mut seen: Option<Arc<MeshInfo>> = None;
        loop {
            let mesh = self.mesh.changed(seen.as_ref()).await;
            loop {
                let still_missing = self.bind(&mesh, &mut bound);
                if still_missing != missing {
                    missing = still_missing;
                    tracing::info!(bound = bound.len(), ?missing, "listeners for services");
                }
                self.readiness.service_listeners_missing(missing.clone());
                let news = self.mesh.changed(Some(&mesh));
                if missing.is_empty() || timeout(RETRY_INTERVAL, news).await.is_ok() {
                    break;
                }
            }
            seen = Some(mesh);
        }
    }

    /// Binds what is not `bound` yet. What cannot be bound is returned, in words.
    fn bind(&self, mesh: &MeshInfo, bound: &mut HashSet<ExplicitListener>) -> Vec<String> {
        let mut missing = Vec::new();
        for wanted in &mesh.explicit_listeners {
            if bound.contains(wanted) {
                continue;
            }
            match self.listen(wanted) {
                Ok(()) => {
                    bound.insert(*wanted);
                }
                Err(error) => missing.push(format!("listener {} ({error})", wanted.address)),
            }
        }
        missing
    }

    fn listen(&self, wanted: &ExplicitListener) -> io::Result<()> {
        let original = Fixed(wanted.destination);
        let listener = Listener {
            name: "explicit",
            socket: socket::listen(wanted.address)?,
            serve: serve_outbound(&self.outbound, original, self.closing.clone()),
            // What the application still has to finish may need others.
            until: Phase::Finishing,
            most: self.max_connections,
        };
        let refused = self.telemetry.limit("connections");
        listen::run(
            &listener,
            &self.workers,
            &self.closing,
            (&self.accepting, &self.connections),
            &refused,
        )
    }
}
