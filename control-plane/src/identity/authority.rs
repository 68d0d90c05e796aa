//! The certificate authority: root → issuer → leaves, all P-256.
//!
//! What is in force is replaced whole: who signs, whom the mesh trusts, and the state that both come from.
//! A state that is read later takes the place of the one before only where it is newer and of the same
//! authority; everything else is refused, and the last good one stays in force.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rcgen::PublicKeyData;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use weft_proto::spiffe::SpiffeId;
use zeroize::Zeroizing;

use super::document::Document;
use super::given::{Given, GivenText};
use super::make::Lifetimes;
use super::pair::Fingerprint;
use super::private::PrivateKey;
use super::signer::{IssueError, Leaf, Signer, own_id};
use super::state::{
    self, AUTHORITY_FILE, PUBLIC_MODE, SECRET_MODE, StateError, TRUST_BUNDLE_FILE, corrupt,
};
use super::{TrustBundle, WorkloadKey};

/// How long leaves live where nothing else is asked.
pub const DEFAULT_LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The shortest life of a leaf that can be asked: X.509 counts whole seconds.
pub const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(2);

/// Signs the mesh's certificates.
pub struct Authority {
    trust_domain: String,
    leaf_lifetime: Duration,
    in_force: ArcSwap<InForce>,
    bundle: watch::Sender<TrustBundle>,
    /// The state's generation.
    changes: watch::Sender<u64>,
    /// Makes writers take turns, and has what was signed.
    signed: Mutex<Signed>,
}

struct InForce {
    signer: Signer,
    /// `None` where somebody else gives the issuer.
    document: Option<Arc<Document>>,
}

/// When the last leaf expires of those that were signed here.
#[derive(Default)]
struct Signed {
    by_this: Option<SystemTime>,
    by_former: Option<SystemTime>,
}

/// A given issuer that may be taken.
pub struct Weighed {
    given: Given,
    is_known: bool,
}

/// Where an authority stands, for others to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Its issuer's certificate.
    pub issuer: Fingerprint,
    /// Whom it trusts.
    pub roots: Vec<Fingerprint>,
    /// When the last leaf expires that it has signed with another issuer.
    pub former_until: Option<SystemTime>,
    /// How long its leaves live.
    pub leaf_lifetime: Duration,
}

/// Why an authority's state cannot be used, or none be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAuthority(pub(super) String);

impl Authority {
    /// Opens the authority in a state directory, or makes it there once, with the lifetimes of default.
    /// See [`Authority::open_with`].
    pub fn open(
        state: &Path,
        trust_domain: &str,
        leaf_lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, StateError> {
        Self::open_with(
            state,
            trust_domain,
            leaf_lifetime,
            &Lifetimes::default(),
            now,
        )
    }

    /// Opens the authority in a state directory, or makes it there once.
    ///
    /// Refused: a trust bundle without its secret, files that do not fit each other, an authority of
    /// another trust domain, one that has expired.
    pub fn open_with(
        state: &Path,
        trust_domain: &str,
        leaf_lifetime: Duration,
        lifetimes: &Lifetimes,
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
                let made = Document::make(trust_domain, lifetimes, leaf_lifetime, now)
                    .map_err(|e| corrupt(&secret_path, e))?;
                state::create(&secret_path, made.to_text().as_bytes(), SECRET_MODE)?;
                let made = state::read(&secret_path)?;
                made.ok_or_else(|| corrupt(&secret_path, "vanished while it was made"))?
            }
        };

