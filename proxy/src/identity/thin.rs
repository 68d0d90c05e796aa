//! Mesh TLS: a connection that is idle holds no buffer, and one that is not copies nothing.
//!
//! The TLS library shakes hands ([`handshake`]); what it would do then for each record, allocate it and copy
//! it twice, is done here without ([`record`]). Buffers are lent, as the relay's are: from when bytes are in
//! hand until they are handed on.
//!
//! * What [`connect`] and [`accept`] return has seen the handshake to its end; who the peer is, their
//!   caller has looked at.
//! * An end of the transport without a close_notify is an error, and so never looks like a clean end.
//! * After an error nothing is read any more, and nothing is written. The peer is told why where it takes
//!   it at once.
//! * At most one lent buffer is held for each direction, which is more than the longest record.
//! * New keys are taken from the peer when it says so, and made when the own ones are worn. What is not
//!   the application's is borne for so long only ([`MAX_FRUITLESS`]).

mod buffers;
mod handshake;
mod record;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustls::{AlertDescription, ContentType, Error, HandshakeType, PeerMisbehaved};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tcp::BUFFER_LEN;
use buffers::InHand;
use handshake::NextSecrets;
use record::{HEADER, MAX_CONTENT, Opener, Sealer, TRAILER};

pub(super) use handshake::{accept, connect};

/// Records in a row that have nothing for the application: alerts that mean nothing, new keys, nothing.
const MAX_FRUITLESS: u8 = 32;

/// Alert levels (RFC 8446, section 6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// A connection; `S` is what it runs over.
pub struct Thin<S> {
    io: S,
    sealer: Sealer,
    opener: Opener,
    next: Box<dyn NextSecrets>,
    /// Of the application's, opened already: what came with the handshake's last bytes.
    early: Bytes,
    /// Read, and not yet handed on.
    incoming: InHand,
    /// How many bytes of [`Self::incoming`] are opened, for lack of room with the reader, and how many
    /// of the record that they were in follow.
    opened: (usize, usize),
    /// Sealed and not yet written.
    outgoing: InHand,
    /// Why nothing can be read any more, told once all before it is.
    failed: Option<io::Error>,
    fruitless: u8,
    /// The peer wants us to have new keys before anything else is said.
    owes_new_keys: bool,
    is_broken: bool,
    peer_has_ended: bool,
    has_ended: bool,
}

impl<S> Thin<S> {
    fn new(
        io: S,
        sealer: Sealer,
        opener: Opener,
        next: Box<dyn NextSecrets>,
        incoming: InHand,
        early: Bytes,
        peer_has_ended: bool,
    ) -> Self {
        Self {
            io,
            sealer,
            opener,
            next,
            early,
            incoming,
            opened: (0, 0),
            outgoing: InHand::default(),
            failed: None,
            fruitless: 0,
            owes_new_keys: false,
            is_broken: false,
            peer_has_ended,
            has_ended: false,
        }
    }

