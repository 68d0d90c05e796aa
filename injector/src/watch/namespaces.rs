//! What namespaces say about the sidecars of their pods.
//!
//! Known from a watch, so that it is there when the API server or the control plane is away. A namespace
//! that the watch has not told of yet is waited for, briefly, then asked for: a pod is often made right
//! after its namespace. So is one whose labels say that nobody should have asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use weft_proto::names::{CONFIG_ANNOTATION_PREFIX, INJECT_LABEL};

use crate::decide::Namespace;

/// How long the watch may take to tell of a namespace.
pub const WATCH_PATIENCE: Duration = Duration::from_millis(500);
/// How long the API server may take to tell of it then.
pub const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// Namespaces that are remembered; others are asked for each time.
const MAX_NAMESPACES: usize = 100_000;
/// Questions to the API server at once.
const MAX_ASKING: usize = 16;

/// Every namespace, as far as it matters.
pub struct Namespaces {
    api: Api<PartialObjectMeta<v1::Namespace>>,
    known: Mutex<Known>,
    changed: watch::Sender<()>,
    asking: Semaphore,
}

#[derive(Default)]
struct Known {
    all: HashMap<String, Arc<Namespace>>,
    /// What a list has told so far, which is not all.
    listed: Option<HashMap<String, Arc<Namespace>>>,
}

impl Namespaces {
    /// Knows none, and asks `client` for those.
    pub fn new(client: Client) -> Self {
        Self {
            api: Api::all(client),
            known: Mutex::default(),
            changed: watch::Sender::new(()),
            asking: Semaphore::new(MAX_ASKING),
        }
    }

    /// What the watch has told of a namespace, which may take it [`WATCH_PATIENCE`].
    pub async fn watched(&self, name: &str) -> Option<Arc<Namespace>> {
        let mut changed = self.changed.subscribe();
        let telling = async {
            loop {
                if let Some(namespace) = self.known.lock().all.get(name) {
                    return Arc::clone(namespace);
                }
                // The sender is a field of this.
                let _ = changed.changed().await;
            }
        };
        timeout(WATCH_PATIENCE, telling).await.ok()
    }

    /// What the API server says of a namespace now, or why nothing.
    pub async fn ask(&self, name: &str) -> Result<Arc<Namespace>, String> {
        let asking = async {
            let _turn = self.asking.acquire().await;
            self.api.get_opt(name).await
        };
        match timeout(ASK_PATIENCE, asking).await {
            Ok(Ok(Some(namespace))) => Ok(trimmed(namespace.metadata).1),
            Ok(Ok(None)) => Err("there is none".to_owned()),
            Ok(Err(kube::Error::Api(status))) => Err(format!(
                "the API server says {}: {}",
                status.code, status.message
            )),
            Ok(Err(error)) => Err(super::with_cause(&error)),
            Err(_) => Err(format!(
                "the API server did not answer within {} s",
                ASK_PATIENCE.as_secs()
            )),
        }
    }

    pub(crate) fn take(&self, event: Event<PartialObjectMeta<v1::Namespace>>) {
        {
            let mut known = self.known.lock();
            match event {
                Event::Init => known.listed = Some(HashMap::new()),
                Event::InitApply(namespace) => {
                    if let Some(listed) = &mut known.listed {
                        put(listed, namespace.metadata);
                    }
                }
                Event::InitDone => {
                    if let Some(listed) = known.listed.take() {
                        known.all = listed;
                    }
                }
                Event::Apply(namespace) => put(&mut known.all, namespace.metadata),
                Event::Delete(namespace) => {
                    known
                        .all
                        .remove(&namespace.metadata.name.unwrap_or_default());
                }
            }
        }
        self.changed.send_replace(());
    }
}

fn put(all: &mut HashMap<String, Arc<Namespace>>, metadata: ObjectMeta) {
    let (name, namespace) = trimmed(metadata);
    if all.len() < MAX_NAMESPACES || all.contains_key(&name) {
        all.insert(name, namespace);
    }
}

