//! An issuer that somebody else makes, in Secret `weft-issuer` of the control plane's namespace, as
//! cert-manager writes it: `tls.crt`, `tls.key`, `ca.crt`.

use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;
use weft_proto::names::cluster::{ISSUER_SECRET, TRUST_BUNDLE, TRUST_BUNDLE_KEY};
use zeroize::Zeroizing;

use super::authority::reached_by;
use super::bundle::Reached;
use super::call::{CallError, Pauses, call};
use crate::identity::rotation::Published;
use crate::identity::{Authority, GivenText, TrustBundle};
use crate::keeper::{Giver, StoreError};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";

/// Why an issuer that is given cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// What it is made of is not what it should be.
    #[error(
        "Secret {namespace}/{ISSUER_SECRET}: {reason}. Whoever gives it has to mend it; the control plane \
         makes no authority of its own while it is there"
    )]
    Refused {
        /// The control plane's namespace.
        namespace: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Sidecars know none of its roots.
    #[error(
        "ConfigMap {namespace}/{TRUST_BUNDLE} holds none of the roots of Secret {namespace}/{ISSUER_SECRET}: \
         no sidecar that booted from it would believe the control plane. Put the former root beside them in \
         ca.crt until every sidecar has the new one, or delete the ConfigMap to begin a new mesh, and then \
         restart every pod with a sidecar"
    )]
    OtherBundle {
        /// The control plane's namespace.
        namespace: String,
    },
}

/// The authority of the issuer that is given, if one is.
pub async fn open(
    client: &Client,
    namespace: &str,
    trust_domain: &str,
    leaf_lifetime: Duration,
) -> Result<Option<Authority>, GivenError> {
    let mut pauses = Pauses::new();
    let (text, bundle) = loop {
        match look(client, namespace).await {
            Ok((Some(text), bundle)) => break (text, bundle),
            Ok((None, _)) => return Ok(None),
            Err(error) => {
                tracing::warn!(%error, namespace, "it is not known yet whether an issuer is given");
                sleep(pauses.next()).await;
            }
        }
    };
    let authority = Authority::given(&text, trust_domain, leaf_lifetime, SystemTime::now());
    let namespace = namespace.to_owned();
    let authority = match authority {
        Ok(authority) => authority,
        Err(error) => {
            let reason = error.to_string();
            return Err(GivenError::Refused { namespace, reason });
        }
    };
    if bundle.is_some_and(|bundle| !authority.is_known_to(&bundle)) {
        return Err(GivenError::OtherBundle { namespace });
    }
    Ok(Some(authority))
}

async fn look(
    client: &Client,
    namespace: &str,
) -> Result<(Option<GivenText>, Option<TrustBundle>), CallError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let Some(secret) = call(secrets.get_opt(ISSUER_SECRET)).await? else {
        return Ok((None, None));
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = call(maps.get_opt(TRUST_BUNDLE)).await?;
    let text = map.and_then(|map| map.data?.remove(TRUST_BUNDLE_KEY));
    let bundle = text.and_then(|text| TrustBundle::from_pem(text.as_bytes()));
    Ok((Some(given(secret)), bundle))
}

/// What is missing is empty, and refused as such.
fn given(secret: Secret) -> GivenText {
    let mut data = secret.data.unwrap_or_default();
    let mut part = |name: &str| data.remove(name).map(|part| part.0).unwrap_or_default();
    GivenText {
        certificate: part(CERTIFICATE),
        key: Zeroizing::new(part(KEY)),
        roots: part(ROOTS),
    }
}

/// The Secret while it is in use.
pub struct SecretGiver {
    secrets: Api<Secret>,
    namespace: String,
    reached: watch::Receiver<Reached>,
}

impl SecretGiver {
    /// The Secret of this namespace. `reached` says how far the bundle has come.
    pub fn new(client: Client, namespace: &str, reached: watch::Receiver<Reached>) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            reached,
        }
    }
}

impl Giver for SecretGiver {
    fn place(&self) -> String {
        format!("Secret {}/{ISSUER_SECRET}", self.namespace)
    }

    fn read(&self) -> BoxFuture<'_, Result<Option<GivenText>, StoreError>> {
        let reading = async move {
            let secret = call(self.secrets.get_opt(ISSUER_SECRET)).await;
            let secret = secret.map_err(|error| StoreError(error.to_string()))?;
            Ok(secret.map(given))
        };
        reading.boxed()
    }

    fn published(&self, bundle: &TrustBundle) -> Published {
        reached_by(&self.reached, bundle)
    }
}
