//! The certificate authority's state in a Secret of the control plane's namespace.
//!
//! * Only the replica that leads makes it, and only where there is none; where another one was faster, it
//!   is that one's. Others wait until it is there.
//! * A trust bundle without its Secret is refused: a new authority would cut off every sidecar that
//!   trusts the old one. So is a Secret that is broken, another mesh's, or not the one of the bundle.
//! * While the API server is away, it is asked again, later and later.
//! * Once it is read, [`SecretStore`] is how the [keeper](crate::keeper) follows and writes it: over the
//!   version that was read, and nothing but the state and the annotation by which a rotation is asked for.

use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use weft_proto::names::cluster::{
    AUTHORITY_KEY, AUTHORITY_SECRET, MANAGED_BY, MANAGED_BY_LABEL, ROTATE, STANDING, TRUST_BUNDLE,
    TRUST_BUNDLE_KEY, WAITING_FOR,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::bundle::Reached;
use super::call::{CallError, Pauses, call};
use super::wiped::Wiped;
use super::{Leading, until_leading};
use crate::identity::rotation::{Kind, Published};
use crate::identity::{Authority, BadAuthority, Document, Lifetimes, TrustBundle};
use crate::keeper::{Kept, Store, StoreError, Written};

/// How long a replica that does not lead waits between looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where the authority is, and whose.
#[derive(Clone, Debug)]
pub struct Home<'a> {
    /// The control plane's namespace.
    pub namespace: &'a str,
    /// The mesh's trust domain.
    pub trust_domain: &'a str,
    /// How long its leaves live.
    pub leaf_lifetime: Duration,
    /// How long its issuer and its root live.
    pub lifetimes: Lifetimes,
}

/// Why there is no authority. Trying again does not help before somebody has mended it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The bundle is there, the secret behind it is not.
    #[error(
        "ConfigMap {namespace}/{TRUST_BUNDLE} is there but Secret {namespace}/{AUTHORITY_SECRET} is not: \
         the authority's secret was lost. A new one would cut off every sidecar that trusts the old one. \
         Restore the Secret from a backup, or delete the ConfigMap to begin a new mesh, and then restart \
         every pod with a sidecar"
    )]
    SecretLost {
        /// The control plane's namespace.
        namespace: String,
    },
    /// The Secret does not hold what it should.
    #[error(
        "Secret {namespace}/{AUTHORITY_SECRET}, key {AUTHORITY_KEY}: {reason}. Restore it from a backup; it \
         is not replaced, as a new authority would cut off every sidecar that trusts the old one"
    )]
    Corrupt {
        /// The control plane's namespace.
        namespace: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bundle that sidecars have is of another authority.
    #[error(
        "ConfigMap {namespace}/{TRUST_BUNDLE} does not hold the root of Secret \
         {namespace}/{AUTHORITY_SECRET}: no sidecar that booted from it would trust this authority. Restore \
         the Secret that goes with it, or delete the ConfigMap to begin a new mesh, and then restart every \
         pod with a sidecar"
    )]
    OtherBundle {
        /// The control plane's namespace.
        namespace: String,
    },
    /// No authority could be made.
    #[error("no certificate authority could be made: {0}")]
    Making(#[from] BadAuthority),
}

/// What was seen of both objects.
struct Seen {
    bundle: Option<ConfigMap>,
    secret: Option<Wiped>,
}

/// Reads the authority, where this replica leads makes it, and else waits for it.
pub async fn open(
    client: Client,
    home: Home<'_>,
    mut leading: Leading,
) -> Result<Authority, AuthorityError> {
    let namespace = home.namespace;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let mut pauses = Pauses::new();
    let mut waits = false;
    loop {
        let tried = match look(&maps, &secrets).await {
            Ok(seen) => match judge(&seen, &home, SystemTime::now())? {
                Some(authority) => return Ok(authority),
                None if *leading.borrow() => make(&secrets, &home).await,
                None => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::info!("waiting for the replica that leads to make the authority");
                    }
                    // Sooner where this replica is the one that makes it.
                    let _ = timeout(LOOK_AGAIN, until_leading(&mut leading)).await;
                    continue;
                }
            },
            Err(error) => Err(Trouble::Call(error)),
        };
        match tried {
            Ok(()) => pauses.reset(),
            Err(Trouble::Bad(error)) => return Err(error.into()),
            Err(Trouble::Call(error)) => {
                tracing::warn!(%error, namespace, "the authority can be neither read nor made yet");
                sleep(pauses.next()).await;
            }
        }
    }
}

