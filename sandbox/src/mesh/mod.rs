//! A whole mesh on one machine.
//!
//! ```ignore
//! let sandbox = Sandbox::enter()?;
//! let mesh = Mesh::builder("demo", Programs::of_this_program())
//!     .workload(Workload::new("web-1"))
//!     .workload(Workload::new("checkout-1").port(8080, AppSpec::http()))
//!     .service(Service::new("checkout").port(80, 8080).endpoints(["checkout-1"]))
//!     .start(&sandbox)
//!     .await?;
//! let answer = mesh.pod("web-1").get(mesh.addr("checkout", 80), "/hello").await?;
//! ```
//!
//! Where the machine has no namespaces for it, the same mesh runs on the host's loopback: sidecars
//! listen in place of their applications, and pods reach services through listeners of their own,
//! which [`Pod::connect`] and [`Pod::route`] know. Real interception and IPv6 are not to be had then.
//!
//! Each workload is a pod with the redirect rules, a sidecar and an application; the control plane
//! has a pod of its own and reads a directory, as in file mode anywhere, or with [`Builder::cluster`]
//! a cluster, where the workloads are Pods then. Names mean the mesh's own namespace, or are written
//! `namespace/name`. Asking for a name that is not there panics.
//!
//! Everything ends with the [`Mesh`]: processes are killed, the directory is removed, namespaces go
//! with what was in them. Where it ends in a panic, the ends of all logs are shown.

mod builder;
mod cluster;
mod files;
mod kafka;
mod look;
mod member;
mod operate;
mod slots;
mod source;
mod spec;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use parking_lot::Mutex;
use weft_control_plane::policy::{DefaultAuthorization, MtlsMode};
use weft_proto::names;
use weft_proto::spiffe::SpiffeId;

use crate::Pod;
use crate::pod::Node;
use crate::process::Process;
use member::{Member, admin_address};
pub(crate) use slots::Slot;
use source::{Source, State};

pub use builder::Builder;
pub use cluster::unique;
pub use operate::Unknown;
pub use spec::{AppSpec, Endpoint, Programs, Service, Workload};

/// Networks of a mesh in namespaces: pods and services, both families.
const NETWORKS: [&str; 4] = ["10.42.0.0/16", "10.96.0.0/16", "fd42::/64", "fd96::/64"];
/// What one question whether a process is ready may take.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// How often readiness is asked for.
const POLL: Duration = Duration::from_millis(20);
/// How long a process that was asked to end may take; longer is an error.
pub const END_PATIENCE: Duration = Duration::from_secs(40);
/// Lines of the control plane's log that a message shows.
const TAIL_LINES: usize = 20;

/// A running mesh.
#[derive(Debug)]
pub struct Mesh {
    control_plane: Mutex<Option<Arc<Process>>>,
    state: Mutex<State>,
    source: Source,
    next_service: AtomicU16,
    control_plane_pod: Pod,
    common: Common,
    node: Node,
    _dir: tempfile::TempDir,
    _slot: Slot,
}

/// What does not change.
#[derive(Debug)]
struct Common {
    programs: Programs,
    control_plane_address: SocketAddr,
    control_plane_id: SpiffeId,
    control_plane_env: Vec<(String, String)>,
    trust_domain: String,
    minimum_mtls: Option<MtlsMode>,
    default_authorization: Option<DefaultAuthorization>,
    server_first_ports: Option<Vec<u16>>,
    namespace: String,
    networks: Vec<IpNet>,
    patience: Duration,
    dir: PathBuf,
}

impl Common {
    fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn key(&self, name: &str) -> String {
        if name.contains('/') {
            name.to_owned()
        } else {
            format!("{}/{name}", self.namespace)
        }
    }
}

/// Places and addresses.
impl Mesh {
    /// Describes a mesh, to start it then.
    pub fn builder(name: &str, programs: Programs) -> Builder {
        Builder::new(name, programs)
    }

    /// A workload's pod.
    #[track_caller]
    pub fn pod(&self, workload: &str) -> Pod {
        self.member(workload).pod.clone()
    }

