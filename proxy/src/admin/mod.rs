//! The admin endpoint: what kubelet, Prometheus and people ask a sidecar.
//!
//! `/live`, `/ready`, `/health`, `/metrics` and `/probe/PORT` answer everybody; `/config`,
//! `/circuit-breakers`, `/log-level` and `/drain` answer loopback only. It runs on the control
//! thread, so that a slow scrape delays no traffic. It knows the rest of the sidecar only as
//! [`AdminState`].
//!
//! Bounds: [`MAX_CONNECTIONS`] at once (more are closed unanswered and counted), a head within
//! [`HEAD_TIMEOUT`], an answer within [`REQUEST_TIMEOUT`], a request body of [`MAX_BODY`] bytes, a
//! connection's whole life of [`CONNECTION_LIFE`] plus [`CONNECTION_GRACE`]. Errors are JSON objects
//! with an `error` sentence.

mod routes;
mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use futures_util::future::BoxFuture;

use crate::policy::ServiceRef;

pub use server::{
    AdminServer, CONNECTION_GRACE, CONNECTION_LIFE, HEAD_TIMEOUT, MAX_BODY, MAX_CONNECTIONS,
    REQUEST_TIMEOUT,
};

/// Which circuit breakers are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BreakerTarget {
    /// Every breaker of the sidecar.
    All,
    /// Those of one backend: its own and its endpoints'.
    Backend(ServiceRef),
    /// That of one endpoint of one backend.
    Endpoint(ServiceRef, SocketAddr),
}

/// What is to be done with circuit breakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerAction {
    /// Back to its own judgement.
    Auto,
    /// Stay closed until told otherwise.
    ForceClosed,
    /// Stay open until told otherwise.
    ForceOpen,
    /// Closed, with nothing counted; forced states end.
    Reset,
}

/// What the admin endpoint asks of the sidecar.
pub trait AdminState: Send + Sync {
    /// What the sidecar waits for before it is ready, by name; empty when it is.
    fn missing(&self) -> Vec<String>;
    /// Status, version, uptime, identity, expiry, control-plane connection, phase.
    fn health(&self) -> serde_json::Value;
    /// What the sidecar knows, without secrets.
    fn config(&self) -> serde_json::Value;
    /// Every circuit breaker and its state.
    fn breakers(&self) -> serde_json::Value;
    /// Does `action` and says how many breakers it met. Errors are sentences for people.
    fn breaker_action(&self, target: BreakerTarget, action: BreakerAction)
    -> Result<usize, String>;
    /// Prometheus text.
    fn render_metrics(&self) -> String;
    /// Starts draining, as SIGTERM does.
    fn drain(&self);
    /// The log level now.
    fn log_level(&self) -> String;
    /// Changes the log level; the answer is the level before.
    fn set_log_level(&self, level: &str) -> Result<String, String>;
    /// Opens and closes a connection to the application's port. Errors are sentences for people.
    fn probe(&self, port: u16) -> BoxFuture<'_, Result<(), String>>;
}
