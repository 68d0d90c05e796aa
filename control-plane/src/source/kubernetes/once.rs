//! A cluster that is read once, for whoever wants to know what the control plane makes of it.
//!
//! Objects are trimmed and put together by the code that follows a cluster. Nobody knows here what an
//! object was before: of a bad one, no earlier version is in force.

use std::fmt::Debug;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use weft_proto::names::{DEFAULT_TRUST_DOMAIN, env};

use super::defined::{self, Unknown, version};
use super::event::Event;
use super::kind::{Defined, Kind};
use super::manifest::{Grant, HeldRoute, Policy};
use super::namespace::Namespace;
use super::pod::Pod;
use super::service::Service;
use super::slice::Slice;
use super::store::{Change, Cluster};
use crate::index::{MeshSettings, Name, Objects};
use crate::policy::{DefaultAuthorization, MtlsMode};
use crate::source::mesh_file::{DEFAULT_NETWORKS, DEFAULT_SERVER_FIRST_PORTS};

/// Objects of one answer at most, so that no answer is big.
const PAGE: u32 = 500;

/// Why a cluster could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// Objects of a kind were not listed.
    #[error("{kind}: {error}")]
    Unlisted {
        /// The kind.
        kind: &'static str,
        /// What the API server says, or why it does not.
        #[source]
        error: kube::Error,
    },
    /// The API server does not say which kinds it has.
    #[error("{kind}: {why}")]
    Unsaid {
        /// The kind that was looked for.
        kind: &'static str,
        /// Why.
        why: String,
    },
}

impl OnceError {
    /// Whether the user may not read what is missing.
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::Unlisted { error: kube::Error::Api(status), .. } if status.code == 403
        )
    }
}

/// Lists everything that the mesh is made of. Kinds that the cluster does not have are as if there were
/// no objects of them, and so are routes and grants that may not be read.
pub async fn list_once(client: Client, settings: &MeshSettings) -> Result<Objects, OnceError> {
    let mut once = Once {
        client,
        cluster: Cluster::default(),
    };
    for kind in Kind::ALL {
        match kind {
            Kind::Service => once.built_in(kind, Service::trim, Change::Service).await?,
            Kind::EndpointSlice => once.built_in(kind, Slice::trim, Change::Slice).await?,
            Kind::Pod => once.built_in(kind, Pod::trim, Change::Pod).await?,
            Kind::Namespace => {
                once.built_in(kind, Namespace::trim, Change::Namespace)
                    .await?;
            }
            Kind::TrafficPolicy => once.defined(kind, Policy::trim, Change::Policy).await?,
            Kind::HttpRoute => {
                let trim = HeldRoute::trim_http;
                once.defined(kind, trim, Change::HttpRoute).await?;
            }
            Kind::GrpcRoute => {
                let trim = HeldRoute::trim_grpc;
                once.defined(kind, trim, Change::GrpcRoute).await?;
            }
            Kind::ReferenceGrant => once.defined(kind, Grant::trim, Change::Grant).await?,
        }
    }
    Ok(once.cluster.objects(settings))
}

/// The settings of the whole mesh as a control plane reads them from its environment, of which `lookup`
/// says each variable. `Err` names the variable.
pub fn settings_of(lookup: impl Fn(&str) -> Option<String>) -> Result<MeshSettings, String> {
    let listed = |name: &str, default: String| {
        let text = lookup(name).unwrap_or(default);
        let items: Vec<_> = text.split(',').map(|item| item.trim().to_owned()).collect();
        items
    };
    let wrong = |name: &str, item: &str| format!("{name}: {item:?} cannot be read");
    let networks = listed(env::NETWORKS, DEFAULT_NETWORKS.to_owned()).into_iter();
    let networks = networks.map(|item| item.parse().map_err(|_| wrong(env::NETWORKS, &item)));
    let default = DEFAULT_SERVER_FIRST_PORTS
        .map(|port| port.to_string())
        .join(",");
    let ports = listed(env::SERVER_FIRST_PORTS, default).into_iter();
    let ports = ports.map(|item| {
        item.parse()
            .map_err(|_| wrong(env::SERVER_FIRST_PORTS, &item))
    });
    let minimum_mtls = match lookup(env::MINIMUM_MTLS).as_deref() {
        None => None,
        Some("Permissive") => Some(MtlsMode::Permissive),
        Some("Strict") => Some(MtlsMode::Strict),
        Some(other) => return Err(wrong(env::MINIMUM_MTLS, other)),
    };
    let default_authorization = match lookup(env::DEFAULT_AUTHORIZATION) {
        None => DefaultAuthorization::default(),
        Some(word) => word
            .parse()
            .map_err(|_| wrong(env::DEFAULT_AUTHORIZATION, &word))?,
    };
    Ok(MeshSettings {
        trust_domain: lookup(env::TRUST_DOMAIN).unwrap_or_else(|| DEFAULT_TRUST_DOMAIN.to_owned()),
        networks: networks.collect::<Result<_, _>>()?,
        server_first_ports: ports.collect::<Result<_, _>>()?,
        minimum_mtls,
        default_authorization,
    })
}