    /// The namespace of workloads and services that name none.
    pub fn namespace(&self) -> &str {
        &self.common.namespace
    }

    /// The workloads there are now, as `namespace/name`.
    pub fn workloads(&self) -> Vec<String> {
        self.state.lock().members.keys().cloned().collect()
    }

    /// The control plane's pod.
    pub fn control_plane_pod(&self) -> &Pod {
        &self.control_plane_pod
    }

    /// A pod without workload, sidecar and interception: a stranger on the same network.
    pub fn stranger(&self, name: &str) -> anyhow::Result<Pod> {
        Ok(self.node.pod(name)?)
    }

    /// A service's cluster IPs: IPv4, IPv6. A headless service has them, but nobody knows, as of IPv6
    /// where a cluster gives none.
    #[track_caller]
    pub fn cluster_ips(&self, service: &str) -> (Ipv4Addr, Ipv6Addr) {
        let key = self.common.key(service);
        let state = self.state.lock();
        match state.services.get(&key) {
            Some(service) => (service.v4, service.v6),
            None => panic!("the mesh has no service {key}"),
        }
    }

    /// A service's IPv4 cluster IP.
    #[track_caller]
    pub fn cluster_ip(&self, service: &str) -> Ipv4Addr {
        self.cluster_ips(service).0
    }

    /// A service's IPv4 cluster IP with a port. Where nothing is intercepted, only [`Pod::connect`]
    /// and what is built on it reach it as it is; [`Pod::route`] says where others have to go.
    #[track_caller]
    pub fn addr(&self, service: &str, port: u16) -> SocketAddr {
        (self.cluster_ips(service).0, port).into()
    }

    /// A service's IPv6 cluster IP with a port. Nothing reaches it where nothing is intercepted.
    #[track_caller]
    pub fn addr_v6(&self, service: &str, port: u16) -> SocketAddr {
        (self.cluster_ips(service).1, port).into()
    }

    /// Whether a service has an IPv6 cluster IP of its own.
    #[track_caller]
    pub fn has_v6(&self, service: &str) -> bool {
        let key = self.common.key(service);
        let state = self.state.lock();
        match state.services.get(&key) {
            Some(service) => service.has_v6 && !service.spec.headless,
            None => panic!("the mesh has no service {key}"),
        }
    }

    /// The control plane's directory of manifests.
    pub fn config_dir(&self) -> PathBuf {
        self.common.dir.join("config")
    }

    /// The control plane's state: authority, tokens.
    pub fn state_dir(&self) -> PathBuf {
        self.common.state_dir()
    }

    /// The mesh's directory, with `config`, `state` and `logs`.
    pub fn dir(&self) -> &Path {
        &self.common.dir
    }

    #[track_caller]
    fn member(&self, workload: &str) -> Arc<Member> {
        let key = self.common.key(workload);
        let state = self.state.lock();
        match state.members.get(&key) {
            Some(member) => Arc::clone(member),
            None => panic!("the mesh has no workload {key}"),
        }
    }
}

/// Policies, services and what the control plane is told.
impl Mesh {
    /// Writes a manifest, at once, over the one with the same name.
    pub fn apply_policy(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        self.source.apply_policy(name, yaml)
    }

    /// Removes a manifest.
    pub fn remove_policy(&self, name: &str) -> anyhow::Result<()> {
        self.source.remove_policy(name)
    }

    /// Marks a workload as terminating, or not.
    #[track_caller]
    pub fn set_draining(&self, workload: &str, draining: bool) -> anyhow::Result<()> {
        *self.member(workload).draining.lock() = draining;
        self.write_source()
    }

    /// Replaces what stands behind a service.
    #[track_caller]
    pub fn set_endpoints<E: Into<Endpoint>>(
        &self,
        service: &str,
        endpoints: impl IntoIterator<Item = E>,
    ) -> anyhow::Result<()> {
        let key = self.common.key(service);
        match self.state.lock().services.get_mut(&key) {
            Some(service) => {
                service.spec.endpoints = endpoints.into_iter().map(Into::into).collect();
            }
            None => panic!("the mesh has no service {key}"),
        }
        self.write_source()
    }

