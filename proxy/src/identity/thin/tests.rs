mod records;

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, SupportedCipherSuite};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream as LibraryClient;
use tokio_rustls::server::TlsStream as LibraryServer;

use super::*;
use crate::identity::testing::{Ca, spiffe};
use crate::identity::verify::ServerVerifier;
use crate::identity::{Alpn, Identity, tls};
use crate::net::certified::Certified;
use crate::outcome::Outcome;

const PATIENCE: Duration = Duration::from_secs(20);
const WIDE: usize = 64 * 1024;

type Ours = Certified<Thin<DuplexStream>>;

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Both ends ours, over a pipe that holds so many bytes.
async fn connected(pipe: usize) -> (Ours, Ours) {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
    let (near, far) = duplex(pipe);
    let id = spiffe("cart");
    let shaking = async { tokio::join!(web.connect(near, &id, Alpn::Tcp), cart.accept(far)) };
    let (client, server) = timeout(PATIENCE, shaking).await.unwrap();
    let (server, peer, alpn) = server.unwrap();
    assert_eq!((peer, alpn), (spiffe("web"), Alpn::Tcp));
    (client.unwrap(), server)
}

/// Our client, and the library's server.
async fn to_library(pipe: usize) -> (Ours, LibraryServer<DuplexStream>) {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
    let acceptor = TlsAcceptor::from(cart.current().unwrap().tls.server());
    let (near, far) = duplex(pipe);
    let id = spiffe("cart");
    let (client, server) = tokio::join!(web.connect(near, &id, Alpn::Tcp), acceptor.accept(far));
    (client.unwrap(), server.unwrap())
}

/// The library's client, and our server.
async fn from_library(pipe: usize) -> (LibraryClient<DuplexStream>, Ours) {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
    let config = web.current().unwrap().tls.client(Alpn::Tcp);
    let (near, far) = duplex(pipe);
    let id = spiffe("cart");
    let client = tls::connect_by_library(config, near, &id, Alpn::Tcp.id());
    let (client, server) = tokio::join!(client, cart.accept(far));
    (client.unwrap(), server.unwrap().0)
}

/// Bytes that differ wherever they are cut.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

async fn refused(client: &Identity, server: &Identity) -> crate::outcome::Failure {
    let (near, far) = duplex(WIDE);
    let id = spiffe("cart");
    let (client, _) = tokio::join!(client.connect(near, &id, Alpn::Tcp), server.accept(far));
    let failure = client.map(drop).unwrap_err();
    assert_eq!(failure.outcome, Outcome::TlsFailed);
    failure
}

/// As much both ways at once, then the ends.
async fn exchange(client: impl Duplex, server: impl Duplex, len: usize) {
    let sent = bytes(len);
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        to_client.write_all(&sent).await.unwrap();
        to_client.shutdown().await.unwrap();
    };
    let down = async {
        to_server.write_all(&sent).await.unwrap();
        to_server.shutdown().await.unwrap();
    };
    let (mut above, mut below) = (Vec::new(), Vec::with_capacity(len));
    let all = async {
        let read_below = async {
            // Less room than a record has, and more than some.
            let mut room = vec![0; 10_000];
            loop {
                match from_client.read(&mut room).await.unwrap() {
                    0 => break,
                    len => below.extend_from_slice(&room[..len]),
                }
            }
        };
        let read_above = from_server.read_to_end(&mut above);
        let ((), (), read, ()) = tokio::join!(up, down, read_above, read_below);
        read.unwrap();
    };
    timeout(PATIENCE, all).await.unwrap();
    assert!(above == sent && below == sent);
}

#[tokio::test]
async fn bytes_arrive_whole_however_they_are_cut() {
    for pipe in [1, 7, 1_000, 16 * 1024 + 21, 1 << 20] {
        let len = if pipe < 10 { 20_000 } else { 1_000_000 };
        let (client, server) = connected(pipe).await;
        exchange(client, server, len).await;
        let (client, server) = to_library(pipe).await;
        exchange(client, server, len).await;
        let (client, server) = from_library(pipe).await;
        exchange(client, server, len).await;
    }
}

