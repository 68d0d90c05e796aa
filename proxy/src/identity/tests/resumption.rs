//! No session is ever resumed: every connection proves anew who is at both ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::server::ServerSessionMemoryCache;
use rustls::{HandshakeKind, NamedGroup, ServerConfig};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Keeps tickets as any client does, and counts those that are offered.
#[derive(Debug)]
struct Tickets {
    kept: ClientSessionMemoryCache,
    offered: AtomicUsize,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server_name)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.kept.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let taken = self.kept.take_tls13_ticket(name)?;
        self.offered.fetch_add(1, Ordering::Relaxed);
        Some(taken)
    }
}

/// A handshake with a word of the server's behind it, so that tickets would have come: its kind at
/// both ends, and the tickets that came.
async fn shake(client: &Arc<rustls::ClientConfig>, server: &Arc<ServerConfig>) -> [usize; 3] {
    let (near, far) = duplex(64 * 1024);
    let id = spiffe("cart");
    let (client, server) = tokio::join!(
        tls::connect_by_library(Arc::clone(client), near, &id, Alpn::Tcp.id()),
        TlsAcceptor::from(Arc::clone(server)).accept(far)
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    let chain = server.get_ref().1.peer_certificates().unwrap();
    assert_eq!(verify::spiffe_id(&chain[0]).unwrap(), spiffe("web"));
    server.write_all(b"word").await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    let is_resumed = |kind: Option<HandshakeKind>| match kind.unwrap() {
        HandshakeKind::Resumed => 1,
        HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest => 0,
    };
    let (_, near) = client.get_ref();
    let (_, far) = server.get_ref();
    let tickets = usize::try_from(near.tls13_tickets_received()).unwrap();
    [
        is_resumed(near.handshake_kind()),
        is_resumed(far.handshake_kind()),
        tickets,
    ]
}

#[tokio::test]
async fn a_ticket_is_neither_given_nor_taken() {
    let ca = Ca::new();
    let web = ca.identity(&spiffe("web")).current().unwrap();
    let cart = ca.identity(&spiffe("cart")).current().unwrap();
    let ours = cart.tls.server();
    // The control: the same server, if it gave tickets.
    let mut generous = (*ours).clone();
    generous.send_tls13_tickets = 4;
    generous.session_storage = ServerSessionMemoryCache::new(16);
    let generous = Arc::new(generous);
    // A client as it must not be.
    let tickets = Arc::new(Tickets {
        kept: ClientSessionMemoryCache::new(16),
        offered: AtomicUsize::new(0),
    });
    let mut greedy = (*web.tls.client(Alpn::Tcp)).clone();
    greedy.resumption = Resumption::store(Arc::clone(&tickets) as _);
    let greedy = Arc::new(greedy);

    assert_eq!(
        shake(&greedy, &ours).await,
        [0, 0, 0],
        "the server gives tickets"
    );
    assert_eq!(shake(&greedy, &generous).await, [0, 0, 4]);
    assert_eq!(shake(&greedy, &generous).await, [1, 1, 4], "the control");
    let before = tickets.offered.load(Ordering::Relaxed);
    assert_eq!(
        shake(&greedy, &ours).await,
        [0, 0, 0],
        "the server takes tickets"
    );
    assert_eq!(
        tickets.offered.load(Ordering::Relaxed),
        before + 1,
        "none was offered"
    );

    // And our own client's settings offer none, wherever they got one.
    let client = web.tls.client(Alpn::Tcp);
    for _ in 0..2 {
        let [near, far, _] = shake(&client, &generous).await;
        assert_eq!([near, far], [0, 0], "the client resumes");
    }
}
