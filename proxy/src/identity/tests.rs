mod expiry;
mod resumption;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, IsCa, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::certify::Certifier;
use super::testing::{Ca, FakeControlPlane, Leaf, control_plane_id, spiffe};
use super::verify::IdentityError;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

fn install(ca: &Ca, leaf: Leaf) -> Result<Arc<Credentials>, IdentityError> {
    let Leaf { chain, key } = leaf;
    Identity::new().install(chain, key, ca.roots(), SystemTime::now())
}

/// Installs without the checks of the own certificate, as a broken or hostile peer would.
fn hostile(ca: &Ca, params: &rcgen::CertificateParams) -> Arc<CertifiedKey> {
    let Leaf { chain, key } = ca.sign(params);
    Arc::new(CertifiedKey::from_der(chain, key.into(), tls::provider()).unwrap())
}

#[tokio::test]
async fn mesh_tls_both_ways() {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
    for alpn in Alpn::ALL {
        let (near, far) = duplex(64 * 1024);
        let id = spiffe("cart");
        let (client, server) = tokio::join!(web.connect(near, &id, alpn), cart.accept(far));
        let mut client = client.unwrap();
        let (mut server, peer, spoken) = server.unwrap();
        assert_eq!(peer, spiffe("web"));
        assert_eq!(spoken, alpn);
        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        let mut read = [0; 4];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");
    }
}

