//! Properties of the authority and of tokens.

mod document;
pub(crate) mod given;
mod rotation;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::UnixTime;
use tempfile::TempDir;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use weft_proto::spiffe::SpiffeId;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::tokens::{JoinTokenReviewer, JoinTokens, TokenError};
use super::{
    Authority, CsrError, DEFAULT_LEAF_LIFETIME, IssueError, Leaf, ReviewError, StateError,
    TRUST_BUNDLE_FILE, TokenReviewer, WorkloadKey,
};

const DOMAIN: &str = "mesh.test";

fn open(state: &Path) -> Result<Authority, StateError> {
    Authority::open(state, DOMAIN, DEFAULT_LEAF_LIFETIME, SystemTime::now())
}

fn state() -> (TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    (directory, state)
}

fn web() -> SpiffeId {
    SpiffeId::new(DOMAIN, "shop", "web").unwrap()
}

fn csr(key: &KeyPair) -> Vec<u8> {
    let params = CertificateParams::default();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn workload_key() -> WorkloadKey {
    WorkloadKey::from_csr(&csr(&KeyPair::generate().unwrap())).unwrap()
}

fn verify(authority: &Authority, leaf: &Leaf, at: SystemTime) -> Result<(), webpki::Error> {
    let bundle = authority.bundle().borrow().clone();
    let anchors = [anchor_from_trusted_cert(&bundle.roots[0])?];
    let time = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
    let certificate = EndEntityCert::try_from(&leaf.chain[0])?;
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        let algorithms = [webpki::aws_lc_rs::ECDSA_P256_SHA256];
        certificate.verify_for_usage(
            &algorithms,
            &anchors,
            &leaf.chain[1..],
            time,
            usage,
            None,
            None,
        )?;
    }
    Ok(())
}

#[test]
fn a_leaf_is_what_a_peer_wants_to_see() {
    let (_directory, state) = state();
    let authority = open(&state).unwrap();
    let now = SystemTime::now();
    let leaf = authority.issue(&web(), &workload_key(), now).unwrap();

    assert_eq!(leaf.chain.len(), 2);
    assert_eq!(leaf.not_after, now + DEFAULT_LEAF_LIFETIME);
    verify(&authority, &leaf, now).unwrap();
    verify(&authority, &leaf, now - Duration::from_secs(14 * 60)).unwrap();
    assert!(verify(&authority, &leaf, now - Duration::from_secs(16 * 60)).is_err());
    assert!(verify(&authority, &leaf, leaf.not_after + Duration::from_secs(2)).is_err());

    let names = EndEntityCert::try_from(&leaf.chain[0]).unwrap();
    assert_eq!(
        names.valid_uri_names().collect::<Vec<_>>(),
        [web().as_str()]
    );
    assert_eq!(names.valid_dns_names().count(), 0);

    let (_, parsed) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
    assert!(!parsed.is_ca());
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let extended = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(parsed.subject().iter().next().is_none());
}

#[test]
fn serials_are_random_and_positive() {
    let (_directory, state) = state();
    let authority = open(&state).unwrap();
    let serial = || {
        let leaf = authority
            .issue(&web(), &workload_key(), SystemTime::now())
            .unwrap();
        let (_, parsed) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
        parsed.raw_serial().to_vec()
    };
    let (one, other) = (serial(), serial());
    assert_ne!(one, other);
    assert!(one.len() == 16 && one[0] & 0x80 == 0);
}

#[test]
fn short_lives_begin_no_further_back_than_they_last() {
    let (_directory, state) = state();
    let life = Duration::from_secs(4);
    let now = SystemTime::now();
    let authority = Authority::open(&state, DOMAIN, life, now).unwrap();
    let leaf = authority.issue(&web(), &workload_key(), now).unwrap();
    let (_, parsed) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
    let validity = parsed.validity();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(seconds, 8);
}

#[test]
fn nothing_of_a_request_counts_but_its_key() {
    let (_directory, state) = state();
    let authority = open(&state).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "root");
    params.subject_alt_names.push(SanType::URI(
        "spiffe://mesh.test/ns/weft/sa/control-plane"
            .try_into()
            .unwrap(),
    ));
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let request = params.serialize_request(&key).unwrap();

    let workload = WorkloadKey::from_csr(request.der()).unwrap();
    let leaf = authority
        .issue(&web(), &workload, SystemTime::now())
        .unwrap();
    let (_, parsed) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
    assert!(!parsed.is_ca());
    assert!(parsed.subject().iter().next().is_none());
    assert_eq!(
        parsed.public_key().subject_public_key.data,
        key.public_key_raw()
    );
    let names: Vec<_> = parsed
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.len()),
            _ => None,
        })
        .collect();
    assert_eq!(names, [1]);
}

