//! An issuer at work: identities and keys in, leaves out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use weft_proto::names::{CONTROL_PLANE_NAMESPACE, CONTROL_PLANE_SERVICE_ACCOUNT};
use weft_proto::spiffe::{SpiffeId, SpiffeIdError};

use super::make::{BACKDATING, issuer, serial, set_validity};
use super::pair::{Fingerprint, validity};
use super::private::PrivateKey;

/// A leaf with what its holder shows.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Leaf, then issuer.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf expires.
    pub not_after: SystemTime,
}

/// Why no leaf could be signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The issuer's certificate has expired.
    #[error("the issuer's certificate has expired")]
    IssuerExpired,
    /// The identity's parts make no SPIFFE id.
    #[error("no SPIFFE id: {0}")]
    BadId(#[from] SpiffeIdError),
    /// The id belongs to another mesh.
    #[error("the id is of another trust domain")]
    OtherTrustDomain,
    /// No randomness, or the library refused.
    #[error("signing failed: {0}")]
    Signing(String),
}

/// Signs leaves.
pub(super) struct Signer {
    issuer: Issuer<'static, PrivateKey>,
    /// The issuer's certificate, then those between it and its root.
    chain: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
}

impl Signer {
    /// `chain` begins with the certificate of `key` and has no root.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
    ) -> Result<Self, String> {
        let first = chain.first().ok_or("there is no issuer's certificate")?;
        let mut not_after = validity(first)?.1;
        for above in &chain[1..] {
            not_after = not_after.min(validity(above)?.1);
        }
        Ok(Self {
            issuer: issuer(first, key)?,
            chain,
            not_after,
        })
    }

    /// What tells it from others.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.chain[0])
    }

    /// Its certificate.
    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Signs a key of `id` for so long, and no longer than the issuer itself is good.
    pub(super) fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        life: Duration,
        now: SystemTime,
    ) -> Result<Leaf, IssueError> {
        let not_after = (now + life).min(self.not_after);
        if not_after <= now {
            return Err(IssueError::IssuerExpired);
        }
        // Never further back than the life is long: half the life must mean what it says.
        let not_before = now - BACKDATING.min(life);

        let signing = |e: rcgen::Error| IssueError::Signing(e.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(signing)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, not_before, not_after);
        params.serial_number = Some(serial().map_err(IssueError::Signing)?);

        let leaf = params.signed_by(key, &self.issuer).map_err(signing)?;
        let own = std::iter::once(leaf.der().clone());
        Ok(Leaf {
            chain: own.chain(self.chain.iter().cloned()).collect(),
            not_after,
        })
    }

    /// Signs a leaf for nobody, and looks at it as peers will who trust these roots.
    pub(super) fn prove(
        &self,
        trust_domain: &str,
        roots: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<(), String> {
        let key = PrivateKey::generate().map_err(|e| e.to_string())?;
        let id = own_id(trust_domain).map_err(|e| e.to_string())?;
        let life = Duration::from_secs(60);
        let leaf = self.sign(&id, &key, life, now).map_err(|e| e.to_string())?;
        verify(&leaf, roots, now).map_err(|e| e.to_string())
    }
}

/// The control plane's own identity.
pub(super) fn own_id(trust_domain: &str) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::new(
        trust_domain,
        CONTROL_PLANE_NAMESPACE,
        CONTROL_PLANE_SERVICE_ACCOUNT,
    )
}

/// Checks a leaf's chain as its peers will.
pub(super) fn verify(
    leaf: &Leaf,
    roots: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<(), webpki::Error> {
    let anchors = roots
        .iter()
        .map(|root| anchor_from_trusted_cert(root))
        .collect::<Result<Vec<_>, _>>()?;
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    EndEntityCert::try_from(&leaf.chain[0])?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &leaf.chain[1..],
            UnixTime::since_unix_epoch(since_epoch),
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map(drop)
}