    /// Hands on what is opened.
    fn take_opened(&mut self, buf: &mut ReadBuf<'_>) {
        if !self.early.is_empty() {
            let len = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..len]);
            self.early.advance(len);
            if self.early.is_empty() {
                self.early = Bytes::new();
            }
        }
        let (opened, rest) = &mut self.opened;
        let len = (*opened).min(buf.remaining());
        if len > 0 {
            buf.put_slice(&self.incoming.bytes()[..len]);
            *opened -= len;
            let mut done = len;
            if *opened == 0 {
                done += std::mem::take(rest);
            }
            self.incoming.discard(done);
        }
    }

    /// Opens records that are whole while there is room for more.
    fn open_records(&mut self, buf: &mut ReadBuf<'_>) -> Result<(), Error> {
        while buf.remaining() > 0
            && self.opened.0 == 0
            && !self.peer_has_ended
            && let Some(whole) = record::whole(self.incoming.bytes())?
        {
            let room = record::room_for(whole);
            if room <= buf.remaining() {
                let record = &self.incoming.bytes()[..whole];
                let room = buf.initialize_unfilled_to(room);
                let content = self.opener.open(record, room)?;
                self.incoming.discard(whole);
                if content.kind == ContentType::ApplicationData {
                    self.bear(content.len == 0)?;
                    buf.advance(content.len);
                } else {
                    self.heed(content.kind, &room[..content.len])?;
                }
            } else {
                self.open_where_it_lies(whole)?;
                self.take_opened(buf);
            }
        }
        Ok(())
    }

    /// Opens a record that is longer than the reader has room for.
    fn open_where_it_lies(&mut self, whole: usize) -> Result<(), Error> {
        let record = &mut self.incoming.bytes_mut()[..whole];
        let content = self.opener.open_in_place(record)?;
        let rest = whole - HEADER - content.len;
        if content.kind == ContentType::ApplicationData && content.len > 0 {
            self.bear(false)?;
            self.incoming.discard(HEADER);
            self.opened = (content.len, rest);
            return Ok(());
        }
        let said = SmallVec::<[u8; 32]>::from_slice(&record[HEADER..][..content.len]);
        self.incoming.discard(whole);
        if content.kind == ContentType::ApplicationData {
            self.bear(true)
        } else {
            self.heed(content.kind, &said)
        }
    }

    /// Counts what has nothing for the application.
    fn bear(&mut self, fruitless: bool) -> Result<(), Error> {
        if !fruitless {
            self.fruitless = 0;
        } else if self.fruitless == MAX_FRUITLESS {
            return Err(PeerMisbehaved::TooManyEmptyFragments.into());
        } else {
            self.fruitless += 1;
        }
        Ok(())
    }

    /// What the peer's library says to ours.
    fn heed(&mut self, kind: ContentType, said: &[u8]) -> Result<(), Error> {
        self.bear(true)?;
        match kind {
            ContentType::Alert => {
                let [_, alert] = *said else {
                    return Err(record::unexpected(kind));
                };
                match AlertDescription::from(alert) {
                    AlertDescription::CloseNotify => self.peer_has_ended = true,
                    // It closes next (RFC 8446, section 6.1).
                    AlertDescription::UserCanceled => {}
                    alert => return Err(Error::AlertReceived(alert)),
                }
                Ok(())
            }
            ContentType::Handshake => self.heed_messages(said),
            kind => Err(record::unexpected(kind)),
        }
    }

    /// Messages that may follow the handshake, in records of their own: new keys, and tickets that nobody
    /// asked for (RFC 8446, section 4.6).
    fn heed_messages(&mut self, mut said: &[u8]) -> Result<(), Error> {
        const KEY_UPDATE: usize = 1;
        while !said.is_empty() {
            let &[kind, a, b, c, ref rest @ ..] = said else {
                return Err(record::unexpected(ContentType::Handshake));
            };
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some((message, rest)) = rest.split_at_checked(len) else {
                return Err(record::unexpected(ContentType::Handshake));
            };
            match HandshakeType::from(kind) {
                HandshakeType::NewSessionTicket => {}
                // The last word under the old keys: nothing may follow in its record.
                HandshakeType::KeyUpdate if len == KEY_UPDATE && rest.is_empty() => {
                    self.opener = Opener::new(self.next.receiving()?)?;
                    self.owes_new_keys |= message[0] == 1;
                }
                _ => return Err(record::unexpected(ContentType::Handshake)),
            }
            said = rest;
        }
        Ok(())
    }

    /// Seals what there is room for; how much.
    fn seal(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.is_broken || self.has_ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.owes_new_keys || self.sealer.is_worn() {
            self.take_new_keys()?;
        }
        let mut pieces = Pieces { bufs, taken: 0 };
        let mut sealed = 0;
        while sealed < BUFFER_LEN
            && let Some(first) = pieces.first()
        {
            let most = MAX_CONTENT.min(BUFFER_LEN - sealed);
            let sealer = &mut self.sealer;
            let mut len = first.len().min(most);
            if len == most || pieces.is_last() {
                self.outgoing
                    .add(|room| sealer.seal(ContentType::ApplicationData, &first[..len], room))?;
                pieces.take(len);
            } else {
                // Short ones share a record.
                self.outgoing.add(|room| {
                    let place = room.get_mut(HEADER..HEADER + most);
                    len = pieces.copy_to(place.ok_or(io::ErrorKind::InvalidInput)?);
                    sealer.seal_in_place(len, room)
                })?;
            }
            sealed += len;
        }
        Ok(sealed)
    }

    /// Tells the peer of new keys, with the old ones, and takes them.
    fn take_new_keys(&mut self) -> io::Result<()> {
        let message = [HandshakeType::KeyUpdate.into(), 0, 0, 1, 0];
        self.say(ContentType::Handshake, &message)?;
        let secrets = self.next.sending().map_err(broken)?;
        self.sealer = Sealer::new(secrets).map_err(broken)?;
        self.owes_new_keys = false;
        Ok(())
    }

    fn say(&mut self, kind: ContentType, content: &[u8]) -> io::Result<()> {
        let sealer = &mut self.sealer;
        self.outgoing.add(|room| sealer.seal(kind, content, room))
    }

    /// Nothing comes any more, and nothing goes but why.
    fn fail(&mut self, error: Error) {
        self.is_broken = true;
        self.incoming = InHand::default();
        self.opened = (0, 0);
        if let Some(alert) = record::alert_for(&error) {
            // Whoever does not hear it sees the connection break.
            let _ = self.say(ContentType::Alert, &[FATAL, alert.into()]);
        }
        self.failed = Some(broken(error));
    }
}

