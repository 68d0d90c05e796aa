//! What is kept of an authority, as one text: the pair that signs, and where a rotation is under way the
//! one that comes or the certificate that goes.
//!
//! ```text
//! weft-authority: 2
//! generation: 7
//! longest-leaf: 86400
//! rotation: root publish
//! since: 1767225600
//! sections: 8
//! -----BEGIN CERTIFICATE-----   the root that signs, its key, its issuer, the issuer's key
//! -----BEGIN CERTIFICATE-----   publish: the same of the pair that comes; sign: the certificate that goes
//! ```
//!
//! It is written as a whole, over the one that was read, and its generation grows by one each time. Text
//! without the first line is of the first version: four sections, no rotation. Whatever is missing,
//! repeated, unknown, of another trust domain or does not fit the rest makes all of it invalid; why is said
//! without a word of what is secret.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::make::{self, Lifetimes};
use super::pair::{Fingerprint, Key, Pair, validity};
use super::private::{PKCS8, Section, section, sections};
use super::rotation::{Kind, Phase, Rotation};
use super::{CERTIFICATE, TrustBundle};

const FIRST_LINE: &str = "weft-authority: 2";
const PEM_BEGIN: &str = "-----BEGIN ";
/// Sections of a pair.
const PAIR: usize = 4;
/// Roots that were trusted before, by fingerprint: whoever has only one of them knows that this authority
/// is the one that it knew. The newest are kept.
const MAX_RETIRED: usize = 16;
/// What is taken for the longest life of leaves where the text is of the first version, which did not say.
const UNKNOWN_LONGEST_LEAF: Duration = Duration::from_secs(24 * 3600);

/// The whole state of an authority.
#[derive(Clone, Debug)]
pub struct Document {
    /// Grows with each change.
    pub generation: u64,
    /// What signs.
    pub signing: Pair,
    /// What is under way.
    pub underway: Option<Underway>,
    /// The longest life that leaves of this issuer may have.
    pub longest_leaf: Duration,
    /// Roots that were trusted before.
    pub retired: Vec<Fingerprint>,
}

/// A rotation with the certificates that it is about.
#[derive(Clone, Debug)]
pub struct Underway {
    /// Which, and how far.
    pub rotation: Rotation,
    /// The pair that comes; while the phase is [`Phase::Publish`].
    pub incoming: Option<Pair>,
    /// The root or issuer that goes; while the phase is [`Phase::Sign`].
    pub outgoing: Option<CertificateDer<'static>>,
}

/// Why a rotation cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// One after the other, and no phase is left out.
    #[error(
        "a rotation of the {kind} is under way, in phase {phase}: no phase of it can be skipped, and \
         another one begins when it has ended"
    )]
    Underway {
        /// What is rotated.
        kind: Kind,
        /// How far it is.
        phase: Phase,
    },
    /// No key or no certificate could be made.
    #[error("no certificate could be made: {0}")]
    Making(String),
}

impl Document {
    /// A new authority.
    pub(super) fn make(
        trust_domain: &str,
        lifetimes: &Lifetimes,
        longest_leaf: Duration,
        now: SystemTime,
    ) -> Result<Self, String> {
        Ok(Self {
            generation: 1,
            signing: make::pair(trust_domain, lifetimes, now)?,
            underway: None,
            longest_leaf,
            retired: Vec::new(),
        })
    }

    /// Reads it, and proves that its parts fit each other, the trust domain and the time.
    pub fn parse(text: &[u8], trust_domain: &str, now: SystemTime) -> Result<Self, String> {
        let document = read(text)?;
        document.signing.check(trust_domain, now)?;
        if let Some(underway) = &document.underway
            && let Some(incoming) = &underway.incoming
        {
            let check = incoming.check(trust_domain, now);
            check.map_err(|why| format!("the pair that comes: {why}"))?;
        }
        Ok(document)
    }

