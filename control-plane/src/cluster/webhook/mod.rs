//! The admission webhook's certificate, and that the API server trusts it.
//!
//! The replica that leads makes and renews Secret [`WEBHOOK_SECRET`], and keeps `caBundle` of every webhook
//! of [`WEBHOOK_CONFIGURATION`] equal to the roots in it. `certificate` says in which order, so that no
//! call fails during a renewal. Both are looked at once per period, and written on difference only, over
//! what was read. Where there is no configuration, nothing is done about it until it appears.
//!
//! * A Secret that is deleted, or was spoiled, is made anew at once, and nothing of the former is trusted
//!   any longer: calls fail until the webhook has read it and the API server the new root, for seconds.
//! * A Secret without the label of what Weft makes is somebody else's, cert-manager's for example: only
//!   its `ca.crt` is published.

mod certificate;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use metrics::Gauge;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use weft_proto::names::cluster::{
    MANAGED_BY, MANAGED_BY_LABEL, WEBHOOK_CONFIGURATION, WEBHOOK_SECRET,
};

use super::call::{CallError, Pauses, call};
use super::wiped::Wiped;
use super::{Leading, until_leading, until_led_by_another};
use certificate::{Material, ROOTS, Step};

/// When what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a certificate lives; it is renewed at two thirds.
    pub life: Duration,
    /// How long new roots are published before a certificate of theirs is served: API servers learn of a
    /// changed configuration by a watch.
    pub settle: Duration,
    /// How often Secret and configuration are looked at.
    pub period: Duration,
}

/// Keeps certificate and configuration.
pub struct Webhook {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    namespace: String,
    timing: Timing,
    leading: Leading,
    expiry: Gauge,
    /// What every webhook is known to trust, and since when.
    published: Option<(Vec<u8>, Instant)>,
}

/// Why the webhook's certificate is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("no certificate could be made: {0}")]
    Making(String),
    #[error(
        "Secret {WEBHOOK_SECRET} is not labelled {MANAGED_BY_LABEL}={MANAGED_BY}, so it is not renewed, and \
         its {ROOTS} is missing: let whoever keeps it write the root there, or delete it"
    )]
    ForeignWithoutRoot,
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            life: Duration::from_secs(90 * 24 * 3600),
            settle: Duration::from_secs(30),
            period: Duration::from_secs(5),
        }
    }
}

impl Webhook {
    /// For the webhook in the control plane's namespace. `expiry` is a gauge: unix time.
    pub fn new(
        client: Client,
        namespace: &str,
        timing: Timing,
        leading: Leading,
        expiry: Gauge,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all(client),
            namespace: namespace.to_owned(),
            timing,
            leading,
            expiry,
            published: None,
        }
    }

    /// Runs until the process ends.
    pub async fn run(mut self) {
        let mut leading = self.leading.clone();
        while until_leading(&mut leading).await {
            self.published = None;
            tokio::select! {
                () = self.keep() => {}
                () = until_led_by_another(&mut leading) => {}
            }
        }
    }

    async fn keep(&mut self) {
        let mut pauses = Pauses::new();
        loop {
            let pause = match self.round().await {
                Ok(()) => {
                    pauses.reset();
                    self.timing.period
                }
                Err(Trouble::Call(error)) if error.is_conflict() => self.timing.period,
                Err(error) => {
                    tracing::warn!(%error, "the webhook's certificate is not as it should be");
                    pauses.next()
                }
            };
            sleep(pause).await;
        }
    }

    /// Looks once, and writes what differs.
    async fn round(&mut self) -> Result<(), Trouble> {
        let secret = call(self.secrets.get_opt(WEBHOOK_SECRET)).await?;
        let Some(secret) = secret.map(Wiped::from) else {
            return self.replace(None).await;
        };
        if !is_ours(&secret) {
            let roots = secret.data.as_ref().and_then(|data| data.get(ROOTS));
            let roots = roots.filter(|roots| !roots.0.is_empty());
            return self
                .publish(&roots.ok_or(Trouble::ForeignWithoutRoot)?.0)
                .await;
        }
        let material = Material::read(
            secret.data.as_ref().unwrap_or(&Default::default()),
            &self.namespace,
        );
        let mut material = match material {
            Ok(material) => material,
            Err(reason) => {
                tracing::warn!(
                    reason,
                    secret = WEBHOOK_SECRET,
                    "the webhook's certificate is made anew"
                );
                return self.replace(Some(secret)).await;
            }
        };
        self.publish(&material.ca_bundle()).await?;

        let now = SystemTime::now();
        let step = material.due(now, self.trusted(), self.timing.settle);
        match step {
            Step::Keep => {
                self.show(&material);
                return Ok(());
            }
            Step::Announce => material
                .announce(&self.namespace, self.timing.life, now)
                .map_err(Trouble::Making)?,
            Step::Switch => material.switch(),
            Step::Prune => material.prune(now),
        }
        self.write(Some(secret), &material).await?;
        tracing::info!(did = ?step, "the webhook's certificate");
        self.publish(&material.ca_bundle()).await
    }

    /// A new certificate, whatever there was.
    async fn replace(&mut self, former: Option<Wiped>) -> Result<(), Trouble> {
        let made = Material::make(&self.namespace, self.timing.life, SystemTime::now());
        let material = made.map_err(Trouble::Making)?;
        self.write(former, &material).await?;
        tracing::info!("a certificate for the webhook was made");
        self.publish(&material.ca_bundle()).await
    }

    /// Writes the Secret over what was read.
    async fn write(&self, former: Option<Wiped>, material: &Material) -> Result<(), CallError> {
        let params = PostParams::default();
        if let Some(mut secret) = former {
            secret.put(material.data());
            let written = self.secrets.replace(WEBHOOK_SECRET, &params, &secret);
            call(written).await.map(Wiped::from)?;
        } else {
            let secret = Wiped::from(Secret {
                metadata: ObjectMeta {
                    name: Some(WEBHOOK_SECRET.to_owned()),
                    labels: Some([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                type_: Some("kubernetes.io/tls".to_owned()),
                data: Some(material.data()),
                ..Secret::default()
            });
            let written = self.secrets.create(&params, &secret);
            call(written).await.map(Wiped::from)?;
        }
        self.show(material);
        Ok(())
    }

    /// Makes every webhook trust these roots.
    async fn publish(&mut self, roots: &[u8]) -> Result<(), Trouble> {
        let found = call(self.configurations.get_opt(WEBHOOK_CONFIGURATION)).await?;
        let Some(configuration) = found else {
            self.published = None;
            return Ok(());
        };
        if let Some(patch) = difference(&configuration, roots) {
            self.published = None;
            let patch: Patch<()> = Patch::Json(serde_json::from_value(patch)?);
            let params = PatchParams::default();
            call(
                self.configurations
                    .patch(WEBHOOK_CONFIGURATION, &params, &patch),
            )
            .await?;
            tracing::info!("the webhooks' caBundle was written");
        }
        if self
            .published
            .as_ref()
            .is_none_or(|(known, _)| known != roots)
        {
            self.published = Some((roots.to_vec(), Instant::now()));
        }
        Ok(())
    }

    /// How long every webhook has trusted what was last published. Where there is none, nobody calls,
    /// and there is nobody to wait for.
    fn trusted(&self) -> Duration {
        match &self.published {
            Some((_, since)) => since.elapsed(),
            None => Duration::MAX,
        }
    }

    fn show(&self, material: &Material) {
        let not_after = material.not_after().duration_since(UNIX_EPOCH);
        self.expiry.set(not_after.unwrap_or_default().as_secs_f64());
    }
}

fn is_ours(secret: &Secret) -> bool {
    let labels = secret.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY_LABEL))
        .is_some_and(|label| label == MANAGED_BY)
}

