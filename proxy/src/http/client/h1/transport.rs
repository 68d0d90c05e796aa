//! What HTTP/1 connections are over, whoever made them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::Connect;
use super::connection::Held;
use crate::net::io::Rewind;

/// What a connection is over.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {
    /// See [`Connect::peer_has_closed`].
    fn peer_has_closed(&self) -> bool;
}

/// A connection as a [`Connect`] makes it.
pub(super) struct Over<C: Connect>(C::Io);

impl<C: Connect> Over<C> {
    pub(super) fn new(io: C::Io) -> Self {
        Self(io)
    }
}

impl<C: Connect> Transport for Over<C> {
    fn peer_has_closed(&self) -> bool {
        C::peer_has_closed(&self.0)
    }
}

impl<C: Connect> AsyncRead for Over<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<C: Connect> AsyncWrite for Over<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What is in the place of a transport that was taken.
impl Transport for tokio::io::Empty {
    fn peer_has_closed(&self) -> bool {
        true
    }
}

/// A connection that has left HTTP: bytes both ways.
pub struct Tunnel {
    io: Rewind<Box<dyn Transport>>,
    _held: Held,
}

impl Tunnel {
    /// `read` was read from `io` and comes again.
    pub(super) fn new(read: Bytes, io: Box<dyn Transport>, held: Held) -> Self {
        Self {
            io: Rewind::with_prefix(read, io),
            _held: held,
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
