//! The webhook's certificate and who vouches for it: pure.
//!
//! Every certificate has an authority of its own, whose key is forgotten once it has signed: there is
//! nothing that could sign another. A renewal goes in steps, so that at every moment whoever calls the
//! webhook trusts what it shows:
//!
//! 1. **Announce**, at two thirds of the life: the next certificate and its key are put aside, its root
//!    joins the roots. What is served stays.
//! 2. The roots are published, old and new.
//! 3. **Switch**, once they have been published for a while: the next certificate is served.
//! 4. The old root leaves when it has expired, with the last certificate that it signed.
//!
//! Every state between the steps stands in the Secret, so that another leader goes on where one was
//! killed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PublicKeyData as _,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use weft_proto::names::cluster::WEBHOOK_SERVICE;
use zeroize::Zeroizing;

use crate::identity::{BACKDATING, PrivateKey, TrustBundle, serial, set_validity};

/// Keys of the Secret, as its type `kubernetes.io/tls` has them.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// The roots.
pub(super) const ROOTS: &str = "ca.crt";
/// The certificate that is put aside, and its key.
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
/// Roots that are kept at most: those of now and next, and of renewals that were forced.
const MAX_ROOTS: usize = 4;

/// A certificate with its key, in PEM as the Secret has them.
#[derive(Clone)]
struct Pair {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// What the Secret holds.
#[derive(Clone)]
pub(super) struct Material {
    serving: Pair,
    next: Option<Pair>,
    /// The newest first.
    roots: Vec<CertificateDer<'static>>,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing for now.
    Keep,
    /// Put the next certificate aside.
    Announce,
    /// Serve it.
    Switch,
    /// Forget roots that have expired.
    Prune,
}

impl Material {
    /// A first certificate for the webhook of this namespace.
    pub(super) fn make(namespace: &str, life: Duration, now: SystemTime) -> Result<Self, String> {
        let (serving, root) = make(namespace, life, now)?;
        Ok(Self {
            serving,
            next: None,
            roots: vec![root],
        })
    }

    /// Reads a Secret, and proves that it can be served with: whose name it is, that key and root fit.
    pub(super) fn read(
        data: &BTreeMap<String, ByteString>,
        namespace: &str,
    ) -> Result<Self, String> {
        let part = |key: &str| data.get(key).map(|content| content.0.as_slice());
        let roots = part(ROOTS).and_then(TrustBundle::from_pem);
        let roots = roots.ok_or_else(|| format!("{ROOTS} is missing or not PEM"))?;
        let roots = roots.roots.to_vec();
        let serving = Pair::read(part(CERTIFICATE), part(KEY), &roots, namespace)?;
        // One that does not fit is forgotten: the next renewal makes another.
        let next = Pair::read(part(NEXT_CERTIFICATE), part(NEXT_KEY), &roots, namespace).ok();
        Ok(Self {
            serving,
            next,
            roots,
        })
    }

    /// What the Secret is to hold.
    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::new();
        let mut put = |key: &str, content: &[u8]| {
            data.insert(key.to_owned(), ByteString(content.to_vec()));
        };
        put(CERTIFICATE, &self.serving.certificate);
        put(KEY, &self.serving.key);
        put(ROOTS, &self.ca_bundle());
        if let Some(next) = &self.next {
            put(NEXT_CERTIFICATE, &next.certificate);
            put(NEXT_KEY, &next.key);
        }
        data
    }

    /// What callers are to trust, PEM.
    pub(super) fn ca_bundle(&self) -> Vec<u8> {
        let roots = self.roots.clone().into();
        TrustBundle { roots }.to_pem().into_bytes()
    }

    /// When what is served expires.
    pub(super) fn not_after(&self) -> SystemTime {
        self.serving.not_after
    }

    /// What is due, where callers have trusted all roots for so long.
    pub(super) fn due(&self, now: SystemTime, trusted: Duration, settle: Duration) -> Step {
        let expired = self.serving.not_after <= now;
        match &self.next {
            Some(next) if next.not_after <= now => Step::Announce,
            // Nobody trusts what is served: it cannot get worse.
            Some(_) if expired => Step::Switch,
            Some(_) if trusted >= settle => Step::Switch,
            None if self.serving.renewal_due() <= now => Step::Announce,
            None if self.roots.iter().any(|root| has_expired(root, now)) => Step::Prune,
            Some(_) | None => Step::Keep,
        }
    }

    /// The first step of a renewal.
    pub(super) fn announce(
        &mut self,
        namespace: &str,
        life: Duration,
        now: SystemTime,
    ) -> Result<(), String> {
        let (next, root) = make(namespace, life, now)?;
        self.next = Some(next);
        self.roots.insert(0, root);
        self.prune(now);
        Ok(())
    }