enum Trouble {
    Bad(BadAuthority),
    Call(CallError),
}

/// The bundle first: it is always written after the Secret, so that seeing it alone means that the Secret
/// was lost, and not that it was just being made.
async fn look(maps: &Api<ConfigMap>, secrets: &Api<Secret>) -> Result<Seen, CallError> {
    let bundle = call(maps.get_opt(TRUST_BUNDLE)).await?;
    let secret = call(secrets.get_opt(AUTHORITY_SECRET)).await?;
    let secret = secret.map(Wiped::from);
    Ok(Seen { bundle, secret })
}

/// The authority that both objects make; `None` where there is neither.
fn judge(
    seen: &Seen,
    home: &Home<'_>,
    now: SystemTime,
) -> Result<Option<Authority>, AuthorityError> {
    let namespace = || home.namespace.to_owned();
    let Some(secret) = &seen.secret else {
        return match &seen.bundle {
            Some(_) => Err(AuthorityError::SecretLost {
                namespace: namespace(),
            }),
            None => Ok(None),
        };
    };
    let corrupt = |reason: String| AuthorityError::Corrupt {
        namespace: namespace(),
        reason,
    };
    let state = state(secret).ok_or_else(|| corrupt("there is no such key".to_owned()))?;
    let authority = Authority::from_state(state, home.trust_domain, home.leaf_lifetime, now)
        .map_err(|error| corrupt(error.to_string()))?;

    // A bundle that cannot be read is corrected by whoever leads. One that can and is another's was in
    // use.
    let bundle = seen.bundle.as_ref().and_then(|map| map.data.as_ref());
    let bundle = bundle.and_then(|data| data.get(TRUST_BUNDLE_KEY));
    let bundle = bundle.and_then(|text| TrustBundle::from_pem(text.as_bytes()));
    match bundle {
        Some(bundle) if !authority.is_known_to(&bundle) => Err(AuthorityError::OtherBundle {
            namespace: namespace(),
        }),
        _ => Ok(Some(authority)),
    }
}

