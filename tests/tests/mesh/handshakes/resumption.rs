//! A session is never resumed, whatever a client holds or sends early.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_proto::names::alpn;
use weft_tests::tls::{self, Credentials};

use super::{Door, GET};
use crate::common::stats;

/// A client offers a ticket that it did get, and sends its request as early data: the sidecar gives none,
/// takes none, and makes a whole handshake. The application sees the request once, and after it.
pub(super) async fn is_not_done(door: &Door<'_>, good: &Credentials) -> anyhow::Result<()> {
    let mut config = tls::client_config(Some(good), &[alpn::HTTP1])?;
    config.enable_early_data = true;
    let config = Arc::new(config);
    // That the ticket works is seen where there is a server that takes it.
    let mut server = tls::server_config(good, &[alpn::HTTP1])?;
    server.max_early_data_size = 1024;
    let server = TlsAcceptor::from(Arc::new(server));
    assert_eq!(elsewhere(&config, &server).await?, HandshakeKind::Full);
    assert_eq!(elsewhere(&config, &server).await?, HandshakeKind::Resumed);

    for round in 1..=2 {
        let tcp = door.pod.connect(door.address()).await?;
        let (heard, connection) = early(&config, tcp).await?;
        assert!(heard.starts_with("HTTP/1.1 200 "), "{heard:?}");
        assert!(!connection.is_early_data_accepted());
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(connection.tls13_tickets_received(), 0);
        assert_eq!(stats(door.mesh, ["api-1"]).await?.requests, round);
    }
    Ok(())
}

/// Sends the request as early data and, where that was not taken, again when the handshake is done. By hand:
/// the asynchronous library knows no early data as it is built here. What was answered, until the end.
async fn early(
    config: &Arc<ClientConfig>,
    mut tcp: TcpStream,
) -> anyhow::Result<(String, ClientConnection)> {
    let mut connection = ClientConnection::new(Arc::clone(config), name())?;
    let mut early = connection.early_data().context("no ticket is held")?;
    early.write_all(GET.as_bytes())?;

    let mut heard = Vec::new();
    let mut said_again = false;
    loop {
        let mut out = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut out)?;
        }
        tcp.write_all(&out).await?;

        let mut chunk = [0; 4096];
        let length = timeout(tls::PATIENCE, tcp.read(&mut chunk)).await??;
        let mut chunk = &chunk[..length];
        while !chunk.is_empty() {
            connection.read_tls(&mut chunk)?;
            let state = connection.process_new_packets()?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            connection.reader().read_exact(&mut plain)?;
            heard.extend(plain);
        }
        if !connection.is_handshaking() && !connection.is_early_data_accepted() && !said_again {
            connection.writer().write_all(GET.as_bytes())?;
            said_again = true;
        }
        if length == 0 {
            return Ok((String::from_utf8(heard)?, connection));
        }
    }
}

/// A handshake with a server that gives tickets: how it went.
async fn elsewhere(
    config: &Arc<ClientConfig>,
    acceptor: &TlsAcceptor,
) -> anyhow::Result<HandshakeKind> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serving = async {
        let mut stream = acceptor.accept(far).await?;
        stream.write_all(b".").await?;
        stream.flush().await
    };
    let asking = async {
        let connector = TlsConnector::from(Arc::clone(config));
        let mut stream = connector.connect(name(), near).await?;
        // The tickets come before the first byte.
        stream.read_u8().await?;
        let kind = stream.get_ref().1.handshake_kind();
        std::io::Result::Ok(kind)
    };
    let ((), kind) = tokio::try_join!(serving, asking)?;
    kind.ok_or_else(|| anyhow::anyhow!("no handshake"))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("intruder.invalid").expect("a DNS name")
}
