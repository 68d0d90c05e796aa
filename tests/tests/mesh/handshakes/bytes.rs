//! Handshakes by hand, which no TLS library would begin or answer with.

use weft_proto::names::alpn;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// An extension: ALPN (RFC 7301, section 3.1).
const ALPN: u16 = 16;
/// ECDHE-ECDSA with AES-128-GCM, of TLS 1.2 (RFC 5289).
const TLS12_SUITE: [u8; 2] = [0xc0, 0x2b];

/// What a client sends before it ends its side, and why it is refused.
pub(super) fn clients() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let old = tls12_client_hello();
    let followed = |more: &[u8]| [&old[..], more].concat();
    vec![
        ("TLS 1.2 only", old.clone(), "tls"),
        // What follows the hello is never looked at: the refusal is the same.
        (
            "TLS 1.2 and HTTP behind it",
            followed(super::GET.as_bytes()),
            "tls",
        ),
        (
            "a hello without cipher suites",
            mesh_client_hello(&[]),
            "tls",
        ),
    ]
}

/// The answer of a server that speaks TLS 1.2 only (RFC 5246, section 7.4.1.3).
pub(super) fn tls12_server_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(TLS12_SUITE);
    body.push(0);
    record(&message(SERVER_HELLO, &body))
}

/// The mesh's ALPN, and no word of TLS 1.3.
fn tls12_client_hello() -> Vec<u8> {
    mesh_client_hello(&TLS12_SUITE)
}

fn mesh_client_hello(suites: &[u8]) -> Vec<u8> {
    let name = [&[short(alpn::HTTP1.len())], alpn::HTTP1].concat();
    let names = [&long(name.len())[..], &name].concat();
    let extension = [&ALPN.to_be_bytes()[..], &long(names.len()), &names].concat();

    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(long(suites.len()));
    body.extend(suites);
    body.extend([1, 0]);
    body.extend(long(extension.len()));
    body.extend(extension);
    record(&message(CLIENT_HELLO, &body))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let [high, low] = long(body.len());
    [&[kind, 0, high, low], body].concat()
}

fn record(fragment: &[u8]) -> Vec<u8> {
    let [high, low] = long(fragment.len());
    [&[HANDSHAKE, 3, 1, high, low], fragment].concat()
}

fn short(length: usize) -> u8 {
    u8::try_from(length).expect("a few bytes")
}

fn long(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a few bytes").to_be_bytes()
}
