//! A pod's volumes, as directories on the host: they are filled before anything starts, and what they
//! need that is not there yet is waited for, as a kubelet does. What changes later stays as it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1 as core;
use kube::api::PostParams;
use kube::{Api, Client};

use super::environment::{Place, field};
use crate::enter::container::Mount;

/// How often what is not there is asked for again. A kubelet takes longer pauses.
const PAUSE: Duration = Duration::from_millis(100);
/// Where a container finds its service account.
const ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The volume with it, which in a cluster the API server adds.
const ACCOUNT_VOLUME: &str = "service-account";
/// Seconds that a token lasts where nobody says.
const TOKEN_SECONDS: i64 = 3600;

/// Fills a pod's volumes.
pub(super) struct Filler<'a> {
    pub(super) client: &'a Client,
    pub(super) pod: &'a core::Pod,
    pub(super) place: &'a Place,
    pub(super) dir: PathBuf,
    /// What the API server is known by, PEM.
    pub(super) ca: &'a str,
}

/// Which volume is where, for every container.
#[derive(Clone, Debug)]
pub(super) struct Volumes {
    dir: PathBuf,
    has_account: bool,
}

impl Volumes {
    /// What a container sees of them.
    pub(super) fn mounts(&self, container: &core::Container) -> Vec<Mount> {
        let mounts = container.volume_mounts.iter().flatten().map(|mount| Mount {
            source: match &mount.sub_path {
                Some(path) => self.dir.join(&mount.name).join(path),
                None => self.dir.join(&mount.name),
            },
            target: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only == Some(true),
        });
        let mut mounts: Vec<Mount> = mounts.collect();
        let account = Path::new(ACCOUNT_DIR);
        if self.has_account && !mounts.iter().any(|mount| mount.target == account) {
            mounts.push(Mount {
                source: self.dir.join(ACCOUNT_VOLUME),
                target: account.to_owned(),
                read_only: true,
            });
        }
        // What is inside of another one comes after it.
        mounts.sort_by_key(|mount| mount.target.components().count());
        mounts
    }
}

