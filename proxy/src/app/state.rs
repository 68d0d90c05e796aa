//! What the admin endpoint and the control plane may ask of a sidecar, and change.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use weft_proto::logs::LogControl;

use super::certificates::Certificates;
use super::readiness::Readiness;
use super::settings::Settings;
use crate::admin::{AdminState, BreakerAction, BreakerTarget};
use crate::discovery::{self, Command, CommandHandler, Discovery};
use crate::net::closing::ClosingSender;
use crate::net::{AppDialer, OwnAddresses};
use crate::outbound::Outbound;
use crate::telemetry::Telemetry;
use crate::telemetry::tap;

/// How long the application may take to accept a probe's connection.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// How often taps are looked at that nobody may poll any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// One sidecar, as people see it.
pub struct State {
    pub(super) settings: Settings,
    pub(super) started: Instant,
    pub(super) certificates: Certificates,
    pub(super) discovery: Discovery,
    pub(super) readiness: Arc<Readiness>,
    pub(super) outbound: Arc<Outbound>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) closing: Arc<ClosingSender>,
    pub(super) log: LogControl,
    pub(super) dialer: AppDialer,
    pub(super) own_addresses: OwnAddresses,
    /// Starts draining, as SIGTERM does.
    pub(super) drain: Arc<Notify>,
}

impl State {
    /// Goes on with somebody's session. Those that nobody polls any more are ended by a task that lives
    /// while there are any.
    fn tap(&self, poll: tap::Poll) -> Result<String, String> {
        let tap = self.telemetry.watchers().tap();
        let said = tap.poll(poll).map_err(|error| error.to_string())?;
        if tap.needs_sweeper() {
            let telemetry = Arc::clone(&self.telemetry);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    if !telemetry.watchers().tap().sweep() {
                        break;
                    }
                }
            });
        }
        Ok(said)
    }
}

impl AdminState for State {
    fn missing(&self) -> Vec<String> {
        self.readiness.missing()
    }

    fn health(&self) -> Value {
        let missing = self.missing();
        json!({
            "status": if missing.is_empty() { "ready" } else { "starting" },
            "missing": missing,
            "version": env!("CARGO_PKG_VERSION"),
            "uptimeSeconds": self.started.elapsed().as_secs(),
            "phase": format!("{:?}", self.closing.phase()),
            "workload": format!("{}/{}", self.settings.namespace, self.settings.workload),
            "identity": self.certificates.to_json(),
            "controlPlane": {
                "address": self.settings.control_plane_addr.to_string(),
                "connected": self.discovery.connected(),
                "configAgeSeconds": self.discovery.config_age(),
            },
        })
    }

    fn config(&self) -> Value {
        let mesh = self.discovery.mesh().load();
        let inbound: Value = self
            .readiness
            .ports()
            .iter()
            .map(|(port, policy)| {
                (
                    port.to_string(),
                    json!(policy.load().map(|p| format!("{p:?}"))),
                )
            })
            .collect::<serde_json::Map<_, _>>()
            .into();
        json!({
            "health": self.health(),
            "mesh": mesh.map(|mesh| json!({
                "trustDomain": &*mesh.trust_domain,
                "networks": mesh.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "serverFirstPorts": mesh.server_first_ports,
            })),
            "discovery": self.discovery.state(),
            "inbound": inbound,
            "outbound": self.outbound.backends_json(),
        })
    }

    fn breakers(&self) -> Value {
        self.outbound.breakers_json()
    }

    fn breaker_action(
        &self,
        target: BreakerTarget,
        action: BreakerAction,
    ) -> Result<usize, String> {
        Ok(self.outbound.act_on_breakers(&target, action))
    }

    fn render_metrics(&self) -> String {
        self.telemetry
            .set_discovery(self.discovery.connected(), self.discovery.config_age());
        if let Some(not_after) = self.certificates.not_after() {
            self.telemetry.set_certificate_expiry(not_after);
        }
        self.telemetry.render()
    }

    fn drain(&self) {
        self.drain.notify_one();
    }

    fn log_level(&self) -> String {
        self.log.level().as_str().to_owned()
    }

    fn set_log_level(&self, level: &str) -> Result<String, String> {
        let before = self
            .log
            .set_level(level)
            .map_err(|error| error.to_string())?;
        Ok(before.as_str().to_owned())
    }

    fn probe(&self, port: u16) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let own = self.own_addresses.first();
            let ip = own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let address = self.own_addresses.app(SocketAddr::new(ip, port));
            match timeout(PROBE_LIMIT, self.dialer.dial(address)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(format!("{address}: {error}")),
                Err(_) => Err(format!("{address}: no connection within {PROBE_LIMIT:?}")),
            }
        })
    }
}

impl CommandHandler for State {
    fn handle(&self, command: Command) -> Result<String, String> {
        match command {
            Command::Breaker {
                backend,
                endpoint,
                action,
            } => {
                let action = match action {
                    discovery::BreakerAction::ForceClosed => BreakerAction::ForceClosed,
                    discovery::BreakerAction::ForceOpen => BreakerAction::ForceOpen,
                    discovery::BreakerAction::Reset => BreakerAction::Reset,
                };
                let target = match (backend, endpoint) {
                    (None, None) => BreakerTarget::All,
                    (Some(backend), None) => BreakerTarget::Backend(backend),
                    (Some(backend), Some(endpoint)) => BreakerTarget::Endpoint(backend, endpoint),
                    (None, Some(_)) => return Err("an endpoint needs its backend".to_owned()),
                };
                let met = self.outbound.act_on_breakers(&target, action);
                Ok(json!({ "breakers": met }).to_string())
            }
            Command::BreakerList => Ok(self.breakers().to_string()),
            Command::ConfigDump => Ok(self.config().to_string()),
            Command::Tap(poll) => self.tap(*poll),
            Command::MetricsDump => Ok(json!(self.render_metrics()).to_string()),
            Command::Traffic(query) => {
                let mut summary = self.telemetry.traffic(&query);
                summary.identity = self.certificates.account().unwrap_or_default();
                serde_json::to_string(&summary).map_err(|error| error.to_string())
            }
            Command::LogLevel(level) if level.is_empty() => Ok(json!(self.log_level()).to_string()),
            Command::LogLevel(level) => self
                .set_log_level(&level)
                .map(|before| json!(before).to_string()),
        }
    }
}
