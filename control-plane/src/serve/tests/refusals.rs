//! The table of requests for certificates that must be refused: tokens, requests, and who asks.

use aws_lc_rs::signature::{RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use tonic::Code;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::harness::{Mesh, csr, workload};
use crate::identity::tokens::JoinTokens;

/// One byte more than a request may have.
const OVERSIZED: usize = 16 * 1024 + 1;
/// The OID of ECDSA with SHA-256, in DER.
const ECDSA_SHA256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// One row: what is asked with, and how it is refused.
struct Row {
    name: &'static str,
    token: String,
    csr: Vec<u8>,
    code: Code,
}

#[tokio::test]
async fn each_bad_request_for_a_certificate_is_refused() {
    let mut mesh = Mesh::start().await;
    mesh.change(|objects| {
        let mut own = workload("impostor", "control-plane", 90);
        own.object.name.namespace = "weft".to_owned();
        objects.workloads.push(own);
    });
    let good = csr(&KeyPair::generate().unwrap());
    let token = mesh.token("web-1");
    let mut rows = Vec::new();
    for (name, token, code) in tokens(&mesh, &token) {
        rows.push(Row {
            name,
            token,
            csr: good.clone(),
            code,
        });
    }
    for (name, csr) in requests(&good) {
        rows.push(Row {
            name,
            token: token.clone(),
            csr,
            code: Code::InvalidArgument,
        });
    }
    // Nothing is read of a request before its token has been believed.
    rows.push(Row {
        name: "a bad token with a bad request",
        token: "garbage".to_owned(),
        csr: b"garbage".to_vec(),
        code: Code::Unauthenticated,
    });

    for (refused, row) in rows.iter().enumerate() {
        let status = mesh.certify(&row.token, row.csr.clone()).await.err();
        let status = status.unwrap_or_else(|| panic!("{}: certified", row.name));
        assert_eq!(status.code(), row.code, "{}: {status}", row.name);
        assert!(
            row.token.len() < 8 || !status.message().contains(&row.token),
            "{}: the token is shown",
            row.name
        );
        let page = mesh.metrics.render();
        let count = |result: &str, count: usize| {
            format!("weft_control_plane_certificates_total{{result=\"{result}\"}} {count}\n")
        };
        assert!(
            page.contains(&count("refused", refused + 1)),
            "{}",
            row.name
        );
        assert!(page.contains(&count("issued", 0)), "{}", row.name);
    }
    // Over 64 KiB a message is not even read, and counted as no request.
    let huge = mesh.certify(&token, vec![0x30; 64 * 1024]).await;
    assert_eq!(huge.unwrap_err().code(), Code::OutOfRange);
    mesh.certify(&token, good).await.unwrap();
}

#[tokio::test]
async fn what_a_request_asks_for_is_not_looked_at() {
    let mesh = Mesh::start().await;
    let token = mesh.token("web-1");
    let key = KeyPair::generate().unwrap();
    for wish in [
        "spiffe://mesh.test/ns/shop/sa/cart",
        "spiffe://mesh.test/ns/weft/sa/control-plane",
        "spiffe://other.test/ns/shop/sa/web",
    ] {
        let mut params = CertificateParams::new(vec!["cart.example".to_owned()]).unwrap();
        let uri = SanType::URI(wish.try_into().unwrap());
        params.subject_alt_names.push(uri);
        params.distinguished_name.push(DnType::CommonName, wish);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let request = params.serialize_request(&key).unwrap();
        let answer = mesh.certify(&token, request.der().to_vec()).await.unwrap();
        assert_eq!(answer.spiffe_id, "spiffe://mesh.test/ns/shop/sa/web");
        let (_, leaf) = X509Certificate::from_der(&answer.chain[0]).unwrap();
        assert!(!leaf.is_ca());
        assert!(leaf.subject().iter().next().is_none());
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(
            names.value.general_names,
            [GeneralName::URI("spiffe://mesh.test/ns/shop/sa/web")]
        );
    }
}

/// Tokens, of which none is good by the time that it is shown.
fn tokens(mesh: &Mesh, good: &str) -> Vec<(&'static str, String, Code)> {
    let (rest, secret) = good.rsplit_once('/').unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let other_mesh = JoinTokens::open(elsewhere.path()).unwrap();
    let with_path = |path: &str| format!("weft-join/{path}/{secret}");
    let rotated = mesh.token("cart-1");
    mesh.token("cart-1");
    mesh.token("cart-1");
    let own = JoinTokens::open(mesh.state()).unwrap();
    let at_rest = std::fs::read_to_string(mesh.state().join("tokens/shop/web-1")).unwrap();
    let at_rest = at_rest.lines().next().unwrap();
    vec![
        ("none", String::new(), Code::Unauthenticated),
        ("garbage", "garbage".to_owned(), Code::Unauthenticated),
        (
            "one byte short",
            good[..good.len() - 1].to_owned(),
            Code::Unauthenticated,
        ),
        ("one byte more", format!("{good}0"), Code::Unauthenticated),
        ("in upper case", good.to_uppercase(), Code::Unauthenticated),
        (
            "its secret in upper case",
            format!("{rest}/{}", secret.to_uppercase()),
            Code::Unauthenticated,
        ),
        (
            "a line break behind it",
            format!("{good}\n"),
            Code::Unauthenticated,
        ),
        (
            "one part more",
            format!("{good}/more"),
            Code::Unauthenticated,
        ),
        ("no secret", rest.to_owned(), Code::Unauthenticated),
        ("an empty secret", format!("{rest}/"), Code::Unauthenticated),
        (
            "a secret of zeros",
            format!("{rest}/{}", "0".repeat(64)),
            Code::Unauthenticated,
        ),
        (
            "another workload's name",
            with_path("shop/cart-1"),
            Code::Unauthenticated,
        ),
        (
            "another namespace",
            with_path("other/web-1"),
            Code::Unauthenticated,
        ),
        (
            "a path upwards",
            with_path("shop/../shop/web-1"),
            Code::Unauthenticated,
        ),
        (
            "two dots as a name",
            with_path("shop/.."),
            Code::Unauthenticated,
        ),
        ("an empty name", with_path("shop/"), Code::Unauthenticated),
        (
            "a NUL in a name",
            with_path("shop/web-1\0"),
            Code::Unauthenticated,
        ),
        (
            "a name that is too long",
            with_path(&format!("shop/{}", "a".repeat(254))),
            Code::Unauthenticated,
        ),
        (
            "17 KiB",
            format!("{good}{}", "0".repeat(17 * 1024)),
            Code::Unauthenticated,
        ),
        ("rotated away", rotated, Code::Unauthenticated),
        (
            "of another mesh",
            other_mesh.issue("shop", "web-1").unwrap().to_string(),
            Code::Unauthenticated,
        ),
        (
            "of a platform",
            "eyJhbGciOiJSUzI1NiJ9.e30.c2ln".to_owned(),
            Code::Unauthenticated,
        ),
        (
            "the hash that is at rest",
            format!("{rest}/{at_rest}"),
            Code::Unauthenticated,
        ),
        (
            "a workload that the mesh has not",
            mesh.token("nobody"),
            Code::Unavailable,
        ),
        (
            "a workload of the control plane's account",
            own.issue("weft", "impostor").unwrap().to_string(),
            Code::PermissionDenied,
        ),
    ]
}

/// A request of a key of RSA-1024 whose own signature is good, as is shown first.
fn weak_request() -> Vec<u8> {
    let (_, pem) = parse_x509_pem(include_bytes!("weak.csr")).unwrap();
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    let info = &request.certification_request_info;
    let key = &info.subject_pki.subject_public_key.data;
    UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, key)
        .verify(info.raw, &request.signature_value.data)
        .unwrap();
    pem.contents
}

