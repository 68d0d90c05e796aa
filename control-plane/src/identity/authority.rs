//! The certificate authority: root → issuer → leaves, all P-256.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use weft_proto::names::{CONTROL_PLANE_NAMESPACE, CONTROL_PLANE_SERVICE_ACCOUNT};
use weft_proto::spiffe::{SpiffeId, SpiffeIdError};
use x509_parser::extensions::GeneralName;

use super::state::{
    self, AUTHORITY_FILE, PUBLIC_MODE, SECRET_MODE, StateError, TRUST_BUNDLE_FILE, corrupt,
};
use super::{TrustBundle, WorkloadKey};

/// How long leaves live where nothing else is asked.
pub const DEFAULT_LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The shortest life of a leaf that can be asked: X.509 counts whole seconds.
pub const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(2);

/// Leaves are good from so long ago, for clocks that are behind.
pub(crate) const BACKDATING: Duration = Duration::from_secs(15 * 60);
/// Ten years: there is one root and one issuer, and nothing renews them.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const SERIAL_LEN: usize = 16;
const PEM_END: &str = "-----END CERTIFICATE-----\n";

/// Signs the mesh's certificates.
pub struct Authority {
    trust_domain: String,
    leaf_lifetime: Duration,
    issuer: Issuer<'static, KeyPair>,
    issuer_certificate: CertificateDer<'static>,
    issuer_not_after: SystemTime,
    bundle: watch::Sender<TrustBundle>,
}

/// A leaf with what its holder shows.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Leaf, then issuer.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the leaf expires.
    pub not_after: SystemTime,
}

/// Why an authority's state cannot be used, or none be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAuthority(String);

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

