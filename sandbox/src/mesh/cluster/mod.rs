//! A cluster as what the control plane reads: workloads are Pods, services are Services with slices,
//! policies are applied. What a kubelet, a scheduler and the controllers would do with them, the mesh
//! does itself, with nothing but what any API server takes: pods are created and get their addresses
//! through their status; services get the addresses that the server chooses; a pod that is told to end
//! stays, with its deletion's time, until its processes have ended.
//!
//! Where a cluster collects the garbage of pods, such a pod may be called `Failed` after some twenty
//! seconds, as it has no node: a drain that is to be looked at longer needs a cluster without.
//!
//! The control plane is its service account, with the roles that it prints and no others.
//!
//! Every mesh has namespaces of its own, also for its control plane, so that several may share a
//! cluster one after the other, or at once where they look at nothing that is the whole cluster's.

mod background;
mod objects;
mod operate;
mod relay;
mod replicas;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequestSpec};
use k8s_openapi::api::core::v1 as core;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use parking_lot::Mutex;
use serde_json::{Value, json};
use weft_proto::names::{self, env};

use super::member::Member;
use super::source::State;
use super::{Common, POLL};
use crate::Pod;
use crate::process::{Program, write_atomically};
use background::Background;
use objects::Desired;
use relay::Relay;
use replicas::Replicas;
use writer::{Known, Manifest, Writer};

/// Namespace and name.
type Key = (String, String);

/// What [`unique`] names begin with.
const PREFIX: &str = "weft-";
/// Letters and digits that make a name nobody else's.
const SUFFIX: usize = 6;

/// A name that nobody else in a cluster has, for namespaces and what is not in one.
pub fn unique(name: &str) -> String {
    let suffix: String = (0..SUFFIX)
        .map(|_| fastrand::alphanumeric().to_ascii_lowercase())
        .collect();
    format!("{PREFIX}{name}-{suffix}")
}

/// The accounts whose tokens people borrow.
const PEOPLE: [&str; 2] = [
    names::cluster::OBSERVER_SERVICE_ACCOUNT,
    names::cluster::OPERATOR_SERVICE_ACCOUNT,
];

