//! Tells mesh TLS from other TLS by a connection's first bytes (RFC 8446, sections 4.1.2 and 5.1).
//!
//! A verdict never changes as more bytes come: the parser reads strictly forward and decides by the
//! first byte that tells. Broken TLS is somebody else's TLS: whoever it is meant for answers it.

use std::borrow::Cow;

use weft_proto::names::alpn;

/// ALPN ids of every version of ours that this parser knows begin so.
const MESH_PREFIX: &[u8] = b"weft/1/";
/// Bytes after which an unfinished hello is taken for somebody else's.
pub const MAX_HELLO: usize = 16 * 1024;

const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The longest record of plaintext (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloVerdict {
    /// TLS that is not the mesh's.
    Foreign {
        /// The host that the client asks for, lower case.
        sni: Option<String>,
    },
    /// A sidecar's.
    Mesh {
        /// It means to carry requests: the first of our ids that it has says so. Nothing is proved yet.
        http: bool,
    },
    /// Cannot be said yet.
    NeedMore,
    /// No TLS.
    NotTls,
}

/// Judges the first bytes of a connection, at most [`MAX_HELLO`] of which are looked at.
pub fn is_mesh_client_hello(bytes: &[u8]) -> HelloVerdict {
    let seen = &bytes[..bytes.len().min(MAX_HELLO)];
    match judge(seen) {
        HelloVerdict::NeedMore if seen.len() == MAX_HELLO => HelloVerdict::Foreign { sni: None },
        verdict => verdict,
    }
}

fn judge(bytes: &[u8]) -> HelloVerdict {
    // Content type and major version; the minor one has been frozen at anything from 0 to 4.
    for (index, expected) in [(0, HANDSHAKE_RECORD), (1, 3)] {
        match bytes.get(index) {
            None => return HelloVerdict::NeedMore,
            Some(byte) if *byte != expected => return HelloVerdict::NotTls,
            Some(_) => {}
        }
    }
    if bytes.get(2).is_some_and(|minor| *minor > 4) {
        return HelloVerdict::NotTls;
    }
    match handshake(bytes) {
        Step::Done(message) => hello(&message),
        Step::More => HelloVerdict::NeedMore,
        Step::No => HelloVerdict::NotTls,
        Step::Broken => HelloVerdict::Foreign { sni: None },
    }
}

enum Step<T> {
    Done(T),
    More,
    /// Nobody's TLS.
    No,
    /// TLS, but no hello that can be read.
    Broken,
}

/// The first handshake message without its header, put together from as many records as it takes.
fn handshake(mut bytes: &[u8]) -> Step<Cow<'_, [u8]>> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        // Once the first bytes of the message are there, what follows is judged as TLS.
        let first = message.is_empty();
        let Some(header) = bytes.get(..RECORD_HEADER) else {
            return match bytes.first() {
                Some(&kind) if !first && kind != HANDSHAKE_RECORD => Step::Broken,
                _ => Step::More,
            };
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE_RECORD || length == 0 || length > MAX_RECORD {
            return if first { Step::No } else { Step::Broken };
        }
        let rest = &bytes[RECORD_HEADER..];
        let fragment = &rest[..length.min(rest.len())];
        if first {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }

        match message.first() {
            Some(&CLIENT_HELLO) => {}
            None => return Step::More,
            Some(_) => return Step::No,
        }
        if let [_, a, b, c, body @ ..] = &*message {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if length > MAX_HELLO - HANDSHAKE_HEADER {
                return Step::Broken;
            }
            if body.len() >= length {
                let end = HANDSHAKE_HEADER + length;
                return Step::Done(match message {
                    Cow::Borrowed(message) => Cow::Borrowed(&message[HANDSHAKE_HEADER..end]),
                    Cow::Owned(message) => Cow::Owned(message[HANDSHAKE_HEADER..end].to_vec()),
                });
            }
        }
        if rest.len() < length {
            return Step::More;
        }
        bytes = &rest[length..];
    }
}

/// Judges a whole ClientHello.
fn hello(message: &[u8]) -> HelloVerdict {
    let mut sni = None;
    let mut ours = None;
    let mut found = |kind, content: &[u8]| {
        match kind {
            ALPN => ours = our_id(content).map(|id| id == alpn::HTTP1 || id == alpn::HTTP2),
            SERVER_NAME => sni = sni.take().or_else(|| host_name(content)),
            _ => {}
        }
        ours.is_some()
    };
    // Where the hello breaks off, what was found before stands.
    extensions(message, &mut found);
    match ours {
        Some(http) => HelloVerdict::Mesh { http },
        None => HelloVerdict::Foreign { sni },
    }
}

/// Walks over the extensions until `found` says that it has what it wanted.
fn extensions(message: &[u8], found: &mut impl FnMut(u16, &[u8]) -> bool) -> Option<()> {
    const VERSION_AND_RANDOM: usize = 2 + 32;
    let mut hello = Cursor(message.get(VERSION_AND_RANDOM..)?);
    let _session_id = hello.block_u8()?;
    let _cipher_suites = hello.block_u16()?;
    let _compression = hello.block_u8()?;
    let mut list = Cursor(hello.block_u16()?);
    while !list.0.is_empty() {
        let kind = list.u16()?;
        let content = list.block_u16()?;
        if found(kind, content) {
            break;
        }
    }
    Some(())
}