impl Authority {
    /// Opens the authority in a state directory, or makes it there once.
    ///
    /// Refused: a trust bundle without its secret, files that do not fit each other, an authority of
    /// another trust domain, one that has expired.
    pub fn open(
        state: &Path,
        trust_domain: &str,
        leaf_lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, StateError> {
        state::create_directory(state)?;
        let secret_path = state.join(AUTHORITY_FILE);
        let bundle_path = state.join(TRUST_BUNDLE_FILE);

        // The bundle is looked at first: another process that is just starting makes it last.
        let bundle = state::read(&bundle_path)?;
        let secret = match state::read(&secret_path)? {
            Some(secret) => secret,
            None if bundle.is_some() => return Err(StateError::SecretLost { path: bundle_path }),
            None => {
                let made = make(trust_domain, now).map_err(|e| corrupt(&secret_path, e))?;
                state::create(&secret_path, made.as_bytes(), SECRET_MODE)?;
                state::read(&secret_path)?
                    .ok_or_else(|| corrupt(&secret_path, "vanished while it was made"))?
            }
        };

        let (authority, root_pem) = load(&secret, trust_domain, leaf_lifetime, now)
            .map_err(|e| corrupt(&secret_path, e))?;
        match bundle {
            Some(bundle) if bundle != root_pem.as_bytes() => {
                return Err(corrupt(
                    &bundle_path,
                    format!("does not hold the root of {AUTHORITY_FILE} beside it"),
                ));
            }
            Some(_) => {}
            None => state::replace(&bundle_path, root_pem.as_bytes(), PUBLIC_MODE)?,
        }
        Ok(authority)
    }

    /// Makes a root and an issuer, for whoever keeps them elsewhere than in a directory. What it returns
    /// is secret, PEM, and what [`Authority::from_state`] takes.
    pub fn make_state(trust_domain: &str, now: SystemTime) -> Result<String, BadAuthority> {
        make(trust_domain, now).map_err(BadAuthority)
    }

    /// The authority of this state.
    ///
    /// Refused: parts that do not fit each other, another trust domain's, one that has expired.
    pub fn from_state(
        state: &[u8],
        trust_domain: &str,
        leaf_lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, BadAuthority> {
        let loaded = load(state, trust_domain, leaf_lifetime, now);
        loaded.map(|(authority, _)| authority).map_err(BadAuthority)
    }

    /// The mesh that this authority vouches for.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Whom the mesh trusts, now and later.
    pub fn bundle(&self) -> watch::Receiver<TrustBundle> {
        self.bundle.subscribe()
    }

    /// Signs a workload's key.
    pub fn issue(
        &self,
        id: &SpiffeId,
        key: &WorkloadKey,
        now: SystemTime,
    ) -> Result<Leaf, IssueError> {
        self.sign(id, &key.0, now)
    }

    /// Makes a key and a certificate for the control plane itself.
    pub fn issue_own(&self, now: SystemTime) -> Result<(Leaf, PrivateKeyDer<'static>), IssueError> {
        let id = SpiffeId::new(
            &self.trust_domain,
            CONTROL_PLANE_NAMESPACE,
            CONTROL_PLANE_SERVICE_ACCOUNT,
        )?;
        let key = KeyPair::generate().map_err(|e| IssueError::Signing(e.to_string()))?;
        let leaf = self.sign(&id, &key, now)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((leaf, PrivateKeyDer::Pkcs8(key)))
    }

    fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Leaf, IssueError> {
        if id.trust_domain() != self.trust_domain {
            return Err(IssueError::OtherTrustDomain);
        }
        let not_after = (now + self.leaf_lifetime).min(self.issuer_not_after);
        if not_after <= now {
            return Err(IssueError::IssuerExpired);
        }
        // Never further back than the life is long: half the life must mean what it says.
        let not_before = now - BACKDATING.min(self.leaf_lifetime);

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
        Ok(Leaf {
            chain: vec![leaf.der().clone(), self.issuer_certificate.clone()],
            not_after,
        })
    }
}

/// Makes a root and an issuer: the content of `authority.pem`.
fn make(trust_domain: &str, now: SystemTime) -> Result<String, String> {
    let text = |e: rcgen::Error| e.to_string();

    let root_key = KeyPair::generate().map_err(text)?;
    let root_params = ca_params("root", 1, trust_domain, now)?;
    let root = root_params.self_signed(&root_key).map_err(text)?;
    let root_key_pem = root_key.serialize_pem();
    let root_issuer = Issuer::new(root_params, root_key);

    let issuer_key = KeyPair::generate().map_err(text)?;
    let issuer = ca_params("issuer", 0, trust_domain, now)?
        .signed_by(&issuer_key, &root_issuer)
        .map_err(text)?;
    Ok([
        root.pem(),
        root_key_pem,
        issuer.pem(),
        issuer_key.serialize_pem(),
    ]
    .concat())
}

fn ca_params(
    role: &str,
    path_len: u8,
    trust_domain: &str,
    now: SystemTime,
) -> Result<CertificateParams, String> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Weft");
    name.push(DnType::CommonName, format!("Weft {role}"));

    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    // A signing certificate names its trust domain and no path (SPIFFE X.509-SVID, section 2).
    let uri = trust_domain_uri(trust_domain);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(|e| format!("{e}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now - BACKDATING, now + AUTHORITY_LIFETIME);
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// Reads `authority.pem`, and proves that its parts fit by signing with them. Also gives the root
/// certificate in PEM.
fn load(
    secret: &[u8],
    trust_domain: &str,
    leaf_lifetime: Duration,
    now: SystemTime,
) -> Result<(Authority, String), String> {
    let sections: Vec<(SectionKind, Vec<u8>)> = PemObject::pem_slice_iter(secret)
        .collect::<Result<_, _>>()
        .map_err(|e: rustls_pki_types::pem::Error| format!("not PEM: {e}"))?;
    let [
        (SectionKind::Certificate, root),
        (SectionKind::PrivateKey, root_key),
        (SectionKind::Certificate, issuer),
        (SectionKind::PrivateKey, issuer_key),
    ] = &sections[..]
    else {
        return Err("not root certificate, root key, issuer certificate, issuer key".to_owned());
    };
    let root_pem = std::str::from_utf8(secret)
        .ok()
        .and_then(|text| text.split_inclusive(PEM_END).next())
        .ok_or("not PEM")?
        .to_owned();

    check_root(root, root_key, trust_domain)?;
    let root = CertificateDer::from(root.clone());
    let issuer_certificate = CertificateDer::from(issuer.clone());
    let issuer_key = parse_key(issuer_key)?;
    let issuer_not_after = not_after(&issuer_certificate)?;
    let issuer = Issuer::from_ca_cert_der(&issuer_certificate, issuer_key)
        .map_err(|e| format!("the issuer's certificate cannot be read: {e}"))?;

    let roots = vec![root.clone()].into();
    let authority = Authority {
        trust_domain: trust_domain.to_owned(),
        leaf_lifetime,
        issuer,
        issuer_certificate,
        issuer_not_after,
        bundle: watch::Sender::new(TrustBundle { roots }),
    };
    let (leaf, _) = authority.issue_own(now).map_err(|e| e.to_string())?;
    verify(&leaf, &root, now).map_err(|e| format!("root, issuer and keys do not fit: {e}"))?;
    Ok((authority, root_pem))
}

fn check_root(root: &[u8], key: &[u8], trust_domain: &str) -> Result<(), String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(root)
        .map_err(|e| format!("the root certificate cannot be read: {e}"))?;
    if certificate.public_key().subject_public_key.data != parse_key(key)?.public_key_raw() {
        return Err("the root key is not the root certificate's".to_owned());
    }
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

pub(crate) fn parse_key(der: &[u8]) -> Result<KeyPair, String> {
    let der = PrivatePkcs8KeyDer::from(der);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|_| "a key is not a P-256 key in PKCS#8".to_owned())
}

fn not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| format!("the issuer's certificate cannot be read: {e}"))?;
    let seconds = certificate.validity().not_after.timestamp();
    Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Checks a leaf's chain as its peers will.
fn verify(leaf: &Leaf, root: &CertificateDer<'_>, now: SystemTime) -> Result<(), webpki::Error> {
    let anchor = anchor_from_trusted_cert(root)?;
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    EndEntityCert::try_from(&leaf.chain[0])?
        .verify_for_usage(
            &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
            &[anchor],
            &leaf.chain[1..],
            UnixTime::since_unix_epoch(since_epoch),
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map(drop)
}

fn trust_domain_uri(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}")
}

pub(crate) fn set_validity(
    params: &mut CertificateParams,
    not_before: SystemTime,
    not_after: SystemTime,
) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // Whole seconds on both sides: X.509 has no others.
    let seconds = |time: SystemTime| {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(since_epoch.as_secs())
    };
    params.not_before = epoch + seconds(not_before);
    params.not_after = epoch + seconds(not_after);
}

/// Random, positive, not zero (RFC 5280, section 4.1.2.2).
pub(crate) fn serial() -> Result<SerialNumber, String> {
    let mut bytes = [0; SERIAL_LEN];
    rand::fill(&mut bytes).map_err(|_| "the system gives no randomness".to_owned())?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
