//! An issuer that somebody else makes and renews, as cert-manager does: `tls.crt`, `tls.key`, `ca.crt`.
//!
//! It is refused, in words, where it cannot sign what sidecars believe: no chain to one of its roots, not a
//! signing certificate, no room for leaves below it, another trust domain's, expired, a key that is not its
//! own or not P-256. What is secret is in no word of it.

use std::time::SystemTime;

use rcgen::PublicKeyData as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::make::trust_domain_uri;
use super::pair::{Fingerprint, validity};
use super::private::PrivateKey;
use super::signer::Signer;

/// Certificates between a leaf and its root.
const MAX_CHAIN: usize = 4;
/// Roots at a time: sidecars take no more than 32, and those of before are among them for a while.
const MAX_ROOTS: usize = 8;

/// The three texts, in PEM.
pub struct GivenText {
    /// The issuer's certificate, then those between it and its root.
    pub certificate: Vec<u8>,
    /// The issuer's key.
    pub key: Zeroizing<Vec<u8>>,
    /// Whom the mesh trusts.
    pub roots: Vec<u8>,
}

/// An issuer that can sign, and whom to trust with it.
pub(super) struct Given {
    pub(super) signer: Signer,
    pub(super) roots: Vec<CertificateDer<'static>>,
}

impl Given {
    pub(super) fn parse(
        text: &GivenText,
        trust_domain: &str,
        now: SystemTime,
    ) -> Result<Self, String> {
        let roots = certificates(&text.roots, "roots")?;
        if roots.is_empty() || roots.len() > MAX_ROOTS {
            let count = roots.len();
            return Err(format!("{count} roots, where 1 to {MAX_ROOTS} are taken"));
        }
        for root in &roots {
            check_root(root, now)?;
        }
        // Some giver puts the root behind the issuer: leaves need not carry it.
        let mut chain = certificates(&text.certificate, "issuer")?;
        chain.retain(|certificate| !roots.contains(certificate));
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            let count = chain.len();
            return Err(format!(
                "{count} certificates of the issuer beside its root, where 1 to {MAX_CHAIN} are taken"
            ));
        }
        check_issuer(&chain[0], trust_domain, now)?;
        check_room(&chain, &roots)?;

        let key = PrivateKey::from_pem(&text.key)
            .ok_or("the key is not a P-256 key in PEM (PKCS#8 or SEC1)")?;
        let (_, certificate) = X509Certificate::from_der(&chain[0]).map_err(|e| e.to_string())?;
        if certificate.public_key().subject_public_key.data != key.der_bytes() {
            return Err("the key is not that of the issuer's certificate".to_owned());
        }
        let signer = Signer::new(chain, key)?;
        signer
            .prove(trust_domain, &roots, now)
            .map_err(|e| format!("what it signs is not believed by who trusts its roots: {e}"))?;
        Ok(Self { signer, roots })
    }

    /// What tells it from another one.
    pub(super) fn digest(&self) -> (Fingerprint, Vec<Fingerprint>) {
        let roots = self.roots.iter().map(Fingerprint::of);
        (self.signer.fingerprint(), roots.collect())
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| format!("the certificates of the {what} are not PEM"))
}

fn check_root(root: &CertificateDer<'_>, now: SystemTime) -> Result<(), String> {
    webpki::anchor_from_trusted_cert(root).map_err(|e| format!("a root cannot be used: {e}"))?;
    let (not_before, not_after) = validity(root)?;
    if now < not_before || now >= not_after {
        return Err("a root has expired or is not valid yet".to_owned());
    }
    Ok(())
}

fn check_issuer(
    issuer: &CertificateDer<'_>,
    trust_domain: &str,
    now: SystemTime,
) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(issuer)
        .map_err(|e| format!("the issuer's certificate cannot be read: {e}"))?;
    let (not_before, not_after) = validity(issuer)?;
    if now < not_before || now >= not_after {
        return Err("the issuer's certificate has expired or is not valid yet".to_owned());
    }
    if !certificate.is_ca() {
        return Err("the issuer's certificate must not sign others: isCA is missing".to_owned());
    }
    let usage = certificate.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("the issuer's key must not sign certificates: key usage".to_owned());
    }
    // A name that it has must be the mesh's; one that has none vouches for whomever it signs.
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |names| &names.value.general_names[..]);
    let wanted = trust_domain_uri(trust_domain);
    for name in names {
        if let GeneralName::URI(uri) = name
            && *uri != wanted
        {
            return Err(format!("the issuer is of {uri}, and the mesh is {wanted}"));
        }
    }
    Ok(())
}

/// Whether the root allows so many below it. Sidecars do not ask; others who meet their certificates may.
fn check_room(chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]) -> Result<(), String> {
    let unread = |e: x509_parser::nom::Err<x509_parser::error::X509Error>| e.to_string();
    let Some(top) = chain.last() else {
        return Ok(());
    };
    let (_, top) = X509Certificate::from_der(top).map_err(unread)?;
    for root in roots {
        let (_, root) = X509Certificate::from_der(root).map_err(unread)?;
        let limit = root.basic_constraints().ok().flatten();
        let limit = limit.and_then(|limit| limit.value.path_len_constraint);
        let is_above = root.subject() == top.issuer();
        if is_above && limit.is_some_and(|limit| (limit as usize) < chain.len()) {
            return Err("the root has no room for issuers below it: path length".to_owned());
        }
    }
    Ok(())
}