    /// The last step of a renewal.
    pub(super) fn switch(&mut self) {
        if let Some(next) = self.next.take() {
            self.serving = next;
        }
    }

    /// Forgets roots that have expired, and the oldest where there are too many.
    pub(super) fn prune(&mut self, now: SystemTime) {
        self.roots.retain(|root| !has_expired(root, now));
        self.roots.truncate(MAX_ROOTS);
    }
}

impl Pair {
    fn read(
        certificate: Option<&[u8]>,
        key: Option<&[u8]>,
        roots: &[CertificateDer<'_>],
        namespace: &str,
    ) -> Result<Self, String> {
        let (Some(certificate), Some(key)) = (certificate, key) else {
            return Err("certificate or key is missing".to_owned());
        };
        let der = CertificateDer::from_pem_slice(certificate)
            .map_err(|_| "the certificate is not PEM".to_owned())?;
        let key_pair =
            PrivateKey::from_pkcs8_pem(key).ok_or("the key is not a P-256 key in PKCS#8 in PEM")?;
        let (not_before, not_after, public_key) = validity(&der)?;
        if public_key != key_pair.der_bytes() {
            return Err("the key is not the certificate's".to_owned());
        }
        let pair = Self {
            certificate: certificate.to_vec(),
            key: Zeroizing::new(key.to_vec()),
            not_before,
            not_after,
        };
        // As of when it was made: whether it has expired by now is another question.
        verify(&der, roots, namespace, not_before)?;
        Ok(pair)
    }

    fn renewal_due(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before);
        self.not_before + life.unwrap_or_default() * 2 / 3
    }
}

/// A certificate for the webhook's Service, with a root that vouches for it and for nothing else.
fn make(
    namespace: &str,
    life: Duration,
    now: SystemTime,
) -> Result<(Pair, CertificateDer<'static>), String> {
    let text = |e: rcgen::Error| e.to_string();
    // Never further back than the life is long.
    let (not_before, not_after) = (now - BACKDATING.min(life), now + life);

    let root_key = PrivateKey::generate().map_err(text)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Weft webhook root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(serial()?);
    set_validity(&mut params, not_before, not_after);
    let root = params.self_signed(&root_key).map_err(text)?;
    let issuer = Issuer::new(params, root_key);

    let key = PrivateKey::generate().map_err(text)?;
    let mut params = CertificateParams::new(dns_names(namespace)).map_err(text)?;
    params.distinguished_name = name("Weft webhook");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    set_validity(&mut params, not_before, not_after);
    let leaf = params.signed_by(&key, &issuer).map_err(text)?;

    let (not_before, not_after, _) = validity(leaf.der())?;
    let pair = Pair {
        certificate: leaf.pem().into_bytes(),
        key: key.to_pem(),
        not_before,
        not_after,
    };
    Ok((pair, root.der().clone()))
}

/// The name by which API servers call it, and the whole one.
fn dns_names(namespace: &str) -> [String; 2] {
    let service = format!("{WEBHOOK_SERVICE}.{namespace}.svc");
    [service.clone(), service + ".cluster.local"]
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Weft");
    name.push(DnType::CommonName, common);
    name
}

/// From when to when, and for which public key, raw.
fn validity(der: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime, Vec<u8>), String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der)
        .map_err(|e| format!("a certificate cannot be read: {e}"))?;
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = certificate.validity();
    Ok((
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
        certificate.public_key().subject_public_key.data.to_vec(),
    ))
}

fn has_expired(root: &CertificateDer<'_>, now: SystemTime) -> bool {
    validity(root).is_ok_and(|(_, not_after, _)| not_after <= now)
}