    /// As [`Document::parse`] reads it. Secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut head = format!("{FIRST_LINE}\ngeneration: {}\n", self.generation);
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            writeln!(head, "{name}: {value}").expect("a String takes everything");
        };
        line("longest-leaf", &self.longest_leaf.as_secs());
        for root in &self.retired {
            line("retired", root);
        }
        let mut sections = Vec::from(pair_sections(&self.signing));
        if let Some(underway) = &self.underway {
            let Rotation {
                kind,
                phase,
                since,
                old_until,
            } = &underway.rotation;
            line("rotation", &format_args!("{kind} {phase}"));
            line("since", &seconds(*since));
            if *phase == Phase::Sign {
                line("old-until", &seconds(*old_until));
            }
            sections.extend(underway.incoming.iter().flat_map(pair_sections));
            let outgoing = underway.outgoing.iter();
            sections.extend(outgoing.map(|der| section(CERTIFICATE, der)));
        }
        line("sections", &sections.len());

        let length = head.len() + sections.iter().map(|section| section.len()).sum::<usize>();
        // Grown once, so that no copies are left behind.
        let mut text = Zeroizing::new(String::with_capacity(length));
        text.push_str(&head);
        for section in &sections {
            text.push_str(section);
        }
        text
    }

    /// Where it stands, without anything secret, as one JSON object: for whoever may look at what it is kept
    /// in and not inside. Moments are seconds of unix time.
    pub fn standing(&self) -> String {
        let ends = |certificate| validity(certificate).map_or(0, |(_, end)| seconds(end));
        let begins = |certificate| validity(certificate).map_or(0, |(begin, _)| seconds(begin));
        let rotation = self.underway.as_ref().map(|underway| underway.rotation);
        serde_json::json!({
            "issuerNotBefore": begins(&self.signing.issuer),
            "issuerNotAfter": ends(&self.signing.issuer),
            "rotation": rotation.map(|it| it.kind.to_string()),
            "phase": rotation.map(|it| it.phase.to_string()),
            "since": rotation.map(|it| seconds(it.since)),
        })
        .to_string()
    }

    /// Whom the mesh trusts: the oldest root first, so that going from one phase to the next changes
    /// nothing where the set stays.
    pub fn bundle(&self) -> TrustBundle {
        let signing = std::iter::once(self.signing.root.clone());
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        match &self.underway {
            Some(underway) if underway.rotation.kind == Kind::Root => {
                roots.extend(underway.outgoing.iter().cloned());
                roots.extend(signing);
                roots.extend(underway.incoming.iter().map(|pair| pair.root.clone()));
            }
            _ => roots.extend(signing),
        }
        TrustBundle {
            roots: roots.into(),
        }
    }

    /// Whether it says the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        *self.to_text() == *other.to_text()
    }

    /// Whether somebody who trusts these roots knows this authority, or knew it.
    pub fn is_known_to(&self, bundle: &TrustBundle) -> bool {
        let own = self.bundle();
        bundle
            .roots
            .iter()
            .any(|root| own.roots.contains(root) || self.retired.contains(&Fingerprint::of(root)))
    }

    /// Begins a rotation: of the root in its first phase, of the issuer in its second, as nobody needs to
    /// know an issuer beforehand: its certificate comes with each leaf.
    pub fn begin(
        &self,
        kind: Kind,
        trust_domain: &str,
        lifetimes: &Lifetimes,
        now: SystemTime,
        old_until: SystemTime,
    ) -> Result<Self, BeginError> {
        if let Some(underway) = &self.underway {
            let Rotation { kind, phase, .. } = underway.rotation;
            return Err(BeginError::Underway { kind, phase });
        }
        let mut next = self.clone();
        next.generation += 1;
        next.underway = Some(match kind {
            Kind::Root => Underway {
                rotation: Rotation::publish(now),
                incoming: Some(
                    make::pair(trust_domain, lifetimes, now).map_err(BeginError::Making)?,
                ),
                outgoing: None,
            },
            Kind::Issuer => {
                let renewed = make::renew_issuer(&self.signing, trust_domain, lifetimes, now)
                    .map_err(BeginError::Making)?;
                let former = std::mem::replace(&mut next.signing, renewed);
                Underway {
                    rotation: Rotation::sign(kind, now, old_until),
                    incoming: None,
                    outgoing: Some(former.issuer),
                }
            }
        });
        Ok(next)
    }

    /// From publishing to signing; the same where there is nothing to sign with.
    #[must_use]
    pub fn sign(&self, now: SystemTime, old_until: SystemTime) -> Self {
        let mut next = self.clone();
        let Some(underway) = &mut next.underway else {
            return next;
        };
        let Some(incoming) = underway.incoming.take() else {
            return next;
        };
        next.generation += 1;
        underway.rotation = Rotation::sign(underway.rotation.kind, now, old_until);
        let former = std::mem::replace(&mut next.signing, incoming);
        underway.outgoing = Some(former.root);
        next
    }

    /// What is signed by the old lives longer than it was known.
    #[must_use]
    pub fn extend(&self, old_until: SystemTime) -> Self {
        let mut next = self.clone();
        if let Some(underway) = &mut next.underway {
            next.generation += 1;
            underway.rotation.old_until = old_until;
        }
        next
    }

    /// Ends a rotation that signs; the same where none does.
    #[must_use]
    pub fn retire(&self, longest_leaf: Duration) -> Self {
        let mut next = self.clone();
        let signs = |underway: &Underway| underway.rotation.phase == Phase::Sign;
        if !next.underway.as_ref().is_some_and(signs) {
            return next;
        }
        next.generation += 1;
        // Nothing of the former issuer's is left, and so nothing that lived longer.
        next.longest_leaf = longest_leaf;
        let underway = next.underway.take();
        if let Some(root) = underway.and_then(|underway| {
            let is_root = underway.rotation.kind == Kind::Root;
            underway.outgoing.filter(|_| is_root)
        }) {
            next.retired.push(Fingerprint::of(&root));
            let beyond = next.retired.len().saturating_sub(MAX_RETIRED);
            next.retired.drain(..beyond);
        }
        next
    }

    /// Leaves may live so long from now on.
    #[must_use]
    pub fn with_longest_leaf(&self, longest_leaf: Duration) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        next.longest_leaf = longest_leaf;
        next
    }
}