#[tokio::test]
async fn every_suite_is_spoken() {
    for suite in tls::provider().cipher_suites.clone() {
        let ca = Ca::new();
        let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
        let config = only(&web, suite);
        let (near, far) = duplex(WIDE);
        let name = tls::name();
        let client = connect(config, name, near, |session| {
            assert_eq!(session.negotiated_cipher_suite(), Some(suite));
            Ok::<_, io::Error>(())
        });
        let (client, server) = tokio::join!(client, cart.accept(far));
        exchange(client.unwrap().0, server.unwrap().0, 100_000).await;
    }
}

fn only(client: &Identity, suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let credentials = client.current().unwrap();
    let provider = CryptoProvider {
        cipher_suites: vec![suite],
        ..(**tls::provider()).clone()
    };
    let roots = credentials.trust_roots().clone();
    let key = Arc::clone(credentials.certified_key());
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(roots, "cluster.local")))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![Alpn::Tcp.id().to_vec()];
    config.enable_secret_extraction = true;
    Arc::new(config)
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut client, mut server) = connected(WIDE).await;
    for _ in 0..2 {
        let mut room = [0; 8];
        for end in [&mut client, &mut server] {
            {
                let mut read = Box::pin(end.read(&mut room));
                assert!(futures_util::poll!(&mut read).is_pending());
            }
            let thin = end.inner();
            assert!(thin.incoming.is_empty() && thin.outgoing.is_empty());
            assert!(thin.early.is_empty());
        }

        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut room[..4]).await.unwrap();
        server.write_all(b"pong, and more than fits").await.unwrap();
        server.flush().await.unwrap();
        for _ in 0..3 {
            client.read_exact(&mut room).await.unwrap();
        }
        assert_eq!(&room, b"han fits");
    }
}

/// In few records, and none longer than allowed: the library takes them.
#[tokio::test]
async fn pieces_are_written_together() {
    for lens in [
        &[0, 3, 0, 5][..],
        &[150, 65_536],
        &[16_384, 1, 16_384, 1],
        &[1; 40],
        &[70_000, 10],
        &[],
    ] {
        let (mut client, mut server) = to_library(1 << 20).await;
        let sent = bytes(lens.iter().sum());
        let mut rest = &sent[..];
        let mut pieces = Vec::new();
        for len in lens {
            let (piece, others) = rest.split_at(*len);
            pieces.push(IoSlice::new(piece));
            rest = others;
        }
        let len = client.write_vectored(&pieces).await.unwrap();
        assert_eq!(len, sent.len().min(BUFFER_LEN), "{lens:?}");
        client.shutdown().await.unwrap();
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        assert!(read == sent[..len], "{lens:?}");
    }
}

#[tokio::test]
async fn new_keys_are_taken_from_both_sides() {
    let (mut client, mut server) = to_library(WIDE).await;
    for round in 0..4 {
        if round % 2 == 0 {
            server.get_mut().1.refresh_traffic_keys().unwrap();
        } else {
            client.inner_mut().take_new_keys().unwrap();
        }
        ping_pong(&mut client, &mut server).await;
        ping_pong(&mut server, &mut client).await;
    }
    let (mut client, mut server) = from_library(WIDE).await;
    for round in 0..4 {
        if round % 2 == 0 {
            client.get_mut().1.refresh_traffic_keys().unwrap();
        } else {
            server.inner_mut().take_new_keys().unwrap();
        }
        ping_pong(&mut client, &mut server).await;
        ping_pong(&mut server, &mut client).await;
    }
}

async fn ping_pong(a: &mut impl Duplex, b: &mut impl Duplex) {
    let (mut heard, mut answered) = ([0; 4], [0; 4]);
    a.write_all(b"ping").await.unwrap();
    a.flush().await.unwrap();
    b.read_exact(&mut heard).await.unwrap();
    b.write_all(b"pong").await.unwrap();
    b.flush().await.unwrap();
    a.read_exact(&mut answered).await.unwrap();
    assert_eq!((&heard, &answered), (b"ping", b"pong"));
}

#[tokio::test]
async fn new_keys_that_the_peer_wants_are_made_before_the_next_word() {
    // The library asks for none, so that the test does, as the other end of ours.
    let (mut asking, mut asked) = connected(WIDE).await;
    let mut new_keys = async |wish, sealed| {
        let thin = asking.inner_mut();
        let message = [HandshakeType::KeyUpdate.into(), 0, 0, 1, wish];
        thin.say(ContentType::Handshake, &message).unwrap();
        thin.sealer = Sealer::new(thin.next.sending().unwrap()).unwrap();
        ping_pong(&mut asking, &mut asked).await;
        assert_eq!(asked.inner().sealer.sealed(), sealed);
    };
    // Its own are those of before where it is not asked, and have sealed the last word only where it is.
    new_keys(0, 1).await;
    new_keys(0, 2).await;
    new_keys(1, 1).await;
    new_keys(0, 2).await;
    ping_pong(&mut asked, &mut asking).await;
}

