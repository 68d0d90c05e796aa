//! From a description to a running mesh.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use weft_control_plane::policy::{DefaultAuthorization, MtlsMode};
use weft_proto::names;
use weft_proto::spiffe::SpiffeId;

use super::cluster::{Cluster, unique};
use super::files::Files;
use super::member::Member;
use super::slots::Slot;
use super::source::{RunningService, Services, Source, State};
use super::spec::{Programs, Service, Workload};
use super::{Common, Mesh, NETWORKS};
use crate::Sandbox;
use crate::pod::Node;
use crate::pod::loopback::{Block, ServicePorts};

/// How long a mesh may take until everything is ready.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Host number of the first service's address.
const FIRST_CLUSTER_IP: u16 = 10;
/// Services that one mesh takes, well inside 10.96.0.0/16.
const MAX_SERVICES: u16 = 4096;
/// Service ports of a mesh on loopback: each has a port number in every pod.
const MAX_SERVICE_PORTS: usize = 10_000;

/// Describes a mesh. Made by [`Mesh::builder`].
#[derive(Debug)]
pub struct Builder {
    name: String,
    trust_domain: String,
    namespace: Option<String>,
    cluster: Option<PathBuf>,
    replicas: usize,
    programs: Programs,
    workloads: Vec<Workload>,
    services: Vec<Service>,
    manifests: Vec<(String, String)>,
    control_plane_env: Vec<(String, String)>,
    minimum_mtls: Option<MtlsMode>,
    default_authorization: Option<DefaultAuthorization>,
    server_first_ports: Option<Vec<u16>>,
    patience: Duration,
}

impl Builder {
    pub(super) fn new(name: &str, programs: Programs) -> Self {
        Self {
            name: name.to_owned(),
            trust_domain: "weft.local".to_owned(),
            namespace: None,
            cluster: None,
            replicas: 0,
            programs,
            workloads: Vec::new(),
            services: Vec::new(),
            manifests: Vec::new(),
            control_plane_env: Vec::new(),
            minimum_mtls: None,
            default_authorization: None,
            server_first_ports: None,
            patience: START_PATIENCE,
        }
    }

    /// The trust domain; `weft.local` without.
    pub fn trust_domain(mut self, trust_domain: &str) -> Self {
        trust_domain.clone_into(&mut self.trust_domain);
        self
    }

    /// The namespace of workloads and services that name none; `default` without, and in a cluster one
    /// that nobody else has: [`Mesh::namespace`] says which.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Reads the cluster of this kubeconfig instead of a directory: workloads are Pods of it, services
    /// are Services with EndpointSlices, manifests are applied. Namespaces that are not there are made,
    /// one more of them for the control plane. Weft's CRDs are not: what a mesh starts without, it may
    /// be given later.
    ///
    /// The cluster runs none of it: no node, no scheduler and no controller is needed, and where there
    /// are some they have nothing to do with these objects. [`Mesh::leave_cluster`] removes everything.
    pub fn cluster(mut self, kubeconfig: impl Into<PathBuf>) -> Self {
        self.cluster = Some(kubeconfig.into());
        self
    }

    /// So many replicas of the control plane, `control-plane-0` and so on, in a cluster only. Each has a
    /// pod and a Pod of its own. Sidecars dial one address, which leads to one of those that are ready, as
    /// a Service does. What speaks of *the* control plane, as [`Mesh::start_control_plane`] and
    /// [`Mesh::cut_off_cluster`], is for meshes without this; see [`Mesh::add_replica`].
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// One more workload.
    pub fn workload(mut self, workload: Workload) -> Self {
        self.workloads.push(workload);
        self
    }

    /// One more service.
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// One more manifest (a TrafficPolicy), in `policy-N.yaml`, counted from 1.
    pub fn policy(self, yaml: &str) -> Self {
        let number = self.manifests.len() + 1;
        self.named_policy(&format!("policy-{number}"), yaml)
    }

    /// One more manifest, in `NAME.yaml`: what [`Mesh::apply_policy`] replaces by this name.
    pub fn named_policy(mut self, name: &str, yaml: &str) -> Self {
        self.manifests.push((name.to_owned(), yaml.to_owned()));
        self
    }

    /// Who may call what no policy speaks of.
    pub fn default_authorization(mut self, who: DefaultAuthorization) -> Self {
        self.default_authorization = Some(who);
        self
    }

