//! One workload of a running mesh: its pod, sidecar and application.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use weft_control_plane::source::mesh_file::{ProbeEntry, WorkloadEntry, WorkloadPortEntry};
use weft_proto::names::{self, env};
use weft_proxy::interception::{self, InterceptionPlan};

use super::spec::Workload;
use super::{Common, why_not_ready};
use crate::Pod;
use crate::app::{self, Control, Port};
use crate::pod::loopback::Place;
use crate::process::{Process, write_atomically};

/// Lines of a log that a message shows.
const TAIL_LINES: usize = 20;

/// Both processes may be absent: not started, or stopped.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) spec: Workload,
    pub(super) namespace: String,
    pub(super) pod: Pod,
    pub(super) draining: Mutex<bool>,
    sidecar: Mutex<Option<Arc<Process>>>,
    app: Mutex<Option<Arc<Process>>>,
    token: PathBuf,
    trust_bundle: Mutex<PathBuf>,
    logs: PathBuf,
}

impl Member {
    pub(super) fn new(spec: Workload, namespace: String, pod: Pod, dir: &Path) -> Self {
        let name = format!("{namespace}.{}", spec.name);
        Self {
            token: dir.join(format!("{name}.token")),
            logs: dir.join("logs").join(name),
            spec,
            namespace,
            pod,
            draining: Mutex::new(false),
            sidecar: Mutex::default(),
            app: Mutex::default(),
            trust_bundle: Mutex::default(),
        }
    }

    /// How mesh.yaml describes it.
    pub(super) fn entry(&self) -> WorkloadEntry {
        WorkloadEntry {
            name: self.spec.name.clone(),
            namespace: self.namespace.clone(),
            service_account: self.spec.service_account.clone(),
            addresses: self.pod.addresses(),
            meshed: self.spec.meshed,
            zone: self.spec.zone.clone().unwrap_or_default(),
            weight: self.spec.weight,
            draining: *self.draining.lock(),
            ports: self
                .spec
                .ports
                .iter()
                .map(|(port, app)| WorkloadPortEntry {
                    port: *port,
                    protocol: app.protocol.clone().unwrap_or_default(),
                    probes: self.probes(*port),
                })
                .collect(),
        }
    }

    /// Its listeners for services, where nothing is intercepted.
    pub(super) fn listeners(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let place = self.pod.place();
        place.map_or_else(Vec::new, |place| place.listeners().collect())
    }

    /// Puts the redirect rules into the pod's namespace, where it has one.
    pub(super) fn intercept(&self) -> anyhow::Result<()> {
        if self.pod.place().is_some() {
            return Ok(());
        }
        let rules = interception::rules(&InterceptionPlan::by_mark(names::PROXY_MARK));
        self.pod
            .run(move || interception::apply(&rules))
            .with_context(|| format!("redirect rules of {}", self.spec.name))?;
        Ok(())
    }

    /// Keeps the token where the sidecar reads it.
    pub(super) fn write_token(&self, token: &str) -> anyhow::Result<()> {
        write_atomically(&self.token, token)
            .with_context(|| format!("writing the token of {}", self.spec.name))
    }

    /// Where the sidecar finds the roots that it believes the control plane by.
    pub(super) fn set_trust_bundle(&self, file: PathBuf) {
        *self.trust_bundle.lock() = file;
    }

    /// Starts the sidecar; a running one is killed.
    pub(super) fn start_sidecar(&self, common: &Common) -> anyhow::Result<()> {
        let program = self.spec.sidecar.as_ref();
        let program = program.unwrap_or(&common.programs.proxy);
        let mut command = self.pod.command(program);
        self.set_sidecar_environment(&mut command, common);
        self.start(&self.sidecar, "sidecar", command)
    }

    /// Starts the application; a running one is killed.
    pub(super) fn start_app(&self, common: &Common) -> anyhow::Result<()> {
        let mut program = common
            .programs
            .app
            .clone()
            .args(["--name", &self.spec.name])
            .args(["--app-version", &self.spec.version])
            .args(["--bind", &self.pod.app_address().to_string()]);
        for (port, app) in &self.spec.ports {
            if let Some(kind) = app.kind {
                let port = Port { kind, port: *port };
                program = program.args(["--serve", &port.to_string()]);
            }
        }
        if let Some(keep_alive) = self.spec.keep_alive {
            let millis = |time: Duration| time.as_millis().to_string();
            program = program
                .args(["--keep-alive-ms", &millis(keep_alive.limit)])
                .args(["--keep-alive-blind-ms", &millis(keep_alive.blind)]);
            if keep_alive.announced {
                program = program.arg("--keep-alive-announced");
            }
        }
        self.start(&self.app, "app", self.pod.command(&program))
    }

    pub(super) fn sidecar(&self) -> anyhow::Result<Arc<Process>> {
        let running = self.sidecar.lock().clone();
        running.with_context(|| format!("{} has no sidecar now", self.spec.name))
    }

    pub(super) fn app(&self) -> anyhow::Result<Arc<Process>> {
        let running = self.app.lock().clone();
        running.with_context(|| format!("{} has no application now", self.spec.name))
    }

    pub(super) fn control(&self) -> Control {
        Control::new(self.pod.clone(), app::CONTROL_PORT)
    }