/// Where a token of an account of [`PEOPLE`] is.
fn token_file(dir: &Path, account: &str) -> PathBuf {
    dir.join(format!("{account}.token"))
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cluster {
    background: Background,
    writer: Writer,
    relay: Relay,
    dir: PathBuf,
    control_plane: ControlPlane,
    namespaces: BTreeSet<String>,
    /// What the control plane may do in the whole cluster.
    roles: Vec<Manifest>,
    known: Mutex<Known>,
    manifests: Mutex<BTreeMap<String, Vec<Manifest>>>,
    /// Where there are several.
    replicas: OnceLock<Replicas>,
}

/// What the control plane is told.
#[derive(Debug)]
struct ControlPlane {
    namespace: String,
    kubeconfig: PathBuf,
    pod_ip: String,
}

impl Cluster {
    /// Makes the namespaces, and a way from the control plane's pod to the API server.
    pub(super) fn connect(
        mesh: &str,
        kubeconfig: &Path,
        namespace: String,
        mut namespaces: BTreeSet<String>,
        control_plane: &Pod,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let background = Background::start()?;
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let (relay, mut inside) =
            Relay::start(kubeconfig.clone(), control_plane, background.handle())?;
        let of_control_plane = unique(&format!("{mesh}-control"));
        let own = of_control_plane.clone();
        namespaces.insert(namespace.clone());
        let meshed = namespaces.clone();
        let (writer, roles, token, of_people) = background.wait(async move {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            let writer = Writer {
                client: Client::try_from(config)?,
                namespace,
            };
            writer.make_namespace(&own, json!({})).await?;
            for namespace in &meshed {
                let labels = json!({names::INJECT_LABEL: names::INJECT_ENABLED});
                writer.make_namespace(namespace, labels).await?;
            }
            let roles = writer.make_roles(&own).await?;
            let mut of_people = Vec::new();
            for account in PEOPLE {
                of_people.push((account, writer.admin_token(&own, account).await?));
            }
            let account = (own, names::CONTROL_PLANE_SERVICE_ACCOUNT.to_owned());
            let token = writer.token(&account, TokenRequestSpec::default()).await?;
            Ok((writer, roles, token, of_people))
        })?;
        for (account, token) in of_people {
            write_atomically(&token_file(dir, account), token)?;
        }
        let user = json!([{"name": "control-plane", "user": {"token": token}}]);
        inside.auth_infos = serde_json::from_value(user)?;
        for context in inside
            .contexts
            .iter_mut()
            .filter_map(|named| named.context.as_mut())
        {
            context.user = Some("control-plane".to_owned());
        }
        let file = dir.join("kubeconfig");
        write_atomically(&file, serde_json::to_string(&inside)?)?;
        Ok(Self {
            background,
            writer,
            roles,
            relay,
            dir: dir.to_owned(),
            control_plane: ControlPlane {
                namespace: of_control_plane,
                kubeconfig: file,
                pod_ip: control_plane.v4().to_string(),
            },
            namespaces,
            known: Mutex::default(),
            manifests: Mutex::default(),
            replicas: OnceLock::new(),
        })
    }

    pub(super) fn apply_policy(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        let mut documents = Vec::new();
        for document in yaml.split("\n---").filter(|text| !text.trim().is_empty()) {
            let object: Value = serde_saphyr::from_str(document)
                .with_context(|| format!("the manifest {name} is no YAML"))?;
            documents.push(object);
        }
        let writer = self.writer.clone();
        let applied = self.background.wait(async move {
            let mut applied = Vec::new();
            for document in documents {
                applied.push(writer.apply(document).await?);
            }
            Ok(applied)
        });
        let applied = applied.with_context(|| format!("applying the manifest {name}"))?;
        self.manifests.lock().insert(name.to_owned(), applied);
        Ok(())
    }

    pub(super) fn remove_policy(&self, name: &str) -> anyhow::Result<()> {
        let manifests = self.manifests.lock().remove(name);
        let manifests = manifests.with_context(|| format!("no manifest {name} was applied"))?;
        let removed = self.background.wait(async move {
            for manifest in manifests {
                manifest.remove().await?;
            }
            Ok(())
        });
        removed.with_context(|| format!("removing the manifest {name}"))
    }

    /// Makes the cluster say what the state says; services get the server's addresses.
    pub(super) fn write(&self, state: &mut State) -> anyhow::Result<()> {
        for member in state.members.values() {
            anyhow::ensure!(
                member.spec.weight == 1,
                "a cluster has no weights, and {} has one",
                member.spec.name
            );
        }
        let desired = Desired::of(state);
        let mut known = std::mem::take(&mut *self.known.lock());
        let writer = self.writer.clone();
        let written = self.background.wait(async move {
            let result = writer.write(&mut known, &desired).await;
            Ok((known, result))
        });
        let (known, addresses) = written.context("writing to the cluster")?;
        *self.known.lock() = known;
        for ((namespace, name), addresses) in addresses.context("writing to the cluster")? {
            let key = format!("{namespace}/{name}");
            if let Some(service) = state.services.get_mut(&key)
                && !service.spec.headless
            {
                let addresses: Vec<_> = addresses.iter().flat_map(|ip| ip.parse()).collect();
                service.set_addresses(&addresses)?;
            }
        }
        Ok(())
    }

    pub(super) fn control_plane(&self, common: &Common) -> (Program, Vec<(String, String)>) {
        let program = common.programs.control_plane.clone().arg("serve");
        let mut environment = vec![
            (
                "KUBECONFIG",
                self.control_plane.kubeconfig.display().to_string(),
            ),
            (env::NAMESPACE, self.control_plane.namespace.clone()),
            (env::POD_NAME, "control-plane".to_owned()),
            (env::POD_IP, self.control_plane.pod_ip.clone()),
            (env::TRUST_DOMAIN, common.trust_domain.clone()),
        ];
        if let Some(mode) = common.minimum_mtls {
            environment.push((env::MINIMUM_MTLS, format!("{mode:?}")));
        }
        if let Some(ports) = &common.server_first_ports {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            environment.push((env::SERVER_FIRST_PORTS, ports.join(",")));
        }
        let environment = environment.into_iter();
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        (program, environment.collect())
    }

    /// A token of the pod's service account, bound to the pod.
    pub(super) fn token(&self, member: &Member) -> anyhow::Result<String> {
        let key = (member.namespace.clone(), member.spec.name.clone());
        let uid = self.known.lock().pods.get(&key).cloned();
        let spec = TokenRequestSpec {
            audiences: vec![names::cluster::TOKEN_AUDIENCE.to_owned()],
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(key.1),
                uid,
            }),
            expiration_seconds: None,
        };
        let account = (key.0, member.spec.service_account.clone());
        let writer = self.writer.clone();
        self.background
            .wait(async move { writer.token(&account, spec).await })
    }

    /// What kubelet would mount: a copy of the ConfigMap with the roots, which the control plane makes.
    pub(super) fn trust_bundle(&self, member: &Member) -> anyhow::Result<PathBuf> {
        let file = self
            .dir
            .join(format!("{}.trust-bundle.pem", member.namespace));
        let maps: Api<core::ConfigMap> =
            Api::namespaced(self.writer.client.clone(), &member.namespace);
        let roots = self.background.wait(async move {
            loop {
                let map = maps.get_opt(names::cluster::TRUST_BUNDLE).await?;
                let data = map.and_then(|map| map.data);
                let roots = data.and_then(|mut data| data.remove(names::cluster::TRUST_BUNDLE_KEY));
                if let Some(roots) = roots {
                    return Ok(roots);
                }
                tokio::time::sleep(POLL).await;
            }
        });
        write_atomically(&file, roots.context("waiting for the trust bundle")?)?;
        Ok(file)
    }

    pub(super) fn cut_off(&self) {
        self.relay.cut();
    }

    pub(super) fn reach(&self) -> anyhow::Result<()> {
        self.relay.mend()
    }

    /// The control plane's namespace.
    pub(super) fn control_plane_namespace(&self) -> &str {
        &self.control_plane.namespace
    }

    /// Removes every namespace and role that was made, with what is in it.
    pub(super) fn leave(&self) -> anyhow::Result<()> {
        let pods: Vec<_> = self.known.lock().pods.keys().cloned().collect();
        let namespaces = self.namespaces.clone();
        let own = self.control_plane.namespace.clone();
        let (writer, roles) = (self.writer.clone(), self.roles.clone());
        self.background.wait(async move {
            for role in roles {
                role.remove().await?;
            }
            for key in pods {
                writer.end_pod(&key).await?;
            }
            for namespace in namespaces.iter().chain([&own]) {
                // One that was there before is not ours to remove.
                if namespace.starts_with(PREFIX) {
                    writer.end_namespace(namespace).await?;
                }
            }
            Ok(())
        })
    }
}
