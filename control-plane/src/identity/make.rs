//! Making roots and issuers, and what is common to all certificates of ours: P-256, whole seconds, random
//! serial numbers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use super::pair::{Key, Pair};
use super::private::PrivateKey;
use super::rotation::Timing;

/// Certificates are good from so long ago, for clocks that are behind.
pub(crate) const BACKDATING: Duration = Duration::from_secs(15 * 60);
/// In seconds.
const DAY: u64 = 24 * 3600;
const SERIAL_LEN: usize = 16;

/// How long what stands above leaves lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// An issuer's, which is never longer than what is left of its root's.
    pub issuer: Duration,
    /// A root's.
    pub root: Duration,
}

impl Lifetimes {
    /// One year and ten.
    pub const DEFAULT: Self = Self {
        issuer: Duration::from_secs(365 * DAY),
        root: Duration::from_secs(3650 * DAY),
    };

    /// What is too short for leaves of this life, if anything: what is rotated at two thirds of its life has
    /// to be out of use when it ends.
    pub fn trouble(&self, leaf: Duration) -> Option<String> {
        let Timing {
            leaf,
            slack,
            settle: _,
            margin,
        } = Timing::of(leaf);
        let sign = leaf + margin + slack;
        let issuer = sign * 3;
        let root = (sign + leaf + slack) * 3;
        let with = |what: &str, is: Duration, least: Duration| {
            Some(format!(
                "{what} of {} s is too short for leaves of {} s: at least {} s",
                is.as_secs(),
                leaf.as_secs(),
                least.as_secs()
            ))
        };
        if self.issuer < issuer {
            return with("an issuer's life", self.issuer, issuer);
        }
        if self.root < root.max(self.issuer) {
            return with("a root's life", self.root, root.max(self.issuer));
        }
        None
    }
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// When a certificate that signs is to be rotated: at two thirds of its life, or of the life that it should
/// have where that is shorter.
pub fn due_at(certificate: &CertificateDer<'_>, lifetime: Duration) -> Result<SystemTime, String> {
    let (not_before, not_after) = super::pair::validity(certificate)?;
    let made = not_before + BACKDATING;
    let life = not_after.duration_since(made).unwrap_or_default();
    Ok(made + life.min(lifetime) * 2 / 3)
}

/// A root and an issuer under it.
pub(super) fn pair(
    trust_domain: &str,
    lifetimes: &Lifetimes,
    now: SystemTime,
) -> Result<Pair, String> {
    let key = PrivateKey::generate().map_err(text)?;
    let params = ca_params("root", 1, trust_domain, now, now + lifetimes.root)?;
    let root = params.self_signed(&key).map_err(text)?;
    let pair = Pair {
        root: root.der().clone(),
        root_key: key.to_key(),
        // Replaced at once.
        issuer: root.der().clone(),
        issuer_key: Key::new(Vec::new()),
    };
    renew_issuer(&pair, trust_domain, lifetimes, now)
}

/// The same root with another issuer.
pub(super) fn renew_issuer(
    pair: &Pair,
    trust_domain: &str,
    lifetimes: &Lifetimes,
    now: SystemTime,
) -> Result<Pair, String> {
    let root_key = PrivateKey::from_pkcs8(pair.root_key.der())?;
    let root = Issuer::from_ca_cert_der(&pair.root, root_key).map_err(text)?;
    let (_, root_not_after) = super::pair::validity(&pair.root)?;
    let not_after = (now + lifetimes.issuer).min(root_not_after);

    let key = PrivateKey::generate().map_err(text)?;
    let issuer = ca_params("issuer", 0, trust_domain, now, not_after)?
        .signed_by(&key, &root)
        .map_err(text)?;
    Ok(Pair {
        root: pair.root.clone(),
        root_key: pair.root_key.clone(),
        issuer: issuer.der().clone(),
        issuer_key: key.to_key(),
    })
}

fn ca_params(
    role: &str,
    path_len: u8,
    trust_domain: &str,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, String> {
    let serial = serial()?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Weft");
    // Two roots that are trusted at a time have two names: who verifies finds the right one at once.
    let mark = super::hex(&serial.as_ref()[..4]);
    name.push(DnType::CommonName, format!("Weft {role} {mark}"));

    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    // A signing certificate names its trust domain and no path (SPIFFE X.509-SVID, section 2).
    let uri = trust_domain_uri(trust_domain);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(|e| format!("{e}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now - BACKDATING, not_after);
    params.serial_number = Some(serial);
    Ok(params)
}

pub(super) fn trust_domain_uri(trust_domain: &str) -> String {
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

/// The issuer that signs with this certificate and key.
pub(super) fn issuer(
    certificate: &CertificateDer<'_>,
    key: PrivateKey,
) -> Result<Issuer<'static, PrivateKey>, String> {
    Issuer::from_ca_cert_der(certificate, key)
        .map_err(|error| format!("the issuer's certificate cannot be read: {error}"))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: rcgen::Error) -> String {
    error.to_string()
}
