//! What is served with, and whether the API server trusts it.
//!
//! The certificate is in Secret [`WEBHOOK_SECRET`], which the control plane or somebody else writes. One
//! that can be served with replaces the former for the next handshake; connections go on. One that
//! cannot, and a Secret that is deleted, leave the last good one in force.
//!
//! Ready is only who has a certificate that verifies, now, against `caBundle` of every webhook of the
//! configuration: whoever is not would make calls fail that another replica can answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use metrics::Gauge;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use weft_proto::names::cluster::{WEBHOOK_CONFIGURATION, WEBHOOK_SECRET, WEBHOOK_SERVICE};

/// Keys of the Secret, as its type `kubernetes.io/tls` has them.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Certificates in one chain or bundle that are looked at.
const MAX_CERTIFICATES: usize = 32;

/// A certificate with its key and those that vouch for it.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    not_after: SystemTime,
}

/// A webhook of the configuration, and what it trusts, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Webhook {
    name: String,
    ca_bundle: Vec<u8>,
}

/// What is served with, and what is known about who trusts it.
pub struct Serving {
    namespace: String,
    provider: Arc<CryptoProvider>,
    certificate: ArcSwapOption<Certificate>,
    known: Mutex<Known>,
    expiry: Gauge,
}

#[derive(Default)]
struct Known {
    /// What is wrong with the Secret; `None` while it is what is served.
    secret: Option<String>,
    /// Webhooks of the configuration; `None` where there is none.
    webhooks: Option<Vec<Webhook>>,
}

impl Certificate {
    /// Reads a Secret's data, and proves that it can be served with as `name`. Whether it has expired is
    /// another question.
    pub fn read(
        data: &BTreeMap<String, ByteString>,
        name: &str,
        provider: &CryptoProvider,
    ) -> Result<Self, String> {
        let part = |key: &str| {
            let content = data.get(key).map(|content| content.0.as_slice());
            content.ok_or_else(|| format!("{key} is missing"))
        };
        let chain =
            certificates(part(CERTIFICATE)?).map_err(|why| format!("{CERTIFICATE} {why}"))?;
        let key = PrivateKeyDer::from_pem_slice(part(KEY)?)
            .map_err(|_| format!("{KEY} is no private key in PEM"))?;
        let leaf = chain[0].clone();
        let key = CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| format!("key and certificate do not fit: {error}"))?;
        let server = ServerName::try_from(name).map_err(|error| error.to_string())?;
        EndEntityCert::try_from(&leaf)
            .and_then(|leaf| leaf.verify_is_valid_for_subject_name(&server))
            .map_err(|error| format!("the certificate is not for {name}: {error}"))?;
        Ok(Self {
            key: Arc::new(key),
            not_after: not_after(&leaf)?,
        })
    }

    /// When it expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Checks it as whoever trusts this bundle does.
    fn verify(&self, ca_bundle: &[u8], now: SystemTime) -> Result<(), String> {
        if ca_bundle.is_empty() {
            return Err("its caBundle is empty; the control plane writes it".to_owned());
        }
        let roots = certificates(ca_bundle).map_err(|why| format!("its caBundle {why}"))?;
        let unfit = |error: webpki::Error| format!("it does not trust the certificate: {error}");
        // A root that cannot be read vouches for nothing; the others may.
        let anchors = roots
            .iter()
            .filter_map(|root| anchor_from_trusted_cert(root).ok());
        let anchors: Vec<_> = anchors.collect();
        let (leaf, between) = self
            .key
            .cert
            .split_first()
            .ok_or("there is no certificate")?;
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        EndEntityCert::try_from(leaf)
            .and_then(|leaf| {
                leaf.verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    &anchors,
                    between,
                    UnixTime::since_unix_epoch(since_epoch),
                    KeyUsage::server_auth(),
                    None,
                    None,
                )
                .map(|_| ())
            })
            .map_err(unfit)
    }
}

impl Serving {
    /// Nothing yet. `expiry` is a gauge: unix time.
    pub fn new(namespace: &str, provider: Arc<CryptoProvider>, expiry: Gauge) -> Self {
        let known = Known {
            secret: Some("it was not read yet".to_owned()),
            webhooks: None,
        };
        Self {
            namespace: namespace.to_owned(),
            provider,
            certificate: ArcSwapOption::empty(),
            known: Mutex::new(known),
            expiry,
        }
    }