impl Filler<'_> {
    /// Fills all, and waits for what they need: `missing` is told what that is.
    pub(super) async fn fill(&self, missing: impl Fn(String)) -> anyhow::Result<Volumes> {
        let spec = self.pod.spec.as_ref().context("a pod without spec")?;
        for volume in spec.volumes.iter().flatten() {
            let sources = sources(volume)?;
            let name = &volume.name;
            self.fill_one(name, &sources, &missing)
                .await
                .with_context(|| format!("volume {name}"))?;
        }
        let has_account = self.wants_account(spec).await?;
        if has_account {
            let sources = [Source::Token(
                String::new(),
                TOKEN_SECONDS,
                "token".to_owned(),
            )];
            self.fill_one(ACCOUNT_VOLUME, &sources, &missing).await?;
            let dir = self.dir.join(ACCOUNT_VOLUME);
            write(&dir.join("ca.crt"), self.ca.as_bytes())?;
            write(&dir.join("namespace"), self.namespace().as_bytes())?;
        }
        Ok(Volumes {
            dir: self.dir.clone(),
            has_account,
        })
    }

    async fn fill_one(
        &self,
        name: &str,
        sources: &[Source],
        missing: &impl Fn(String),
    ) -> anyhow::Result<()> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        // What is in it is the container's, whoever that is.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        for source in sources {
            let files = loop {
                if let Some(files) = self.files(source).await? {
                    break files;
                }
                missing(format!("volume {name} waits for {source:?}"));
                tokio::time::sleep(PAUSE).await;
            };
            for (file, content) in files {
                write(&dir.join(file), &content)?;
            }
        }
        Ok(())
    }

    /// `None`: not there yet.
    async fn files(&self, source: &Source) -> anyhow::Result<Option<BTreeMap<String, Vec<u8>>>> {
        let files = match source {
            Source::Token(audience, seconds, path) => {
                let token = self.token(audience, *seconds).await?;
                Some(BTreeMap::from([(path.clone(), token.into_bytes())]))
            }
            Source::ConfigMap(named) => {
                let api: Api<core::ConfigMap> = self.api();
                let found = api.get_opt(&named.name).await?;
                let found = found.map(|map| {
                    let texts = map.data.into_iter().flatten();
                    let texts = texts.map(|(name, text)| (name, text.into_bytes()));
                    let bytes = map.binary_data.into_iter().flatten();
                    texts
                        .chain(bytes.map(|(name, bytes)| (name, bytes.0)))
                        .collect()
                });
                named.choose(found)
            }
            Source::Secret(named) => {
                let api: Api<core::Secret> = self.api();
                let found = api.get_opt(&named.name).await?;
                let found = found.map(|secret| {
                    let data = secret.data.into_iter().flatten();
                    data.map(|(name, bytes)| (name, bytes.0)).collect()
                });
                named.choose(found)
            }
            Source::Fields(files) => {
                let files = files.iter().map(|(path, from)| {
                    anyhow::Ok((
                        path.clone(),
                        field(from, self.pod, self.place)?.into_bytes(),
                    ))
                });
                Some(files.collect::<Result<_, _>>()?)
            }
        };
        Ok(files)
    }

    /// A token of the pod's account that lasts no longer than the pod.
    async fn token(&self, audience: &str, seconds: i64) -> anyhow::Result<String> {
        let spec = self.pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref());
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: Some(audience.to_owned())
                    .filter(|it| !it.is_empty())
                    .into_iter()
                    .collect(),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: self.pod.metadata.name.clone(),
                    uid: self.pod.metadata.uid.clone(),
                }),
                expiration_seconds: Some(seconds),
            },
            ..TokenRequest::default()
        };
        let api: Api<core::ServiceAccount> = self.api();
        let account = account.unwrap_or("default");
        let params = PostParams::default();
        let granted = api.create_token_request(account, &params, &request).await;
        let granted = granted.with_context(|| format!("a token of {account}"))?;
        Ok(granted
            .status
            .context("a token request without answer")?
            .token)
    }

    /// The pod says it over its account, which says it over the default.
    async fn wants_account(&self, spec: &core::PodSpec) -> anyhow::Result<bool> {
        if let Some(said) = spec.automount_service_account_token {
            return Ok(said);
        }
        let api: Api<core::ServiceAccount> = self.api();
        let account = spec.service_account_name.as_deref().unwrap_or("default");
        let account = api.get(account).await?;
        Ok(account.automount_service_account_token.unwrap_or(true))
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), self.namespace())
    }
}

/// What a volume's files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// Audience, seconds, file.
    Token(String, i64, String),
    ConfigMap(Named),
    Secret(Named),
    /// Files and the fields that they have.
    Fields(Vec<(String, String)>),
}

/// An object of the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    name: String,
    optional: bool,
    /// Its keys and their files; all, under their own names, where it is empty.
    items: Vec<(String, String)>,
}

impl Named {
    fn new(
        name: Option<&String>,
        optional: Option<bool>,
        items: Option<&Vec<core::KeyToPath>>,
    ) -> Self {
        let items = items.into_iter().flatten();
        Self {
            name: name.cloned().unwrap_or_default(),
            optional: optional.unwrap_or(false),
            items: items
                .map(|item| (item.key.clone(), item.path.clone()))
                .collect(),
        }
    }

    fn choose(&self, data: Option<BTreeMap<String, Vec<u8>>>) -> Option<BTreeMap<String, Vec<u8>>> {
        let Some(mut data) = data else {
            return self.optional.then(BTreeMap::new);
        };
        if self.items.is_empty() {
            return Some(data);
        }
        let mut chosen = BTreeMap::new();
        for (key, path) in &self.items {
            match data.remove(key) {
                Some(content) => drop(chosen.insert(path.clone(), content)),
                None if self.optional => {}
                None => return None,
            }
        }
        Some(chosen)
    }
}

