//! A cluster as what the control plane reads: workloads are Pods, services are Services with slices,
//! policies are applied. What a kubelet, a scheduler and the controllers would do with them, the mesh
//! does itself, with nothing but what any API server takes: pods are created and get their addresses
//! through their status; services get the addresses that the server chooses; a pod that is told to end
//! stays, with its deletion's time, until its processes have ended.
//!
//! Every mesh has namespaces of its own, also for its control plane, so that several may share a
//! cluster one after the other, or at once where they look at nothing that is the whole cluster's.

mod background;
mod objects;
mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{GroupVersionKind, NamespaceResourceScope};
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client, Config, Resource};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
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

/// Namespace and name.
type Key = (String, String);

/// Letters and digits that make a name nobody else's.
const SUFFIX: usize = 6;
/// Seconds that a sidecar's token lasts; an API server allows no less than 600.
const TOKEN_SECONDS: i64 = 3600;
/// How often something is written again that somebody else wrote in between.
const TRIES: usize = 16;

/// A name that nobody else in a cluster has, for namespaces and what is not in one.
pub fn unique(name: &str) -> String {
    let suffix: String = (0..SUFFIX)
        .map(|_| fastrand::alphanumeric().to_ascii_lowercase())
        .collect();
    format!("weft-{name}-{suffix}")
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
    known: Mutex<Known>,
    manifests: Mutex<BTreeMap<String, Vec<Manifest>>>,
}

/// What the control plane is told.
#[derive(Debug)]
struct ControlPlane {
    namespace: String,
    kubeconfig: PathBuf,
    pod_ip: String,
}

/// What has been written.
#[derive(Debug, Default)]
struct Known {
    accounts: BTreeSet<Key>,
    /// With uids.
    pods: BTreeMap<Key, String>,
    terminating: BTreeSet<Key>,
    services: BTreeSet<Key>,
    slices: BTreeMap<Key, Value>,
}

/// Where an applied object is.
#[derive(Clone, Debug)]
struct Manifest {
    api: Api<DynamicObject>,
    name: String,
}

#[derive(Clone)]
struct Writer {
    client: Client,
    /// Of manifests that name none.
    namespace: String,
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
        let (relay, inside) = Relay::start(kubeconfig.clone(), control_plane, background.handle())?;
        let file = dir.join("kubeconfig");
        write_atomically(&file, serde_json::to_string(&inside)?)?;
        let of_control_plane = unique(&format!("{mesh}-control"));
        let own = of_control_plane.clone();
        namespaces.insert(namespace.clone());
        let meshed = namespaces.clone();
        let writer = background.wait(async move {
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
            Ok(writer)
        })?;
        Ok(Self {
            background,
            writer,
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
            for Manifest { api, name } in manifests {
                api.delete(&name, &DeleteParams::default()).await?;
            }
            Ok(())
        });
        removed.with_context(|| format!("removing the manifest {name}"))
    }

    /// Makes the cluster say what the state says; services get the server's addresses.
    pub(super) fn write(&self, state: &mut State) -> anyhow::Result<()> {
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
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![names::cluster::TOKEN_AUDIENCE.to_owned()],
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(key.1.clone()),
                    uid,
                }),
                expiration_seconds: Some(TOKEN_SECONDS),
            },
            ..TokenRequest::default()
        };
        let account = member.spec.service_account.clone();
        let accounts: Api<core::ServiceAccount> =
            Api::namespaced(self.writer.client.clone(), &key.0);
        let granted = self.background.wait(async move {
            let params = PostParams::default();
            Ok(accounts
                .create_token_request(&account, &params, &request)
                .await?)
        });
        let granted = granted.with_context(|| format!("a token for {}", key.1))?;
        let status = granted.status.context("a token request without answer")?;
        Ok(status.token)
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

    /// Removes every namespace that was made, with what is in it.
    pub(super) fn leave(&self) -> anyhow::Result<()> {
        let pods: Vec<_> = self.known.lock().pods.keys().cloned().collect();
        let namespaces = self.namespaces.clone();
        let own = self.control_plane.namespace.clone();
        let writer = self.writer.clone();
        self.background.wait(async move {
            for key in pods {
                writer.end_pod(&key).await?;
            }
            let api: Api<core::Namespace> = Api::all(writer.client.clone());
            for namespace in namespaces.into_iter().chain([own]) {
                if !namespace.starts_with("weft-") {
                    continue;
                }
                let deleted = api.delete(&namespace, &DeleteParams::default()).await;
                unless(404, deleted.map(|_| ()))?;
            }
            Ok(())
        })
    }
}

