//! The one stream type of the data path: TCP, or mesh TLS over TCP, with bytes that were read ahead
//! given back first.
//!
//! Vectored writes are forwarded by every layer, so that a head and its body leave in one write. Where they
//! are short they are joined before: the kernel takes one piece (send) for less than it takes several
//! (writev), by more than the copy costs.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::certified::Certified;
use crate::identity::Thin;

/// Bytes of several pieces that are joined before they are written.
const JOINED: usize = 4 * 1024;

/// A connection, whatever it runs over.
pub type Io = Rewind<Stream>;

/// Gives back bytes that were read ahead, then reads on.
#[derive(Debug)]
pub struct Rewind<S> {
    prefix: Bytes,
    inner: S,
}

impl<S> Rewind<S> {
    /// Nothing was read ahead.
    pub fn new(inner: S) -> Self {
        Self {
            prefix: Bytes::new(),
            inner,
        }
    }

    /// `prefix` was read from `inner` and comes again.
    pub fn with_prefix(prefix: impl Into<Bytes>, inner: S) -> Self {
        Self {
            prefix: prefix.into(),
            inner,
        }
    }

    /// What lies below.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The bytes still to be given back, and what lies below.
    pub fn into_parts(self) -> (Bytes, S) {
        (self.prefix, self.inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let take = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..take]);
        self.prefix.advance(take);
        if self.prefix.is_empty() {
            // Lets go of the memory: a long-lived connection must not keep its first bytes.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = Pin::new(&mut self.inner);
        if let [one] = bufs {
            return inner.poll_write(cx, one);
        }
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() > JOINED {
            return inner.poll_write_vectored(cx, bufs);
        }
        let mut joined = SmallVec::<[u8; JOINED]>::new();
        for buf in bufs {
            joined.extend_from_slice(buf);
        }
        inner.poll_write(cx, &joined)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// What a connection runs over.
#[derive(Debug)]
pub enum Stream {
    /// Memory, in tests.
    Memory(tokio::io::DuplexStream),
    /// TCP in the clear; bytes may have been read ahead to find out what they are.
    Tcp(Rewind<TcpStream>),
    /// Mesh TLS.
    Tls(Box<Certified<Thin<Rewind<TcpStream>>>>),
}

impl Io {
    /// Makes the end of this connection a reset, because what it carried broke off: a plain TCP
    /// peer would take a clean end for the whole. TLS says it by the close_notify that is missing.
    pub fn cut(&self) {
        if let Stream::Tcp(tcp) = &self.inner {
            // Fails only where the connection has gone already.
            let _ = tcp.inner.set_zero_linger();
        }
    }
}

impl Stream {
    /// When the first of the certificates ends that it was made with; `None` without certificates.
    pub fn ends_at(&self) -> Option<Instant> {
        match self {
            Self::Memory(_) | Self::Tcp(_) => None,
            Self::Tls(tls) => Some(tls.ends_at()),
        }
    }
}

impl From<TcpStream> for Io {
    fn from(tcp: TcpStream) -> Self {
        Self::new(Stream::Tcp(Rewind::new(tcp)))
    }
}

/// Runs one expression on whichever stream it is.
macro_rules! each {
    ($stream:expr, $inner:ident => $body:expr) => {
        match $stream {
            Stream::Memory($inner) => $body,
            Stream::Tcp($inner) => $body,
            Stream::Tls($inner) => $body,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, inner => inner.is_write_vectored())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_was_read_ahead_comes_first() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b" world").await.unwrap();
        drop(theirs);
        let mut io = Rewind::with_prefix(&b"hello"[..], ours);
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
    }
}