fn sources(volume: &core::Volume) -> anyhow::Result<Vec<Source>> {
    if volume.empty_dir.is_some() {
        return Ok(Vec::new());
    }
    if let Some(map) = &volume.config_map {
        let named = Named::new(Some(&map.name), map.optional, map.items.as_ref());
        return Ok(vec![Source::ConfigMap(named)]);
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_ref();
        let named = Named::new(name, secret.optional, secret.items.as_ref());
        return Ok(vec![Source::Secret(named)]);
    }
    if let Some(fields) = &volume.downward_api {
        return Ok(vec![Source::Fields(fields_of(fields.items.as_ref())?)]);
    }
    let projected = volume.projected.as_ref();
    let projected = projected.with_context(|| format!("no such volume here: {}", volume.name))?;
    let mut sources = Vec::new();
    for projection in projected.sources.iter().flatten() {
        sources.push(if let Some(token) = &projection.service_account_token {
            let audience = token.audience.clone().unwrap_or_default();
            let seconds = token.expiration_seconds.unwrap_or(TOKEN_SECONDS);
            Source::Token(audience, seconds, token.path.clone())
        } else if let Some(map) = &projection.config_map {
            Source::ConfigMap(Named::new(
                Some(&map.name),
                map.optional,
                map.items.as_ref(),
            ))
        } else if let Some(secret) = &projection.secret {
            Source::Secret(Named::new(
                Some(&secret.name),
                secret.optional,
                secret.items.as_ref(),
            ))
        } else if let Some(fields) = &projection.downward_api {
            Source::Fields(fields_of(fields.items.as_ref())?)
        } else {
            anyhow::bail!("no such projection here, in volume {}", volume.name)
        });
    }
    Ok(sources)
}

fn fields_of(
    items: Option<&Vec<core::DownwardAPIVolumeFile>>,
) -> anyhow::Result<Vec<(String, String)>> {
    let items = items.into_iter().flatten().map(|item| {
        let field = item.field_ref.as_ref().context("only fieldRef here")?;
        Ok((item.path.clone(), field.field_path.clone()))
    });
    items.collect()
}

fn write(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(file, content)?;
    // Read by whoever the container runs as; the directory above belongs to this process alone.
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_are_read_as_they_are_written() {
        let read = |volume| sources(&serde_json::from_value(volume).unwrap());
        let named = |name: &str, optional, items: &[(&str, &str)]| Named {
            name: name.to_owned(),
            optional,
            items: items
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect(),
        };
        assert_eq!(read(json!({"name": "a", "emptyDir": {}})).unwrap(), []);
        let map = json!({"name": "a", "configMap": {
            "name": "m", "optional": true, "items": [{"key": "k", "path": "p/q"}],
        }});
        let expected = Source::ConfigMap(named("m", true, &[("k", "p/q")]));
        assert_eq!(read(map).unwrap(), [expected]);
        let projected = json!({"name": "a", "projected": {"sources": [
            {"serviceAccountToken": {"audience": "weft.dev", "expirationSeconds": 600, "path": "token"}},
            {"secret": {"name": "s"}},
        ]}});
        let token = Source::Token("weft.dev".to_owned(), 600, "token".to_owned());
        assert_eq!(
            read(projected).unwrap(),
            [token, Source::Secret(named("s", false, &[]))]
        );
        read(json!({"name": "a", "hostPath": {"path": "/"}})).unwrap_err();
    }

    #[test]
    fn what_is_not_there_is_waited_for_unless_it_is_optional() {
        let data = || Some(BTreeMap::from([("k".to_owned(), b"v".to_vec())]));
        let mut named = Named {
            name: "m".to_owned(),
            optional: false,
            items: Vec::new(),
        };
        assert_eq!((named.choose(None), named.choose(data())), (None, data()));
        named.items = vec![("other".to_owned(), "x".to_owned())];
        assert_eq!(named.choose(data()), None);
        named.optional = true;
        let nothing = Some(BTreeMap::new());
        assert_eq!(
            (named.choose(None), named.choose(data())),
            (nothing.clone(), nothing)
        );
    }
}