#[tokio::test]
async fn worn_keys_are_replaced_before_another_word_is_sealed() {
    let (mut client, mut server) = connected(WIDE).await;
    let last = (1 << 24) - 1;
    client.inner_mut().sealer.pretend(last);
    server.inner_mut().opener.pretend(last);
    ping_pong(&mut client, &mut server).await;
    assert_eq!(client.inner().sealer.sealed(), last + 1, "the last one");
    // Now with new ones, which the other side has taken.
    for sealed in 1..3 {
        ping_pong(&mut client, &mut server).await;
        assert_eq!(client.inner().sealer.sealed(), sealed);
    }
}

#[tokio::test]
async fn tickets_that_nobody_asked_for_mean_nothing() {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
    let mut generous = (*cart.current().unwrap().tls.server()).clone();
    generous.send_tls13_tickets = 4;
    generous.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    let acceptor = TlsAcceptor::from(Arc::new(generous));
    let (near, far) = duplex(WIDE);
    let id = spiffe("cart");
    let (client, server) = tokio::join!(web.connect(near, &id, Alpn::Tcp), acceptor.accept(far));
    ping_pong(&mut client.unwrap(), &mut server.unwrap()).await;
}

#[tokio::test]
async fn what_comes_with_the_last_word_of_the_handshake_is_kept() {
    for len in [0, 5, 16_384, 60_000] {
        let ca = Ca::new();
        let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
        let (near, far) = duplex(1 << 20);
        let id = spiffe("cart");
        let sent = bytes(len);
        // All of it leaves before the server is polled again.
        let client = async {
            let mut client = web.connect(near, &id, Alpn::Tcp).await.unwrap();
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            client
        };
        let (_client, server) = tokio::join!(client, cart.accept(far));
        let (mut server, ..) = server.unwrap();
        assert_eq!(server.inner().early.len(), len.min(MAX_CONTENT));
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        assert!(read == sent, "{len}");
    }
}

#[tokio::test]
async fn an_end_is_clean_only_where_the_peer_says_so() {
    let (mut client, mut server) = to_library(WIDE).await;
    server.write_all(b"all").await.unwrap();
    server.shutdown().await.unwrap();
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"all");
    // The other direction is open still.
    client.write_all(b"more").await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    server.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"more");
    assert!(client.write_all(b"x").await.is_err(), "after the end");

    let (mut client, mut server) = connected(WIDE).await;
    server.write_all(b"some").await.unwrap();
    server.flush().await.unwrap();
    drop(server);
    let mut read = Vec::new();
    let error = client.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(read, b"some");
}

/// What `server` does to `client` after a true word breaks the connection, behind that word and for good.
/// The cause, and what the library at the other end hears of it.
async fn breaks(deed: impl AsyncFnOnce(&mut LibraryServer<DuplexStream>)) -> (String, String) {
    let (mut client, mut server) = to_library(WIDE).await;
    server.write_all(b"true").await.unwrap();
    server.flush().await.unwrap();
    deed(&mut server).await;
    let mut read = [0; 4];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"true");
    let cause = timeout(PATIENCE, client.read(&mut read)).await.unwrap();
    let cause = cause.unwrap_err();
    assert_eq!(cause.kind(), io::ErrorKind::InvalidData);
    let again = client.read(&mut read).await.unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::InvalidData);
    assert!(client.write_all(b"x").await.is_err());
    let told = timeout(PATIENCE, server.read(&mut read)).await.unwrap();
    let told = told.unwrap_err();
    (cause.to_string(), told.to_string())
}