    /// The mesh's minimum of mutual TLS.
    pub fn minimum_mtls(mut self, mode: MtlsMode) -> Self {
        self.minimum_mtls = Some(mode);
        self
    }

    /// Ports on which servers speak first, where the control plane's defaults are not wanted.
    pub fn server_first_ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.server_first_ports = Some(ports.into_iter().collect());
        self
    }

    /// One more environment variable of the control plane.
    pub fn control_plane_env(mut self, name: &str, value: &str) -> Self {
        self.control_plane_env
            .push((name.to_owned(), value.to_owned()));
        self
    }

    /// How long the mesh, and later whatever is started again, may take to become ready; 30 s
    /// without.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts control plane, sidecars and applications, and waits until all are ready. Waits for
    /// its turn first: at most two meshes run at a time.
    ///
    /// # Errors
    /// Names what could not be made or did not become ready, with the ends of the logs.
    pub async fn start(self, sandbox: &Sandbox) -> anyhow::Result<Mesh> {
        let slot = Slot::take().await.context("waiting for a free slot")?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}-", self.name))
            .tempdir_in(sandbox.dir())
            .context("making the mesh's directory")?;
        for part in ["config", "state", "logs"] {
            fs::create_dir(dir.path().join(part))?;
        }
        let block = (!sandbox.mode().has_namespaces()).then(|| Block::of_slot(slot.number()));
        let namespace = self.namespace.unwrap_or_else(|| match &self.cluster {
            None => "default".to_owned(),
            Some(_) => unique(&self.name),
        });
        let services = running_services(self.services, &namespace, block)?;
        let node = match block {
            None => Node::new(&self.name).context("making the node's network")?,
            Some(block) => Node::on_loopback(block, service_ports(&services)?),
        };
        let control_plane = node
            .pod("control-plane")
            .context("making the control plane's pod")?;
        let source = match &self.cluster {
            None => Source::Files(Files::new(dir.path())),
            Some(kubeconfig) => {
                anyhow::ensure!(
                    block.is_none(),
                    "a mesh in a cluster needs network namespaces"
                );
                let of_workloads = self.workloads.iter().filter_map(|w| w.namespace.clone());
                let of_services = services.values().map(|service| service.namespace.clone());
                let cluster = Cluster::connect(
                    &self.name,
                    kubeconfig,
                    namespace.clone(),
                    of_workloads.chain(of_services).collect(),
                    &control_plane,
                    dir.path(),
                );
                Source::Cluster(Box::new(cluster.context("the cluster")?))
            }
        };
        let common = Common {
            programs: self.programs,
            control_plane_address: SocketAddr::new(
                IpAddr::V4(control_plane.v4()),
                names::ports::CONTROL_PLANE,
            ),
            control_plane_id: SpiffeId::new(
                &self.trust_domain,
                names::CONTROL_PLANE_NAMESPACE,
                names::CONTROL_PLANE_SERVICE_ACCOUNT,
            )
            .context("the trust domain")?,
            control_plane_env: self.control_plane_env,
            trust_domain: self.trust_domain,
            minimum_mtls: self.minimum_mtls,
            default_authorization: self.default_authorization,
            server_first_ports: self.server_first_ports,
            namespace,
            networks: match block {
                None => NETWORKS
                    .map(|text| text.parse().expect("a constant CIDR block"))
                    .to_vec(),
                Some(block) => block.networks().to_vec(),
            },
            patience: self.patience,
            dir: dir.path().to_owned(),
        };
        let next_service = FIRST_CLUSTER_IP + services.len() as u16;
        let mesh = Mesh {
            next_service: AtomicU16::new(next_service),
            control_plane_pod: control_plane,
            control_plane: Mutex::default(),
            source,
            state: Mutex::new(State {
                services,
                ..State::default()
            }),
            common,
            node,
            _dir: dir,
            _slot: slot,
        };
        let started = async {
            for (name, yaml) in &self.manifests {
                mesh.apply_policy(name, yaml)?;
            }
            let mut members = Vec::new();
            for workload in self.workloads {
                members.push(mesh.make_member(workload)?);
            }
            mesh.within_patience(mesh.bring_up(&members, self.replicas))
                .await
        };
        if let Err(error) = started.await {
            if self.cluster.is_some()
                && let Err(error) = mesh.leave_cluster()
            {
                tracing::warn!("what the mesh made in the cluster is still there: {error:#}");
            }
            return Err(error.context(format!("starting the mesh {}", self.name)));
        }
        Ok(mesh)
    }
}