/// Makes the Secret, unless it is there by now. It is read back either way.
async fn make(secrets: &Api<Secret>, home: &Home<'_>) -> Result<(), Trouble> {
    let (domain, lifetimes, leaf) = (home.trust_domain, &home.lifetimes, home.leaf_lifetime);
    let state = Authority::make_state_with(domain, lifetimes, leaf, SystemTime::now());
    let state = state.map_err(Trouble::Bad)?;
    let standing = Document::parse(state.as_bytes(), domain, SystemTime::now());
    let standing = standing.map(|document| (STANDING.to_owned(), document.standing()));
    let secret = Wiped::from(Secret {
        metadata: ObjectMeta {
            name: Some(AUTHORITY_SECRET.to_owned()),
            labels: Some([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into()),
            annotations: standing.ok().map(|standing| [standing].into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(
            [(
                AUTHORITY_KEY.to_owned(),
                ByteString(state.as_bytes().to_vec()),
            )]
            .into(),
        ),
        ..Secret::default()
    });
    let created = call(secrets.create(&PostParams::default(), &secret)).await;
    match created.map(Wiped::from) {
        Ok(_) => {
            tracing::info!(
                secret = AUTHORITY_SECRET,
                "a certificate authority was made"
            );
            Ok(())
        }
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(Trouble::Call(error)),
    }
}

fn state(secret: &Secret) -> Option<&[u8]> {
    let data = secret.data.as_ref()?;
    data.get(AUTHORITY_KEY).map(|content| content.0.as_slice())
}

/// The Secret while it is in use. The replica that leads writes it; the others may only ask, by its
/// annotation.
pub struct SecretStore {
    secrets: Api<Secret>,
    namespace: String,
    leading: Leading,
    reached: watch::Receiver<Reached>,
}

impl SecretStore {
    /// The Secret of this namespace. `reached` says how far the bundle has come.
    pub fn new(
        client: Client,
        namespace: &str,
        leading: Leading,
        reached: watch::Receiver<Reached>,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            leading,
            reached,
        }
    }

    async fn kept(&self) -> Result<Option<Kept>, StoreError> {
        let secret = call(self.secrets.get_opt(AUTHORITY_SECRET)).await;
        let Some(mut secret) = secret.map_err(said)?.map(Wiped::from) else {
            return Ok(None);
        };
        let annotations = secret.metadata.annotations.as_ref();
        let annotation = |name| annotations.and_then(|all| all.get(name));
        let asked = annotation(ROTATE).and_then(|kind| kind.parse().ok());
        let waiting_for = annotation(WAITING_FOR).cloned();
        let text = state(&secret).unwrap_or_default().to_vec();
        Ok(Some(Kept {
            text: Zeroizing::new(text),
            asked,
            waiting_for,
            version: std::mem::take(&mut secret.metadata.resource_version).unwrap_or_default(),
        }))
    }

    /// Changes the Secret, where it is in this version.
    async fn change(
        &self,
        version: &str,
        change: impl FnOnce(&mut Secret) + Send,
    ) -> Result<Written, StoreError> {
        let secret = call(self.secrets.get_opt(AUTHORITY_SECRET)).await;
        let Some(mut secret) = secret.map_err(said)?.map(Wiped::from) else {
            return Ok(Written::Overtaken);
        };
        if secret.metadata.resource_version.as_deref() != Some(version) {
            return Ok(Written::Overtaken);
        }
        change(&mut secret);
        let params = PostParams::default();
        let replaced = self.secrets.replace(AUTHORITY_SECRET, &params, &secret);
        match call(replaced).await.map(Wiped::from) {
            Ok(_) => Ok(Written::Done),
            Err(error) if error.is_conflict() => Ok(Written::Overtaken),
            Err(error) => Err(said(error)),
        }
    }
}

impl Store for SecretStore {
    fn place(&self) -> String {
        format!("Secret {}/{AUTHORITY_SECRET}", self.namespace)
    }

    fn leads(&self) -> bool {
        *self.leading.borrow()
    }

    fn read(&self) -> BoxFuture<'_, Result<Option<Kept>, StoreError>> {
        self.kept().boxed()
    }

    fn write<'a>(
        &'a self,
        next: &'a Document,
        over: &'a Kept,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        let change = |secret: &mut Secret| {
            let content = ByteString(next.to_text().as_bytes().to_vec());
            let data = secret.data.get_or_insert_default();
            if let Some(mut former) = data.insert(AUTHORITY_KEY.to_owned(), content) {
                former.0.zeroize();
            }
            let annotations = secret.metadata.annotations.get_or_insert_default();
            annotations.insert(STANDING.to_owned(), next.standing());
            annotations.remove(WAITING_FOR);
            forget(secret);
        };
        self.change(&over.version, change).boxed()
    }

    fn forget_asked<'a>(&'a self, kept: &'a Kept) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.change(&kept.version, forget).boxed()
    }

    fn say_waiting<'a>(
        &'a self,
        waiting_for: Option<&'a str>,
        kept: &'a Kept,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        let change = move |secret: &mut Secret| {
            let annotations = secret.metadata.annotations.get_or_insert_default();
            match waiting_for {
                Some(text) => annotations.insert(WAITING_FOR.to_owned(), text.to_owned()),
                None => annotations.remove(WAITING_FOR),
            };
        };
        self.change(&kept.version, change).boxed()
    }

    fn published<'a>(&'a self, bundle: &'a TrustBundle) -> BoxFuture<'a, Published> {
        ready(reached_by(&self.reached, bundle)).boxed()
    }

    fn ask(&self, kind: Kind) -> BoxFuture<'_, Result<(), StoreError>> {
        let asking = async move {
            let kept = self.kept().await?;
            let kept = kept.ok_or_else(|| StoreError(format!("{} is gone", self.place())))?;
            let asked = self.change(&kept.version, |secret| {
                let annotations = secret.metadata.annotations.get_or_insert_default();
                annotations.insert(ROTATE.to_owned(), kind.to_string());
            });
            match asked.await? {
                Written::Done => Ok(()),
                Written::Overtaken => Err(StoreError("the Secret just changed".to_owned())),
            }
        };
        asking.boxed()
    }
}