/// Requests that no certificate comes of, with a token that is good.
fn requests(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let oversized = {
        let mut params = CertificateParams::default();
        let padding = vec![0; OVERSIZED];
        let padding = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999], padding);
        params.custom_extensions.push(padding);
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    };
    let flipped = |from_end: usize| {
        let mut der = good.to_vec();
        let at = der.len() - from_end;
        der[at] ^= 1;
        der
    };
    let algorithm = good
        .windows(ECDSA_SHA256.len())
        .rposition(|window| window == ECDSA_SHA256)
        .unwrap();
    let other_algorithm = {
        let mut der = good.to_vec();
        der[algorithm + ECDSA_SHA256.len() - 1] = 0x04;
        der
    };
    let certificate = {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::default();
        params.self_signed(&key).unwrap().der().to_vec()
    };
    let twice = [good, good].concat();
    let pem = {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key);
        request.unwrap().pem().unwrap().into_bytes()
    };
    vec![
        ("no request", Vec::new()),
        ("garbage as request", b"garbage".to_vec()),
        ("a request cut off", good[..good.len() - 1].to_vec()),
        ("a request with more behind it", twice),
        ("a request in PEM", pem),
        ("a certificate as request", certificate),
        ("a request of over 16 KiB", oversized),
        ("32 KiB of nothing", vec![0x30; 32 * 1024]),
        ("P-384", csr(&p384)),
        ("Ed25519", csr(&ed25519)),
        ("RSA", csr(&rsa)),
        ("RSA-1024", weak_request()),
        ("another signature algorithm", other_algorithm),
        ("a signature that does not fit", flipped(1)),
    ]
}
