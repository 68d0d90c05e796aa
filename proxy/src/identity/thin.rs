//! Mesh TLS for bytes, as the client: a connection that is idle holds no buffer.
//!
//! The TLS library's ordinary connection keeps 4 KiB to read into for as long as it lives, which is most of
//! what an idle one costs. Here the library only says what is to be done (its unbuffered API), and the
//! buffers are lent, as the relay's are: from when bytes are in hand until they are handed on.
//!
//! * What [`connect`] returns has seen the handshake to its end; who the peer is, its caller must look at.
//! * An end of the transport without a close_notify is an error, and so never looks like a clean end.
//! * After an error nothing is read any more. The peer is told why where it takes it at once.
//! * At most one lent buffer is held for each direction, which is more than the longest record.

use std::fmt;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tcp::{BUFFER_LEN, give_back, lend};

/// A connection; `S` is what it runs over.
pub struct Thin<S> {
    io: S,
    tls: Box<UnbufferedClientConnection>,
    /// Read and not yet decrypted.
    incoming: Option<InHand>,
    /// Encrypted and not yet written.
    outgoing: Option<InHand>,
    /// Decrypted, for lack of room with the reader; empty but for moments.
    plain: BytesMut,
    /// Why nothing can be read any more, told once all before it is.
    failed: Option<io::Error>,
    is_broken: bool,
    peer_has_ended: bool,
    has_ended: bool,
}

/// Bytes in a lent buffer.
#[derive(Debug)]
struct InHand {
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
}

/// What is to be done as soon as the library lets it be done.
enum Wanted<'a, 'b> {
    /// The handshake's next step.
    Step,
    Read(&'a mut ReadBuf<'b>),
    Write(&'a [u8]),
    End,
}

/// How far the library got.
#[derive(PartialEq)]
enum Reached {
    /// Application data may be sent; what was wanted is done, as far as there were bytes for it.
    Open,
    /// Nothing happens without more bytes from the peer.
    Blocked,
}

/// Shakes hands.
pub(super) async fn connect<S>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    io: S,
) -> io::Result<Thin<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let tls = UnbufferedClientConnection::new(config, name).map_err(broken)?;
    let mut thin = Thin {
        io,
        tls: Box::new(tls),
        incoming: None,
        outgoing: None,
        plain: BytesMut::new(),
        failed: None,
        is_broken: false,
        peer_has_ended: false,
        has_ended: false,
    };
    std::future::poll_fn(|cx| thin.poll_handshake(cx)).await?;
    Ok(thin)
}

impl<S> Thin<S> {
    /// What the handshake found out.
    pub fn session(&self) -> &rustls::CommonState {
        &self.tls
    }