/// With what matters only: clusters have many namespaces with much written on them.
fn trimmed(metadata: ObjectMeta) -> (String, Arc<Namespace>) {
    let keep = |all: Option<BTreeMap<String, String>>, wanted: fn(&str) -> bool| {
        let mut all = all.unwrap_or_default();
        all.retain(|key, _| wanted(key));
        all
    };
    let name = metadata.name.unwrap_or_default();
    let namespace = Namespace {
        name: name.clone(),
        labels: keep(metadata.labels, |key| key == INJECT_LABEL),
        annotations: keep(metadata.annotations, |key| {
            key.starts_with(CONFIG_ANNOTATION_PREFIX)
        }),
    };
    (name, Arc::new(namespace))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::watch::testing::answering;

    /// With an API server that says this of every namespace.
    fn namespaces(code: u16, answer: &serde_json::Value) -> Namespaces {
        Namespaces::new(answering(code, answer))
    }

    fn object(name: &str, word: &str) -> PartialObjectMeta<v1::Namespace> {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": name, "labels": {"weft.dev/inject": word, "team": "a"},
                "annotations": {"config.weft.dev/log-level": "debug", "notes": "long"},
            },
        }))
        .expect("a namespace")
    }

    fn label(namespace: &Namespace) -> &str {
        &namespace.labels["weft.dev/inject"]
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_watch_tells_is_known_and_trimmed() {
        let namespaces = namespaces(500, &json!({}));
        namespaces.take(Event::Init);
        namespaces.take(Event::InitApply(object("shop", "enabled")));
        assert!(
            namespaces.watched("shop").await.is_none(),
            "a list that is not complete may be of before"
        );
        namespaces.take(Event::InitDone);
        let shop = namespaces.watched("shop").await.expect("the namespace");
        assert_eq!((label(&shop), shop.labels.len()), ("enabled", 1));
        assert_eq!(shop.annotations.len(), 1);
        namespaces.take(Event::Apply(object("shop", "disabled")));
        assert_eq!(
            label(&namespaces.watched("shop").await.expect("it")),
            "disabled"
        );
        // Another list forgets what is gone.
        namespaces.take(Event::Apply(object("bank", "enabled")));
        namespaces.take(Event::Init);
        assert!(
            namespaces.watched("bank").await.is_some(),
            "until it is complete"
        );
        namespaces.take(Event::InitDone);
        assert!(namespaces.watched("bank").await.is_none());
        namespaces.take(Event::Apply(object("bank", "enabled")));
        namespaces.take(Event::Delete(object("bank", "enabled")));
        assert!(namespaces.watched("bank").await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_the_watch_is_about_to_tell_of_is_waited_for() {
        let namespaces = Arc::new(namespaces(500, &json!({})));
        let begun = Instant::now();
        let later = Arc::clone(&namespaces);
        let telling = tokio::spawn(async move {
            tokio::time::sleep(WATCH_PATIENCE / 2).await;
            later.take(Event::Apply(object("shop", "enabled")));
        });
        assert!(namespaces.watched("shop").await.is_some());
        assert_eq!(begun.elapsed(), WATCH_PATIENCE / 2);
        telling.await.expect("it told");
        assert!(namespaces.watched("other").await.is_none());
        assert_eq!(begun.elapsed(), WATCH_PATIENCE * 3 / 2, "and no longer");
    }

    #[tokio::test]
    async fn the_api_server_is_asked() {
        let there = serde_json::to_value(object("shop", "enabled")).expect("JSON");
        let shop = namespaces(200, &there)
            .ask("shop")
            .await
            .expect("it is there");
        assert_eq!((&*shop.name, label(&shop)), ("shop", "enabled"));
        let status = |code: u16, reason: &str| {
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "reason": reason, "message": format!("it is {reason}")})
        };
        let missing = namespaces(404, &status(404, "NotFound")).ask("shop").await;
        assert_eq!(missing.err().as_deref(), Some("there is none"));
        let forbidden = namespaces(403, &status(403, "Forbidden")).ask("shop").await;
        let forbidden = forbidden.expect_err("not allowed");
        assert!(forbidden.contains("403: it is Forbidden"), "{forbidden}");
    }
}
