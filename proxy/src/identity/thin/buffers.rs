//! Bytes in lent buffers: from when there are any until they are handed on.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tcp::{give_back, lend};

/// Bytes in hand, in a lent buffer; where there are none, there is no buffer.
#[derive(Debug, Default)]
pub(super) struct InHand(Option<Lent>);

#[derive(Debug)]
struct Lent {
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl InHand {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Some(lent) => &lent.buffer[lent.begin..lent.end],
            None => &[],
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Some(lent) => &mut lent.buffer[lent.begin..lent.end],
            None => &mut [],
        }
    }

    /// Adds what `fill` writes behind what is held, and says the length of.
    pub(super) fn add<E>(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> io::Result<()>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let lent = self.room();
        let filled = fill(&mut lent.buffer[lent.end..]);
        lent.end += *filled.as_ref().unwrap_or(&0);
        self.give_back_empty();
        filled.map(drop).map_err(io::Error::other)
    }

    /// Lets go of the first bytes.
    pub(super) fn discard(&mut self, len: usize) {
        if let Some(lent) = &mut self.0 {
            lent.begin += len;
        }
        self.give_back_empty();
    }

    /// Reads more behind what is held; how much. Nothing more is held when there is nothing to read.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let lent = self.room();
        if lent.begin > 0 {
            lent.buffer.copy_within(lent.begin..lent.end, 0);
            lent.end -= lent.begin;
            lent.begin = 0;
        }
        let mut read = ReadBuf::new(&mut lent.buffer[lent.end..]);
        if read.remaining() == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let polled = Pin::new(io).poll_read(cx, &mut read);
        let len = read.filled().len();
        lent.end += len;
        self.give_back_empty();
        ready!(polled)?;
        Poll::Ready(Ok(len))
    }

    /// Writes what is held, to its end.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let len = ready!(Pin::new(&mut *io).poll_write(cx, self.bytes()))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.discard(len);
        }
        Poll::Ready(Ok(()))
    }

    fn room(&mut self) -> &mut Lent {
        self.0.get_or_insert_with(|| Lent {
            buffer: lend(),
            begin: 0,
            end: 0,
        })
    }

    fn give_back_empty(&mut self) {
        if self.0.as_ref().is_some_and(|lent| lent.begin == lent.end) {
            self.0 = None;
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        give_back(mem::take(&mut self.buffer));
    }
}
