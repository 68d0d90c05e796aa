//! Certificates of a mesh's real authority that it would never issue.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use weft_proto::spiffe::SpiffeId;
use weft_tests::tls::Credentials;

use super::rsa::Rsa;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
const AUTHORITY_FILE: &str = "authority.pem";

/// The keys of a mesh's authority, as somebody who has stolen its state has them.
pub(super) struct Maker {
    root: Issuer<'static, KeyPair>,
    issuer: Issuer<'static, KeyPair>,
    issuer_der: CertificateDer<'static>,
    issuer_key: Vec<u8>,
    id: SpiffeId,
}

/// A CA below another one.
pub(super) type Below = CertifiedIssuer<'static, KeyPair>;

impl Maker {
    /// Reads the state directory of the control plane. Leaves are made for `id`.
    pub(super) fn of(state: &Path, id: &SpiffeId) -> anyhow::Result<Self> {
        let text = std::fs::read(state.join(AUTHORITY_FILE))?;
        let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>()?;
        let keys = PrivatePkcs8KeyDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>()?;
        let ([root, issuer], [root_key, issuer_key]) = (&certificates[..], &keys[..]) else {
            anyhow::bail!("{AUTHORITY_FILE} holds no root and issuer with their keys");
        };
        let with = |certificate, key: &PrivatePkcs8KeyDer<'_>| {
            let key = KeyPair::try_from(key.secret_pkcs8_der())?;
            Issuer::from_ca_cert_der(certificate, key)
        };
        Ok(Self {
            root: with(root, root_key).context("the root")?,
            issuer: with(issuer, issuer_key).context("the issuer")?,
            issuer_der: issuer.clone(),
            issuer_key: issuer_key.secret_pkcs8_der().to_vec(),
            id: id.clone(),
        })
    }

    pub(super) fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(super) fn issuer_der(&self) -> &CertificateDer<'static> {
        &self.issuer_der
    }

    /// The issuer's own certificate and key, as if it were a workload.
    pub(super) fn issuer_itself(&self) -> Credentials {
        Credentials::of(vec![self.issuer_der.to_vec()], self.issuer_key.clone())
    }

    /// What the control plane would sign for the id.
    pub(super) fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(self.id.as_str())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (SystemTime::now() - HOUR / 4).into();
        params.not_after = (SystemTime::now() + HOUR).into();
        params
    }

    /// A leaf of the mesh's issuer that `alter` has made something else of.
    pub(super) fn leaf(
        &self,
        alter: impl FnOnce(&mut CertificateParams),
    ) -> anyhow::Result<Credentials> {
        self.leaf_below(&self.issuer, std::slice::from_ref(&self.issuer_der), alter)
    }

    /// A leaf of any issuer, with these certificates behind it.
    pub(super) fn leaf_below(
        &self,
        issuer: &Issuer<'_, impl rcgen::SigningKey>,
        above: &[CertificateDer<'static>],
        alter: impl FnOnce(&mut CertificateParams),
    ) -> anyhow::Result<Credentials> {
        let mut params = self.params();
        alter(&mut params);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, issuer)?;
        Ok(Credentials::of(
            chain(leaf.der(), above),
            key.serialize_der(),
        ))
    }

    /// A good leaf whose holder has another key.
    pub(super) fn leaf_without_its_key(&self) -> anyhow::Result<Credentials> {
        let leaf = self
            .params()
            .signed_by(&KeyPair::generate()?, &self.issuer)?;
        let above = std::slice::from_ref(&self.issuer_der);
        let other = KeyPair::generate()?.serialize_der();
        Ok(Credentials::of(chain(leaf.der(), above), other))
    }

    /// A leaf for a key of RSA, which signs its handshakes truly.
    pub(super) fn rsa_leaf(&self, key: Rsa) -> anyhow::Result<Credentials> {
        let leaf = self.params().signed_by(&key, &self.issuer)?;
        let above = std::slice::from_ref(&self.issuer_der);
        let chain = chain(leaf.der(), above);
        Ok(Credentials::signing(chain, Arc::new(key)))
    }

    /// A leaf of a CA below the root whose key is of RSA.
    pub(super) fn leaf_below_rsa(&self, key: Rsa) -> anyhow::Result<Credentials> {
        let ca = CertifiedIssuer::signed_by(ca_params("an issuer of RSA"), key, &self.root)?;
        self.leaf_below(&ca, std::slice::from_ref(ca.der()), |_| {})
    }

    /// Anything as a leaf.
    pub(super) fn garbage(&self) -> anyhow::Result<Credentials> {
        let above = std::slice::from_ref(&self.issuer_der);
        let key = KeyPair::generate()?.serialize_der();
        Ok(Credentials::of(
            chain(&[0x30, 0x03, 0x02, 0x01, 0x07], above),
            key,
        ))
    }

    /// A CA that the root has signed.
    pub(super) fn below_root(
        &self,
        alter: impl FnOnce(&mut CertificateParams),
    ) -> anyhow::Result<Below> {
        below(&self.root, "below the root", alter)
    }

    /// A CA that the issuer has signed, which may sign leaves only.
    pub(super) fn below_issuer(&self) -> anyhow::Result<Below> {
        below(&self.issuer, "below the issuer", |_| {})
    }

    /// A workload's own good leaf, used as if it were a CA.
    pub(super) fn workload_as_issuer(&self) -> anyhow::Result<Below> {
        let mut params = self.params();
        params
            .distinguished_name
            .push(DnType::CommonName, "a workload");
        Ok(CertifiedIssuer::signed_by(
            params,
            KeyPair::generate()?,
            &self.issuer,
        )?)
    }

    /// A CA that only calls itself what the mesh's issuer is called.
    pub(super) fn namesake(&self) -> anyhow::Result<Issuer<'static, KeyPair>> {
        Ok(Issuer::from_ca_cert_der(
            &self.issuer_der,
            KeyPair::generate()?,
        )?)
    }
}

/// A CA of this name. Without a constraint on the length of paths, so that only what the test means is
/// in its way.
pub(super) fn below(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    alter: impl FnOnce(&mut CertificateParams),
) -> anyhow::Result<Below> {
    let mut params = ca_params(name);
    alter(&mut params);
    Ok(CertifiedIssuer::signed_by(
        params,
        KeyPair::generate()?,
        issuer,
    )?)
}

/// What such a CA is made of.
pub(super) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params
}

pub(super) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

pub(super) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

fn chain(leaf: &[u8], above: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    let above = above.iter().map(|der| der.to_vec());
    std::iter::once(leaf.to_vec()).chain(above).collect()
}
