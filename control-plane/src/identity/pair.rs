//! A root and an issuer with their keys, and what is to be true of certificates that sign others.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use super::hex;
use super::make::trust_domain_uri;
use super::private::PrivateKey;
use super::signer::Signer;

/// A private key in PKCS#8. It has no textual form, and is overwritten when it is dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<Vec<u8>>);

/// A root and an issuer under it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The root's certificate.
    pub root: CertificateDer<'static>,
    /// Its key.
    pub root_key: Key,
    /// The issuer's certificate.
    pub issuer: CertificateDer<'static>,
    /// Its key.
    pub issuer_key: Key,
}

/// SHA-256 of a certificate: what tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Key {
    pub(super) fn new(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Fingerprint {
    /// That of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = digest(&SHA256, certificate);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Pair {
    /// Whether the parts fit each other and the trust domain, and are valid now. Why not, in words without
    /// anything secret.
    pub(super) fn check(&self, trust_domain: &str, now: SystemTime) -> Result<(), String> {
        check_root(&self.root, self.root_key.der(), trust_domain)?;
        if !has_key(&self.issuer, self.issuer_key.der())? {
            return Err("the issuer's key is not its certificate's".to_owned());
        }
        let key = PrivateKey::from_pkcs8(self.issuer_key.der())?;
        let signer = Signer::new(vec![self.issuer.clone()], key)?;
        signer
            .prove(trust_domain, std::slice::from_ref(&self.root), now)
            .map_err(|e| format!("root, issuer and keys do not fit: {e}"))
    }
}

/// From when until when a certificate is good.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| format!("the certificate cannot be read: {e}"))?;
    let validity = certificate.validity();
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Ok((
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    ))
}

fn check_root(root: &[u8], key: &[u8], trust_domain: &str) -> Result<(), String> {
    if !has_key(root, key)? {
        return Err("the root key is not the root certificate's".to_owned());
    }
    let (_, certificate) = x509_parser::parse_x509_certificate(root)
        .map_err(|e| format!("the root certificate cannot be read: {e}"))?;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| &extension.value.general_names[..]);
    let wanted = trust_domain_uri(trust_domain);
    match names {
        Some([GeneralName::URI(uri)]) if *uri == wanted => Ok(()),
        Some([GeneralName::URI(uri)]) => Err(format!(
            "made for trust domain {uri}, but the mesh's is {wanted}: a mesh keeps its trust domain"
        )),
        _ => Err("the root certificate names no trust domain".to_owned()),
    }
}

fn has_key(certificate: &[u8], key: &[u8]) -> Result<bool, String> {
    use rcgen::PublicKeyData as _;

    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| format!("a certificate cannot be read: {e}"))?;
    Ok(
        certificate.public_key().subject_public_key.data
            == PrivateKey::from_pkcs8(key)?.der_bytes(),
    )
}
