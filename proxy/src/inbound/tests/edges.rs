//! What the control plane is told of callers.

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::policy::{MtlsMode, Probe};
use crate::testing::policies::inbound;
use crate::testing::servers::Act;

/// As `PEER TLS CONNECTIONS REQUESTS OPEN`; an address is as many bytes.
fn told(sidecar: &Sidecar) -> Vec<String> {
    let report = sidecar.telemetry.edges().report(true).expect("anew");
    let edges = report.edges.into_iter().map(|edge| {
        assert!(!edge.outbound);
        assert_eq!(edge.port, u32::from(sidecar.app.port()));
        assert_eq!(edge.service, "shop/api:80");
        let from = match edge.address.len() {
            0 => edge.peer.clone(),
            length => format!("{length}"),
        };
        let (connections, requests, open) = (edge.connections, edge.requests, edge.open);
        format!("{from} {:?} {connections} {requests} {open}", edge.tls())
    });
    let mut edges: Vec<_> = edges.collect();
    edges.sort();
    edges
}

#[tokio::test]
async fn requests_by_who_made_them_and_how() {
    let app = Server::plain(|_, _| Act::ok("app")).await;
    let mut policy = inbound(MtlsMode::Permissive);
    policy.probes = vec![Probe {
        path: "/healthz".into(),
        method: Method::GET,
    }];
    let sidecar = Sidecar::before(&app, policy.clone());
    let mut web = sidecar.http2_as("web").await;
    // A probe of somebody who proved an identity is a request like any other.
    for path in ["/", "/", "/healthz"] {
        web.get(path).await.assert_ok("app");
    }
    let mut plain = sidecar.dial().await.http1().await;
    for path in ["/", "/healthz", "/", "/healthz", "/healthz"] {
        plain.get(path).await.assert_ok("app");
    }
    // One that only probes comes in plaintext as little as the kubelet.
    let mut kubelet = sidecar.dial().await.http1().await;
    kubelet.get("/healthz").await.assert_ok("app");
    assert_eq!(
        told(&sidecar),
        ["4 Exempt 2 4 0", "4 Plaintext 1 2 0", "shop/web Mesh 1 3 0"]
    );

    policy.mtls = MtlsMode::Strict;
    sidecar.tell(policy);
    let mut refused = sidecar.dial().await.http1().await;
    assert_eq!(refused.get("/").await.status, 403);
    assert_eq!(
        told(&sidecar),
        [
            "4 Exempt 2 4 0",
            "4 Plaintext 1 2 0",
            "4 Refused 1 1 0",
            "shop/web Mesh 1 3 0"
        ]
    );
    assert_eq!(app.requests(), 9);
}

/// A whole hello of a client that asks for `a` by TLS of its own, as far as a sidecar looks.
fn hello() -> Vec<u8> {
    let name = b"\0\0\0\x06\0\x04\0\0\x01a";
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend([0, name.len() as u8]);
    body.extend(name);
    let mut hello = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    hello.extend(body);
    hello
}

#[tokio::test]
async fn bytes_and_tls_of_the_applications_own() {
    let app = Server::plain(|_, _| Act::ok("app")).await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Permissive));
    for words in [b"\0\x01anything\n".to_vec(), hello()] {
        let mut link = sidecar.dial().await;
        link.tcp.write_all(&words).await.unwrap();
        // What the application says to that, and when, is its own affair.
        drop(link.tcp);
        soon(link.served).await.unwrap();
    }
    assert_eq!(told(&sidecar), ["4 Passthrough 1 0 0", "4 Plaintext 1 0 0"]);

    sidecar.tell(inbound(MtlsMode::Strict));
    let mut refused = sidecar.dial().await;
    refused.tcp.write_all(&hello()).await.unwrap();
    soon(refused.served).await.unwrap();
    let read = soon(refused.tcp.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(told(&sidecar).contains(&"4 Refused 1 0 0".to_owned()));
}