fn read(text: &[u8]) -> Result<Document, String> {
    let text = std::str::from_utf8(text).map_err(|_| "not text")?;
    let head = text.find(PEM_BEGIN).map_or(text, |begin| &text[..begin]);
    let sections = sections(text).map_err(|why| format!("not PEM: {why}"))?;
    let mut sections = sections.into_iter();
    if !head.starts_with(FIRST_LINE) {
        let signing = read_pair(&mut sections)?;
        if !head.trim().is_empty() || sections.next().is_some() {
            return Err("of no version that is known".to_owned());
        }
        return Ok(Document {
            generation: 0,
            signing,
            underway: None,
            longest_leaf: UNKNOWN_LONGEST_LEAF,
            retired: Vec::new(),
        });
    }

    let mut head = Head::read(head)?;
    let wanted = head.number("sections")?;
    if sections.len() as u64 != wanted {
        return Err(format!(
            "{} certificates and keys, where it should have {wanted}: a part is lost",
            sections.len()
        ));
    }
    let generation = head.number("generation")?;
    let longest_leaf = Duration::from_secs(head.number("longest-leaf")?);
    let signing = read_pair(&mut sections)?;
    let underway = match head.rotation()? {
        None => None,
        Some(rotation) if rotation.phase == Phase::Publish => Some(Underway {
            rotation,
            incoming: Some(read_pair(&mut sections)?),
            outgoing: None,
        }),
        Some(rotation) => Some(Underway {
            rotation,
            incoming: None,
            outgoing: Some(read_certificate(&mut sections)?),
        }),
    };
    if sections.next().is_some() {
        return Err("more certificates and keys than its phase has".to_owned());
    }
    let retired = std::mem::take(&mut head.retired);
    head.end()?;
    Ok(Document {
        generation,
        signing,
        underway,
        longest_leaf,
        retired,
    })
}

