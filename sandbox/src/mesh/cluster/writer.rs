//! What is written to the API server: objects as they are wanted, made one from the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, NamespaceResourceScope};
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft_control_plane::cluster::rbac;
use weft_proto::names;

use super::Key;
use super::objects::{self, Desired};

/// Seconds that a token lasts, longer than any test; an API server allows no less than 600.
const TOKEN_SECONDS: i64 = 3600;
/// How often something is written again that somebody else wrote in between.
const TRIES: usize = 16;

/// What has been written.
#[derive(Debug, Default)]
pub(super) struct Known {
    accounts: BTreeSet<Key>,
    /// With uids.
    pub(super) pods: BTreeMap<Key, String>,
    terminating: BTreeSet<Key>,
    services: BTreeSet<Key>,
    slices: BTreeMap<Key, Value>,
}

/// Where an applied object is.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) api: Api<DynamicObject>,
    pub(super) name: String,
}

impl Manifest {
    /// Deletes the object; that it has gone is as good.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        let deleted = self.api.delete(&self.name, &DeleteParams::default()).await;
        unless(404, deleted.map(|_| ()))
    }
}

#[derive(Clone)]
pub(super) struct Writer {
    pub(super) client: Client,
    /// Of manifests that name none.
    pub(super) namespace: String,
}

impl Writer {
    /// The labels are added where somebody else has made it.
    pub(super) async fn make_namespace(&self, name: &str, labels: Value) -> anyhow::Result<()> {
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

    /// The control plane's account, and the roles that it asks for: those of the whole cluster, by names
    /// of their own.
    pub(super) async fn make_roles(&self, namespace: &str) -> anyhow::Result<Vec<Manifest>> {
        let account = names::CONTROL_PLANE_SERVICE_ACCOUNT.to_owned();
        self.make_account(&(namespace.to_owned(), account)).await?;
        let mut everywhere = Vec::new();
        for mut manifest in rbac::manifests(namespace) {
            let is_everywhere = manifest["metadata"]["namespace"].is_null();
            if is_everywhere {
                manifest["metadata"]["name"] = namespace.into();
            }
            if manifest["roleRef"]["kind"] == "ClusterRole" {
                manifest["roleRef"]["name"] = namespace.into();
            }
            let made = self.apply(manifest).await?;
            everywhere.extend(is_everywhere.then_some(made));
        }
        for mut manifest in rbac::operators(namespace) {
            let of_mesh =
                |name: &Value| format!("{namespace}-{}", name.as_str().unwrap_or_default());
            let is_everywhere = manifest["metadata"]["namespace"].is_null();
            if is_everywhere {
                manifest["metadata"]["name"] = of_mesh(&manifest["metadata"]["name"]).into();
            }
            if manifest["roleRef"]["kind"] == "ClusterRole" {
                manifest["roleRef"]["name"] = of_mesh(&manifest["roleRef"]["name"]).into();
            }
            let made = self.apply(manifest).await?;
            everywhere.extend(is_everywhere.then_some(made));
        }
        Ok(everywhere)
    }

    /// A token of one of the accounts that may ask the control plane's admin port.
    pub(super) async fn admin_token(
        &self,
        namespace: &str,
        account: &str,
    ) -> anyhow::Result<String> {
        let spec = TokenRequestSpec {
            audiences: vec![names::cluster::ADMIN_AUDIENCE.to_owned()],
            ..TokenRequestSpec::default()
        };
        self.token(&(namespace.to_owned(), account.to_owned()), spec)
            .await
    }

    /// A token of an account.
    pub(super) async fn token(
        &self,
        (namespace, account): &Key,
        mut spec: TokenRequestSpec,
    ) -> anyhow::Result<String> {
        spec.expiration_seconds = Some(TOKEN_SECONDS);
        let request = TokenRequest {
            spec,
            ..TokenRequest::default()
        };
        let accounts: Api<core::ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams::default();
        let granted = accounts.create_token_request(account, &params, &request);
        let granted = granted
            .await
            .with_context(|| format!("a token for {namespace}/{account}"))?;
        let status = granted.status.context("a token request without answer")?;
        Ok(status.token)
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
    pub(super) async fn write(
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
    pub(super) async fn make_pod(&self, key: &Key, pod: &objects::Pod) -> anyhow::Result<String> {
        let made: core::Pod = self.create(key, pod.manifest.clone()).await?;
        let api: Api<core::Pod> = Api::namespaced(self.client.clone(), &key.0);
        let status = Patch::Merge(json!({"status": pod.status}));
        let params = PatchParams::default();
        let changed = api.patch_status(&key.1, &params, &status).await;
        changed.with_context(|| format!("the status of the pod {}", key.1))?;
        made.metadata.uid.context("a pod without uid")
    }

    /// Does what a kubelet does when the processes of a pod that was told to end have ended.
    pub(super) async fn end_pod(&self, (namespace, name): &Key) -> anyhow::Result<()> {
        let api: Api<core::Pod> = Api::namespaced(self.client.clone(), namespace);
        let now = DeleteParams::default().grace_period(0);
        unless(404, api.delete(name, &now).await.map(|_| ()))?;
        let merge = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let freed = api.patch(name, &PatchParams::default(), &merge).await;
        unless(404, freed.map(|_| ()))?;
        unless(404, api.delete(name, &now).await.map(|_| ()))
    }

    /// Deletes a namespace with all that is in it.
    pub(super) async fn end_namespace(&self, name: &str) -> anyhow::Result<()> {
        let api: Api<core::Namespace> = Api::all(self.client.clone());
        let deleted = api.delete(name, &DeleteParams::default()).await;
        unless(404, deleted.map(|_| ()))
    }

    /// Creates an object, or makes an existing one exactly this, but for what the server decides.
    pub(super) async fn apply(&self, manifest: Value) -> anyhow::Result<Manifest> {
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

    pub(super) async fn create<K>(
        &self,
        (namespace, name): &Key,
        manifest: Value,
    ) -> anyhow::Result<K>
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
    pub(super) async fn replace<K>(
        &self,
        (namespace, name): &Key,
        manifest: &Value,
    ) -> anyhow::Result<()>
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

    pub(super) async fn delete<K>(&self, (namespace, name): &Key) -> anyhow::Result<()>
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
