//! The transport of a downstream connection: counts, lets through what the guard has cleared, ends as
//! the contract says, and is cut where the peer floods it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::farewell::Farewell;
use super::guarded::Guarded;
use super::state::State;
use crate::http::deadline::Alarm;
use crate::http::floods::Watch;
use crate::http::guard::HeadLimits;

/// How long a connection that was ended cleanly waits for its peer to end it too.
const CLOSE_LINGER: Duration = Duration::from_secs(1);
/// Bytes thrown away meanwhile.
const CLOSE_DISCARD: usize = 256 * 1024;
const DISCARD_BUFFER: usize = 4 * 1024;
/// Bytes that the read asks for which wakes a parked connection: most heads, and on the stack.
const WAKING_READ: usize = 2 * 1024;

/// Wraps the transport of one connection.
pub(super) struct ServerIo<I> {
    io: I,
    state: Arc<State>,
    /// What stands between an HTTP/1 client and the library.
    guarded: Option<Guarded>,
    /// What an HTTP/2 peer may cost.
    floods: Option<Watch>,
    farewell: Farewell,
    /// Nothing was written since the last flush.
    is_flushed: bool,
    lingering: Option<Lingering>,
}

/// Our end is being closed; the peer's bytes are read so that no reset overtakes what we sent.
struct Lingering {
    closed: bool,
    until: Instant,
    alarm: Alarm,
    discarded: usize,
}

impl<I> ServerIo<I> {
    pub(super) fn new(io: I, state: Arc<State>, floods: Option<Watch>) -> Self {
        Self {
            io,
            guarded: state.is_http1().then(|| {
                let limits = &state.bounds().limits;
                Guarded::new(HeadLimits {
                    bytes: limits.header_bytes,
                    fields: limits.headers,
                })
            }),
            state,
            floods,
            farewell: Farewell::default(),
            is_flushed: true,
            lingering: None,
        }
    }

    /// Something is about to be written.
    fn writes(&mut self) {
        self.is_flushed = false;
        self.state.set_rests(false);
    }

    fn wrote(&mut self, bytes: usize) {
        self.state.add_written(bytes);
        if let Some(floods) = &mut self.floods {
            floods.wrote(bytes);
        }
    }
}

impl<I: AsyncRead + Unpin> ServerIo<I> {
    /// Ready once there is something to read for a connection that is parked: bytes, which its reader then
    /// finds, or its end, which comes again.
    pub(super) fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [0; WAKING_READ];
        let mut buf = ReadBuf::new(&mut space);
        let polled = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf));
        if let (Ok(()), Some(guarded)) = (polled, &mut self.guarded) {
            guarded.take_in(buf.filled(), &self.state);
        }
        Poll::Ready(())
    }
}

impl Lingering {
    fn new() -> Self {
        Self {
            closed: false,
            until: Instant::now() + CLOSE_LINGER,
            alarm: Alarm::default(),
            discarded: 0,
        }
    }

    fn poll<I>(&mut self, io: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.closed {
            if Pin::new(&mut *io).poll_shutdown(cx)?.is_pending() {
                // A peer that reads nothing cannot be told.
                ready!(self.alarm.poll_at(cx, self.until));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.closed = true;
        }
        let mut space = [0; DISCARD_BUFFER];
        loop {
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut *io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.discarded += buf.filled().len();
                    if self.discarded > CLOSE_DISCARD {
                        return Poll::Ready(Ok(()));
                    }
                }
                // The peer has ended it too, one way or another.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return self.alarm.poll_at(cx, self.until).map(Ok),
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for ServerIo<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let io = Pin::new(&mut this.io);
        if let Some(guarded) = &mut this.guarded {
            let polled = guarded.poll_read(io, &this.state, cx, buf);
            let rests =
                polled.is_pending() && this.is_flushed && guarded.is_between_requests(&this.state);
            this.state.set_rests(rests);
            return polled;
        }
        let before = buf.filled().len();
        let Some(floods) = &mut this.floods else {
            let polled = io.poll_read(cx, buf);
            this.state.add_read(buf.filled().len() - before);
            return polled;
        };
        let is_leaving = this.state.is_leaving();
        if is_leaving && (floods.is_between_frames() || this.farewell.is_under_way()) {
            let requests = this.state.requests();
            if this.farewell.poll_give(cx, buf, requests).is_ready() {
                return Poll::Ready(Ok(()));
            }
        }
        let polled = io.poll_read(cx, buf);
        let read = &mut buf.filled_mut()[before..];
        this.state.add_read(read.len());
        let next_frame = is_leaving.then(|| floods.next_frame(read)).flatten();
        floods.read(read)?;
        this.state.set_unfinished_head(floods.unfinished_head());
        if is_leaving {
            let requests = this.state.requests();
            this.farewell.hold(read, next_frame, requests);
        }
        polled
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ServerIo<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.writes();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.writes();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        this.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        this.is_flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state.is_upgraded() {
            return Pin::new(&mut this.io).poll_shutdown(cx);
        }
        if this.lingering.is_none() && this.state.owes_an_answer() {
            let cut = "a request was taken and not answered";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, cut)));
        }
        this.state.close();
        let lingering = this.lingering.get_or_insert_with(Lingering::new);
        lingering.poll(&mut this.io, cx)
    }
}
