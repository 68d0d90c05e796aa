use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::identity::testing::{Ca, spiffe};
use crate::identity::{Alpn, Identity};
use crate::net::certified::Certified;
use crate::outcome::Outcome;

const PATIENCE: Duration = Duration::from_secs(20);

type Client = Certified<Thin<DuplexStream>>;
type Server = Certified<TlsStream<DuplexStream>>;

/// Connected over a pipe that holds so many bytes.
async fn connected(pipe: usize) -> (Client, Server) {
    let ca = Ca::new();
    let (web, cart) = (ca.identity(&spiffe("web")), ca.identity(&spiffe("cart")));
    let (near, far) = duplex(pipe);
    let id = spiffe("cart");
    let shaking = async { tokio::join!(web.connect_bytes(near, &id), cart.accept(far)) };
    let (client, server) = timeout(PATIENCE, shaking).await.unwrap();
    let (server, peer, alpn) = server.unwrap();
    assert_eq!((peer, alpn), (spiffe("web"), Alpn::Tcp));
    (client.unwrap(), server)
}

/// Bytes that differ wherever they are cut.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

async fn refused(client: &Identity, server: &Identity) -> crate::outcome::Failure {
    let (near, far) = duplex(64 * 1024);
    let id = spiffe("cart");
    let (client, _) = tokio::join!(client.connect_bytes(near, &id), server.accept(far));
    let failure = client.map(drop).unwrap_err();
    assert_eq!(failure.outcome, Outcome::TlsFailed);
    failure
}

#[tokio::test]
async fn bytes_arrive_whole_however_they_are_cut() {
    for pipe in [1, 7, 1_000, 16 * 1024 + 21, 1 << 20] {
        let (client, server) = connected(pipe).await;
        let len = if pipe < 10 { 20_000 } else { 1_000_000 };
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
        assert!(above == sent && below == sent, "over {pipe} bytes");
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut client, mut server) = connected(64 * 1024).await;
    for _ in 0..2 {
        let mut room = [0; 8];
        {
            let mut read = Box::pin(client.read(&mut room));
            assert!(futures_util::poll!(&mut read).is_pending());
        }
        let thin = client.inner();
        assert!(thin.incoming.is_none() && thin.outgoing.is_none());
        assert_eq!(thin.plain.capacity(), 0);

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

#[tokio::test]
async fn new_keys_of_the_peer_are_taken() {
    let (mut client, mut server) = connected(64 * 1024).await;
    for _ in 0..3 {
        let (mut heard, mut answered) = ([0; 4], [0; 4]);
        server
            .inner_mut()
            .get_mut()
            .1
            .refresh_traffic_keys()
            .unwrap();
        server.write_all(b"ping").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        client.write_all(b"pong").await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut answered).await.unwrap();
        assert_eq!((&heard, &answered), (b"ping", b"pong"));
    }
}

#[tokio::test]
async fn an_end_is_clean_only_where_the_peer_says_so() {
    let (mut client, mut server) = connected(64 * 1024).await;
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

    let (mut client, mut server) = connected(64 * 1024).await;
    server.write_all(b"some").await.unwrap();
    server.flush().await.unwrap();
    drop(server);
    let mut read = Vec::new();
    let error = client.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(read, b"some");
}

/// Behind what came before it, and for good.
#[tokio::test]
async fn a_forged_record_breaks_the_connection() {
    let (mut client, mut server) = connected(64 * 1024).await;
    server.write_all(b"true").await.unwrap();
    server.flush().await.unwrap();
    // As long as a record of one byte, and none.
    let mut forged = [0x17, 3, 3, 0, 18].to_vec();
    forged.resize(5 + 18, 0xaa);
    let (transport, _) = server.inner_mut().get_mut();
    transport.write_all(&forged).await.unwrap();
    let mut read = [0; 4];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"true");
    for _ in 0..2 {
        let error = client.read(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    // The peer is told.
    let error = server.read(&mut read).await.unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
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
    let failure = web.connect_bytes(near, &spiffe("cart")).await;
    assert_eq!(failure.map(drop).unwrap_err().outcome, Outcome::TlsFailed);
}
