//! A connection that knows what went over it: what proofs are made of.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is known about a connection. All of it is written by the connection's task and read after a
/// message from that task, or is only a hint: relaxed order is enough.
#[derive(Debug)]
pub(super) struct Link {
    written: AtomicU64,
    read: AtomicU64,
    clean_eof: AtomicBool,
    /// HTTP/2: streams that the peer allows at once.
    max_streams: AtomicUsize,
    /// HTTP/2: the peer takes extended CONNECT.
    extended_connect: AtomicBool,
    /// Whoever publishes what the peer says.
    publisher: AtomicWaker,
}

/// How far a connection was when a request was handed to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    written: u64,
    read: u64,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            clean_eof: AtomicBool::new(false),
            max_streams: AtomicUsize::new(usize::MAX),
            extended_connect: AtomicBool::new(false),
            publisher: AtomicWaker::new(),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            written: self.written.load(Ordering::Relaxed),
            read: self.read.load(Ordering::Relaxed),
        }
    }

    /// No byte was written since.
    pub(super) fn wrote_nothing_since(&self, mark: Mark) -> bool {
        self.written.load(Ordering::Relaxed) == mark.written
    }

    /// The peer ended the connection cleanly, and no byte came since.
    pub(super) fn closed_cleanly_without_a_byte_since(&self, mark: Mark) -> bool {
        self.clean_eof.load(Ordering::Relaxed) && self.read.load(Ordering::Relaxed) == mark.read
    }

    pub(super) fn max_streams(&self) -> usize {
        self.max_streams.load(Ordering::Relaxed)
    }

    pub(super) fn publish_max_streams(&self, streams: usize) {
        self.max_streams.store(streams, Ordering::Relaxed);
    }

    /// Whoever publishes is to be woken by [`Self::look_again`].
    pub(super) fn publish_from(&self, waker: &Waker) {
        self.publisher.register(waker);
    }

    /// Asks for what the peer says now: its settings wake nobody.
    pub(super) fn look_again(&self) {
        self.publisher.wake();
    }

    pub(super) fn takes_extended_connect(&self) -> bool {
        self.extended_connect.load(Ordering::Relaxed)
    }

    /// The peer has said so. It may not take it back (RFC 8441, 3).
    pub(super) fn take_extended_connect(&self) {
        self.extended_connect.store(true, Ordering::Relaxed);
    }
}

/// Asks the kernel whether the peer of an idle connection has closed it.
pub(super) type Probe = Box<dyn Fn() -> bool + Send + Sync>;

/// Counts what goes over `I` into a [`Link`]. `S` lives as long as the connection does, upgraded or
/// not.
pub(super) struct Meter<I, S> {
    io: Held<I>,
    link: Arc<Link>,
    _slot: S,
}

enum Held<I> {
    Alone(I),
    /// Looked at by a [`Probe`] too, while the connection is idle.
    Shared(Arc<Mutex<I>>),
}

impl<I: Send + 'static, S> Meter<I, S> {
    pub(super) fn new(io: I, link: Arc<Link>, slot: S) -> Self {
        Self {
            io: Held::Alone(io),
            link,
            _slot: slot,
        }
    }

    /// With a probe that asks `peer_has_closed`.
    pub(super) fn with_probe(
        io: I,
        link: Arc<Link>,
        slot: S,
        peer_has_closed: fn(&I) -> bool,
    ) -> (Self, Probe) {
        let io = Arc::new(Mutex::new(io));
        let probed = Arc::downgrade(&io);
        let meter = Self {
            io: Held::Shared(io),
            link,
            _slot: slot,
        };
        let probe = move || {
            probed
                .upgrade()
                .is_none_or(|io| peer_has_closed(&io.lock()))
        };
        (meter, Box::new(probe))
    }
}

impl<I: Unpin, S> Meter<I, S> {
    fn with<R>(&mut self, run: impl FnOnce(Pin<&mut I>) -> R) -> R {
        match &mut self.io {
            Held::Alone(io) => run(Pin::new(io)),
            Held::Shared(io) => run(Pin::new(&mut *io.lock())),
        }
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(written)) = polled {
            self.link
                .written
                .fetch_add(*written as u64, Ordering::Relaxed);
        }
    }
}

impl<I: AsyncRead + Unpin, S: Unpin> AsyncRead for Meter<I, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = buf.remaining();
        let polled = this.with(|io| io.poll_read(cx, buf));
        if let Poll::Ready(Ok(())) = polled {
            let read = room - buf.remaining();
            this.link.read.fetch_add(read as u64, Ordering::Relaxed);
            if read == 0 && room > 0 {
                this.link.clean_eof.store(true, Ordering::Relaxed);
            }
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin, S: Unpin> AsyncWrite for Meter<I, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.with(|io| io.poll_write(cx, buf));
        this.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.with(|io| io.poll_write_vectored(cx, bufs));
        this.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Held::Alone(io) => io.is_write_vectored(),
            Held::Shared(io) => io.lock().is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().with(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().with(|io| io.poll_shutdown(cx))
    }
}
