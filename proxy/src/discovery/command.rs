//! What the control plane asks this sidecar to do once.

use std::net::SocketAddr;

use weft_proto::discovery as wire;
use weft_proto::discovery::command::Kind;

use crate::policy::{ServiceRef, decode};

/// Something to do once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Change breakers.
    Breaker {
        /// Of which backend; `None` for all.
        backend: Option<ServiceRef>,
        /// Which endpoint; `None` for all of the backend's.
        endpoint: Option<SocketAddr>,
        /// What to do.
        action: BreakerAction,
    },
    /// Tell every breaker and its state, as `/circuit-breakers` shows them.
    BreakerList,
    /// Tell the sidecar's state, as `/config` shows it.
    ConfigDump,
    /// Change the log level to this, or leave it where this is empty; the answer is the level before.
    LogLevel(String),
    /// Tell the sidecar's metrics, as `/metrics` shows them.
    MetricsDump,
}

/// What people do to breakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerAction {
    /// Closed until released.
    ForceClosed,
    /// Open until released.
    ForceOpen,
    /// Closed, with nothing remembered.
    Reset,
}

/// Does commands. Called on the control thread, so it must be quick.
pub trait CommandHandler: Send + Sync {
    /// Does `command` and answers with JSON, or says why not.
    fn handle(&self, command: Command) -> Result<String, String>;
}

impl Command {
    pub(super) fn from_wire(message: wire::Command) -> Result<Self, String> {
        match message.kind {
            None => Err("unknown command".to_owned()),
            Some(Kind::BreakerList(_)) => Ok(Self::BreakerList),
            Some(Kind::ConfigDump(_)) => Ok(Self::ConfigDump),
            Some(Kind::MetricsDump(_)) => Ok(Self::MetricsDump),
            Some(Kind::LogLevel(level)) => Ok(Self::LogLevel(level)),
            Some(Kind::Breaker(breaker)) => Self::breaker(&breaker).map_err(|e| e.to_string()),
        }
    }

    fn breaker(message: &wire::BreakerCommand) -> Result<Self, decode::DecodeError> {
        Ok(Self::Breaker {
            backend: message
                .backend
                .as_ref()
                .map(decode::service_ref)
                .transpose()?,
            endpoint: message
                .endpoint
                .as_ref()
                .map(decode::socket_address)
                .transpose()?,
            action: match decode::known("action", message.action)? {
                wire::BreakerAction::Reset => BreakerAction::Reset,
                wire::BreakerAction::ForceOpen => BreakerAction::ForceOpen,
                wire::BreakerAction::ForceClosed => BreakerAction::ForceClosed,
            },
        })
    }
}