#[test]
fn only_p256_requests_that_prove_their_key_are_taken() {
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(
            WorkloadKey::from_csr(&csr(&key)).unwrap_err(),
            CsrError::NotP256
        );
    }

    let good = csr(&KeyPair::generate().unwrap());
    assert_eq!(
        WorkloadKey::from_csr(b"").unwrap_err(),
        CsrError::Unreadable
    );
    assert_eq!(
        WorkloadKey::from_csr(&good[..good.len() - 1]).unwrap_err(),
        CsrError::Unreadable
    );
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(
        WorkloadKey::from_csr(&longer).unwrap_err(),
        CsrError::Unreadable
    );
    assert_eq!(
        WorkloadKey::from_csr(&vec![0x30; 64 * 1024]).unwrap_err(),
        CsrError::Unreadable
    );

    // Somebody else's key in a request of one's own: the signature does not fit.
    let mut forged = good.clone();
    let other = KeyPair::generate().unwrap();
    let own = X509Request::key_position(&good);
    forged[own.clone()].copy_from_slice(&other.public_key_raw()[..own.len()]);
    assert_eq!(
        WorkloadKey::from_csr(&forged).unwrap_err(),
        CsrError::BadSignature
    );
}

struct X509Request;

impl X509Request {
    /// Where the uncompressed point lies in a request.
    fn key_position(der: &[u8]) -> std::ops::Range<usize> {
        let head = [0x03, 0x42, 0x00, 0x04];
        let at = der
            .windows(head.len())
            .position(|window| window == head)
            .unwrap();
        at + 3..at + 3 + 65
    }
}

#[test]
fn the_authority_comes_back_as_it_was() {
    let (_directory, state) = state();
    let leaf = open(&state)
        .unwrap()
        .issue(&web(), &workload_key(), SystemTime::now())
        .unwrap();
    let again = open(&state).unwrap();
    verify(&again, &leaf, SystemTime::now()).unwrap();

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("authority.pem")), 0o600);
    let names: Vec<_> = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "no drafts are left behind: {names:?}");
}

#[test]
fn starting_twice_at_once_makes_one_authority() {
    let (_directory, state) = state();
    let roots: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| open(&state).unwrap()))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap().bundle().borrow().clone())
            .collect()
    });
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_lost_secret_is_refused_and_not_replaced() {
    let (_directory, state) = state();
    open(&state).unwrap();
    fs::remove_file(state.join("authority.pem")).unwrap();
    let error = open(&state).err().unwrap();
    assert!(matches!(error, StateError::SecretLost { .. }), "{error}");
    assert!(!state.join("authority.pem").exists());
}

#[test]
fn a_lost_bundle_is_written_again() {
    let (_directory, state) = state();
    open(&state).unwrap();
    let bundle = state.join(TRUST_BUNDLE_FILE);
    let before = fs::read(&bundle).unwrap();
    assert_eq!(
        fs::metadata(&bundle).unwrap().permissions().mode() & 0o777,
        0o644
    );
    fs::remove_file(&bundle).unwrap();
    open(&state).unwrap();
    assert_eq!(fs::read(&bundle).unwrap(), before);
}

#[test]
fn broken_or_foreign_state_is_refused() {
    let (_one, state_one) = state();
    let (_two, state_two) = state();
    open(&state_one).unwrap();
    open(&state_two).unwrap();
    let secret = state_one.join("authority.pem");
    let good = fs::read_to_string(&secret).unwrap();
    let foreign = fs::read_to_string(state_two.join("authority.pem")).unwrap();
    let parts = |text: &str| -> Vec<String> {
        text.split_inclusive("-----\n")
            .collect::<Vec<_>>()
            .chunks(2)
            .map(<[&str]>::concat)
            .collect()
    };
    let (mine, theirs) = (parts(&good), parts(&foreign));
    assert_eq!((mine.len(), theirs.len()), (4, 4));
    let mut cases = vec![
        String::new(),
        "no PEM at all".to_owned(),
        mine[..3].concat(),
        foreign.clone(),
        good.replace("MII", "AAA"),
    ];
    for index in 0..4 {
        let mut mixed = mine.clone();
        mixed[index].clone_from(&theirs[index]);
        cases.push(mixed.concat());
    }
    for case in cases {
        fs::write(&secret, &case).unwrap();
        let error = open(&state_one).err().expect(&case);
        assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
        assert_eq!(fs::read_to_string(&secret).unwrap(), case, "left as it was");
    }
    fs::write(&secret, &good).unwrap();
    open(&state_one).unwrap();

    let now = SystemTime::now();
    let other = Authority::open(&state_one, "other.test", DEFAULT_LEAF_LIFETIME, now);
    assert!(matches!(other.err(), Some(StateError::Corrupt { .. })));
    let later = now + Duration::from_secs(11 * 365 * 24 * 3600);
    let expired = Authority::open(&state_one, DOMAIN, DEFAULT_LEAF_LIFETIME, later);
    assert!(matches!(expired.err(), Some(StateError::Corrupt { .. })));
}