impl Mesh {
    /// Makes a workload's pod and enters it into the state; nothing runs in it yet.
    pub(super) fn make_member(&self, workload: Workload) -> anyhow::Result<Arc<Member>> {
        let member = self.make_pod_of(workload)?;
        self.enter_member(&member)?;
        Ok(member)
    }

    /// Makes a workload's pod, of which the source says nothing yet.
    pub(super) fn make_pod_of(&self, workload: Workload) -> anyhow::Result<Arc<Member>> {
        let pod = if workload.meshed {
            self.node.pod_with_sidecar(&workload.name)
        } else {
            self.node.pod(&workload.name)
        };
        let pod = pod.with_context(|| format!("making the pod {}", workload.name))?;
        let namespace = workload.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| self.common.namespace.clone());
        let member = Member::new(workload, namespace, pod, &self.common.dir);
        Ok(Arc::new(member))
    }

    pub(super) fn enter_member(&self, member: &Arc<Member>) -> anyhow::Result<()> {
        let key = format!("{}/{}", member.namespace, member.spec.name);
        let members: &mut BTreeMap<_, _> = &mut self.state.lock().members;
        anyhow::ensure!(
            !members.contains_key(&key),
            "two workloads are called {key}"
        );
        members.insert(key, Arc::clone(member));
        Ok(())
    }

    /// Enters one more service, at an address that no service had before.
    pub(super) fn insert_service(&self, service: Service) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.control_plane_pod.place().is_none(),
            "services of a mesh on loopback are known from its start"
        );
        let host = self.next_service.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(
            host - FIRST_CLUSTER_IP < MAX_SERVICES,
            "a mesh has room for 4096 services"
        );
        let (key, service) = running_service(service, &self.common.namespace, host, None);
        let services = &mut self.state.lock().services;
        anyhow::ensure!(
            !services.contains_key(&key),
            "two services are called {key}"
        );
        services.insert(key, service);
        Ok(())
    }

    async fn bring_up(&self, members: &[Arc<Member>], replicas: usize) -> anyhow::Result<()> {
        self.write_source()?;
        if replicas > 0 {
            self.start_replicas(replicas).await?;
        } else if members.iter().any(|member| member.spec.meshed) {
            self.start_control_plane().await?;
        }
        for member in members {
            self.start_member(member)?;
        }
        for member in members {
            self.wait_for(member).await?;
        }
        Ok(())
    }
}

/// Services with their addresses: on the host's loopback where `block` says so.
fn running_services(
    specs: Vec<Service>,
    namespace: &str,
    block: Option<Block>,
) -> anyhow::Result<Services> {
    anyhow::ensure!(
        specs.len() <= usize::from(MAX_SERVICES),
        "a mesh has room for 4096 services"
    );
    let mut services = Services::new();
    for (host, spec) in (FIRST_CLUSTER_IP..).zip(specs) {
        let (key, service) = running_service(spec, namespace, host, block);
        services.insert(key, service);
    }
    Ok(services)
}

/// A service with the address of this number.
fn running_service(
    spec: Service,
    namespace: &str,
    host: u16,
    block: Option<Block>,
) -> (String, RunningService) {
    let [high, low] = host.to_be_bytes();
    let namespace = spec.namespace.as_deref().unwrap_or(namespace).to_owned();
    let key = format!("{namespace}/{}", spec.name);
    let service = RunningService {
        namespace,
        v4: block.map_or(Ipv4Addr::new(10, 96, high, low), |block| {
            block.service(host)
        }),
        v6: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, host),
        has_v6: block.is_none(),
        spec,
    };
    (key, service)
}

/// What pods on loopback need listeners for: the ports of services that have an address.
fn service_ports(services: &Services) -> anyhow::Result<ServicePorts> {
    let mut ports = BTreeMap::new();
    for service in services.values().filter(|service| !service.spec.headless) {
        for port in &service.spec.ports {
            anyhow::ensure!(
                ports.len() < MAX_SERVICE_PORTS,
                "a mesh on loopback has room for 10000 service ports"
            );
            let number = ports.len() as u16;
            ports
                .entry(SocketAddr::new(service.v4.into(), port.port))
                .or_insert(number);
        }
    }
    Ok(Arc::new(ports))
}
