//! That what is measured is a mesh: nobody reaches a server without what its sidecar asks for.
//!
//! A stranger, whose connections nobody takes, tries. Where it succeeds and should not, or does not and
//! should, nothing is measured.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use weft_sandbox::Pod;

use super::foreign::Setup;
use super::identity::Identities;
use crate::bench::protocol::Protocol;
use crate::tls;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET /0 HTTP/1.1\r\nhost: proof\r\n\r\n";
const GOOD: &[u8] = b"HTTP/1.1 200 ";
const FORBIDDEN: &[u8] = b"HTTP/1.1 403 ";
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 ";

/// Whether plaintext is answered well at `server`.
pub(super) async fn takes_plaintext(stranger: &Pod, server: SocketAddr) -> anyhow::Result<bool> {
    let mut stream = stranger.connect(server).await?;
    Ok(ask(&mut stream).await.starts_with(GOOD))
}

/// That a server's sidecar takes only TLS 1.3 with a certificate of the authority, and shows the one that
/// it should.
pub(super) async fn mutual_tls(stranger: &Pod, server: &Pod, setup: &Setup) -> anyhow::Result<()> {
    let at = |protocol: Protocol| SocketAddr::from((server.v4(), protocol.app_port()));
    for protocol in Protocol::PORTS {
        let alpn = [match protocol {
            Protocol::Http1 => &b"http/1.1"[..],
            Protocol::Http2 | Protocol::Grpc => b"h2",
            Protocol::Tcp => b"tcp",
        }];
        let name = protocol.name();
        ensure!(
            !takes_plaintext(stranger, at(protocol)).await?,
            "{name}: plaintext is answered"
        );
        let stream = stranger.connect(at(protocol)).await?;
        // With TLS 1.3 the refusal may come after the handshake.
        if let Ok(mut stream) = tls::connect(stream, None, &alpn).await {
            let _ = stream.write_all(REQUEST).await;
            let read = timeout(PATIENCE, stream.read(&mut [0; 64])).await;
            ensure!(
                matches!(read, Ok(Err(_))),
                "{name}: no certificate was asked for: {read:?}"
            );
        }
        let stream = stranger.connect(at(protocol)).await?;
        let stream = tls::connect(stream, Some(&setup.client.credentials), &alpn).await;
        let mut stream = stream.with_context(|| format!("{name}: TLS with a certificate"))?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        ensure!(
            shown
                .first()
                .is_some_and(|leaf| **leaf == *setup.server.leaf),
            "{name}: the server shows another certificate than its own"
        );
        if protocol == Protocol::Http1 {
            let answer = ask(&mut stream).await;
            ensure!(
                answer.starts_with(GOOD),
                "a client with its certificate is refused: {}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
    Ok(())
}

/// That the names in certificates are checked where they should be: the client's by the server's sidecar,
/// the server's by the client's.
pub(super) async fn identities(
    stranger: &Pod,
    [client, server]: [&Pod; 2],
    identities: &Identities,
    setup: &Setup,
) -> anyhow::Result<()> {
    let at = SocketAddr::from((server.v4(), Protocol::Http1.app_port()));
    let other = identities.issue("somebody-else")?;
    let stream = stranger.connect(at).await?;
    let mut stream = tls::connect(stream, Some(&other.credentials), &[b"http/1.1"]).await?;
    let answer = ask(&mut stream).await;
    let expected = match setup.impostor {
        Some(_) => FORBIDDEN,
        None => GOOD,
    };
    ensure!(
        answer.starts_with(expected),
        "to somebody else whom the authority has certified: {}",
        String::from_utf8_lossy(&answer)
    );
    // All else is as at the port whose server has just answered.
    if let Some(port) = setup.impostor {
        let mut stream = client.connect((server.v4(), port).into()).await?;
        let answer = ask(&mut stream).await;
        ensure!(
            answer.starts_with(UNAVAILABLE),
            "of a server that is not who it should be: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(())
}

/// What comes first of an answer; nothing where none comes.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut answer = vec![0; 512];
    let asking = async {
        stream.write_all(REQUEST).await?;
        stream.read(&mut answer).await
    };
    let length = timeout(PATIENCE, asking).await;
    answer.truncate(length.map_or(0, |read| read.unwrap_or(0)));
    answer
}
