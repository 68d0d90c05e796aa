//! Keys of RSA that sign, however short they are: no library of today lends itself to a weak one. Handshakes
//! by RSASSA-PSS and certificates by RSASSA-PKCS1-v1_5, both with SHA-256 (RFC 8017, sections 8.1 and 8.2);
//! slow and not in constant time.

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use num_bigint::BigUint;
use rcgen::{PublicKeyData, SignatureAlgorithm};
use rustls::SignatureScheme;
use rustls::pki_types::PrivatePkcs1KeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::{Signer, SigningKey};

/// A weak key and a strong one.
const KEYS: &[u8] = include_bytes!("rsa.pem");
const HASH_LEN: usize = 32;
/// As long as the hash, as TLS 1.3 wants it (RFC 8446, section 4.2.3).
const SALT: [u8; HASH_LEN] = [0x77; HASH_LEN];
/// `DigestInfo` of SHA-256 up to the hash (section 9.2, note 1).
const SHA256_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;

/// A key with what it is made of.
#[derive(Clone)]
pub(super) struct Rsa {
    modulus: BigUint,
    private: BigUint,
    /// `RSAPublicKey` (RFC 8017, appendix A.1.1).
    public: Vec<u8>,
}

impl Rsa {
    /// The key of 1024 bits.
    pub(super) fn weak() -> anyhow::Result<Self> {
        Self::of(1024)
    }

    /// The key of 2048 bits.
    pub(super) fn strong() -> anyhow::Result<Self> {
        Self::of(2048)
    }

    fn of(bits: u64) -> anyhow::Result<Self> {
        for key in PrivatePkcs1KeyDer::pem_slice_iter(KEYS) {
            let key = Self::read(key?.secret_pkcs1_der()).context("a key that cannot be read")?;
            if key.modulus.bits() == bits {
                return Ok(key);
            }
        }
        anyhow::bail!("no key of {bits} bits")
    }

    /// Reads `RSAPrivateKey` (RFC 8017, appendix A.1.2).
    fn read(der: &[u8]) -> Option<Self> {
        let (SEQUENCE, mut inside, []) = element(der)? else {
            return None;
        };
        let mut next = || {
            let (INTEGER, number, rest) = element(inside)? else {
                return None;
            };
            inside = rest;
            Some(number)
        };
        let (_version, modulus, exponent, private) = (next()?, next()?, next()?, next()?);
        let numbers = [written(INTEGER, modulus), written(INTEGER, exponent)];
        Some(Self {
            modulus: BigUint::from_bytes_be(modulus),
            private: BigUint::from_bytes_be(private),
            public: written(SEQUENCE, &numbers.concat()),
        })
    }

    /// Section 9.1.1, and then RSA itself.
    fn handshake_signature(&self, message: &[u8]) -> Vec<u8> {
        let seed = [&[0; 8], hash(message).as_slice(), &SALT].concat();
        let hash = hash(&seed);

        let mut block = vec![0; self.length() - HASH_LEN - 1];
        let salt_at = block.len() - SALT.len();
        block[salt_at - 1] = 1;
        block[salt_at..].copy_from_slice(&SALT);
        for (byte, mask) in block.iter_mut().zip(mask(&hash)) {
            *byte ^= mask;
        }
        // One bit less than the modulus has, which has a multiple of eight.
        block[0] &= 0x7f;
        block.extend(hash);
        block.push(0xbc);
        self.raw(&block)
    }

    /// Section 9.2, and then RSA itself.
    fn certificate_signature(&self, message: &[u8]) -> Vec<u8> {
        let hash = hash(message);
        let filling = self.length() - HASH_LEN - SHA256_INFO.len() - 3;
        let filling = vec![0xff; filling];
        self.raw(&[&[0, 1], &filling[..], &[0], &SHA256_INFO, &hash].concat())
    }

    fn raw(&self, block: &[u8]) -> Vec<u8> {
        let signed = BigUint::from_bytes_be(block).modpow(&self.private, &self.modulus);
        let signed = signed.to_bytes_be();
        let mut padded = vec![0; self.length() - signed.len()];
        padded.extend(signed);
        padded
    }

    /// Of the modulus, and of what it signs, in bytes.
    fn length(&self) -> usize {
        self.modulus.bits().div_ceil(8) as usize
    }
}

/// MGF1 (appendix B.2.1).
fn mask(seed: &[u8]) -> impl Iterator<Item = u8> {
    (0_u32..).flat_map(move |count| hash(&[seed, &count.to_be_bytes()].concat()))
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// The first element of DER: tag, content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        length => (usize::from(length), rest),
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn written(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len())
        .expect("a key is short")
        .to_be_bytes();
    let head = match (high, low) {
        (0, ..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head[..], content].concat()
}

impl PublicKeyData for Rsa {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl rcgen::SigningKey for Rsa {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.certificate_signature(message))
    }
}

impl SigningKey for Rsa {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::RSA_PSS_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::RSA
    }
}

impl Signer for Rsa {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.handshake_signature(message))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::RSA_PSS_SHA256
    }
}

impl std::fmt::Debug for Rsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RSA-{}", self.modulus.bits())
    }
}