        let authority = Self::from_state(&secret, trust_domain, leaf_lifetime, now)
            .map_err(|e| corrupt(&secret_path, e.0))?;
        let own = authority.bundle.borrow().to_pem();
        match bundle {
            Some(bundle) if *bundle == own.as_bytes() => {}
            // One of another phase, as when a process ended between the two writes, is brought up to date.
            // One that cannot be read says nothing of another authority.
            Some(bundle)
                if TrustBundle::from_pem(&bundle)
                    .is_some_and(|bundle| !authority.is_known_to(&bundle)) =>
            {
                return Err(corrupt(
                    &bundle_path,
                    format!("does not hold the root of {AUTHORITY_FILE} beside it"),
                ));
            }
            _ => state::replace(&bundle_path, own.as_bytes(), PUBLIC_MODE)?,
        }
        Ok(authority)
    }

    /// Makes a root and an issuer, for whoever keeps them elsewhere than in a directory. What it returns
    /// is secret, and what [`Authority::from_state`] takes.
    pub fn make_state(
        trust_domain: &str,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, BadAuthority> {
        Self::make_state_with(
            trust_domain,
            &Lifetimes::default(),
            DEFAULT_LEAF_LIFETIME,
            now,
        )
    }

    /// The same with other lifetimes.
    pub fn make_state_with(
        trust_domain: &str,
        lifetimes: &Lifetimes,
        leaf_lifetime: Duration,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, BadAuthority> {
        Document::make(trust_domain, lifetimes, leaf_lifetime, now)
            .map(|document| document.to_text())
            .map_err(BadAuthority)
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
        let document = Document::parse(state, trust_domain, now).map_err(BadAuthority)?;
        let (bundle, generation) = (document.bundle(), document.generation);
        let in_force = InForce::of(document).map_err(BadAuthority)?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            leaf_lifetime,
            bundle: watch::Sender::new(bundle),
            changes: watch::Sender::new(generation),
            in_force: ArcSwap::from_pointee(in_force),
            signed: Mutex::default(),
        })
    }

    /// The authority of an issuer that somebody else makes. See [`Authority::weigh`] for later ones.
    pub fn given(
        text: &GivenText,
        trust_domain: &str,
        leaf_lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, BadAuthority> {
        let given = Given::parse(text, trust_domain, now).map_err(BadAuthority)?;
        let in_force = InForce {
            signer: given.signer,
            document: None,
        };
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            leaf_lifetime,
            bundle: watch::Sender::new(TrustBundle {
                roots: given.roots.into(),
            }),
            changes: watch::Sender::new(0),
            in_force: ArcSwap::from_pointee(in_force),
            signed: Mutex::default(),
        })
    }

    /// The mesh that this authority vouches for.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Whether this is the control plane's own identity, which no workload may have: every sidecar would take
    /// its word.
    pub fn is_own(&self, id: &SpiffeId) -> bool {
        own_id(&self.trust_domain).is_ok_and(|own| own == *id)
    }

    /// How long its leaves live.
    pub fn leaf_lifetime(&self) -> Duration {
        self.leaf_lifetime
    }

    /// Whom the mesh trusts, now and later.
    pub fn bundle(&self) -> watch::Receiver<TrustBundle> {
        self.bundle.subscribe()
    }

    /// Changes after what is in force does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The state that is in force; `None` where somebody else gives the issuer.
    pub fn document(&self) -> Option<Arc<Document>> {
        self.in_force.load().document.clone()
    }

    /// Whether somebody who trusts these roots knows this authority, or knew it.
    pub fn is_known_to(&self, bundle: &TrustBundle) -> bool {
        if let Some(document) = self.document() {
            return document.is_known_to(bundle);
        }
        let own = self.bundle.borrow();
        bundle.roots.iter().any(|root| own.roots.contains(root))
    }

    /// Where it stands.
    pub fn stand(&self) -> Stand {
        let signed = self.signed.lock();
        let roots = self.bundle.borrow().roots.clone();
        Stand {
            issuer: self.in_force.load().signer.fingerprint(),
            roots: roots.iter().map(Fingerprint::of).collect(),
            former_until: signed.by_former,
            leaf_lifetime: self.leaf_lifetime,
        }
    }

    /// The issuer's certificate.
    pub fn issuer(&self) -> CertificateDer<'static> {
        self.in_force.load().signer.certificate().clone()
    }

    /// Takes a state that was read later. Whether it is another one than that in force.
    ///
    /// Refused: what [`Authority::from_state`] refuses, a state that is older, and one of an authority that
    /// never had a root of this one.
    pub fn adopt(&self, state: &[u8], now: SystemTime) -> Result<bool, BadAuthority> {
        let document = Document::parse(state, &self.trust_domain, now).map_err(BadAuthority)?;
        let in_force = self.document();
        let in_force = in_force.ok_or_else(|| BadAuthority("the issuer is given".to_owned()))?;
        if document.generation == in_force.generation && document.is_same(&in_force) {
            return Ok(false);
        }
        if !document.is_known_to(&in_force.bundle()) {
            return Err(BadAuthority("it is another authority's".to_owned()));
        }
        if document.generation <= in_force.generation {
            return Err(BadAuthority(format!(
                "it is older (generation {}) than what is in force (generation {}): its certificates may \
                 have been retired",
                document.generation, in_force.generation
            )));
        }
        self.put_in_force(document).map_err(BadAuthority)?;
        Ok(true)
    }

    /// Puts a state in force that follows from the one that is.
    pub(crate) fn put_in_force(&self, document: Document) -> Result<(), String> {
        let bundle = document.bundle();
        let next = InForce::of(document)?;
        self.replace(next, Some(bundle));
        Ok(())
    }

    /// Looks at a given issuer that was read later. Nothing of it is in force before [`Authority::take`].
    pub fn weigh(&self, text: &GivenText, now: SystemTime) -> Result<Weighed, BadAuthority> {
        let given = Given::parse(text, &self.trust_domain, now).map_err(BadAuthority)?;
        let known = self.bundle.borrow().roots.clone();
        // By the roots of now alone: whoever trusts them believes it at once.
        let is_known = given.signer.prove(&self.trust_domain, &known, now).is_ok();
        Ok(Weighed { given, is_known })
    }

    /// Signs with a given issuer from now on.
    pub fn take(&self, weighed: Weighed) {
        let next = InForce {
            signer: weighed.given.signer,
            document: None,
        };
        self.replace(next, None);
    }

    /// Trusts these roots from now on; for given ones.
    pub fn trust(&self, roots: Vec<CertificateDer<'static>>) {
        let bundle = TrustBundle {
            roots: roots.into(),
        };
        self.say(bundle);
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn replace(&self, next: InForce, bundle: Option<TrustBundle>) {
        let mut signed = self.signed.lock();
        if next.signer.fingerprint() != self.in_force.load().signer.fingerprint() {
            signed.by_former = signed.by_former.max(signed.by_this.take());
        }
        self.in_force.store(Arc::new(next));
        drop(signed);
        if let Some(bundle) = bundle {
            self.say(bundle);
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn say(&self, bundle: TrustBundle) {
        self.bundle.send_if_modified(|known| {
            let is_new = *known != bundle;
            *known = bundle;
            is_new
        });
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

    /// Makes a key and a certificate for the control plane itself. Whoever takes the key overwrites it.
    pub fn issue_own(&self, now: SystemTime) -> Result<(Leaf, PrivateKeyDer<'static>), IssueError> {
        let id = own_id(&self.trust_domain)?;
        let key = PrivateKey::generate().map_err(|e| IssueError::Signing(e.to_string()))?;
        let leaf = self.sign(&id, &key, now)?;
        let key = PrivatePkcs8KeyDer::from(key.der().to_vec());
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
        // Written down before the state can change: a leaf of the former issuer is always known as one.
        let in_force = {
            let mut signed = self.signed.lock();
            signed.by_this = signed.by_this.max(Some(now + self.leaf_lifetime));
            self.in_force.load_full()
        };
        in_force.signer.sign(id, key, self.leaf_lifetime, now)
    }
}

impl Weighed {
    /// Whether whoever trusts the roots of now believes it.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// Whom to trust with it.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.given.roots
    }

    /// What tells it from another one.
    pub fn digest(&self) -> (Fingerprint, Vec<Fingerprint>) {
        self.given.digest()
    }
}

impl InForce {
    fn of(document: Document) -> Result<Self, String> {
        let key = PrivateKey::from_pkcs8(document.signing.issuer_key.der())?;
        Ok(Self {
            signer: Signer::new(vec![document.signing.issuer.clone()], key)?,
            document: Some(Arc::new(document)),
        })
    }
}