    /// Adds a service, with an address of its own. In a mesh of files it needs network namespaces.
    pub fn add_service(&self, service: Service) -> anyhow::Result<()> {
        self.insert_service(service)?;
        self.write_source()
    }

    /// Adds many services at once.
    pub fn add_services(&self, services: impl IntoIterator<Item = Service>) -> anyhow::Result<()> {
        for service in services {
            self.insert_service(service)?;
        }
        self.write_source()
    }

    /// Removes a service, and what stands behind it stays.
    #[track_caller]
    pub fn remove_service(&self, service: &str) -> anyhow::Result<()> {
        self.take_service(service);
        self.write_source()
    }

    /// Gives a service another name in the same namespace, and with it another address: the old one is
    /// gone when the new one is there.
    #[track_caller]
    pub fn rename_service(&self, service: &str, name: &str) -> anyhow::Result<()> {
        let mut spec = self.take_service(service);
        name.clone_into(&mut spec.name);
        self.insert_service(spec)?;
        self.write_source()
    }

    #[track_caller]
    fn take_service(&self, service: &str) -> Service {
        let key = self.common.key(service);
        match self.state.lock().services.remove(&key) {
            Some(service) => Service {
                namespace: Some(service.namespace),
                ..service.spec
            },
            None => panic!("the mesh has no service {key}"),
        }
    }

    /// Makes the source say what is known now.
    fn write_source(&self) -> anyhow::Result<()> {
        // The lock is held over the writing: the source never goes back to an older state.
        let mut state = self.state.lock();
        self.source.write(&mut state, &self.common)
    }
}