/// The first id of ours in a list of application protocols.
fn our_id(content: &[u8]) -> Option<&[u8]> {
    let mut ids = Cursor(Cursor(content).block_u16()?);
    while !ids.0.is_empty() {
        let id = ids.block_u8()?;
        if id.starts_with(MESH_PREFIX) {
            return Some(id);
        }
    }
    None
}

fn host_name(content: &[u8]) -> Option<String> {
    const MAX_HOST: usize = 255;
    let mut names = Cursor(Cursor(content).block_u16()?);
    while !names.0.is_empty() {
        let kind = names.u8()?;
        let name = names.block_u16()?;
        // Only what a host name may be made of: the text ends in logs and metrics.
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
        if kind == HOST_NAME && (1..=MAX_HOST).contains(&name.len()) && name.iter().all(plain) {
            return Some(String::from_utf8_lossy(name).to_ascii_lowercase());
        }
    }
    None
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        if self.0.len() < count {
            return None;
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn block_u8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn block_u16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls_pki_types::ServerName;

    use super::*;

    /// A real client's first bytes.
    fn first_flight(alpn: &[&[u8]], name: &str) -> Vec<u8> {
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::clone(super::super::tls::provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of `size` bytes.
    fn cut(record: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in record[RECORD_HEADER..].chunks(size) {
            out.extend_from_slice(&record[..3]);
            out.extend_from_slice(&(piece.len() as u16).to_be_bytes());
            out.extend_from_slice(piece);
        }
        out
    }

    #[test]
    fn real_hellos() {
        let mesh = first_flight(&[b"h2", b"weft/1/tcp"], "a.b");
        let bytes = HelloVerdict::Mesh { http: false };
        assert_eq!(is_mesh_client_hello(&mesh), bytes);
        assert_eq!(is_mesh_client_hello(&cut(&mesh, 7)), bytes);
        for (ids, http) in [
            (&[&b"weft/1/h1"[..]][..], true),
            (&[b"h2", b"weft/1/h1", b"weft/1/h2"], true),
            (&[b"weft/1/h2", b"weft/1/tcp"], true),
            (&[b"weft/1/tcp", b"weft/1/h2"], false),
            (&[b"weft/1/h11"], false),
        ] {
            let hello = first_flight(ids, "a.b");
            assert_eq!(is_mesh_client_hello(&hello), HelloVerdict::Mesh { http });
        }

        let other = first_flight(&[b"h2", b"http/1.1"], "Shop.Example");
        let sni = Some("shop.example".to_owned());
        assert_eq!(
            is_mesh_client_hello(&other),
            HelloVerdict::Foreign { sni: sni.clone() }
        );
        assert_eq!(
            is_mesh_client_hello(&cut(&other, 1)),
            HelloVerdict::Foreign { sni }
        );

        for end in 0..mesh.len() {
            assert_eq!(
                is_mesh_client_hello(&mesh[..end]),
                HelloVerdict::NeedMore,
                "{end}"
            );
        }
    }

    #[test]
    fn what_is_no_tls_is_known_at_once() {
        assert_eq!(is_mesh_client_hello(b"G"), HelloVerdict::NotTls);
        assert_eq!(is_mesh_client_hello(b"PRI * HT"), HelloVerdict::NotTls);
        assert_eq!(is_mesh_client_hello(&[22, 3, 9]), HelloVerdict::NotTls);
        assert_eq!(is_mesh_client_hello(b""), HelloVerdict::NeedMore);
        assert_eq!(is_mesh_client_hello(&[22, 3, 1]), HelloVerdict::NeedMore);
    }

    #[test]
    fn an_endless_hello_is_somebody_elses() {
        let mut bytes = vec![22, 3, 1, 0x40, 0, CLIENT_HELLO, 0, 0x3f, 0xfc];
        bytes.resize(MAX_HELLO - 1, 0);
        assert_eq!(is_mesh_client_hello(&bytes), HelloVerdict::NeedMore);
        bytes.resize(MAX_HELLO + 100, 0);
        assert_eq!(
            is_mesh_client_hello(&bytes),
            HelloVerdict::Foreign { sni: None }
        );
    }

    fn monotone(bytes: &[u8]) -> Result<(), TestCaseError> {
        let mut decided = HelloVerdict::NeedMore;
        for end in 0..=bytes.len() {
            let verdict = is_mesh_client_hello(&bytes[..end]);
            if decided == HelloVerdict::NeedMore {
                decided = verdict;
            } else {
                prop_assert_eq!(&decided, &verdict, "at {}", end);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            monotone(&bytes)?;
        }

        #[test]
        fn hello_like_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut whole = vec![22, 3, 1, 0, 200, CLIENT_HELLO, 0, 0, 196];
            whole.extend(bytes);
            monotone(&whole)?;
        }

        #[test]
        fn damaged_hellos_are_survived(
            size in 1_usize..600,
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            tail in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = cut(&first_flight(&[b"weft/1/h1"], "a.b"), size);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.extend(tail);
            monotone(&bytes)?;
        }
    }
}