/// How far a bundle has come.
pub(super) fn reached_by(reached: &watch::Receiver<Reached>, bundle: &TrustBundle) -> Published {
    let reached = reached.borrow();
    match reached.failures {
        _ if reached.bundle.as_ref() != Some(bundle) => Published::No,
        0 => Published::Everywhere,
        _ => Published::Partly,
    }
}

fn forget(secret: &mut Secret) {
    if let Some(annotations) = &mut secret.metadata.annotations {
        annotations.remove(ROTATE);
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: CallError) -> StoreError {
    StoreError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Home<'static> = Home {
        namespace: "weft",
        trust_domain: "cluster.local",
        leaf_lifetime: Duration::from_secs(3600),
        lifetimes: Lifetimes::DEFAULT,
    };

    fn made() -> String {
        let made = Authority::make_state(HOME.trust_domain, SystemTime::now());
        made.unwrap().as_str().to_owned()
    }

    fn secret(content: &str) -> Secret {
        let content = ByteString(content.as_bytes().to_vec());
        Secret {
            data: Some([(AUTHORITY_KEY.to_owned(), content)].into()),
            ..Secret::default()
        }
    }

    fn bundle(content: &str) -> ConfigMap {
        ConfigMap {
            data: Some([(TRUST_BUNDLE_KEY.to_owned(), content.to_owned())].into()),
            ..ConfigMap::default()
        }
    }

    fn judged(
        secret: Option<Secret>,
        bundle: Option<ConfigMap>,
    ) -> Result<Option<Authority>, AuthorityError> {
        let secret = secret.map(Wiped::from);
        judge(&Seen { bundle, secret }, &HOME, SystemTime::now())
    }

    #[test]
    fn both_or_neither_or_only_the_secret() {
        assert!(judged(None, None).unwrap().is_none());
        let state = made();
        let authority = judged(Some(secret(&state)), None).unwrap().unwrap();
        let own = authority.bundle().borrow().to_pem();
        assert!(
            judged(Some(secret(&state)), Some(bundle(&own)))
                .unwrap()
                .is_some()
        );
        // Spoiled by somebody: corrected, not refused. It says nothing of another authority.
        for text in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA"] {
            let judged = judged(Some(secret(&state)), Some(bundle(text)));
            assert!(judged.unwrap().is_some(), "{text}");
        }
    }

    #[test]
    fn a_lost_secret_is_not_made_again() {
        let refused = judged(None, Some(bundle("whatever"))).err().unwrap();
        assert!(matches!(refused, AuthorityError::SecretLost { .. }));
        let text = refused.to_string();
        assert!(
            text.contains("weft/weft-authority") && text.contains("Restore"),
            "{text}"
        );
    }

    #[test]
    fn a_secret_of_another_bundle_is_refused() {
        let other = Authority::from_state(
            made().as_bytes(),
            HOME.trust_domain,
            HOME.leaf_lifetime,
            SystemTime::now(),
        );
        let other = other.unwrap().bundle().borrow().to_pem();
        let refused = judged(Some(secret(&made())), Some(bundle(&other)));
        assert!(matches!(refused, Err(AuthorityError::OtherBundle { .. })));
    }

    #[test]
    fn a_broken_secret_is_refused_without_being_shown() {
        let state = made();
        let foreign = Authority::make_state("other.example", SystemTime::now()).unwrap();
        let spoiled = state.replacen("MI", "AA", 1);
        for text in ["", "nothing", &state[..state.len() / 2], &foreign, &spoiled] {
            let refused = judged(Some(secret(text)), None).err().unwrap();
            assert!(
                matches!(refused, AuthorityError::Corrupt { .. }),
                "{refused}"
            );
            let words = refused.to_string();
            assert!(words.contains("Restore it from a backup"), "{words}");
            assert!(!words.contains("BEGIN"), "{words}");
        }
        let empty = judged(Some(Secret::default()), None).err().unwrap();
        assert!(empty.to_string().contains("no such key"));
    }
}