/// Starting and ending.
impl Mesh {
    /// Starts the control plane and waits until it is ready.
    pub async fn start_control_plane(&self) -> anyhow::Result<()> {
        drop(self.control_plane.lock().take());
        let (program, environment) = self.source.control_plane(&self.common);
        let program = program
            .arg("--listen")
            .arg(self.common.control_plane_address.to_string())
            .arg("--admin")
            .arg(admin_address(&self.control_plane_pod).to_string());
        let mut command = self.control_plane_pod.command(&program);
        command.envs(environment);
        command.envs(self.common.control_plane_env.iter().map(|(n, v)| (n, v)));
        let process = self
            .control_plane_pod
            .start("control-plane", command, &self.control_plane_log())
            .context("starting the control plane")?;
        *self.control_plane.lock() = Some(Arc::new(process));
        self.within_patience(async {
            while self.missing_of_control_plane().await?.is_some() {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        })
        .await
    }

    /// Kills the control plane and waits for its end.
    pub async fn kill_control_plane(&self) -> anyhow::Result<()> {
        let process = self.control_plane()?;
        process.kill()?;
        wait_for_end(&process).await
    }

    /// Asks the control plane to end and waits for it.
    pub async fn stop_control_plane(&self) -> anyhow::Result<()> {
        let process = self.control_plane()?;
        process.terminate()?;
        wait_for_end(&process).await
    }

    /// Adds a workload, starts it and waits until it is ready. It stands behind a service only
    /// when [`Self::set_endpoints`] says so.
    pub async fn add_workload(&self, workload: Workload) -> anyhow::Result<()> {
        let member = self.make_member(workload)?;
        self.write_source()?;
        self.start_member(&member)?;
        self.wait_for(&member).await
    }

    /// Removes a workload as a rolling update does: marked terminating and taken out of its
    /// services first; then the application ends, and after it the sidecar.
    #[track_caller]
    pub fn remove_workload(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        let key = self.common.key(workload);
        async move {
            *member.draining.lock() = true;
            for service in self.state.lock().services.values_mut() {
                let namespace = service.namespace.clone();
                service.spec.endpoints.retain(|endpoint| match endpoint {
                    Endpoint::Workload(name) => key != format!("{namespace}/{name}"),
                    Endpoint::Address(_) => true,
                });
            }
            self.write_source()?;
            if member.spec.has_app() {
                end(&member.app()?).await?;
            }
            if member.spec.meshed {
                end(&member.sidecar()?).await?;
            }
            self.state.lock().members.remove(&key);
            self.write_source()
        }
    }

    /// Waits until a workload's application and sidecar are ready.
    #[track_caller]
    pub fn wait_ready(&self, workload: &str) -> impl Future<Output = anyhow::Result<()>> {
        let member = self.member(workload);
        async move { self.wait_for(&member).await }
    }

    fn control_plane(&self) -> anyhow::Result<Arc<Process>> {
        let running = self.control_plane.lock().clone();
        running.context("the mesh has no control plane now")
    }

    fn start_member(&self, member: &Member) -> anyhow::Result<()> {
        if member.spec.has_app() {
            member.start_app(&self.common)?;
        }
        if member.spec.meshed {
            self.give_credentials(member)?;
            member.intercept()?;
            member.start_sidecar(&self.common)?;
        }
        Ok(())
    }

    /// Puts where the sidecar reads them what it proves itself by, and what it believes by.
    fn give_credentials(&self, member: &Member) -> anyhow::Result<()> {
        member.write_token(&self.source.token(member)?)?;
        member.set_trust_bundle(self.source.trust_bundle(member)?);
        Ok(())
    }

    async fn wait_for(&self, member: &Member) -> anyhow::Result<()> {
        self.within_patience(async {
            while member.missing().await?.is_some() {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        })
        .await
    }

    /// Bounds a wait for readiness; where it takes too long, the error names what is missing.
    async fn within_patience(
        &self,
        ready: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let patience = self.common.patience;
        match tokio::time::timeout(patience, ready).await {
            Ok(result) => result,
            Err(_) => anyhow::bail!(
                "the mesh is not ready after {patience:?}; missing:\n{}\n{}",
                self.all_missing().await.join("\n"),
                self.log_tails()
            ),
        }
    }

    async fn all_missing(&self) -> Vec<String> {
        let members: Vec<_> = self.state.lock().members.values().cloned().collect();
        let mut answers = vec![self.missing_of_control_plane().await];
        for member in members {
            answers.push(member.missing().await);
        }
        let missing = answers.into_iter().filter_map(|answer| match answer {
            Ok(what) => what,
            Err(error) => Some(format!("{error:#}")),
        });
        missing.collect()
    }

    /// As [`Member::missing`]; a control plane that was not started is not missing.
    async fn missing_of_control_plane(&self) -> anyhow::Result<Option<String>> {
        let Ok(process) = self.control_plane() else {
            return Ok(None);
        };
        if let Some(status) = process.ended()? {
            let tail = process.log_tail(TAIL_LINES);
            anyhow::bail!("the control plane ended with {status}\n{tail}");
        }
        let missing = why_not_ready(&self.control_plane_pod).await;
        Ok(missing.map(|why| format!("control plane: {why}")))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails());
        }
        // All at once; each is then waited for when it is dropped.
        for member in self.state.lock().members.values() {
            member.kill();
        }
        if let Some(process) = &*self.control_plane.lock() {
            // Fails only where it has ended already.
            let _ = process.kill();
        }
    }
}

/// What the admin port of a pod's Weft process says, where it is not that it is ready.
async fn why_not_ready(pod: &Pod) -> Option<String> {
    let asked = pod.get_local(names::ports::ADMIN, "/ready");
    match tokio::time::timeout(READY_TIMEOUT, asked).await {
        Ok(Ok(answer)) if answer.status.is_success() => None,
        Ok(Ok(answer)) => Some(answer.text()),
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("/ready does not answer within {READY_TIMEOUT:?}")),
    }
}

async fn end(process: &Arc<Process>) -> anyhow::Result<()> {
    process.terminate()?;
    wait_for_end(process).await
}

async fn wait_for_end(process: &Process) -> anyhow::Result<()> {
    match process.wait(END_PATIENCE).await? {
        Some(_) => Ok(()),
        None => anyhow::bail!(
            "{} runs {END_PATIENCE:?} after it was told to end\n{}",
            process.name(),
            process.log_tail(TAIL_LINES)
        ),
    }
}
