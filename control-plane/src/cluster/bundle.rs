//! The trust bundle in every namespace with sidecars, as a ConfigMap that they boot from.
//!
//! The replica that leads keeps it: made where it is missing, corrected where somebody has changed it,
//! taken away from namespaces that are not labelled any longer. One list of all ConfigMaps of that name
//! says what there is; only differences are written, over the version that was listed. Looked at when
//! leading begins, when the bundle or the set of namespaces changes, and once per period.
//!
//! A ConfigMap of that name that somebody else has made is taken over where it is needed, and left alone
//! where it is not. What fails in one namespace (one that is just ending, a quota) holds up no other, and
//! is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use weft_proto::names::cluster::{MANAGED_BY, MANAGED_BY_LABEL, TRUST_BUNDLE, TRUST_BUNDLE_KEY};

use super::call::{CallError, Pauses, call};
use super::{Leading, until_leading, until_led_by_another};
use crate::identity::TrustBundle;

/// How often the ConfigMaps are looked at where nothing says that they must be.
pub const PERIOD: Duration = Duration::from_secs(30);
/// Writes at the same time.
const MAX_WRITES: usize = 8;
/// Failures that one round tells of, one by one.
const MAX_TOLD: usize = 5;

/// Keeps the ConfigMaps.
pub struct Bundles {
    /// The cluster.
    pub client: Client,
    /// The control plane's namespace, which has one too.
    pub namespace: String,
    /// What they hold.
    pub bundle: watch::Receiver<TrustBundle>,
    /// The namespaces whose pods get sidecars.
    pub injected: watch::Receiver<Arc<BTreeSet<String>>>,
    /// Whether this replica writes.
    pub leading: Leading,
    /// Says what was written, as soon as it was.
    pub reached: watch::Sender<Reached>,
    /// How often to look.
    pub period: Duration,
}

/// What the ConfigMaps hold, as the replica that leads has written or found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The bundle; `None` before the first look.
    pub bundle: Option<TrustBundle>,
    /// Namespaces where it could not be written.
    pub failures: usize,
}

/// What one write does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Write {
    Create,
    /// Over this version.
    Correct(String),
    /// The object of this uid, in this version.
    Delete(String, String),
}

impl Bundles {
    /// Runs until the process ends.
    pub async fn run(mut self) {
        let mut leading = self.leading.clone();
        while until_leading(&mut leading).await {
            tokio::select! {
                () = self.keep() => {}
                () = until_led_by_another(&mut leading) => {}
            }
        }
    }