#[tokio::test]
async fn records_that_nobody_may_send_break_the_connection() {
    let raw = |record: Vec<u8>| {
        breaks(async move |server| server.get_mut().0.write_all(&record).await.unwrap())
    };
    // As long as a record of one byte, and none.
    let mut forged = vec![0x17, 3, 3, 0, 18];
    forged.resize(HEADER + 18, 0xaa);
    let (_, told) = raw(forged).await;
    assert!(told.contains("BadRecordMac"), "{told}");
    let (_, told) = raw(vec![0x17, 3, 3, 0, 16]).await;
    assert!(told.contains("BadRecordMac"), "{told}");
    // Known by its header, before the rest has come.
    let (_, told) = raw(vec![0x17, 3, 3, 0x41, 1]).await;
    assert!(told.contains("RecordOverflow"), "{told}");
    // In the clear: change_cipher_spec, and an alert.
    for record in [vec![20, 3, 3, 0, 1, 1], vec![21, 3, 3, 0, 2, 1, 0]] {
        let (_, told) = raw(record).await;
        assert!(told.contains("UnexpectedMessage"), "{told}");
    }
}

/// What our own other end can seal, that no library would.
async fn sealed(records: &[(u8, &[u8])]) -> io::Result<Vec<u8>> {
    let (mut client, mut server) = connected(WIDE).await;
    for (kind, content) in records {
        let kind = ContentType::from(*kind);
        server.inner_mut().say(kind, content).unwrap();
    }
    server.write_all(b"!").await.unwrap();
    server.flush().await.unwrap();
    let mut read = [0; 64];
    let len = client.read(&mut read).await?;
    Ok(read[..len].to_vec())
}

#[tokio::test]
async fn what_is_sealed_must_make_sense() {
    let (alert, handshake, data) = (21, 22, 23);
    // Padding: zeros behind the type.
    assert_eq!(sealed(&[(0, b"ab\x17\0\0")]).await.unwrap(), b"ab!");
    assert_eq!(sealed(&[(data, b"")]).await.unwrap(), b"!");
    assert_eq!(sealed(&[(alert, &[1, 90])]).await.unwrap(), b"!");
    assert_eq!(sealed(&[(alert, &[1, 0])]).await.unwrap(), b"");
    let ticket = [4, 0, 0, 3, 7, 7, 7];
    let twice = [ticket, ticket].concat();
    assert_eq!(sealed(&[(handshake, &twice)]).await.unwrap(), b"!");

    for record in [
        (alert, &[2, 40][..]),
        (alert, &[1]),
        (alert, &[]),
        // Certificates, or new keys that are none, or with something behind them.
        (handshake, &[11, 0, 0, 1, 0]),
        (handshake, &[24, 0, 0, 0]),
        (handshake, &[24, 0, 0, 1]),
        (handshake, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]),
        (handshake, &[4, 0]),
        (handshake, &[4, 0, 0, 9, 1]),
        (20, &[1]),
        (99, b"?"),
        // No type at all.
        (0, b""),
        (0, &[0; 30]),
    ] {
        let error = sealed(&[record]).await.unwrap_err();
        let cause = error.get_ref().unwrap().downcast_ref::<Error>().unwrap();
        // It is that record which is refused, and not what follows.
        assert!(!matches!(cause, Error::DecryptError), "{record:?}: {cause}");
    }
}

#[tokio::test]
async fn what_has_nothing_for_the_application_is_borne_for_so_long() {
    let most = usize::from(MAX_FRUITLESS);
    assert_eq!(sealed(&vec![(23, &b""[..]); most]).await.unwrap(), b"!");
    assert!(sealed(&vec![(23, &b""[..]); most + 1]).await.is_err());
    assert!(
        sealed(&vec![(21, &[1_u8, 90][..]); most + 1])
            .await
            .is_err()
    );
    // It counts anew after each byte for the application.
    let mut some = vec![(23, &b""[..]); most];
    some.push((23, b"a"));
    assert_eq!(sealed(&some.repeat(2)).await.unwrap(), b"aa!");
}

#[tokio::test]
async fn only_who_is_meant_is_connected_to() {
    let (ca, other) = (Ca::new(), Ca::new());
    let web = ca.identity(&spiffe("web"));
    let failure = refused(&web, &ca.identity(&spiffe("orders"))).await;
    assert!(failure.detail.contains("sa/orders"), "{failure}");
    refused(&web, &other.identity(&spiffe("cart"))).await;

    // Who leaves meanwhile is nobody.
    let (near, far) = duplex(64);
    drop(far);
    let failure = web.connect(near, &spiffe("cart"), Alpn::Tcp).await;
    assert_eq!(failure.map(drop).unwrap_err().outcome, Outcome::TlsFailed);
}