struct Once {
    client: Client,
    cluster: Cluster,
}

impl Once {
    async fn built_in<K, T>(
        &mut self,
        kind: Kind,
        trim: fn(K) -> (Name, Option<T>),
        change: fn(Event<T>) -> Change,
    ) -> Result<(), OnceError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api = Api::all(self.client.clone());
        let listed = self.list(&api, trim, change).await;
        listed.map_err(|error| OnceError::Unlisted {
            kind: kind.word(),
            error,
        })
    }

    async fn defined<T>(
        &mut self,
        kind: Kind,
        trim: fn(DynamicObject) -> (Name, Option<T>),
        change: fn(Event<T>) -> Change,
    ) -> Result<(), OnceError> {
        let Some(defined) = kind.defined() else {
            return Ok(());
        };
        let event = match self.find(defined, kind, trim, change).await {
            Ok(()) => return Ok(()),
            Err(Missing::Absent) => Event::Absent,
            Err(Missing::Forbidden(_)) if kind.may_be_forbidden() => Event::Forbidden,
            Err(Missing::Forbidden(error) | Missing::Failed(error)) => return Err(error),
        };
        self.cluster.take(change(event));
        Ok(())
    }

    async fn find<T>(
        &mut self,
        defined: Defined,
        kind: Kind,
        trim: fn(DynamicObject) -> (Name, Option<T>),
        change: fn(Event<T>) -> Change,
    ) -> Result<(), Missing> {
        let word = kind.word();
        let version = version(&self.client, defined).await;
        let version = version.map_err(|error| Missing::unsaid(word, &error))?;
        let version = version.ok_or(Missing::Absent)?;
        let gvk = GroupVersionKind::gvk(defined.group, version, word);
        let resource = ApiResource::from_gvk_with_plural(&gvk, defined.plural);
        let api = Api::all_with(self.client.clone(), &resource);
        let listed = self.list(&api, trim, change).await;
        listed.map_err(|error| Missing::unlisted(word, error))
    }

    async fn list<K, T>(
        &mut self,
        api: &Api<K>,
        trim: fn(K) -> (Name, Option<T>),
        change: fn(Event<T>) -> Change,
    ) -> Result<(), kube::Error>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        self.cluster.take(change(Event::Restarted));
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let objects = api.list(&page).await?;
            for object in objects.items {
                let (name, object) = trim(object);
                self.cluster.take(change(Event::Listed(name, object)));
            }
            match objects.metadata.continue_ {
                Some(next) if !next.is_empty() => page = page.continue_token(&next),
                _ => break,
            }
        }
        self.cluster.take(change(Event::Complete));
        Ok(())
    }
}

/// Why objects of a kind are not there.
enum Missing {
    Absent,
    Forbidden(OnceError),
    Failed(OnceError),
}

impl Missing {
    fn unsaid(kind: &'static str, error: &Unknown) -> Self {
        let why = error.to_string();
        let told = OnceError::Unsaid { kind, why };
        if defined::is_forbidden(error) {
            Self::Forbidden(told)
        } else {
            Self::Failed(told)
        }
    }

    fn unlisted(kind: &'static str, error: kube::Error) -> Self {
        let code = match &error {
            kube::Error::Api(status) => status.code,
            _ => 0,
        };
        let told = OnceError::Unlisted { kind, error };
        match code {
            // Its definition was deleted this very moment.
            404 => Self::Absent,
            403 => Self::Forbidden(told),
            _ => Self::Failed(told),
        }
    }
}