    /// Lets the library go on until it wants something, and does what is wanted when it may.
    fn advance(&mut self, mut wanted: Wanted<'_, '_>) -> io::Result<Reached> {
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            let incoming = match &mut self.incoming {
                Some(held) => &mut held.buffer[held.begin..held.end],
                None => &mut [],
            };
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(incoming);
            let mut reached = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        let record = record.map_err(broken)?;
                        discard += record.discard;
                        let mut payload = record.payload;
                        if let Wanted::Read(buf) = &mut wanted {
                            let (now, later) = payload.split_at(payload.len().min(buf.remaining()));
                            buf.put_slice(now);
                            payload = later;
                        }
                        self.plain.extend_from_slice(payload);
                    }
                    // What is left is decrypted when there is room again.
                    if let Wanted::Read(buf) = &wanted
                        && buf.remaining() == 0
                    {
                        reached = Some(Reached::Open);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    InHand::add(&mut self.outgoing, |room| message.encode(room))?;
                }
                // It is in hand, and leaves before all that follows.
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_has_ended = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let out = &mut self.outgoing;
                    match wanted {
                        Wanted::Write(data) => {
                            InHand::add(out, |room| traffic.encrypt(data, room))?;
                        }
                        Wanted::End => InHand::add(out, |room| traffic.queue_close_notify(room))?,
                        Wanted::Step | Wanted::Read(_) => {}
                    }
                    reached = Some(Reached::Open);
                }
                // Closed, or the handshake goes on with the peer's next word.
                Ok(_) => reached = Some(Reached::Blocked),
                Err(error) => {
                    self.is_broken = true;
                    self.incoming = None;
                    self.alert();
                    return Err(broken(error));
                }
            }
            self.discard(discard);
            if let Some(reached) = reached {
                return Ok(reached);
            }
        }
    }

    /// Takes the alert in hand that says why the connection is broken. What broke it is not shown to the
    /// library again: it would be the same error, and the library says each once.
    fn alert(&mut self) {
        while self.tls.wants_write() {
            let encoded = match self.tls.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    InHand::add(&mut self.outgoing, |room| message.encode(room))
                }
                _ => return,
            };
            if encoded.is_err() {
                return;
            }
        }
    }

    fn discard(&mut self, len: usize) {
        if let Some(held) = &mut self.incoming {
            held.begin += len;
            if held.is_empty() {
                self.incoming = None;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Thin<S> {
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Err(error) = self.advance(Wanted::Step) {
                let _ = self.poll_out(cx);
                return Poll::Ready(Err(error));
            }
            // The peer may be writing too, and read nothing until that is read: this is not waited for.
            let mut flushed = self.poll_out(cx)?;
            if flushed.is_ready() {
                flushed = Pin::new(&mut self.io).poll_flush(cx)?;
            }
            if !self.tls.is_handshaking() {
                return flushed.map(Ok);
            }
            if ready!(self.poll_fill(cx))? == 0 {
                let eof = "the peer left while shaking hands";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, eof)));
            }
        }
    }

    /// Reads into a lent buffer; gives it back at once when there is nothing to read.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let held = InHand::room(&mut self.incoming);
        if held.begin > 0 {
            held.buffer.copy_within(held.begin..held.end, 0);
            held.end -= held.begin;
            held.begin = 0;
        }
        let mut read = ReadBuf::new(&mut held.buffer[held.end..]);
        if read.remaining() == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut read);
        let len = read.filled().len();
        held.end += len;
        if held.is_empty() {
            self.incoming = None;
        }
        ready!(polled)?;
        Poll::Ready(Ok(len))
    }

    /// Writes what is in hand.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(held) = &mut self.outgoing {
            while !held.is_empty() {
                let bytes = &held.buffer[held.begin..held.end];
                let len = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
                if len == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                held.begin += len;
            }
            self.outgoing = None;
        }
        Poll::Ready(Ok(()))
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
            if !this.plain.is_empty() {
                let len = this.plain.len().min(buf.remaining());
                buf.put_slice(&this.plain[..len]);
                this.plain.advance(len);
                if this.plain.is_empty() {
                    this.plain = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = &this.failed {
                // It stays broken, but the cause is told only once.
                let kind = error.kind();
                let error = this.failed.replace(kind.into());
                return Poll::Ready(Err(error.unwrap_or_else(|| kind.into())));
            }
            if this.incoming.is_some()
                && let Err(error) = this.advance(Wanted::Read(buf))
            {
                this.failed = Some(error);
                let _ = this.poll_out(cx);
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if this.failed.is_some() || !this.plain.is_empty() {
                continue;
            }
            if this.peer_has_ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if ready!(this.poll_fill(cx))? == 0 {
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
        let this = self.get_mut();
        // One lot at a time.
        ready!(this.poll_out(cx))?;
        let taken = &buf[..buf.len().min(BUFFER_LEN)];
        if this.advance(Wanted::Write(taken))? != Reached::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Poll::Ready(Err(error)) = this.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_ended && !this.is_broken {
            this.advance(Wanted::End)?;
            this.has_ended = true;
        }
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl InHand {
    /// Adds what `fill` writes behind what is held, and says the length of.
    fn add<E>(
        held: &mut Option<Self>,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> io::Result<()>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let held = Self::room(held);
        let len = fill(&mut held.buffer[held.end..]).map_err(io::Error::other)?;
        held.end += len;
        Ok(())
    }

    /// What is held there, or an empty buffer.
    fn room(held: &mut Option<Self>) -> &mut Self {
        held.get_or_insert_with(|| Self {
            buffer: lend(),
            begin: 0,
            end: 0,
        })
    }

    fn is_empty(&self) -> bool {
        self.begin == self.end
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        give_back(mem::take(&mut self.buffer));
    }
}

impl<S: fmt::Debug> fmt::Debug for Thin<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thin")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

/// As the library's own streams report what breaks a connection.
fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
