//! Private keys at work, and their way in and out as PEM (RFC 7468).
//!
//! Whatever holds a key's bytes here is overwritten when it is let go of, and is never grown, so that no
//! shorter copy of it stays behind: the key itself, the text that it is read from, the text that it is
//! written as, and what is between. The cryptographic library's own form of it is overwritten by that
//! library. What remains is beyond reach: pages of the kernel where a state file was read, and in a cluster
//! the client library's buffers, through which the Secret comes and goes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::pair::Key;

/// The label of a key in PKCS#8 (RFC 5958).
pub(super) const PKCS8: &str = "PRIVATE KEY";
/// The label of a key of an elliptic curve in SEC 1 (RFC 5915).
pub(super) const SEC1: &str = "EC PRIVATE KEY";
/// Letters of base64 in one line of PEM.
const LINE: usize = 64;
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// A P-256 key that signs. It is overwritten when it is dropped, also inside of an
/// [`rcgen::Issuer`]. Not `Debug`, not `Clone`.
pub(crate) struct PrivateKey(Zeroizing<KeyPair>);

/// A section of PEM. What it says is overwritten when it is dropped.
pub(super) struct Section<'t> {
    pub(super) label: &'t str,
    pub(super) der: Zeroizing<Vec<u8>>,
}

impl PrivateKey {
    /// A new one.
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(|key| Self(Zeroizing::new(key)))
    }

    /// Reads PKCS#8.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, String> {
        let der = PrivatePkcs8KeyDer::from(der);
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map(|key| Self(Zeroizing::new(key)))
            .map_err(|_| "a key is not a P-256 key in PKCS#8".to_owned())
    }

    /// The first key of a PEM text, in PKCS#8 or SEC 1; `None` where there is none, or none of P-256.
    pub(super) fn from_pem(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let sections = sections(text).ok()?;
        let is_key = |section: &&Section<'_>| [PKCS8, SEC1].contains(&section.label);
        let section = sections.iter().find(is_key)?;
        let der = match section.label {
            PKCS8 => PrivateKeyDer::Pkcs8(section.der.as_slice().into()),
            _ => PrivateKeyDer::Sec1(section.der.as_slice().into()),
        };
        KeyPair::from_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .ok()
            .map(|key| Self(Zeroizing::new(key)))
    }

    /// The first key of a PEM text, in PKCS#8.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn from_pkcs8_pem(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let sections = sections(text).ok()?;
        let section = sections.iter().find(|section| section.label == PKCS8)?;
        Self::from_pkcs8(&section.der).ok()
    }

    /// Its PKCS#8.
    pub(crate) fn der(&self) -> &[u8] {
        self.0.serialized_der()
    }

    /// As it is kept.
    pub(super) fn to_key(&self) -> Key {
        Key::new(self.der().to_vec())
    }

    /// Its PKCS#8 as PEM.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn to_pem(&self) -> Zeroizing<Vec<u8>> {
        let mut text = section(PKCS8, self.der());
        Zeroizing::new(std::mem::take(&mut *text).into_bytes())
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// The sections of a PEM text; what stands between them is skipped. What is wrong is said without the line
/// that it is wrong in: it may be a key's.
pub(super) fn sections(text: &str) -> Result<Vec<Section<'_>>, &'static str> {
    let mut sections = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix(BEGIN) else {
            continue;
        };
        let label = label
            .strip_suffix(DASHES)
            .ok_or("a section does not begin as it should")?;
        // As long as it can become, so that it is never grown.
        let inside = lines.clone().take_while(|line| !line.starts_with(DASHES));
        let length = inside.map(str::len).sum();
        let mut encoded = Zeroizing::new(Vec::with_capacity(length));
        loop {
            let line = lines.next().ok_or("a section does not end")?;
            if !line.starts_with(DASHES) {
                encoded.extend_from_slice(line.trim().as_bytes());
                continue;
            }
            let end = line
                .strip_prefix(END)
                .and_then(|end| end.strip_suffix(DASHES));
            if end != Some(label) {
                return Err("a section does not end");
            }
            break;
        }
        let der = decode(&encoded).ok_or("a section is not base64")?;
        sections.push(Section { label, der });
    }
    Ok(sections)
}

/// One section of PEM.
pub(super) fn section(label: &str, der: &[u8]) -> Zeroizing<String> {
    let mut encoded = Zeroizing::new(vec![0; der.len().div_ceil(3) * 4]);
    let length = STANDARD
        .encode_slice(der, &mut encoded)
        .expect("four letters for every three bytes");
    let marks = BEGIN.len() + END.len() + 2 * (label.len() + DASHES.len() + 1);
    let lines = length.div_ceil(LINE);
    let mut text = Zeroizing::new(String::with_capacity(marks + length + lines));
    let mark = |text: &mut String, which: &str| {
        for part in [which, label, DASHES, "\n"] {
            text.push_str(part);
        }
    };
    mark(&mut text, BEGIN);
    for line in encoded[..length].chunks(LINE) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    mark(&mut text, END);
    text
}