/// Checks a certificate as the API server will.
fn verify(
    leaf: &CertificateDer<'_>,
    roots: &[CertificateDer<'_>],
    namespace: &str,
    now: SystemTime,
) -> Result<(), String> {
    let unfit = |e: webpki::Error| format!("root and certificate do not fit: {e}");
    let anchors: Result<Vec<_>, _> = roots.iter().map(anchor_from_trusted_cert).collect();
    let leaf = EndEntityCert::try_from(leaf).map_err(unfit)?;
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    leaf.verify_for_usage(
        &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
        &anchors.map_err(unfit)?,
        &[],
        UnixTime::since_unix_epoch(since_epoch),
        KeyUsage::server_auth(),
        None,
        None,
    )
    .map_err(unfit)?;
    for name in dns_names(namespace) {
        let server = ServerName::try_from(name.as_str()).map_err(|e| e.to_string())?;
        leaf.verify_is_valid_for_subject_name(&server)
            .map_err(|_| format!("the certificate is not for {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
    const SETTLE: Duration = Duration::from_secs(30);

    fn serves(material: &Material, trusted: &[u8], now: SystemTime) -> Result<(), String> {
        let roots = TrustBundle::from_pem(trusted).unwrap().roots;
        let leaf = CertificateDer::from_pem_slice(&material.serving.certificate).unwrap();
        verify(&leaf, &roots, "weft", now)
    }

    #[test]
    fn what_is_made_can_be_served_with_and_read_back() {
        let now = SystemTime::now();
        let material = Material::make("weft", LIFE, now).unwrap();
        serves(&material, &material.ca_bundle(), now).unwrap();
        serves(&material, &material.ca_bundle(), now + LIFE - DAY).unwrap();
        assert!(serves(&material, &material.ca_bundle(), now + LIFE + DAY).is_err());
        let data = material.data();
        assert_eq!(
            data.keys().collect::<Vec<_>>(),
            [ROOTS, CERTIFICATE, KEY],
            "nothing is put aside"
        );
        assert_eq!(Material::read(&data, "weft").unwrap().data(), data);
        let other = Material::read(&data, "other").err().unwrap();
        assert!(other.contains("weft-injector.other.svc"), "{other}");
    }

    #[test]
    fn what_does_not_fit_is_not_served() {
        let now = SystemTime::now();
        let good = Material::make("weft", LIFE, now).unwrap().data();
        let other = Material::make("weft", LIFE, now).unwrap().data();
        for key in [CERTIFICATE, KEY, ROOTS] {
            let mut mixed = good.clone();
            mixed.insert(key.to_owned(), other[key].clone());
            assert!(Material::read(&mixed, "weft").is_err(), "{key} of another");
            mixed.insert(key.to_owned(), ByteString(b"nothing".to_vec()));
            assert!(Material::read(&mixed, "weft").is_err(), "{key} spoiled");
            mixed.remove(key);
            assert!(Material::read(&mixed, "weft").is_err(), "no {key}");
        }
    }

    #[test]
    fn at_every_step_of_a_renewal_callers_trust_what_is_served() {
        let start = SystemTime::now();
        let mut material = Material::make("weft", LIFE, start).unwrap();
        let mut published = material.ca_bundle();
        let old = published.clone();
        let due = |material: &Material, now, trusted| material.due(now, trusted, SETTLE);
        assert_eq!(due(&material, start + 59 * DAY, Duration::ZERO), Step::Keep);
        let now = start + 61 * DAY;
        assert_eq!(due(&material, now, LIFE), Step::Announce);

        material.announce("weft", LIFE, now).unwrap();
        serves(&material, &published, now).unwrap();
        // Through the Secret, as another leader would find it.
        let mut material = Material::read(&material.data(), "weft").unwrap();
        assert_eq!(
            due(&material, now, Duration::ZERO),
            Step::Keep,
            "not published yet"
        );
        published = material.ca_bundle();
        serves(&material, &published, now).unwrap();
        assert_eq!(due(&material, now, SETTLE / 2), Step::Keep);
        assert_eq!(due(&material, now, SETTLE), Step::Switch);

        material.switch();
        serves(&material, &published, now).unwrap();
        assert!(
            serves(&material, &old, now).is_err(),
            "it is another root's"
        );
        let mut material = Material::read(&material.data(), "weft").unwrap();
        assert_eq!(due(&material, now, LIFE), Step::Keep);
        assert_eq!(material.roots.len(), 2);

        let now = start + LIFE + DAY;
        assert_eq!(due(&material, now, Duration::ZERO), Step::Prune);
        material.prune(now);
        assert_eq!(material.roots.len(), 1);
        serves(&material, &material.ca_bundle(), now).unwrap();
        assert_eq!(due(&material, now, Duration::ZERO), Step::Keep);
    }

    #[test]
    fn after_a_long_absence_nobody_waits() {
        let start = SystemTime::now();
        let mut material = Material::make("weft", LIFE, start).unwrap();
        let now = start + 100 * DAY;
        assert_eq!(material.due(now, Duration::ZERO, SETTLE), Step::Announce);
        material.announce("weft", LIFE, now).unwrap();
        assert_eq!(material.due(now, Duration::ZERO, SETTLE), Step::Switch);
        assert_eq!(material.roots.len(), 1, "what has expired is no root");
        // And one that was put aside too long ago is made again.
        assert_eq!(
            material.due(now + LIFE + DAY, Duration::ZERO, SETTLE),
            Step::Announce
        );
    }

    #[test]
    fn roots_are_bounded() {
        let now = SystemTime::now();
        let mut material = Material::make("weft", LIFE, now).unwrap();
        for _ in 0..10 {
            material.announce("weft", LIFE, now).unwrap();
        }
        assert_eq!(material.roots.len(), MAX_ROOTS);
    }
}
