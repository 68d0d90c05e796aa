//! Bytes both ways, with half-close, until both sides are done.
//!
//! A relay owns no buffer: 64 KiB are lent from the thread's pool while bytes are in hand and given
//! back as soon as they are written, so that an idle connection costs next to nothing. When one side
//! ends its direction, the other side's writing end is shut down and the opposite direction goes on.
//! A direction that breaks ends both at once: a truncated stream must not look like a whole one.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::certified::is_lapse;
use crate::outcome::Outcome;

/// Where throughput stops growing with the buffer (and memory goes on growing).
pub(crate) const BUFFER_LEN: usize = 64 * 1024;
/// What a lent buffer has besides, so that [`BUFFER_LEN`] bytes fit in records of TLS too, with an alert or
/// two: 22 bytes for each 16 KiB.
pub(crate) const RECORD_ROOM: usize = 1024;
/// Buffers that a thread keeps for lending; more are freed.
const MAX_SPARE_BUFFERS: usize = 16;

/// Bytes relayed so far; read while the relay runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// From the side that connected to the one that was dialled.
    pub upstream: AtomicU64,
    /// The other way.
    pub downstream: AtomicU64,
}

/// Why a relay ended before both sides were done.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The side that connected broke.
    #[error("the client's connection broke: {0}")]
    Client(io::Error),
    /// The side that was dialled broke.
    #[error("the server's connection broke: {0}")]
    Server(io::Error),
}

impl RelayError {
    /// How the connection ended by it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Client(error) | Self::Server(error) if is_lapse(error) => Outcome::TlsFailed,
            Self::Client(_) => Outcome::ClientGone,
            Self::Server(_) => Outcome::Reset,
        }
    }
}

/// Copies both ways between `client` and `server` until both directions have ended.
pub async fn relay<C, S>(
    client: &mut C,
    server: &mut S,
    progress: &Progress,
) -> Result<(), RelayError>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::default();
    let mut down = Direction::default();
    poll_fn(|cx| {
        let up = up
            .poll(cx, client, server, &progress.upstream)
            .map_err(|end| match end {
                End::Read(error) => RelayError::Client(error),
                End::Write(error) => RelayError::Server(error),
            })?;
        let down = down
            .poll(cx, server, client, &progress.downstream)
            .map_err(|end| match end {
                End::Read(error) => RelayError::Server(error),
                End::Write(error) => RelayError::Client(error),
            })?;
        if up.is_ready() && down.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Which half of a direction broke.
enum End {
    Read(io::Error),
    Write(io::Error),
}

/// One direction of a relay.
#[derive(Default)]
struct Direction {
    /// Bytes that were read and not yet written: the buffer, and what of it is still to go.
    in_hand: Option<(Box<[u8]>, Range<usize>)>,
    /// Bytes were written since the last flush.
    needs_flush: bool,
    state: DirectionState,
}

#[derive(Default, PartialEq)]
enum DirectionState {
    #[default]
    Copying,
    ShuttingDown,
    Done,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: &AtomicU64,
    ) -> Poll<Result<(), End>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                DirectionState::Copying => {
                    ready!(self.poll_write(cx, writer, count))?;
                    if ready!(self.poll_fill(cx, reader, writer))? == 0 {
                        self.state = DirectionState::ShuttingDown;
                    }
                }
                DirectionState::ShuttingDown => {
                    match ready!(Pin::new(&mut *writer).poll_shutdown(cx)) {
                        // A peer that has gone already need not be told that nothing follows.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                            return Poll::Ready(Err(End::Write(error)));
                        }
                        _ => self.state = DirectionState::Done,
                    }
                }
                DirectionState::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads into a lent buffer; gives it back at once when there is nothing to read yet.
    fn poll_fill<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<usize, End>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = lend();
        let mut read = ReadBuf::new(&mut buffer[..BUFFER_LEN]);
        match Pin::new(reader).poll_read(cx, &mut read) {
            Poll::Pending => {
                give_back(buffer);
                // Nothing more to come for now: what was written must not wait in a TLS buffer.
                if self.needs_flush {
                    ready!(Pin::new(writer).poll_flush(cx)).map_err(End::Write)?;
                    self.needs_flush = false;
                }
                Poll::Pending
            }
            Poll::Ready(Err(error)) => {
                give_back(buffer);
                Poll::Ready(Err(End::Read(error)))
            }
            Poll::Ready(Ok(())) => {
                let len = read.filled().len();
                if len == 0 {
                    give_back(buffer);
                } else {
                    self.in_hand = Some((buffer, 0..len));
                }
                Poll::Ready(Ok(len))
            }
        }
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        count: &AtomicU64,
    ) -> Poll<Result<(), End>> {
        while let Some((buffer, range)) = &mut self.in_hand {
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, &buffer[range.clone()]))
                .map_err(End::Write)?;
            if written == 0 {
                return Poll::Ready(Err(End::Write(io::ErrorKind::WriteZero.into())));
            }
            count.fetch_add(written as u64, Ordering::Relaxed);
            self.needs_flush = true;
            range.start += written;
            if Range::is_empty(range)
                && let Some((buffer, _)) = self.in_hand.take()
            {
                give_back(buffer);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        if let Some((buffer, _)) = self.in_hand.take() {
            give_back(buffer);
        }
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`BUFFER_LEN`] and some; what it has in it means nothing.
pub(crate) fn lend() -> Box<[u8]> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; BUFFER_LEN + RECORD_ROOM].into_boxed_slice())
}

/// Takes a buffer that [`lend`] gave.
pub(crate) fn give_back(buffer: Box<[u8]>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_SPARE_BUFFERS {
            spare.push(buffer);
        }
    });
}
