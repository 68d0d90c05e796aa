//! Certificates for sidecars that are not Weft's: of an authority of Weft's own, as files in PEM.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use weft_control_plane::identity::{Authority, DEFAULT_LEAF_LIFETIME, WorkloadKey};
use weft_proto::spiffe::SpiffeId;

use crate::tls::Credentials;

const TRUST_DOMAIN: &str = "bench.local";
/// Characters of a line in PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// An authority and whom it has certified.
pub(super) struct Identities {
    authority: Authority,
    dir: PathBuf,
    /// The file with the authority's roots.
    pub(super) roots: PathBuf,
}

/// A workload: its name and what proves it.
pub(super) struct Identity {
    pub(super) id: SpiffeId,
    /// The certificates, leaf first.
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one file.
    pub(super) both: PathBuf,
    /// The leaf in DER.
    pub(super) leaf: Vec<u8>,
    /// The same for a TLS client of this program.
    pub(super) credentials: Credentials,
}

impl Identities {
    /// A new authority; its files are put into `dir`.
    pub(super) fn new(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let now = SystemTime::now();
        let state = dir.join("authority");
        let authority = Authority::open(&state, TRUST_DOMAIN, DEFAULT_LEAF_LIFETIME, now)?;
        let roots = dir.join("roots.pem");
        let trusted = authority.bundle().borrow().roots.to_vec();
        let text: String = trusted.iter().map(|der| certificate(der)).collect();
        fs::write(&roots, text)?;
        Ok(Self {
            authority,
            dir: dir.to_owned(),
            roots,
        })
    }

    /// Certifies a service account.
    pub(super) fn issue(&self, account: &str) -> anyhow::Result<Identity> {
        let id = SpiffeId::new(TRUST_DOMAIN, "default", account)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let request = WorkloadKey::from_csr(request.der())?;
        let issued = self.authority.issue(&id, &request, SystemTime::now())?;
        let chain: Vec<Vec<u8>> = issued.chain.iter().map(|der| der.to_vec()).collect();
        let certificates: String = chain.iter().map(|der| certificate(der)).collect();
        let file = |kind: &str| self.dir.join(format!("{account}-{kind}.pem"));
        let identity = Identity {
            id,
            chain: file("chain"),
            key: file("key"),
            both: file("both"),
            leaf: chain[0].clone(),
            credentials: Credentials::of(chain, key.serialize_der()),
        };
        let key = key.serialize_pem();
        fs::write(&identity.chain, &certificates)?;
        fs::write(&identity.both, certificates + &key)?;
        fs::write(&identity.key, key)?;
        Ok(identity)
    }
}

fn certificate(der: &[u8]) -> String {
    use base64::Engine as _;

    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for (at, letter) in text.chars().enumerate() {
        if at > 0 && at % PEM_LINE == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}
