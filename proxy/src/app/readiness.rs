//! What is missing before a sidecar is ready.
//!
//! Ready means: listeners are bound (the process ends where they cannot be), there is a certificate,
//! the control plane has said what the mesh is and how the declared ports are to be served, and,
//! where connections are to be intercepted, a connection proved that they are; where they are not,
//! services have their listeners. What was there once stays: a control plane that goes away makes no
//! sidecar unready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use weft_proto::names::sentinel;

use super::settings::Interception;
use crate::discovery::{Discovery, Watched};
use crate::identity::Identity;
use crate::outbound::SENTINEL_GREETING;
use crate::policy::InboundPolicy;

/// How often interception is tried until it is proved.
const PROOF_INTERVAL: Duration = Duration::from_millis(200);
/// How long one such connection may take.
const PROOF_LIMIT: Duration = Duration::from_secs(1);

/// What a sidecar waits for.
pub struct Readiness {
    identity: Identity,
    discovery: Discovery,
    ports: Vec<(u16, Watched<InboundPolicy>)>,
    arrival: Arrival,
}

/// How the application's connections come to the sidecar, as far as that is known to work.
enum Arrival {
    /// Through the redirect: whether it was proved.
    Redirected(AtomicBool),
    /// At listeners for services: what is missing of them.
    Explicit(Mutex<Vec<String>>),
}

impl Readiness {
    /// Subscribes to the policies of `ports`.
    pub fn new(
        identity: Identity,
        discovery: Discovery,
        ports: &[u16],
        interception: Interception,
    ) -> Self {
        let ports = ports.iter().map(|port| (*port, discovery.inbound(*port)));
        Self {
            ports: ports.collect(),
            identity,
            discovery,
            arrival: match interception {
                Interception::Redirect => Arrival::Redirected(AtomicBool::new(false)),
                Interception::Explicit => {
                    Arrival::Explicit(Mutex::new(vec!["listeners for services".to_owned()]))
                }
            },
        }
    }

    /// What is still missing, in words; empty when the sidecar is ready.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.identity.current().is_none() {
            missing.push("certificate".to_owned());
        }
        if self.discovery.mesh().load().is_none() {
            missing.push("control plane (no discovery stream yet)".to_owned());
        }
        for (port, policy) in &self.ports {
            if policy.load().is_none() {
                missing.push(format!("inbound policy of port {port}"));
            }
        }
        match &self.arrival {
            Arrival::Redirected(proved) if proved.load(Ordering::Relaxed) => {}
            Arrival::Redirected(_) => missing
                .push("interception (no redirect rules in this network namespace)".to_owned()),
            Arrival::Explicit(listeners) => missing.extend(listeners.lock().iter().cloned()),
        }
        missing
    }

    /// The policies of the declared ports.
    pub fn ports(&self) -> &[(u16, Watched<InboundPolicy>)] {
        &self.ports
    }

    /// What is missing of the listeners for services now.
    pub(super) fn service_listeners_missing(&self, missing: Vec<String>) {
        if let Arrival::Explicit(listeners) = &self.arrival {
            *listeners.lock() = missing;
        }
    }

    /// Tries to prove the interception until it is proved. The connections carry no mark, as the
    /// application's do; the ruleset sends the sentinel to the sidecar before any exemption.
    pub async fn prove_interception(self: Arc<Self>) {
        let Arrival::Redirected(proved) = &self.arrival else {
            return;
        };
        loop {
            for address in [sentinel::V4, sentinel::V6] {
                if reaches_sidecar(address).await {
                    proved.store(true, Ordering::Relaxed);
                    tracing::info!(%address, "interception proved");
                    return;
                }
            }
            sleep(PROOF_INTERVAL).await;
        }
    }
}

/// Whether a connection to `address` ends up at a sidecar's outbound listener.
async fn reaches_sidecar(address: SocketAddr) -> bool {
    let greeted = async {
        let mut connection = TcpStream::connect(address).await.ok()?;
        let mut heard = [0; SENTINEL_GREETING.len()];
        connection.read_exact(&mut heard).await.ok()?;
        (heard == SENTINEL_GREETING).then_some(())
    };
    timeout(PROOF_LIMIT, greeted)
        .await
        .is_ok_and(|greeted| greeted.is_some())
}
