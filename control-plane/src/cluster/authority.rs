//! The certificate authority's state in a Secret of the control plane's namespace.
//!
//! * Only the replica that leads makes it, and only where there is none; where another one was faster, it
//!   is that one's. Others wait until it is there.
//! * A trust bundle without its Secret is refused: a new authority would cut off every sidecar that
//!   trusts the old one. So is a Secret that is broken, another mesh's, or not the one of the bundle.
//! * While the API server is away, it is asked again, later and later.
//! * Once it is read, nothing that happens to the Secret changes what is served; [`watch`] says so.

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use metrics::Gauge;
use tokio::time::{sleep, timeout};
use weft_proto::names::cluster::{
    AUTHORITY_KEY, AUTHORITY_SECRET, MANAGED_BY, MANAGED_BY_LABEL, TRUST_BUNDLE, TRUST_BUNDLE_KEY,
};

use super::call::{CallError, Pauses, call};
use super::{Leading, until_leading};
use crate::identity::{Authority, BadAuthority, TrustBundle};

/// How long a replica that does not lead waits between looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often [`watch`] looks.
const WATCH_PERIOD: Duration = Duration::from_secs(60);

/// Where the authority is, and whose.
#[derive(Clone, Debug)]
pub struct Home<'a> {
    /// The control plane's namespace.
    pub namespace: &'a str,
    /// The mesh's trust domain.
    pub trust_domain: &'a str,
    /// How long its leaves live.
    pub leaf_lifetime: Duration,
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
    secret: Option<Secret>,
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

/// Says, in logs and by `intact`, when the Secret vanishes or changes under a process that has read it.
/// Never ends.
pub async fn watch(client: Client, namespace: String, authority: TrustBundle, intact: Gauge) {
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let mut known = None;
    intact.set(1.0);
    loop {
        // Away is not gone.
        if let Ok(secret) = call(secrets.get_opt(AUTHORITY_SECRET)).await {
            let state = secret.as_ref().map(|secret| {
                let bundle = state(secret).and_then(TrustBundle::from_pem);
                bundle
                    .is_some_and(|bundle| authority.roots.iter().any(|r| bundle.roots.contains(r)))
            });
            if known != Some(state) {
                match state {
                    Some(true) => {}
                    Some(false) => tracing::error!(
                        namespace,
                        secret = AUTHORITY_SECRET,
                        "the authority's Secret was changed to something else. What was read from it at \
                         start is still served; a replica that starts now would not agree: restore it",
                    ),
                    None => tracing::error!(
                        namespace,
                        secret = AUTHORITY_SECRET,
                        "the authority's Secret is gone. What was read from it at start is still served; \
                         a replica that starts now will refuse to: restore it from a backup",
                    ),
                }
            }
            known = Some(state);
            intact.set(if state == Some(true) { 1.0 } else { 0.0 });
        }
        sleep(WATCH_PERIOD).await;
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
    let own = authority.bundle().borrow().clone();
    match bundle {
        Some(bundle) if !own.roots.iter().any(|root| bundle.roots.contains(root)) => {
            Err(AuthorityError::OtherBundle {
                namespace: namespace(),
            })
        }
        _ => Ok(Some(authority)),
    }
}

/// Makes the Secret, unless it is there by now. It is read back either way.
async fn make(secrets: &Api<Secret>, home: &Home<'_>) -> Result<(), Trouble> {
    let state =
        Authority::make_state(home.trust_domain, SystemTime::now()).map_err(Trouble::Bad)?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(AUTHORITY_SECRET.to_owned()),
            labels: Some([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some([(AUTHORITY_KEY.to_owned(), ByteString(state.into_bytes()))].into()),
        ..Secret::default()
    };
    match call(secrets.create(&PostParams::default(), &secret)).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Home<'static> = Home {
        namespace: "weft",
        trust_domain: "cluster.local",
        leaf_lifetime: Duration::from_secs(3600),
    };

    fn made() -> String {
        Authority::make_state(HOME.trust_domain, SystemTime::now()).unwrap()
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