fn decode(encoded: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(encoded.len())]);
    let length = STANDARD.decode_slice(encoded, &mut der).ok()?;
    der.truncate(length);
    Some(der)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls_pki_types::pem::{PemObject as _, SectionKind};

    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::identity::document::Document;
    use crate::identity::make::Lifetimes;
    use crate::identity::rotation::Kind;

    proptest! {
        /// What is written is read by the library that others read it with, and by ourselves, and was
        /// never grown.
        #[test]
        fn what_is_written_is_read(der in prop::collection::vec(any::<u8>(), 0..300)) {
            let text = section(PKCS8, &der);
            prop_assert_eq!(text.len(), text.capacity());
            let own = sections(&text).unwrap();
            prop_assert_eq!(own.len(), 1);
            prop_assert_eq!((own[0].label, own[0].der.as_slice()), (PKCS8, der.as_slice()));
            let (kind, theirs) = <(SectionKind, Vec<u8>)>::from_pem_slice(text.as_bytes()).unwrap();
            prop_assert_eq!((kind, &theirs), (SectionKind::PrivateKey, &der));
        }

        /// Whatever stands there, nothing panics.
        #[test]
        fn any_text_is_read_or_refused(text in "(-----BEGIN |-----END |A-----|-----|[A-Za-z=\n\r ]|é){0,40}") {
            let _ = sections(&text);
        }
    }

    #[test]
    fn keys_come_in_both_forms_and_with_foreign_line_ends() {
        let key = PrivateKey::generate().unwrap();
        let text = section(PKCS8, key.der());
        let read = PrivateKey::from_pem(text.as_bytes()).unwrap();
        assert_eq!(read.der_bytes(), key.der_bytes());
        let parameters =
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let foreign = format!("comment\r\n{}{}", parameters, text.as_str()).replace('\n', "\r\n");
        let read = PrivateKey::from_pem(foreign.as_bytes()).unwrap();
        assert_eq!(read.der_bytes(), key.der_bytes());
    }

    /// What a panic or an error that somebody writes with `{:?}` would show.
    #[test]
    fn no_key_is_in_what_is_printed() {
        let (now, leaf) = (SystemTime::now(), Duration::from_secs(3600));
        let document = Document::make("mesh.test", &Lifetimes::default(), leaf, now).unwrap();
        let begun = document.begin(Kind::Root, "mesh.test", &Lifetimes::default(), now, now);
        let begun = begun.unwrap();
        let printed = format!("{document:?} {begun:#?}");
        assert!(printed.contains("generation: 2"), "{printed}");
        let incoming = begun.underway.as_ref().and_then(|it| it.incoming.as_ref());
        for pair in [&document.signing, incoming.unwrap()] {
            for key in [&pair.root_key, &pair.issuer_key] {
                // The number itself, in the forms that a library or a hurried hand gives it.
                let der = key.der();
                let at = der
                    .windows(5)
                    .position(|at| *at == [2, 1, 1, 4, 32])
                    .unwrap()
                    + 5;
                let number = &der[at..at + 32];
                let lists = [format!("{number:?}"), format!("{number:#?}")];
                let lists = lists.map(|list| list.trim_matches(['[', ']']).to_owned());
                let base64 = STANDARD.encode(&der[at.next_multiple_of(3)..at + 30]);
                for form in lists.iter().chain([&crate::identity::hex(number), &base64]) {
                    assert!(!printed.contains(form.as_str()), "a key is printed");
                }
            }
        }
    }

    #[test]
    fn what_is_no_pem_is_refused_without_being_shown() {
        for (text, wrong) in [
            ("-----BEGIN A-----\nAAAA\n", "a section does not end"),
            (
                "-----BEGIN A-----\nAAAA\n-----END B-----\n",
                "a section does not end",
            ),
            (
                "-----BEGIN A-----\nAAAA\n-----BEGIN A-----\n",
                "a section does not end",
            ),
            (
                "-----BEGIN A-----\nsecret!\n-----END A-----\n",
                "a section is not base64",
            ),
            ("-----BEGIN A--\n", "a section does not begin as it should"),
        ] {
            assert_eq!(sections(text).err(), Some(wrong), "{text:?}");
        }
        assert!(sections("").unwrap().is_empty());
        assert!(PrivateKey::from_pem(b"nothing").is_none());
    }
}
