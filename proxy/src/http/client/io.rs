//! A connection that knows what went over it: what proofs are made of.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::floods::Watch;

/// What is known about a connection. All of it is written by the connection's task and read after a
/// message from that task, or is only a hint: relaxed order is enough.
#[derive(Debug)]
pub(super) struct Link {
    written: AtomicU64,
    read: AtomicU64,
    clean_eof: AtomicBool,
    /// HTTP/2: streams that the peer allows at once.
    max_streams: AtomicUsize,
    /// HTTP/2: requests that were handed over.
    requests: AtomicU64,
    /// HTTP/2: the peer takes extended CONNECT.
    extended_connect: AtomicBool,
    /// Who waits to know whether it does.
    asking: AtomicUsize,
    /// Whoever publishes what the peer says.
    publisher: Mutex<Option<Waker>>,
}

/// Somebody wants to know whether the peer takes extended CONNECT, until dropped.
pub(super) struct Asking<'a>(&'a Link);

/// Publishes what the peer of an HTTP/2 connection says, from the task that polls it.
#[derive(Debug)]
pub(super) struct Publisher {
    link: Arc<Link>,
    /// Of that task; registered once and not with every poll.
    waker: Option<Waker>,
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
            requests: AtomicU64::new(0),
            extended_connect: AtomicBool::new(false),
            asking: AtomicUsize::new(0),
            publisher: Mutex::new(None),
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

    /// One more request is handed over.
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn takes_extended_connect(&self) -> bool {
        self.extended_connect.load(Ordering::Relaxed)
    }

    /// From now on [`Publisher::publish`] asks the peer's settings.
    pub(super) fn ask_for_extended_connect(&self) -> Asking<'_> {
        self.asking.fetch_add(1, Ordering::SeqCst);
        Asking(self)
    }
}

impl Asking<'_> {
    /// Has them looked at now: their coming wakes nobody.
    pub(super) fn look_again(&self) {
        let publisher = self.0.publisher.lock().clone();
        if let Some(publisher) = publisher {
            publisher.wake();
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Publisher {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, waker: None }
    }

    /// The task that polls the connection is to be woken by [`Asking::look_again`].
    pub(super) fn listen(&mut self, waker: &Waker) {
        if !self
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            *self.link.publisher.lock() = Some(waker.clone());
            self.waker = Some(waker.clone());
        }
    }

    /// Publishes what the peer says now; whether it allows more streams than before.
    /// `takes_extended_connect` is asked only while somebody waits for its answer, and no more once it
    /// was yes: that may not be taken back (RFC 8441, 3).
    pub(super) fn publish(
        &self,
        max_streams: usize,
        takes_extended_connect: impl FnOnce() -> bool,
    ) -> bool {
        let link = &self.link;
        let before = link.max_streams();
        link.publish_max_streams(max_streams);
        let asked = link.asking.load(Ordering::SeqCst) > 0 && !link.takes_extended_connect();
        if asked && takes_extended_connect() {
            link.extended_connect.store(true, Ordering::Relaxed);
        }
        max_streams > before
    }
}

/// Asks the kernel whether the peer of an idle connection has closed it.
pub(super) type Probe = Box<dyn Fn() -> bool + Send + Sync>;

/// Counts what goes over `I` into a [`Link`]. `S` lives as long as the connection does, upgraded or
/// not.
pub(super) struct Meter<I, S> {
    io: Held<I>,
    link: Arc<Link>,
    /// What an HTTP/2 peer may cost.
    floods: Option<Watch>,
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
            floods: None,
            _slot: slot,
        }
    }

    /// With a watch over what the peer sends.
    pub(super) fn watched(self, floods: Watch) -> Self {
        Self {
            floods: Some(floods),
            ..self
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
            floods: None,
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

    fn wrote(&mut self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(written)) = polled {
            self.link
                .written
                .fetch_add(*written as u64, Ordering::Relaxed);
            if let Some(floods) = &mut self.floods {
                floods.wrote(*written);
            }
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
        let before = buf.filled().len();
        let polled = this.with(|io| io.poll_read(cx, buf));
        if let Poll::Ready(Ok(())) = polled {
            let read = &buf.filled()[before..];
            this.link
                .read
                .fetch_add(read.len() as u64, Ordering::Relaxed);
            if read.is_empty() && room > 0 {
                this.link.clean_eof.store(true, Ordering::Relaxed);
            }
            if let Some(floods) = &mut this.floods {
                floods.requested(this.link.requests.load(Ordering::Relaxed));
                floods.read(read)?;
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
