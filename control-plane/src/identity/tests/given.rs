//! Issuers that somebody else makes: what is taken, and what is refused with which words.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use zeroize::Zeroizing;

use crate::identity::make::set_validity;
use crate::identity::signer::verify;
use crate::identity::{Authority, GivenText};

const DOMAIN: &str = "mesh.test";
const HOUR: Duration = Duration::from_secs(3600);

/// A root of somebody's.
pub(crate) struct Root {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca(name: &str, lives: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let now = SystemTime::now();
    set_validity(&mut params, now - HOUR, now + lives);
    params
}

impl Root {
    pub(crate) fn new(name: &str) -> Self {
        Self::of(ca(name, 100 * HOUR))
    }

    fn of(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// An issuer under it, with these roots beside it.
    pub(crate) fn issues(&self, roots: &[&Self]) -> GivenText {
        self.issues_as(&ca("issuer", 10 * HOUR), roots)
    }

    fn issues_as(&self, params: &CertificateParams, roots: &[&Self]) -> GivenText {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        GivenText {
            certificate: certificate.pem().into_bytes(),
            key: Zeroizing::new(key.serialize_pem().into_bytes()),
            roots: roots
                .iter()
                .map(|root| &*root.pem)
                .collect::<String>()
                .into_bytes(),
        }
    }
}

fn given(text: &GivenText) -> Result<Authority, String> {
    let authority = Authority::given(text, DOMAIN, HOUR, SystemTime::now());
    authority.map_err(|error| error.to_string())
}

#[test]
fn what_it_signs_is_believed_by_whoever_trusts_its_roots() {
    let (root, other) = (Root::new("one"), Root::new("two"));
    let authority = given(&root.issues(&[&other, &root])).unwrap();
    let now = SystemTime::now();
    let (leaf, _) = authority.issue_own(now).unwrap();
    let roots = authority.bundle().borrow().roots.clone();
    assert_eq!((roots.len(), leaf.chain.len()), (2, 2));
    verify(&leaf, &roots, now).unwrap();
    assert!(
        authority.document().is_none(),
        "there is no state of its own"
    );

    // As some give it: with the root behind the issuer, and with the mesh's name.
    let mut behind = root.issues(&[&root]);
    behind.certificate.extend(root.pem.bytes());
    let (leaf, _) = given(&behind).unwrap().issue_own(now).unwrap();
    assert_eq!(leaf.chain.len(), 2);
    let mut named = ca("issuer", 10 * HOUR);
    named.subject_alt_names = vec![SanType::URI("spiffe://mesh.test".try_into().unwrap())];
    given(&root.issues_as(&named, &[&root])).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let (root, other) = (Root::new("one"), Root::new("two"));
    let good = || root.issues(&[&root]);
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = ca("issuer", 10 * HOUR);
        change(&mut params);
        root.issues_as(&params, &[&root])
    };
    let narrow = {
        let mut params = ca("narrow", 100 * HOUR);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        Root::of(params)
    };
    let gone = Root::of({
        let mut params = ca("gone", HOUR);
        let now = SystemTime::now();
        set_validity(&mut params, now - 3 * HOUR, now - HOUR);
        params
    });
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let cases: Vec<(GivenText, &str)> = vec![
        (
            root.issues(&[&other]),
            "not believed by who trusts its roots",
        ),
        (narrow.issues(&[&narrow]), "no room for issuers"),
        (root.issues(&[]), "0 roots"),
        (root.issues(&[&root, &gone]), "a root has expired"),
        (with(&|it| it.is_ca = IsCa::ExplicitNoCa), "isCA"),
        (
            with(&|it| it.key_usages = vec![KeyUsagePurpose::CrlSign]),
            "key usage",
        ),
        (
            with(&|it| {
                let uri = "spiffe://other.test".try_into().unwrap();
                it.subject_alt_names = vec![SanType::URI(uri)];
            }),
            "spiffe://other.test",
        ),
        (
            with(&|it| {
                let now = SystemTime::now();
                set_validity(it, now - 3 * HOUR, now - HOUR);
            }),
            "the issuer's certificate has expired",
        ),
        (
            GivenText {
                key: good().key,
                ..good()
            },
            "not that of the issuer's certificate",
        ),
        (
            GivenText {
                key: Zeroizing::new(p384.serialize_pem().into_bytes()),
                ..good()
            },
            "not a P-256 key",
        ),
        (
            GivenText {
                key: Zeroizing::new(b"nothing".to_vec()),
                ..good()
            },
            "not a P-256 key",
        ),
        (
            GivenText {
                certificate: Vec::new(),
                ..good()
            },
            "0 certificates of the issuer",
        ),
        (
            GivenText {
                certificate: good().certificate[..200].to_vec(),
                ..good()
            },
            "not PEM",
        ),
    ];
    for (text, words) in cases {
        let refused = given(&text)
            .err()
            .unwrap_or_else(|| panic!("{words}: it was taken"));
        assert!(refused.contains(words), "{refused}, not {words}");
        assert!(!refused.contains("BEGIN"), "{refused}");
    }
}

#[test]
fn a_later_one_is_weighed_before_it_is_taken() {
    let (one, two) = (Root::new("one"), Root::new("two"));
    let authority = given(&one.issues(&[&one])).unwrap();
    let now = SystemTime::now();
    let before = authority.stand();
    let same_root = authority.weigh(&one.issues(&[&one]), now).unwrap();
    assert!(same_root.is_known());
    let other_root = authority.weigh(&two.issues(&[&two]), now).unwrap();
    assert!(!other_root.is_known());
    assert!(authority.weigh(&two.issues(&[&one]), now).is_err());
    assert_eq!(authority.stand(), before, "looking changes nothing");
    authority.issue_own(now).unwrap();
    authority.take(same_root);
    assert_ne!(authority.stand().issuer, before.issuer);
    assert_eq!(authority.stand().former_until, Some(now + HOUR));
}