/// The patch that makes every webhook trust these roots, and that fails where the configuration is
/// another by then. `None` where they do.
fn difference(configuration: &MutatingWebhookConfiguration, roots: &[u8]) -> Option<Value> {
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let mut writes: Vec<Value> = webhooks
        .filter(|(_, webhook)| {
            let known = webhook.client_config.ca_bundle.as_ref();
            known.is_none_or(|known| known.0 != roots)
        })
        .flat_map(|(index, webhook)| {
            let at = format!("/webhooks/{index}");
            [
                json!({"op": "test", "path": format!("{at}/name"), "value": webhook.name}),
                json!({
                    "op": "add",
                    "path": format!("{at}/clientConfig/caBundle"),
                    "value": ByteString(roots.to_vec()),
                }),
            ]
        })
        .collect();
    if writes.is_empty() {
        return None;
    }
    let version = &configuration.metadata.resource_version;
    writes.insert(
        0,
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}),
    );
    Some(writes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<Value> = bundles
            .iter()
            .enumerate()
            .map(|(index, bundle)| {
                let mut config = json!({"service": {"name": "weft-injector", "namespace": "weft"}});
                if let Some(bundle) = bundle {
                    config["caBundle"] = json!(ByteString(bundle.as_bytes().to_vec()));
                }
                json!({
                    "name": format!("{index}.weft.dev"), "clientConfig": config,
                    "admissionReviewVersions": ["v1"], "sideEffects": "None",
                })
            })
            .collect();
        let object = json!({
            "metadata": {"name": WEBHOOK_CONFIGURATION, "resourceVersion": "7"},
            "webhooks": webhooks,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn only_webhooks_that_trust_something_else_are_patched() {
        let same = configuration(&[Some("roots"), Some("roots")]);
        assert_eq!(difference(&same, b"roots"), None);
        assert_eq!(difference(&configuration(&[]), b"roots"), None);
        let patch = difference(
            &configuration(&[Some("roots"), None, Some("old")]),
            b"roots",
        );
        let expected = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
            {"op": "test", "path": "/webhooks/1/name", "value": "1.weft.dev"},
            {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": "cm9vdHM="},
            {"op": "test", "path": "/webhooks/2/name", "value": "2.weft.dev"},
            {"op": "add", "path": "/webhooks/2/clientConfig/caBundle", "value": "cm9vdHM="},
        ]);
        assert_eq!(patch, Some(expected));
    }
}
