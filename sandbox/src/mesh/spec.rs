//! What a mesh is made of, as its builder takes it.

use std::time::Duration;

use crate::app::{KeepAlive, PortKind};
use crate::process::Program;

/// The programs that a mesh runs. The `weft` command has all of them inside; tests have small
/// binaries that call the same mains.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The sidecar.
    pub proxy: Program,
    /// The control plane.
    pub control_plane: Program,
    /// The stand-in service: calls [`crate::app::main`].
    pub app: Program,
}

impl Programs {
    /// The programs inside of the `weft` command at `path`.
    pub fn of_weft(path: impl AsRef<std::path::Path>) -> Self {
        let weft = Program::new(path.as_ref()).arg("internal");
        Self {
            proxy: weft.clone().arg("proxy"),
            control_plane: weft.clone().arg("control-plane"),
            app: weft.arg("app"),
        }
    }

    /// The programs inside of the running one, which is the `weft` command.
    pub fn of_this_program() -> Self {
        Self::of_weft("/proc/self/exe")
    }
}

/// What listens on a port of a workload.
#[derive(Clone, Debug)]
pub struct AppSpec {
    pub(super) kind: Option<PortKind>,
    pub(super) protocol: Option<String>,
}

impl AppSpec {
    /// HTTP/1.1, HTTP/2 with prior knowledge, and the gRPC echo service: [`crate::app`].
    pub fn http() -> Self {
        Self::of(PortKind::Http)
    }

    /// Bytes that come back, with half-close.
    pub fn tcp() -> Self {
        Self::of(PortKind::Tcp)
    }

    /// A greeting, then bytes that come back: a protocol whose server speaks first.
    pub fn tcp_server_first() -> Self {
        Self::of(PortKind::TcpServerFirst)
    }

    /// A broker of [`crate::app::kafka`]; [`crate::Mesh::announce_kafka`] tells it of its cluster. The
    /// mesh is told that it speaks TCP.
    pub fn kafka() -> Self {
        Self::of(PortKind::Kafka).protocol("tcp")
    }

    /// Nothing: the test listens there by itself, with [`crate::Pod::listen`].
    pub fn none() -> Self {
        Self {
            kind: None,
            protocol: None,
        }
    }

    /// Declares the protocol in mesh.yaml, or by the port's name in a cluster, as `appProtocol` would;
    /// otherwise it is detected.
    pub fn protocol(mut self, protocol: &str) -> Self {
        self.protocol = Some(protocol.to_owned());
        self
    }

    fn of(kind: PortKind) -> Self {
        Self {
            kind: Some(kind),
            protocol: None,
        }
    }
}

/// A workload: a pod with an application, and a sidecar unless it is [`Workload::unmeshed`].
#[derive(Clone, Debug)]
pub struct Workload {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) service_account: String,
    pub(super) version: String,
    pub(super) zone: Option<String>,
    pub(super) told_zone: bool,
    pub(super) weight: u32,
    pub(super) meshed: bool,
    pub(super) sidecar: Option<Program>,
    pub(super) workers: Option<u32>,
    pub(super) drain_timeout: Option<Duration>,
    pub(super) restart_policy: Option<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) ports: Vec<(u16, AppSpec)>,
    pub(super) probes: Vec<(u16, String)>,
    pub(super) keep_alive: Option<KeepAlive>,
}

impl Workload {
    /// A meshed workload without ports: a client. Its service account is `default`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: None,
            service_account: "default".to_owned(),
            version: "v1".to_owned(),
            zone: None,
            told_zone: true,
            weight: 1,
            meshed: true,
            sidecar: None,
            workers: None,
            drain_timeout: None,
            restart_policy: None,
            env: Vec::new(),
            ports: Vec::new(),
            probes: Vec::new(),
            keep_alive: None,
        }
    }

    /// Its namespace, where it is not the mesh's.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Its service account.
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// The version that its application says it has; `v1` without.
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// Its zone.
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    /// Its zone, of which only mesh.yaml or a cluster's slices speak: its sidecar learns it from the
    /// control plane.
    pub fn zone_in_mesh_file(mut self, zone: &str) -> Self {
        self.told_zone = false;
        self.zone(zone)
    }

    /// How much of its services' traffic it gets, relative to others; 1 without. A cluster knows no
    /// weights, and a mesh that reads one refuses others.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// No sidecar and no interception.
    pub fn unmeshed(mut self) -> Self {
        self.meshed = false;
        self
    }

    /// Another program than the mesh's for its sidecar.
    pub fn sidecar(mut self, program: Program) -> Self {
        self.sidecar = Some(program);
        self
    }

    /// Data-path threads of its sidecar.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How long its sidecar may take to end.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = Some(timeout);
        self
    }

    /// The `restartPolicy` of its pod in a cluster, as a Job's pods have `Never`; `Always` without.
    pub fn restart_policy(mut self, policy: &str) -> Self {
        self.restart_policy = Some(policy.to_owned());
        self
    }

    /// One more environment variable of its sidecar; wins over what the mesh sets.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A port that its application listens on.
    pub fn port(mut self, port: u16, app: AppSpec) -> Self {
        self.ports.push((port, app));
        self
    }

    /// Another application on this port than the one that was there.
    pub fn serve(mut self, port: u16, app: AppSpec) -> Self {
        self.ports.retain(|(declared, _)| *declared != port);
        self.port(port, app)
    }

    /// A probe: GETs of this path on this port pass in plaintext even under Strict.
    pub fn probe(mut self, port: u16, path: &str) -> Self {
        self.probes.push((port, path.to_owned()));
        self
    }

    /// Its application closes HTTP connections that rest; without, it never does.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = Some(keep_alive);
        self
    }

    pub(super) fn has_app(&self) -> bool {
        self.ports.iter().any(|(_, app)| app.kind.is_some())
    }
}

/// A service: a name and ports that clients address.
#[derive(Clone, Debug)]
pub struct Service {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) headless: bool,
    pub(super) ports: Vec<ServicePort>,
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug)]
pub(super) struct ServicePort {
    pub(super) name: Option<String>,
    pub(super) port: u16,
    pub(super) target: u16,
    pub(super) protocol: Option<String>,
}

/// What stands behind a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A workload of the service's namespace, by name.
    Workload(String),
    /// An address outside of it.
    Address(std::net::IpAddr),
}

impl From<&str> for Endpoint {
    fn from(workload: &str) -> Self {
        Self::Workload(workload.to_owned())
    }
}

impl From<std::net::IpAddr> for Endpoint {
    fn from(address: std::net::IpAddr) -> Self {
        Self::Address(address)
    }
}

impl Service {
    /// A service with cluster IPs of both families and no ports yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: None,
            headless: false,
            ports: Vec::new(),
            endpoints: Vec::new(),
        }
    }

    /// Its namespace, where it is not the mesh's.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// No cluster IP: clients dial its pods.
    pub fn headless(mut self) -> Self {
        self.headless = true;
        self
    }

    /// A port, and the port of the workloads that it stands for.
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push(ServicePort {
            name: None,
            port,
            target,
            protocol: None,
        });
        self
    }

    /// Names the port that was added last, as `sectionName` of a policy does.
    pub fn port_name(mut self, name: &str) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.name = Some(name.to_owned());
        }
        self
    }

    /// Declares the `appProtocol` of the port that was added last.
    pub fn app_protocol(mut self, protocol: &str) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.protocol = Some(protocol.to_owned());
        }
        self
    }

    /// What stands behind it: names of workloads, or addresses.
    pub fn endpoints<E: Into<Endpoint>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }
}
