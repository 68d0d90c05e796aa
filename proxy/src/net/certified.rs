//! Connections that stand on certificates.
//!
//! [`Certified`] knows when the first of the two certificates ends that its connection was made with:
//! requests leave it before that ([`age`](super::age)). What cannot leave, bytes and exchanges that
//! take long, goes on, for as long as this workload has a valid certificate at all: it keeps proving
//! who it is for every new connection. Once it has none, its [`Lapse`] holds: not one more byte is
//! read or written, at either kind of connection, and each fails with an error that
//! [`is_lapse`] knows.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Whether the workload's newest certificate has expired. Cheap to clone and to ask.
#[derive(Clone, Debug, Default)]
pub struct Lapse(Arc<AtomicBool>);

impl Lapse {
    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It holds from now on, or no longer does; says what was before.
    pub fn set(&self, holds: bool) -> bool {
        self.0.swap(holds, Ordering::Relaxed)
    }
}

/// The workload has no valid certificate any more.
#[derive(Debug, thiserror::Error)]
#[error("the own certificate has expired, and there is no newer one")]
struct Lapsed;

/// Whether a connection failed because the workload's certificate has expired.
pub fn is_lapse(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(inner) if inner.is::<Lapsed>())
}

/// A connection with the certificates that it was made with.
#[derive(Debug)]
pub struct Certified<S> {
    inner: S,
    lapse: Lapse,
    ends_at: Instant,
}

impl<S> Certified<S> {
    /// `inner` was made with certificates of which the first ends at `ends_at`, by a workload whose
    /// certificates may lapse.
    pub fn new(inner: S, ends_at: Instant, lapse: Lapse) -> Self {
        Self {
            inner,
            lapse,
            ends_at,
        }
    }

    /// When the first of its two certificates ends.
    pub fn ends_at(&self) -> Instant {
        self.ends_at
    }

    /// What lies below.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The same, for a test that does what no connection does.
    #[cfg(test)]
    pub(crate) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    fn check(&self) -> io::Result<()> {
        if self.lapse.holds() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, Lapsed));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Certified<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Certified<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was cut must not look like a whole: no close_notify.
        self.check()?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn nothing_passes_after_a_lapse_until_it_is_healed() {
        let (near, mut far) = tokio::io::duplex(64);
        let lapse = Lapse::default();
        let mut near = Certified::new(near, Instant::now(), lapse.clone());
        near.write_all(b"a").await.unwrap();
        far.write_all(b"bc").await.unwrap();
        let mut read = [0; 1];
        near.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"b");

        assert!(!lapse.set(true));
        for error in [
            near.read_exact(&mut read).await.unwrap_err(),
            near.write_all(b"x").await.unwrap_err(),
            near.shutdown().await.unwrap_err(),
        ] {
            assert!(is_lapse(&error), "{error}");
        }
        assert!(!is_lapse(&io::ErrorKind::ConnectionAborted.into()));

        assert!(lapse.set(false));
        near.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"c");
        drop(near);
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"a");
    }
}
