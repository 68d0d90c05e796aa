//! Reads certificate signing requests. Of a request only its public key is used, and only after its
//! own signature proved that the caller holds the private half.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
};
use x509_parser::prelude::FromDer;

/// The largest request that is read, in bytes; a P-256 request without extensions has about 200.
pub(super) const MAX_CSR_LEN: usize = 16 * 1024;

/// A P-256 public key whose private half the requester holds.
#[derive(Debug)]
pub struct WorkloadKey(pub(super) SubjectPublicKeyInfo);

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Not a PKCS#10 request, or one with something behind it, or over 16 KiB.
    #[error("the request is not a readable PKCS#10 request")]
    Unreadable,
    /// Another kind of key.
    #[error("the key is not P-256, or not signed with ECDSA and SHA-256")]
    NotP256,
    /// The request is not signed by the key that it carries.
    #[error("the request's signature does not fit its key")]
    BadSignature,
}

impl WorkloadKey {
    /// Takes the key out of a DER request.
    pub fn from_csr(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_LEN {
            return Err(CsrError::Unreadable);
        }
        let (rest, csr) =
            X509CertificationRequest::from_der(der).map_err(|_| CsrError::Unreadable)?;
        if !rest.is_empty() {
            return Err(CsrError::Unreadable);
        }

        let info = &csr.certification_request_info;
        let key = &info.subject_pki;
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|p| p.as_oid().ok());
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY
            || curve != Some(OID_EC_P256)
            || csr.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256
        {
            return Err(CsrError::NotP256);
        }

        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.subject_public_key.data)
            .verify(info.raw, &csr.signature_value.data)
            .map_err(|_| CsrError::BadSignature)?;
        SubjectPublicKeyInfo::from_der(key.raw)
            .map(Self)
            .map_err(|_| CsrError::NotP256)
    }
}