#[test]
fn other_trust_domains_are_not_vouched_for() {
    let (_directory, state) = state();
    let authority = open(&state).unwrap();
    let id = SpiffeId::new("other.test", "shop", "web").unwrap();
    let issued = authority.issue(&id, &workload_key(), SystemTime::now());
    assert!(matches!(issued, Err(IssueError::OtherTrustDomain)));
}

#[test]
fn the_control_plane_vouches_for_itself() {
    let (_directory, state) = state();
    let authority = open(&state).unwrap();
    let now = SystemTime::now();
    let (leaf, _key) = authority.issue_own(now).unwrap();
    verify(&authority, &leaf, now).unwrap();
    let certificate = EndEntityCert::try_from(&leaf.chain[0]).unwrap();
    let names: Vec<_> = certificate.valid_uri_names().collect();
    assert_eq!(names, ["spiffe://mesh.test/ns/weft/sa/control-plane"]);
}

#[test]
fn tokens_are_good_for_their_workload_only() {
    let (_directory, state) = state();
    let tokens = JoinTokens::open(&state).unwrap();
    let token = tokens.issue("shop", "web-1").unwrap();
    // As another process sees it.
    let elsewhere = JoinTokens::open(&state).unwrap();
    assert_eq!(elsewhere.owner(&token).unwrap(), ("shop", "web-1"));

    tokens.issue("shop", "web-2").unwrap();
    for wrong in [
        token.replace("web-1", "web-2"),
        token.replace("web-1", "web-3"),
        token.replace("shop", "bank"),
        format!("{}0", token.as_str()),
        token[..token.len() - 1].to_owned(),
        String::new(),
        "weft-join/../tokens/x".to_owned(),
        "weft-join/shop/../../authority.pem/x".to_owned(),
    ] {
        let refused = elsewhere.owner(&wrong);
        assert!(matches!(refused, Err(ReviewError::Invalid(_))), "{wrong}");
    }
}

#[test]
fn only_a_hash_is_at_rest() {
    let (_directory, state) = state();
    let token = JoinTokens::open(&state)
        .unwrap()
        .issue("shop", "web")
        .unwrap();
    let secret = token.rsplit('/').next().unwrap();
    let path = state.join("tokens/shop/web");
    let content = fs::read_to_string(&path).unwrap();
    assert!(!content.contains(secret));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_rotation_leaves_one_older_token() {
    let (_directory, state) = state();
    let tokens = JoinTokens::open(&state).unwrap();
    let issued: Vec<_> = (0..3)
        .map(|_| tokens.issue("shop", "web").unwrap())
        .collect();
    assert!(tokens.owner(&issued[0]).is_err());
    assert!(tokens.owner(&issued[1]).is_ok());
    assert!(tokens.owner(&issued[2]).is_ok());
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    let (_directory, state) = state();
    let tokens = JoinTokens::open(&state).unwrap();
    for name in ["", ".", "..", "a/b", "A", "-a", "a b", &"x".repeat(254)] {
        assert!(
            matches!(tokens.issue("shop", name), Err(TokenError::BadName(_))),
            "{name}"
        );
        assert!(
            matches!(tokens.issue(name, "web"), Err(TokenError::BadName(_))),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_review_needs_a_workload_of_the_mesh() {
    let (_directory, state) = state();
    let tokens = JoinTokens::open(&state).unwrap();
    let known = tokens.issue("shop", "web").unwrap();
    let unknown = tokens.issue("shop", "gone").unwrap();
    let accounts = |namespace: &str, workload: &str| {
        ((namespace, workload) == ("shop", "web")).then(|| "frontend".to_owned())
    };
    let reviewer = JoinTokenReviewer::new(tokens, Box::new(accounts));

    let identity = reviewer.review(&known).await.unwrap();
    assert_eq!(identity.service_account, "frontend");
    assert!(matches!(
        reviewer.review(&unknown).await,
        Err(ReviewError::UnknownWorkload { .. })
    ));
    assert!(matches!(
        reviewer.review("nothing").await,
        Err(ReviewError::Invalid(_))
    ));
}