    /// What is not ready yet, in words; an error where it cannot become ready any more.
    pub(super) async fn missing(&self) -> anyhow::Result<Option<String>> {
        if self.spec.has_app() {
            self.check_alive(&self.app()?)?;
            if let Err(error) = self.control().ready().await {
                return Ok(Some(format!("{}'s app: {error:#}", self.spec.name)));
            }
        }
        if self.spec.meshed {
            self.check_alive(&self.sidecar()?)?;
            if let Some(why) = why_not_ready(&self.pod).await {
                return Ok(Some(format!("{}'s sidecar: {why}", self.spec.name)));
            }
        }
        Ok(None)
    }

    /// The ends of its logs.
    pub(super) fn log_tails(&self) -> String {
        let mut text = String::new();
        for process in [&self.sidecar, &self.app] {
            let process = process.lock().clone();
            if let Some(process) = process {
                let (name, tail) = (process.name(), process.log_tail(TAIL_LINES));
                text.extend(["--- ", name, " of ", &self.spec.name, "\n", &tail, "\n"]);
            }
        }
        text
    }

    /// All that its processes wrote, those before a restart too.
    pub(super) fn logs(&self, which: &str) -> String {
        let log = self.log_file(which);
        String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
    }

    /// Kills both processes, without waiting.
    pub(super) fn kill(&self) {
        for process in [&self.sidecar, &self.app] {
            if let Some(process) = &*process.lock() {
                // Fails only where it has ended already.
                let _ = process.kill();
            }
        }
    }

    fn probes(&self, port: u16) -> Vec<ProbeEntry> {
        let of_port = self.spec.probes.iter().filter(|(at, _)| *at == port);
        of_port
            .map(|(_, path)| ProbeEntry {
                path: path.clone(),
                method: "GET".to_owned(),
            })
            .collect()
    }

    fn check_alive(&self, process: &Arc<Process>) -> anyhow::Result<()> {
        match process.ended()? {
            None => Ok(()),
            Some(status) => anyhow::bail!(
                "{} of {} ended with {status}\n{}",
                process.name(),
                self.spec.name,
                self.log_tails()
            ),
        }
    }

    fn start(
        &self,
        place: &Mutex<Option<Arc<Process>>>,
        name: &str,
        command: Command,
    ) -> anyhow::Result<()> {
        // The one before goes first: both would want the same ports.
        drop(place.lock().take());
        let process = self
            .pod
            .start(name, command, &self.log_file(name))
            .with_context(|| format!("starting the {name} of {}", self.spec.name))?;
        *place.lock() = Some(Arc::new(process));
        Ok(())
    }

    fn log_file(&self, which: &str) -> PathBuf {
        let mut file = self.logs.clone().into_os_string();
        file.push(format!(".{which}.log"));
        file.into()
    }

    fn set_sidecar_environment(&self, command: &mut Command, common: &Common) {
        let ports: Vec<_> = self.spec.ports.iter().map(|(p, _)| p.to_string()).collect();
        let addresses: Vec<_> = self.pod.addresses().iter().map(IpAddr::to_string).collect();
        command
            .env(env::WORKLOAD, &self.spec.name)
            .env(env::NAMESPACE, &self.namespace)
            .env(
                env::CONTROL_PLANE_ADDR,
                common.control_plane_address.to_string(),
            )
            .env(env::CONTROL_PLANE_ID, common.control_plane_id.as_str())
            .env(env::TRUST_BUNDLE_FILE, &*self.trust_bundle.lock())
            .env(env::TOKEN_FILE, &self.token)
            .env(env::INBOUND_PORTS, ports.join(","))
            .env(env::WORKLOAD_ADDRESSES, addresses.join(","))
            .env(env::ADMIN_ADDR, admin_address(&self.pod).to_string())
            .env(env::LOG_LEVEL, "info")
            .env(env::LOG_FORMAT, "json");
        match self.pod.place() {
            None => {
                command
                    .env(env::INTERCEPTION, "Redirect")
                    .env(env::MARK, format!("{:#x}", names::PROXY_MARK));
            }
            Some(place) => {
                command
                    .env(env::INTERCEPTION, "Explicit")
                    .env(env::EXPLICIT_INBOUND, self.explicit_inbound(place));
            }
        }
        if let Some(zone) = self.spec.zone.as_ref().filter(|_| self.spec.told_zone) {
            command.env(env::ZONE, zone);
        }
        if let Some(workers) = self.spec.workers {
            command.env(env::WORKERS, workers.to_string());
        }
        if let Some(timeout) = self.spec.drain_timeout {
            command.env(env::DRAIN_TIMEOUT, duration_text(timeout));
        }
        command.envs(self.spec.env.iter().map(|(name, value)| (name, value)));
    }

    /// For each port: where the sidecar listens, and the application behind it.
    fn explicit_inbound(&self, place: &Place) -> String {
        let (own, app) = (place.address(), place.app());
        let ports = self.spec.ports.iter();
        let listeners: Vec<_> = ports
            .map(|(port, _)| format!("{own}:{port}={app}:{port}"))
            .collect();
        listeners.join(",")
    }
}

/// Where the admin port of a pod's Weft process listens.
pub(super) fn admin_address(pod: &Pod) -> SocketAddr {
    let address = match pod.place() {
        Some(place) => place.address(),
        None => Ipv4Addr::UNSPECIFIED,
    };
    SocketAddr::new(address.into(), names::ports::ADMIN)
}

/// A duration as settings have it: `1500ms`.
fn duration_text(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