impl<S: AsyncWrite + Unpin> Thin<S> {
    /// Writes what is in hand.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_write(&mut self.io, cx)
    }

    fn poll_write_pieces(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One lot at a time.
        ready!(self.poll_out(cx))?;
        let sealed = self.seal(bufs)?;
        if let Poll::Ready(Err(error)) = self.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(sealed))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Thin<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            this.take_opened(buf);
            if this.failed.is_none()
                && let Err(error) = this.open_records(buf)
            {
                this.fail(error);
                let _ = this.poll_out(cx);
            }
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = &this.failed {
                // It stays broken, but the cause is told only once.
                let kind = error.kind();
                let error = this.failed.replace(kind.into());
                return Poll::Ready(Err(error.unwrap_or_else(|| kind.into())));
            }
            if this.peer_has_ended {
                // Whatever follows means nothing (RFC 8446, section 6.1).
                this.incoming = InHand::default();
                return Poll::Ready(Ok(()));
            }
            if ready!(this.incoming.poll_read(&mut this.io, cx))? == 0 {
                let eof = "the peer left without saying so";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, eof)));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Thin<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_pieces(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_pieces(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_ended && !this.is_broken {
            let close_notify = [WARNING, AlertDescription::CloseNotify.into()];
            this.say(ContentType::Alert, &close_notify)?;
            this.has_ended = true;
        }
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<S: fmt::Debug> fmt::Debug for Thin<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thin")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

/// What is to be sealed, as far as it is not.
struct Pieces<'a> {
    bufs: &'a [IoSlice<'a>],
    /// Of the first one.
    taken: usize,
}

impl<'a> Pieces<'a> {
    /// The first that is not empty.
    fn first(&mut self) -> Option<&'a [u8]> {
        while let Some(first) = self.bufs.first() {
            if self.taken < first.len() {
                return Some(&first[self.taken..]);
            }
            self.taken = 0;
            self.bufs = &self.bufs[1..];
        }
        None
    }

    fn is_last(&self) -> bool {
        self.bufs.len() <= 1
    }

    fn take(&mut self, len: usize) {
        self.taken += len;
    }

    /// Takes what fits into `room`; how much.
    fn copy_to(&mut self, room: &mut [u8]) -> usize {
        let mut copied = 0;
        while copied < room.len()
            && let Some(first) = self.first()
        {
            let len = first.len().min(room.len() - copied);
            room[copied..copied + len].copy_from_slice(&first[..len]);
            self.take(len);
            copied += len;
        }
        copied
    }
}

/// The room that `BUFFER_LEN` bytes take in records, with new keys and an alert.
const _: () = assert!(
    BUFFER_LEN.div_ceil(MAX_CONTENT) * 2 * (HEADER + TRAILER) + 2 * (HEADER + 8 + TRAILER)
        <= crate::tcp::RECORD_ROOM
);

/// As the library's own streams report what breaks a connection.
fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
