//! A directory as what the control plane reads: `mesh.yaml` beside the manifests, and join tokens.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use weft_control_plane::identity::tokens::JoinTokens;
use weft_control_plane::source::mesh_file::{
    Defaults, EndpointEntry, FILE_NAME, ListenerEntry, MeshFile, ServiceEntry, ServicePortEntry,
};

use super::Common;
use super::member::Member;
use super::source::{RunningService, State};
use super::spec::Endpoint;
use crate::process::{Program, write_atomically};

/// The mesh's directory, with `config` and `state`.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    pub(super) fn apply_policy(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        let file = self.config_dir().join(format!("{name}.yaml"));
        write_atomically(&file, yaml).with_context(|| format!("writing the manifest {name}"))
    }

    pub(super) fn remove_policy(&self, name: &str) -> anyhow::Result<()> {
        let file = self.config_dir().join(format!("{name}.yaml"));
        fs::remove_file(file).with_context(|| format!("removing the manifest {name}"))
    }

    pub(super) fn write(&self, state: &State, common: &Common) -> anyhow::Result<()> {
        let file = MeshFile {
            trust_domain: Some(common.trust_domain.clone()),
            networks: common.networks.clone(),
            server_first_ports: common.server_first_ports.clone(),
            defaults: Some(Defaults {
                mtls: common.minimum_mtls,
                authorization: common.default_authorization,
            }),
            explicit_listeners: listeners(state),
            workloads: state
                .members
                .values()
                .map(|member| member.entry())
                .collect(),
            services: state.services.values().map(entry).collect(),
        };
        let yaml = file.to_yaml()?;
        write_atomically(&self.config_dir().join(FILE_NAME), yaml).context("writing mesh.yaml")
    }

    pub(super) fn control_plane(&self, common: &Common) -> Program {
        let program = common.programs.control_plane.clone();
        program
            .arg("serve")
            .arg("--dir")
            .arg(self.config_dir())
            .arg("--state")
            .arg(self.state_dir())
    }

    pub(super) fn token(&self, member: &Member) -> anyhow::Result<String> {
        let tokens = JoinTokens::open(&self.state_dir()).context("opening the tokens")?;
        tokens
            .issue(&member.namespace, &member.spec.name)
            .map(|token| token.to_string())
            .with_context(|| format!("a token for {}", member.spec.name))
    }

    pub(super) fn trust_bundle(&self) -> PathBuf {
        self.state_dir().join("trust-bundle.pem")
    }

    fn config_dir(&self) -> PathBuf {
        self.dir.join("config")
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }
}

/// The listeners of all sidecars for services, where nothing is intercepted.
fn listeners(state: &State) -> Vec<ListenerEntry> {
    let mut entries = Vec::new();
    for (workload, member) in &state.members {
        for (to, listen) in member.listeners() {
            let mut services = state.services.iter();
            let service = services.find(|(_, service)| to.ip() == service.v4);
            let (service, _) = service.expect("pods have listeners for services only");
            entries.push(ListenerEntry {
                workload: workload.clone(),
                listen,
                service: service.clone(),
                port: to.port(),
            });
        }
    }
    entries
}

fn entry(service: &RunningService) -> ServiceEntry {
    let spec = &service.spec;
    let v6 = service.has_v6.then_some(IpAddr::V6(service.v6));
    ServiceEntry {
        name: spec.name.clone(),
        namespace: service.namespace.clone(),
        cluster_ips: if spec.headless {
            Vec::new()
        } else {
            std::iter::once(IpAddr::V4(service.v4)).chain(v6).collect()
        },
        ports: spec
            .ports
            .iter()
            .map(|port| ServicePortEntry {
                name: port.name.clone().unwrap_or_default(),
                port: port.port,
                target_port: Some(port.target),
                app_protocol: port.protocol.clone().unwrap_or_default(),
            })
            .collect(),
        endpoints: spec
            .endpoints
            .iter()
            .map(|endpoint| match endpoint {
                Endpoint::Workload(name) => EndpointEntry::workload(name),
                Endpoint::Address(address) => EndpointEntry::address(*address),
            })
            .collect(),
    }
}