#[tokio::test]
async fn what_is_settled() {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
    let web = web.current().unwrap();
    for alpn in Alpn::ALL {
        let (near, far) = duplex(64 * 1024);
        let id = spiffe("cart");
        let client = tls::connect_by_library(web.tls.client(alpn), near, &id, alpn.id());
        let (client, server) = tokio::join!(client, cart.accept(far));
        let (client, (_, _, spoken)) = (client.unwrap(), server.unwrap());
        assert_eq!(spoken, alpn);
        let (_, connection) = client.get_ref();
        assert_eq!(
            connection.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
        let suite = connection.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519);
        assert_eq!(
            connection.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
        assert_eq!(connection.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn another_workload_is_refused_before_a_byte_is_sent() {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
    let (near, far) = duplex(64 * 1024);
    let expected = spiffe("orders");
    let client = async {
        let failure = web
            .connect(near, &expected, Alpn::Http1)
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(failure.outcome, Outcome::TlsFailed);
        assert_eq!(failure.processed, crate::outcome::Processed::Never);
        assert!(failure.detail.contains("sa/cart"), "{failure}");
    };
    let server = async {
        if let Ok((mut stream, _, _)) = cart.accept(far).await {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        }
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn another_authority_is_refused_both_ways() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (web, stranger) = (ca.identity(&spiffe("web")), other.identity(&spiffe("cart")));
    let id = spiffe("cart");

    let (near, far) = duplex(64 * 1024);
    let (client, server) = tokio::join!(web.connect(near, &id, Alpn::Http2), stranger.accept(far));
    assert_eq!(client.map(drop).unwrap_err().outcome, Outcome::TlsFailed);
    assert_eq!(server.map(drop).unwrap_err().outcome, Outcome::TlsFailed);

    // Where only the server can tell: a client that believes the server, but is not believed.
    let (near, far) = duplex(64 * 1024);
    let roots = TrustRoots::new(ca.roots()).unwrap();
    let key = hostile(&other, &Ca::params(spiffe("web").as_str(), HOUR));
    let cart = ca.identity(&spiffe("cart"));
    let mut config = tls::client_config(&roots, "cluster.local", Some(&key)).unwrap();
    config.alpn_protocols = vec![Alpn::Http2.id().to_vec()];
    let client = tls::connect_by_library(Arc::new(config), near, &id, Alpn::Http2.id());
    let (_, server) = tokio::join!(client, cart.accept(far));
    assert_eq!(server.map(drop).unwrap_err().outcome, Outcome::TlsFailed);
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let ca = Ca::new();
    let cart = ca.identity(&spiffe("cart"));
    let roots = TrustRoots::new(ca.roots()).unwrap();
    let mut config = tls::client_config(&roots, "cluster.local", None).unwrap();
    config.alpn_protocols = vec![Alpn::Http2.id().to_vec()];
    let (near, far) = duplex(64 * 1024);
    let id = spiffe("cart");
    let client = tls::connect_by_library(Arc::new(config), near, &id, Alpn::Http2.id());
    let (_, server) = tokio::join!(client, cart.accept(far));
    assert_eq!(server.map(drop).unwrap_err().outcome, Outcome::TlsFailed);
}

#[tokio::test]
async fn leaves_that_break_the_rules_are_refused_both_ways() {
    let ca = Ca::new();
    let good = Ca::params(spiffe("evil").as_str(), HOUR);
    let with = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = good.clone();
        change(&mut params);
        params
    };
    let foreign = Ca::params("spiffe://other.mesh/ns/shop/sa/evil", HOUR);
    let cases = [
        (
            "expired",
            with(&|it| it.not_after = (SystemTime::now() - Duration::from_secs(5)).into()),
        ),
        (
            "not yet valid",
            with(&|it| it.not_before = (SystemTime::now() + HOUR / 2).into()),
        ),
        (
            "a CA",
            with(&|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        ("no key usage", with(&|it| it.key_usages.clear())),
        ("no name", with(&|it| it.subject_alt_names.clear())),
        (
            "two names",
            with(&|it| {
                let second = SanType::URI(spiffe("web").as_str().try_into().unwrap());
                it.subject_alt_names.push(second);
            }),
        ),
        (
            "no SPIFFE id",
            Ca::params("https://cluster.local/ns/shop/sa/evil", HOUR),
        ),
        ("foreign trust domain", foreign),
    ];
    let web = ca.identity(&spiffe("web"));
    let roots = TrustRoots::new(ca.roots()).unwrap();
    for (what, params) in cases {
        let refused = install(&ca, ca.sign(&params)).is_err();
        // Its own trust domain is what a certificate says: only peers can tell.
        assert!(refused || what == "foreign trust domain", "{what}");

        let key = hostile(&ca, &params);
        let mut config = tls::client_config(&roots, "cluster.local", Some(&key)).unwrap();
        config.alpn_protocols = vec![Alpn::Tcp.id().to_vec()];
        let (near, far) = duplex(64 * 1024);
        let id = spiffe("web");
        let client = tls::connect_by_library(Arc::new(config), near, &id, Alpn::Tcp.id());
        let (_, server) = tokio::join!(client, web.accept(far));
        assert!(server.is_err(), "{what}: as the client");

        let evil = tls::Configs::new(&key, &roots, "cluster.local").unwrap();
        let (near, far) = duplex(64 * 1024);
        let id = spiffe("evil");
        let (client, _) = tokio::join!(
            web.connect(near, &id, Alpn::Tcp),
            tls::accept(evil.server(), far)
        );
        assert!(client.is_err(), "{what}: as the server");
    }
}

#[tokio::test]
async fn garbage_and_strange_protocols_are_refused() {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
    let id = spiffe("cart");

    let (near, mut far) = duplex(64 * 1024);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let client = web.connect(near, &id, Alpn::Http1).await;
    assert_eq!(client.map(drop).unwrap_err().outcome, Outcome::TlsFailed);

    let (mut near, far) = duplex(64 * 1024);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let server = cart.accept(far).await;
    assert_eq!(server.map(drop).unwrap_err().outcome, Outcome::TlsFailed);

    // The right identity, but another protocol, or none.
    let credentials = web.current().unwrap();
    for alpn in [vec![b"h2".to_vec()], vec![]] {
        let key = credentials.certified_key();
        let mut config =
            tls::client_config(credentials.trust_roots(), "cluster.local", Some(key)).unwrap();
        config.alpn_protocols = alpn;
        let (near, far) = duplex(64 * 1024);
        let client = tls::connect_by_library(Arc::new(config), near, &id, b"h2");
        let (client, server) = tokio::join!(client, cart.accept(far));
        assert!(client.is_err());
        assert!(server.is_err());
    }
}

#[tokio::test]
async fn new_roots_hold_for_the_next_handshake() {
    let (old, new) = (Ca::new(), Ca::new());
    let web = old.identity(&spiffe("web"));
    let rotated = new.identity(&spiffe("cart"));
    let both = [old.roots(), new.roots()].concat();
    let id = spiffe("cart");

    let (near, far) = duplex(64 * 1024);
    let (client, _) = tokio::join!(web.connect(near, &id, Alpn::Tcp), rotated.accept(far));
    assert!(client.is_err());

    let before = *web.published().borrow();
    web.trust(both.clone()).unwrap();
    web.trust(both.clone()).unwrap();
    assert_eq!(*web.published().borrow(), before + 1);
    rotated.trust(both).unwrap();
    let (near, far) = duplex(64 * 1024);
    let (client, server) = tokio::join!(web.connect(near, &id, Alpn::Tcp), rotated.accept(far));
    assert!(client.is_ok());
    assert_eq!(server.unwrap().1, spiffe("web"));

    assert!(web.trust(vec![]).is_err());
    assert!(web.trust(vec![vec![1, 2, 3].into()]).is_err());
    assert_eq!(web.current().unwrap().roots().len(), 2);

    // Roots that disown the own certificate hold, and a new certificate is wanted at once.
    web.trust(new.roots()).unwrap();
    timeout(PATIENCE, web.renewal_wanted()).await.unwrap();
}

#[test]
fn a_key_that_is_not_the_leafs_is_refused() {
    let ca = Ca::new();
    let mut leaf = ca.leaf(&spiffe("web"));
    leaf.key = ca.leaf(&spiffe("web")).key;
    assert!(matches!(install(&ca, leaf), Err(IdentityError::Key(_))));
    let mut leaf = ca.leaf(&spiffe("web"));
    leaf.chain.truncate(1);
    assert!(matches!(install(&ca, leaf), Err(IdentityError::Chain(_))));
}

#[test]
fn credentials_print_no_key() {
    let ca = Ca::new();
    let credentials = ca.identity(&spiffe("web")).current().unwrap();
    let text = format!("{credentials:?}");
    let fields = format!(
        "id: {}, not_after: {:?}, ..",
        credentials.id(),
        credentials.not_after()
    );
    assert_eq!(text, format!("Credentials {{ {fields} }}"));
}

struct Certified {
    identity: Identity,
    status: certify::CertifyStatus,
    task: tokio::task::JoinHandle<()>,
    _token: tempfile::NamedTempFile,
}

fn certifier(control_plane: ControlPlane) -> Certified {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "join-me\n").unwrap();
    let identity = Identity::new();
    let certifier = Certifier::new(control_plane, identity.clone(), token.path());
    Certified {
        identity,
        status: certifier.status(),
        task: tokio::spawn(certifier.run()),
        _token: token,
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let polling = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, polling).await.unwrap();
}

#[tokio::test]
async fn certifies_and_renews_with_a_new_key() {
    let server = FakeControlPlane::start(Ca::new(), &control_plane_id()).await;
    *server.certify.grant.lock() = Some((spiffe("web"), Duration::from_secs(3)));
    let certified = certifier(server.reached());
    let first = certified.identity.wait_ready().await;
    assert_eq!(first.id(), &spiffe("web"));

    until(|| certified.status.successes() >= 2).await;
    let second = certified.identity.current().unwrap();
    assert!(second.not_after() > first.not_after());
    let seen = server.certify.seen.lock().clone();
    assert!(seen.iter().all(|(token, _)| token == "join-me"));
    assert_ne!(seen[0].1, seen[1].1);

    // A failure takes nothing away.
    *server.certify.grant.lock() = None;
    until(|| certified.status.failures() >= 1).await;
    let error = certified.status.last_error().unwrap();
    assert!(error.contains("unknown token"), "{error}");
    assert!(certified.identity.current().is_some());
    *server.certify.grant.lock() = Some((spiffe("web"), HOUR));
    until(|| certified.status.last_error().is_none()).await;
    certified.task.abort();
}

#[tokio::test]
async fn another_server_is_shown_no_token() {
    let impostor = FakeControlPlane::start(Ca::new(), &spiffe("impostor")).await;
    let certified = certifier(impostor.reached());
    until(|| certified.status.failures() >= 1).await;
    let error = certified.status.last_error().unwrap();
    assert!(error.contains("impostor"), "{error}");
    assert!(certified.identity.current().is_none());
    assert!(impostor.certify.seen.lock().is_empty());
    certified.task.abort();

    // The right name, but from another authority.
    let real = FakeControlPlane::start(Ca::new(), &control_plane_id()).await;
    let other = FakeControlPlane::start(Ca::new(), &control_plane_id()).await;
    let confused = ControlPlane::new(
        other.address.to_string(),
        control_plane_id(),
        real.bundle_path(),
        Arc::new(testing::PlainDial),
    );
    let certified = certifier(confused);
    until(|| certified.status.failures() >= 1).await;
    assert!(other.certify.seen.lock().is_empty());
    certified.task.abort();
}
