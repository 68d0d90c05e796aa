//! Reads of an HTTP/1 connection, as the guard lets them through.
//!
//! Bytes go straight into the reader's buffer and are looked at there; in the common case (whole
//! heads) that is all. Only what may not be handed on yet is moved out of it and held: the beginning of
//! a head (as long as one may be, and one read), or what came behind a request that may leave HTTP.
//!
//! **A request that is refused becomes another one**: [`STAND_IN`] is read in its place, behind
//! everything that was cleared before it, and nothing after it. So it is answered in its turn, by the
//! handler ([`Handler::refuse`](super::Handler::refuse)), and its connection ends as every other does.
//! A body that breaks its framing ends with an error instead: its head was handed on long ago.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use super::state::State;
use crate::http::guard::{Guard, HeadLimits, Verdict, Violation};

/// What the library reads in place of a request that is refused.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// The same for HEAD, whose answer has no body.
const HEAD_STAND_IN: &[u8] = b"HEAD / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// Bytes that one read into the held ones asks for.
const HELD_READ: usize = 4 * 1024;
/// Bytes read ahead of a decision whether they are HTTP: enough to notice that the client left.
const READ_AHEAD: usize = 16 * 1024;

/// Between a transport and its reader.
#[derive(Debug)]
pub(super) struct Guarded {
    guard: Guard,
    /// What was read and is not handed on.
    held: BytesMut,
    /// How much of it may be.
    cleared: usize,
    follows: Follows,
}

/// What follows what was cleared.
#[derive(Debug, Default)]
enum Follows {
    /// Requests.
    #[default]
    Requests,
    /// This much of the stand-in, and then nothing.
    StandIn(&'static [u8]),
    /// The end of a body that broke its framing.
    Error(Violation),
    /// Whatever it is: the connection has left HTTP.
    Anything,
}

impl Guarded {
    pub(super) fn new(limits: HeadLimits) -> Self {
        Self {
            guard: Guard::new(limits),
            held: BytesMut::new(),
            cleared: 0,
            follows: Follows::default(),
        }
    }

    /// Reads what may be read.
    pub(super) fn poll_read<I: AsyncRead>(
        &mut self,
        mut io: Pin<&mut I>,
        state: &State,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.cleared > 0 {
                self.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            if state.head_is_late() && matches!(self.follows, Follows::Requests) {
                self.give_up(state)?;
            }
            match &mut self.follows {
                Follows::Requests if self.guard.waits() => {
                    if !self.is_decided(state) {
                        return self.poll_ahead(io, state, cx);
                    }
                }
                Follows::Requests if self.held.is_empty() => {
                    let before = buf.filled().len();
                    ready!(io.as_mut().poll_read(cx, buf))?;
                    let read = &buf.filled()[before..];
                    if read.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    state.add_read(read.len());
                    let (cleared, verdict) = self.guard.scan(read);
                    self.note(read.len() - cleared, state);
                    if cleared < read.len() {
                        self.held.extend_from_slice(&read[cleared..]);
                        buf.set_filled(before + cleared);
                        self.follow(verdict, state);
                    }
                    if cleared > 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                // A head that never ends is none: the reader sees the end alone.
                Follows::Requests => {
                    if ready!(self.poll_more(io.as_mut(), state, cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    self.rescan(state);
                }
                Follows::StandIn(rest) => {
                    if rest.is_empty() {
                        // The connection ends with its answer; nobody reads on.
                        return Poll::Pending;
                    }
                    let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
                    buf.put_slice(now);
                    *rest = later;
                    return Poll::Ready(Ok(()));
                }
                Follows::Error(violation) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, *violation);
                    return Poll::Ready(Err(error));
                }
                Follows::Anything => {
                    let before = buf.filled().len();
                    let polled = io.poll_read(cx, buf);
                    state.add_read(buf.filled().len() - before);
                    return polled;
                }
            }
        }
    }

    /// Whether all that was read is handed on, and the next byte begins a head that the library is to see.
    pub(super) fn is_between_requests(&self, state: &State) -> bool {
        matches!(self.follows, Follows::Requests)
            && self.held.is_empty()
            && self.guard.is_in_head()
            && self.guard.heads() == state.requests()
            && state.in_flight() == 0
    }

    /// Takes what was read past it, between two requests.
    pub(super) fn take_in(&mut self, bytes: &[u8], state: &State) {
        state.add_read(bytes.len());
        self.held.extend_from_slice(bytes);
        self.rescan(state);
    }

    /// Hands cleared bytes to the reader, and keeps no memory that is not needed.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.cleared.min(buf.remaining());
        buf.put_slice(&self.held[..len]);
        self.held.advance(len);
        self.cleared -= len;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    /// Whether it is decided what follows a request that may leave HTTP; acts on it.
    fn is_decided(&mut self, state: &State) -> bool {
        if state.is_upgraded() {
            self.follows = Follows::Anything;
            self.cleared = self.held.len();
            return true;
        }
        let over = state.requests() == self.guard.heads() && state.in_flight() == 0;
        if over {
            self.guard.go_on();
            self.rescan(state);
        }
        over
    }

    /// Reads a little ahead while nothing is decided, so that the end of the client is noticed.
    fn poll_ahead<I: AsyncRead>(
        &mut self,
        mut io: Pin<&mut I>,
        state: &State,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        state.hold_for(self.guard.heads());
        while self.held.len() < READ_AHEAD {
            if ready!(self.poll_more(io.as_mut(), state, cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Reads behind what is held.
    fn poll_more<I: AsyncRead>(
        &mut self,
        io: Pin<&mut I>,
        state: &State,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = self.held.len();
        self.held.resize(before + HELD_READ, 0);
        let mut buf = ReadBuf::new(&mut self.held[before..]);
        let polled = io.poll_read(cx, &mut buf);
        let read = buf.filled().len();
        self.held.truncate(before + read);
        state.add_read(read);
        ready!(polled)?;
        Poll::Ready(Ok(read))
    }

    /// Says of how many bytes, the last that were read, it is not known where their head ends.
    fn note(&self, left: usize, state: &State) {
        let partial = if self.guard.is_in_head() { left } else { 0 };
        state.set_partial_head(partial);
    }

    /// What is being read took too long. A head is refused; of a body, nobody waits for the rest.
    fn give_up(&mut self, state: &State) -> io::Result<()> {
        if !self.guard.is_in_head() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.follow(Verdict::Refused(Violation::HeadTimeout), state);
        Ok(())
    }

    /// Looks at what is held once more.
    fn rescan(&mut self, state: &State) {
        let (cleared, verdict) = self.guard.scan(&self.held);
        self.cleared = cleared;
        self.note(self.held.len() - cleared, state);
        if cleared < self.held.len() {
            self.follow(verdict, state);
        }
    }

    /// Acts on what is to become of the bytes behind the cleared ones.
    fn follow(&mut self, verdict: Verdict, state: &State) {
        self.follows = match verdict {
            Verdict::More | Verdict::Wait => return,
            Verdict::Refused(violation) => {
                state.refuse_after(self.guard.heads(), violation);
                let refused = self.held[self.cleared..].trim_ascii_start();
                let is_head = refused.starts_with(b"HEAD ");
                Follows::StandIn(if is_head { HEAD_STAND_IN } else { STAND_IN })
            }
            Verdict::Broken(violation) => Follows::Error(violation),
        };
        self.held.truncate(self.cleared);
    }
}

#[cfg(test)]
mod tests;