    /// What the Secret is now; `None` where there is none.
    pub fn take_secret(&self, secret: Option<&Secret>) {
        let name = format!("{WEBHOOK_SERVICE}.{}.svc", self.namespace);
        let read = match secret {
            None => Err("it is not there; the control plane makes it".to_owned()),
            Some(secret) => {
                let empty = BTreeMap::new();
                let data = secret.data.as_ref().unwrap_or(&empty);
                Certificate::read(data, &name, &self.provider)
            }
        };
        let trouble = match read {
            Ok(certificate) => {
                let not_after = certificate.not_after();
                let seconds = not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
                self.expiry.set(seconds.as_secs_f64());
                let new = certificate.key.cert.clone();
                let old = self.certificate.swap(Some(Arc::new(certificate)));
                if old.is_none_or(|old| old.key.cert != new) {
                    tracing::info!(expires = seconds.as_secs(), "a certificate is served");
                }
                None
            }
            Err(why) => {
                let keeps = self.certificate.load().is_some();
                tracing::warn!(
                    secret = WEBHOOK_SECRET,
                    why,
                    "the Secret cannot be served with; {}",
                    if keeps {
                        "the last good certificate stays"
                    } else {
                        "there is no certificate"
                    },
                );
                Some(why)
            }
        };
        self.known.lock().secret = trouble;
    }

    /// What the configuration is now; `None` where there is none.
    pub fn take_configuration(&self, configuration: Option<&MutatingWebhookConfiguration>) {
        let webhooks = configuration.map(|configuration| {
            let webhooks = configuration.webhooks.iter().flatten();
            webhooks
                .map(|webhook| Webhook {
                    name: webhook.name.clone(),
                    ca_bundle: match &webhook.client_config.ca_bundle {
                        Some(ByteString(bundle)) => bundle.clone(),
                        None => Vec::new(),
                    },
                })
                .collect()
        });
        self.known.lock().webhooks = webhooks;
    }

    /// What is missing before the API server can have pods patched here; nothing where it can.
    pub fn missing(&self, now: SystemTime) -> Vec<String> {
        let (secret, webhooks) = {
            let known = self.known.lock();
            (known.secret.clone(), known.webhooks.clone())
        };
        let mut missing = Vec::new();
        let certificate = self.certificate.load();
        match &*certificate {
            None => missing.push(format!(
                "there is no certificate: Secret {}/{WEBHOOK_SECRET}: {}",
                self.namespace,
                secret.unwrap_or_default()
            )),
            Some(certificate) if certificate.not_after <= now => {
                missing.push("the certificate has expired; the control plane renews it".to_owned());
            }
            Some(_) => {}
        }
        let Some(webhooks) = webhooks else {
            missing.push(format!(
                "MutatingWebhookConfiguration {WEBHOOK_CONFIGURATION} is not there; the chart brings it"
            ));
            return missing;
        };
        if webhooks.is_empty() {
            missing.push(format!(
                "MutatingWebhookConfiguration {WEBHOOK_CONFIGURATION} has no webhooks"
            ));
        }
        // That nobody trusts an expired one need not be said for each.
        if let Some(certificate) = certificate.as_ref().filter(|_| missing.is_empty()) {
            for Webhook { name, ca_bundle } in webhooks {
                if let Err(why) = certificate.verify(&ca_bundle, now) {
                    missing.push(format!("webhook {name} cannot be called: {why}"));
                }
            }
        }
        missing
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificate = self.certificate.load();
        certificate
            .as_ref()
            .map(|certificate| Arc::clone(&certificate.key))
    }
}

/// Keys are not shown.
impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

/// At least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let all = CertificateDer::pem_slice_iter(pem).take(MAX_CERTIFICATES);
    let all: Result<Vec<_>, _> = all.collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("has no certificate in PEM"),
        Err(_) => Err("is not PEM"),
    }
}

fn not_after(der: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let seconds = certificate.validity().not_after.timestamp();
    Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
