//! What the control plane asks this sidecar to do once.

use std::net::SocketAddr;
use std::time::Duration;

use weft_proto::discovery as wire;
use weft_proto::discovery::command::Kind;

use crate::outcome::Origin;
use crate::policy::{ServiceRef, decode};
use crate::telemetry::traffic::TrafficQuery;

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
    /// Tell sums of the traffic that passed.
    Traffic(TrafficQuery),
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
            Some(Kind::Traffic(query)) => Self::traffic(query).map_err(|e| e.to_string()),
            Some(Kind::Breaker(breaker)) => Self::breaker(&breaker).map_err(|e| e.to_string()),
        }
    }

    fn traffic(message: wire::TrafficQuery) -> Result<Self, decode::DecodeError> {
        let named = |name: String| (!name.is_empty()).then_some(name);
        let seconds = u64::from(message.window_seconds);
        Ok(Self::Traffic(TrafficQuery {
            direction: match decode::known("direction", message.direction)? {
                wire::TrafficDirection::Any => None,
                wire::TrafficDirection::Inbound => Some(Origin::Inbound),
                wire::TrafficDirection::Outbound => Some(Origin::Outbound),
            },
            namespace: named(message.namespace),
            service: named(message.service),
            window: (seconds > 0).then(|| Duration::from_secs(seconds)),
        }))
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
