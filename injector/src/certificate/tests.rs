use std::sync::LazyLock;

use metrics::Gauge;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::*;

const NAME: &str = "weft-injector.weft.svc";
const DAY: Duration = Duration::from_secs(24 * 3600);

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// A Secret's data, and the root that vouches for it, PEM.
struct Made {
    data: BTreeMap<String, ByteString>,
    root: Vec<u8>,
}

impl Made {
    fn new(name: &str, not_after: SystemTime) -> Self {
        let root_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&root_key).expect("a root").pem();
        let issuer = Issuer::new(params, root_key);
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (SystemTime::now() - DAY * 30).into();
        params.not_after = not_after.into();
        let leaf = params.signed_by(&key, &issuer).expect("a leaf").pem();
        let mut data = BTreeMap::new();
        data.insert(CERTIFICATE.to_owned(), ByteString(leaf.into_bytes()));
        data.insert(KEY.to_owned(), ByteString(key.serialize_pem().into_bytes()));
        Self {
            data,
            root: root.into_bytes(),
        }
    }

    fn good() -> Self {
        Self::new(NAME, SystemTime::now() + DAY)
    }

    fn secret(&self) -> Secret {
        Secret {
            data: Some(self.data.clone()),
            ..Secret::default()
        }
    }
}

/// A configuration with webhooks that trust these.
fn configuration(bundles: &[&[u8]]) -> MutatingWebhookConfiguration {
    let webhooks: Vec<_> = bundles
        .iter()
        .enumerate()
        .map(|(index, bundle)| {
            json!({
                "name": format!("{index}.weft.dev"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"caBundle": ByteString(bundle.to_vec())},
            })
        })
        .collect();
    serde_json::from_value(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": WEBHOOK_CONFIGURATION}, "webhooks": webhooks,
    }))
    .expect("a configuration")
}

fn serving() -> Serving {
    Serving::new("weft", Arc::clone(&PROVIDER), Gauge::noop())
}

fn served(serving: &Serving) -> Option<Vec<CertificateDer<'static>>> {
    let certificate = serving.certificate.load();
    certificate.as_ref().map(|it| it.key.cert.clone())
}

#[test]
fn ready_is_whose_certificate_every_webhook_trusts() {
    let (now, made, other) = (SystemTime::now(), Made::good(), Made::good());
    let both = [&other.root[..], &made.root[..]].concat();
    let expired = Made::new(NAME, now - DAY);
    let roots = |bundles: &[&[u8]]| Some(configuration(bundles));
    for (secret, configuration, wanted) in [
        (
            None,
            None,
            &[
                "Secret weft/weft-injector-certificate: it is not there",
                "is not there; the chart",
            ][..],
        ),
        (None, roots(&[&made.root]), &["there is no certificate"]),
        (
            Some(&made),
            None,
            &["MutatingWebhookConfiguration weft-injector is not there"],
        ),
        (Some(&made), roots(&[]), &["has no webhooks"]),
        (Some(&made), roots(&[&made.root]), &[]),
        (Some(&made), roots(&[&both, &made.root]), &[]),
        (
            Some(&made),
            roots(&[&made.root, b""]),
            &["1.weft.dev cannot be called: its caBundle is empty"],
        ),
        (
            Some(&made),
            roots(&[&other.root, &other.root]),
            &["0.weft.dev", "1.weft.dev"],
        ),
        (
            Some(&made),
            roots(&[b"no PEM"]),
            &["0.weft.dev cannot be called: its caBundle has no certificate"],
        ),
        (
            Some(&expired),
            roots(&[&expired.root]),
            &["the certificate has expired"],
        ),
    ] {
        let serving = serving();
        serving.take_secret(secret.map(Made::secret).as_ref());
        serving.take_configuration(configuration.as_ref());
        let missing = serving.missing(now);
        assert_eq!(missing.len(), wanted.len(), "{missing:#?}");
        for (said, wanted) in missing.iter().zip(wanted) {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
    }
}

#[test]
fn readiness_ends_with_the_certificate() {
    let (now, made, serving) = (SystemTime::now(), Made::good(), serving());
    serving.take_secret(Some(&made.secret()));
    serving.take_configuration(Some(&configuration(&[&made.root])));
    assert_eq!(serving.missing(now + DAY / 2), Vec::<String>::new());
    assert!(serving.missing(now + DAY * 2)[0].contains("expired"));
}

#[test]
fn what_cannot_be_served_with_leaves_the_last_good_one() {
    let (made, other) = (Made::good(), Made::good());
    let serving = serving();
    serving.take_configuration(Some(&configuration(&[&made.root])));
    serving.take_secret(Some(&made.secret()));
    let good = served(&serving);
    assert!(good.is_some());
    let mut bad = vec![None, Some(Secret::default())];
    for key in [CERTIFICATE, KEY] {
        for content in [
            None,
            Some(ByteString(b"nothing".to_vec())),
            other.data.get(key).cloned(),
        ] {
            let mut secret = made.secret();
            let data = secret.data.as_mut().expect("data");
            match content {
                Some(content) => data.insert(key.to_owned(), content),
                None => data.remove(key),
            };
            bad.push(Some(secret));
        }
    }
    bad.push(Some(
        Made::new("weft-injector.other.svc", SystemTime::now() + DAY).secret(),
    ));
    for secret in bad {
        serving.take_secret(secret.as_ref());
        assert_eq!(served(&serving), good, "{secret:?}");
        assert!(serving.known.lock().secret.is_some());
        assert_eq!(
            serving.missing(SystemTime::now()),
            Vec::<String>::new(),
            "still served"
        );
    }
    serving.take_secret(Some(&other.secret()));
    assert_ne!(served(&serving), good, "a good one replaces it");
    assert_eq!(serving.known.lock().secret, None);
    assert!(
        !serving.missing(SystemTime::now()).is_empty(),
        "which nobody trusts yet"
    );
    serving.take_configuration(None);
    assert!(serving.missing(SystemTime::now())[0].contains("is not there"));
}