impl Writer {
    /// The labels are added where somebody else has made it.
    async fn make_namespace(&self, name: &str, labels: Value) -> anyhow::Result<()> {
        let api: Api<core::Namespace> = Api::all(self.client.clone());
        let manifest = json!({"metadata": {"name": name, "labels": labels}});
        let made = api
            .create(&PostParams::default(), &read(manifest.clone())?)
            .await;
        unless(409, made.map(|_| ())).with_context(|| format!("the namespace {name}"))?;
        let merge = Patch::Merge(json!({"metadata": {"labels": labels}}));
        api.patch(name, &PatchParams::default(), &merge).await?;
        // Its controller makes it too, a little later.
        let key = (name.to_owned(), "default".to_owned());
        self.make_account(&key).await
    }

    async fn make_account(&self, key: &Key) -> anyhow::Result<()> {
        let manifest = json!({"metadata": {"name": key.1, "namespace": key.0}});
        let made = self.create::<core::ServiceAccount>(key, manifest).await;
        match made {
            Err(error) if is_api(&error, 409) => Ok(()),
            made => made.map(|_| ()),
        }
    }

    /// What is new comes before what names it, what goes goes after it.
    async fn write(
        &self,
        known: &mut Known,
        desired: &Desired,
    ) -> anyhow::Result<BTreeMap<Key, Vec<String>>> {
        for (key, pod) in &desired.pods {
            let account = (key.0.clone(), pod.service_account.clone());
            if known.accounts.insert(account.clone()) {
                self.make_account(&account).await?;
            }
            if !known.pods.contains_key(key) {
                let uid = self.make_pod(key, pod).await?;
                known.pods.insert(key.clone(), uid);
            }
            if pod.terminating && known.terminating.insert(key.clone()) {
                let api: Api<core::Pod> = Api::namespaced(self.client.clone(), &key.0);
                let deleted = api.delete(&key.1, &DeleteParams::default()).await;
                unless(404, deleted.map(|_| ()))?;
            }
            anyhow::ensure!(
                pod.terminating || !known.terminating.contains(key),
                "a pod of a cluster that was told to end cannot stay: {}",
                key.1
            );
        }
        let mut addresses = BTreeMap::new();
        for (key, manifest) in &desired.services {
            if known.services.contains(key) {
                continue;
            }
            let made: core::Service = self.create(key, manifest.clone()).await?;
            known.services.insert(key.clone());
            let spec = made.spec.unwrap_or_default();
            let all = spec.cluster_ips.or(spec.cluster_ip.map(|ip| vec![ip]));
            addresses.insert(key.clone(), all.unwrap_or_default());
        }
        for (key, slice) in &desired.slices {
            let manifest = slice.manifest(&known.pods);
            match known.slices.get(key) {
                Some(before) if *before == manifest => continue,
                Some(_) => self.replace::<EndpointSlice>(key, &manifest).await?,
                None => drop(self.create::<EndpointSlice>(key, manifest.clone()).await?),
            }
            known.slices.insert(key.clone(), manifest);
        }
        for key in gone(known.slices.keys(), &desired.slices) {
            self.delete::<EndpointSlice>(&key).await?;
            known.slices.remove(&key);
        }
        for key in gone(known.services.iter(), &desired.services) {
            self.delete::<core::Service>(&key).await?;
            known.services.remove(&key);
        }
        for key in gone(known.pods.keys(), &desired.pods) {
            self.end_pod(&key).await?;
            known.pods.remove(&key);
            known.terminating.remove(&key);
        }
        Ok(addresses)
    }

