//! The control plane resumes no session: each connection shows its certificate anew, or none.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::harness::{DOMAIN, client_config, credentials};
use crate::identity::{Authority, DEFAULT_LEAF_LIFETIME};
use crate::serve::tls::server_config;

/// A handshake with a word of the server's behind it, so that tickets would have come: whether it
/// resumed a session, the tickets that came, and whether the server saw a certificate.
async fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (bool, u32, bool) {
    let (near, far) = duplex(64 * 1024);
    let name = ServerName::try_from("control-plane").unwrap();
    let (client, server) = tokio::join!(
        TlsConnector::from(Arc::clone(client)).connect(name, near),
        TlsAcceptor::from(Arc::clone(server)).accept(far)
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    server.write_all(b"word").await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    let (_, near) = client.get_ref();
    let (_, far) = server.get_ref();
    assert_eq!(near.handshake_kind(), far.handshake_kind());
    let resumed = near.handshake_kind() == Some(HandshakeKind::Resumed);
    let shown = far.peer_certificates().is_some();
    (resumed, near.tls13_tickets_received(), shown)
}

#[tokio::test]
async fn a_ticket_is_neither_given_nor_taken() {
    let now = SystemTime::now();
    let state = tempfile::tempdir().unwrap();
    let authority = Authority::open(state.path(), DOMAIN, DEFAULT_LEAF_LIFETIME, now).unwrap();
    let (ours, _) = server_config(&authority).unwrap();
    // The control: the same server, if it gave tickets.
    let mut generous = (*ours).clone();
    generous.send_tls13_tickets = 4;
    generous.session_storage = ServerSessionMemoryCache::new(16);
    let generous = Arc::new(generous);
    let root = authority.bundle().borrow().roots[0].clone();
    for own in [Some(credentials(&authority, "web", now)), None] {
        let has_own = own.is_some();
        let mut client = client_config(root.clone(), own);
        client.resumption = Resumption::in_memory_sessions(16);
        let client = Arc::new(client);
        assert_eq!(shake(&client, &ours).await, (false, 0, has_own));
        assert_eq!(shake(&client, &generous).await, (false, 4, has_own));
        assert_eq!(
            shake(&client, &generous).await,
            (true, 4, has_own),
            "the control"
        );
        // It has tickets left, and offers one.
        assert_eq!(shake(&client, &ours).await, (false, 0, has_own));
    }
}