    async fn keep(&mut self) {
        let mut pauses = Pauses::new();
        loop {
            let bundle = self.bundle.borrow_and_update().clone();
            let text = bundle.to_pem();
            let mut wanted = BTreeSet::clone(&self.injected.borrow_and_update());
            wanted.insert(self.namespace.clone());
            let round = self.round(&text, &wanted).await;
            if let Ok(failures) = &round {
                let (bundle, failures) = (Some(bundle), *failures);
                self.reached.send_replace(Reached { bundle, failures });
            }
            let pause = match round {
                Ok(0) => {
                    pauses.reset();
                    self.period
                }
                Ok(_) => pauses.next().min(self.period),
                Err(error) => {
                    tracing::warn!(%error, "the trust bundle's ConfigMaps cannot be listed");
                    pauses.next().min(self.period)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                // Where nobody changes them any more, the process ends.
                Ok(()) = self.bundle.changed() => {}
                Ok(()) = self.injected.changed() => {}
            }
        }
    }

    /// Looks once, and writes what differs. How many writes failed.
    async fn round(&self, text: &str, wanted: &BTreeSet<String>) -> Result<usize, CallError> {
        let all: Api<ConfigMap> = Api::all(self.client.clone());
        let ours = ListParams::default().fields(&format!("metadata.name={TRUST_BUNDLE}"));
        let listed = call(all.list(&ours)).await?;
        let due = differences(&listed.items, text, wanted);

        let writes = iter(due).map(|(namespace, write)| async {
            let maps = Api::namespaced(self.client.clone(), &namespace);
            let result = perform(&maps, &write, text).await;
            (namespace, write, result)
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(MAX_WRITES));
        let mut failures = 0;
        while let Some((namespace, write, result)) = writes.next().await {
            match result {
                Ok(()) => {
                    tracing::info!(namespace, did = write.word(), "trust bundle");
                }
                Err(error) => {
                    failures += 1;
                    if failures <= MAX_TOLD {
                        let meant = write.word();
                        tracing::warn!(namespace, meant, %error, "the trust bundle is not as it should be");
                    }
                }
            }
        }
        if failures > MAX_TOLD {
            tracing::warn!(
                failures,
                "so many namespaces are without the trust bundle of now"
            );
        }
        Ok(failures)
    }
}

impl Write {
    fn word(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Correct(_) => "correct",
            Self::Delete(..) => "delete",
        }
    }
}

/// What is to be written, by namespace.
fn differences(
    listed: &[ConfigMap],
    text: &str,
    wanted: &BTreeSet<String>,
) -> BTreeMap<String, Write> {
    let mut due: BTreeMap<String, Write> = wanted
        .iter()
        .map(|namespace| (namespace.clone(), Write::Create))
        .collect();
    for map in listed {
        let meta = &map.metadata;
        if meta.name.as_deref() != Some(TRUST_BUNDLE) {
            continue;
        }
        let namespace = meta.namespace.clone().unwrap_or_default();
        let label = meta
            .labels
            .as_ref()
            .and_then(|labels| labels.get(MANAGED_BY_LABEL));
        let is_ours = label.is_some_and(|label| label == MANAGED_BY);
        let said = map
            .data
            .as_ref()
            .and_then(|data| data.get(TRUST_BUNDLE_KEY));
        let version = meta.resource_version.clone().unwrap_or_default();
        if wanted.contains(&namespace) {
            if is_ours && said.is_some_and(|said| said == text) {
                due.remove(&namespace);
            } else {
                due.insert(namespace, Write::Correct(version));
            }
        } else if is_ours && meta.deletion_timestamp.is_none() {
            let uid = meta.uid.clone().unwrap_or_default();
            due.insert(namespace, Write::Delete(uid, version));
        }
    }
    due
}

async fn perform(maps: &Api<ConfigMap>, write: &Write, text: &str) -> Result<(), CallError> {
    match write {
        Write::Create => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(TRUST_BUNDLE.to_owned()),
                    labels: Some([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                data: Some([(TRUST_BUNDLE_KEY.to_owned(), text.to_owned())].into()),
                ..ConfigMap::default()
            };
            call(maps.create(&PostParams::default(), &map)).await?;
        }
        Write::Correct(version) => {
            let patch = json!({
                "metadata": {
                    "resourceVersion": version,
                    "labels": {MANAGED_BY_LABEL: MANAGED_BY},
                },
                "data": {TRUST_BUNDLE_KEY: text},
            });
            let patch = Patch::Merge(patch);
            call(maps.patch(TRUST_BUNDLE, &PatchParams::default(), &patch)).await?;
        }
        Write::Delete(uid, version) => {
            let only = DeleteParams::default().preconditions(Preconditions {
                uid: Some(uid.clone()),
                resource_version: Some(version.clone()),
            });
            match call(maps.delete(TRUST_BUNDLE, &only)).await {
                Err(error) if !error.is_missing() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(namespace: &str, text: &str, ours: bool) -> ConfigMap {
        let labels = ours.then(|| [(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into());
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(TRUST_BUNDLE.to_owned()),
                namespace: Some(namespace.to_owned()),
                resource_version: Some("7".to_owned()),
                uid: Some("u".to_owned()),
                labels,
                ..ObjectMeta::default()
            },
            data: Some([(TRUST_BUNDLE_KEY.to_owned(), text.to_owned())].into()),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn only_differences_are_written() {
        let wanted: BTreeSet<String> = ["good", "none", "old", "foreign"].map(str::to_owned).into();
        let listed = [
            map("good", "new", true),
            map("old", "old", true),
            map("foreign", "new", false),
            map("left", "new", true),
            map("left-foreign", "new", false),
        ];
        let due = differences(&listed, "new", &wanted);
        let correct = Write::Correct("7".to_owned());
        let expected = [
            ("foreign", correct.clone()),
            ("left", Write::Delete("u".to_owned(), "7".to_owned())),
            ("none", Write::Create),
            ("old", correct),
        ];
        let expected = expected.map(|(namespace, write)| (namespace.to_owned(), write));
        assert_eq!(due, expected.into());
    }

    #[test]
    fn a_server_that_ignores_the_selector_does_no_harm() {
        let mut other = map("left", "new", true);
        other.metadata.name = Some("other".to_owned());
        assert!(differences(&[other], "new", &BTreeSet::new()).is_empty());
    }
}