    /// Creates a pod and says of it what a kubelet would: its uid.
    async fn make_pod(&self, key: &Key, pod: &objects::Pod) -> anyhow::Result<String> {
        let made: core::Pod = self.create(key, pod.manifest.clone()).await?;
        let api: Api<core::Pod> = Api::namespaced(self.client.clone(), &key.0);
        let status = Patch::Merge(json!({"status": pod.status}));
        let params = PatchParams::default();
        let changed = api.patch_status(&key.1, &params, &status).await;
        changed.with_context(|| format!("the status of the pod {}", key.1))?;
        made.metadata.uid.context("a pod without uid")
    }

    /// Does what a kubelet does when the processes of a pod that was told to end have ended.
    async fn end_pod(&self, (namespace, name): &Key) -> anyhow::Result<()> {
        let api: Api<core::Pod> = Api::namespaced(self.client.clone(), namespace);
        let now = DeleteParams::default().grace_period(0);
        unless(404, api.delete(name, &now).await.map(|_| ()))?;
        let merge = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let freed = api.patch(name, &PatchParams::default(), &merge).await;
        unless(404, freed.map(|_| ()))?;
        unless(404, api.delete(name, &now).await.map(|_| ()))
    }

    /// Creates an object, or makes an existing one exactly this, but for what the server decides.
    async fn apply(&self, manifest: Value) -> anyhow::Result<Manifest> {
        let mut object: DynamicObject = read(manifest)?;
        let types = object.types.as_ref().context("a manifest without kind")?;
        let gvk = GroupVersionKind::try_from(types)?;
        let (resource, capabilities) = pinned_kind(&self.client, &gvk).await?;
        let name = object.metadata.name.clone();
        let name = name.context("a manifest without a name")?;
        let namespace = object
            .metadata
            .namespace
            .as_deref()
            .unwrap_or(&self.namespace);
        let api = match capabilities.scope {
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
        };
        for _ in 0..TRIES {
            let done = match api.get_opt(&name).await? {
                None => {
                    object.metadata.resource_version = None;
                    api.create(&PostParams::default(), &object).await
                }
                Some(before) => {
                    object.metadata.resource_version = before.metadata.resource_version;
                    api.replace(&name, &PostParams::default(), &object).await
                }
            };
            match done {
                Ok(_) => return Ok(Manifest { api, name }),
                // Its status was written in between.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::bail!("{name} changes all the time")
    }

    async fn create<K>(&self, (namespace, name): &Key, manifest: Value) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let made = api.create(&PostParams::default(), &read(manifest)?).await;
        made.with_context(|| format!("creating {} {namespace}/{name}", K::kind(&())))
    }

    /// Makes an object of ours exactly this.
    async fn replace<K>(&self, (namespace, name): &Key, manifest: &Value) -> anyhow::Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        // Without a revision: nobody else writes it.
        let made = api
            .replace(name, &PostParams::default(), &read(manifest.clone())?)
            .await;
        made.with_context(|| format!("replacing {} {namespace}/{name}", K::kind(&())))?;
        Ok(())
    }

    async fn delete<K>(&self, (namespace, name): &Key) -> anyhow::Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let deleted = api.delete(name, &DeleteParams::default()).await;
        unless(404, deleted.map(|_| ()))
            .with_context(|| format!("deleting {} {namespace}/{name}", K::kind(&())))
    }
}

impl Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// What is known and not wanted any more.
fn gone<'a, T>(known: impl Iterator<Item = &'a Key>, desired: &BTreeMap<Key, T>) -> Vec<Key> {
    let gone = known.filter(|key| !desired.contains_key(*key));
    gone.cloned().collect()
}

fn read<T: DeserializeOwned>(manifest: Value) -> anyhow::Result<T> {
    serde_json::from_value(manifest).context("a manifest of no such kind")
}

/// The result, where this answer of the server is as good.
fn unless(code: u16, result: Result<(), kube::Error>) -> anyhow::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == code => Ok(()),
        result => Ok(result?),
    }
}

fn is_api(error: &anyhow::Error, code: u16) -> bool {
    let error = error.downcast_ref::<kube::Error>();
    matches!(error, Some(kube::Error::Api(status)) if status.code == code)
}
