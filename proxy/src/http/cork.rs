//! Gathers what an HTTP/2 connection writes while it is polled, so that it leaves at once.
//!
//! The library writes and flushes frame by frame: head, data and trailers of an exchange would each be a
//! TLS record and a system call. Here they are kept until whoever polls the connection calls
//! [`Release::poll`], after every poll of it.
//!
//! Invariants:
//! * Bytes leave in the order in which they were written. What does not fit into [`MAX_KEPT`] goes on
//!   together with what is kept, and waits with it where the peer reads too slowly.
//! * An end ([`AsyncWrite::poll_shutdown`]) comes after everything that is kept.
//! * What cannot be written fails the connection at its next read or write.
//! * Who waits to write is woken when what is kept has left: a transport knows one waker, and the last one
//!   that it is given is [`Release`]'s.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are kept: a TLS record's.
const MAX_KEPT: usize = 16 * 1024;
/// Slices of one write that go on without being kept.
const MAX_SLICES: usize = 16;
/// Buffers that a thread keeps for its connections, which have one only while they keep something.
const MAX_SPARE: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What the connection writes to.
pub(super) struct Cork<I>(Arc<Mutex<Corked<I>>>);

/// Lets go what a [`Cork`] keeps.
pub(super) struct Release<I>(Arc<Mutex<Corked<I>>>);

struct Corked<I> {
    io: I,
    kept: Vec<u8>,
    /// How many of them are written.
    written: usize,
    failed: Option<io::Error>,
    /// Who waits for something to read.
    reader: Option<Waker>,
    /// Who waits to write.
    writer: Option<Waker>,
    /// Nothing is kept any more: the transport is being ended.
    ending: bool,
}

impl<I> Cork<I> {
    pub(super) fn new(io: I) -> (Self, Release<I>) {
        let corked = Arc::new(Mutex::new(Corked {
            io,
            kept: Vec::new(),
            written: 0,
            failed: None,
            reader: None,
            writer: None,
            ending: false,
        }));
        (Self(Arc::clone(&corked)), Release(corked))
    }
}

impl<I: AsyncWrite + Unpin> Release<I> {
    /// Writes what is kept, as far as it can be. Wakes when more can be written, and the connection where
    /// that fails.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let mut corked = self.0.lock();
        if corked.failed.is_some() || corked.ending {
            return;
        }
        // What is pending goes on at the next poll.
        let Poll::Ready(flushed) = corked.poll_flush(cx) else {
            return;
        };
        if let Some(writer) = corked.writer.take() {
            writer.wake();
        }
        if let Err(error) = flushed {
            corked.failed = Some(error);
            if let Some(reader) = corked.reader.take() {
                reader.wake();
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> Corked<I> {
    /// Fails once something has: the first time with the error itself, then with its kind.
    fn check(&mut self) -> io::Result<()> {
        match &mut self.failed {
            None => Ok(()),
            Some(error) => {
                let kind = error.kind();
                Err(std::mem::replace(error, kind.into()))
            }
        }
    }

    fn left(&self) -> usize {
        self.kept.len() - self.written
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        while self.left() > 0 {
            let polled = Pin::new(&mut self.io).poll_write(cx, &self.kept[self.written..]);
            self.written += ready!(wrote_something(polled))?;
        }
        self.let_go();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Keeps nothing any more.
    fn let_go(&mut self) {
        self.written = 0;
        if self.kept.capacity() > 0 {
            let mut buffer = std::mem::take(&mut self.kept);
            buffer.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < MAX_SPARE {
                    spare.push(buffer);
                }
            });
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let more: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.kept.len() + more <= MAX_KEPT {
            if self.kept.capacity() == 0 {
                let spare = SPARE.with_borrow_mut(Vec::pop);
                self.kept = spare.unwrap_or_else(|| Vec::with_capacity(MAX_KEPT));
            }
            for buf in bufs {
                self.kept.extend_from_slice(buf);
            }
            return Poll::Ready(Ok(more));
        }
        // All of it at once, without a copy of what is long.
        loop {
            let kept = &self.kept[self.written..];
            let first = (!kept.is_empty()).then(|| IoSlice::new(kept));
            let rest = bufs.iter().map(|buf| IoSlice::new(buf));
            let slices: SmallVec<[IoSlice<'_>; MAX_SLICES]> =
                first.into_iter().chain(rest).take(MAX_SLICES).collect();
            let polled = Pin::new(&mut self.io).poll_write_vectored(cx, &slices);
            drop(slices);
            let left = self.left();
            if polled.is_pending() {
                self.writer = Some(cx.waker().clone());
            }
            let wrote = ready!(wrote_something(polled))?;
            if wrote > left {
                self.let_go();
                return Poll::Ready(Ok(wrote - left));
            }
            self.written += wrote;
        }
    }
}

/// A transport that takes nothing takes nothing any more.
fn wrote_something(polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    match polled {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        polled => polled,
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut corked = self.0.lock();
        corked.check()?;
        let polled = Pin::new(&mut corked.io).poll_read(cx, buf);
        let waits = |reader: &Waker| reader.will_wake(cx.waker());
        if polled.is_pending() && !corked.reader.as_ref().is_some_and(waits) {
            corked.reader = Some(cx.waker().clone());
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Cork<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: [`Release::poll`] follows.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut corked = self.0.lock();
        if !corked.ending && corked.poll_flush(cx)?.is_pending() {
            corked.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        corked.ending = true;
        Pin::new(&mut corked.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
