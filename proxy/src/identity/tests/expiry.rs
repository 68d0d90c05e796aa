//! Certificates that end: what is made with them knows when, and without one nothing passes.

use super::*;
use crate::net::certified::is_lapse;

/// Certificates count whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// A workload whose certificate lives for so long.
fn living(ca: &Ca, account: &str, life: Duration) -> Identity {
    let identity = Identity::new();
    renew(ca, &identity, account, life);
    identity
}

fn renew(ca: &Ca, identity: &Identity, account: &str, life: Duration) {
    let Leaf { chain, key } = ca.sign(&Ca::params(spiffe(account).as_str(), life));
    identity
        .install(chain, key, ca.roots(), SystemTime::now())
        .unwrap();
}

#[tokio::test]
async fn connections_end_with_the_first_of_both_certificates() {
    let ca = Ca::new();
    let (short, long) = (Duration::from_secs(100), Duration::from_secs(5_000));
    for (ours, theirs) in [(short, long), (long, short), (short, short)] {
        let (web, cart) = (living(&ca, "web", ours), living(&ca, "cart", theirs));
        let (near, far) = duplex(64 * 1024);
        let id = spiffe("cart");
        let (client, server) = tokio::join!(web.connect(near, &id, Alpn::Tcp), cart.accept(far));
        for ends_at in [client.unwrap().ends_at(), server.unwrap().0.ends_at()] {
            let left = ends_at.duration_since(Instant::now());
            assert!(left <= short && left + 3 * SECOND >= short, "{left:?}");
        }
    }
}

#[tokio::test]
async fn without_a_valid_certificate_nothing_passes_until_there_is_one() {
    let ca = Ca::new();
    let web = living(&ca, "web", 3 * SECOND);
    let cart = living(&ca, "cart", HOUR);
    let watching = {
        let web = web.clone();
        tokio::spawn(async move { web.watch_expiry().await })
    };
    let id = spiffe("cart");
    let connect = async || {
        let (near, far) = duplex(64 * 1024);
        let (client, server) = tokio::join!(web.connect(near, &id, Alpn::Tcp), cart.accept(far));
        client.map(|client| (client, server))
    };
    let (mut client, server) = connect().await.unwrap();
    let (mut server, ..) = server.unwrap();
    client.write_all(b"before").await.unwrap();
    client.flush().await.unwrap();
    let mut read = [0; 6];
    server.read_exact(&mut read).await.unwrap();

    tokio::time::sleep(4 * SECOND).await;
    // What is open carries nothing either way, and says why.
    server.write_all(b"late").await.unwrap();
    server.flush().await.unwrap();
    assert!(is_lapse(&client.read_exact(&mut read).await.unwrap_err()));
    assert!(is_lapse(&client.write_all(b"after").await.unwrap_err()));
    drop(client);
    let mut rest = Vec::new();
    let _ = server.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{rest:?} after the end");
    // Nothing is connected, and nothing accepted.
    let refused = connect().await.map(drop).unwrap_err();
    assert_eq!(refused.outcome, Outcome::TlsFailed);
    assert!(refused.detail.contains("expired"), "{refused}");
    let (near, far) = duplex(64 * 1024);
    let own = spiffe("web");
    let (client, server) = tokio::join!(cart.connect(near, &own, Alpn::Tcp), web.accept(far));
    assert_eq!(client.map(drop).unwrap_err().outcome, Outcome::TlsFailed);
    assert_eq!(server.map(drop).unwrap_err().outcome, Outcome::TlsFailed);

    renew(&ca, &web, "web", HOUR);
    let (mut client, _server) = connect().await.unwrap();
    client.write_all(b"again").await.unwrap();
    // Nor does whoever watches take it back.
    tokio::time::sleep(SECOND / 10).await;
    client.write_all(b"and again").await.unwrap();
    watching.abort();
}

#[test]
fn certificates_are_told_apart() {
    let ca = Ca::new();
    let (one, other) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("web")));
    let (one, other) = (one.current().unwrap(), other.current().unwrap());
    assert_ne!(one.serial(), other.serial());
    assert_ne!(fingerprint(one.leaf()), fingerprint(other.leaf()));
    for text in [one.serial(), &fingerprint(one.leaf())] {
        assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    }
    assert_eq!(fingerprint(one.leaf()).len(), 64);
    let debug = format!("{one:?}");
    assert!(!debug.to_lowercase().contains("key"), "{debug}");
}
