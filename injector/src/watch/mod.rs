//! What the cluster says: namespaces, the Secret with the certificate, and what the API server trusts.
//!
//! A watch that fails keeps what is known in force and is tried again, later and later up to
//! [`LONGEST_PAUSE`], for ever. A missing permission is such a failure too.

mod hearing;
pub mod namespaces;
mod progress;
#[cfg(test)]
pub(crate) mod testing;

use std::error::Error;
use std::fmt::Debug;
use std::iter::successors;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{DefaultBackoff, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use weft_proto::names::cluster::{WEBHOOK_CONFIGURATION, WEBHOOK_SECRET};

use crate::certificate::Serving;
use hearing::hearing;
use namespaces::Namespaces;
pub use progress::{Progress, Watch};

/// The longest time between two tries of a watch. An API server that is back has all that was missed.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Seconds after which the API server is to end a watch, which then goes on where it was. A
/// connection that has died without a word is noticed by the same time.
const WATCH_SECONDS: u32 = 60;
/// Objects that are asked for at once in a list.
const PAGE: u32 = 500;

const NAMESPACES: &str = "namespaces";
const SECRETS: &str = "secrets";
const CONFIGURATIONS: &str = "mutatingwebhookconfigurations";

/// Follows everything that matters until it is dropped.
pub async fn follow_all(
    client: Client,
    namespace: &str,
    namespaces: &Namespaces,
    serving: &Serving,
    progress: &Progress,
) {
    for kind in [NAMESPACES, SECRETS, CONFIGURATIONS] {
        progress.begun(kind);
    }
    let heard = |kind| hearing(client.clone(), kind, progress.clone());

    let all: Api<PartialObjectMeta<Namespace>> = Api::all(heard(NAMESPACES));
    let of_namespaces = follow(all, NAMESPACES, "", progress, |event| {
        namespaces.take(event);
    });

    let secrets: Api<Secret> = Api::namespaced(heard(SECRETS), namespace);
    let mut secret = One::default();
    let of_secret = follow(secrets, SECRETS, WEBHOOK_SECRET, progress, |event| {
        secret.take(event, |secret| serving.take_secret(secret));
    });

    let configurations: Api<MutatingWebhookConfiguration> = Api::all(heard(CONFIGURATIONS));
    let mut configuration = One::default();
    let name = WEBHOOK_CONFIGURATION;
    let of_configuration = follow(configurations, CONFIGURATIONS, name, progress, |event| {
        configuration.take(event, |now| serving.take_configuration(now));
    });
    tokio::join!(of_namespaces, of_secret, of_configuration);
}

/// The one object of a watch by name, while it is listed.
struct One<K>(Option<K>);

impl<K> Default for One<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K> One<K> {
    /// Tells what there is of it after the event, where that is known for sure.
    fn take(&mut self, event: Event<K>, tell: impl FnOnce(Option<&K>)) {
        match event {
            Event::Init => self.0 = None,
            Event::InitApply(object) => self.0 = Some(object),
            Event::InitDone => tell(self.0.take().as_ref()),
            Event::Apply(object) => tell(Some(&object)),
            Event::Delete(_) => tell(None),
        }
    }
}

/// Lists, watches, and begins anew where that is needed. `name` selects one object, or all where it is
/// empty.
async fn follow<K>(
    api: Api<K>,
    kind: &'static str,
    name: &str,
    progress: &Progress,
    mut take: impl FnMut(Event<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut config = watcher::Config::default()
        .timeout(WATCH_SECONDS)
        .page_size(PAGE);
    if !name.is_empty() {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let events = watcher(api, config).backoff(Pauses::default());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let is_complete = matches!(event, Event::InitDone);
                take(event);
                if is_complete {
                    progress.synced(kind);
                }
            }
            Err(error) => {
                let error = described(&error);
                if progress.failed(kind, error.clone()) {
                    tracing::warn!(
                        kind,
                        error,
                        "the watch is down; what is known stays in force"
                    );
                }
            }
        }
    }
}

/// The error with what is most likely wrong, for people.
fn described(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            let hint = match status.code {
                403 => ": apply the roles that weft-injector --print-rbac prints",
                _ => "",
            };
            format!(
                "the API server says {}: {}{hint}",
                status.code, status.message
            )
        }
        other => with_cause(other),
    }
}

/// The error, and what is at the bottom of it where it does not say so itself.
fn with_cause(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    let cause = successors(error.source(), |error| (*error).source()).last();
    match cause.map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

/// kube's pauses up to a bound of ours, with up to a quarter less by chance there, so that replicas do not
/// come back all at once.
#[derive(Default)]
struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let bound = LONGEST_PAUSE.mul_f64(1.0 - fastrand::f64() / 4.0);
        self.0.next().map(|pause| pause.min(bound))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}