/// The lines before the first section.
struct Head<'t> {
    values: BTreeMap<&'t str, &'t str>,
    retired: Vec<Fingerprint>,
}

impl<'t> Head<'t> {
    fn read(text: &'t str) -> Result<Self, String> {
        let mut head = Self {
            values: BTreeMap::new(),
            retired: Vec::new(),
        };
        for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
            let (name, value) = line
                .split_once(": ")
                .ok_or_else(|| format!("a line {line:?} that says nothing"))?;
            if name == "retired" {
                let root = Fingerprint::from_hex(value).ok_or("a fingerprint that is none")?;
                head.retired.push(root);
            } else if head.values.insert(name, value).is_some() {
                return Err(format!("{name} is said twice"));
            }
        }
        Ok(head)
    }

    fn number(&mut self, name: &str) -> Result<u64, String> {
        let value = self.values.remove(name);
        let value = value.ok_or_else(|| format!("{name} is not said"))?;
        value
            .parse()
            .map_err(|_| format!("{name} is {value:?}, and should be a number"))
    }

    fn time(&mut self, name: &str) -> Result<SystemTime, String> {
        let seconds = Duration::from_secs(self.number(name)?);
        UNIX_EPOCH
            .checked_add(seconds)
            .ok_or_else(|| format!("{name} is no time"))
    }

    fn rotation(&mut self) -> Result<Option<Rotation>, String> {
        let Some(value) = self.values.remove("rotation") else {
            return Ok(None);
        };
        let since = self.time("since")?;
        match value {
            "root publish" => Ok(Some(Rotation::publish(since))),
            "root sign" => {
                let until = self.time("old-until")?;
                Ok(Some(Rotation::sign(Kind::Root, since, until)))
            }
            "issuer sign" => {
                let until = self.time("old-until")?;
                Ok(Some(Rotation::sign(Kind::Issuer, since, until)))
            }
            other => Err(format!("there is no rotation {other:?}")),
        }
    }

    fn end(self) -> Result<(), String> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("{name} is not known")),
        }
    }
}

fn read_pair<'t>(sections: &mut impl Iterator<Item = Section<'t>>) -> Result<Pair, String> {
    Ok(Pair {
        root: read_certificate(sections)?,
        root_key: read_key(sections)?,
        issuer: read_certificate(sections)?,
        issuer_key: read_key(sections)?,
    })
}

fn read_certificate<'t>(
    sections: &mut impl Iterator<Item = Section<'t>>,
) -> Result<CertificateDer<'static>, String> {
    match sections.next() {
        Some(Section {
            label: CERTIFICATE,
            der,
        }) => Ok(CertificateDer::from(der.to_vec())),
        _ => Err(ORDER.to_owned()),
    }
}

fn read_key<'t>(sections: &mut impl Iterator<Item = Section<'t>>) -> Result<Key, String> {
    match sections.next() {
        Some(Section { label: PKCS8, der }) => Ok(Key::new(der.to_vec())),
        _ => Err(ORDER.to_owned()),
    }
}

const ORDER: &str = "not root certificate, root key, issuer certificate, issuer key";

fn pair_sections(pair: &Pair) -> [Zeroizing<String>; PAIR] {
    let public = |der: &CertificateDer<'_>| section(CERTIFICATE, der);
    let secret = |key: &Key| section(PKCS8, key.der());
    [
        public(&pair.root),
        secret(&pair.root_key),
        public(&pair.issuer),
        secret(&pair.issuer_key),
    ]
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
